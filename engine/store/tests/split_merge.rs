//! A split shares the tablet, a merge lists two: no row moves, and what nobody refers to any more never comes back.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod common;

use common::*;
use pontoon_store::keys::{LOCAL_TABLET, Space, tablet_of};
use pontoon_store::{
    KvMachine, ReadError, ReplicaRecord, Row, ScanLimits, Stager, Store, StoreError, WriteBatch,
};
use pontoon_types::{Entry, Epoch, GroupId, LogIndex, Mutation, Operation, ShardId, TabletId};
use std::time::{Duration, Instant};

/// The group's record with another range and range epoch.
fn with(group: u64, range: (&str, &str), epoch: u64) -> ReplicaRecord {
    let (start, end) = (range.0.as_bytes().to_vec(), range.1.as_bytes().to_vec());
    ReplicaRecord {
        start: start.into(),
        end: end.into(),
        epoch: Epoch {
            range: epoch,
            ..EPOCH
        },
        ..record(group)
    }
}

/// The next entry of a group under a range epoch: a put.
fn next_put<S: Store>(machine: &KvMachine<S>, group: u64, key: &str, value: &str) -> Entry {
    let id = GroupId(group);
    let epoch = machine.replica(id).unwrap().epoch;
    let index = machine.applied(id).next().0;
    let (key, value) = (key.as_bytes(), value.as_bytes());
    let write = Operation::Write(vec![Mutation::Put { key, value }]);
    command(group, index, ShardId(10 * group), epoch, write)
}

fn write<S: Store>(machine: &mut KvMachine<S>, group: u64, key: &str, value: &str) {
    let entry = next_put(machine, group, key, value);
    apply(machine, &[entry]);
}

fn split<S: Store>(machine: &mut KvMachine<S>, parent: ReplicaRecord, child: ReplicaRecord) {
    let index = machine.applied(parent.group).next();
    let child = Some((child, LogIndex(3)));
    assert!(machine.split(parent, index, child).unwrap());
}

fn merge<S: Store>(machine: &mut KvMachine<S>, left: ReplicaRecord, right: u64) {
    let index = machine.applied(left.group).next();
    assert!(machine.merge(left, index, GroupId(right)).unwrap());
}

/// All rows of a replica, as a snapshot has them.
fn state<S: Store>(machine: &KvMachine<S>, group: u64) -> Vec<Row> {
    let snapshot = machine.snapshot(GroupId(group)).unwrap();
    snapshot.rows(None).map(Result::unwrap).collect()
}

fn keys_of<S: Store>(machine: &KvMachine<S>, group: u64) -> Vec<String> {
    let rows = state(machine, group);
    rows.iter().map(|(key, _)| text(&key[1..])).collect()
}

/// All rows of tablets, with their stored keys.
fn stored<S: Store>(machine: &KvMachine<S>) -> Vec<Row> {
    let mut rows = dump(&machine.store().view());
    rows.retain(|(key, _)| tablet_of(key) != Some(LOCAL_TABLET));
    rows
}

fn reclaim_all<S: Store>(machine: &mut KvMachine<S>) {
    while machine.reclaim(7).unwrap() {}
}

/// Group 1 has the keys from "a" to "z", those of one letter and some behind them.
fn filled<H: Harness>(harness: &mut H) -> KvMachine<H::Store> {
    let mut machine = KvMachine::open(harness.open()).unwrap();
    machine.bootstrap(&[with(1, ("a", "z"), 3)], &[]).unwrap();
    for letter in b'a'..=b'y' {
        for n in 0..4 {
            let key = format!("{}{}", letter as char, "x".repeat(n));
            write(&mut machine, 1, &key, "of old");
        }
    }
    machine.store_mut().flush().unwrap();
    machine
}

fn a_split_and_a_merge_move_no_row<H: Harness>() {
    let mut harness = H::new();
    let mut machine = filled(&mut harness);
    let (whole, before) = (state(&machine, 1), stored(&machine));
    split(&mut machine, with(1, ("a", "m"), 4), with(2, ("m", "z"), 4));
    assert_eq!(stored(&machine), before);
    let (left, right) = (state(&machine, 1), state(&machine, 2));
    assert_eq!([&left[..], &right].concat(), whole);
    assert!(left.iter().all(|(key, _)| key[1] < b'm'));
    assert_eq!((left.len(), right.len()), (12 * 4, 13 * 4));
    assert_eq!(machine.applied(GroupId(2)), LogIndex(3));

    // Each goes on by itself, over the end of a life too.
    write(&mut machine, 1, "lz", "new");
    write(&mut machine, 2, "m", "new");
    machine.store_mut().flush().unwrap();
    let mut machine = reopen(&mut harness, machine);
    assert_eq!(state(&machine, 1).len(), left.len() + 1);
    assert_eq!(state(&machine, 2).len(), right.len());
    reclaim_all(&mut machine);
    let before = stored(&machine);
    merge(&mut machine, with(1, ("a", "z"), 5), 2);
    assert_eq!(stored(&machine), before);
    assert_eq!(state(&machine, 1).len(), whole.len() + 1);
    let record = machine.replica(GroupId(1)).unwrap();
    assert_eq!(record.pieces.whole(), Some(TabletId(100)), "one again");
    assert!(machine.replica(GroupId(2)).is_none());
    assert_eq!(machine.applied(GroupId(2)), LogIndex::ZERO);
}

/// Brings group 1's range behind "m" into a tablet of its own, so that a merge lists two.
fn pieced<H: Harness>(harness: &mut H) -> KvMachine<H::Store> {
    let mut machine = filled(harness);
    split(&mut machine, with(1, ("a", "m"), 4), with(2, ("m", "z"), 4));
    let pinned = machine.snapshot(GroupId(2)).unwrap();
    let (tablet, mut stager) = machine.begin_install().unwrap();
    for row in pinned.rows(None) {
        let (key, value) = row.unwrap();
        stager.push(&key, &value).unwrap();
    }
    stager.finish().unwrap();
    let mut record = with(2, ("m", "z"), 4);
    record.pieces = tablet.into();
    machine.install(record, LogIndex(9)).unwrap();
    merge(&mut machine, with(1, ("a", "z"), 5), 2);
    machine
}

fn a_state_in_pieces_is_as_one_in_a_tablet<H: Harness>() {
    let (mut one, mut other, mut third) = (H::new(), H::new(), H::new());
    let (whole, mut machine) = (filled(&mut one), pieced(&mut other));
    let record = machine.replica(GroupId(1)).unwrap();
    assert_eq!(record.pieces.iter().count(), 2);
    assert_eq!(state(&machine, 1), state(&whole, 1));
    let hash = |machine: &KvMachine<H::Store>| {
        let snapshot = machine.snapshot(GroupId(1)).unwrap();
        snapshot.hash().unwrap()
    };
    assert_eq!(hash(&machine), hash(&whole));

    // Scans go on over the border, wherever they begin and end.
    let scan = |from: &str, to: &str, rows| {
        let (reader, epoch) = (machine.reader(), machine.replica(GroupId(1)).unwrap().epoch);
        let limits = ScanLimits {
            rows,
            bytes: usize::MAX,
        };
        let range = (from.as_bytes(), to.as_bytes());
        let page = reader.scan(GroupId(1), ShardId(10), epoch, range, limits);
        let page = page.unwrap();
        let keys = page.rows.iter().map(|(key, _)| text(key));
        (keys.collect::<Vec<_>>(), page.more)
    };
    let some = |keys: &[&str]| keys.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        scan("lxx", "mxx", 9),
        (some(&["lxx", "lxxx", "m", "mx"]), false)
    );
    assert_eq!(scan("lxxx", "", 2), (some(&["lxxx", "m"]), true));
    assert_eq!(scan("lxxx", "m", 9), (some(&["lxxx"]), false));
    assert_eq!(scan("lxxx", "", 1), (some(&["lxxx"]), true));
    assert_eq!(scan("m", "mx", 9), (some(&["m"]), false));
    assert_eq!(scan("lxxxx", "m", 9), (some(&[]), false));
    assert_eq!(scan("a", "", 999).0.len(), 100);
    let epoch = Epoch { range: 5, ..EPOCH };
    let outside = machine.reader().get(GroupId(1), ShardId(10), epoch, b"z");
    assert!(
        matches!(outside, Err(ReadError::OutOfRange { .. })),
        "{outside:?}"
    );

    // Commands find their rows in either piece.
    for key in ["lx", "mx"] {
        let index = machine.applied(GroupId(1)).next().0;
        let swap = Operation::CompareAndSwap {
            key: key.as_bytes(),
            expect: Some(b"of old"),
            set: None,
        };
        let entry = command(1, index, ShardId(10), epoch, swap);
        assert_eq!(
            apply(&mut machine, &[entry]),
            [pontoon_store::Outcome::Swapped]
        );
    }
    assert_eq!(state(&machine, 1).len(), 98);

    // Where a snapshot of it comes, there is one tablet.
    let pinned = machine.snapshot(GroupId(1)).unwrap();
    let mut there = KvMachine::open(third.open()).unwrap();
    let (tablet, mut stager) = there.begin_install().unwrap();
    for row in pinned.rows(None) {
        let (key, value) = row.unwrap();
        stager.push(&key, &value).unwrap();
    }
    stager.finish().unwrap();
    let refused = there.install(pinned.record().clone(), pinned.applied());
    assert!(
        matches!(refused, Err(StoreError::InvalidRecord { .. })),
        "{refused:?}"
    );
    let mut record = pinned.record().clone();
    record.pieces = tablet.into();
    there.install(record, pinned.applied()).unwrap();
    assert_eq!(hash(&there), pinned.hash().unwrap());
}

fn what_has_gone_stays_away<H: Harness>() {
    let mut harness = H::new();
    let mut machine = filled(&mut harness);
    split(&mut machine, with(1, ("a", "m"), 4), with(2, ("m", "z"), 4));
    let left = state(&machine, 1);
    // Half of what it had is deleted, all of it in a table beside that with the rows.
    for letter in b'm'..=b'y' {
        let (epoch, key) = (Epoch { range: 4, ..EPOCH }, [letter]);
        let delete = Operation::Write(vec![Mutation::Delete { key: &key }]);
        let index = machine.applied(GroupId(2)).next().0;
        apply(
            &mut machine,
            &[command(2, index, ShardId(20), epoch, delete)],
        );
    }
    machine.store_mut().flush().unwrap();
    machine.remove(GroupId(2)).unwrap();
    for life in 0..2 {
        // A crash in between: it is found again, without a note.
        machine.store_mut().flush().unwrap();
        machine.reclaim(7).unwrap();
        machine = reopen(&mut harness, machine);
        assert_eq!(state(&machine, 1), left, "life {life}");
    }
    reclaim_all(&mut machine);
    assert_eq!(state(&machine, 1), left);
    assert_eq!(stored(&machine).len(), left.len());

    // Its range comes back, as a snapshot of other rows, and the two are merged.
    let (tablet, mut stager) = machine.begin_install().unwrap();
    stager.push(b"dmm", b"new").unwrap();
    stager.finish().unwrap();
    let mut record = with(5, ("m", "z"), 4);
    record.pieces = tablet.into();
    machine.install(record, LogIndex(9)).unwrap();
    merge(&mut machine, with(1, ("a", "z"), 5), 5);
    for _ in 0..2 {
        let keys = keys_of(&machine, 1);
        assert_eq!(keys.len(), left.len() + 1);
        assert_eq!(keys.last().unwrap(), "mm");
        reclaim_all(&mut machine);
        machine.store_mut().flush().unwrap();
        H::settle(machine.store());
        machine = reopen(&mut harness, machine);
    }
    assert_eq!(stored(&machine).len(), left.len() + 1);
}

fn a_child_that_is_not_here_leaves_garbage<H: Harness>() {
    let mut harness = H::new();
    let mut machine = filled(&mut harness);
    // From here on nothing is looked for any more.
    reclaim_all(&mut machine);
    let parent = with(1, ("a", "m"), 4);
    let index = machine.applied(GroupId(1)).next();
    assert!(machine.split(parent, index, None).unwrap());
    reclaim_all(&mut machine);
    assert_eq!(stored(&machine).len(), state(&machine, 1).len());
    assert_eq!(keys_of(&machine, 1).len(), 12 * 4);
}

fn what_makes_no_sense_is_refused_and_changes_nothing<H: Harness>() {
    let mut harness = H::new();
    let mut machine = filled(&mut harness);
    let others = [with(3, ("z", "zz"), 3), with(4, ("zzz", ""), 3)];
    machine.bootstrap(&others, &[]).unwrap();
    let before = dump(&machine.store().view());
    let index = machine.applied(GroupId(1)).next();
    let half = || with(1, ("a", "m"), 4);
    let child = |range| with(2, range, 4);
    let other_replica = ReplicaRecord {
        replica: pontoon_types::ReplicaId(9),
        ..half()
    };
    let splits = [
        (with(9, ("a", "m"), 4), child(("m", "z"))),
        (with(1, ("a", "a"), 4), child(("a", "z"))),
        (with(1, ("a", "z"), 4), child(("z", "z"))),
        (with(1, ("a", ""), 4), child(("m", "z"))),
        (with(1, ("b", "m"), 4), child(("m", "z"))),
        (with(1, ("a", "m"), 3), child(("m", "z"))),
        (other_replica, child(("m", "z"))),
        (half(), child(("n", "z"))),
        (half(), child(("m", ""))),
        (half(), with(3, ("m", "z"), 4)),
    ];
    for (parent, child) in splits {
        let text = format!("{parent:?} and {child:?}");
        let refused = machine.split(parent, index, Some((child, LogIndex(3))));
        assert!(refused.unwrap_err().group().is_some(), "{text}");
    }
    // Nor if the child is not here.
    for end in ["", "a", "z", "zz"] {
        let refused = machine.split(with(1, ("a", end), 4), index, None);
        assert!(refused.is_err(), "at {end:?}");
    }
    let merges = [
        (with(9, ("a", "zz"), 4), 3),
        (with(1, ("a", "zz"), 4), 9),
        (with(1, ("a", ""), 4), 4),
        (with(1, ("a", ""), 4), 3),
        (with(1, ("a", "zz"), 3), 3),
        (with(1, ("a", "z"), 4), 1),
    ];
    for (left, right) in merges {
        let text = format!("{left:?} and {right}");
        let refused = machine.merge(left, index, GroupId(right));
        assert!(refused.unwrap_err().group().is_some(), "{text}");
    }
    let index = machine.applied(GroupId(4)).next();
    let refused = machine.merge(with(4, ("zzz", "z"), 4), index, GroupId(1));
    assert!(refused.is_err(), "there is nothing behind the last");
    assert_eq!(dump(&machine.store().view()), before);
    assert_eq!(machine.replicas().count(), 3);
    assert_eq!(state(&machine, 1).len(), 100);
}

fn an_entry_is_not_applied_again<H: Harness>() {
    let mut harness = H::new();
    let mut machine = filled(&mut harness);
    let index = machine.applied(GroupId(1));
    let child = Some((with(2, ("m", "z"), 4), LogIndex(3)));
    let again = machine.split(with(1, ("a", "m"), 4), index, child);
    assert!(!again.unwrap() && machine.replica(GroupId(2)).is_none());
    split(&mut machine, with(1, ("a", "m"), 4), with(2, ("m", "z"), 4));
    let index = machine.applied(GroupId(1));
    let again = machine.merge(with(1, ("a", "z"), 5), index, GroupId(2));
    assert!(!again.unwrap() && machine.replica(GroupId(2)).is_some());
}

fn two_replicas_with_the_same_rows_are_refused<H: Harness>() {
    let mut harness = H::new();
    let mut machine = filled(&mut harness);
    let mut other = with(2, ("z", ""), 3);
    other.pieces = TabletId(100).into();
    let mut new = [with(3, ("z", "zz"), 3), with(4, ("zz", ""), 3)];
    new[1].pieces = new[0].pieces.clone();
    for records in [&[other.clone()][..], &new] {
        let refused = machine.bootstrap(records, &[]);
        assert!(
            matches!(refused, Err(StoreError::InvalidRecord { .. })),
            "{refused:?}"
        );
    }
    let mut store = machine.into_store();
    let (mut batch, mut value) = (WriteBatch::new(), Vec::new());
    other.encode(&mut value);
    batch.put(LOCAL_TABLET, Space::Replica, &2_u64.to_be_bytes(), &value);
    store.write(&mut batch).unwrap();
    let refused = KvMachine::open(store).map(|_| ());
    assert!(
        matches!(refused, Err(StoreError::DamagedRow { .. })),
        "{refused:?}"
    );
}

fn a_tablet_with_rows_of_a_replica_takes_no_snapshot<H: Harness>() {
    let mut harness = H::new();
    let mut machine = pieced(&mut harness);
    let mut record = with(2, ("z", ""), 3);
    record.pieces = TabletId(100).into();
    let install = || machine.install(record, LogIndex(1));
    let installed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(install));
    assert!(installed.is_err());
}

#[test]
fn a_split_takes_no_longer_for_many_rows() {
    let mut harness = Lsm::new();
    let mut machine = KvMachine::open(harness.open()).unwrap();
    let whole = || with(1, ("", ""), 3);
    machine.bootstrap(&[whole()], &[]).unwrap();
    let key = |n| format!("{n:05}");
    let entries: Vec<_> = (0..20_000)
        .map(|n| put(1, n + 1, &key(n), "some value"))
        .collect();
    apply(&mut machine, &entries);
    machine.store_mut().flush().unwrap();
    let (copied, copying) = timed(|| {
        let pinned = machine.snapshot(GroupId(1)).unwrap();
        let (_, mut stager) = machine.begin_install().unwrap();
        let rows = pinned.rows(None).map(Result::unwrap);
        let copied = rows.map(|(key, value)| stager.push(&key, &value).unwrap());
        let copied = copied.count();
        stager.finish().unwrap();
        copied
    });
    assert_eq!(copied, 20_000);
    // The quickest of some, as others may be at work on the machine.
    let splits = (1..20).map(|n| {
        let (at, end) = (key(20_000 - 1000 * n), key(20_000 - 1000 * (n - 1)));
        let end = if n == 1 { "" } else { &end };
        let parent = with(1, ("", &at), 3 + n);
        let child = with(1 + n, (&at, end), 3 + n);
        timed(|| split(&mut machine, parent, child)).1
    });
    let splitting = splits.min().unwrap();
    assert!(
        splitting * 20 < copying,
        "{splitting:?}, and copying {copying:?}"
    );
    assert_eq!(state(&machine, 1).len(), 1000);
    assert_eq!(state(&machine, 7).len(), 1000);
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let done = work();
    (done, began.elapsed())
}

macro_rules! on_both_stores {
    ($($test:ident),* $(,)?) => {
        mod on_lsm { $(#[test] fn $test() { super::$test::<super::Lsm>(); })* }
        mod on_model { $(#[test] fn $test() { super::$test::<super::Model>(); })* }
    };
}

on_both_stores! {
    a_split_and_a_merge_move_no_row,
    a_state_in_pieces_is_as_one_in_a_tablet,
    what_has_gone_stays_away,
    a_child_that_is_not_here_leaves_garbage,
    what_makes_no_sense_is_refused_and_changes_nothing,
    an_entry_is_not_applied_again,
    two_replicas_with_the_same_rows_are_refused,
    a_tablet_with_rows_of_a_replica_takes_no_snapshot,
}
