//! A backup's disk is full: that is said, what was backed up before is whole, the cluster does not notice, and with room the next
//! one goes on from the chunks that are there.

use super::{Figures, add};
use crate::disk::{Scratch, mount_tmpfs};
use crate::failure::{Failure, must};
use crate::nodes::{LARGE, Nodes, block_on};
use crate::writers::Books;
use pontoon::backup::manifest::Manifest;
use pontoon::backup::restore::{check, compare};
use pontoon::backup::take::{Options, Taken, take};
use pontoon::error::Error;
use pontoon_client::Client;
use std::io::ErrorKind;
use std::path::Path;

const KEYS: u64 = 64;
/// For some of the chunks.
const ROOM_BYTES: u64 = 1 << 20;

pub(super) fn run(scratch: &Scratch, seed: u64, figures: &mut Figures) -> Result<(), Failure> {
    block_on(course(scratch, seed, figures))
}

async fn course(scratch: &Scratch, seed: u64, figures: &mut Figures) -> Result<(), Failure> {
    let mut nodes = Nodes::start(scratch).await?;
    let mut books = Books::default();
    let target = mount_tmpfs(scratch, LARGE)?;
    let dir = target.path().join("backups");
    write(&mut nodes, &mut books, KEYS / 2, seed).await?;
    let first = back_up(&nodes.client, &dir).await;
    let first = first.map_err(Failure::node("backing up with room"))?;

    write(&mut nodes, &mut books, KEYS, seed + 1).await?;
    for room in [ROOM_BYTES, 0] {
        target.leave(room)?;
        match back_up(&nodes.client, &dir).await {
            Err(Error::File { source, .. }) if source.kind() == ErrorKind::StorageFull => {}
            other => must(false, || {
                format!("a backup without room comes to {other:?}")
            })?,
        }
        add(figures, "typed_errors", 1);
        let (latest, manifest) = Manifest::read(&dir, None)
            .map_err(Failure::node("reading the list of a backup without room"))?;
        must(latest == first.id && manifest == first.manifest, || {
            format!("the latest backup is {latest}, not {}", first.id)
        })?;
    }

    target.resize(LARGE)?;
    let second = back_up(&nodes.client, &dir).await;
    let second = second.map_err(Failure::node("backing up with room again"))?;
    must(second.reused.bytes > 0, || {
        "nothing that was written is used again".to_owned()
    })?;
    let compared = compare(&nodes.client, &dir, &second.manifest, false, |_| {}).await;
    compared.map_err(Failure::node("comparing a backup with its cluster"))?;
    let checked = check(&dir, &first.manifest, |_| {}).await;
    checked.map_err(Failure::node("reading the first backup"))?;
    add(
        figures,
        "chunks_read_and_compared",
        first.manifest.chunks().count() as u64,
    );
    add(figures, "rows_backed_up", second.manifest.rows());
    target.unmount()?;
    nodes.end(&books).await?;
    Ok(())
}

async fn back_up(client: &Client, dir: &Path) -> Result<Taken, Error> {
    let options = Options {
        chunk_bytes: 64 << 10,
        ..Options::default()
    };
    take(client, dir, options, |_| {}).await
}

/// Every key once and more.
async fn write(nodes: &mut Nodes, books: &mut Books, keys: u64, seed: u64) -> Result<(), Failure> {
    let writers = books.write(&nodes.client, keys, seed);
    nodes
        .until("much is written", |_| writers.acknowledged() > 32 * keys)
        .await?;
    writers.stop(books).await
}
