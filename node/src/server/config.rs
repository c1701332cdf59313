//! What a node must be told.

use bytes::Bytes;
use pontoon_engine::EngineConfig;
use pontoon_engine::snapshot::SnapshotSettings;
use pontoon_store::{Compression, LsmSettings};
use pontoon_types::{Limits, NodeId};
use pontoon_wal::WalConfig;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

/// All that a node must be told.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The node.
    pub id: NodeId,
    /// Where its log and its store are.
    pub data_dir: PathBuf,
    /// The UDP address it listens on, for nodes and clients alike.
    pub listen: SocketAddr,
    /// The directory with `ca.pem`, `node-N.pem` and `node-N.key`.
    pub certs: PathBuf,
    /// All nodes of the cluster, this one included, with the addresses under which they are reached.
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
    /// The log's sizes, and when it syncs.
    pub log: WalConfig,
    /// A follower stands for election after one to two of these without a leader.
    pub election_timeout_ms: u64,
    /// How often a leader that has nothing to say is heard.
    pub heartbeat_interval_ms: u64,
    /// Whether leaders serve reads under a lease.
    pub lease_reads: bool,
    /// By how much the clocks of nodes may drift against each other.
    pub max_clock_drift_percent: u8,
    /// How willing the node is to lead; 0 is the most.
    pub election_rank: u32,
    /// Size at which the store's table in memory is flushed.
    pub memtable_bytes: u64,
    /// How many of them there may be, the one that takes writes included, before writes wait; at least 2.
    pub max_memtables: usize,
    /// Size of the store's block cache.
    pub block_cache_bytes: u64,
    /// How the store's tables are compressed.
    pub compression: Compression,
    /// After how long the store flushes what it has, however little; `None`: only when there is much.
    pub flush_interval: Option<Duration>,
    /// Bytes per second that the store merges in the background at most.
    pub compaction_bytes_per_second: Option<NonZeroU64>,
    /// How often all tables of the store and all of the log are read and held against their checksums; `None`: never.
    pub scrub_interval: Option<Duration>,
    /// Bytes per second that are read for that at most, of both together.
    pub scrub_bytes_per_second: NonZeroU64,
    /// Bytes per second that are moved in snapshots at most.
    pub snapshot_bytes_per_second: NonZeroU64,
    /// Entries per group that the log keeps for replicas that lag.
    pub log_tail_entries: u64,
    /// How long a state that a mark has pinned is held after somebody has asked for it.
    pub held_for: Duration,
}

impl ServerConfig {
    pub(super) fn engine(&self) -> EngineConfig {
        EngineConfig {
            workers: self.workers,
            election_timeout: Duration::from_millis(self.election_timeout_ms),
            heartbeat_interval: Duration::from_millis(self.heartbeat_interval_ms),
            lease_reads: self.lease_reads,
            max_clock_drift_percent: self.max_clock_drift_percent,
            election_rank: self.election_rank,
            wal: self.log.clone(),
            flush_interval: self.flush_interval,
            log_tail_entries: self.log_tail_entries,
            held_for: self.held_for,
            snapshots: SnapshotSettings {
                bytes_per_second: self.snapshot_bytes_per_second.get(),
                ..SnapshotSettings::default()
            },
            seed: rand::random(),
            ..EngineConfig::default()
        }
    }

    pub(super) fn store(&self) -> LsmSettings {
        LsmSettings {
            memtable_bytes: self.memtable_bytes,
            max_sealed_memtables: self.max_memtables - 1,
            block_cache_bytes: self.block_cache_bytes,
            compression: self.compression,
            compaction_bytes_per_second: self.compaction_bytes_per_second,
            scrub_interval: self.scrub_interval,
            scrub_bytes_per_second: self.scrub_bytes_per_second,
            ..LsmSettings::default()
        }
    }
}
