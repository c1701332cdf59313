//! Three nodes as processes, each on a disk of its own that can be made too small.

use crate::disk::{Mount, Scratch, mount_tmpfs_at};
use crate::failure::{Failure, must};
use crate::writers::Books;
use pontoon::comparison::Comparison;
use pontoon::connection::connect;
use pontoon::local::{Cluster, Layout};
use pontoon::status::{NodeStatus, Role};
use pontoon_client::Client;
use pontoon_store::{LsmSettings, LsmStore};
use pontoon_types::NodeId;
use pontoon_wal::inspect;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const NODES: u64 = 3;
/// A disk with room for everything that is written here.
pub(crate) const LARGE: u64 = 512 << 20;
/// How long the cluster may take to be as it should be.
const PATIENCE: Duration = Duration::from_secs(30);
/// The deadline of a call: so long a client that is refused keeps trying.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long replicas that do not come to a mark are waited for.
const COMPARED_WITHIN: Duration = Duration::from_secs(2);
/// The group of the only shard that is not the map.
const GROUP: u64 = 2;
/// Small, so that flushes, merges, cuts of the log and snapshots come soon.
const SETTINGS: &str = "\
segment-bytes = \"1MiB\"
memtable-bytes = \"1MiB\"
max-memtables = 2
block-cache-bytes = \"8MiB\"
log-tail-entries = 16
log = \"warn\"
";

/// A cluster with one shard.
pub(crate) struct Nodes {
    // Declared in this order: the processes end before their disks go.
    cluster: Cluster,
    pub(crate) client: Client,
    disks: Vec<Mount>,
    layout: Layout,
}

impl Nodes {
    pub(crate) async fn start(scratch: &Scratch) -> Result<Self, Failure> {
        let planning = Failure::node("planning a cluster");
        let directory = scratch.path().join("cluster");
        let layout = Layout::make(Some(&directory), NODES, 1, vec![b"a".as_slice().into()]);
        let layout = match layout {
            Ok(layout) => layout.with_settings(SETTINGS),
            Err(error) => Err(error),
        };
        let layout = layout.map_err(planning)?;
        let place = |node: u64| layout.directory().join(format!("node-{node}"));
        let disks = (1..=NODES).map(|node| mount_tmpfs_at(place(node), LARGE));
        let disks = disks.collect::<Result<_, _>>()?;
        let cluster = Cluster::start(&layout, true).await;
        let cluster = cluster.map_err(Failure::node("starting the nodes"))?;
        let client = client_of(&layout).await?;
        Ok(Self {
            cluster,
            client,
            disks,
            layout,
        })
    }

    pub(crate) fn disk(&self, node: u64) -> &Mount {
        &self.disks[node as usize - 1]
    }

    pub(crate) fn disks(&self) -> &[Mount] {
        &self.disks
    }

    pub(crate) async fn kill(&mut self, node: u64) -> Result<(), Failure> {
        let killed = self.cluster.kill(&self.layout, NodeId(node)).await;
        killed.map_err(Failure::node("killing a node"))
    }

    pub(crate) async fn start_again(&mut self, node: u64) -> Result<(), Failure> {
        let started = self.cluster.start_again(&self.layout, NodeId(node));
        started.map_err(Failure::node("starting a node again"))?;
        let ready = self.cluster.wait_until_ready(&self.layout).await;
        ready.map_err(Failure::node("starting a node again"))
    }

    /// The last line of a node's log with these words.
    pub(crate) fn said(&self, node: u64, words: &str) -> Result<String, Failure> {
        let path = self.layout.directory().join(format!("node-{node}.log"));
        let log = std::fs::read_to_string(path);
        let log = log.map_err(Failure::system("read what a node has said"))?;
        let mut lines = log.lines().rev();
        Ok(lines
            .find(|line| line.contains(words))
            .unwrap_or_default()
            .to_owned())
    }

    /// What the nodes say about themselves.
    async fn statuses(&self) -> Vec<NodeStatus> {
        let answers = self.client.statuses().await.into_iter();
        let parse = |answer: bytes::Bytes| serde_json::from_slice(&answer).ok();
        answers
            .filter_map(|(_, answer)| parse(answer.ok()?))
            .collect()
    }

    /// Waits until what the nodes say is as it should be. None may end meanwhile.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        mut holds: impl FnMut(&[NodeStatus]) -> bool,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        loop {
            let whole = self.cluster.is_whole(&self.layout);
            whole.map_err(Failure::node("waiting for what nodes say"))?;
            let statuses = self.statuses().await;
            if holds(&statuses) {
                return Ok(());
            }
            must(began.elapsed() < PATIENCE, || {
                format!("after {PATIENCE:?} still not so: {what}: {statuses:#?}")
            })?;
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The node that leads the shard.
    pub(crate) async fn leader(&mut self) -> Result<u64, Failure> {
        let mut leader = None;
        self.until("somebody leads", |statuses| {
            leader = statuses.iter().find_map(|status| {
                let mut groups = status.groups.iter();
                let leads = groups.any(|one| one.group == GROUP && one.role == Role::Leader);
                leads.then_some(status.node)
            });
            leader.is_some()
        })
        .await?;
        Ok(leader.expect("it was waited for"))
    }

    /// `pontoon verify`, until all replicas are there and the same. What differs never becomes the same by waiting.
    pub(crate) async fn are_the_same(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        loop {
            let whole = self.cluster.is_whole(&self.layout);
            whole.map_err(Failure::node("comparing replicas"))?;
            let compared = Comparison::of(&self.client, COMPARED_WITHIN, |_, _| {}).await;
            let Some(fault) = compared.fault() else {
                return Ok(());
            };
            must(
                began.elapsed() < PATIENCE && !fault.contains("differ"),
                || format!("replicas compared: {fault}"),
            )?;
        }
    }

    /// When all is over: everything acknowledged is there, also after a restart; all replicas are the same; no file is damaged.
    /// How many rows there are.
    pub(crate) async fn end(mut self, books: &Books) -> Result<u64, Failure> {
        books.check(&self.client).await?;
        self.are_the_same().await?;
        for node in 1..=NODES {
            self.kill(node).await?;
        }
        for node in 1..=NODES {
            let data = self.disk(node).path().to_owned();
            let examined = tokio::task::spawn_blocking(move || examine(data)).await;
            examined.expect("looking at files does not panic")?;
        }
        self.layout.wait_for_ports().await;
        let started = Cluster::start(&self.layout, true).await;
        self.cluster = started.map_err(Failure::node("starting all nodes again"))?;
        self.client = client_of(&self.layout).await?;
        let patient = self.client.with_timeout(PATIENCE);
        let rows = books.check(&patient).await?;
        self.are_the_same().await?;
        let stopped = self.cluster.stop().await;
        stopped.map_err(Failure::node("stopping the nodes"))?;
        Ok(rows)
    }
}

/// One that knows nothing yet.
async fn client_of(layout: &Layout) -> Result<Client, Failure> {
    let client = connect(&layout.endpoints(), &layout.certs(), TIMEOUT).await;
    client.map_err(Failure::node("connecting"))
}

/// Reads every file of a stopped node and holds it against its checksums.
fn examine(data: PathBuf) -> Result<(), Failure> {
    let log = inspect::verify(&data.join("log")).map_err(Failure::log("reading a node's log"))?;
    must(log.is_sound(), || {
        format!("the log in {} is damaged: {:?}", data.display(), log.damage)
    })?;
    let settings = LsmSettings {
        scrub_interval: None,
        scrub_bytes_per_second: std::num::NonZero::<u64>::MAX,
        ..LsmSettings::default()
    };
    let store = LsmStore::open(&data.join("store"), settings);
    let store = store.map_err(|error| Failure::Broken(format!("opening a store: {error}")))?;
    let monitor = store.monitor();
    monitor.scrub();
    let began = Instant::now();
    while monitor.stats().scrub.passes == 0 {
        must(began.elapsed() < PATIENCE, || {
            "a store is not read to its end".to_owned()
        })?;
        std::thread::sleep(Duration::from_millis(5));
    }
    let damaged = monitor.damaged_tables();
    must(damaged.is_empty(), || {
        format!("tables are damaged: {damaged:?}")
    })
}

/// Runs a course on a runtime of its own.
pub(crate) fn block_on(course: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Runtime::new();
    runtime
        .map_err(Failure::system("start a runtime"))?
        .block_on(course)
}
