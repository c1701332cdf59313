//! The store's memory keeps to its settings, however much is in it. Alone in its process, as it looks at all of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod common;

use common::*;
use pontoon_store::{KvMachine, LsmSettings, LsmStore, Stager, Store};
use pontoon_types::{GroupId, LogIndex, Mutation, Operation};

const MIB: u64 = 1 << 20;
const VALUE_BYTES: usize = 4 << 10;
/// Rows of one batch: 256 KiB.
const BATCH: u64 = 64;

/// The most memory that the process has held, or holds since it was last told to forget (`proc(5)`).
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse::<u64>().unwrap() << 10
}

#[test]
fn many_times_its_memory_is_written_staged_read_and_scanned_within_it() {
    let settings = LsmSettings {
        memtable_bytes: 4 * MIB,
        max_sealed_memtables: 2,
        block_cache_bytes: 8 * MIB,
        ..LsmSettings::default()
    };
    let harness = Lsm::new();
    let store = LsmStore::open(harness.0.path(), settings).unwrap();
    let mut machine = KvMachine::open(store).unwrap();
    machine.bootstrap(&[record(1), record(2)], &[]).unwrap();
    let before = peak_bytes();

    let mut value = vec![0; VALUE_BYTES];
    let rows = 192 * MIB / VALUE_BYTES as u64;
    for first in (0..rows).step_by(BATCH as usize) {
        let entries: Vec<_> = (first..first + BATCH)
            .map(|n| {
                value[..8].copy_from_slice(&n.to_le_bytes());
                let key = format!("1{:08}", n * 7919 % rows);
                let write = Operation::Write(vec![Mutation::Put {
                    key: key.as_bytes(),
                    value: &value,
                }]);
                operation(1, n + 1, write)
            })
            .collect();
        apply(&mut machine, &entries);
    }
    // A snapshot of as much again, staged beside it and read back.
    let (tablet, mut stager) = machine.begin_install().unwrap();
    for n in 0..rows {
        stager.push(format!("d2{n:08}").as_bytes(), &value).unwrap();
    }
    stager.finish().unwrap();
    let mut moved = record(2);
    moved.pieces = tablet.into();
    machine.install(moved, LogIndex(1)).unwrap();
    for group in [1, 2] {
        let snapshot = machine.snapshot(GroupId(group)).unwrap();
        assert_eq!(snapshot.rows(None).count() as u64, rows, "group {group}");
    }
    machine.store_mut().flush().unwrap();
    machine.store().wait_for_compaction().unwrap();

    let most = settings.memtable_bytes * (settings.max_sealed_memtables as u64 + 1)
        + settings.block_cache_bytes;
    let grown = peak_bytes() - before;
    // Beside the settings: a batch, what a flush and a compaction hold of tables, and what the allocator does not give back.
    let allowed = 3 * most;
    assert!(
        grown < allowed,
        "{} MiB for settings of {} MiB",
        grown / MIB,
        most / MIB
    );
}
