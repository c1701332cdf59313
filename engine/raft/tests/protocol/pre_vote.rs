//! Scenarios P1-P4: pre-vote, stickiness, and leaders that lose their quorum.

use crate::harness::{Cluster, ELECTION, Fate, HEARTBEAT, Kind};
use pontoon_raft::{ProposeError, ReadError, Role};
use pontoon_types::{ReplicaId, Term};

#[test]
fn p1_an_isolated_replica_inflates_its_term_only_without_pre_vote() {
    for pre_vote in [true, false] {
        let mut cluster = Cluster::with(3, |options| options.pre_vote(pre_vote));
        cluster.campaign(1);
        cluster.settle();
        cluster.isolate(3);
        cluster.propose(1).unwrap();
        cluster.advance(ELECTION * 20);
        let term = cluster.raft(3).term();
        cluster.heal();
        cluster.advance(HEARTBEAT * 2);
        if pre_vote {
            assert_eq!(term, Term(1));
            assert_eq!(cluster.terms(), [1, 1, 1]);
            assert_eq!(cluster.leaders(), [1]);
            assert_eq!(cluster.commits(), [2, 2, 2]);
        } else {
            assert!(term > Term(5));
            cluster.advance(ELECTION * 3);
            assert!(cluster.raft(1).term() >= term, "the leader is deposed");
        }
    }
}

#[test]
fn p2_a_pre_candidate_that_lags_raises_no_term() {
    let mut cluster = Cluster::with(3, |options| options.pre_vote(true));
    cluster.campaign(1);
    cluster.settle();
    cluster.isolate(3);
    cluster.propose(1).unwrap();
    cluster.settle();
    cluster.heal();
    cluster.campaign(3);
    cluster.process(3);
    cluster.deliver_all();
    cluster.settle();
    assert_eq!(cluster.terms(), [1, 1, 1]);
    assert_eq!(cluster.leaders(), [1]);
    cluster.campaign(2);
    cluster.settle();
    assert_eq!(cluster.leaders(), [2]);
    assert_eq!(cluster.terms(), [2, 2, 2]);
}

#[test]
fn p3_voters_that_hear_their_leader_refuse_others_until_they_do_not() {
    for pre_vote in [true, false] {
        let protect =
            |options: crate::harness::Options| options.pre_vote(pre_vote).check_quorum(true);
        let mut cluster = Cluster::with(3, protect);
        cluster.campaign(1);
        cluster.advance(HEARTBEAT);
        cluster.campaign(3);
        cluster.settle();
        assert_eq!(cluster.leaders(), [1]);
        assert_eq!(cluster.raft(1).leader(), Some(ReplicaId(1)));
        assert_eq!(cluster.raft(2).term(), Term(1));
        if pre_vote {
            assert_eq!(cluster.terms(), [1, 1, 1]);
        } else {
            // Its higher term reaches the leader with the answer to a Heartbeat.
            continue;
        }
        // Voter 2 hears nothing of its leader for E, but does not campaign itself.
        cluster.rule(Some(1), Some(2), None, Fate::Drop);
        let before = cluster.now;
        cluster.advance(ELECTION);
        assert_eq!(cluster.now - before, ELECTION);
        cluster.campaign(3);
        cluster.settle();
        cluster.heal();
        cluster.advance(HEARTBEAT);
        assert_eq!(cluster.leaders(), [3]);
        assert_eq!(cluster.terms(), [2, 2, 2]);
    }
}

#[test]
fn p4_a_leader_without_a_quorum_steps_down_in_its_term() {
    let mut cluster = Cluster::with(3, |options| options.check_quorum(true).pre_vote(true));
    cluster.campaign(1);
    cluster.advance(ELECTION);
    cluster.rule(Some(1), None, Some(Kind::Heartbeat), Fate::Hold);
    cluster.rule(None, Some(1), None, Fate::Drop);
    cluster.read_index(1, 7).unwrap();
    cluster.settle();
    // Two whole intervals: in the first, answers were still seen.
    while cluster.raft(1).role() == Role::Leader {
        assert!(cluster.now < pontoon_types::Instant::ZERO + ELECTION * 4);
        cluster.advance(HEARTBEAT);
    }
    assert_eq!(cluster.raft(1).term(), Term(1));
    assert_eq!(cluster.node(1).refused, [7]);
    assert!(matches!(
        cluster.propose(1),
        Err(ProposeError::NotLeader { .. })
    ));
    assert!(matches!(
        cluster.read_index(1, 8),
        Err(ReadError::NotLeader { .. })
    ));
    // Others elect somebody; then the old Heartbeats come.
    cluster.advance(ELECTION * 3);
    let (leader, term) = (cluster.leader().unwrap(), cluster.raft(2).term());
    assert!(leader != 1 && term > Term(1));
    cluster.release();
    cluster.settle();
    assert_eq!(cluster.raft(2).leader(), Some(ReplicaId(leader)));
    assert_eq!(cluster.raft(2).term(), term);
    assert_ne!(cluster.raft(1).role(), Role::Leader);
}

#[test]
fn contact_from_outside_counts_as_heartbeats_and_their_answers_do() {
    let mut cluster = Cluster::with(3, |options| options.check_quorum(true).pre_vote(true));
    cluster.campaign(1);
    cluster.advance(HEARTBEAT);
    cluster.rule(None, None, Some(Kind::Heartbeat), Fate::Drop);
    for _ in 0..50 {
        cluster.advance(HEARTBEAT);
        let now = cluster.now;
        for node in cluster.nodes.values_mut() {
            let raft = node.raft.as_mut().unwrap();
            raft.handle_leader_contact(ReplicaId(1), Term(1), now);
            raft.handle_peer_contact(ReplicaId(2), Term(1), now);
        }
    }
    assert_eq!(cluster.leaders(), [1]);
    assert_eq!(cluster.terms(), [1, 1, 1]);
    cluster.advance(ELECTION * 4);
    assert_ne!(cluster.raft(1).term(), Term(1), "without them it falls");
}
