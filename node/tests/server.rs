//! The server by itself: three nodes in this process, with real directories, certificates and sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use pontoon::server::{Server, ServerConfig};
use pontoon_client::{Client, ClientConfig};
use pontoon_store::Compression;
use pontoon_transport::{TlsIdentity, Who, certs};
use pontoon_types::{ClusterId, Limits, NodeId};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use tempfile::TempDir;

struct Nodes {
    dir: TempDir,
    addresses: Vec<SocketAddr>,
}

impl Nodes {
    fn new(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ids: Vec<_> = (1..=count as u64).map(NodeId).collect();
        let set = certs::generate(ClusterId(7), &ids).unwrap();
        set.write_to(&dir.path().join("certs")).unwrap();
        let sockets: Vec<_> = ids
            .iter()
            .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        let addresses = sockets
            .iter()
            .map(|socket| socket.local_addr().unwrap())
            .collect();
        Self { dir, addresses }
    }

    fn certs(&self) -> std::path::PathBuf {
        self.dir.path().join("certs")
    }

    fn config(&self, id: u64) -> ServerConfig {
        self.config_in(id, &self.dir.path().join(format!("node-{id}")))
    }

    fn config_in(&self, id: u64, data_dir: &Path) -> ServerConfig {
        let peers = (1..)
            .map(NodeId)
            .zip(self.addresses.iter().map(ToString::to_string));
        ServerConfig {
            id: NodeId(id),
            data_dir: data_dir.to_owned(),
            listen: self.addresses[id as usize - 1],
            certs: self.certs(),
            peers: peers.collect(),
            shards: 4,
            split_keys: None,
            replication: None,
            workers: 2,
            limits: Limits::default(),
            segment_bytes: 1 << 20,
            max_log_bytes: 64 << 20,
            election_timeout_ms: 750,
            heartbeat_interval_ms: 150,
            lease_reads: false,
            max_clock_drift_percent: 10,
            memtable_bytes: 4 << 20,
            max_memtables: 2,
            block_cache_bytes: 4 << 20,
            compression: Compression::Lz4,
            compaction_bytes_per_second: None,
        }
    }

    async fn start(&self) -> Vec<Server> {
        let starts = (1..=self.addresses.len() as u64).map(|id| {
            let config = self.config(id);
            tokio::spawn(async move { Server::start(config).await.unwrap() })
        });
        let mut servers = Vec::new();
        for start in starts.collect::<Vec<_>>() {
            servers.push(start.await.unwrap());
        }
        servers
    }

    async fn client(&self) -> Client {
        let identity = TlsIdentity::load(&self.certs(), Who::Client).unwrap();
        let endpoints: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        Client::connect(ClientConfig::new(endpoints, identity))
            .await
            .unwrap()
    }
}

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
