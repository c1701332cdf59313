//! What the scenarios leave out about bounds on what is under way.

use crate::harness::{Cluster, Kind, index};
use pontoon_types::ReplicaId;

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

#[test]
fn what_is_under_way_to_a_peer_is_bounded_in_bytes() {
    let payload = vec![7; 1000];
    let mut cluster = Cluster::with(3, |mut options| {
        options.config.max_inflight_bytes = 5000;
        options
    });
    cluster.campaign(1);
    cluster.settle();
    cluster.drop_kind(3, 1, Kind::AppendResponse);
    for _ in 0..20 {
        cluster.propose_bytes(1, &payload).unwrap();
        cluster.settle();
    }
    let slow = cluster.raft(1).progress(ReplicaId(3)).unwrap();
    assert!((4000..7000).contains(&slow.inflight_bytes), "{slow:?}");
    let prompt = cluster.raft(1).progress(ReplicaId(2)).unwrap();
    assert_eq!((prompt.inflight, prompt.inflight_bytes), (0, 0));
    assert_eq!(cluster.raft(1).commit(), index(21));
    cluster.heal();
    cluster.advance(crate::harness::HEARTBEAT * 2);
    assert_eq!(cluster.commits(), [21, 21, 21]);
}
