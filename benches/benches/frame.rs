//! A frame of 256 groups with one entry of 128 B each, written and read, beside the least that the same
//! bytes could cost.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pontoon_benches::entry;
use pontoon_engine::frame::{Frame, FrameBuilder, FrameReader, Origin};
use pontoon_raft::{Message, MessageBody};
use pontoon_types::{GroupId, LogIndex, LogPosition, ReplicaId, Term};
use std::hint::black_box;

const GROUPS: u64 = 256;

fn append(group: GroupId) -> Message {
    let index = LogIndex(1_000_000);
    Message {
        from: ReplicaId(1),
        to: ReplicaId(2),
        term: Term(1),
        body: MessageBody::Append {
            previous: LogPosition {
                term: Term(1),
                index: LogIndex(index.0 - 1),
            },
            commit: LogIndex(index.0 - 1),
            matched_by_all: LogIndex(index.0 - 2),
            read_round: 77,
            entries: vec![entry(group, index, 128)].into(),
        },
    }
}

fn write(builder: &mut FrameBuilder, messages: &[(GroupId, Message)]) -> Frame {
    for (group, message) in messages {
        builder.push(*group, message);
    }
    builder.finish()
}

fn read(frame: Bytes) -> usize {
    let mut reader = FrameReader::new(frame).expect("the frame has a known version");
    let mut count = 0;
    while let Some(message) = reader.next_message().expect("the frame is whole") {
        black_box(message);
        count += 1;
    }
    count
}

fn frame(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame/256 groups x 128B");
    let messages: Vec<_> = (1..=GROUPS)
        .map(|group| (GroupId(group), append(GroupId(group))))
        .collect();
    let mut builder = FrameBuilder::new(Origin {
        worker: 0,
        workers: 2,
    });
    let bytes = write(&mut builder, &messages).to_bytes();
    assert_eq!(read(bytes.clone()), messages.len());
    group.throughput(Throughput::ElementsAndBytes {
        elements: GROUPS,
        bytes: bytes.len() as u64,
    });
    group.bench_function("copy", |bencher| {
        bencher.iter(|| black_box(&bytes[..]).to_vec());
    });
    group.bench_function("encode", |bencher| {
        bencher.iter(|| write(&mut builder, black_box(&messages)));
    });
    group.bench_function("crc32c", |bencher| {
        bencher.iter(|| crc32c::crc32c(black_box(&bytes)));
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| read(black_box(&bytes).clone()));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = pontoon_benches::criterion();
    targets = frame
}
criterion_main!(benches);
