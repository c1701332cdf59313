//! From a directory into a cluster, whatever its nodes and shards.
//!
//! Three steps: every chunk is read and held against its name before anything is written; then the rows are written like
//! those of any load; then the cluster is read and compared with the backup, row by row.

use super::manifest::{ChunkOf, Manifest};
use super::take::blocking;
use super::{BackupError, chunks};
use crate::error::Error;
use crate::formats::{self, ReadError};
use crate::load::{self, Event, LineProblem, LoadError, Options, Problem, Source};
use crate::output::printable;
use crate::rows::Rows;
use bytes::Bytes;
use pontoon_client::Client;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// In how many places of the key space rows are written at the same time, so that many shards have work.
const PLACES: usize = 16;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Chunks are held against their names.
    Checking,
    /// Rows are written.
    Writing,
    /// The cluster is compared with the backup.
    Comparing,
}

/// Brings a backup to a cluster. `tell` hears the step and how many bytes of chunks, of all in the backup, it has come
/// through.
///
/// # Errors
/// If a chunk is missing or damaged, or the cluster has rows and `force` was not given: then nothing was written. If rows could
/// not be written for `patience`, or the cluster does not hold what the backup does in the end.
pub async fn restore(
    client: &Client,
    dir: &Path,
    manifest: &Manifest,
    force: bool,
    patience: Duration,
    mut tell: impl FnMut(Step, u64),
) -> Result<(), Error> {
    let chunks: Vec<ChunkOf> = manifest.chunks().cloned().collect();
    let is_in_the_way =
        async || Ok::<_, Error>(!force && !client.scan(b"", None, 1).await?.is_empty());
    if is_in_the_way().await? {
        return Err(BackupError::NotEmpty.into());
    }
    check(dir, manifest, |bytes| tell(Step::Checking, bytes)).await?;
    // The checking may have taken long.
    if is_in_the_way().await? {
        return Err(BackupError::NotEmpty.into());
    }
    write(client, dir, &chunks, patience, &mut tell).await?;
    compare(client, dir, manifest, force, |bytes| {
        tell(Step::Comparing, bytes);
    })
    .await
}

/// Reads all chunks of a backup. `tell` hears how many bytes it has come through.
///
/// # Errors
/// If one is missing or damaged.
pub async fn check(
    dir: &Path,
    manifest: &Manifest,
    mut tell: impl FnMut(u64),
) -> Result<(), Error> {
    let mut done = 0;
    for chunk in manifest.chunks() {
        tell(done);
        read(dir, chunk).await?;
        done += chunk.bytes;
    }
    Ok(())
}

/// The rows of a chunk, if they are what the manifest says.
fn rows_of(dir: &Path, chunk: &ChunkOf) -> Result<Vec<(Bytes, Bytes)>, Error> {
    let bytes = chunks::read(dir, &chunk.sha256, chunk.bytes)?;
    let rows = chunks::rows(&bytes).filter(|rows| rows.len() as u64 == chunk.rows);
    let damaged = || BackupError::Damaged {
        path: chunks::path_of(dir, &chunk.sha256),
        what: "it does not hold the rows that the backup says it does",
    };
    Ok(rows.ok_or_else(damaged)?)
}

async fn read(dir: &Path, chunk: &ChunkOf) -> Result<Vec<(Bytes, Bytes)>, Error> {
    let (dir, chunk) = (dir.to_owned(), chunk.clone());
    blocking(move || rows_of(&dir, &chunk)).await
}

async fn write(
    client: &Client,
    dir: &Path,
    chunks: &[ChunkOf],
    patience: Duration,
    tell: &mut impl FnMut(Step, u64),
) -> Result<(), Error> {
    let source = ChunkSource::new(dir, chunks);
    let options = Options {
        skip_errors: false,
        patience,
    };
    let summary = load::load(client, source, options, |event| {
        if let Event::Read(position) = event {
            tell(Step::Writing, position);
        }
    })
    .await;
    let reason = match summary.stopped {
        None => return Ok(()),
        Some(LoadError::Cluster { source, .. }) => source.to_string(),
        Some(LoadError::Line(LineProblem { problem, .. })) => match problem {
            Problem::Refused(source) => source.to_string(),
            Problem::Bad(bad) => bad.to_string(),
        },
        Some(LoadError::Read(error)) => error.to_string(),
    };
    Err(BackupError::Write { reason }.into())
}

/// Holds what is in a cluster against a backup; both are in key order. With `strangers`, rows that are not in the backup
/// are passed over. `tell` hears how many bytes of chunks it has come through.
///
/// # Errors
/// At the first row that is missing, another, or too much; or if something cannot be read.
pub async fn compare(
    client: &Client,
    dir: &Path,
    manifest: &Manifest,
    strangers: bool,
    mut tell: impl FnMut(u64),
) -> Result<(), Error> {
    let differs = |key: &[u8], what| BackupError::Differs {
        key: printable(key),
        what,
    };
    let mut there = Found {
        rows: Rows::new(client.clone(), Bytes::new(), None, None),
        page: Vec::new().into_iter(),
    };
    let mut next = there.next().await?;
    let mut done = 0;
    for chunk in manifest.chunks() {
        tell(done);
        for (key, value) in read(dir, chunk).await? {
            while let Some((stranger, _)) = next.take_if(|(found, _)| *found < key) {
                if !strangers {
                    return Err(differs(&stranger, "is not in the backup").into());
                }
                next = there.next().await?;
            }
            match next.take_if(|(found, _)| *found == key) {
                None => return Err(differs(&key, "is missing").into()),
                Some((_, found)) if found != value => {
                    return Err(differs(&key, "has another value").into());
                }
                Some(_) => next = there.next().await?,
            }
        }
        done += chunk.bytes;
    }
    match next {
        Some((stranger, _)) if !strangers => Err(differs(&stranger, "is not in the backup").into()),
        _ => Ok(()),
    }
}

/// The rows of the cluster, one after the other.
struct Found {
    rows: Rows,
    page: std::vec::IntoIter<(Bytes, Bytes)>,
}

impl Found {
    async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, Error> {
        loop {
            if let Some(row) = self.page.next() {
                return Ok(Some(row));
            }
            match self.rows.next_page().await? {
                Some(page) => self.page = page.into_iter(),
                None => return Ok(None),
            }
        }
    }
}

/// The rows of all chunks, from several places of the key space in turn. No key is in two chunks, so their order does not
/// matter.
struct ChunkSource {
    dir: PathBuf,
    /// The chunks that are left, the next one last.
    chunks: Vec<ChunkOf>,
    rows: std::vec::IntoIter<(Bytes, Bytes)>,
    count: u64,
    /// Bytes of the chunks that were read.
    position: u64,
}

impl ChunkSource {
    fn new(dir: &Path, chunks: &[ChunkOf]) -> Self {
        let stretch = chunks.len().div_ceil(PLACES).max(1);
        let turns = (0..stretch).flat_map(|turn| chunks.iter().skip(turn).step_by(stretch));
        let mut chunks: Vec<ChunkOf> = turns.cloned().collect();
        chunks.reverse();
        Self {
            dir: dir.to_owned(),
            chunks,
            rows: Vec::new().into_iter(),
            count: 0,
            position: 0,
        }
    }
}

impl Source for ChunkSource {
    fn next_row(&mut self) -> Option<Result<formats::Row, ReadError>> {
        loop {
            if let Some((key, value)) = self.rows.next() {
                self.count += 1;
                return Some(Ok(formats::Row { key, value }));
            }
            let chunk = self.chunks.pop()?;
            match rows_of(&self.dir, &chunk) {
                Ok(rows) => self.rows = rows.into_iter(),
                Err(error) => {
                    self.chunks.clear();
                    return Some(Err(ReadError::Io(io::Error::other(error))));
                }
            }
            self.position += chunk.bytes;
        }
    }

    fn line(&self) -> u64 {
        self.count
    }

    fn position(&self) -> u64 {
        self.position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_written_once_and_neighbours_are_far_apart() {
        let chunks: Vec<ChunkOf> = (0..100)
            .map(|number| ChunkOf {
                sha256: number.to_string(),
                bytes: 1,
                rows: 1,
            })
            .collect();
        let source = ChunkSource::new(Path::new("."), &chunks);
        let order: Vec<u32> = (source.chunks.iter().rev())
            .map(|chunk| chunk.sha256.parse().unwrap())
            .collect();
        assert_eq!(order[..3], [0, 7, 14]);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }
}
