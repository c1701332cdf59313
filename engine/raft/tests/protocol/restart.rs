//! Scenarios X1-X3: crashes.

use crate::harness::{Cluster, ELECTION, HEARTBEAT, Options, index, message, position};
use pontoon_raft::{MessageBody, Role};
use pontoon_types::{ReplicaId, Term};

#[test]
fn x1_a_vote_is_durable_before_anybody_hears_of_it() {
    let request = MessageBody::RequestVote {
        last: position(0, 0),
        pre: false,
        transfer: false,
    };
    for (written, acknowledged) in [(0, false), (1, false), (1, true)] {
        let mut cluster = Cluster::fresh(3);
        cluster.nodes.get_mut(&3).unwrap().disk_held = true;
        cluster.step(message(1, 3, 1, request.clone())).unwrap();
        cluster.process(3);
        assert!(cluster.network.is_empty(), "spoken before the sync");
        if acknowledged {
            cluster.make_durable(3, 1);
            assert_eq!(cluster.network.len(), 1);
        }
        cluster.crash(3, written);
        cluster.restart(3);
        cluster.nodes.get_mut(&3).unwrap().disk_held = false;
        cluster.network.clear();
        cluster.step(message(2, 3, 1, request.clone())).unwrap();
        cluster.process(3);
        let granted = MessageBody::VoteResponse {
            granted: written == 0,
            pre: false,
        };
        assert_eq!(cluster.network[0].body, granted);
    }
}

#[test]
fn x2_a_restart_hands_out_exactly_what_was_committed_and_not_applied() {
    let mut cluster = Cluster::default();
    let log = [1, 1, 2, 2, 2, 3, 3];
    for id in 2..=3 {
        cluster.add(id, Options::voters(1..=3).log(&log));
    }
    let mut options = Options::voters(1..=3).log(&log).hard_state(4, 0, 5);
    options.applied = 2;
    cluster.add(1, options);
    assert_eq!(cluster.raft(1).role(), Role::Follower);
    assert_eq!(cluster.raft(1).term(), Term(4));
    cluster.process(1);
    let applied: Vec<u64> = cluster
        .node(1)
        .machine
        .iter()
        .map(|e| e.index().0)
        .collect();
    assert_eq!(applied, [3, 4, 5]);
    cluster.campaign(2);
    cluster.settle();
    cluster.campaign(2);
    cluster.campaign(2);
    cluster.settle();
    cluster.advance(HEARTBEAT);
    let applied: Vec<u64> = cluster
        .node(1)
        .machine
        .iter()
        .map(|e| e.index().0)
        .collect();
    assert_eq!(applied, [3, 4, 5, 6, 7, 8]);
}

#[test]
fn x3_what_was_acknowledged_survives_the_loss_of_all_power() {
    for written in 0..4 {
        let mut cluster = Cluster::fresh(3);
        cluster.campaign(1);
        cluster.settle();
        for round in 0..20 {
            cluster.propose(1).unwrap();
            cluster.process(1);
            cluster.deliver_all();
            cluster.nodes.get_mut(&(1 + round % 3)).unwrap().disk_held = round % 2 == 0;
            cluster.process(2);
            cluster.process(3);
            cluster.deliver_all();
        }
        let acknowledged = cluster.invariants.max_committed();
        assert!(acknowledged > index(1));
        for id in 1..=3 {
            cluster.crash(id, written);
        }
        cluster.network.clear();
        for id in 1..=3 {
            cluster.nodes.get_mut(&id).unwrap().disk_held = false;
            cluster.restart(id);
        }
        cluster.advance(ELECTION * 8);
        let last = cluster.raft(1).last_position();
        assert!(last.index > acknowledged);
        for node in cluster.nodes.values() {
            assert_eq!(node.raft().last_position(), last);
            assert_eq!(node.raft().commit(), last.index);
        }
    }
}

#[test]
fn a_late_disk_acknowledges_nothing_of_what_was_replaced_meanwhile() {
    let mut cluster = Cluster::fresh(3);
    cluster.campaign(1);
    cluster.settle();
    // Replica 3 takes three entries of term 1 that its disk is slow with; nobody else does.
    cluster.nodes.get_mut(&3).unwrap().disk_held = true;
    cluster.isolate(2);
    for _ in 0..3 {
        cluster.propose(1).unwrap();
    }
    cluster.process(1);
    cluster.deliver_all();
    cluster.process(3);
    assert_eq!(cluster.raft(3).last_position(), position(1, 4));
    // A leader of term 3 replaces them before they are durable.
    let entries = vec![pontoon_types::Entry::encode(
        pontoon_types::GroupId(1),
        Term(3),
        index(2),
        pontoon_types::EntryKind::Empty,
        &[],
    )];
    let body = MessageBody::Append {
        previous: position(1, 1),
        commit: index(1),
        matched_by_all: index(0),
        read_round: 0,
        entries,
    };
    cluster.step(message(2, 3, 3, body)).unwrap();
    cluster.process(3);
    assert_eq!(cluster.node(3).pending.len(), 2);
    cluster.make_durable(3, 1);
    assert_eq!(cluster.raft(3).durable(), index(1));
    cluster.make_durable(3, 1);
    assert_eq!(cluster.raft(3).durable(), index(2));
    assert_eq!(cluster.raft(3).leader(), Some(ReplicaId(2)));
}

#[test]
fn a_commit_hint_is_stored_in_a_quiet_moment_and_holds_up_nothing() {
    let mut cluster = Cluster::fresh(3);
    cluster.campaign(1);
    cluster.settle();
    cluster.propose(1).unwrap();
    cluster.settle();
    assert_eq!(cluster.node(1).disk.hard_state.commit, index(1));
    cluster.advance(HEARTBEAT * 2);
    for node in cluster.nodes.values() {
        assert_eq!(node.disk.hard_state.commit, index(2));
    }
}
