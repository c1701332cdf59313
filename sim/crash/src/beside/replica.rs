//! The replica that comes and goes.

use super::TIMEOUT;
use pontoon::error::Error;
use pontoon::output::bytes;
use pontoon::status::{GroupStatus, NodeStatus};
use pontoon_client::Client;
use pontoon_client::protocol::MemberStep;
use pontoon_shard_router::ShardDescriptor;
use pontoon_types::{NodeId, ShardId};
use std::fmt;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How often the nodes are asked how far they are.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Stores rest if for so long nothing is flushed, merged or removed.
const RESTS: Duration = Duration::from_secs(3);
/// For so long its rows are waited for to leave the disk; if they merge with others first, they go more slowly.
const GONE_WITHIN: Duration = Duration::from_secs(20);
/// How long a replica may take to come or go, and stores to rest.
const PATIENCE: Duration = Duration::from_secs(600);

/// A node that has no replica of the big shard, and gets one again and again.
pub(super) struct Guest {
    client: Client,
    shard: ShardId,
    /// One that always has it.
    host: NodeId,
    node: NodeId,
    held: Held,
}

/// What it holds for the replica.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    bytes: u64,
    /// All its tables, when the replica had come.
    disk_bytes: u64,
}

/// What came with a replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    /// From the change of members until it had applied all that the others had committed a moment before.
    pub(super) took: Duration,
    /// Bytes of rows.
    pub(super) bytes: u64,
    /// The lowest that the node has let its rate go to while writes waited, in bytes a second.
    pub(super) least_rate: u64,
}

impl Transfer {
    /// In bytes a second.
    pub(super) fn rate(&self) -> f64 {
        self.bytes as f64 / self.took.as_secs_f64()
    }
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} in {:.1?}, {}/s",
            bytes(self.bytes as f64),
            self.took,
            bytes(self.rate())
        )
    }
}

impl Guest {
    pub(super) fn new(client: &Client, shard: &ShardDescriptor, node: NodeId) -> Self {
        Self {
            client: client.with_timeout(TIMEOUT),
            shard: shard.shard,
            host: shard.replicas[0].node,
            node,
            held: Held::default(),
        }
    }

    /// Gives the node a replica that follows, and waits until it has caught up.
    pub(super) async fn bring_up(&mut self) -> Result<Transfer, Error> {
        let before = self.status(self.node).await?.snapshots.received_bytes;
        let mut wanted = self.committed().await?;
        let began = Instant::now();
        self.change(MemberStep::AddLearner(self.node)).await?;
        let mut least_rate = u64::MAX;
        loop {
            let status = self.status(self.node).await?;
            least_rate = least_rate.min(status.snapshots.present_rate);
            if self
                .replica_in(&status)
                .is_some_and(|group| group.applied >= wanted)
            {
                let (took, bytes) = (began.elapsed(), status.snapshots.received_bytes - before);
                let disk_bytes = status.store.disk_bytes;
                self.held = Held { bytes, disk_bytes };
                return Ok(Transfer {
                    took,
                    bytes,
                    least_rate,
                });
            }
            wanted = self.committed().await?;
            Self::look_again(began, "a replica does not catch up").await?;
        }
    }

    /// How far its host knows the big shard to be committed.
    async fn committed(&self) -> Result<u64, Error> {
        let host = self.status(self.host).await?;
        Ok(self.replica_in(&host).map_or(0, |group| group.commit))
    }

    /// Takes the replica away, and waits until its rows have gone from the disk.
    pub(super) async fn leave(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        self.change(MemberStep::Remove(self.node)).await?;
        while self.replica_in(&self.status(self.node).await?).is_some() {
            Self::look_again(began, "a replica does not go").await?;
        }
        // Its rows go in whole tables, but for those that have others' rows too.
        let less = self.held.disk_bytes.saturating_sub(self.held.bytes / 2);
        while self.status(self.node).await?.store.disk_bytes > less {
            if began.elapsed() > GONE_WITHIN {
                break;
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Waits until the nodes' stores have nothing to do.
    pub(super) async fn wait_for_rest(&self) -> Result<(), Error> {
        let began = Instant::now();
        let (mut last, mut since) = (Vec::new(), Instant::now());
        while since.elapsed() < RESTS {
            Self::look_again(began, "the stores do not rest").await?;
            let mut now = Vec::new();
            for node in self.client.nodes() {
                let store = self.status(node.node).await?.store;
                now.push((store.flushes, store.compactions, store.disk_bytes));
            }
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(())
    }

    async fn change(&self, step: MemberStep) -> Result<(), Error> {
        Ok(self.client.change_members(self.shard, &[step]).await?)
    }

    async fn status(&self, node: NodeId) -> Result<NodeStatus, Error> {
        let answer = self.client.status(node).await?;
        let status = serde_json::from_slice(&answer);
        status.map_err(|error| Error::Unhealthy(format!("node {node} tells no status: {error}")))
    }

    fn replica_in<'a>(&self, status: &'a NodeStatus) -> Option<&'a GroupStatus> {
        let mut groups = status.groups.iter();
        groups.find(|group| group.shard == self.shard.0)
    }

    async fn look_again(began: Instant, what: &str) -> Result<(), Error> {
        if began.elapsed() > PATIENCE {
            return Err(Error::Unhealthy(format!("{what} in {PATIENCE:?}")));
        }
        sleep(LOOK_EVERY).await;
        Ok(())
    }
}
