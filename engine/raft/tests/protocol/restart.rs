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
