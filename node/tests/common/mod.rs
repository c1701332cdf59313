//! Nodes in this process, with real directories, certificates and sockets.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(unreachable_pub, reason = "shared by several test binaries")]

use pontoon::server::{Server, ServerConfig};
use pontoon::status::{GroupStatus, NodeStatus};
use pontoon_client::{Client, ClientConfig};
use pontoon_store::Compression;
use pontoon_transport::{TlsIdentity, Who, certs};
use pontoon_types::{ClusterId, Limits, NodeId};
use pontoon_wal::WalConfig;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub struct Nodes {
    pub dir: TempDir,
    pub addresses: Vec<SocketAddr>,
}

impl Nodes {
    pub fn new(count: usize) -> Self {
        Self::of_cluster(ClusterId(7), count)
    }

    pub fn of_cluster(cluster: ClusterId, count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ids: Vec<_> = (1..=count as u64).map(NodeId).collect();
        let set = certs::generate(cluster, &ids).unwrap();
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

    /// Starts nodes at once, as the first start needs, with one shard of so many replicas.
    pub async fn start_with_one_shard(
        &self,
        ids: impl IntoIterator<Item = u64>,
        replication: usize,
    ) -> Vec<Server> {
        let starts = ids.into_iter().map(|id| {
            let config = ServerConfig {
                replication: Some(replication),
                shards: 1,
                ..self.config(id)
            };
            tokio::spawn(start(config))
        });
        let mut servers = Vec::new();
        for start in starts.collect::<Vec<_>>() {
            servers.push(start.await.unwrap());
        }
        servers
    }

    pub fn certs(&self) -> std::path::PathBuf {
        self.dir.path().join("certs")
    }

    pub fn config(&self, id: u64) -> ServerConfig {
        self.config_in(id, &self.dir.path().join(format!("node-{id}")))
    }

    pub fn config_in(&self, id: u64, data_dir: &Path) -> ServerConfig {
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
            log: WalConfig {
                segment_bytes: 1 << 20,
                max_bytes: 64 << 20,
                ..WalConfig::default()
            },
            election_timeout_ms: 750,
            heartbeat_interval_ms: 150,
            lease_reads: false,
            election_rank: 0,
            max_clock_drift_percent: 10,
            memtable_bytes: 4 << 20,
            max_memtables: 2,
            block_cache_bytes: 4 << 20,
            compression: Compression::Lz4,
            compaction_bytes_per_second: None,
            flush_interval: None,
            scrub_interval: None,
            scrub_bytes_per_second: NonZeroU64::MAX,
            snapshot_bytes_per_second: NonZeroU64::MIN.saturating_add(64 << 20),
            log_tail_entries: 16,
            held_for: Duration::from_secs(60),
        }
    }

    pub async fn start(&self) -> Vec<Server> {
        let starts = (1..=self.addresses.len() as u64).map(|id| {
            let config = self.config(id);
            tokio::spawn(start(config))
        });
        let mut servers = Vec::new();
        for start in starts.collect::<Vec<_>>() {
            servers.push(start.await.unwrap());
        }
        servers
    }

    pub async fn client(&self) -> Client {
        let identity = TlsIdentity::load(&self.certs(), Who::Client).unwrap();
        let endpoints: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        Client::connect(ClientConfig::new(endpoints, identity))
            .await
            .unwrap()
    }
}

/// Starts a node. The socket of an earlier life goes with the last task that used it, which may be a moment after the node
/// has stopped.
pub async fn start(config: ServerConfig) -> Server {
    for _ in 0..500 {
        if UdpSocket::bind(config.listen).is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Server::start(config).await.unwrap()
}

/// Waits until the nodes' own words satisfy a condition, which gets the answer of each.
pub async fn until(client: &Client, what: &str, holds: impl Fn(&[NodeStatus]) -> bool) {
    let started = Instant::now();
    loop {
        let answers = client.statuses().await.into_iter();
        let nodes: Vec<NodeStatus> = answers
            .filter_map(|(_, answer)| serde_json::from_slice(&answer.ok()?).ok())
            .collect();
        if holds(&nodes) {
            return;
        }
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "after 30 s still not so: {what}: {nodes:#?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub fn group_on(nodes: &[NodeStatus], node: u64, group: u64) -> Option<&GroupStatus> {
    let node = nodes.iter().find(|status| status.node == node)?;
    node.groups.iter().find(|status| status.group == group)
}
