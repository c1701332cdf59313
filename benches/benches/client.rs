//! What clients and nodes say to each other, written and read.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pontoon_benches::{EPOCH, key, put};
use pontoon_client::protocol::{Request, Response, encode_command, encode_get};
use pontoon_types::{Command, GroupId, ShardId};
use std::hint::black_box;

const VALUE: [u8; 128] = [7; 128];

/// A put, as a client writes it, and as a node reads it: the request, and the command in it to check
/// what it asks for. Then the same for a get.
fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("client/request");
    let (key, mut message) = (key(123_456), Vec::new());
    let command = put(GroupId(60), key.as_bytes(), &VALUE);

    encode_command(&mut message, &command);
    let bytes = Bytes::from(message.clone());
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("put 128B, encode", |bencher| {
        bencher.iter(|| {
            message.clear();
            encode_command(&mut message, black_box(&command));
        });
    });
    group.bench_function("put 128B, decode", |bencher| {
        bencher.iter(|| {
            let request = Request::decode(black_box(&bytes)).expect("a request");
            let Request::Command(command) = &request else {
                panic!("a put is a command");
            };
            black_box(Command::decode(command).expect("a command"));
        });
    });

    let mut message = Vec::new();
    let encode = |message: &mut Vec<u8>| {
        message.clear();
        encode_get(message, ShardId(60), EPOCH, key.as_bytes());
    };
    encode(&mut message);
    let bytes = Bytes::from(message.clone());
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("get, encode", |bencher| {
        bencher.iter(|| encode(black_box(&mut message)));
    });
    group.bench_function("get, decode", |bencher| {
        bencher.iter(|| Request::decode(black_box(&bytes)));
    });
    group.finish();
}

/// The answers to a put, a get and a scan of 100 rows, as a node writes and a client reads them.
fn answers(c: &mut Criterion) {
    let mut group = c.benchmark_group("client/answer");
    let value = Bytes::from_static(&VALUE);
    let row = |number| (Bytes::from(key(number)), value.clone());
    let answers = [
        ("written", Response::Written),
        ("value 128B", Response::Value(Some(value.clone()))),
        (
            "100 rows",
            Response::Rows {
                rows: (0..100).map(row).collect(),
                more: true,
            },
        ),
    ];
    for (name, answer) in answers {
        let mut message = Vec::new();
        answer.encode(&mut message);
        let bytes = Bytes::from(message.clone());
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("{name}, encode"), |bencher| {
            bencher.iter(|| {
                message.clear();
                black_box(&answer).encode(&mut message);
            });
        });
        group.bench_function(format!("{name}, decode"), |bencher| {
            bencher.iter(|| Response::decode(black_box(&bytes)));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = pontoon_benches::criterion();
    targets = requests, answers
}
criterion_main!(benches);
