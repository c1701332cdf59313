//! Writes the cluster's first map into the meta group.
//!
//! All nodes derive the same map from the manifest; whichever leads the meta group writes it, once. From
//! then on the rows of the meta group are the truth. The version row comes last, and only where there is
//! none yet, so that a map that was changed since is never written over.

use super::Node;
use bytes::Bytes;
use pontoon_engine::worker::{Read, ReadQuery};
use pontoon_engine::{Reply, Waiter};
use pontoon_shard_router::{Manifest, rows};
use pontoon_store::Outcome;
use pontoon_types::{Command, GroupId, Mutation, Operation, Request, Sequence, SessionId, ShardId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How soon a node that does not lead the meta group looks again; the pause doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Rows go in commands of about this many bytes.
const BATCH_BYTES: usize = 256 << 10;

/// Returns once this node has led the meta group and the map is there. A node that does not lead it goes
/// on looking, ever more rarely: the leader may die before it has written the map.
pub(super) async fn write(node: Arc<Node>, manifest: Manifest) {
    let Some(meta) = node.replica(ShardId::META) else {
        return;
    };
    let epoch = meta.record.epoch;
    let mut pause = FIRST_PAUSE;
    loop {
        let query = ReadQuery::Get {
            key: Bytes::from_static(rows::VERSION_KEY),
        };
        let read = |waiter| {
            node.engine().read(
                GroupId::META,
                Read {
                    shard: ShardId::META,
                    epoch,
                    query,
                    waiter,
                },
            );
        };
        match ask(read).await {
            Reply::Value(Some(_)) => return,
            Reply::Value(None) if write_rows(&node, &manifest).await => {
                return tracing::info!("wrote the cluster's first map");
            }
            // An election is under way, or has just been won.
            Reply::NotLeader { leader } if leader.is_none_or(|leader| leader == node.id) => {
                pause = FIRST_PAUSE;
            }
            _ => pause = (pause * 2).min(LONGEST_PAUSE),
        }
        tokio::time::sleep(pause).await;
    }
}

async fn write_rows(node: &Node, manifest: &Manifest) -> bool {
    let map = manifest.initial_map();
    let mut rows: Vec<_> = rows::rows_of(&map).collect();
    let Some((version_key, version)) = rows.pop() else {
        return false;
    };
    let mut batch: Vec<&(Bytes, Bytes)> = Vec::new();
    let mut bytes = 0;
    for row in &rows {
        batch.push(row);
        bytes += row.0.len() + row.1.len();
        if bytes >= BATCH_BYTES {
            if !put(node, &batch).await {
                return false;
            }
            batch.clear();
            bytes = 0;
        }
    }
    if !batch.is_empty() && !put(node, &batch).await {
        return false;
    }
    let operation = Operation::CompareAndSwap {
        key: &version_key,
        expect: None,
        set: Some(&version),
    };
    matches!(
        propose(node, operation).await,
        Reply::Applied(Outcome::Swapped | Outcome::NotSwapped { .. })
    )
}

async fn put(node: &Node, rows: &[&(Bytes, Bytes)]) -> bool {
    let puts = rows.iter().map(|(key, value)| Mutation::Put { key, value });
    let reply = propose(node, Operation::Write(puts.collect())).await;
    matches!(reply, Reply::Applied(Outcome::Written))
}

async fn propose(node: &Node, operation: Operation<'_>) -> Reply {
    let Some(meta) = node.replica(ShardId::META) else {
        return Reply::NoReplica {
            group: GroupId::META,
        };
    };
    let request = Request {
        shard: ShardId::META,
        epoch: meta.record.epoch,
        session: SessionId::default(),
        sequence: Sequence(0),
    };
    let mut command = Vec::new();
    Command { request, operation }.encode(&mut command);
    ask(|waiter| node.engine().propose(GroupId::META, command.into(), waiter)).await
}

async fn ask(question: impl FnOnce(Waiter)) -> Reply {
    let (sender, receiver) = oneshot::channel();
    question(Waiter::new(move |reply| {
        let _ = sender.send(reply);
    }));
    receiver.await.unwrap_or(Reply::Unknown)
}
