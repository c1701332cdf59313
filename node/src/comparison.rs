//! Whether the replicas of each shard are the same, while they serve.
//!
//! For each shard a mark is put into its group's log: an entry that changes nothing. Every replica pins its state as of
//! exactly there, and is asked what that state comes to. A replica that cannot be asked, or was brought past the mark, is named
//! as not compared; nothing is concluded from its silence.

use crate::cluster_view::{ClusterView, ShardView};
use crate::output::{agreeing, bytes, count, counted, table};
use parking_lot::Mutex;
use pontoon_client::protocol::{Digest, DigestState};
use pontoon_client::{Client, ClientError};
use pontoon_types::{LogIndex, NodeId, ShardId};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Shards that are compared at the same time: enough that nobody waits for a round trip, few enough that little is pinned.
const AT_ONCE: usize = 8;

/// The first pause before a replica is asked again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

/// Shards of which all is well that the text shows, at most.
const MAX_SHOWN: usize = 20;

/// Nodes that did not answer for as long as anybody has patience, and why: the other shards do not wait for them again.
#[derive(Default)]
struct Away(Mutex<BTreeMap<NodeId, String>>);

/// What a comparison found.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Whether the map could be read. If not there may be shards that are not here, as all their nodes are away.
    pub map_known: bool,
    /// All shards, the meta shard first, then in the order of keys.
    pub shards: Vec<ComparedShard>,
}

/// A shard.
#[derive(Clone, Debug, Serialize)]
pub struct ComparedShard {
    /// The shard.
    pub shard: u64,
    /// Whether it holds the map.
    pub meta: bool,
    /// The applied index at which its replicas were compared; none if no leader took a mark.
    pub index: Option<u64>,
    /// Its replicas, by node.
    pub replicas: Vec<ComparedReplica>,
}

/// A replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ComparedReplica {
    /// The node that holds it.
    pub node: u64,
    /// Its id in the group; none if it was not compared.
    pub replica: Option<u64>,
    /// What was found.
    pub finding: Finding,
    /// The hash of its state, 32 hex digits.
    pub hash: Option<String>,
    /// Its rows, those that are not a user's included.
    pub rows: Option<u64>,
    /// Bytes of their keys and values.
    pub bytes: Option<u64>,
    /// Why it was not compared.
    pub error: Option<String>,
}

/// What was found of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Its state is that of most others.
    Same,
    /// It is not; or no state is that of more replicas than any other.
    Differs,
    /// It could not be compared.
    NotCompared,
}

impl Comparison {
    /// Compares the replicas of all shards. A replica that has not come to the mark after `patience` is not waited for.
    /// `tell` hears how many of how many shards are done.
    pub async fn of(client: &Client, patience: Duration, mut tell: impl FnMut(u64, u64)) -> Self {
        let view = ClusterView::look(client).await;
        let map_known = view.map_version.is_some();
        let away = Arc::new(Away::default());
        let gate = Arc::new(Semaphore::new(AT_ONCE));
        let total = view.shards.len() as u64;
        tell(0, total);
        let mut under_way = JoinSet::new();
        for (at, shard) in view.shards.into_iter().enumerate() {
            let (client, away, gate) = (client.clone(), away.clone(), gate.clone());
            under_way.spawn(async move {
                let _permit = gate.acquire_owned().await;
                (at, ComparedShard::of(client, shard, away, patience).await)
            });
        }
        let mut shards = BTreeMap::new();
        while let Some(compared) = under_way.join_next().await {
            match compared {
                Ok((at, shard)) => shards.insert(at, shard),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            };
            tell(shards.len() as u64, total);
        }
        Self {
            map_known,
            shards: shards.into_values().collect(),
        }
    }

    fn replicas(&self, finding: Finding) -> Vec<(&ComparedShard, &ComparedReplica)> {
        let all = self.shards.iter();
        all.flat_map(|shard| shard.replicas.iter().map(move |replica| (shard, replica)))
            .filter(|(_, replica)| replica.finding == finding)
            .collect()
    }

    /// What is wrong, in words: replicas that differ, and such that could not be compared. `None` if nothing is.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let differing = self.replicas(Finding::Differs);
        let not_compared = self.replicas(Finding::NotCompared);
        let mut faults = Vec::new();
        if !self.map_known {
            faults.push(
                "the map could not be read, so there may be shards that were not compared"
                    .to_owned(),
            );
        }
        if !differing.is_empty() {
            let named = name(&differing);
            let number = counted(differing.len() as u64, "replica");
            let verb = agreeing(differing.len(), "differs", "differ");
            faults.push(format!("{number} {verb}: {named}"));
        }
        if let Some((_, first)) = not_compared.first() {
            faults.push(format!(
                "{} could not be compared: {}; {}",
                counted(not_compared.len() as u64, "replica"),
                name(&not_compared),
                first.error.as_deref().unwrap_or("no reason is known"),
            ));
        }
        (!faults.is_empty()).then(|| faults.join("; "))
    }

    /// A table of what is not well, and of some of what is; and how much was compared.
    #[must_use]
    pub fn to_text(&self) -> String {
        let (well, ill): (Vec<_>, Vec<_>) = self.shards.iter().partition(|shard| shard.is_well());
        let shown = well.len().min(MAX_SHOWN);
        let rows = ill.iter().chain(&well[..shown]).map(|shard| shard.row());
        let header = ["shard", "index", "rows", "bytes", "nodes", "replicas"];
        let mut lines = vec![table(&header, rows.collect())];
        if shown < well.len() {
            let more = counted((well.len() - shown) as u64, "shard");
            lines.push(format!("… and {more} more whose replicas are the same"));
        }
        lines.push(String::new());
        let same = self.replicas(Finding::Same).len();
        let all: usize = self.shards.iter().map(|shard| shard.replicas.len()).sum();
        lines.push(format!(
            "{} of {} in {} are the same, row by row, at one applied index each",
            count(same as f64),
            counted(all as u64, "replica"),
            counted(self.shards.len() as u64, "shard"),
        ));
        lines.join("\n")
    }
}

/// Some replicas, by shard and node.
fn name(replicas: &[(&ComparedShard, &ComparedReplica)]) -> String {
    const MAX_NAMED: usize = 8;
    let named = replicas.iter().take(MAX_NAMED);
    let named: Vec<String> = named
        .map(|(shard, replica)| format!("{} on node {}", shard.name(), replica.node))
        .collect();
    match replicas.len().saturating_sub(MAX_NAMED) {
        0 => named.join(", "),
        more => format!("{}, and {more} more", named.join(", ")),
    }
}

impl ComparedShard {
    async fn of(client: Client, shard: ShardView, away: Arc<Away>, patience: Duration) -> Self {
        let id = ShardId(shard.shard);
        let mark = client.mark(id).await;
        let mut asked = JoinSet::new();
        for node in shard.replicas {
            let (client, away) = (client.clone(), away.clone());
            let index = mark.as_ref().copied().map_err(ToString::to_string);
            asked.spawn(async move {
                let digest = match index {
                    Ok(index) => digest(&client, NodeId(node), id, index, &away, patience).await,
                    Err(error) => Err(error),
                };
                (node, digest)
            });
        }
        let digests = asked.join_all().await.into_iter().collect();
        Self {
            shard: shard.shard,
            meta: shard.meta,
            index: mark.ok().map(|index| index.0),
            replicas: judge(digests),
        }
    }

    fn is_well(&self) -> bool {
        let mut replicas = self.replicas.iter();
        replicas.all(|replica| replica.finding == Finding::Same)
    }

    fn name(&self) -> String {
        match self.meta {
            true => "the meta shard".to_owned(),
            false => format!("shard {}", self.shard),
        }
    }

    fn row(&self) -> Vec<String> {
        let number = |number: Option<u64>| number.map_or("-".to_owned(), |n| count(n as f64));
        let counted = self
            .replicas
            .iter()
            .max_by_key(|replica| replica.finding == Finding::Same);
        let nodes: Vec<String> = self
            .replicas
            .iter()
            .map(|one| one.node.to_string())
            .collect();
        let of = |finding, word: &str| {
            let replicas = self.replicas.iter().filter(|one| one.finding == finding);
            let nodes: Vec<String> = replicas.map(|one| one.node.to_string()).collect();
            (!nodes.is_empty()).then(|| format!("{word} on {}", nodes.join(", ")))
        };
        let verdict = match self.is_well() {
            true => "the same".to_owned(),
            false => {
                let parts = [
                    of(Finding::Differs, "DIFFERS"),
                    of(Finding::NotCompared, "not compared"),
                ];
                parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
            }
        };
        vec![
            if self.meta {
                "meta".to_owned()
            } else {
                self.shard.to_string()
            },
            number(self.index),
            number(counted.and_then(|replica| replica.rows)),
            counted
                .and_then(|replica| replica.bytes)
                .map_or("-".to_owned(), |n| bytes(n as f64)),
            nodes.join(" "),
            verdict,
        ]
    }
}

/// Asks a replica until it says what its state at the mark comes to, or why it does not.
async fn digest(
    client: &Client,
    node: NodeId,
    shard: ShardId,
    index: LogIndex,
    away: &Away,
    patience: Duration,
) -> Result<Digest, String> {
    let began = Instant::now();
    let mut pause = PAUSES.0;
    loop {
        if let Some(why) = away.0.lock().get(&node) {
            return Err(why.clone());
        }
        let setback = match client.digest(node, shard, index).await {
            Ok(DigestState::Known(digest)) => return Ok(digest),
            // A large state takes its time; the node says that it is at it.
            Ok(DigestState::Underway) => None,
            Ok(DigestState::Failed) => return Err("its store could not be read".to_owned()),
            Ok(DigestState::GivenUp) => {
                return Err("it gave the state up, which kept too much memory".to_owned());
            }
            Ok(DigestState::NotHeld) => Some(format!(
                "it holds no state at index {index}: it lags behind, or was brought past it"
            )),
            Err(error) => {
                if matches!(error, ClientError::Node { .. }) && began.elapsed() >= patience {
                    away.0.lock().insert(node, error.to_string());
                }
                Some(error.to_string())
            }
        };
        if let Some(setback) = setback.filter(|_| began.elapsed() >= patience) {
            return Err(setback);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Holds the replicas of a shard against each other. What most of them are is right; if no hash is that of more than any
/// other, nobody knows, and all differ.
fn judge(digests: BTreeMap<u64, Result<Digest, String>>) -> Vec<ComparedReplica> {
    let mut votes: BTreeMap<u128, usize> = BTreeMap::new();
    for digest in digests.values().flatten() {
        *votes.entry(digest.hash).or_default() += 1;
    }
    let most = votes.values().copied().max().unwrap_or(0);
    let mut leading = votes.iter().filter(|(_, votes)| **votes == most);
    let usual = leading.next().map(|(hash, _)| *hash);
    let usual = usual.filter(|_| leading.next().is_none());
    let judged = digests.into_iter().map(|(node, digest)| {
        let blank = ComparedReplica {
            node,
            replica: None,
            finding: Finding::NotCompared,
            hash: None,
            rows: None,
            bytes: None,
            error: None,
        };
        match digest {
            Ok(digest) => ComparedReplica {
                replica: Some(digest.replica.0),
                finding: match usual == Some(digest.hash) {
                    true => Finding::Same,
                    false => Finding::Differs,
                },
                hash: Some(format!("{:032x}", digest.hash)),
                rows: Some(digest.rows),
                bytes: Some(digest.bytes),
                ..blank
            },
            Err(error) => ComparedReplica {
                error: Some(error),
                ..blank
            },
        }
    });
    judged.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_types::ReplicaId;

    fn compared(hashes: &[Option<u128>]) -> Comparison {
        let digests = (1..).zip(hashes).map(|(node, hash)| {
            let digest = hash.map(|hash| Digest {
                replica: ReplicaId(node),
                rows: 3,
                bytes: 40,
                hash,
            });
            (node, digest.ok_or_else(|| "no answer in time".to_owned()))
        });
        let shard = ComparedShard {
            shard: 7,
            meta: false,
            index: Some(90),
            replicas: judge(digests.collect()),
        };
        Comparison {
            map_known: true,
            shards: vec![shard],
        }
    }

    #[test]
    fn who_differs_from_most_others_is_named() {
        assert_eq!(compared(&[Some(1), Some(1), Some(1)]).fault(), None);
        let fault = compared(&[Some(1), Some(2), Some(1)]).fault().unwrap();
        assert_eq!(fault, "1 replica differs: shard 7 on node 2");
    }

    #[test]
    fn where_no_state_has_more_replicas_than_others_all_differ() {
        let fault = compared(&[Some(1), Some(2)]).fault().unwrap();
        assert_eq!(
            fault,
            "2 replicas differ: shard 7 on node 1, shard 7 on node 2"
        );
    }

    #[test]
    fn who_is_silent_is_named_and_convicts_nobody() {
        let comparison = compared(&[Some(1), None, Some(1)]);
        let fault = comparison.fault().unwrap();
        assert_eq!(
            fault,
            "1 replica could not be compared: shard 7 on node 2; no answer in time"
        );
        let text = comparison.to_text();
        assert!(text.contains("not compared on 2"), "{text}");
        assert!(text.contains("2 of 3 replicas"), "{text}");
    }
}
