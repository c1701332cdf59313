//! A node whose log of a group is damaged: which replicas it takes for new ones.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod common;

use bytes::Bytes;
use common::Cluster;
use pontoon_engine::frame::{FrameBuilder, FrameReader, Item, Origin};
use pontoon_engine::worker::{Input, MemberStep, Output, SnapshotOrder, Worker};
use pontoon_engine::{EngineConfig, LostReplicas, RoleName, Waiter};
use pontoon_raft::{Message, MessageBody, Restored};
use pontoon_types::{
    ConfState, GroupId, HardState, Instant, LogIndex, LogPosition, Members, NodeId, ReplicaId, Term,
};
use pontoon_wal::Record;
use std::collections::BTreeSet;
use std::time::Duration;

const GROUP: GroupId = GroupId(1);
const LIFE: u64 = 77;

/// The worker of node 3, and the time.
struct Node {
    worker: Worker,
    now: Instant,
}

impl Node {
    fn new() -> Self {
        let config = EngineConfig {
            workers: 1,
            seed: LIFE,
            ..EngineConfig::default()
        };
        Self {
            worker: Worker::new(NodeId(3), 0, &config),
            now: Instant::from_nanos(1_000_000_000),
        }
    }

    /// Hands in a frame of node 1, and turns the cycle a second later.
    fn hear(&mut self, fill: impl FnOnce(&mut FrameBuilder)) -> Output {
        let mut builder = FrameBuilder::new(Origin {
            worker: 0,
            workers: 1,
        });
        fill(&mut builder);
        let (from, frame) = (NodeId(1), builder.finish().to_bytes());
        self.worker.handle(Input::Frame { from, frame }, self.now);
        self.now = self.now + Duration::from_secs(1);
        let mut out = Output::default();
        self.worker.run(self.now, &mut out);
        out
    }

    /// A candidate asks replica `to` for its vote.
    fn is_asked(&mut self, to: u64) -> Output {
        self.hear(|frame| frame.push(GROUP, &request(to)))
    }
}

fn request(to: u64) -> Message {
    let last = LogPosition {
        term: Term(4),
        index: LogIndex(10),
    };
    Message {
        from: ReplicaId(1),
        to: ReplicaId(to),
        term: Term(5),
        body: MessageBody::RequestVote {
            last,
            pre: false,
            transfer: true,
        },
    }
}

/// All that is said to node 1.
fn said(out: &Output) -> Vec<Item> {
    let frames = out.frames.iter().filter(|(to, ..)| *to == NodeId(1));
    let bytes = frames.map(|(.., frame)| frame.to_bytes());
    bytes.flat_map(items).collect()
}

fn items(frame: Bytes) -> Vec<Item> {
    let mut reader = FrameReader::new(frame).unwrap();
    std::iter::from_fn(|| reader.next_item().unwrap().map(|(_, item)| item)).collect()
}

#[test]
fn no_replica_is_new_to_a_node_that_may_have_forgotten_it() {
    let mut node = Node::new();
    // The store has a record of replica 3. Whether a later one was here only the damaged log could tell.
    node.worker
        .quarantine(common::record(GROUP, 3, 3), node.now);
    for replica in [2, 3, 4, 9] {
        let out = node.is_asked(replica);
        assert!(
            out.log.is_none(),
            "replica {replica} was made, and could vote again"
        );
        let lost = ReplicaId(replica.max(3));
        assert_eq!(said(&out), [Item::Lost(lost, LIFE)]);
    }
    // Neither is it enough that somebody says so in answer to an earlier life.
    node.hear(|frame| frame.push_fresh(GROUP, ReplicaId(9), LIFE - 1));
    assert!(node.is_asked(9).log.is_none());
    // Nor can one be new that is known to have been here, or one before it.
    for stale in [2, 3] {
        let out = node.hear(|frame| frame.push_fresh(GROUP, ReplicaId(stale), LIFE));
        assert!(out.log.is_none(), "replica {stale} is called new");
    }
    let out = node.hear(|frame| frame.push_fresh(GROUP, ReplicaId(9), LIFE));
    let batch = out.log.unwrap();
    assert_eq!(
        batch.batch.records(),
        [Record::Tombstone(GROUP, ReplicaId(8))]
    );
    // Not before the tombstone is durable.
    assert!(node.is_asked(9).log.is_none());
    let sequence = batch.sequence;
    node.worker.handle(Input::Durable { sequence }, node.now);
    assert!(node.is_asked(8).log.is_none(), "it is gone for good");
    let out = node.is_asked(9);
    assert!(out.log.is_some(), "it votes, when that is durable");
    assert_eq!(said(&out), []);
}

#[test]
fn whatever_id_a_lost_replica_is_called_by_it_is_replaced() {
    let called = 1 << 61;
    let mut node = Node::new();
    node.worker
        .quarantine(common::record(GROUP, 3, 3), node.now);
    let out = node.is_asked(called);
    assert_eq!(said(&out), [Item::Lost(ReplicaId(called), LIFE)]);
    // The group of the other two makes one all the same.
    let config = EngineConfig {
        workers: 1,
        ..EngineConfig::default()
    };
    let mut cluster = Cluster::new(3, 1, &config);
    cluster.elect(1, 1);
    hear_lost(&mut cluster, 1, called, LIFE);
    turn_without_third(&mut cluster);
    let new = hear_lost(&mut cluster, 1, called, LIFE);
    assert_eq!(new, [Item::Fresh(ReplicaId(4), LIFE)]);
    // And the node takes it on.
    let buried = node.hear(|frame| frame.push_fresh(GROUP, ReplicaId(4), LIFE));
    let sequence = buried.log.unwrap().sequence;
    node.worker.handle(Input::Durable { sequence }, node.now);
    assert!(node.is_asked(4).log.is_some());
}

#[test]
fn a_group_of_which_the_log_may_have_lost_everything_is_treated_alike() {
    let mut node = Node::new();
    let mut recovered = pontoon_wal::Recovered::default();
    recovered.damaged.insert(GROUP);
    node.worker.remember(&recovered);
    let out = node.is_asked(4);
    assert!(out.log.is_none());
    assert_eq!(said(&out), [Item::Lost(ReplicaId(4), LIFE)]);
    let out = node.hear(|frame| frame.push_fresh(GROUP, ReplicaId(5), LIFE));
    assert!(out.log.is_some());
}

#[test]
fn a_replica_that_has_nothing_yet_gives_way_to_a_later_one() {
    let mut node = Node::new();
    let first = node.is_asked(4).log.unwrap();
    let sequence = first.sequence;
    node.worker.handle(Input::Durable { sequence }, node.now);
    // It was removed before its snapshot came, and nobody told it.
    let out = node.is_asked(5);
    let batch = out.log.unwrap();
    assert_eq!(
        batch.batch.records(),
        [Record::Tombstone(GROUP, ReplicaId(4))]
    );
    let sequence = batch.sequence;
    node.worker.handle(Input::Durable { sequence }, node.now);
    assert!(node.is_asked(4).log.is_none());
    assert!(node.is_asked(5).log.is_some());
}

#[test]
fn nothing_that_is_no_message_makes_a_node_forget_a_vote() {
    let mut node = Node::new();
    let mut recovered = pontoon_wal::Recovered::default();
    let hard_state = HardState {
        term: Term(9),
        vote: Some(ReplicaId(2)),
        commit: LogIndex::ZERO,
    };
    let log = pontoon_wal::RecoveredGroup {
        hard_state,
        ..pontoon_wal::RecoveredGroup::default()
    };
    recovered.groups.insert(GROUP, log);
    node.worker.remember(&recovered);
    for impossible in [0, u64::MAX] {
        assert!(node.is_asked(impossible).log.is_none());
    }
    let out = node.hear(|frame| {
        let message = Message {
            term: Term(9),
            ..request(4)
        };
        frame.push(GROUP, &message);
    });
    let [Item::Message(answer)] = &said(&out)[..] else {
        panic!("{:?}", said(&out));
    };
    let granted = matches!(answer.body, MessageBody::VoteResponse { granted: true, .. });
    assert!(
        answer.term == Term(9) && !granted,
        "it has voted for another: {answer:?}"
    );
}

#[test]
fn a_replica_without_a_leader_asks_everybody_and_believes_whoever_knows() {
    let mut node = Node::new();
    let mut elsewhere = common::record(GroupId(2), 3, 3);
    elsewhere.members = Members::new([(ReplicaId(3), NodeId(3)), (ReplicaId(4), NodeId(4))]);
    elsewhere.conf_state = ConfState::of_voters([3, 4].map(ReplicaId));
    for record in [common::record(GROUP, 3, 3), elsewhere] {
        let restored = Restored {
            conf_state: record.conf_state.clone(),
            ..Restored::default()
        };
        node.worker.add_group(record, restored, node.now).unwrap();
    }
    let runs = |node: &Node| {
        let status = node.worker.status();
        let mut of_group = status.iter().filter(|status| status.group == GROUP);
        of_group.any(|status| status.role != RoleName::Stopped)
    };
    // Node 4 has no member of the group that is known here.
    let gone = |node: &mut Node| {
        let mut builder = FrameBuilder::new(Origin {
            worker: 0,
            workers: 1,
        });
        builder.push_gone(GROUP, ReplicaId(3), LogPosition::ZERO);
        let (from, frame) = (NodeId(4), builder.finish().to_bytes());
        node.worker.handle(Input::Frame { from, frame }, node.now);
    };
    gone(&mut node);
    assert!(runs(&node), "nobody has asked");
    // Whoever refuses it a vote may have left as well, and not know what has become of it.
    let refusal = Message {
        from: ReplicaId(1),
        to: ReplicaId(3),
        term: Term(1),
        body: MessageBody::VoteResponse {
            granted: false,
            pre: true,
            committed: LogPosition::ZERO,
        },
    };
    let mut asked = BTreeSet::new();
    for _ in 0..30 {
        let out = node.hear(|frame| frame.push(GROUP, &refusal));
        for (to, _, frame) in &out.frames {
            if items(frame.to_bytes()).contains(&Item::Question(ReplicaId(3))) {
                asked.insert(*to);
            }
        }
    }
    assert_eq!(asked, BTreeSet::from([1, 2, 4].map(NodeId)));
    gone(&mut node);
    assert!(!runs(&node));
}

#[test]
fn a_replica_is_lost_once_and_no_longer_when_its_group_says_that_it_has_left() {
    let mut node = Node::new();
    let record = common::record(GROUP, 3, 3);
    let pieces = record.pieces.clone();
    let restored = Restored {
        conf_state: record.conf_state.clone(),
        ..Restored::default()
    };
    node.worker.add_group(record, restored, node.now).unwrap();
    let mut expected = LostReplicas {
        by_table: 1,
        ..LostReplicas::default()
    };
    for _ in 0..2 {
        let input = Input::StateDamaged {
            group: GROUP,
            pieces: pieces.clone(),
            is_stuck: true,
        };
        node.worker.handle(input, node.now);
        assert_eq!(node.worker.counters().lost, expected);
    }
    expected.replaced = 1;
    for _ in 0..2 {
        node.hear(|frame| frame.push_gone(GROUP, ReplicaId(3), LogPosition::ZERO));
        assert_eq!(node.worker.counters().lost, expected);
    }
}

/// Node 3 is down while its replica is removed, and comes back with a damaged log.
fn removed_while_down() -> Cluster {
    let config = EngineConfig {
        workers: 1,
        ..EngineConfig::default()
    };
    let mut cluster = Cluster::new(3, 1, &config);
    cluster.elect(1, 1);
    change(&mut cluster, MemberStep::Remove(NodeId(3)));
    turn_without_third(&mut cluster);
    let config = EngineConfig {
        seed: LIFE,
        ..config
    };
    let mut worker = Worker::new(NodeId(3), 0, &config);
    worker.quarantine(common::record(GROUP, 3, 3), cluster.now);
    cluster.node(3).worker = worker;
    cluster
}

/// Has the leader on node 1 change the members.
fn change(cluster: &mut Cluster, step: MemberStep) {
    let now = cluster.now;
    let change = Input::ChangeMembers {
        group: GROUP,
        steps: vec![step],
        waiter: Waiter::new(|_| ()),
    };
    cluster.node(1).worker.handle(change, now);
}

/// Lets nodes 1 and 2 say to each other whatever they have to.
fn turn_without_third(cluster: &mut Cluster) {
    for _ in 0..20 {
        for id in [1, 2] {
            cluster.cycle(id);
            cluster.sync(id);
        }
        cluster.wire.retain(|(_, to, ..)| *to != NodeId(3));
        cluster.deliver(|_, _| true);
    }
}

/// Node 3 says to another that it has lost a replica. Returns which one that calls new.
fn hear_lost(cluster: &mut Cluster, by: u64, lost: u64, life: u64) -> Vec<Item> {
    let mut builder = FrameBuilder::new(Origin {
        worker: 0,
        workers: 1,
    });
    builder.push_lost(GROUP, ReplicaId(lost), life);
    let (from, frame) = (NodeId(3), builder.finish().to_bytes());
    let now = cluster.now;
    cluster
        .node(by)
        .worker
        .handle(Input::Frame { from, frame }, now);
    cluster.cycle(by);
    cluster.sync(by);
    let to_third = cluster.wire.iter().filter(|(_, to, ..)| *to == NodeId(3));
    let said = to_third.flat_map(|(.., frame)| items(frame.clone()));
    said.filter(|item| matches!(item, Item::Fresh(..)))
        .collect()
}

#[test]
fn a_quarantined_replica_that_was_removed_leaves() {
    let mut cluster = removed_while_down();
    let is_stopped = |cluster: &mut Cluster| !cluster.node(3).worker.status().is_empty();
    assert!(is_stopped(&mut cluster));
    cluster.pass(Duration::from_millis(2_500));
    assert!(!is_stopped(&mut cluster));
    // Nothing is said of it any more, and the next one there is taken for the new one that it is.
    cluster.cycle(3);
    assert_eq!(cluster.wire, []);
    change(&mut cluster, MemberStep::AddLearner(NodeId(3)));
    cluster.pass(Duration::from_millis(500));
    let wanted = SnapshotOrder::Wanted {
        group: GROUP,
        peer: ReplicaId(4),
        to: NodeId(3),
    };
    assert_eq!(cluster.node(1).orders, [wanted]);
}

#[test]
fn nobody_who_may_be_deposed_says_which_replicas_are_new() {
    let mut cluster = removed_while_down();
    // Node 2 may lead meanwhile, and have given replica 4 to node 3, which may have voted with it in an earlier life.
    for _ in 0..3 {
        assert_eq!(hear_lost(&mut cluster, 1, 3, LIFE), []);
    }
    turn_without_third(&mut cluster);
    assert_eq!(
        hear_lost(&mut cluster, 1, 3, LIFE),
        [Item::Fresh(ReplicaId(4), LIFE)]
    );
}

#[test]
fn nobody_calls_a_replica_new_that_another_leader_has_made() {
    let config = EngineConfig {
        workers: 1,
        ..EngineConfig::default()
    };
    let mut cluster = Cluster::new(3, 1, &config);
    cluster.elect(1, 1);
    // Node 2 leads behind node 1's back, and makes replica 4, which may vote.
    let now = cluster.now;
    let members = |cluster: &mut Cluster, id| cluster.node(id).worker.status()[0].members.len();
    let without_first = |cluster: &mut Cluster| {
        for _ in 0..60 {
            cluster.now = cluster.now + Duration::from_millis(100);
            for id in [2, 3] {
                cluster.cycle(id);
                cluster.sync(id);
            }
            let of_first = |from: NodeId, to| from == NodeId(1) || to == NodeId(1);
            cluster.wire.retain(|(from, to, ..)| !of_first(*from, *to));
            if members(cluster, 2) == 4 {
                return cluster.wire.clear();
            }
            cluster.deliver(|_, _| true);
        }
    };
    without_first(&mut cluster);
    hear_lost(&mut cluster, 2, 3, LIFE - 1);
    without_first(&mut cluster);
    // In node 3's next life, node 1 wants to make one under the same id.
    let later = std::mem::replace(&mut cluster.now, now);
    hear_lost(&mut cluster, 1, 3, LIFE);
    cluster.now = later + Duration::from_secs(1);
    turn_without_third(&mut cluster);
    let now = cluster.now;
    let to = NodeId(1);
    let transfer = Input::TransferLeadership { group: GROUP, to };
    cluster.node(2).worker.handle(transfer, now);
    turn_without_third(&mut cluster);
    let role = cluster.node(1).worker.status()[0].role;
    assert_eq!((role, members(&mut cluster, 1)), (RoleName::Leader, 4));
    assert_eq!(hear_lost(&mut cluster, 1, 3, LIFE), []);
}

#[test]
fn a_lost_replica_says_so_to_nodes_that_it_has_never_met_and_believes_them() {
    let mut node = Node::new();
    let mut elsewhere = common::record(GroupId(2), 3, 3);
    elsewhere.members = Members::new([(ReplicaId(3), NodeId(3)), (ReplicaId(4), NodeId(4))]);
    elsewhere.conf_state = ConfState::of_voters([3, 4].map(ReplicaId));
    for record in [common::record(GROUP, 3, 3), elsewhere] {
        let restored = Restored {
            conf_state: record.conf_state.clone(),
            ..Restored::default()
        };
        node.worker.add_group(record, restored, node.now).unwrap();
    }
    let damaged = Input::StateDamaged {
        group: GROUP,
        pieces: common::record(GROUP, 3, 3).pieces,
        is_stuck: true,
    };
    node.worker.handle(damaged, node.now);
    let out = node.hear(|_| ());
    let lost = Item::Lost(ReplicaId(3), LIFE);
    let frames = out.frames.iter();
    let told = frames.filter(|(.., frame)| items(frame.to_bytes()).contains(&lost));
    let told: BTreeSet<_> = told.map(|(to, ..)| *to).collect();
    assert_eq!(told, BTreeSet::from([1, 2, 4].map(NodeId)));
    // All of node 3's old peers have left as well.
    let mut builder = FrameBuilder::new(Origin {
        worker: 0,
        workers: 1,
    });
    builder.push_gone(GROUP, ReplicaId(3), LogPosition::ZERO);
    let (from, frame) = (NodeId(4), builder.finish().to_bytes());
    node.worker.handle(Input::Frame { from, frame }, node.now);
    let status = node.worker.status();
    assert!(status.iter().all(|status| status.group != GROUP));
}

#[test]
fn with_a_replica_goes_the_lost_one_that_it_was_to_replace() {
    let config = EngineConfig {
        workers: 1,
        ..EngineConfig::default()
    };
    let mut cluster = Cluster::new(3, 1, &config);
    cluster.elect(1, 1);
    let mut worker = Worker::new(NodeId(3), 0, &config);
    worker.quarantine(common::record(GROUP, 3, 3), cluster.now);
    cluster.node(3).worker = worker;
    let members = |cluster: &mut Cluster| -> Vec<u64> {
        let status = cluster.node(1).worker.status();
        let members = status[0].members.iter();
        members.map(|member| member.replica.0).collect()
    };
    cluster.pass(Duration::from_millis(100));
    assert_eq!(members(&mut cluster), [1, 2, 3, 4]);
    change(&mut cluster, MemberStep::Remove(NodeId(3)));
    cluster.pass(Duration::from_millis(100));
    assert_eq!(members(&mut cluster), [1, 2]);
}

/// Node 3 has a replica 4 that waits for its first snapshot; what it had before has left.
fn blank() -> Cluster {
    let config = EngineConfig {
        workers: 1,
        ..EngineConfig::default()
    };
    let mut cluster = Cluster::new(3, 1, &config);
    cluster.elect(1, 1);
    change(&mut cluster, MemberStep::Remove(NodeId(3)));
    cluster.pass(Duration::from_secs(3));
    change(&mut cluster, MemberStep::AddLearner(NodeId(3)));
    cluster.pass(Duration::from_secs(1));
    assert_eq!(cluster.node(3).tombstones, [(GROUP, ReplicaId(3))]);
    cluster
}

#[test]
fn a_replica_that_was_removed_before_its_snapshot_came_leaves() {
    let mut cluster = blank();
    change(&mut cluster, MemberStep::Remove(NodeId(3)));
    cluster.settle();
    let left = [3, 4].map(|replica| (GROUP, ReplicaId(replica)));
    assert_eq!(cluster.node(3).tombstones, left);
}

#[test]
fn a_replica_that_waits_for_its_snapshot_and_has_missed_its_removal_asks() {
    let mut cluster = blank();
    change(&mut cluster, MemberStep::Remove(NodeId(3)));
    turn_without_third(&mut cluster);
    assert_eq!(cluster.node(3).tombstones.len(), 1);
    cluster.pass(Duration::from_secs(10));
    let left = [3, 4].map(|replica| (GROUP, ReplicaId(replica)));
    assert_eq!(cluster.node(3).tombstones, left);
}
