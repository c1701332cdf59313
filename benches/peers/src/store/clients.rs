//! What clients ask of a side, and how long they wait for it.

use super::Data;
use super::sides::Rows;
use crate::Failure;
use pontoon::workload::KeyStyle;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// Rows of a scan.
pub(super) const SCANNED: usize = 100;

/// What the clients of one side saw in a window.
pub(super) struct Window {
    /// Of every call, in ascending order.
    latencies: Vec<Duration>,
    rows: u64,
    took: Duration,
}

impl Window {
    pub(super) fn rows_per_s(&self) -> f64 {
        self.rows as f64 / self.took.as_secs_f64()
    }

    /// The latency that a share of all calls did not exceed, in microseconds.
    pub(super) fn latency(&self, share: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let at = self.latencies.get((last as f64 * share) as usize);
        at.map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
    }
}

/// The value of a row: bytes that no compression makes smaller, and that only this row has.
fn value_of(row: u64, data: Data) -> Vec<u8> {
    let mut value = vec![0; data.value_bytes as usize];
    StdRng::seed_from_u64(row).fill_bytes(&mut value);
    value
}

/// Puts the rows, each once.
pub(super) async fn load<R: Rows>(
    side: &R,
    clients: usize,
    data: Data,
    rows: Range<u64>,
) -> Result<Window, Failure> {
    let next = Arc::new(AtomicU64::new(rows.start));
    together(side, clients, move |side| {
        let next = Arc::clone(&next);
        async move {
            let mut calls = Calls::default();
            loop {
                let row = next.fetch_add(1, Ordering::Relaxed);
                if row >= rows.end {
                    return Ok(calls);
                }
                let (key, value) = (KeyStyle::Hashed.key(row), value_of(row, data));
                calls.time(side.put(key, value)).await?;
                calls.rows += 1;
            }
        }
    })
    .await
}

/// Gets rows at random, and compares each.
pub(super) async fn read<R: Rows>(
    side: &R,
    clients: usize,
    data: Data,
    window: Duration,
) -> Result<Window, Failure> {
    let until = Instant::now() + window;
    together(side, clients, move |side| async move {
        let mut calls = Calls::default();
        while Instant::now() < until {
            let row = rand::rng().random_range(0..data.rows);
            let found = calls.time(side.get(KeyStyle::Hashed.key(row))).await?;
            if found.as_ref().map(AsRef::as_ref) != Some(&value_of(row, data)[..]) {
                return Err(format!("{}: row {row} is missing or wrong", R::NAME).into());
            }
            calls.rows += 1;
        }
        Ok(calls)
    })
    .await
}

/// Scans from rows at random.
pub(super) async fn scan<R: Rows>(
    side: &R,
    clients: usize,
    data: Data,
    window: Duration,
) -> Result<Window, Failure> {
    let until = Instant::now() + window;
    together(side, clients, move |side| async move {
        let mut calls = Calls::default();
        while Instant::now() < until {
            let from = KeyStyle::Hashed.key(rand::rng().random_range(0..data.rows));
            let found = calls.time(side.scan(from.clone(), SCANNED)).await?;
            if found.first().is_none_or(|(key, _)| key.as_ref() != from) {
                return Err(format!("{}: a scan does not begin where it was told", R::NAME).into());
            }
            calls.rows += found.len() as u64;
        }
        Ok(calls)
    })
    .await
}

/// What one client did.
#[derive(Default)]
struct Calls {
    latencies: Vec<Duration>,
    rows: u64,
}

impl Calls {
    async fn time<T>(
        &mut self,
        call: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let began = Instant::now();
        let done = call.await?;
        self.latencies.push(began.elapsed());
        Ok(done)
    }
}

/// Has clients work at the same time: as tasks, or on threads of their own where calls block.
async fn together<R, F>(side: &R, clients: usize, work: impl Fn(R) -> F) -> Result<Window, Failure>
where
    R: Rows,
    F: Future<Output = Result<Calls, Failure>> + Send + 'static,
{
    let (began, mut working) = (Instant::now(), JoinSet::new());
    for _ in 0..clients {
        let client = work(side.clone());
        if R::BLOCKS {
            let handle = Handle::current();
            working.spawn_blocking(move || handle.block_on(client));
        } else {
            working.spawn(client);
        }
    }
    let (mut latencies, mut rows) = (Vec::new(), 0);
    while let Some(client) = working.join_next().await {
        let calls = client??;
        latencies.extend(calls.latencies);
        rows += calls.rows;
    }
    let took = began.elapsed();
    latencies.sort_unstable();
    Ok(Window {
        latencies,
        rows,
        took,
    })
}
