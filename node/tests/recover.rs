//! Five nodes of which three are lost: what becomes of those that were not chosen, and of those that come back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Nodes, group_on, until};
use pontoon::recovery::Recovery;
use pontoon::recovery::plan::Decision;
use pontoon::server::Server;
use pontoon::status::{NodeStatus, Role};
use pontoon_client::protocol::MemberStep;
use pontoon_types::{GroupId, NodeId, ShardId};
use std::collections::BTreeSet;

const LOST: [NodeId; 3] = [NodeId(3), NodeId(4), NodeId(5)];
const META: u64 = GroupId::META.0;
/// The only group beside the meta group, and its shard.
const GROUP: u64 = 2;

async fn start(nodes: &Nodes, ids: impl IntoIterator<Item = u64>) -> Vec<Server> {
    nodes.start_with_one_shard(ids, 5).await
}

/// Five nodes with some rows, all of them stopped, and both groups recovered on node 1.
async fn recovered() -> Nodes {
    let nodes = Nodes::new(5);
    let servers = start(&nodes, 1..=5).await;
    let client = nodes.client().await;
    for key in 0..50u8 {
        client.put(&[key], &[key; 100]).await.unwrap();
    }
    until(&client, "all have applied the same", |nodes| {
        let of_group = |group| {
            let applied = (1..=5).map(move |node| group_on(nodes, node, group));
            applied
                .map(|one| one.map(|one| one.applied))
                .collect::<BTreeSet<_>>()
        };
        of_group(META).len() == 1 && of_group(GROUP).len() == 1
    })
    .await;
    for server in servers {
        server.shutdown().await.unwrap();
    }
    let dir = nodes.config(1).data_dir;
    let lost = || LOST.into_iter().collect();
    let unnamed = Recovery::open(&dir, lost(), None).unwrap();
    let others = Decision::OthersSurvive { nodes: vec![2] };
    assert!(unnamed.plans().iter().all(|plan| plan.decision == others));
    unnamed.close().unwrap();
    let groups = [META, GROUP].map(GroupId).into_iter().collect();
    let mut named = Recovery::open(&dir, lost(), Some(&groups)).unwrap();
    assert!(
        named
            .plans()
            .iter()
            .all(|plan| plan.decision == Decision::Recover)
    );
    named.carry_out().unwrap();
    named.close().unwrap();
    nodes
}

/// Whether node 1 alone has replicas of the groups, and leads them.
fn only_node_1_is_left(nodes: &[NodeStatus]) -> bool {
    [META, GROUP].into_iter().all(|group| {
        let others = (2..=5).any(|node| group_on(nodes, node, group).is_some());
        let own = group_on(nodes, 1, group);
        !others && own.is_some_and(|own| own.role == Role::Leader && own.forced.is_some())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_survivor_leaves_and_gets_a_new_replica() {
    let nodes = recovered().await;
    for node in LOST {
        std::fs::remove_dir_all(nodes.config(node.0).data_dir).unwrap();
    }
    let servers = start(&nodes, [1, 2]).await;
    let client = nodes.client().await;
    until(&client, "the other survivor has left", only_node_1_is_left).await;

    let shard = ShardId(GROUP);
    let step = MemberStep::AddLearner(NodeId(2));
    client.change_members(shard, &[step]).await.unwrap();
    until(&client, "the new replica has caught up", |nodes| {
        let applied = |node| group_on(nodes, node, GROUP).map(|one| one.applied);
        applied(2).is_some() && applied(2) == applied(1)
    })
    .await;
    let step = MemberStep::AddVoter(NodeId(2));
    client.change_members(shard, &[step]).await.unwrap();
    for key in 0..50u8 {
        let value = client.get(&[key]).await.unwrap();
        assert_eq!(value.as_deref(), Some(&[key; 100][..]), "key {key}");
    }
    for server in servers {
        server.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_majority_that_came_back_leaves_when_the_survivor_is_there() {
    let nodes = recovered().await;
    let old = start(&nodes, 3..=5).await;
    let client = nodes.client().await;
    until(&client, "the old group has a leader again", |nodes| {
        let mut roles = (3..=5).map(|node| group_on(nodes, node, GROUP).map(|one| one.role));
        roles.any(|role| role == Some(Role::Leader))
    })
    .await;
    // It is the old group, and serves as such: nobody could tell.
    client.put(b"late", b"lost").await.unwrap();
    let survivor = start(&nodes, [1]).await;
    until(&client, "the old group has left", only_node_1_is_left).await;
    let client = nodes.client().await;
    assert_eq!(client.get(b"late").await.unwrap(), None);
    assert_eq!(
        client.get(&[7]).await.unwrap().as_deref(),
        Some(&[7; 100][..])
    );
    client.put(b"late", b"new").await.unwrap();
    for server in old.into_iter().chain(survivor) {
        server.shutdown().await.unwrap();
    }
}
