//! Scenarios S1-S4: snapshots, and how much of the log may go.

use crate::harness::{Cluster, ELECTION, HEARTBEAT, Kind, Options, index, message, position};
use pontoon_raft::{MessageBody, ProgressMode, Role, StepError};
use pontoon_types::{ConfChange, ConfState, LogPosition, MemberChange, ReplicaId, Term};

fn ids(list: &[u64]) -> Vec<ReplicaId> {
    list.iter().copied().map(ReplicaId).collect()
}

/// Three replicas, the third of which has missed all but the first three entries of ten, which the
/// leader has compacted away.
fn behind() -> Cluster {
    let mut cluster = Cluster::with(3, |options| options.pre_vote(true).check_quorum(true));
    cluster.campaign(1);
    cluster.settle();
    for written in 0..9 {
        if written == 2 {
            cluster.isolate(3);
        }
        cluster.propose(1).unwrap();
        cluster.settle();
    }
    cluster.compact(1, index(8));
    assert_eq!(cluster.raft(1).first_index(), index(9));
    cluster
}

fn mode(cluster: &Cluster, peer: u64) -> ProgressMode {
    cluster.raft(1).progress(ReplicaId(peer)).unwrap().mode
}

fn install(last: LogPosition, voters: &[u64]) -> MessageBody {
    MessageBody::InstallSnapshot {
        last,
        conf_state: Box::new(ConfState::of_voters(ids(voters))),
    }
}

#[test]
fn s1_who_is_behind_the_log_gets_one_snapshot_and_then_the_tail() {
    let mut cluster = behind();
    cluster.heal();
    cluster.nodes.get_mut(&1).unwrap().snapshots_held = true;
    cluster.advance(HEARTBEAT * 3);
    assert_eq!(mode(&cluster, 3), ProgressMode::Snapshot);
    assert_eq!(cluster.node(1).snapshots_asked, ids(&[3]), "asked once");
    cluster.take_snapshots(1);
    // It goes on while the snapshot is under way.
    cluster.propose(1).unwrap();
    cluster.advance(HEARTBEAT * 2);
    assert_eq!(mode(&cluster, 3), ProgressMode::Pipeline);
    assert_eq!(cluster.delivered(Kind::AppendRejected, 3, 1), 1);
    assert_eq!(cluster.delivered(Kind::InstallSnapshot, 1, 3), 1);
    assert_eq!(cluster.raft(3).first_index(), index(11));
    assert_eq!(cluster.commits(), [11, 11, 11]);
    assert_eq!(cluster.node(3).memory.state, cluster.node(1).memory.state);
}

#[test]
fn s2_a_snapshot_at_the_leaders_end_needs_no_further_proposal() {
    let mut cluster = behind();
    cluster.heal();
    cluster.advance(HEARTBEAT);
    let view = cluster.raft(1).progress(ReplicaId(3)).unwrap();
    assert_eq!(view.mode, ProgressMode::Pipeline);
    assert_eq!(view.matched, index(10));
    assert!(cluster.raft(1).is_idle());
    assert_eq!(cluster.raft(1).matched_by_all(), index(10));
}

#[test]
fn a_snapshot_is_acknowledged_when_it_is_durable_and_until_then_the_old_state_survives() {
    for (written, last, first) in [(0, 3, 1), (100, 10, 11)] {
        let mut cluster = behind();
        cluster.heal();
        cluster.nodes.get_mut(&3).unwrap().disk_held = true;
        cluster.advance(HEARTBEAT);
        let pending = &cluster.node(3).pending;
        let installs = pending
            .iter()
            .filter(|of| of.persist.snapshot.is_some() && of.persist.must_sync);
        assert_eq!(installs.count(), 1);
        assert_eq!(cluster.raft(3).commit(), index(10));
        assert_eq!(cluster.raft(3).applied(), index(3));
        let matched = cluster.raft(1).progress(ReplicaId(3)).unwrap().matched;
        assert_eq!(matched, index(3), "acknowledged before the sync");
        cluster.crash(3, written);
        cluster.restart(3);
        cluster.nodes.get_mut(&3).unwrap().disk_held = false;
        assert_eq!(cluster.raft(3).last_position().index, index(last));
        assert_eq!(cluster.raft(3).first_index(), index(first));
        cluster.advance(HEARTBEAT * 5);
        assert_eq!(cluster.commits(), [10, 10, 10]);
        assert_eq!(cluster.node(3).memory.state, cluster.node(1).memory.state);
    }
}

#[test]
fn s3_a_stale_snapshot_is_answered_with_what_is_committed() {
    let mut cluster = behind();
    cluster
        .step(message(1, 2, 1, install(position(1, 5), &[1, 2, 3])))
        .unwrap();
    cluster.take_outputs(2);
    let answer = cluster.network.pop().unwrap().body;
    let matched = cluster.raft(2).commit();
    assert_eq!(
        answer,
        MessageBody::AppendResponse {
            matched,
            read_round: 0
        }
    );
    assert_eq!(cluster.raft(2).first_index(), index(1));
    // One that contradicts what is committed is proof of a broken rule.
    let lie = message(1, 2, 2, install(position(2, 5), &[1, 2, 3]));
    let error = cluster.step(lie).unwrap_err();
    assert!(
        matches!(error, StepError::CommittedConflict { .. }),
        "{error}"
    );
}

#[test]
fn s3_what_follows_a_snapshot_that_the_log_holds_is_kept() {
    let mut cluster = Cluster::default();
    cluster
        .add_unchecked(
            1,
            Options::voters(1..=3)
                .log(&[1, 1, 1, 1])
                .hard_state(1, 0, 1),
        )
        .unwrap();
    cluster
        .add_unchecked(2, Options::voters(1..=3).log(&[1, 1, 1, 1]))
        .unwrap();
    cluster.add(3, Options::voters(1..=3));
    cluster.process(1);
    let held = install(position(1, 3), &[1, 2, 3]);
    cluster.step(message(2, 1, 1, held)).unwrap();
    assert_eq!(cluster.raft(1).commit(), index(3));
    assert_eq!(cluster.raft(1).last_position(), position(1, 4));
    assert_eq!(cluster.raft(1).first_index(), index(1));
}

#[test]
fn a_snapshot_replaces_a_log_that_contradicts_it() {
    let mut cluster = behind();
    // 3 takes entries of a leader that nobody else has seen.
    let entries = (4..=12).map(|at| {
        let (term, index) = (Term(2), index(at));
        let kind = pontoon_types::EntryKind::Command;
        pontoon_types::Entry::encode(pontoon_types::GroupId(1), term, index, kind, b"astray")
    });
    let astray = MessageBody::Append {
        previous: position(1, 3),
        commit: index(3),
        matched_by_all: index(0),
        read_round: 0,
        entries: entries.collect(),
    };
    cluster.nodes.get_mut(&3).unwrap().disk_held = true;
    cluster.step(message(2, 3, 2, astray)).unwrap();
    cluster.process(3);
    let snapshot = install(position(1, 10), &[1, 2, 3]);
    cluster.step(message(1, 3, 3, snapshot)).unwrap();
    cluster.process(3);
    assert_eq!(cluster.raft(3).first_index(), index(11));
    // The astray entries become durable first, and count for nothing.
    cluster.make_durable(3, 1);
    assert!(cluster.raft(3).durable() <= index(3));
    cluster.nodes.get_mut(&3).unwrap().disk_held = false;
    cluster.network.clear();
    cluster.heal();
    cluster.advance(ELECTION * 5);
    assert_eq!(cluster.node(3).memory.state, cluster.node(1).memory.state);
    assert_eq!(cluster.raft(3).durable(), cluster.raft(1).commit());
}

#[test]
fn s4_the_members_come_with_the_snapshot() {
    let joint = ConfState {
        voters: ids(&[1, 2, 3]),
        outgoing: ids(&[1, 2, 4]),
        learners: ids(&[5]),
        ..ConfState::default()
    };
    let mut cluster = Cluster::default();
    for id in 1..=4 {
        cluster.add(id, Options::members(joint.clone()));
    }
    cluster.add(5, Options::members(ConfState::default()));
    cluster.campaign(1);
    cluster.settle();
    cluster.advance(HEARTBEAT * 3);
    assert_eq!(cluster.raft(5).conf_state(), &joint);
    for _ in 0..2 {
        assert_eq!(cluster.raft(5).next_deadline(), None);
        cluster.campaign(5);
        assert_eq!(cluster.raft(5).role(), Role::Follower);
        cluster.crash(5, 0);
        cluster.restart(5);
        assert_eq!(cluster.raft(5).conf_state(), &joint);
    }
}

#[test]
fn a_change_that_a_snapshot_overtakes_is_not_made_on_top_of_it() {
    let mut cluster = Cluster::fresh(3);
    cluster.campaign(1);
    cluster.settle();
    cluster.nodes.get_mut(&3).unwrap().apply_held = true;
    let four = ReplicaId(4);
    for change in [MemberChange::AddLearner(four), MemberChange::Remove(four)] {
        let change = ConfChange::one(change);
        cluster.propose_conf_change(1, &change).unwrap();
        // 3 is handed the first, and misses the second.
        cluster.advance(HEARTBEAT);
        cluster.isolate(3);
    }
    assert!(cluster.node(3).memory.conf_state.is_member(four));
    assert!(
        !cluster.raft(3).conf_state().is_member(four),
        "applied early"
    );
    cluster.compact(1, index(3));
    cluster.heal();
    cluster.advance(HEARTBEAT * 2);
    cluster.nodes.get_mut(&3).unwrap().apply_held = false;
    cluster.settle();
    cluster.nodes.get_mut(&3).unwrap().acknowledge_applied();
    assert_eq!(cluster.raft(3).applied(), index(3));
    assert!(!cluster.raft(3).conf_state().is_member(four));
}

#[test]
fn a_broken_off_snapshot_is_asked_for_again_but_not_at_once() {
    let mut cluster = behind();
    cluster.heal();
    cluster.drop_kind(1, 3, Kind::InstallSnapshot);
    cluster.nodes.get_mut(&1).unwrap().snapshots_held = true;
    cluster.advance(HEARTBEAT * 2);
    assert_eq!(cluster.node(1).snapshots_asked, ids(&[3]));
    cluster.take_snapshots(1);
    cluster.settle();
    assert!(cluster.node(1).snapshots_asked.is_empty(), "no waiting");
    cluster.advance(HEARTBEAT * 2);
    assert_eq!(cluster.node(1).snapshots_asked, ids(&[3]));
    cluster.heal();
    cluster.take_snapshots(1);
    cluster.advance(HEARTBEAT * 2);
    assert_eq!(mode(&cluster, 3), ProgressMode::Pipeline);
}

#[test]
fn nobody_takes_a_snapshot_for_who_is_not_there() {
    let mut cluster = behind();
    cluster.heal();
    cluster.nodes.get_mut(&1).unwrap().snapshots_held = true;
    cluster.advance(HEARTBEAT * 2);
    cluster.isolate(3);
    cluster.take_snapshots(1);
    // What it was heard of before is forgotten when the leader next checks its quorum.
    cluster.advance(ELECTION * 2);
    cluster.take_snapshots(1);
    cluster.advance(ELECTION);
    assert_eq!(mode(&cluster, 3), ProgressMode::Snapshot);
    assert!(cluster.node(1).snapshots_asked.is_empty());
    cluster.heal();
    cluster.advance(HEARTBEAT * 2);
    assert_eq!(cluster.node(1).snapshots_asked, ids(&[3]));
}

#[test]
fn the_log_keeps_a_tail_and_what_peers_nearly_have() {
    let mut cluster = Cluster::fresh(3);
    cluster.campaign(1);
    cluster.settle();
    for written in 0..19 {
        if written == 9 {
            cluster.isolate(3);
        }
        cluster.propose(1).unwrap();
        cluster.settle();
    }
    assert_eq!(cluster.raft(1).matched_by_all(), index(10));
    // 3 holds 10 of 20: waited for within four tails, and not beyond.
    assert_eq!(cluster.raft(1).compactable(3), index(10));
    cluster.heal();
    cluster.advance(HEARTBEAT);
    assert_eq!(cluster.raft(1).compactable(3), index(20));
    cluster.isolate(3);
    for _ in 0..20 {
        cluster.propose(1).unwrap();
        cluster.settle();
    }
    assert_eq!(cluster.raft(1).compactable(3), index(37));
    assert_eq!(cluster.raft(1).compactable(5), index(20));
    // A follower knows of nobody's progress and keeps the tail.
    cluster.advance(HEARTBEAT);
    assert_eq!(cluster.raft(2).compactable(3), index(37));
    assert_eq!(cluster.raft(2).compactable(100), index(20));
    // While a snapshot is under way, what follows it stays.
    cluster.compact(1, index(37));
    cluster.heal();
    cluster.rule(
        Some(1),
        Some(3),
        Some(Kind::InstallSnapshot),
        crate::harness::Fate::Hold,
    );
    cluster.advance(HEARTBEAT * 2);
    assert_eq!(mode(&cluster, 3), ProgressMode::Snapshot);
    for _ in 0..9 {
        cluster.propose(1).unwrap();
        cluster.settle();
    }
    assert_eq!(cluster.raft(1).compactable(3), index(40));
}
