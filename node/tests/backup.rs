//! Backups taken under load, and brought back to other clusters, in nodes of this process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::Nodes;
use pontoon::backup::manifest::Manifest;
use pontoon::backup::restore::{compare, restore};
use pontoon::backup::take::{Options, Progress, Taken, take};
use pontoon::server::{Server, ServerConfig};
use pontoon_client::{Client, Mutation};
use pontoon_types::ClusterId;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Two keys of one shard that are always written together.
const TWINS: [&[u8]; 2] = [b"\x01 a twin", b"\x01 the other twin"];

fn key(number: u16) -> Vec<u8> {
    [&number.to_be_bytes()[..], b"key"].concat()
}

fn value(number: u16) -> Vec<u8> {
    vec![number as u8; 200]
}

/// Far apart in the key space, so that all shards have some.
fn numbers() -> impl Iterator<Item = u16> {
    (0..2_000).map(|number| number * 32)
}

async fn back_up(client: &Client, dir: &Path) -> Taken {
    let options = Options {
        chunk_bytes: 8 << 10,
        ..Options::default()
    };
    take(client, dir, options, |_| {}).await.unwrap()
}

async fn bring_back(client: &Client, dir: &Path, force: bool) -> Result<(), String> {
    let (_, manifest) = Manifest::read(dir, None).unwrap();
    let patience = Duration::from_secs(20);
    let restored = restore(client, dir, &manifest, force, patience, |_, _| {}).await;
    restored.map_err(|error| error.to_string())
}

fn any_chunk(dir: &Path) -> PathBuf {
    let shelf = std::fs::read_dir(dir.join("chunks")).unwrap().next();
    let mut chunks = std::fs::read_dir(shelf.unwrap().unwrap().path()).unwrap();
    chunks.next().unwrap().unwrap().path()
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

async fn twins(client: &Client) -> [u64; 2] {
    let mut found = [0; 2];
    for (found, key) in found.iter_mut().zip(TWINS) {
        let value = client.get(key).await.unwrap().unwrap();
        *found = u64::from_be_bytes(value[..].try_into().unwrap());
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_brought_back_to_another_cluster_and_a_flipped_byte_is_refused() {
    let nodes = Nodes::new(3);
    let servers = nodes.start().await;
    let client = nodes.client().await;
    let rows: Vec<_> = numbers()
        .map(|number| (key(number), value(number)))
        .collect();
    for shard in rows.chunks(500) {
        for batch in shard.chunks(100) {
            for (key, value) in batch {
                client.put(key, value).await.unwrap();
            }
        }
    }
    let (is_over, acknowledged) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let load = {
        let (client, is_over, acknowledged) =
            (client.clone(), is_over.clone(), acknowledged.clone());
        tokio::spawn(async move {
            let mut round = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                round += 1;
                let value = &round.to_be_bytes()[..];
                let mutations = TWINS.map(|key| Mutation::Put { key, value });
                client.write_batch(&mutations).await.unwrap();
                acknowledged.store(round, Ordering::Relaxed);
            }
        })
    };
    while acknowledged.load(Ordering::Relaxed) < 10 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let dir = nodes.dir.path().join("backups");
    let before = acknowledged.load(Ordering::Relaxed);
    let first = back_up(&client, &dir).await;
    is_over.store(true, Ordering::Relaxed);
    load.await.unwrap();
    let after = acknowledged.load(Ordering::Relaxed);
    assert_eq!(first.manifest.rows(), rows.len() as u64 + 2);
    assert_eq!((first.reused.chunks, first.manifest.shards.len()), (0, 4));

    // Another number of nodes, and of shards.
    let others = Nodes::of_cluster(ClusterId(8), 1);
    let config = ServerConfig {
        shards: 7,
        ..others.config(1)
    };
    let other = Server::start(config).await.unwrap();
    let restored = others.client().await;
    let chunk = any_chunk(&dir);
    flip(&chunk);
    let refused = bring_back(&restored, &dir, false).await.unwrap_err();
    assert!(
        refused.contains("is damaged") && refused.contains(chunk.to_str().unwrap()),
        "{refused}"
    );
    assert!(
        restored.scan(b"", None, 1).await.unwrap().is_empty(),
        "nothing was written"
    );
    flip(&chunk);

    bring_back(&restored, &dir, false).await.unwrap();
    let found = restored.scan(b"", None, usize::MAX).await.unwrap();
    let others_found: Vec<_> = (found.iter())
        .filter(|(key, _)| !TWINS.contains(&&key[..]))
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .collect();
    assert_eq!(others_found, rows);
    let [one, other_one] = twins(&restored).await;
    assert_eq!(one, other_one, "a shard is of one moment");
    assert!(
        (before..=after).contains(&one),
        "{before} <= {one} <= {after}"
    );

    let refused = bring_back(&restored, &dir, false).await.unwrap_err();
    assert!(refused.contains("not empty"), "{refused}");
    restored.put(&key(32), b"changed").await.unwrap();
    restored.put(b"stranger", b"stays").await.unwrap();
    bring_back(&restored, &dir, true).await.unwrap();
    assert_eq!(restored.get(&key(32)).await.unwrap().unwrap(), value(32));
    assert!(restored.get(b"stranger").await.unwrap().is_some());

    // What differs afterwards is found.
    let (_, manifest) = Manifest::read(&dir, None).unwrap();
    let compare = async |strangers| {
        let compared = compare(&restored, &dir, &manifest, strangers, |_| {}).await;
        compared.map_err(|error| error.to_string())
    };
    compare(true).await.unwrap();
    let differs = compare(false).await.unwrap_err();
    assert!(
        differs.ends_with("first: key \"stranger\" is not in the backup"),
        "{differs}"
    );
    restored.delete(b"stranger").await.unwrap();
    compare(false).await.unwrap();
    restored.put(TWINS[0], b"another").await.unwrap();
    let differs = compare(true).await.unwrap_err();
    assert!(differs.ends_with("has another value"), "{differs}");
    restored.delete(TWINS[0]).await.unwrap();
    let differs = compare(true).await.unwrap_err();
    assert!(differs.ends_with("is missing"), "{differs}");
    other.shutdown().await.unwrap();

    // One row more, and the twins, which have changed since: most of what there is is there already.
    client.put(&key(9_001), b"new").await.unwrap();
    let second = back_up(&client, &dir).await;
    assert_ne!(second.id, first.id);
    assert_eq!(second.manifest.rows(), first.manifest.rows() + 1);
    let (written, all) = (second.written.bytes, second.manifest.bytes());
    assert!(written > 0 && written * 5 < all, "{written} of {all} bytes");
    assert_eq!(written + second.reused.bytes, all);
    for server in servers {
        server.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_goes_on_while_a_node_is_away() {
    let nodes = Nodes::new(3);
    let mut servers = nodes.start().await;
    let client = nodes.client().await;
    for number in numbers().step_by(10) {
        client.put(&key(number), &value(number)).await.unwrap();
    }
    servers.remove(2).shutdown().await.unwrap();
    let dir = nodes.dir.path().join("backups");
    let client = client.with_timeout(Duration::from_secs(2));
    let taken = back_up(&client, &dir).await;
    assert_eq!(taken.manifest.rows(), 200);
    for server in servers {
        server.shutdown().await.unwrap();
    }
}

/// Three pages of rows, on a node that reads a page in two seconds.
async fn slow_to_read(held_for: Duration) -> (Nodes, ServerConfig, Server, Client) {
    let nodes = Nodes::new(1);
    let config = ServerConfig {
        shards: 1,
        snapshot_bytes_per_second: NonZeroU64::MIN.saturating_add(512 << 10),
        held_for,
        ..nodes.config(1)
    };
    let server = Server::start(config.clone()).await.unwrap();
    let client = nodes.client().await;
    for number in 0..200 {
        client.put(&key(number), &[7; 16 << 10]).await.unwrap();
    }
    (nodes, config, server, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_is_held_as_long_as_a_backup_copies_it_however_slow_it_is() {
    let (nodes, _, server, client) = slow_to_read(Duration::from_secs(1)).await;
    let options = Options {
        patience: Duration::from_millis(100),
        renew_every: Duration::from_millis(200),
        ..Options::default()
    };
    let dir = nodes.dir.path().join("backups");
    let taken = take(&client, &dir, options, |_| {}).await.unwrap();
    assert_eq!(taken.manifest.rows(), 200);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_whose_state_is_gone_everywhere_is_begun_again() {
    let (nodes, config, server, client) = slow_to_read(Duration::from_secs(60)).await;
    let options = Options {
        patience: Duration::from_secs(1),
        chunk_bytes: 64 << 10,
        ..Options::default()
    };
    let dir = nodes.dir.path().join("backups");
    let (copying, mut copies) = tokio::sync::mpsc::unbounded_channel();
    let backup = {
        let (client, dir) = (client.clone(), dir.clone());
        let tell = move |progress: Progress| {
            if progress.bytes > 0 {
                let _ = copying.send(());
            }
        };
        tokio::spawn(async move { take(&client, &dir, options, tell).await })
    };
    copies.recv().await.unwrap();
    server.shutdown().await.unwrap();
    let server = Server::start(config).await.unwrap();
    let taken = backup.await.unwrap().unwrap();
    assert_eq!(taken.manifest.rows(), 200);
    assert_eq!(taken.written.bytes, taken.manifest.bytes());
    compare(&client, &dir, &taken.manifest, false, |_| {})
        .await
        .unwrap();
    server.shutdown().await.unwrap();
}
