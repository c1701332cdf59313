//! What the scenarios leave out about leaders that are heard of, or not.

use crate::harness::{Cluster, ELECTION, Fate, HEARTBEAT, Kind};
use pontoon_types::{ReplicaId, Term};

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
