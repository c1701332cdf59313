//! Scenarios L1-L3: reads that see everything acknowledged before them. That every answered read does
//! is checked by the harness (S8); here it is shown when they are answered at all.

use crate::harness::{Cluster, ELECTION, Fate, HEARTBEAT, Kind, index};
use pontoon_raft::{Message, MessageBody, ReadError, Role};

fn answered(cluster: &Cluster, id: u64) -> Vec<u64> {
    cluster
        .node(id)
        .reads
        .iter()
        .map(|read| read.context)
        .collect()
}

#[test]
fn l1_a_new_leader_answers_no_read_before_it_has_committed() {
    let mut cluster = Cluster::fresh(3);
    cluster.rule(None, None, Some(Kind::AppendResponse), Fate::Hold);
    cluster.campaign(1);
    cluster.settle();
    assert_eq!(cluster.leaders(), [1]);
    cluster.read_index(1, 7).unwrap();
    cluster.advance(HEARTBEAT * 2);
    assert_eq!(answered(&cluster, 1), [0u64; 0]);
    cluster.heal();
    cluster.release();
    cluster.settle();
    assert_eq!(answered(&cluster, 1), [7]);
    assert!(cluster.node(1).reads[0].index >= index(1));
}

#[test]
fn l2_a_deposed_leader_answers_no_read() {
    let mut cluster = Cluster::fresh(5);
    cluster.campaign(1);
    cluster.settle();
    for id in [3, 4, 5] {
        cluster.cut(1, id);
        cluster.cut(2, id);
    }
    cluster.campaign(3);
    cluster.settle();
    cluster.propose(3).unwrap();
    cluster.settle();
    assert_eq!(cluster.leaders(), [1, 3]);
    cluster.read_index(1, 7).unwrap();
    cluster.read_index(3, 8).unwrap();
    cluster.advance(HEARTBEAT * 3);
    assert_eq!(answered(&cluster, 1), [0u64; 0]);
    assert_eq!(answered(&cluster, 3), [8]);
    cluster.heal();
    cluster.advance(HEARTBEAT * 3);
    assert_eq!(cluster.node(1).refused, [7]);
    assert!(matches!(
        cluster.read_index(1, 9),
        Err(ReadError::NotLeader { .. })
    ));
}

fn round_of(message: &Message) -> u64 {
    match message.body {
        MessageBody::HeartbeatResponse { read_round } => read_round,
        _ => panic!("{message:?}"),
    }
}

#[test]
fn l3_only_answers_to_a_round_begun_after_it_confirm_a_read() {
    let mut cluster = Cluster::fresh(3);
    cluster.campaign(1);
    cluster.settle();
    cluster.rule(None, Some(1), Some(Kind::HeartbeatResponse), Fate::Hold);
    // Answers to Heartbeats from before the read.
    cluster.advance(HEARTBEAT);
    let early = std::mem::take(&mut cluster.held);
    assert_eq!(early.len(), 2);
    cluster.read_index(1, 1).unwrap();
    cluster.read_index(1, 2).unwrap();
    cluster.settle();
    let first = std::mem::take(&mut cluster.held);
    assert_eq!(first.iter().map(round_of).collect::<Vec<_>>(), [1, 1]);
    for message in early {
        cluster.step(message).unwrap();
    }
    cluster.settle();
    assert_eq!(answered(&cluster, 1), [0u64; 0]);
    // One round answers all that was asked before it began, and not what came later.
    cluster.read_index(1, 3).unwrap();
    cluster.settle();
    cluster.held.clear();
    for _ in 0..3 {
        cluster.step(first[0].clone()).unwrap();
    }
    cluster.settle();
    assert_eq!(answered(&cluster, 1), [1, 2]);
    // A lost round is asked again with the next Heartbeat.
    cluster.heal();
    cluster.advance(HEARTBEAT);
    assert_eq!(answered(&cluster, 1), [1, 2, 3]);
}

#[test]
fn a_lone_voter_confirms_its_reads_by_itself() {
    let mut cluster = Cluster::fresh(1);
    cluster.campaign(1);
    cluster.settle();
    cluster.read_index(1, 7).unwrap();
    cluster.process(1);
    assert_eq!(answered(&cluster, 1), [7]);
}

#[test]
fn reads_are_refused_when_leadership_is_lost() {
    let mut cluster = Cluster::with(3, |options| options.check_quorum(true));
    cluster.campaign(1);
    cluster.settle();
    cluster.isolate(1);
    cluster.read_index(1, 7).unwrap();
    cluster.advance(ELECTION * 3);
    assert_ne!(cluster.raft(1).role(), Role::Leader);
    assert_eq!(cluster.node(1).refused, [7]);
}
