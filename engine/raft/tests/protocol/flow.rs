//! Scenarios F1 and F2: bounds on what is under way.

use crate::harness::{Cluster, Fate, HEARTBEAT, Kind, index};
use pontoon_raft::{ProgressMode, ProposeError};
use pontoon_types::ReplicaId;

#[test]
fn f1_a_full_window_pauses_and_one_answered_heartbeat_opens_it() {
    let mut cluster = Cluster::with(3, |mut options| {
        options.config.max_inflight_appends = 3;
        options
    });
    cluster.campaign(1);
    for _ in 0..10 {
        cluster.settle();
        cluster.propose(1).unwrap();
    }
    cluster.settle();
    cluster.rule(Some(1), Some(2), Some(Kind::Append), Fate::Hold);
    cluster.rule(Some(1), Some(3), Some(Kind::Append), Fate::Drop);
    for _ in 12..=14 {
        cluster.propose(1).unwrap();
        cluster.process(1);
    }
    let view = |cluster: &Cluster, id| cluster.raft(1).progress(ReplicaId(id)).unwrap();
    assert_eq!(view(&cluster, 2).inflight, 3);
    assert_eq!(view(&cluster, 3).inflight, 3);
    cluster.rules.remove(0);
    cluster.release();
    cluster.settle();
    for _ in 15..=17 {
        cluster.propose(1).unwrap();
        cluster.settle();
    }
    assert_eq!(cluster.raft(1).commit(), index(17));
    let third = view(&cluster, 3);
    assert_eq!((third.matched, third.inflight), (index(11), 3));
    cluster.heal();
    cluster.settle();
    assert_eq!(
        view(&cluster, 3).matched,
        index(11),
        "silence does not help"
    );
    cluster.delivered.clear();
    cluster.advance(HEARTBEAT);
    assert_eq!(cluster.delivered(Kind::AppendRejected, 3, 1), 1);
    for id in [2, 3] {
        assert_eq!(view(&cluster, id).matched, index(17));
        assert_eq!(view(&cluster, id).mode, ProgressMode::Pipeline);
    }
}

#[test]
fn f2_uncommitted_bytes_are_bounded_and_the_allowance_comes_back() {
    let mut cluster = Cluster::with(3, |mut options| {
        options.config.max_uncommitted_bytes = 1000;
        options
    });
    cluster.campaign(1);
    cluster.settle();
    assert_eq!(cluster.raft(1).uncommitted_bytes(), 0);
    cluster.isolate(1);
    let mut taken = 0;
    let refused = loop {
        match cluster.propose_bytes(1, &[7; 64]) {
            Ok(_) => taken += 1,
            Err(refused) => break refused,
        }
        cluster.process(1);
    };
    assert_eq!(taken, 10);
    let expected = ProposeError::Overloaded {
        uncommitted_bytes: 1000,
        limit_bytes: 1000,
    };
    assert_eq!(refused, expected);
    // A new leader counts what it inherits: here nothing. The old one's come to nothing.
    cluster.campaign(2);
    cluster.settle();
    assert_eq!(cluster.leader(), Some(2));
    assert_eq!(cluster.raft(2).uncommitted_bytes(), 0);
    cluster.heal();
    cluster.advance(HEARTBEAT);
    assert_eq!(cluster.raft(1).uncommitted_bytes(), 0);
    // One that inherits all of them still adds its empty entry, and is free once they are committed.
    cluster.rule(None, Some(2), Some(Kind::AppendResponse), Fate::Drop);
    while cluster.propose_bytes(2, &[7; 64]).is_ok() {
        cluster.process(2);
    }
    cluster.settle();
    cluster.campaign(3);
    cluster.process(3);
    cluster.deliver_all();
    cluster.process(1);
    cluster.deliver_all();
    assert_eq!(cluster.leader(), Some(3));
    assert!(cluster.raft(3).uncommitted_bytes() > 1000);
    let refused = cluster.propose_bytes(3, b"x");
    assert!(matches!(refused, Err(ProposeError::Overloaded { .. })));
    cluster.heal();
    cluster.settle();
    assert_eq!(cluster.raft(3).uncommitted_bytes(), 0);
    assert!(cluster.propose_bytes(3, b"x").is_ok());
}

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
