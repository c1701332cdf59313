//! What the scenarios leave out about bounds on what is under way.

use crate::harness::{Cluster, index};

#[test]
fn a_slow_applier_gets_no_more_than_two_batches() {
    let mut cluster = Cluster::with(1, |mut options| {
        options.config.max_apply_bytes = 100;
        options
    });
    cluster.campaign(1);
    cluster.settle();
    cluster.nodes.get_mut(&1).unwrap().apply_held = true;
    for _ in 0..20 {
        cluster.propose_bytes(1, &[7; 64]).unwrap();
    }
    cluster.settle();
    assert_eq!(cluster.raft(1).commit(), index(21));
    assert_eq!(
        cluster.node(1).machine.len(),
        3,
        "one before, two batches of one"
    );
    cluster.nodes.get_mut(&1).unwrap().apply_held = false;
    cluster.nodes.get_mut(&1).unwrap().acknowledge_applied();
    cluster.settle();
    assert_eq!(cluster.node(1).machine.len(), 21);
}
