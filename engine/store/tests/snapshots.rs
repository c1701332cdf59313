//! A replica's state leaves one store and comes whole into another, or not at all.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod common;

use common::*;
use pontoon_store::keys::MAX_STORED_KEY_BYTES;
use pontoon_store::{KvMachine, KvSnapshot, ReplicaRecord, Stager, Store, View};
use pontoon_types::{GroupId, LogIndex, ReplicaId, TabletId};

const GROUP: GroupId = GroupId(1);

/// Writes rows `range` of group 1, one entry each.
fn fill<S: Store>(machine: &mut KvMachine<S>, range: std::ops::Range<u64>, value: &str) {
    for n in range {
        let index = machine.applied(GROUP).next().0;
        apply(machine, &[put(1, index, &format!("1key{n:04}"), value)]);
    }
}

fn snapshot<S: Store>(machine: &KvMachine<S>) -> KvSnapshot<S::View> {
    machine.snapshot(GROUP).unwrap()
}

/// Brings a snapshot into a new tablet of a machine, and returns the record that it is to be installed with.
fn stage<S: Store, V: View>(machine: &mut KvMachine<S>, from: &KvSnapshot<V>) -> ReplicaRecord {
    let (tablet, mut stager) = machine.begin_install().unwrap();
    for row in from.rows(None) {
        let (key, value) = row.unwrap();
        stager.push(&key, &value).unwrap();
    }
    stager.finish().unwrap();
    let replica = ReplicaId(7);
    ReplicaRecord {
        pieces: tablet.into(),
        replica,
        ..from.record().clone()
    }
}

fn reclaim_all<S: Store>(machine: &mut KvMachine<S>) {
    while machine.reclaim(7).unwrap() {}
}

/// The tablets that have rows, the node's own aside.
fn tablets<S: Store>(machine: &KvMachine<S>) -> Vec<u64> {
    let rows = dump(&machine.store().view());
    let mut tablets: Vec<_> = rows
        .iter()
        .map(|(key, _)| pontoon_store::keys::tablet_of(key).unwrap().0)
        .filter(|tablet| *tablet != 0)
        .collect();
    tablets.dedup();
    tablets
}

fn a_snapshot_arrives_whole_beside_everything_else<H: Harness>() {
    let (mut here, mut there) = (H::new(), H::new());
    let mut sender = machine(&mut here, 2);
    fill(&mut sender, 0..300, "old");
    apply(&mut sender, &[put(2, 1, "2other", "x")]);
    let pinned = snapshot(&sender);
    // What changes afterwards is not in it.
    fill(&mut sender, 100..400, "new");

    let mut receiver = machine(&mut there, 2);
    fill(&mut receiver, 200..500, "of its own");
    apply(&mut receiver, &[put(2, 1, "2mine", "y")]);
    fill(&mut receiver, 0..3, "later");
    let record = stage(&mut receiver, &pinned);
    assert_eq!(
        rows(&receiver.reader(), 1).len(),
        303,
        "nothing refers to it"
    );
    // Its own entries end below the snapshot's.
    let applied = LogIndex(1_000);
    receiver.install(record.clone(), applied).unwrap();
    assert_eq!(receiver.replica(GROUP), Some(&record));
    assert_eq!(receiver.applied(GROUP), applied);
    let installed = snapshot(&receiver);
    assert_eq!(installed.hash().unwrap(), pinned.hash().unwrap());
    assert_ne!(installed.hash().unwrap(), snapshot(&sender).hash().unwrap());
    assert_eq!(rows(&receiver.reader(), 1).len(), 300);
    assert_eq!(rows(&receiver.reader(), 2).len(), 1);

    // Entries go on from there, in the new tablet, and the old one goes.
    apply(&mut receiver, &[put(1, 1_001, "1zzz", "behind")]);
    assert_eq!(rows(&receiver.reader(), 1).len(), 301);
    reclaim_all(&mut receiver);
    assert_eq!(tablets(&receiver), [200, record.pieces.first().0]);
    receiver.store_mut().flush().unwrap();
    let receiver = reopen(&mut there, receiver);
    assert_eq!(rows(&receiver.reader(), 1).len(), 301);
    assert_eq!(receiver.replica(GROUP), Some(&record));
}

fn rows_go_on_behind_any_key<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 1);
    fill(&mut machine, 0..20, "x");
    // The longest key that there can be, and the one before it.
    let longest = "1".repeat(MAX_STORED_KEY_BYTES);
    for key in [&longest[1..], &longest] {
        let index = machine.applied(GROUP).next().0;
        apply(&mut machine, &[put(1, index, key, "x")]);
    }
    let pinned = snapshot(&machine);
    let all: Vec<_> = pinned.rows(None).map(|row| row.unwrap().0).collect();
    assert_eq!(all.len(), 22);
    for (at, key) in all.iter().enumerate() {
        let rest: Vec<_> = pinned.rows(Some(key)).map(|row| row.unwrap().0).collect();
        assert_eq!(rest, all[at + 1..]);
    }
    // What nobody can have been told of.
    let last = all.last().unwrap();
    let (low, high) = (all[0].repeat(4_000), last.repeat(70_000));
    assert!(low.len() > MAX_STORED_KEY_BYTES);
    assert_eq!(pinned.rows(Some(&high)).count(), 0);
    let behind = pinned.rows(Some(&low)).map(|row| row.unwrap().0);
    assert!(behind.eq(all.iter().filter(|key| **key > low).cloned()));
}

fn a_crash_leaves_the_old_state_or_the_new_and_the_log_makes_it_the_new<H: Harness>() {
    let mut here = H::new();
    let mut sender = machine(&mut here, 1);
    fill(&mut sender, 0..50, "theirs");
    let pinned = snapshot(&sender);
    for flushed in [false, true] {
        let mut there = H::new();
        let mut receiver = machine(&mut there, 1);
        fill(&mut receiver, 40..60, "ours");
        receiver.store_mut().flush().unwrap();
        let old = snapshot(&receiver).hash().unwrap();
        let record = stage(&mut receiver, &pinned);
        // The process ends before the log has its record: the rows are nobody's, and go.
        let mut receiver = reopen(&mut there, receiver);
        assert_eq!(snapshot(&receiver).hash().unwrap(), old);
        reclaim_all(&mut receiver);
        assert_eq!(tablets(&receiver), [100]);

        let again = stage(&mut receiver, &pinned);
        assert!(
            again.pieces.first() > record.pieces.first(),
            "an id is used once"
        );
        receiver.install(again.clone(), LogIndex(99)).unwrap();
        if flushed {
            receiver.store_mut().flush().unwrap();
        }
        let mut receiver = reopen(&mut there, receiver);
        if !flushed {
            assert_eq!(snapshot(&receiver).hash().unwrap(), old);
            assert_eq!(receiver.applied(GROUP), LogIndex(20));
            // What the log's record is for.
            receiver.install(again.clone(), LogIndex(99)).unwrap();
        }
        assert_eq!(receiver.applied(GROUP), LogIndex(99));
        assert_eq!(
            snapshot(&receiver).hash().unwrap(),
            pinned.hash().unwrap(),
            "flushed: {flushed}"
        );
        reclaim_all(&mut receiver);
        assert_eq!(tablets(&receiver), [again.pieces.first().0]);
    }
}

fn what_was_begun_and_not_finished_leaves_nothing<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 1);
    fill(&mut machine, 0..10, "x");
    let (tablet, mut stager) = machine.begin_install().unwrap();
    stager.push(b"da", b"1").unwrap();
    drop(stager);
    let (kept, mut stager) = machine.begin_install().unwrap();
    stager.push(b"db", b"2").unwrap();
    stager.finish().unwrap();
    machine.discard(tablet);
    reclaim_all(&mut machine);
    // One is still on its way, so it stays.
    let left = tablets(&machine);
    assert!(left == [100] || left == [100, kept.0], "{left:?}");
    machine.discard(kept);
    reclaim_all(&mut machine);
    assert_eq!(tablets(&machine), [100]);
}

fn a_replica_that_has_left_is_forgotten_and_may_come_back<H: Harness>() {
    let (mut here, mut there) = (H::new(), H::new());
    let mut sender = machine(&mut here, 1);
    fill(&mut sender, 0..5, "theirs");
    let pinned = snapshot(&sender);

    let mut receiver = machine(&mut there, 2);
    fill(&mut receiver, 0..30, "ours");
    receiver.store_mut().flush().unwrap();
    assert_eq!(receiver.durability().applied(GROUP), LogIndex(30));
    receiver.remove(GROUP).unwrap();
    assert!(receiver.replica(GROUP).is_none() && receiver.snapshot(GROUP).is_none());
    let record = stage(&mut receiver, &pinned);
    receiver.install(record, LogIndex(5)).unwrap();
    // Behind what the one before it had reached.
    receiver.store_mut().flush().unwrap();
    assert_eq!(receiver.durability().applied(GROUP), LogIndex(5));
    let mut receiver = reopen(&mut there, receiver);
    assert_eq!(receiver.applied(GROUP), LogIndex(5));
    assert_eq!(snapshot(&receiver).hash().unwrap(), pinned.hash().unwrap());
    receiver.remove(GROUP).unwrap();
    receiver.store_mut().flush().unwrap();
    let mut receiver = reopen(&mut there, receiver);
    assert!(receiver.replica(GROUP).is_none());
    assert_eq!(receiver.applied(GROUP), LogIndex::ZERO);
    reclaim_all(&mut receiver);
    assert_eq!(tablets(&receiver), Vec::<u64>::new());
}

fn tablets_stay_new_over_many_lives<H: Harness>() {
    let mut harness = H::new();
    let mut receiver = machine(&mut harness, 1);
    let mut last = TabletId(100);
    for life in 0..4 {
        for _ in 0..3 {
            let (tablet, stager) = receiver.begin_install().unwrap();
            assert!(tablet > last, "life {life}");
            last = tablet;
            stager.finish().unwrap();
        }
        receiver = reopen(&mut harness, receiver);
    }
}

fn the_tablet_of_a_replica_that_has_left_is_not_used_again<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 2);
    apply(&mut machine, &[put(2, 1, "2old", "x")]);
    machine.remove(GroupId(2)).unwrap();
    machine.store_mut().flush().unwrap();
    // The next life finds tablet 100 as the highest that a record refers to, and rows in 200.
    let mut machine = reopen(&mut harness, machine);
    let (tablet, stager) = machine.begin_install().unwrap();
    assert!(tablet > TabletId(200), "{tablet:?}");
    stager.finish().unwrap();
}

fn no_id_is_used_before_it_is_set_aside_durably<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 1);
    let mut last = TabletId(100);
    // Around half a block, a whole one and two of them; and each life begins with a new one.
    let uses = [1, 511, 512, 513, 600, 1023, 1024, 1025, 2500];
    for (life, used) in uses.into_iter().enumerate() {
        if life % 2 == 0 {
            machine.set_tablets_aside().unwrap();
        }
        for _ in 0..used {
            let (tablet, _) = machine.begin_install().unwrap();
            assert!(tablet > last, "life {life} uses {tablet:?} again");
            last = tablet;
            machine.discard(tablet);
        }
        machine = reopen(&mut harness, machine);
    }
}

fn a_bootstrap_forgets_nothing_that_is_being_set_aside<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 1);
    machine.set_tablets_aside().unwrap();
    machine.bootstrap(&[record(2)], &[]).unwrap();
    let (first, _) = machine.begin_install().unwrap();
    assert!(first > record(2).pieces.first(), "{first:?}");
    let mut machine = reopen(&mut harness, machine);
    let (next, _) = machine.begin_install().unwrap();
    assert!(next > first, "{next:?} after {first:?}");
}

#[test]
fn nobody_waits_for_the_disk_where_a_flush_finishes_while_half_a_block_is_left() {
    let mut machine = machine(&mut Model::new(), 1);
    machine.set_tablets_aside().unwrap();
    for _ in 0..10 {
        machine.store_mut().rotate().unwrap();
        machine.store_mut().finish_flush();
        let flushes = machine.durability().generation();
        for _ in 0..1_000 {
            machine.begin_install().unwrap();
        }
        assert_eq!(machine.durability().generation(), flushes);
    }
}

macro_rules! on_both_stores {
    ($($test:ident),* $(,)?) => {
        mod on_lsm { $(#[test] fn $test() { super::$test::<super::Lsm>(); })* }
        mod on_model { $(#[test] fn $test() { super::$test::<super::Model>(); })* }
    };
}

on_both_stores! {
    a_snapshot_arrives_whole_beside_everything_else,
    rows_go_on_behind_any_key,
    a_crash_leaves_the_old_state_or_the_new_and_the_log_makes_it_the_new,
    what_was_begun_and_not_finished_leaves_nothing,
    a_replica_that_has_left_is_forgotten_and_may_come_back,
    tablets_stay_new_over_many_lives,
    no_id_is_used_before_it_is_set_aside_durably,
    a_bootstrap_forgets_nothing_that_is_being_set_aside,
    the_tablet_of_a_replica_that_has_left_is_not_used_again,
}
