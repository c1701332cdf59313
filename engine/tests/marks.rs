//! Marks: a state is pinned as of exactly there, and comes to the same on all replicas.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::record;
use pontoon_engine::apply::ApplyStage;
use pontoon_engine::held::{Digest, DigestState, HeldStates, Work, page};
use pontoon_engine::worker::ApplyBatch;
use pontoon_store::{
    KvMachine, KvSnapshot, LsmSettings, LsmStore, ModelStore, ModelView, Store as _,
};
use pontoon_types::{
    Command, Entry, EntryKind, Epoch, GroupId, Instant, LogIndex, Mutation, Operation, ReplicaId,
    Request, Sequence, SessionId, ShardId, TabletId, Term,
};
use std::time::Duration;

const GROUP: GroupId = GroupId(1);

fn put(index: u64, key: &[u8], value: &[u8]) -> Entry {
    let command = Command {
        request: Request {
            shard: ShardId(1),
            epoch: Epoch {
                range: 1,
                membership: 1,
            },
            session: SessionId(0),
            sequence: Sequence(0),
        },
        operation: Operation::Write(vec![Mutation::Put { key, value }]),
    };
    let mut payload = Vec::new();
    command.encode(&mut payload);
    Entry::encode(
        GROUP,
        Term(1),
        LogIndex(index),
        EntryKind::Command,
        &payload,
    )
}

fn mark(index: u64) -> Entry {
    Entry::encode(GROUP, Term(1), LogIndex(index), EntryKind::Mark, &[])
}

/// A log with marks at 3 and 5.
fn log() -> Vec<Entry> {
    vec![
        put(1, b"a", b"1"),
        put(2, b"b", b"2"),
        mark(3),
        put(4, b"a", b"4"),
        mark(5),
        put(6, b"c", b"6"),
    ]
}

/// What a replica has pinned that applies the log in batches of so many entries.
fn pinned(replica: u64, tablet: u64, batch: usize) -> Vec<KvSnapshot<ModelView>> {
    let mut machine = KvMachine::open(ModelStore::new(1 << 20)).unwrap();
    let mut own = record(GROUP, replica, 3);
    own.pieces = TabletId(tablet).into();
    machine.bootstrap(&[own], &[]).unwrap();
    let mut stage = ApplyStage::new(machine);
    for entries in log().chunks(batch) {
        let batch = ApplyBatch {
            entries: entries.to_vec(),
            ..ApplyBatch::default()
        };
        stage.gather(0, batch);
        stage.run().unwrap();
    }
    stage.take_marked()
}

fn digest(snapshot: &KvSnapshot<ModelView>, step_bytes: u64) -> Digest {
    let mut work = Work::new(snapshot);
    loop {
        if let Some(digest) = work.advance(snapshot, step_bytes).unwrap() {
            return digest;
        }
    }
}

#[test]
fn a_mark_pins_what_stands_before_it_whatever_follows_in_the_same_batch() {
    for batch in 1..=6 {
        let pinned = pinned(1, 9, batch);
        let indexes: Vec<_> = pinned.iter().map(|one| one.applied().0).collect();
        assert_eq!(indexes, [3, 5], "in batches of {batch}");
        let rows = page(&pinned[0], None, 1 << 20).unwrap().rows;
        let expected = [("a", "1"), ("b", "2")].map(|(k, v)| (k.into(), v.into()));
        assert_eq!(rows, expected, "in batches of {batch}");
    }
}

#[test]
fn replicas_come_to_the_same_and_other_states_do_not() {
    let first = pinned(1, 9, 6);
    let second = pinned(2, 300, 2);
    for (one, other) in first.iter().zip(&second) {
        let (one, other) = (digest(one, 1), digest(other, 1 << 20));
        assert_eq!(one.replica, ReplicaId(1));
        assert_eq!(
            (one.hash, one.rows, one.bytes),
            (other.hash, other.rows, other.bytes)
        );
    }
    assert_ne!(digest(&first[0], 1).hash, digest(&first[1], 1).hash);
}

#[test]
fn pages_go_on_behind_a_key() {
    let states = pinned(1, 9, 6);
    let first = page(&states[1], None, 1).unwrap();
    assert_eq!(
        (&first.rows[..], first.more),
        (&[("a".into(), "4".into())][..], true)
    );
    let second = page(&states[1], Some(b"a"), 1).unwrap();
    assert_eq!(
        (&second.rows[..], second.more),
        (&[("b".into(), "2".into())][..], false)
    );
}

#[test]
fn what_nobody_asks_for_is_let_go_and_its_digest_stays_known() {
    let mut held = HeldStates::new(Duration::from_secs(60), u64::MAX);
    let start = Instant::from_nanos(1);
    let [first, second] = pinned(1, 9, 6)
        .try_into()
        .unwrap_or_else(|_| panic!("two marks"));
    held.hold(first, start);
    held.hold(second, start);
    let (state, work) = held.digest(GROUP, LogIndex(3), start);
    assert_eq!(state, DigestState::Underway);
    assert_eq!(work.unwrap().place(), (GROUP, LogIndex(3)));
    let known = DigestState::Known(digest(&held.peek(GROUP, LogIndex(3)).unwrap(), 100));
    let after = |seconds| start + Duration::from_secs(seconds);
    let (state, work) = held.digest(GROUP, LogIndex(3), after(20));
    assert_eq!(state, DigestState::Underway);
    assert!(work.is_none(), "it is computed once");
    assert!(held.state(GROUP, LogIndex(5), after(50)).is_ok());
    assert!(held.let_go(after(70)).is_empty(), "both were asked for");
    held.note(GROUP, LogIndex(3), known);
    assert_eq!(held.let_go(after(90)).len(), 1);
    assert!(held.state(GROUP, LogIndex(3), start).is_err());
    assert!(
        held.state(GROUP, LogIndex(5), start).is_ok(),
        "it was asked for later"
    );
    assert_eq!(held.digest(GROUP, LogIndex(3), start).0, known);
    assert_eq!(
        held.digest(GROUP, LogIndex(4), start).0,
        DigestState::NotHeld
    );
}

#[test]
fn a_bounded_number_of_states_is_held() {
    let mut held = HeldStates::new(Duration::from_secs(60), u64::MAX);
    let pinned = pinned(1, 9, 6);
    // One replica's state under ever other names: as many groups as nobody may hold.
    let mut machine = KvMachine::open(ModelStore::new(1 << 20)).unwrap();
    for group in 2..400 {
        machine
            .bootstrap(&[record(GroupId(group), 1, 3)], &[])
            .unwrap();
        let now = Instant::from_nanos(group);
        held.hold(machine.snapshot(GroupId(group)).unwrap(), now);
    }
    held.hold(pinned[0].clone(), Instant::from_nanos(400));
    let now = Instant::from_nanos(500);
    let mut count = 0;
    for group in 2..400 {
        count += usize::from(held.state(GroupId(group), LogIndex(0), now).is_ok());
    }
    assert_eq!(count, 255, "and the one that came last");
    assert!(
        held.state(GroupId(2), LogIndex(0), now).is_err(),
        "the oldest goes first"
    );
}

#[test]
fn states_that_keep_too_much_memory_are_given_up_the_oldest_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = LsmStore::open(dir.path(), LsmSettings::default()).unwrap();
    let mut machine = KvMachine::open(store).unwrap();
    machine.bootstrap(&[record(GROUP, 1, 3)], &[]).unwrap();
    let now = Instant::from_nanos(1);
    let mut held = HeldStates::new(Duration::from_secs(60), 3_000);
    let mut index = 0;
    // A state in a memtable of about 1,000 bytes of its own, flushed behind it if so wished.
    let mut hold = |held: &mut HeldStates<_>, flush| {
        index += 1;
        let entry = put(index, b"key", &[0; 1_000]);
        machine.apply(&[entry], &mut Vec::new()).unwrap();
        held.hold(machine.snapshot(GROUP).unwrap(), now);
        if flush {
            machine.store_mut().flush().unwrap();
        }
    };
    for _ in 0..2 {
        hold(&mut held, true);
    }
    // Two in one memtable keep it once.
    hold(&mut held, false);
    hold(&mut held, true);
    let (state, work) = held.digest(GROUP, LogIndex(1), now);
    assert!(state == DigestState::Underway && work.is_some());
    let before = held.stats();
    assert_eq!((before.states, before.given_up), (4, 0));
    assert!((4_000..6_000).contains(&before.kept_bytes), "{before:?}");
    // A state whose memtable the store has, too, keeps nothing.
    hold(&mut held, false);
    assert_eq!(held.stats().kept_bytes, before.kept_bytes);
    // One has served.
    let known = DigestState::Known(Digest {
        replica: ReplicaId(1),
        hash: 1,
        rows: 1,
        bytes: 1,
    });
    held.note(GROUP, LogIndex(2), known);

    let gone: Vec<_> = held.let_go(now).iter().map(|one| one.applied().0).collect();
    assert_eq!(gone, [2, 1]);
    let after = held.stats();
    assert_eq!((after.states, after.given_up), (3, 1), "one is missed");
    assert_eq!(held.digest(GROUP, LogIndex(2), now).0, known);
    assert!(after.kept_bytes <= 3_000, "{after:?}");
    let (state, work) = held.digest(GROUP, LogIndex(1), now);
    assert!(state == DigestState::GivenUp && work.is_none());
    let why = held.state(GROUP, LogIndex(1), now).err().unwrap();
    assert!(why.contains("given up"), "{why}");
    assert!(held.state(GROUP, LogIndex(5), now).is_ok());
    // Whoever was to compute it hears of it and changes nothing.
    held.forget(GROUP, LogIndex(1));
    assert_eq!(held.digest(GROUP, LogIndex(1), now).0, DigestState::GivenUp);
}
