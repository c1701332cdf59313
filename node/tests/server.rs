//! The server by itself: three nodes in this process, with real directories, certificates and sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Nodes, group_on, until};
use pontoon::server::Server;
use pontoon::status::{NodeStatus, Role};
use pontoon_client::ClientError;
use pontoon_client::protocol::{MemberStep, RefusalCode};
use pontoon_types::NodeId;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_is_there_after_a_restart_in_the_same_process() {
    let nodes = Nodes::new(3);
    for round in 0..3u8 {
        let servers = nodes.start().await;
        let client = nodes.client().await;
        for key in 0..50u8 {
            if round > 0 {
                let value = client.get(&[key, 1]).await.unwrap();
                assert_eq!(
                    value.as_deref(),
                    Some(&[round - 1][..]),
                    "key {key} round {round}"
                );
            }
            client.put(&[key, 1], &[round]).await.unwrap();
        }
        // The client is still connected: a node that stops does not wait for it for ever.
        for server in servers {
            server.shutdown().await.unwrap();
        }
        drop(client);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_its_log_or_its_store_does_not_start() {
    for lost in ["log", "store"] {
        let nodes = Nodes::new(1);
        let server = Server::start(nodes.config(1)).await.unwrap();
        let client = nodes.client().await;
        client.put(b"key", b"value").await.unwrap();
        server.shutdown().await.unwrap();
        std::fs::remove_dir_all(nodes.config(1).data_dir.join(lost)).unwrap();
        let refused = Server::start(nodes.config(1))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("a part of the data directory is missing"),
            "{lost}: {refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_moves_to_another_node_and_serves_on() {
    let nodes = Nodes::new(4);
    let servers = nodes.start_with_one_shard(1..=4, 3).await;
    let client = nodes.client().await;
    for key in 0..200u8 {
        client.put(&[key], &[key; 100]).await.unwrap();
    }
    let (shard, group) = {
        let map = client.map().await.unwrap();
        let shard = map.shards().next().unwrap();
        (shard.clone(), shard.group.0)
    };
    let held: Vec<u64> = shard.replicas.iter().map(|one| one.node.0).collect();
    let joins = (1..=4).find(|node| !held.contains(node)).unwrap();
    let leaves = held[0];

    let step = MemberStep::AddLearner(NodeId(joins));
    client.change_members(shard.shard, &[step]).await.unwrap();
    let again = client.change_members(shard.shard, &[step]).await;
    assert!(
        matches!(
            again,
            Err(ClientError::Refused {
                code: RefusalCode::Members,
                ..
            })
        ),
        "{again:?}"
    );
    until(&client, "the learner has caught up", |nodes| {
        let learner = group_on(nodes, joins, group);
        learner.is_some_and(|learner| learner.applied >= 200)
    })
    .await;
    let steps = [
        MemberStep::AddVoter(NodeId(joins)),
        MemberStep::Remove(NodeId(leaves)),
    ];
    client.change_members(shard.shard, &steps).await.unwrap();
    until(&client, "the old replica has left", |nodes| {
        let joined = group_on(nodes, joins, group);
        let is_voter = joined.is_some_and(|joined| {
            let mut members = joined.members.iter();
            members.len() == 3 && members.any(|one| one.node == Some(joins) && one.voter)
        });
        is_voter && group_on(nodes, leaves, group).is_none()
    })
    .await;
    for key in 0..200u8 {
        let value = client.get(&[key]).await.unwrap();
        assert_eq!(value.as_deref(), Some(&[key; 100][..]), "key {key}");
        client.put(&[key], b"new").await.unwrap();
    }
    for server in servers {
        server.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_a_flipped_byte_in_its_log_is_rebuilt_and_the_others_serve_on() {
    let nodes = Nodes::new(3);
    let mut servers = nodes.start().await;
    let client = nodes.client().await;
    let value = |key: u8| format!("a value that is easy to find, of key {key}");
    for key in 0..100u8 {
        client.put(&[key], value(key).as_bytes()).await.unwrap();
    }
    // Node 2 stops. Before it starts again a byte of an entry in its log flips.
    servers.remove(1).shutdown().await.unwrap();
    let log = nodes.config(2).data_dir.join("log");
    let needle = value(7).into_bytes();
    let mut flipped = 0;
    for file in std::fs::read_dir(&log).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let found = bytes
            .windows(needle.len())
            .position(|window| window == needle);
        if let Some(at) = found {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1, "the entry is in one place of the log");
    servers.push(common::start(nodes.config(2)).await);

    until(
        &client,
        "the lost replica is replaced, and only that one",
        |nodes| {
            let whole = |node: &NodeStatus| node.groups.iter().all(|one| one.role != Role::Stopped);
            let on_two = nodes.iter().find(|node| node.node == 2);
            let renewed = on_two.map_or(0, |node| {
                node.groups.iter().filter(|one| one.replica > 3).count()
            });
            let settled = nodes
                .iter()
                .flat_map(|node| &node.groups)
                .all(|one| one.members.len() == 3 && one.members.iter().all(|member| member.voter));
            nodes.len() == 3 && nodes.iter().all(whole) && renewed == 1 && settled
        },
    )
    .await;
    for key in 0..100u8 {
        let read = client.get(&[key]).await.unwrap();
        assert_eq!(read.as_deref(), Some(value(key).as_bytes()), "key {key}");
        client.put(&[key], b"new").await.unwrap();
    }
    for server in servers {
        server.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_for_long_gets_snapshots_and_pins_nobodys_log() {
    let nodes = Nodes::new(3);
    let mut servers = nodes.start().await;
    let client = nodes.client().await;
    client.put(b"before", b"it left").await.unwrap();
    servers.remove(2).shutdown().await.unwrap();
    // Far more than the tail that the others keep, and enough for the store to flush again and again.
    let value = |round: u32| vec![round as u8; 50_000];
    for round in 0..400_u32 {
        let key = [b"key ", &round.to_be_bytes()[..]].concat();
        client.put(&key, &value(round)).await.unwrap();
    }
    until(&client, "the logs of the others were cut", |nodes| {
        let logs = nodes.iter().filter(|node| node.node != 3);
        logs.map(|node| node.log.live_bytes)
            .all(|bytes| bytes < 10 << 20)
    })
    .await;
    servers.push(common::start(nodes.config(3)).await);
    until(&client, "the node is back, by snapshots", |nodes| {
        let back = nodes.iter().find(|node| node.node == 3);
        let applied = |node: &NodeStatus| -> Vec<_> {
            node.groups
                .iter()
                .map(|one| (one.group, one.applied))
                .collect()
        };
        back.is_some_and(|back| {
            back.snapshots.received > 0 && nodes.iter().all(|node| applied(node) == applied(back))
        })
    })
    .await;
    // The one that was away serves what it was given: the others hold less than a majority without it.
    servers.remove(0).shutdown().await.unwrap();
    for round in 0..400_u32 {
        let key = [b"key ", &round.to_be_bytes()[..]].concat();
        assert_eq!(
            client.get(&key).await.unwrap().as_deref(),
            Some(&value(round)[..])
        );
    }
    for server in servers {
        server.shutdown().await.unwrap();
    }
}
