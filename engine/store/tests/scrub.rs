//! Tables that do not hold what was written to them are found, and it is known whom that concerns.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod common;

use common::*;
use pontoon_store::{DamagedTable, KvMachine, LsmSettings, LsmStore, ReadError, Shed, Store};
use pontoon_types::{GroupId, LogIndex, ShardId, TabletId};
use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn settings(interval: Option<Duration>) -> LsmSettings {
    LsmSettings {
        scrub_interval: interval,
        scrub_bytes_per_second: NonZeroU64::MAX,
        // So that a byte of a file is a byte of a row.
        compression: pontoon_store::Compression::None,
        ..LsmSettings::default()
    }
}

fn key(group: u64, i: u64) -> String {
    format!("{group}key{i:05}")
}

/// Easy to find in a file, as keys are not, which leave out what they begin alike with.
fn value(group: u64, i: u64) -> String {
    format!("value {i} of {group}")
}

/// A store with one table, which has many blocks of each of three groups.
fn written() -> Lsm {
    let mut harness = Lsm::new();
    let mut machine = machine(&mut harness, 3);
    for group in 1..=3 {
        let entries: Vec<_> = (1..=2000)
            .map(|i| put(group, i, &key(group, i), &value(group, i)))
            .collect();
        apply(&mut machine, &entries);
    }
    machine.into_store().shutdown().unwrap();
    harness
}

fn open(harness: &Lsm, interval: Option<Duration>) -> KvMachine<LsmStore> {
    let store = LsmStore::open(harness.0.path(), settings(interval)).unwrap();
    KvMachine::open(store).unwrap()
}

fn biggest_table(dir: &Path) -> PathBuf {
    let tables = fs::read_dir(dir.join("tables")).unwrap();
    let paths = tables.map(|entry| entry.unwrap().path());
    paths
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap()
}

fn flip(table: &Path, at: usize) {
    let mut bytes = fs::read(table).unwrap();
    bytes[at] ^= 1;
    fs::write(table, bytes).unwrap();
}

fn position(table: &Path, needle: &str) -> usize {
    let bytes = fs::read(table).unwrap();
    let mut windows = bytes.windows(needle.len());
    windows
        .position(|window| window == needle.as_bytes())
        .unwrap()
}

fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "not yet: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn scrubbed(machine: &KvMachine<LsmStore>) -> Vec<DamagedTable> {
    let monitor = machine.store().monitor();
    let before = monitor.stats().scrub.passes;
    monitor.scrub();
    wait_for("a pass", || monitor.stats().scrub.passes > before);
    monitor.damaged_tables()
}

#[test]
fn a_flipped_byte_of_a_row_is_found_and_costs_only_the_groups_in_its_block() {
    let harness = written();
    let table = biggest_table(harness.0.path());
    flip(&table, position(&table, &value(2, 1000)));
    let machine = open(&harness, None);
    let found = scrubbed(&machine);
    let [damaged] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(damaged.path, table);
    assert_eq!(damaged.tablets, (TabletId(0), TabletId(300)));
    assert!(!damaged.has_lost_local_rows(), "{damaged:?}");
    let lost: Vec<_> = [100, 200, 300]
        .map(|tablet| damaged.has_lost(&TabletId(tablet).into()))
        .into();
    assert_eq!(lost.iter().filter(|lost| **lost).count(), 1, "{damaged:?}");
    assert_eq!(machine.store().stats().scrub.damaged, 1);
    // It stays one, however often it is found.
    assert_eq!(scrubbed(&machine), found);
}

#[test]
fn a_flipped_byte_anywhere_is_found_and_whoever_can_read_all_their_rows_has_lost_none() {
    let harness = written();
    let table = biggest_table(harness.0.path());
    let whole = fs::read(&table).unwrap();
    let mut opened = 0;
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        flip(&table, at);
        if let Ok(store) = LsmStore::open(harness.0.path(), settings(None))
            && let Ok(machine) = KvMachine::open(store)
        {
            opened += 1;
            let found = scrubbed(&machine);
            assert_eq!(found.len(), 1, "at {at}");
            let reader = machine.reader();
            for group in 1..=3 {
                let from = group.to_string();
                let range = (from.as_bytes(), &b""[..]);
                let page = reader.scan(GroupId(group), ShardId(10 * group), EPOCH, range, NO_LIMIT);
                let is_lost = found[0].has_lost(&TabletId(100 * group).into());
                assert!(page.is_ok() || is_lost, "at {at}: {found:?}");
            }
        }
        fs::write(&table, &whole).unwrap();
    }
    assert!(opened > 20, "{opened}");
}

#[test]
fn a_read_that_meets_damage_has_its_table_looked_at() {
    let harness = written();
    let table = biggest_table(harness.0.path());
    flip(&table, position(&table, &value(2, 1000)));
    let machine = open(&harness, None);
    let monitor = machine.store().monitor();
    let reader = machine.reader();
    let mut errors = 0;
    for group in 1..=3 {
        for i in 1..=2000 {
            let key = key(group, i);
            match reader.get(GroupId(group), ShardId(10 * group), EPOCH, key.as_bytes()) {
                Ok(value) => {
                    assert_eq!(value.as_deref(), Some(self::value(group, i).as_bytes()));
                }
                Err(ReadError::Store(error)) => {
                    assert!(error.is_damage(), "{error}");
                    errors += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(errors > 0);
    wait_for("the table is found", || {
        !monitor.damaged_tables().is_empty()
    });
    assert_eq!(monitor.damaged_tables()[0].path, table);
    assert_eq!(monitor.stats().scrub.passes, 0);
}

#[test]
fn nothing_is_found_while_tables_come_and_go() {
    let mut harness = Lsm::new();
    drop(machine(&mut harness, 2));
    let mut machine = open(&harness, Some(Duration::from_millis(1)));
    for round in 0..60 {
        let entries: Vec<_> = (1..=200)
            .map(|i| put(1, round * 200 + i, &key(1, i), "some value"))
            .collect();
        apply(&mut machine, &entries);
        machine.store_mut().flush().unwrap();
    }
    machine.store().wait_for_compaction().unwrap();
    assert!(scrubbed(&machine).is_empty());
    let stats = machine.store().stats();
    assert!(stats.scrub.passes > 1 && stats.compactions > 0, "{stats:?}");
    assert_eq!(stats.scrub.damaged, 0);
}

#[test]
fn a_store_is_not_read_again_before_its_time() {
    let harness = written();
    let machine = open(&harness, Some(Duration::from_millis(1)));
    let monitor = machine.store().monitor();
    wait_for("a pass", || monitor.stats().scrub.passes > 0);
    drop(machine);
    let machine = open(&harness, Some(Duration::from_secs(3600)));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(machine.store().stats().scrub.passes, 0);
}

/// Gets rid of what can go.
fn shed(machine: &mut KvMachine<LsmStore>) -> Shed {
    let mut shed = machine.shed(true).unwrap();
    while shed == Shed::Underway {
        std::thread::yield_now();
        shed = machine.shed(false).unwrap();
    }
    shed
}

#[test]
fn a_damaged_table_goes_when_those_who_have_lost_rows_have_left_it() {
    let harness = written();
    let table = biggest_table(harness.0.path());
    flip(&table, position(&table, &value(2, 1000)));
    let mut machine = open(&harness, None);
    assert_eq!(scrubbed(&machine).len(), 1);
    assert_eq!(shed(&mut machine), Shed::Idle, "the group is still here");
    machine.remove(GroupId(2)).unwrap();
    assert_eq!(shed(&mut machine), Shed::Done);
    assert!(machine.store().monitor().damaged_tables().is_empty());
    while machine.reclaim(100).unwrap() {}
    let whole = |machine: &KvMachine<LsmStore>| {
        for group in [1, 3] {
            let rows = rows(&machine.reader(), group);
            assert_eq!(rows.len(), 2000);
            for i in 1..=2000 {
                assert_eq!(rows[&key(group, i)], value(group, i));
            }
            assert_eq!(machine.applied(GroupId(group)).0, 2000);
        }
        assert!(machine.replica(GroupId(2)).is_none());
    };
    whole(&machine);
    drop(machine);
    assert!(!table.exists());
    whole(&open(&harness, None));
}

#[test]
fn of_two_who_share_a_tablet_only_the_one_with_the_lost_rows_is_concerned() {
    let harness = written();
    let mut machine = open(&harness, None);
    let at = key(2, 1000);
    let mut parent = machine.replica(GroupId(2)).unwrap().clone();
    let mut child = parent.clone();
    (child.group, child.start) = (GroupId(9), at.clone().into());
    parent.end = at.into();
    parent.epoch.range += 1;
    let child = Some((child, LogIndex(1)));
    assert!(machine.split(parent, LogIndex(2001), child).unwrap());
    machine.store_mut().flush().unwrap();
    let table = biggest_table(harness.0.path());
    flip(&table, position(&table, &value(2, 1500)));
    let found = scrubbed(&machine);
    let has_lost = |machine: &KvMachine<LsmStore>, group| {
        let record = machine.replica(GroupId(group)).unwrap();
        found[0].has_lost(&record.pieces)
    };
    assert_eq!(
        [1, 2, 9, 3].map(|group| has_lost(&machine, group)),
        [false, false, true, false]
    );

    // When that one has left the table goes, and the other one's rows stay.
    assert_eq!(shed(&mut machine), Shed::Idle, "it is still here");
    machine.remove(GroupId(9)).unwrap();
    assert_eq!(shed(&mut machine), Shed::Done);
    while machine.reclaim(100).unwrap() {}
    let rows = |machine: &KvMachine<LsmStore>| {
        let snapshot = machine.snapshot(GroupId(2)).unwrap();
        snapshot.rows(None).map(Result::unwrap).collect::<Vec<_>>()
    };
    let kept = rows(&machine);
    assert_eq!(kept.len(), 999);
    for (i, (_, kept)) in (1..).zip(&kept) {
        assert_eq!(text(kept), value(2, i));
    }
    drop(machine);
    assert!(!table.exists());
    assert_eq!(rows(&open(&harness, None)), kept);
}

#[test]
fn a_table_that_has_lost_rows_of_the_node_itself_stays() {
    let harness = written();
    let table = biggest_table(harness.0.path());
    let mut machine = open(&harness, None);
    // In the first block.
    flip(&table, 60);
    let found = scrubbed(&machine);
    assert!(found[0].has_lost_local_rows(), "{found:?}");
    for group in 1..=3 {
        machine.remove(GroupId(group)).unwrap();
    }
    assert_eq!(shed(&mut machine), Shed::Idle);
    assert_eq!(machine.store().monitor().damaged_tables(), found);
}
