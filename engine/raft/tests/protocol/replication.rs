//! What the scenarios leave out about replication.

use crate::harness::{Cluster, HEARTBEAT, index, message, position};
use pontoon_raft::MessageBody;
use pontoon_types::{Entry, EntryKind, GroupId, Term};

fn append(previous: (u64, u64), commit: u64, terms: &[u64]) -> MessageBody {
    let entry = |(at, term): (u64, &u64)| {
        let index = index(previous.1 + 1 + at);
        Entry::encode(GroupId(1), Term(*term), index, EntryKind::Command, b"other")
    };
    MessageBody::Append {
        previous: position(previous.0, previous.1),
        commit: index(commit),
        matched_by_all: index(0),
        read_round: 0,
        entries: (0..).zip(terms).map(entry).collect(),
    }
}

fn committed_follower() -> Cluster {
    let mut cluster = Cluster::fresh(3);
    cluster.campaign(1);
    for _ in 0..4 {
        cluster.settle();
        cluster.propose(1).unwrap();
    }
    cluster.settle();
    cluster.advance(HEARTBEAT);
    assert_eq!(cluster.commits(), [5, 5, 5]);
    cluster
}

#[test]
fn an_acknowledgement_owed_to_an_earlier_term_is_forgotten_with_it() {
    let mut cluster = committed_follower();
    // Replica 1 leads term 1, loses unsynced entries that replica 2 has, and leads term 2 without them,
    // all within one of replica 2's cycles.
    cluster
        .step(message(1, 2, 1, append((1, 5), 5, &[1, 1, 1])))
        .unwrap();
    cluster
        .step(message(1, 2, 2, append((1, 5), 5, &[2])))
        .unwrap();
    cluster.process(2);
    let answers: Vec<_> = cluster
        .network
        .drain(..)
        .map(|answer| answer.body)
        .collect();
    let expected = MessageBody::AppendResponse {
        matched: index(6),
        read_round: 0,
    };
    assert_eq!(answers, [expected]);
}

#[test]
fn one_cycles_proposals_are_one_append_per_peer_and_one_for_the_disk() {
    let mut cluster = Cluster::fresh(3);
    cluster.campaign(1);
    cluster.settle();
    for _ in 0..10 {
        cluster.propose(1).unwrap();
    }
    cluster.take_outputs(1);
    assert_eq!(cluster.network.len(), 2);
    for message in &cluster.network {
        let MessageBody::Append { entries, .. } = &message.body else {
            panic!("{message:?}");
        };
        assert_eq!(entries.len(), 10);
    }
    let pending = &cluster.node(1).pending;
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0].persist.entries.len(), 10);
}

#[test]
fn everybody_learns_what_nobody_needs_any_more() {
    let mut cluster = committed_follower();
    cluster.isolate(3);
    cluster.propose(1).unwrap();
    cluster.settle();
    cluster.advance(HEARTBEAT);
    assert_eq!(cluster.raft(1).matched_by_all(), index(5));
    assert_eq!(cluster.raft(2).matched_by_all(), index(5));
    cluster.heal();
    cluster.advance(HEARTBEAT * 2);
    for node in cluster.nodes.values() {
        assert_eq!(node.raft().matched_by_all(), index(6));
    }
}

#[test]
fn entries_stay_in_memory_only_for_peers_that_are_fed_as_they_come() {
    let mut cluster = committed_follower();
    let cached = |cluster: &mut Cluster, proposals: usize| {
        for _ in 0..proposals {
            cluster.propose(1).unwrap();
            cluster.settle();
        }
        cluster.advance(HEARTBEAT);
        [1, 2, 3].map(|id| cluster.raft(id).cached_bytes())
    };
    assert_eq!(cached(&mut cluster, 10), [0, 0, 0]);
    // A peer that does not answer is still fed, until it is known that it does not hear.
    cluster.isolate(3);
    let [leader, followers @ ..] = cached(&mut cluster, 1);
    assert!(leader > 0);
    assert_eq!(followers, [0, 0]);
    cluster.unreachable(1, 3);
    assert_eq!(cached(&mut cluster, 10), [0, 0, 0]);
    cluster.heal();
    cluster.advance(HEARTBEAT * 2);
    assert_eq!(cluster.node(3).machine, cluster.node(1).machine);
}

#[test]
fn a_peer_behind_the_cache_is_fed_from_the_log() {
    let mut cluster = Cluster::with(3, |mut options| {
        options.config.max_cached_bytes = 0;
        options.config.max_append_bytes = 100;
        options
    });
    cluster.campaign(1);
    cluster.settle();
    cluster.isolate(3);
    for _ in 0..50 {
        cluster.propose(1).unwrap();
        cluster.settle();
    }
    assert_eq!(cluster.raft(1).cached_bytes(), 0);
    cluster.heal();
    cluster.advance(HEARTBEAT * 2);
    assert_eq!(cluster.commits(), [51, 51, 51]);
    assert_eq!(cluster.node(3).machine, cluster.node(1).machine);
}
