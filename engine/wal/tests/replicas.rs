//! What outlives a log: an installed snapshot until the store has switched over, a removed replica for ever.
#![allow(clippy::unwrap_used)] // Also in helpers that are not themselves tests.

mod common;

use bytes::Bytes;
use common::model::{SEGMENT, small_config};
use common::{IDENTITY, batch_of, entry, hard_state, position};
use pontoon_types::{GroupId, LogIndex, LogPosition, ReplicaId};
use pontoon_wal::{
    BatchBuilder, InstalledSnapshot, Log, MAX_INSTALL_BYTES, MemoryDisk, Recovered, RecoveredGroup,
};

const GROUP: GroupId = GroupId(1);
const OTHER: u64 = 2;

fn open(disk: &MemoryDisk) -> (Log<MemoryDisk>, Recovered) {
    Log::open(disk.clone(), small_config(), IDENTITY).unwrap()
}

fn lay(log: &mut Log<MemoryDisk>, fill: impl FnOnce(&mut BatchBuilder)) {
    let mut batch = BatchBuilder::new();
    fill(&mut batch);
    log.append(&batch.seal()).unwrap();
    log.sync().unwrap();
}

fn snapshot(index: u64) -> InstalledSnapshot {
    InstalledSnapshot {
        last: position(3, index),
        payload: Bytes::from(vec![index as u8; 700]),
    }
}

/// Lets another group fill and compact enough for every old segment to be recycled.
fn turn_over(log: &mut Log<MemoryDisk>, disk: &MemoryDisk) {
    let (first, recycled) = (log.end().generation(), disk.recycled());
    let reader = log.reader();
    let ahead = reader.read(GroupId(OTHER), LogIndex(1), LogIndex(1), 1);
    let mut index = match ahead {
        Err(pontoon_wal::WalError::Compacted { first, .. }) => first.0 - 1,
        _ => 0,
    };
    while log.end().generation() < first + 5 || disk.recycled() == recycled {
        index += 1;
        lay(log, |batch| {
            batch.append(&entry(OTHER, 1, index, &[7; 4_000]));
            batch.compact(GroupId(OTHER), position(1, index));
        });
        log.maintain().unwrap();
    }
}

fn recovered_group(disk: &MemoryDisk) -> RecoveredGroup {
    let (_, recovered) = open(&disk.crash(3));
    assert_eq!(recovered.report.damage, []);
    recovered.groups[&GROUP].clone()
}

#[test]
fn an_install_empties_the_log_whatever_it_held() {
    for index in [2, 5, 9] {
        let disk = MemoryDisk::new();
        let (mut log, _) = open(&disk);
        let entries: Vec<_> = (1..=5).map(|index| entry(1, 3, index, b"old")).collect();
        log.append(&batch_of(&entries)).unwrap();
        let InstalledSnapshot { last, payload } = snapshot(index);
        let next = entry(1, 4, index + 1, b"behind it");
        lay(&mut log, |batch| {
            batch.install_snapshot(GROUP, last, payload);
            batch.append(&next);
        });
        let (log, recovered) = open(&disk.crash(1));
        let found = &recovered.groups[&GROUP];
        assert_eq!((found.compacted, found.last), (last, next.index()));
        assert_eq!(found.installed, Some(snapshot(index)));
        let read = log.reader().read(GROUP, next.index(), next.index(), 1);
        assert_eq!(read.unwrap(), [next]);
    }
}

#[test]
fn an_installed_snapshot_is_kept_until_a_compaction_at_its_last_entry() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    let installed = snapshot(50);
    lay(&mut log, |batch| {
        batch.install_snapshot(GROUP, installed.last, installed.payload.clone());
        batch.hard_state(GROUP, &hard_state(3, None, 50));
    });
    // Not the store's switch, but a late compaction of what was there before.
    lay(&mut log, |batch| batch.compact(GROUP, position(3, 49)));
    turn_over(&mut log, &disk);
    assert_eq!(
        recovered_group(&disk).installed.as_ref(),
        Some(&installed),
        "its segment is gone, and it is not"
    );
    drop(log);
    // Also over an opening, and then it is let go in one that knows it from recovery.
    let (mut log, recovered) = open(&disk);
    assert_eq!(recovered.groups[&GROUP].installed, Some(installed.clone()));
    lay(&mut log, |batch| batch.compact(GROUP, installed.last));
    let found = recovered_group(&disk);
    assert_eq!((found.installed, found.compacted), (None, installed.last));
    turn_over(&mut log, &disk);
    assert_eq!(recovered_group(&disk).installed, None);
}

#[test]
fn a_younger_install_takes_the_place_of_an_older_one() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    for index in [10, 20] {
        let InstalledSnapshot { last, payload } = snapshot(index);
        lay(&mut log, |batch| {
            batch.install_snapshot(GROUP, last, payload);
        });
    }
    assert_eq!(recovered_group(&disk).installed, Some(snapshot(20)));
    lay(&mut log, |batch| batch.compact(GROUP, snapshot(10).last));
    assert_eq!(recovered_group(&disk).installed, Some(snapshot(20)));
}

#[test]
fn a_tombstone_ends_a_life_and_another_may_follow() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    let InstalledSnapshot { last, payload } = snapshot(30);
    lay(&mut log, |batch| {
        batch.hard_state(GROUP, &hard_state(9, Some(2), 3));
        batch.install_snapshot(GROUP, last, payload);
        batch.append(&entry(1, 9, 31, &vec![1; SEGMENT as usize / 2]));
    });
    lay(&mut log, |batch| batch.tombstone(GROUP, ReplicaId(4)));
    // A late one of a replica that was there before.
    lay(&mut log, |batch| batch.tombstone(GROUP, ReplicaId(3)));
    let dead = RecoveredGroup {
        removed: Some(ReplicaId(4)),
        ..RecoveredGroup::default()
    };
    assert_eq!(recovered_group(&disk), dead);
    turn_over(&mut log, &disk);
    assert_eq!(recovered_group(&disk), dead, "it is remembered for ever");
    lay(&mut log, |batch| {
        batch.append(&entry(1, 2, 1, b"a new life"));
        batch.hard_state(GROUP, &hard_state(2, None, 0));
    });
    turn_over(&mut log, &disk);
    let alive = RecoveredGroup {
        hard_state: hard_state(2, None, 0),
        terms: vec![(LogIndex(1), pontoon_types::Term(2))],
        last: LogIndex(1),
        ..dead
    };
    assert_eq!(recovered_group(&disk), alive);
}

#[test]
fn the_space_of_a_removed_replica_is_free() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    for index in 1..=40 {
        lay(&mut log, |batch| {
            batch.append(&entry(1, 1, index, &[1; 4_000]));
        });
        log.maintain().unwrap();
    }
    let before = log.stats().segments_live;
    assert!(before >= 4);
    lay(&mut log, |batch| batch.tombstone(GROUP, ReplicaId(4)));
    log.sync().unwrap();
    assert_eq!(log.stats().segments_live, 1);
}

/// Where the old replica's loss shows.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// In an entry's own checksum.
    Entry,
    /// In its next record, which names one that cannot be read.
    Chain,
    /// In the next segment's checkpoint, which does.
    Checkpoint,
}

/// The damage stays where it is, and its segment is kept as its witness; but what was lost was a replica's
/// that is gone.
#[test]
fn damage_of_a_removed_replica_does_not_haunt_the_next_one() {
    for loss in [Loss::Entry, Loss::Chain, Loss::Checkpoint] {
        let disk = MemoryDisk::new();
        let (mut log, _) = open(&disk);
        lay(&mut log, |batch| {
            batch.append(&entry(1, 1, 1, b"first"));
            batch.append(&entry(3, 1, 1, b"another's"));
        });
        let start = log.end().offset() as usize;
        lay(&mut log, |batch| {
            batch.append(&entry(1, 1, 2, &[0xaa; 60]));
        });
        let end = log.end().offset() as usize;
        if let Loss::Chain = loss {
            lay(&mut log, |batch| batch.append(&entry(1, 1, 3, b"third")));
        }
        for index in 2..12 {
            lay(&mut log, |batch| {
                batch.append(&entry(3, 1, index, &[3; 4_000]));
            });
        }
        log.write_mark().unwrap();
        drop(log);
        let at = match loss {
            Loss::Entry => end - 16,
            Loss::Chain | Loss::Checkpoint => start,
        };
        assert!(disk.corrupt("0000000001.seg", at, |bytes| bytes[0] ^= 1));
        let (mut log, recovered) = open(&disk);
        assert!(recovered.damaged.iter().eq(&[GROUP]), "{loss:?}");
        // The tombstone is in a segment that goes.
        turn_over(&mut log, &disk);
        lay(&mut log, |batch| batch.tombstone(GROUP, ReplicaId(4)));
        turn_over(&mut log, &disk);
        lay(&mut log, |batch| {
            batch.append(&entry(1, 1, 1, b"a new life"));
        });
        for life in 0..3 {
            let (_, recovered) = open(&disk.crash(life));
            let what = format!("{loss:?}, life {life}: {recovered:?}");
            assert!(recovered.damaged.is_empty(), "{what}");
            assert!(!recovered.report.damage.is_empty(), "no witness, {what}");
            assert_eq!(recovered.groups[&GROUP].last, LogIndex(1));
            turn_over(&mut log, &disk);
            drop(log);
            log = open(&disk).0;
        }
    }
}

#[test]
fn a_new_life_that_loses_something_is_damaged() {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    lay(&mut log, |batch| batch.tombstone(GROUP, ReplicaId(4)));
    lay(&mut log, |batch| {
        batch.append(&entry(1, 1, 1, &[0xaa; 60]));
        batch.append(&entry(1, 1, 2, &[0xbb; 60]));
    });
    log.write_mark().unwrap();
    drop(log);
    let name = "0000000001.seg";
    let bytes = disk.contents(name).unwrap();
    let rotten = bytes.windows(9).position(|bytes| bytes == [0xbb; 9]);
    assert!(disk.corrupt(name, rotten.unwrap(), |bytes| bytes[0] ^= 1));
    for life in 0..3 {
        let (mut log, recovered) = open(&disk);
        assert!(recovered.damaged.contains(&GROUP), "life {life}");
        turn_over(&mut log, &disk);
    }
}

#[test]
#[should_panic(expected = "the payload of an install")]
fn a_payload_that_is_data_is_refused() {
    let payload = Bytes::from(vec![0; MAX_INSTALL_BYTES + 1]);
    BatchBuilder::new().install_snapshot(GROUP, LogPosition::ZERO, payload);
}
