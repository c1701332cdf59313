//! A flipped byte in the log of a node that runs, which the node finds by itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Nodes, group_on, start, until};
use pontoon::server::ServerConfig;
use pontoon::status::{NodeStatus, Role};
use pontoon_client::Client;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const GROUPS: u64 = 5;
const ROW: &[u8] = b"a value that is found in a file";

/// Flips a byte of the newest copy of the row; returns its segment.
fn flip(log: &Path) -> String {
    let names = fs::read_dir(log).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names
        .filter(|name| name.len() == 14 && name.ends_with(".seg"))
        .collect();
    names.sort();
    for name in names.into_iter().rev() {
        let bytes = fs::read(log.join(&name)).unwrap();
        if let Some(at) = bytes.windows(ROW.len()).rposition(|it| it == ROW) {
            let file = fs::File::options()
                .write(true)
                .open(log.join(&name))
                .unwrap();
            file.write_all_at(b"A", at as u64).unwrap();
            return name;
        }
    }
    panic!("the row is not in the log");
}

/// The replicas of a node with their terms.
async fn replicas(client: &Client) -> Vec<(u64, u64)> {
    let answers = client.statuses().await.into_iter();
    let mut nodes = answers
        .map(|(_, answer)| -> NodeStatus { serde_json::from_slice(&answer.unwrap()).unwrap() });
    let node = nodes.find(|node| node.node == 2).unwrap();
    let groups = node.groups.iter();
    groups.map(|group| (group.replica, group.term)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_a_running_log_is_found_told_and_healed_and_a_restart_is_none_the_wiser() {
    let nodes = Nodes::new(3);
    let config = |id| ServerConfig {
        scrub_interval: Some(Duration::from_secs(1)),
        ..nodes.config(id)
    };
    let starts: Vec<_> = (1..=3).map(|id| tokio::spawn(start(config(id)))).collect();
    let mut servers = Vec::new();
    for start in starts {
        servers.push(start.await.unwrap());
    }
    let client = nodes.client().await;
    for key in 0..200u8 {
        client.put(&[key, 1], ROW).await.unwrap();
    }
    let has_all = |nodes: &[NodeStatus]| {
        (1..=GROUPS).all(|group| {
            let applied = |node| group_on(nodes, node, group).map(|it| it.applied);
            applied(2).is_some() && applied(1) == applied(2) && applied(3) == applied(2)
        })
    };
    until(&client, "all is applied and read", |nodes| {
        has_all(nodes) && nodes.iter().all(|node| node.log.scrubs > 0)
    })
    .await;
    let before = replicas(&client).await;
    let log = nodes.config(2).data_dir.join("log");
    let segment = flip(&log);
    until(&client, "the damage is found and gone", |nodes| {
        let log = &nodes.iter().find(|node| node.node == 2).unwrap().log;
        log.damaged_found == 1 && log.damaged.is_empty() && log.scrubbed_at_s.is_some()
    })
    .await;
    until(&client, "its segment has gone", |_| {
        !log.join(&segment).exists()
    })
    .await;
    assert_eq!(replicas(&client).await, before, "somebody has noticed");
    servers.remove(1).shutdown().await.unwrap();
    servers.insert(1, start(config(2)).await);
    until(&client, "the node is whole after a restart", |nodes| {
        let group = |group| group_on(nodes, 2, group);
        (1..=GROUPS).all(|id| group(id).is_some_and(|it| it.role != Role::Stopped))
            && has_all(nodes)
    })
    .await;
    for (now, before) in replicas(&client).await.iter().zip(&before) {
        assert_eq!(now.0, before.0, "a replica was rebuilt");
    }
    for key in 0..200u8 {
        assert_eq!(client.get(&[key, 1]).await.unwrap().as_deref(), Some(ROW));
    }
    for server in servers {
        server.shutdown().await.unwrap();
    }
}
