//! Writes that begin when they are due, and those that begin when the one before has ended.

use super::{FIRST_ROW_BEHIND, TIMEOUT, big_key};
use bytes::Bytes;
use parking_lot::Mutex;
use pontoon::error::Error;
use pontoon::measure::{Kind, Recorder};
use pontoon::workload::KeyStyle;
use pontoon_client::Client;
use rand::RngExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

const VALUE: [u8; 128] = [7; 128];
/// Rows that are written, over and over.
const ROWS: u64 = 100_000;
/// Clients of the closed loop.
const CLIENTS: u64 = 64;
/// Writes are due in bursts, one every so often.
const TICK: Duration = Duration::from_millis(1);
/// Writes under way; further ones wait to begin, which counts.
const MOST_UNDER_WAY: usize = 4096;

/// The keys of a load.
#[derive(Clone, Debug)]
pub(super) enum Keys {
    /// Hashed ones from this on.
    From(Bytes),
    /// Of the big shard, behind the rows that were loaded.
    OfBig,
}

impl Keys {
    fn draw(&self) -> Bytes {
        loop {
            let row = rand::rng().random_range(0..ROWS);
            let key = match self {
                Self::From(from) => Some(KeyStyle::Hashed.key(row)).filter(|key| key >= from),
                Self::OfBig => Some(big_key(FIRST_ROW_BEHIND + row)),
            };
            if let Some(key) = key {
                return key;
            }
        }
    }
}

/// How many writes a second are acknowledged if each client writes again as soon as it may.
pub(super) async fn closed_loop(
    client: &Client,
    keys: &Keys,
    time: Duration,
) -> Result<f64, Error> {
    let began = Instant::now();
    let clients: JoinSet<Result<u64, Error>> = (0..CLIENTS)
        .map(|_| {
            let (client, keys) = (client.clone(), keys.clone());
            async move {
                let mut written = 0;
                while began.elapsed() < time {
                    client.put(&keys.draw(), &VALUE).await?;
                    written += 1;
                }
                Ok(written)
            }
        })
        .collect();
    let mut written = 0;
    for client in clients.join_all().await {
        written += client?;
    }
    Ok(written as f64 / began.elapsed().as_secs_f64())
}

/// A load at a set rate, whatever becomes of it.
pub(super) struct Paced {
    seen: Arc<Mutex<Seen>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    recorder: Recorder,
    failed: Option<Error>,
}

impl Paced {
    /// Begins `rate` writes a second.
    pub(super) fn start(client: &Client, keys: &Keys, rate: f64) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let (stop, stopped) = oneshot::channel();
        let work = write_at(
            client.with_timeout(TIMEOUT),
            keys.clone(),
            rate,
            seen.clone(),
        );
        let task = tokio::spawn(async move {
            tokio::select! {
                () = work => {}
                _ = stopped => {}
            }
        });
        Self { seen, stop, task }
    }

    /// What has ended since it was last taken.
    pub(super) fn take(&self) -> Recorder {
        std::mem::take(&mut self.seen.lock().recorder)
    }

    /// Begins no more.
    ///
    /// # Errors
    /// If a write has failed.
    pub(super) async fn stop(self) -> Result<(), Error> {
        let _ = self.stop.send(());
        let _ = self.task.await;
        self.seen.lock().failed.take().map_or(Ok(()), Err)
    }
}

async fn write_at(client: Client, keys: Keys, rate: f64, seen: Arc<Mutex<Seen>>) {
    let room = Arc::new(Semaphore::new(MOST_UNDER_WAY));
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let began = ticks.tick().await;
    let mut begun = 0;
    loop {
        let due = ticks.tick().await;
        let wanted = ((due - began).as_secs_f64() * rate) as u64;
        for _ in begun..wanted {
            let Ok(permit) = room.clone().acquire_owned().await else {
                return;
            };
            let (client, key, seen) = (client.clone(), keys.draw(), seen.clone());
            tokio::spawn(async move {
                let written = client.put(&key, &VALUE).await;
                let mut seen = seen.lock();
                match written {
                    Ok(()) => seen.recorder.record(Kind::Write, due.elapsed()),
                    Err(error) => {
                        seen.recorder.errors += 1;
                        seen.failed.get_or_insert(error.into());
                    }
                }
                drop(permit);
            });
        }
        begun = begun.max(wanted);
    }
}
