//! Nodes have no room for what their stores flush and merge, nor for their logs. With one such node of three nobody else notices;
//! with all three, writes are refused. When there is room all goes on by itself.

use super::{Figures, add};
use crate::disk::Scratch;
use crate::failure::{Failure, must};
use crate::nodes::{LARGE, Nodes, block_on};
use crate::writers::{Books, Writers};
use pontoon::status::NodeStatus;
use std::time::{Duration, Instant};

/// Few, so that they are overwritten and tables have something to merge.
const KEYS: u64 = 32;
/// For a flush or a part of a merge.
const ROOM_BYTES: u64 = 3 << 20;
/// So long without an acknowledgement there will be none.
const QUIET: Duration = Duration::from_secs(1);

pub(super) fn run(scratch: &Scratch, seed: u64, figures: &mut Figures) -> Result<(), Failure> {
    block_on(course(scratch, seed, figures))
}

async fn course(scratch: &Scratch, seed: u64, figures: &mut Figures) -> Result<(), Failure> {
    let mut nodes = Nodes::start(scratch).await?;
    let mut books = Books::default();
    let writers = books.write(&nodes.client, KEYS, seed);
    goes_on(&mut nodes, &writers).await?;

    let follower = nodes.leader().await? % 3 + 1;
    nodes.disk(follower).leave(ROOM_BYTES)?;
    nodes
        .until("a node has no room", |statuses| {
            statuses
                .iter()
                .any(|one| one.node == follower && is_full(one))
        })
        .await?;
    let refused = writers.refused();
    goes_on(&mut nodes, &writers).await?;
    must(writers.refused() == refused, || {
        "writes are refused for want of room on one node of three".to_owned()
    })?;
    nodes.disk(follower).resize(LARGE)?;
    nodes.until("all is well again", all_is_well).await?;
    nodes.are_the_same().await?;
    add(figures, "resumed_with_one_full_disk", 1);

    for disk in nodes.disks() {
        disk.leave(ROOM_BYTES)?;
    }
    // The last of them may never fill up: with two that are full nothing more is committed.
    nodes
        .until("most nodes have no room", |statuses| {
            statuses.iter().filter(|one| is_full(one)).count() >= 2
        })
        .await?;
    nodes
        .until("writes are refused", |_| writers.refused() > refused)
        .await?;
    // What fits in memory and in what is left of the logs is still taken.
    let (mut acknowledged, mut since) = (writers.acknowledged(), Instant::now());
    nodes
        .until("nothing is acknowledged any more", |_| {
            if writers.acknowledged() != acknowledged {
                (acknowledged, since) = (writers.acknowledged(), Instant::now());
            }
            since.elapsed() >= QUIET
        })
        .await?;
    // Reads wait for what is committed to be applied, for which there is no room; so they may be refused, too.
    match nodes.client.get(b"no such key").await {
        Ok(None) => {}
        Err(error) if error.is_transient() => {}
        other => must(false, || format!("a read without room comes to {other:?}"))?,
    }
    let mut failed = 0;
    for disk in nodes.disks() {
        disk.resize(LARGE)?;
    }
    nodes
        .until("all is well again", |statuses| {
            failed = (statuses.iter().map(|one| one.store.failed_compactions)).sum();
            all_is_well(statuses)
        })
        .await?;
    goes_on(&mut nodes, &writers).await?;
    add(figures, "resumed_with_all_disks_full", 1);
    add(figures, "merges_failed", failed);
    add(figures, "writes_acknowledged", writers.acknowledged());
    add(figures, "writes_refused", writers.refused());
    writers.stop(&mut books).await?;
    let rows = nodes.end(&books).await?;
    add(figures, "rows_read_and_compared", rows);
    Ok(())
}

/// Enough for several flushes.
async fn goes_on(nodes: &mut Nodes, writers: &Writers) -> Result<(), Failure> {
    let before = writers.acknowledged();
    let enough = |_: &[NodeStatus]| writers.acknowledged() >= before + 2_000;
    nodes.until("writes are acknowledged", enough).await
}

/// Whichever comes first keeps the other from filling up: what cannot be flushed is not applied, and what cannot be
/// appended is not flushed.
fn is_full(status: &NodeStatus) -> bool {
    let trouble = status.store.trouble.as_deref();
    trouble.is_some_and(|text| text.contains("No space left")) || status.log.full
}

fn all_is_well(statuses: &[NodeStatus]) -> bool {
    let is_well = |status: &NodeStatus| status.store.trouble.is_none() && !status.log.full;
    statuses.len() == 3 && statuses.iter().all(is_well)
}
