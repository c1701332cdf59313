//! Replicas compared, in nodes of this process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::Nodes;
use pontoon::comparison::{Comparison, Finding};
use pontoon_client::Client;
use pontoon_store::keys::Space;
use pontoon_store::{KvMachine, LsmSettings, LsmStore, Store, WriteBatch};
use pontoon_types::ShardId;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

async fn compare(client: &Client, patience: Duration) -> Comparison {
    Comparison::of(client, patience, |_, _| {}).await
}

/// Adds a row behind the back of everybody.
fn alter(data_dir: &Path, shard: ShardId, key: &[u8]) {
    let store = LsmStore::open(&data_dir.join("store"), LsmSettings::default()).unwrap();
    let machine = KvMachine::open(store).unwrap();
    let record = machine.replicas().find(|record| record.shard == shard);
    let tablet = record.unwrap().pieces.first();
    let mut batch = WriteBatch::new();
    batch.put(tablet, Space::Data, key, b"nobody wrote this");
    let mut store = machine.into_store();
    store.write(&mut batch).unwrap();
    store.flush().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_under_load_are_the_same_and_one_that_was_altered_is_found() {
    let nodes = Nodes::new(3);
    let mut servers = nodes.start().await;
    let client = nodes.client().await;
    let is_over = Arc::new(AtomicBool::new(false));
    let load = {
        let (client, is_over) = (client.clone(), is_over.clone());
        tokio::spawn(async move {
            let mut round = 0_u32;
            while !is_over.load(Ordering::Relaxed) {
                let key = [round as u8, 7];
                client.put(&key, &round.to_be_bytes()).await.unwrap();
                round += 1;
            }
            round
        })
    };
    // Far apart in time, so that replicas which were pinned at different moments would differ.
    for _ in 0..5 {
        let comparison = compare(&client, PATIENCE).await;
        assert_eq!(comparison.fault(), None, "{comparison:#?}");
        assert_eq!(comparison.shards.len(), 5, "four shards and the meta shard");
        let replicas: usize = comparison.shards.iter().map(|one| one.replicas.len()).sum();
        assert_eq!(replicas, 15);
    }
    is_over.store(true, Ordering::Relaxed);
    assert!(load.await.unwrap() > 0);

    let map = client.map().await.unwrap();
    let altered = map.route(b"\x01x").unwrap().shard;
    servers.remove(1).shutdown().await.unwrap();
    let hasty = client.with_timeout(Duration::from_secs(2));
    let fault = compare(&hasty, Duration::from_secs(2))
        .await
        .fault()
        .unwrap();
    assert!(
        fault.starts_with("5 replicas could not be compared") && fault.contains("on node 2"),
        "{fault}"
    );
    alter(&nodes.config(2).data_dir, altered, b"\x01x");
    servers.push(common::start(nodes.config(2)).await);

    let comparison = compare(&client, PATIENCE).await;
    let differing: Vec<_> = (comparison.shards.iter())
        .flat_map(|shard| shard.replicas.iter().map(move |one| (shard.shard, one)))
        .filter(|(_, replica)| replica.finding != Finding::Same)
        .map(|(shard, replica)| (shard, replica.node, replica.finding))
        .collect();
    assert_eq!(differing, [(altered.0, 2, Finding::Differs)]);
    let fault = comparison.fault().unwrap();
    let expected = format!("1 replica differs: shard {altered} on node 2");
    assert_eq!(fault, expected);
    for server in servers {
        server.shutdown().await.unwrap();
    }
}
