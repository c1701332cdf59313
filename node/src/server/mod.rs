//! The server: wires log, store, engine, transport and map into one node.

use bytes::Bytes;
use pontoon_types::{Limits, NodeId};
use std::net::SocketAddr;
use std::path::PathBuf;
use thiserror::Error;

/// All that a node must be told.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The node.
    pub id: NodeId,
    /// Where its log and its store are.
    pub data_dir: PathBuf,
    /// The UDP address it listens on.
    pub listen: SocketAddr,
    /// The address under which others reach it, if it is not the one in `peers`.
    pub advertise: Option<String>,
    /// The directory with `ca.pem`, `node-N.pem` and `node-N.key`.
    pub certs: PathBuf,
    /// All nodes of the cluster, this one included.
    pub peers: Vec<(NodeId, String)>,
    /// Shards that the key space is cut into at first start.
    pub shards: usize,
    /// Where to cut; `None`: evenly.
    pub split_keys: Option<Vec<Bytes>>,
    /// Replicas of each shard; `None`: three, or as many as there are nodes.
    pub replication: Option<usize>,
    /// Threads that own groups.
    pub workers: usize,
    /// The largest key, value and command.
    pub limits: Limits,
    /// Size of a log segment.
    pub segment_bytes: u64,
    /// Bound on the whole log.
    pub max_log_bytes: u64,
    /// A follower stands for election after one to two of these without a leader.
    pub election_timeout_ms: u64,
    /// How often a leader that has nothing to say is heard.
    pub heartbeat_interval_ms: u64,
    /// Size at which the store's table in memory is flushed.
    pub memtable_bytes: u64,
    /// Size of the store's block cache.
    pub block_cache_bytes: u64,
}

/// Why a node did not start, or had to stop.
#[derive(Debug, Error)]
pub enum ServerError {
    /// There is no server in this build.
    #[error("this build has no server")]
    Unavailable,
}

/// What a node has counted.
#[derive(Clone, Debug, Default)]
pub struct ServerStats {}

/// A running node.
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
}

impl Server {
    /// Opens the data directory, recovers and joins the others.
    ///
    /// # Errors
    /// If anything it needs is missing, damaged or another's.
    pub async fn start(config: ServerConfig) -> Result<Self, ServerError> {
        let _ = config;
        Err(ServerError::Unavailable)
    }

    /// The address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What it has counted.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        ServerStats::default()
    }

    /// Resolves when the node must stop.
    pub async fn failed(&self) -> ServerError {
        std::future::pending().await
    }

    /// Drains and stops.
    ///
    /// # Errors
    /// If what was accepted could not be made durable.
    pub async fn shutdown(self) -> Result<(), ServerError> {
        Ok(())
    }
}
