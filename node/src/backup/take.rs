//! From a cluster into a directory.

use super::BackupError;
use super::chunks::{self, Cutter, Full};
use super::manifest::{BackedUpShard, ChunkOf, Manifest};
use crate::cluster_view::{ClusterView, ShardView};
use crate::error::Error;
use bytes::Bytes;
use pontoon_client::protocol::MAX_SCAN_BYTES;
use pontoon_client::{Client, ClientError, Row};
use pontoon_shard_router::ClusterMap;
use pontoon_types::{LogIndex, NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

/// Shards that are copied at the same time. Every node reads within its own budget anyway.
const AT_ONCE: usize = 4;

/// How often the copy of a shard is begun again, from a later mark, when no replica can be read that holds the first one.
const BEGUN_AGAIN: u32 = 3;

/// So many rounds of asking for states to be held on that nothing is copied in, at most. Who has died asks no more; who only hangs
/// must not keep the nodes from giving back their space for ever.
const MAX_STILL: u32 = 60;

/// Between two tries to read a page.
const PAUSE: Duration = Duration::from_millis(50);

/// What may be decided about a backup.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long to try when no replica of a shard can be read.
    pub patience: Duration,
    /// How large chunks are on average: small enough that a change of a row costs little, large enough that there are not
    /// too many files. What was backed up with another number is not found again.
    pub chunk_bytes: usize,
    /// How often all replicas are asked to hold on to the state that is copied; far less than nodes hold it for.
    pub renew_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(30),
            chunk_bytes: 1 << 20,
            renew_every: Duration::from_secs(15),
        }
    }
}

/// What a backup came to.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Its id.
    pub id: String,
    /// What it is made of.
    pub manifest: Manifest,
    /// What had to be written.
    pub written: Amount,
    /// What was there already.
    pub reused: Amount,
}

/// Some chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    const fn add(&mut self, more: &Self) {
        self.chunks += more.chunks;
        self.bytes += more.bytes;
    }
}

/// How far a backup is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Shards that are done.
    pub shards: u64,
    /// Shards that there are.
    pub of: u64,
    /// Rows copied.
    pub rows: u64,
    /// Bytes of chunks so far, new or not.
    pub bytes: u64,
    /// Bytes of those that had to be written.
    pub written: u64,
}

/// What a task tells on its way.
enum News {
    Chunk { rows: u64, bytes: u64, is_new: bool },
    Again(Progress),
    Shard,
}

/// Copies all shards. A shard none of whose replicas can be read ends it; the directory then holds chunks that
/// a later backup may use, and no new backup.
///
/// # Errors
/// If a shard cannot be read, or the disk does not take it.
pub async fn take(
    client: &Client,
    dir: &Path,
    options: Options,
    mut tell: impl FnMut(Progress),
) -> Result<Taken, Error> {
    let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let map = client.map().await?;
    let target = dir.to_owned();
    blocking(move || chunks::make_dirs(&target)).await?;
    let view = ClusterView::of_map(client, &map).await;
    let shards: Vec<ShardView> = view
        .shards
        .into_iter()
        .filter(|shard| !shard.meta)
        .collect();
    let mut progress = Progress {
        of: shards.len() as u64,
        ..Progress::default()
    };
    tell(progress);
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let (sender, mut news) = mpsc::unbounded_channel();
    let mut under_way = JoinSet::new();
    for (at, shard) in shards.into_iter().enumerate() {
        let copy = Copy {
            client: client.clone(),
            dir: dir.to_owned(),
            options,
            news: sender.clone(),
        };
        let gate = gate.clone();
        under_way.spawn(async move {
            let _permit = gate.acquire_owned().await;
            Ok::<_, Error>((at, copy.shard(shard).await?))
        });
    }
    drop(sender);
    let mut copied = BTreeMap::new();
    loop {
        tokio::select! {
            Some(news) = news.recv() => {
                match news {
                    News::Shard => progress.shards += 1,
                    News::Chunk { rows, bytes, is_new } => {
                        progress.rows += rows;
                        progress.bytes += bytes;
                        progress.written += if is_new { bytes } else { 0 };
                    }
                    News::Again(lost) => {
                        progress.rows -= lost.rows;
                        progress.bytes -= lost.bytes;
                        progress.written -= lost.written;
                    }
                }
                tell(progress);
            }
            Some(one) = under_way.join_next() => match one {
                Ok(one) => copied.extend([one?]),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
            else => break,
        }
    }
    // A shard that was cut in two since we read the map would be there by half.
    if ranges(&map) != ranges(&client.map().await?) {
        return Err(BackupError::ShardsChanged.into());
    }
    let mut manifest = Manifest::new(
        client.cluster().to_string(),
        begun.map_or(0, |since| since.as_secs()),
    );
    let [mut reused, mut written] = [Amount::default(); 2];
    for shard in copied.values() {
        reused.add(&shard.reused);
        written.add(&shard.written);
    }
    manifest.shards = copied.into_values().map(|one| one.shard).collect();
    let dir = dir.to_owned();
    let (id, manifest) = blocking(move || {
        let names = manifest.chunks().map(|chunk| chunk.sha256.as_str());
        chunks::sync_names(&dir, names)?;
        Ok((manifest.write(&dir)?, manifest))
    })
    .await?;
    Ok(Taken {
        id,
        manifest,
        written,
        reused,
    })
}

/// Which shard has which keys, and since which change.
fn ranges(map: &ClusterMap) -> Vec<(ShardId, Bytes, u64)> {
    let shards = map.shards();
    shards
        .map(|one| (one.shard, one.start.clone(), one.epoch.range))
        .collect()
}

/// Runs what waits for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The copy of one shard.
struct Copy {
    client: Client,
    dir: PathBuf,
    options: Options,
    news: mpsc::UnboundedSender<News>,
}

/// A shard that was copied.
struct Copied {
    shard: BackedUpShard,
    written: Amount,
    reused: Amount,
}

impl Copy {
    /// Copies a shard. If all replicas have let go of the state that is being copied, for they were started again or were not
    /// reached for long, it is begun again from a later one, whose chunks are there for the most part.
    async fn shard(&self, shard: ShardView) -> Result<Copied, Error> {
        let id = ShardId(shard.shard);
        // All replicas hold the same state; its leader has enough to do.
        let mut nodes: Vec<u64> = shard.replicas.clone();
        nodes.sort_by_key(|node| Some(*node) == shard.leader);
        let mut fresh = BTreeSet::new();
        for begun_again in 0.. {
            let index = self.client.mark(id).await;
            let index = index.map_err(|source| Self::failed(id, source))?;
            let mut copied = Copied {
                shard: BackedUpShard {
                    shard: shard.shard,
                    range: shard.range.clone(),
                    index: index.0,
                    chunks: Vec::new(),
                },
                written: Amount::default(),
                reused: Amount::default(),
            };
            let moves = AtomicBool::new(true);
            let result = tokio::select! {
                result = self.rows(&mut copied, &nodes, &mut fresh, &moves) => result,
                never = self.hold_on(id, index, &nodes, &moves) => match never {},
            };
            match result {
                Err(Error::Backup(BackupError::Shard { .. })) if begun_again < BEGUN_AGAIN => {
                    let lost = Progress {
                        rows: copied.shard.chunks.iter().map(|chunk| chunk.rows).sum(),
                        bytes: copied.written.bytes + copied.reused.bytes,
                        written: copied.written.bytes,
                        ..Progress::default()
                    };
                    let _ = self.news.send(News::Again(lost));
                }
                Err(error) => return Err(error),
                Ok(()) => {
                    // Nobody listens any more if another shard has failed.
                    let _ = self.news.send(News::Shard);
                    return Ok(copied);
                }
            }
        }
        unreachable!("the last try returns")
    }

    /// Copies the rows of one state, from whichever replica can be read.
    async fn rows(
        &self,
        copied: &mut Copied,
        nodes: &[u64],
        fresh: &mut BTreeSet<String>,
        moves: &AtomicBool,
    ) -> Result<(), Error> {
        let (id, index) = (ShardId(copied.shard.shard), LogIndex(copied.shard.index));
        let mut at = 0;
        let mut cutter = Cutter::new(self.options.chunk_bytes);
        let mut after: Option<Bytes> = None;
        loop {
            let page = self.page(id, index, after.as_deref(), nodes, &mut at);
            let (rows, more) = page.await?;
            moves.store(true, Ordering::Relaxed);
            for (key, value) in &rows {
                if let Some(full) = cutter.push(key, value) {
                    self.keep(full, copied, fresh).await?;
                    moves.store(true, Ordering::Relaxed);
                }
            }
            match rows.last() {
                Some((last, _)) if more => after = Some(Bytes::copy_from_slice(last)),
                _ => break,
            }
        }
        if let Some(rest) = cutter.finish() {
            self.keep(rest, copied, fresh).await?;
        }
        Ok(())
    }

    /// Asks all replicas again and again for a row of the state that is being copied, so that they hold it however long a page or a
    /// chunk takes, and any of them can go on where another has stopped.
    async fn hold_on(
        &self,
        shard: ShardId,
        index: LogIndex,
        nodes: &[u64],
        moves: &AtomicBool,
    ) -> Infallible {
        let mut still = 0;
        while still < MAX_STILL {
            tokio::time::sleep(self.options.renew_every).await;
            let moved = moves.swap(false, Ordering::Relaxed);
            still = if moved { 0 } else { still + 1 };
            let asked = nodes.iter().map(|node| {
                let (client, node) = (self.client.clone(), NodeId(*node));
                async move { client.page(node, shard, index, None, 1).await.is_ok() }
            });
            // That it is asked is enough: the answers wait their turn behind pages.
            let answers = asked.collect::<JoinSet<_>>().join_all();
            let _ = tokio::time::timeout(self.options.renew_every, answers).await;
        }
        std::future::pending().await
    }

    /// The rows behind a key, from the replica that gave the last ones, or else from whichever can: they all hold the same
    /// state.
    async fn page(
        &self,
        shard: ShardId,
        index: LogIndex,
        after: Option<&[u8]>,
        nodes: &[u64],
        at: &mut usize,
    ) -> Result<(Vec<Row>, bool), Error> {
        let began = Instant::now();
        loop {
            let node = NodeId(nodes.get(*at % nodes.len().max(1)).copied().unwrap_or(0));
            let page = self
                .client
                .page(node, shard, index, after, MAX_SCAN_BYTES / 4);
            match page.await {
                Ok(page) => return Ok(page),
                Err(error) if began.elapsed() >= self.options.patience => {
                    return Err(Self::failed(shard, error));
                }
                Err(_) => {
                    *at += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn keep(
        &self,
        full: Full,
        copied: &mut Copied,
        fresh: &mut BTreeSet<String>,
    ) -> Result<(), Error> {
        let dir = self.dir.clone();
        let Full { bytes, rows } = full;
        let length = bytes.len() as u64;
        let (sha256, is_new) = blocking(move || {
            let name = chunks::name_of(&bytes);
            let is_new = chunks::keep(&dir, &name, &bytes)?;
            Ok((name, is_new))
        })
        .await?;
        let is_new = is_new || fresh.contains(&sha256);
        let amount = if is_new {
            fresh.insert(sha256.clone());
            &mut copied.written
        } else {
            &mut copied.reused
        };
        let bytes = length;
        amount.add(&Amount { chunks: 1, bytes });
        let _ = self.news.send(News::Chunk {
            rows,
            bytes,
            is_new,
        });
        copied.shard.chunks.push(ChunkOf {
            sha256,
            bytes,
            rows,
        });
        Ok(())
    }

    fn failed(shard: ShardId, source: ClientError) -> Error {
        let shard = shard.0;
        let source = Box::new(source);
        BackupError::Shard { shard, source }.into()
    }
}
