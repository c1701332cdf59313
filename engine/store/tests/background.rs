//! What the store on disk does by itself: seal, flush, merge, hold writers back, stop.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod common;

use common::*;
use pontoon_store::{Compression, KvMachine, LsmSettings, LsmStore, ReplicaRecord, Stager, Store};
use pontoon_types::{GroupId, LogIndex};
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::Path;

fn small(compression: Compression) -> LsmSettings {
    LsmSettings {
        memtable_bytes: 64 << 10,
        compression,
        ..LsmSettings::default()
    }
}

fn fill(machine: &mut KvMachine<LsmStore>, indexes: std::ops::RangeInclusive<u64>) {
    let entries: Vec<_> = indexes
        .map(|i| {
            put(
                1,
                i,
                &format!("1key{:04}", i * 7919 % 3000),
                &"abcdefgh".repeat(16),
            )
        })
        .collect();
    for batch in entries.chunks(50) {
        apply(machine, batch);
    }
}

#[test]
fn a_full_memtable_is_flushed_unasked_and_memory_stays_within_its_bound() {
    let harness = Lsm::new();
    let settings = small(Compression::Lz4);
    let store = LsmStore::open(harness.0.path(), settings).unwrap();
    let mut machine = KvMachine::open(store).unwrap();
    machine.bootstrap(&[record(1)], &[]).unwrap();
    let durability = machine.durability();
    let old = machine.reader();
    for round in 0..40 {
        fill(&mut machine, round * 500 + 1..=(round + 1) * 500);
        let stats = machine.store().stats();
        assert!(
            stats.sealed_memtables <= settings.max_sealed_memtables,
            "{stats:?}"
        );
        // One batch of 50 entries over the limit at most.
        assert!(
            stats.memtable_bytes < settings.memtable_bytes + (64 << 10),
            "{stats:?}"
        );
        assert!(durability.applied(GroupId(1)) <= machine.applied(GroupId(1)));
    }
    machine.store_mut().flush().unwrap();
    machine.store().wait_for_compaction().unwrap();
    let stats = machine.store().stats();
    assert!(stats.flushes > 10 && stats.compactions > 0, "{stats:?}");
    assert_eq!((stats.sealed_memtables, stats.views), (0, 1), "{stats:?}");
    assert!(stats.trouble.is_none(), "{stats:?}");
    assert_eq!(durability.applied(GroupId(1)), LogIndex(20_000));
    assert_eq!(rows(&machine.reader(), 1).len(), 3000);
    assert!(rows(&old, 1).is_empty(), "a view from before it all");
}

/// Bytes of all files.
fn disk_bytes(directory: &Path) -> u64 {
    let sizes = std::fs::read_dir(directory).unwrap().map(|entry| {
        let entry = entry.unwrap();
        match entry.metadata().unwrap() {
            metadata if metadata.is_dir() => disk_bytes(&entry.path()),
            metadata => metadata.len(),
        }
    });
    sizes.sum()
}

#[test]
fn a_state_that_is_held_costs_no_more_than_itself_whatever_is_written_meanwhile() {
    let harness = Lsm::new();
    let store = LsmStore::open(harness.0.path(), small(Compression::None)).unwrap();
    let mut machine = KvMachine::open(store).unwrap();
    machine.bootstrap(&[record(1)], &[]).unwrap();
    fill(&mut machine, 1..=3000);
    machine.store_mut().flush().unwrap();
    machine.store().wait_for_compaction().unwrap();
    let before = rows(&machine.reader(), 1);
    let state_bytes = disk_bytes(harness.0.path());
    let held = machine.snapshot(GroupId(1)).unwrap();
    for round in 1..=20 {
        fill(&mut machine, round * 3000 + 1..=(round + 1) * 3000);
        machine.store_mut().flush().unwrap();
        machine.store().wait_for_compaction().unwrap();
    }
    // The state itself, what has taken its place, and as much again on its way down the levels.
    let bytes = disk_bytes(harness.0.path());
    assert!(
        bytes < 5 * state_bytes,
        "{bytes} bytes, and {state_bytes} when the state was pinned"
    );
    assert_eq!(held.rows(None).count(), before.len());
    assert_eq!(machine.store().stats().views, 1);
    drop(held);
    assert_eq!(machine.store().stats().views, 0);
}

#[test]
fn compression_makes_merged_tables_smaller_and_reads_back_under_either_setting() {
    let bytes_of = |compression| {
        let harness = Lsm::new();
        let store = LsmStore::open(harness.0.path(), small(compression)).unwrap();
        let mut machine = KvMachine::open(store).unwrap();
        machine.bootstrap(&[record(1)], &[]).unwrap();
        fill(&mut machine, 1..=6000);
        machine.store_mut().flush().unwrap();
        machine.store().wait_for_compaction().unwrap();
        let (whole, stats) = (rows(&machine.reader(), 1), machine.store().stats());
        drop(machine);
        let other = LsmStore::open(harness.0.path(), small(Compression::None)).unwrap();
        assert_eq!(rows(&KvMachine::open(other).unwrap().reader(), 1), whole);
        stats.disk_bytes
    };
    let (plain, packed) = (bytes_of(Compression::None), bytes_of(Compression::Lz4));
    // Tables fresh from a flush are not compressed, and how many of them are still unmerged depends on
    // when the flushes came.
    assert!(packed < plain, "{packed} of {plain} bytes");
}

#[test]
fn a_compaction_keeps_to_its_rate_and_still_ends_with_the_store() {
    let fill_and_count_tables = |rate| {
        let harness = Lsm::new();
        let settings = LsmSettings {
            compaction_bytes_per_second: rate,
            ..small(Compression::Lz4)
        };
        let store = LsmStore::open(harness.0.path(), settings).unwrap();
        let mut machine = KvMachine::open(store).unwrap();
        machine.bootstrap(&[record(1)], &[]).unwrap();
        for round in 0..20 {
            fill(&mut machine, round * 500 + 1..=(round + 1) * 500);
            machine.store_mut().flush().unwrap();
        }
        if rate.is_none() {
            machine.store().wait_for_compaction().unwrap();
        }
        // At a byte per second the merge under way would take a day; dropping the store does not wait for it.
        (machine.store().stats().tables, rows(&machine.reader(), 1))
    };
    let (merged, expected) = fill_and_count_tables(None);
    let (piled_up, found) = fill_and_count_tables(NonZeroU64::new(1));
    assert!(piled_up > merged + 10, "{piled_up} and {merged} tables");
    assert_eq!(found, expected);
}

#[test]
fn a_store_dropped_amid_flushes_and_compactions_comes_back_whole() {
    // Nothing waits for the background here, so each life ends somewhere in the middle of its work.
    let harness = Lsm::new();
    let key = |i: u64| format!("1key{:04}", i * 7919 % 2000);
    for life in 0..8 {
        let store = LsmStore::open(harness.0.path(), small(Compression::Lz4)).unwrap();
        let mut machine = KvMachine::open(store).unwrap();
        machine.bootstrap(&[record(1)], &[]).unwrap();
        let first = machine.applied(GroupId(1)).0;
        assert!(life == 0 || first > 0);
        let mut expected = BTreeMap::new();
        for i in 1..=first {
            expected.insert(key(i), i.to_string().repeat(20));
        }
        assert_eq!(rows(&machine.reader(), 1), expected);

        let durability = machine.durability();
        for i in first + 1..=first + 3000 {
            apply(
                &mut machine,
                &[put(1, i, &key(i), &i.to_string().repeat(20))],
            );
        }
        let promised = durability.applied(GroupId(1));
        drop(machine);
        let store = LsmStore::open(harness.0.path(), small(Compression::Lz4)).unwrap();
        assert!(store.applied(GroupId(1)) >= promised);
    }
}

#[test]
fn a_stager_that_outlives_its_store_changes_nothing() {
    let mut harness = Lsm::new();
    let mut machine = machine(&mut harness, 1);
    for life in 1..=10 {
        let (_, mut stager) = machine.begin_install().unwrap();
        // Enough to be sent on its way.
        stager.push(b"dk", &vec![1; 100 << 10]).unwrap();
        // Its thread must have ended by the time that the next life writes tables under the same names, and must
        // not register its own: this life's list of tables would be back.
        machine = reopen(&mut harness, machine);
        apply(&mut machine, &[put(1, life, "1k", &life.to_string())]);
        machine.store_mut().flush().unwrap();
        assert!(stager.finish().is_err());
        machine = reopen(&mut harness, machine);
        assert_eq!(rows(&machine.reader(), 1)["1k"], life.to_string());
    }
}

#[test]
fn a_big_tablet_goes_without_a_look_at_its_rows() {
    let mut harness = Lsm::new();
    let mut machine = machine(&mut harness, 2);
    for applied in [10, 20] {
        let (tablet, mut stager) = machine.begin_install().unwrap();
        for n in 0..20_000 {
            let key = format!("d1key{n:05}");
            stager.push(key.as_bytes(), &[7; 100]).unwrap();
        }
        stager.finish().unwrap();
        let record = ReplicaRecord {
            pieces: tablet.into(),
            ..record(1)
        };
        machine.install(record, LogIndex(applied)).unwrap();
        apply(&mut machine, &[put(2, applied / 10, "2k", "v")]);
    }
    let before = machine.store().stats().disk_bytes;
    assert!(before > 4_000_000, "{before} bytes");
    let mut steps = 0;
    while machine.reclaim(100).unwrap() {
        steps += usize::from(!machine.store().is_dropping());
    }
    assert!(steps < 10, "{steps} steps");
    let after = machine.store().stats().disk_bytes;
    assert!(after < before * 6 / 10, "{after} of {before} bytes");
    assert_eq!(rows(&machine.reader(), 1).len(), 20_000);
    assert_eq!(rows(&machine.reader(), 2).len(), 1);
}

#[test]
fn readers_on_another_thread_see_whole_batches_of_one_moment_while_all_else_goes_on() {
    let harness = Lsm::new();
    let store = LsmStore::open(harness.0.path(), small(Compression::Lz4)).unwrap();
    let mut machine = KvMachine::open(store).unwrap();
    machine.bootstrap(&[record(1), record(2)], &[]).unwrap();
    let (send, receive) = std::sync::mpsc::sync_channel(8);
    let checker = std::thread::spawn(move || {
        let mut checked = 0;
        for (round, reader) in receive {
            // Every batch writes the round under all keys of both groups.
            for _ in 0..2 {
                for group in [1, 2] {
                    let rows = rows(&reader, group);
                    assert_eq!(rows.len(), 20);
                    assert!(
                        rows.values().all(|value| *value == round),
                        "{round}: {rows:?}"
                    );
                }
            }
            checked += 1;
        }
        checked
    });
    for round in 1..=600 {
        let value = round.to_string().repeat(8);
        let entries: Vec<_> = (1..=20)
            .flat_map(|i| [1, 2].map(|g| (g, i)))
            .map(|(g, i)| put(g, (round - 1) * 20 + i, &format!("{g}key{i}"), &value))
            .collect();
        apply(&mut machine, &entries);
        if round % 3 == 0 {
            send.send((value, machine.reader())).unwrap();
        }
    }
    drop(send);
    assert_eq!(checker.join().unwrap(), 200);
    let stats = machine.store().stats();
    assert!(stats.flushes > 5 && stats.views == 0, "{stats:?}");
}

#[test]
fn two_lives_of_one_store_never_reuse_a_number() {
    // Were the counters not raised after opening, the second life's rows would hide behind the
    // first one's.
    let mut harness = Lsm::new();
    let mut machine = machine(&mut harness, 1);
    for life in 1..=5 {
        apply(&mut machine, &[put(1, life, "1k", &format!("life {life}"))]);
        machine.store_mut().flush().unwrap();
        machine = reopen(&mut harness, machine);
        assert_eq!(rows(&machine.reader(), 1)["1k"], format!("life {life}"));
    }
}
