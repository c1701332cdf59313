//! Space: what slow and idle groups hold is written forward, so that the log stays as small as what is needed.
#![allow(clippy::unwrap_used)] // Also in helpers that are not themselves tests.

mod common;

use common::{IDENTITY, batch_of, config, entry, position};
use pontoon_types::{Entry, GroupId, LogIndex};
use pontoon_wal::{BatchBuilder, Log, MemoryDisk, Pressure, WalConfig};

const SEGMENT: u64 = 64 << 10;

/// A few groups that write and compact, and in every round one that writes once and never again. Without
/// rewriting each of those would hold its segment.
fn run_with_idle_groups(log: &mut Log<MemoryDisk>, rounds: u64) -> Vec<Entry> {
    let mut idle = Vec::new();
    for round in 1..=rounds {
        let mut batch = BatchBuilder::new();
        for group in 1..=4 {
            batch.append(&entry(group, 1, round, &[group as u8; 2_000]));
            batch.compact(GroupId(group), position(1, round));
        }
        if round % 8 == 1 {
            let once = entry(100 + round, 1, 1, &[9; 300]);
            batch.append(&once);
            idle.push(once);
        }
        log.append(&batch.seal()).unwrap();
        log.sync().unwrap();
        log.maintain().unwrap();
        assert_eq!(log.pressure(), Pressure::Ok, "round {round}");
    }
    idle
}

#[test]
fn idle_groups_do_not_hold_the_log() {
    let config = WalConfig {
        recovery_bytes: 4 * SEGMENT,
        ..config(SEGMENT)
    };
    let disk = MemoryDisk::new();
    let (mut log, _) = Log::open(disk.clone(), config.clone(), IDENTITY).unwrap();
    let idle = run_with_idle_groups(&mut log, 1_000);
    log.sync().unwrap();
    let stats = log.stats();
    let laid = stats.bytes / config.max_bytes;
    assert!(laid >= 1, "the run is longer than the bound: {stats:?}");
    // What is needed, twice, and the segments that come and go.
    assert!(stats.live_bytes <= 7 * SEGMENT, "{stats:?}");
    // Little of it was written again: of a segment at most a half, and mostly far less.
    assert!(stats.entries_rewritten > idle.len() as u64, "{stats:?}");
    assert!(stats.entries_rewritten * 400 < stats.bytes / 4, "{stats:?}");
    let (log, recovered) = Log::open(disk.crash(1), config, IDENTITY).unwrap();
    assert_eq!(recovered.report.damage, []);
    assert!(recovered.report.bytes <= 7 * SEGMENT);
    for entry in idle {
        let read = log
            .reader()
            .read(entry.group(), LogIndex(1), LogIndex(1), 1);
        assert_eq!(read.unwrap(), [entry]);
    }
}

#[test]
fn what_fills_its_segments_is_not_written_again() {
    let config = WalConfig {
        recovery_bytes: 4 * SEGMENT,
        ..config(SEGMENT)
    };
    let (mut log, _) = Log::open(MemoryDisk::new(), config, IDENTITY).unwrap();
    for index in 1..=300 {
        log.append(&batch_of(&[entry(1, 1, index, &[1; 4_000])]))
            .unwrap();
        log.sync().unwrap();
        log.maintain().unwrap();
    }
    let stats = log.stats();
    assert!(stats.live_bytes > 16 * SEGMENT);
    assert_eq!(stats.entries_rewritten, 0, "it would not free anything");
}

#[test]
fn groups_over_their_quota_are_named_until_they_compact() {
    let config = WalConfig {
        group_quota_bytes: 20_000,
        ..config(SEGMENT)
    };
    let disk = MemoryDisk::new();
    let (mut log, _) = Log::open(disk.clone(), config.clone(), IDENTITY).unwrap();
    let entries: Vec<_> = (1..=10)
        .flat_map(|index| [(1, 3_000), (2, 1_000)].map(|(group, size)| (group, index, size)))
        .map(|(group, index, size)| entry(group, 1, index, &vec![1; size]))
        .collect();
    log.append(&batch_of(&entries)).unwrap();
    log.sync().unwrap();
    for life in 0..2 {
        let over = log.over_quota();
        assert_eq!(over.len(), 1, "life {life}: {over:?}");
        assert_eq!((over[0].group, over[0].first), (GroupId(1), LogIndex(1)));
        assert_eq!(
            (over[0].last, over[0].pinned.generation()),
            (LogIndex(10), 1)
        );
        assert!((30_000..31_000).contains(&over[0].bytes), "{over:?}");
        assert_eq!(log.stats().groups_over_quota, 1);
        drop(log);
        log = Log::open(disk.crash(life), config.clone(), IDENTITY)
            .unwrap()
            .0;
    }
    for (up_to, groups) in [(3, 1), (4, 0)] {
        let mut batch = BatchBuilder::new();
        batch.compact(GroupId(1), position(1, up_to));
        log.append(&batch.seal()).unwrap();
        assert_eq!(log.over_quota().len(), groups, "compacted to {up_to}");
    }
}

#[test]
fn of_ten_thousand_groups_one_that_never_moves_does_not_hold_the_log() {
    const GROUPS: u64 = 10_000;
    let config = WalConfig {
        segment_bytes: 4 << 20,
        max_bytes: 32 << 20,
        recovery_bytes: 16 << 20,
        ..config(SEGMENT)
    };
    let disk = MemoryDisk::new();
    let (mut log, _) = Log::open(disk.clone(), config.clone(), IDENTITY).unwrap();
    let still = entry(1, 1, 1, b"it never moves");
    log.append(&batch_of(std::slice::from_ref(&still))).unwrap();
    let mut rounds = 0;
    while log.stats().bytes < 10 * config.max_bytes {
        rounds += 1;
        // Every group writes in turn, and lets go of what it wrote the time before.
        for first in (2..=GROUPS).step_by(500) {
            let mut batch = BatchBuilder::new();
            for group in first..(first + 500).min(GROUPS + 1) {
                batch.append(&entry(group, 1, rounds, &[0; 1_000]));
                batch.compact(GroupId(group), position(1, rounds - 1));
            }
            log.append(&batch.seal()).unwrap();
            log.sync().unwrap();
            log.maintain().unwrap();
            assert_eq!(log.pressure(), Pressure::Ok, "round {rounds}");
        }
    }
    let stats = log.stats();
    assert!(stats.live_bytes <= config.max_bytes, "{stats:?}");
    assert!(stats.entries_rewritten > 0, "{stats:?}");
    drop(log);
    let (log, recovered) = Log::open(disk.crash(7), config, IDENTITY).unwrap();
    assert_eq!(recovered.report.damage, []);
    assert_eq!(recovered.groups.len() as u64, GROUPS);
    let read = log.reader().read(GroupId(1), LogIndex(1), LogIndex(1), 1);
    assert_eq!(read.unwrap(), [still]);
    for group in [2, 5_000, GROUPS] {
        let read = log
            .reader()
            .read(GroupId(group), LogIndex(rounds), LogIndex(rounds), 1);
        assert_eq!(read.unwrap(), [entry(group, 1, rounds, &[0; 1_000])]);
    }
}
