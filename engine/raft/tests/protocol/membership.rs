//! Members: what a configuration means for quorums, and how it changes (scenarios M1-M6).

use crate::harness::{Cluster, ELECTION, Fate, HEARTBEAT, Kind, Options, index};
use pontoon_raft::{ConfChangeRefusal, ProposeError, Role};
use pontoon_types::{
    ConfChange, ConfChangeError, ConfState, LogPosition, MemberChange, ReplicaId, Term, Transition,
};

fn ids(list: &[u64]) -> Vec<ReplicaId> {
    list.iter().copied().map(ReplicaId).collect()
}

/// Replicas 1 to 4 in the middle of replacing 1 by 4.
fn joint(leader: u64) -> Cluster {
    let conf = ConfState {
        voters: ids(&[2, 3, 4]),
        outgoing: ids(&[1, 2, 3]),
        ..ConfState::default()
    };
    let mut cluster = Cluster::default();
    for id in 1..=4 {
        cluster.add(id, Options::members(conf.clone()));
    }
    cluster.campaign(leader);
    cluster.settle();
    assert_eq!(cluster.leaders(), [leader]);
    cluster
}

#[test]
fn a_joint_configuration_commits_only_with_both_majorities() {
    for (leader, live, commits) in [
        (1, &[1u64, 2, 4][..], true),
        (1, &[1, 2, 3], true),
        (1, &[1, 2], false),
        (4, &[3, 4], false),
        (4, &[2, 3, 4], true),
    ] {
        let mut cluster = joint(leader);
        for id in (1..=4).filter(|id| !live.contains(id)) {
            cluster.isolate(id);
        }
        cluster.propose(leader).unwrap();
        cluster.advance(HEARTBEAT);
        let expected = if commits { 2 } else { 1 };
        let commit = cluster.raft(leader).commit();
        assert_eq!(commit, index(expected), "{live:?}");
    }
}

#[test]
fn a_joint_configuration_elects_only_with_both_majorities() {
    for (live, wins) in [(&[3u64, 4][..], false), (&[2, 3, 4], true)] {
        let mut cluster = joint(1);
        for id in (1..=4).filter(|id| !live.contains(id)) {
            cluster.isolate(id);
        }
        cluster.campaign(3);
        cluster.settle();
        let role = cluster.raft(3).role();
        assert_eq!(role == Role::Leader, wins, "{live:?}");
    }
}

#[test]
fn a_learner_gets_the_log_and_counts_for_nothing() {
    let conf = ConfState {
        learners: ids(&[3]),
        ..ConfState::of_voters(ids(&[1, 2]))
    };
    let mut cluster = Cluster::default();
    for id in 1..=3 {
        cluster.add(id, Options::members(conf.clone()));
    }
    cluster.campaign(1);
    cluster.advance(HEARTBEAT);
    assert_eq!(cluster.commits(), [1, 1, 1]);
    cluster.isolate(2);
    cluster.propose(1).unwrap();
    cluster.settle();
    assert_eq!(cluster.raft(3).last_position().index, index(2));
    assert_eq!(
        cluster.raft(1).commit(),
        index(1),
        "a learner is no majority"
    );
    cluster.isolate(3);
    assert_eq!(cluster.raft(3).next_deadline(), None);
    cluster.campaign(3);
    cluster.advance(ELECTION * 5);
    assert_eq!(cluster.raft(3).role(), Role::Follower);
    assert_eq!(cluster.raft(3).term(), Term(1));
}

fn add_voter(id: u64) -> ConfChange {
    ConfChange::one(MemberChange::AddVoter(ReplicaId(id)))
}

fn remove(id: u64) -> ConfChange {
    ConfChange::one(MemberChange::Remove(ReplicaId(id)))
}

fn refusal(proposed: Result<LogPosition, ProposeError>) -> ConfChangeRefusal {
    match proposed {
        Err(ProposeError::ConfChange(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// A replica that has yet to learn who the members are.
fn blank() -> Options {
    Options::members(ConfState::default())
}

fn led(voters: u64) -> Cluster {
    let mut cluster = Cluster::fresh(voters);
    cluster.campaign(1);
    cluster.settle();
    cluster
}

#[test]
fn m1_a_replica_that_knows_nothing_joins_by_a_snapshot_and_then_counts() {
    let mut cluster = led(1);
    cluster.add(2, blank());
    cluster.propose(1).unwrap();
    cluster.propose_conf_change(1, &add_voter(2)).unwrap();
    cluster.advance(HEARTBEAT * 3);
    assert_eq!(
        cluster.raft(1).conf_state(),
        &ConfState::of_voters(ids(&[1, 2]))
    );
    assert_eq!(cluster.raft(2).conf_state(), cluster.raft(1).conf_state());
    assert_eq!(cluster.node(2).memory.state, cluster.node(1).memory.state);
    assert_eq!(cluster.delivered(Kind::InstallSnapshot, 1, 2), 1);
    cluster.isolate(2);
    let alone = cluster.propose(1).unwrap();
    cluster.advance(HEARTBEAT * 3);
    assert!(cluster.raft(1).commit() < alone.index, "a quorum is two");
}

#[test]
fn m2_one_change_at_a_time() {
    let mut cluster = led(3);
    cluster.nodes.get_mut(&1).unwrap().apply_held = true;
    let first = cluster.propose_conf_change(1, &remove(3)).unwrap();
    let pending = ConfChangeRefusal::Pending { index: first.index };
    assert_eq!(refusal(cluster.propose_conf_change(1, &remove(2))), pending);
    cluster.settle();
    // Committed, and applied by others, but not by the leader.
    assert_eq!(refusal(cluster.propose_conf_change(1, &remove(2))), pending);
    cluster.nodes.get_mut(&1).unwrap().apply_held = false;
    cluster.nodes.get_mut(&1).unwrap().acknowledge_applied();
    cluster.propose_conf_change(1, &remove(2)).unwrap();
    cluster.settle();
    assert_eq!(
        cluster.raft(1).conf_state(),
        &ConfState::of_voters(ids(&[1]))
    );
    let invalid = ConfChangeRefusal::Invalid(ConfChangeError::NotJoint);
    assert_eq!(
        refusal(cluster.propose_conf_change(1, &ConfChange::leave())),
        invalid
    );
}

#[test]
fn m2_a_joint_configuration_is_left_before_anything_else_changes() {
    let mut cluster = led(3);
    let swap = [
        MemberChange::Remove(ReplicaId(3)),
        MemberChange::AddLearner(ReplicaId(2)),
    ];
    let change = ConfChange::of(swap, Transition::JointExplicit);
    cluster.propose_conf_change(1, &change).unwrap();
    cluster.settle();
    assert!(cluster.raft(1).conf_state().is_joint());
    let joint = ConfChangeRefusal::Invalid(ConfChangeError::Joint);
    assert_eq!(
        refusal(cluster.propose_conf_change(1, &add_voter(2))),
        joint
    );
    cluster
        .propose_conf_change(1, &ConfChange::leave())
        .unwrap();
    cluster.settle();
    let conf = cluster.raft(1).conf_state();
    assert_eq!((&conf.voters, &conf.learners), (&ids(&[1]), &ids(&[2])));
    assert!(!conf.is_joint());
}

#[test]
fn a_joint_configuration_is_left_by_itself_by_whoever_leads() {
    let mut cluster = led(3);
    cluster.add(4, blank());
    let swap = [
        MemberChange::Remove(ReplicaId(1)),
        MemberChange::AddVoter(ReplicaId(4)),
    ];
    // The leader dies as soon as the others know of the change.
    cluster
        .propose_conf_change(1, &ConfChange::of(swap, Transition::Auto))
        .unwrap();
    cluster.process(1);
    cluster.deliver_all();
    cluster.crash(1, 0);
    cluster.campaign(2);
    cluster.advance(HEARTBEAT * 5);
    for id in 2..=4 {
        assert_eq!(
            cluster.raft(id).conf_state(),
            &ConfState::of_voters(ids(&[2, 3, 4]))
        );
    }
}

#[test]
fn m4_a_leader_that_removes_itself_does_not_count_itself_and_is_replaced() {
    let mut cluster = led(3);
    cluster.isolate(3);
    cluster.propose_conf_change(1, &remove(1)).unwrap();
    cluster.process(1);
    cluster.deliver_all();
    let bar = cluster.propose(1).unwrap();
    cluster.settle();
    assert!(cluster.raft(2).commit() < bar.index, "1 counted itself");
    assert_eq!(cluster.raft(1).role(), Role::Follower);
    assert!(matches!(
        cluster.propose(1),
        Err(ProposeError::NotLeader { .. })
    ));
    assert_eq!(cluster.raft(1).next_deadline(), None);
    cluster.campaign(1);
    assert_eq!(cluster.raft(1).role(), Role::Follower);
    cluster.heal();
    cluster.advance(ELECTION * 5);
    assert!(cluster.raft(2).commit() > bar.index);
    let leader = cluster.leader().unwrap();
    assert_eq!(
        cluster.raft(leader).conf_state(),
        &ConfState::of_voters(ids(&[2, 3]))
    );
}

#[test]
fn who_is_removed_hears_of_it_and_neither_campaigns_nor_is_needed() {
    for removed in [1, 2] {
        let mut cluster = led(2);
        cluster.propose_conf_change(1, &remove(removed)).unwrap();
        cluster.settle();
        let left = 3 - removed;
        // Nobody asks it any more, and it knows.
        let alone = ConfState::of_voters(ids(&[left]));
        assert_eq!(cluster.raft(removed).conf_state(), &alone);
        assert_eq!(cluster.raft(removed).next_deadline(), None);
        cluster.isolate(removed);
        cluster.advance(ELECTION * 3);
        assert_eq!(cluster.leaders(), [left]);
        cluster.propose(left).unwrap();
        cluster.settle();
        assert!(cluster.raft(left).is_idle());
    }
}

#[test]
fn m5_a_learner_votes_for_who_knows_that_it_may() {
    let conf = ConfState {
        learners: ids(&[3]),
        ..ConfState::of_voters(ids(&[1, 2]))
    };
    let mut cluster = Cluster::default();
    for id in 1..=3 {
        cluster.add(id, Options::members(conf.clone()));
    }
    cluster.campaign(1);
    cluster.settle();
    cluster.isolate(3);
    cluster.propose_conf_change(1, &add_voter(3)).unwrap();
    cluster.settle();
    cluster.advance(HEARTBEAT);
    assert!(!cluster.raft(3).conf_state().is_voter(ReplicaId(3)));
    cluster.heal();
    cluster.isolate(1);
    cluster.campaign(2);
    cluster.settle();
    assert_eq!(cluster.raft(2).role(), Role::Leader);
    assert_eq!(cluster.raft(2).term(), Term(2));
    cluster.advance(HEARTBEAT);
    assert_eq!(
        cluster.raft(3).conf_state(),
        &ConfState::of_voters(ids(&[1, 2, 3]))
    );
}

#[test]
fn m6_no_change_before_an_entry_of_the_own_term_is_committed() {
    // Without these two a removed replica that has not heard of it disturbs the others for ever.
    let mut cluster = Cluster::with(4, |options| options.pre_vote(true).check_quorum(true));
    cluster.campaign(1);
    cluster.settle();
    cluster.add(5, Options::voters(1..=4));
    cluster.advance(HEARTBEAT);
    // 1 appends the change, for itself and the new one.
    for id in 2..=4 {
        cluster.cut(1, id);
    }
    cluster.propose_conf_change(1, &add_voter(5)).unwrap();
    cluster.rule(None, None, Some(Kind::AppendResponse), Fate::Hold);
    cluster.advance(ELECTION * 3);
    assert_eq!(cluster.raft(2).role(), Role::Leader);
    let early = ConfChangeRefusal::TermNotCommitted { term: Term(2) };
    assert_eq!(refusal(cluster.propose_conf_change(2, &remove(1))), early);
    cluster.heal();
    for id in 2..=4 {
        cluster.cut(1, id);
    }
    cluster.release();
    cluster.settle();
    cluster.propose_conf_change(2, &remove(1)).unwrap();
    cluster.settle();
    assert_eq!(
        cluster.raft(2).conf_state(),
        &ConfState::of_voters(ids(&[2, 3, 4]))
    );
    cluster.heal();
    cluster.campaign(1);
    cluster.advance(ELECTION * 5);
    assert_eq!(cluster.leaders().len(), 1);
    assert_ne!(cluster.leaders(), [1]);
}

#[test]
fn nobody_campaigns_with_a_committed_change_to_apply() {
    let mut cluster = led(3);
    cluster.nodes.get_mut(&2).unwrap().apply_held = true;
    cluster.propose_conf_change(1, &add_voter(4)).unwrap();
    cluster.settle();
    cluster.advance(HEARTBEAT);
    assert_eq!(
        cluster.raft(2).conf_state(),
        &ConfState::of_voters(ids(&[1, 2, 3]))
    );
    cluster.campaign(2);
    assert_eq!(cluster.raft(2).role(), Role::Follower);
    assert_eq!(cluster.terms(), [1, 1, 1]);
    // It does once it has.
    cluster.nodes.get_mut(&2).unwrap().acknowledge_applied();
    assert_eq!(cluster.raft(2).role(), Role::Candidate);
    // Also after a restart, when nobody has looked at what is in the log.
    cluster.crash(3, 0);
    cluster.restart(3);
    cluster.campaign(3);
    assert_eq!(cluster.raft(3).role(), Role::Follower);
    cluster.process(3);
    assert_eq!(cluster.raft(3).role(), Role::Candidate);
}

#[test]
fn who_lost_its_leader_to_a_demotion_learns_of_it_from_the_refusal_of_a_vote() {
    let mut cluster = led(2);
    let demote = ConfChange::one(MemberChange::AddLearner(ReplicaId(1)));
    cluster.propose_conf_change(1, &demote).unwrap();
    cluster.process(1);
    cluster.deliver_all();
    // 2 holds the change and not what follows it, and does not hear how far it is committed.
    cluster.rule(Some(1), Some(2), None, Fate::Drop);
    cluster.propose(1).unwrap();
    cluster.settle();
    assert!(!cluster.raft(1).conf_state().is_voter(ReplicaId(1)));
    assert_eq!(cluster.raft(1).role(), Role::Follower);
    assert!(cluster.raft(2).conf_state().is_voter(ReplicaId(1)));
    assert!(cluster.raft(1).last_position() > cluster.raft(2).last_position());
    cluster.heal();
    cluster.advance(ELECTION * 3);
    assert_eq!(cluster.leaders(), [2]);
    assert_eq!(cluster.raft(1).conf_state(), cluster.raft(2).conf_state());
    assert_eq!(
        cluster.raft(1).last_position(),
        cluster.raft(2).last_position()
    );
}

#[test]
fn a_new_member_is_spoken_to_at_once_and_nobody_is_deposed_for_its_silence() {
    let mut cluster = Cluster::with(1, |options| options.check_quorum(true));
    cluster.campaign(1);
    cluster.advance(ELECTION * 3);
    cluster.propose_conf_change(1, &add_voter(2)).unwrap();
    cluster.advance(HEARTBEAT);
    assert_eq!(cluster.raft(1).role(), Role::Leader);
    let mut cluster = led(3);
    cluster.add(4, blank());
    let learner = ConfChange::one(MemberChange::AddLearner(ReplicaId(4)));
    cluster.propose_conf_change(1, &learner).unwrap();
    // No time passes.
    cluster.settle();
    let last = cluster.raft(1).last_position();
    assert_eq!(cluster.raft(4).last_position(), last);
}

#[test]
fn what_fewer_can_commit_is_committed_when_there_are_fewer() {
    let mut cluster = led(2);
    cluster.propose_conf_change(1, &remove(2)).unwrap();
    cluster.process(1);
    cluster.deliver_all();
    cluster.process(2);
    // The answer is on its way, and nothing comes from 2 after it.
    let written = cluster.propose(1).unwrap();
    cluster.rule(Some(1), Some(2), None, Fate::Drop);
    cluster.process(1);
    cluster.settle();
    assert_eq!(cluster.raft(1).commit(), written.index);
}

#[test]
fn changes_pass_when_proposals_are_too_many() {
    let mut cluster = Cluster::with(3, |mut options| {
        options.config.max_uncommitted_bytes = 100;
        options
    });
    cluster.campaign(1);
    cluster.settle();
    cluster.isolate(1);
    while cluster.propose(1).is_ok() {}
    cluster.propose_conf_change(1, &remove(3)).unwrap();
}
