//! What a configuration means for quorums, as far as members do not change: joint ones, and learners.

use crate::harness::{Cluster, ELECTION, HEARTBEAT, Options, index};
use pontoon_raft::Role;
use pontoon_types::{ConfState, ReplicaId, Term};

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
