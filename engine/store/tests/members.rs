//! The members in a replica's record move with the log, and with nothing else.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod common;

use common::*;
use pontoon_store::{KvMachine, Outcome, Store};
use pontoon_types::{
    ConfChange, ConfState, Entry, EntryKind, GroupId, MemberChange, Members, NodeId, ReplicaId,
    Transition,
};

fn change(index: u64, change: &ConfChange) -> Entry {
    let mut payload = Vec::new();
    change.encode(&mut payload);
    entry(1, index, EntryKind::ConfChange, &payload)
}

/// Replica 4, on node 9, takes the place of replica 1.
fn swap() -> ConfChange {
    let changes = [
        MemberChange::AddVoter(ReplicaId(4)),
        MemberChange::Remove(ReplicaId(1)),
    ];
    ConfChange::of(changes, Transition::Auto).with_nodes([(ReplicaId(4), NodeId(9))])
}

fn voters<S: Store>(machine: &KvMachine<S>) -> Vec<u64> {
    let record = machine.replica(GroupId(1)).unwrap();
    record.conf_state.voters.iter().map(|id| id.0).collect()
}

fn the_record_is_that_of_the_applied_index_also_after_a_crash<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 1);
    let before = machine.replica(GroupId(1)).unwrap().clone();
    let reader = machine.reader();

    apply(&mut machine, &[put(1, 1, "1a", "x"), change(2, &swap())]);
    let joint = machine.replica(GroupId(1)).unwrap().clone();
    assert!(joint.conf_state.is_joint());
    assert_eq!(joint.members.node_of(ReplicaId(4)), Some(NodeId(9)));
    assert_eq!(joint.members.next_replica(), ReplicaId(5));
    assert_eq!(joint.epoch.membership, before.epoch.membership + 1);
    assert_eq!(joint.epoch.range, before.epoch.range);
    machine.store_mut().flush().unwrap();

    let left = apply(&mut machine, &[change(3, &ConfChange::leave())]);
    let expected = ConfState::of_voters([2, 3, 4].map(ReplicaId));
    assert_eq!(left, [Outcome::MembersChanged(expected)]);
    // Not flushed: a crash takes it back together with the applied index, and replay makes it again.
    let mut machine = reopen(&mut harness, machine);
    assert_eq!(machine.replica(GroupId(1)), Some(&joint));
    apply(&mut machine, &[change(3, &ConfChange::leave())]);
    assert_eq!(voters(&machine), [2, 3, 4]);
    // A reader is of the version that it pinned.
    drop(reader);
    machine.store_mut().flush().unwrap();
    let machine = reopen(&mut harness, machine);
    assert_eq!(voters(&machine), [2, 3, 4]);
}

fn a_change_that_cannot_be_made_changes_nothing<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 1);
    let before = machine.replica(GroupId(1)).unwrap().clone();
    let outcomes = apply(
        &mut machine,
        &[
            change(1, &ConfChange::leave()),
            change(2, &ConfChange::one(MemberChange::Remove(ReplicaId(7)))),
            entry(1, 3, EntryKind::ConfChange, b"no change"),
        ],
    );
    let unchanged = Outcome::MembersUnchanged;
    assert_eq!(outcomes, [unchanged.clone(), unchanged, Outcome::Malformed]);
    assert_eq!(machine.replica(GroupId(1)), Some(&before));
}

fn a_failed_call_takes_the_change_back<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 1);
    let mut damaged = put(1, 2, "1a", "x").as_bytes().to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let damaged = Entry::decode_unverified(damaged.into()).unwrap();
    let mut outcomes = Vec::new();
    let entries = [change(1, &swap()), damaged];
    assert!(machine.apply(&entries, &mut outcomes).is_err());
    assert_eq!(voters(&machine), [1, 2, 3]);
    // It is made once, not twice, when the call is repeated.
    apply(&mut machine, &[change(1, &swap())]);
    assert_eq!(voters(&machine), [2, 3, 4]);
    assert!(machine.replica(GroupId(1)).unwrap().conf_state.is_joint());
}

fn a_forced_record_stands_with_the_rest_of_the_log_or_not_at_all<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 1);
    apply(&mut machine, &[put(1, 1, "1a", "x")]);
    let mut forced = machine.replica(GroupId(1)).unwrap().clone();
    forced.replica = ReplicaId(1005);
    forced.conf_state = ConfState::of_voters([ReplicaId(1005)]);
    forced.members = Members::new([(ReplicaId(1005), NodeId(1))]);
    let mut damaged = put(1, 4, "1a", "x").as_bytes().to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let damaged = Entry::decode_unverified(damaged.into()).unwrap();
    let rest = [put(1, 2, "1b", "y"), change(3, &swap()), damaged];
    assert!(machine.force(&rest, forced.clone()).is_err());
    assert_eq!(voters(&machine), [1, 2, 3]);
    assert_eq!(machine.applied(GroupId(1)).0, 1);

    // The change in what is left of the log does not stand: the forced record does, and without a flush by the caller.
    machine.force(&rest[..2], forced.clone()).unwrap();
    let store = harness.crash(machine.into_store());
    let machine = KvMachine::open(store).unwrap();
    assert_eq!(machine.replica(GroupId(1)), Some(&forced));
    assert_eq!(machine.applied(GroupId(1)).0, 3);
    let found: Vec<_> = rows(&machine.reader(), 1).into_keys().collect();
    assert_eq!(found, ["1a", "1b"]);
}

macro_rules! on_both_stores {
    ($($test:ident),* $(,)?) => {
        mod on_lsm { $(#[test] fn $test() { super::$test::<super::Lsm>(); })* }
        mod on_model { $(#[test] fn $test() { super::$test::<super::Model>(); })* }
    };
}

on_both_stores! {
    the_record_is_that_of_the_applied_index_also_after_a_crash,
    a_change_that_cannot_be_made_changes_nothing,
    a_failed_call_takes_the_change_back,
    a_forced_record_stands_with_the_rest_of_the_log_or_not_at_all,
}
