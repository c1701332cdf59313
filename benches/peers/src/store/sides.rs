//! The two sides, each with the same share of its memory for writes and for blocks that were read.

use crate::Failure;
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, UserValue};
use pontoon::connection::connect;
use pontoon::local::{Cluster, Layout};
use pontoon::workload::KeyStyle;
use pontoon_client::Client;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

/// Bytes of a key.
pub(super) const KEY_BYTES: u64 = 16;
/// Memtables that the memory for writes is divided into.
const MEMTABLES: u64 = 4;
/// Deadline of a call; generous, for what is slow is to be seen and not to fail.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Keys sampled to cut shards at, for each shard.
const SAMPLES_PER_SHARD: u64 = 8;

/// A key and its value.
pub(super) type Row<S> = (S, S);

/// Rows that clients put, get and scan.
pub(super) trait Rows: Clone + Send + Sync + 'static {
    const NAME: &'static str;
    /// Whether calls block their thread.
    const BLOCKS: bool;
    /// A key or a value that was read.
    type Slice: AsRef<[u8]> + Send;

    fn put(&self, key: Bytes, value: Vec<u8>) -> impl Future<Output = Result<(), Failure>> + Send;

    fn get(&self, key: Bytes) -> impl Future<Output = Result<Option<Self::Slice>, Failure>> + Send;

    /// So many rows from a key on, in key order.
    fn scan(
        &self,
        from: Bytes,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Row<Self::Slice>>, Failure>> + Send;
}

/// A node in a process of its own.
pub(super) struct Node {
    layout: Layout,
    cluster: Cluster,
    client: Client,
}

impl Node {
    pub(super) async fn start(directory: &Path, shards: u64, memory: u64) -> Result<Self, Failure> {
        let samples = shards * SAMPLES_PER_SHARD;
        let sample = KeyStyle::Hashed.sample(samples, samples);
        let place = directory.join("node");
        let settings = format!(
            "memtable-bytes = {}\nmax-memtables = {MEMTABLES}\nblock-cache-bytes = {}\nlog = \"warn\"\n",
            memory / 4 / MEMTABLES,
            memory - memory / 4,
        );
        let layout = Layout::make(Some(&place), 1, shards as usize, sample)?;
        let layout = layout.with_settings(&settings)?;
        let cluster = Cluster::start(&layout, true).await?;
        let client = connect(&layout.endpoints(), &layout.certs(), TIMEOUT).await?;
        Ok(Self {
            layout,
            cluster,
            client,
        })
    }

    pub(super) fn rows(&self) -> Client {
        self.client.clone()
    }

    /// The most resident memory that the node has had, in bytes, the mapped log and all.
    pub(super) fn peak_memory(&self) -> Result<u64, Failure> {
        let (node, _) = self.layout.nodes[0];
        let process = self.cluster.process_id(node).ok_or("the node has ended")?;
        peak_memory(&process.to_string())
    }

    pub(super) async fn stop(self) -> Result<(), Failure> {
        drop(self.client);
        Ok(self.cluster.stop().await?)
    }
}

impl Rows for Client {
    const NAME: &'static str = "node";
    const BLOCKS: bool = false;
    type Slice = Bytes;

    async fn put(&self, key: Bytes, value: Vec<u8>) -> Result<(), Failure> {
        Ok(Client::put(self, &key, &value).await?)
    }

    async fn get(&self, key: Bytes) -> Result<Option<Bytes>, Failure> {
        Ok(Client::get(self, &key).await?)
    }

    async fn scan(&self, from: Bytes, limit: usize) -> Result<Vec<Row<Bytes>>, Failure> {
        Ok(Client::scan(self, &from, None, limit).await?)
    }
}

/// fjall in this process.
#[derive(Clone)]
pub(super) struct Fjall {
    rows: Keyspace,
    database: Database,
}

impl Fjall {
    pub(super) fn open(directory: &Path, memory: u64) -> Result<Self, Failure> {
        let writes = memory / 4;
        let database = Database::builder(directory.join("fjall"))
            .cache_size(memory - writes)
            .open()?;
        let rows = database.keyspace("rows", || {
            KeyspaceCreateOptions::default().max_memtable_size(writes / MEMTABLES)
        })?;
        Ok(Self { rows, database })
    }

    /// Makes durable what was put.
    pub(super) fn sync(&self) -> Result<(), Failure> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}

impl Rows for Fjall {
    const NAME: &'static str = "fjall";
    const BLOCKS: bool = true;
    type Slice = UserValue;

    async fn put(&self, key: Bytes, value: Vec<u8>) -> Result<(), Failure> {
        Ok(self.rows.insert(&key[..], value)?)
    }

    async fn get(&self, key: Bytes) -> Result<Option<UserValue>, Failure> {
        Ok(self.rows.get(&key)?)
    }

    async fn scan(&self, from: Bytes, limit: usize) -> Result<Vec<Row<UserValue>>, Failure> {
        let rows = self.rows.range(&from[..]..).take(limit);
        rows.map(|row| Ok(row.into_inner()?)).collect()
    }
}

/// The most resident memory that a process has had, in bytes (`proc(5)`).
pub(super) fn peak_memory(process: &str) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|text| text.trim().strip_suffix(" kB"));
    let kib: u64 = kib.ok_or("the system tells no peak of memory")?.parse()?;
    Ok(kib << 10)
}
