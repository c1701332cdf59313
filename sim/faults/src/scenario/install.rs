//! A node's disk has no room for a snapshot that it needs: it says so and goes on, the others do not notice, and when there is
//! room it catches up by itself.

use super::{Figures, add};
use crate::disk::Scratch;
use crate::failure::{Failure, must};
use crate::nodes::{LARGE, Nodes, block_on};
use crate::writers::Books;
use pontoon::status::NodeStatus;

const KEYS: u64 = 128;
/// What the node misses: all of its tail of the log, and more than it has room for.
const WRITES: u64 = 3_000;
/// For its log and a part of the snapshot.
const ROOM_BYTES: u64 = 6 << 20;
/// What must be free of it afterwards; the log may have taken the rest.
const LEFT_BYTES: u64 = 1 << 20;
const AWAY: u64 = 3;

pub(super) fn run(scratch: &Scratch, seed: u64, figures: &mut Figures) -> Result<(), Failure> {
    block_on(course(scratch, seed, figures))
}

async fn course(scratch: &Scratch, seed: u64, figures: &mut Figures) -> Result<(), Failure> {
    let mut nodes = Nodes::start(scratch).await?;
    let mut books = Books::default();
    nodes.kill(AWAY).await?;
    let writers = books.write(&nodes.client, KEYS, seed);
    let flushed = |status: &NodeStatus| status.store.flushes > 4;
    nodes
        .until("much is written while a node is away", |statuses| {
            let done = writers.acknowledged() >= WRITES;
            done && statuses.len() == 2 && statuses.iter().all(flushed)
        })
        .await?;

    add(figures, "writes_acknowledged", writers.acknowledged());
    writers.stop(&mut books).await?;

    nodes.disk(AWAY).leave(ROOM_BYTES)?;
    nodes.start_again(AWAY).await?;
    let mut given_up = 0;
    nodes
        .until("snapshots are given up for want of room", |statuses| {
            let one = statuses.iter().find(|status| status.node == AWAY);
            given_up = one.map_or(0, |one| one.snapshots.given_up);
            given_up > 0
        })
        .await?;
    let said = nodes.said(AWAY, "cannot store a snapshot")?;
    must(said.contains("No space left"), || {
        format!("a node without room for a snapshot says: {said}")
    })?;
    // What came of it has gone again, or the next try would have no room either.
    let free = nodes.disk(AWAY).free_bytes()?;
    must(free > LEFT_BYTES, || {
        format!("{free} bytes are free after a snapshot was given up")
    })?;
    add(figures, "snapshots_given_up", given_up);
    let writers = books.write(&nodes.client, KEYS, seed);
    nodes
        .until("the others serve", |_| writers.acknowledged() > KEYS)
        .await?;
    must(writers.refused() == 0, || {
        "writes are refused for want of room on one node of three".to_owned()
    })?;
    writers.stop(&mut books).await?;

    nodes.disk(AWAY).resize(LARGE)?;
    nodes
        .until("the node has caught up", |statuses| {
            let one = statuses.iter().find(|status| status.node == AWAY);
            one.is_some_and(|one| one.snapshots.received > 0)
        })
        .await?;
    let rows = nodes.end(&books).await?;
    add(figures, "rows_read_and_compared", rows);
    Ok(())
}
