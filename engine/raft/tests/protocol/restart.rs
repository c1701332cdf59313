//! What the scenarios leave out about the disk.

use crate::harness::{Cluster, HEARTBEAT, index};

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

#[test]
fn a_replica_that_was_never_in_a_term_has_promised_nothing() {
    let mut cluster = Cluster::with(3, |options| options.lease(true));
    cluster.campaign(1);
    cluster.settle();
    assert_eq!(cluster.leaders(), [1], "a new group need not wait");
    for id in 1..=3 {
        cluster.crash(id, 0);
        cluster.restart(id);
    }
    cluster.campaign(1);
    cluster.settle();
    assert_eq!(
        cluster.leaders(),
        [0u64; 0],
        "whoever was in a term may have"
    );
    cluster.advance(crate::harness::ELECTION);
    assert_eq!(
        cluster.leaders(),
        [1],
        "who was told to campaign does when it may"
    );
}
