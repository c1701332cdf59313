//! Clients that write until they are told to stop, and what was acknowledged to them.

use crate::failure::{Failure, must};
use bytes::Bytes;
use pontoon_client::{Client, ClientError};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

const WRITERS: u64 = 16;
const VALUE_BYTES: usize = 4 << 10;
/// Between two writes of a writer: what comes in must not fill a disk that is large before it is merged.
const PACE: Duration = Duration::from_millis(8);

/// What a writer knows of a key. It alone writes to it, one round after the other.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    acknowledged: u64,
    tried: u64,
}

/// What may be there and what must be, over all writers that there were.
#[derive(Debug, Default)]
pub(crate) struct Books(BTreeMap<Vec<u8>, Known>);

#[derive(Default)]
struct Counts {
    acknowledged: AtomicU64,
    refused: AtomicU64,
}

/// Keys, and what is known of each.
type Rows = Vec<(Vec<u8>, Known)>;

/// Writers at work.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    tasks: JoinSet<Result<Rows, ClientError>>,
}

impl Books {
    /// Each of some writers goes through so many keys again and again, from what is known of them on.
    pub(crate) fn write(&self, client: &Client, keys: u64, seed: u64) -> Writers {
        let mut writers = Writers {
            stop: Arc::default(),
            counts: Arc::default(),
            tasks: JoinSet::new(),
        };
        for writer in 0..WRITERS {
            let known = (0..keys).map(|number| {
                let key = format!("{writer:02}-{number:06}").into_bytes();
                let known = self.0.get(&key).copied().unwrap_or_default();
                (key, known)
            });
            let known = known.collect();
            let dice = StdRng::seed_from_u64(seed ^ writer);
            let (stop, counts) = (writers.stop.clone(), writers.counts.clone());
            let work = work(client.clone(), known, dice, stop, counts);
            writers.tasks.spawn(work);
        }
        writers
    }

    /// Reads everything: nothing acknowledged is missing, and nothing is there that was not written. How many rows there are.
    pub(crate) async fn check(&self, client: &Client) -> Result<u64, Failure> {
        let rows = client.scan(b"", None, usize::MAX).await;
        let rows: BTreeMap<Bytes, Bytes> = rows
            .map_err(Failure::node("reading everything"))?
            .into_iter()
            .collect();
        for (key, known) in &self.0 {
            let found = rows.get(&key[..]).map_or(Some(0), |value| round_of(value));
            must(
                found.is_some_and(|found| (known.acknowledged..=known.tried).contains(&found)),
                || {
                    let key = String::from_utf8_lossy(key);
                    format!("{key} is of round {found:?}, which should be within {known:?}")
                },
            )?;
        }
        let stranger = rows.keys().find(|key| !self.0.contains_key(&key[..]));
        must(stranger.is_none(), || {
            format!("{stranger:?} is there, and nobody wrote it")
        })?;
        Ok(rows.len() as u64)
    }
}

impl Writers {
    /// Writes that were acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.counts.acknowledged.load(Ordering::Relaxed)
    }

    /// Writes that were refused, or whose outcome is not known.
    pub(crate) fn refused(&self) -> u64 {
        self.counts.refused.load(Ordering::Relaxed)
    }

    /// Ends them, and takes over what they know. All that they were told must be such that one may try again.
    pub(crate) async fn stop(self, books: &mut Books) -> Result<(), Failure> {
        self.stop.store(true, Ordering::Relaxed);
        for known in self.tasks.join_all().await {
            books.0.extend(known.map_err(Failure::node("writing"))?);
        }
        Ok(())
    }
}

async fn work(
    client: Client,
    mut known: Rows,
    mut dice: StdRng,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
) -> Result<Rows, ClientError> {
    for at in (0..known.len()).cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, known) = &mut known[at];
        known.tried += 1;
        match client.put(key, &value_of(known.tried, &mut dice)).await {
            Ok(()) => {
                known.acknowledged = known.tried;
                counts.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.is_transient() => {
                counts.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(PACE).await;
    }
    Ok(known)
}

/// Nothing that compresses, with the round in front and behind.
fn value_of(round: u64, dice: &mut StdRng) -> Vec<u8> {
    let mut value = vec![0; VALUE_BYTES];
    dice.fill_bytes(&mut value);
    value[..8].copy_from_slice(&round.to_be_bytes());
    value[VALUE_BYTES - 8..].copy_from_slice(&round.to_be_bytes());
    value
}

/// `None`: it is none of ours.
fn round_of(value: &[u8]) -> Option<u64> {
    let (first, last) = (value.first_chunk()?, value.last_chunk()?);
    (first == last && value.len() == VALUE_BYTES).then(|| u64::from_be_bytes(*first))
}
