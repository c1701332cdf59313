//! Replicas that have lost rows and whose votes are needed: who may be given up, and when.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod common;

use common::Cluster;
use pontoon_engine::frame::{FrameBuilder, Origin};
use pontoon_engine::worker::Input;
use pontoon_engine::{EngineConfig, LostReplicas, Reply, RoleName};
use pontoon_types::{GroupId, NodeId, ReplicaId, TabletId, Term};
use std::time::Duration;

const GROUP: GroupId = GroupId(1);
const NODES: [u64; 3] = [1, 2, 3];

/// Three nodes with a group that the first leads.
fn led() -> Cluster {
    let config = EngineConfig {
        workers: 1,
        ..EngineConfig::default()
    };
    let mut cluster = Cluster::new(3, 1, &config);
    cluster.elect(1, 1);
    cluster.pass(Duration::from_millis(300));
    cluster
}

/// Rows of the group are damaged on a node, and somebody has met them.
fn meet_damage(cluster: &mut Cluster, node: u64) {
    let (now, pieces) = (cluster.now, TabletId(1).into());
    let (group, is_stuck) = (GROUP, false);
    let input = Input::StateDamaged {
        group,
        pieces,
        is_stuck,
    };
    cluster.node(node).worker.handle(input, now);
}

/// What the replica that was first on a node does, if it is still there.
fn role(node: &common::Node) -> RoleName {
    let status = node.worker.status();
    let mut first = status.iter().filter(|one| one.replica.0 == node.id.0);
    first.next().map_or(RoleName::Stopped, |one| one.role)
}

fn roles(cluster: &Cluster) -> Vec<RoleName> {
    cluster.nodes.iter().map(role).collect()
}

/// How many of the first replicas take no part any more, or are replaced.
fn given_up(cluster: &Cluster) -> usize {
    let roles = roles(cluster).into_iter();
    roles.filter(|role| *role == RoleName::Stopped).count()
}

/// What all nodes count.
fn lost(cluster: &Cluster) -> LostReplicas {
    let mut sum = LostReplicas::default();
    for node in &cluster.nodes {
        sum += node.worker.counters().lost;
    }
    sum
}

/// Lets time pass in which a node neither hears nor is heard.
fn pass_without(cluster: &mut Cluster, away: u64, millis: u64) {
    for _ in 0..millis {
        cluster.now = cluster.now + Duration::from_millis(1);
        for id in NODES {
            cluster.cycle(id);
            cluster.sync(id);
        }
        cluster
            .wire
            .retain(|(from, to, ..)| ![*from, *to].contains(&NodeId(away)));
        cluster.deliver(|_, _| true);
    }
}

/// A write is committed by whoever leads.
fn can_write(cluster: &mut Cluster) -> bool {
    let Some(at) = roles(cluster)
        .iter()
        .position(|role| *role == RoleName::Leader)
    else {
        return false;
    };
    let answer = cluster.put(at as u64 + 1, 1, "key", "value");
    cluster.pass(Duration::from_millis(50));
    matches!(answer.try_recv(), Ok(Reply::Applied(_)))
}

#[test]
fn of_two_damaged_followers_one_is_given_up_and_the_other_votes_on() {
    let mut cluster = led();
    for _ in 0..5 {
        meet_damage(&mut cluster, 2);
        meet_damage(&mut cluster, 3);
        cluster.pass(Duration::from_secs(1));
    }
    assert_eq!(given_up(&cluster), 1, "{:?}", roles(&cluster));
    assert_eq!(lost(&cluster).by_table, 1, "it is counted once");
    assert!(can_write(&mut cluster));
}

#[test]
fn of_a_damaged_leader_and_a_damaged_follower_one_is_given_up() {
    let mut cluster = led();
    meet_damage(&mut cluster, 2);
    meet_damage(&mut cluster, 1);
    for _ in 0..5 {
        cluster.pass(Duration::from_secs(1));
        meet_damage(&mut cluster, 1);
        meet_damage(&mut cluster, 2);
    }
    assert_eq!(given_up(&cluster), 1, "{:?}", roles(&cluster));
    assert!(can_write(&mut cluster));
}

#[test]
fn a_damaged_replica_is_not_given_up_while_another_node_is_away() {
    for damaged in [1, 2] {
        let mut cluster = led();
        // Longer than the leader may take the one that is away for there.
        pass_without(&mut cluster, 3, 2_000);
        for _ in 0..3 {
            meet_damage(&mut cluster, damaged);
            pass_without(&mut cluster, 3, 1_000);
        }
        assert_eq!(given_up(&cluster), 0, "{:?}", roles(&cluster));
        cluster.pass(Duration::from_secs(2));
        assert!(can_write(&mut cluster));
        // It is back, so now the damaged one can go.
        meet_damage(&mut cluster, damaged);
        cluster.pass(Duration::from_secs(5));
        assert_eq!(given_up(&cluster), 1, "{:?}", roles(&cluster));
        assert!(can_write(&mut cluster));
    }
}

#[test]
fn what_a_leader_of_an_earlier_term_has_said_gives_nobody_up() {
    let mut cluster = led();
    pass_without(&mut cluster, 3, 2_000);
    // It has asked, and was not answered.
    meet_damage(&mut cluster, 2);
    pass_without(&mut cluster, 3, 100);
    let term = cluster.nodes[1].worker.status()[0].term;
    let spared = |cluster: &mut Cluster, from: u64, replica: u64, term: Term| {
        let mut builder = FrameBuilder::new(Origin {
            worker: 0,
            workers: 1,
        });
        builder.push_spared(GROUP, ReplicaId(replica), term);
        let (from, frame) = (NodeId(from), builder.finish().to_bytes());
        let now = cluster.now;
        let input = Input::Frame { from, frame };
        cluster.node(2).worker.handle(input, now);
        given_up(cluster)
    };
    assert_eq!(spared(&mut cluster, 1, 2, Term(term.0 - 1)), 0);
    assert_eq!(spared(&mut cluster, 1, 3, term), 0, "another is meant");
    assert_eq!(spared(&mut cluster, 3, 2, term), 0, "it does not lead");
    assert_eq!(spared(&mut cluster, 1, 2, term), 1);
}
