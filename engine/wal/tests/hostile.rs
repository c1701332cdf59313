//! Arbitrary bytes in place of the log's files: an answer, never a panic or a huge allocation (S12).
#![allow(clippy::unwrap_used)] // Also in helpers that are not themselves tests.

mod common;

use common::model::{Dice, Run, small_config};
use common::{IDENTITY, config, entry};
use pontoon_types::{GroupId, LogIndex};
use pontoon_wal::{BatchBuilder, Directory, Log, LogFile, MemoryDisk, WalConfig, WalError};
use proptest::prelude::*;
use std::time::Duration;

fn put(disk: &MemoryDisk, name: &str, bytes: &[u8]) {
    let file = disk.create(name).unwrap();
    file.allocate(bytes.len() as u64).unwrap();
    file.write_at(0, bytes).unwrap();
    file.sync().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_files_never_panic(
        files in prop::collection::btree_map(
            prop::sample::select(vec![
                "0000000001.seg", "0000000002.seg", "4294967295.seg", "durable.mark",
                "recycled-0000000001.seg", "preparing-0000000003.seg", "anything",
            ]),
            prop::collection::vec(any::<u8>(), 0..10_000),
            0..5,
        )
    ) {
        let disk = MemoryDisk::new();
        for (name, bytes) in &files {
            put(&disk, name, bytes);
        }
        let _ = Log::open(disk, small_config(), IDENTITY);
    }

    #[test]
    fn a_log_with_any_stretch_overwritten_never_panics(
        seed in 0u64..8,
        at in any::<prop::sample::Index>(),
        from in any::<prop::sample::Index>(),
        length in 1usize..20_000,
    ) {
        let disk = MemoryDisk::new();
        let mut run = Run::new(disk.clone());
        run.go(&mut Dice(seed), 40, 4);
        drop(run);
        let names: Vec<String> = disk.list().unwrap();
        let name = at.get(&names);
        let bytes = disk.contents(name).unwrap();
        let start = from.index(bytes.len());
        // Bytes of the log itself, shifted: headers and records in the wrong places.
        let stray = disk.contents(&names[0]).unwrap();
        disk.corrupt(name, start, |bytes| {
            let length = length.min(bytes.len()).min(stray.len());
            bytes[..length].copy_from_slice(&stray[..length]);
        });
        // What is found, and how it is taken, does not depend on how many threads look.
        let found = [0, 2, 5].map(|recovery_threads| {
            let config = WalConfig { recovery_threads, ..small_config() };
            let opened = Log::open(disk.crash(0), config, IDENTITY);
            opened.map_err(|error| error.to_string()).map(|(_, mut recovered)| {
                recovered.report.duration = Duration::ZERO;
                format!("{recovered:?}")
            })
        });
        prop_assert_eq!(&found[0], &found[1]);
        prop_assert_eq!(&found[0], &found[2]);
    }
}

#[test]
fn a_disk_without_room_gives_pressure_and_recovers() {
    const SEGMENT: u64 = 64 << 10;
    let disk = MemoryDisk::new();
    let (mut log, _) = Log::open(disk.clone(), config(SEGMENT), IDENTITY).unwrap();
    log.maintain().unwrap();
    // Two segments are there, and there is room for no third.
    disk.limit(Some(3 * SEGMENT));
    let mut index = 0;
    let mut add = |log: &mut Log<MemoryDisk>, compact: bool| {
        let mut batch = BatchBuilder::new();
        let next = entry(1, 1, index + 1, &[1; 3_000]);
        batch.append(&next);
        if compact {
            batch.compact(GroupId(1), next.position());
        }
        let result = log.append(&batch.seal());
        index += u64::from(result.is_ok());
        result
    };
    assert_eq!(log.pressure(), pontoon_wal::Pressure::Ok);
    while log.end().generation() == 1 {
        add(&mut log, false).unwrap();
    }
    log.sync().unwrap();
    assert!(matches!(log.maintain(), Err(WalError::NoSpace { .. })));
    assert_eq!(log.pressure(), pontoon_wal::Pressure::Full);
    // What was accepted still has the rest of a segment; then an append is refused and nothing is laid.
    let end = loop {
        let before = log.end();
        match add(&mut log, false) {
            Ok(_) => {}
            Err(WalError::NoSpace { .. }) => break before,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(log.end(), end);
    log.sync().unwrap();
    // Reads go on, and so does compaction, which makes room by itself.
    let reader = log.reader();
    assert!(
        !reader
            .read(GroupId(1), LogIndex(1), LogIndex(9), 1 << 20)
            .unwrap()
            .is_empty()
    );
    let last = reader
        .read(GroupId(1), LogIndex(1), LogIndex(1_000), usize::MAX)
        .unwrap();
    let up_to = last.last().unwrap().position();
    drop(last);
    let mut batch = BatchBuilder::new();
    batch.compact(GroupId(1), up_to);
    log.append(&batch.seal()).unwrap();
    log.sync().unwrap();
    log.sync().unwrap();
    log.maintain().unwrap();
    assert_eq!(log.pressure(), pontoon_wal::Pressure::Ok);
    add(&mut log, true).unwrap();
    log.sync().unwrap();
}

#[test]
fn near_its_bound_the_log_asks_for_fewer_proposals() {
    const SEGMENT: u64 = 64 << 10;
    let mut settings = config(SEGMENT);
    settings.max_bytes = 4 * SEGMENT;
    let (mut log, _) = Log::open(MemoryDisk::new(), settings, IDENTITY).unwrap();
    let mut index = 0;
    while log.pressure() == pontoon_wal::Pressure::Ok {
        index += 1;
        let mut batch = BatchBuilder::new();
        batch.append(&entry(1, 1, index, &[1; 5_000]));
        log.append(&batch.seal()).unwrap();
        log.sync().unwrap();
        assert!(log.stats().live_bytes < 4 * SEGMENT);
    }
    let mut batch = BatchBuilder::new();
    batch.compact(GroupId(1), common::position(1, index));
    log.append(&batch.seal()).unwrap();
    log.sync().unwrap();
    assert_eq!(log.pressure(), pontoon_wal::Pressure::Ok);
}

#[test]
fn a_batch_larger_than_a_segment_gets_a_larger_one() {
    let disk = MemoryDisk::new();
    let (mut log, _) = Log::open(disk.clone(), config(64 << 10), IDENTITY).unwrap();
    log.maintain().unwrap();
    let big = entry(1, 1, 1, &vec![5; 1 << 20]);
    let small = entry(1, 1, 2, b"after it");
    log.append(&common::batch_of(std::slice::from_ref(&big)))
        .unwrap();
    log.append(&common::batch_of(std::slice::from_ref(&small)))
        .unwrap();
    log.sync().unwrap();
    log.maintain().unwrap();
    let (log, recovered) = Log::open(disk.crash(9), config(64 << 10), IDENTITY).unwrap();
    assert_eq!(recovered.report.damage, []);
    let read = log
        .reader()
        .read(GroupId(1), LogIndex(1), LogIndex(2), usize::MAX)
        .unwrap();
    assert_eq!(read, [big, small]);
}
