//! Threads that each write a record and wait until it is durable.

use super::Failure;
use crate::clock::{Took, timed};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Every so many records a writer lets its group's log be cut, so that the log stays small.
const COMPACT_EVERY: u64 = 256;

/// A log that any thread writes to.
pub(crate) trait WriteDurably: Send + Sync + 'static {
    /// Writes a record of a writer's group, perhaps with a compaction before it, and returns when it is durable.
    fn write(&self, writer: u32, index: u64, compact_to: Option<u64>) -> Result<(), Failure>;

    /// Gives back what nobody needs, between windows.
    fn tidy(&self) -> Result<(), Failure>;
}

/// Writers that wait at a gate until a window opens.
pub(crate) struct Writers {
    log: Arc<dyn WriteDurably>,
    gate: Arc<Gate>,
    threads: Vec<JoinHandle<()>>,
}

struct Gate {
    open: Barrier,
    closed: Barrier,
    /// Records of each writer in the next window; none to end.
    rounds: AtomicU64,
    latencies: Mutex<Vec<Duration>>,
}

impl Writers {
    pub(crate) fn start(log: impl WriteDurably, count: u32) -> Self {
        let log: Arc<dyn WriteDurably> = Arc::new(log);
        let gate = Arc::new(Gate {
            open: Barrier::new(count as usize + 1),
            closed: Barrier::new(count as usize + 1),
            rounds: AtomicU64::new(0),
            latencies: Mutex::default(),
        });
        let threads = (0..count).map(|writer| {
            let (log, gate) = (Arc::clone(&log), Arc::clone(&gate));
            std::thread::spawn(move || run(writer, &*log, &gate))
        });
        let threads = threads.collect();
        Self { log, gate, threads }
    }

    /// Lets each writer write so many records; returns what that took, and the median latency of a record.
    pub(crate) fn window(&self, rounds: u64) -> Result<(Took, Duration), Failure> {
        self.gate.rounds.store(rounds, Ordering::Relaxed);
        let took = timed(|| {
            self.gate.open.wait();
            self.gate.closed.wait();
            Ok(())
        })?;
        self.log.tidy()?;
        let latencies = &mut *lock(&self.gate.latencies);
        let median = median(latencies);
        latencies.clear();
        Ok((took, median))
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.gate.rounds.store(0, Ordering::Relaxed);
        self.gate.open.wait();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn run(writer: u32, log: &dyn WriteDurably, gate: &Gate) {
    let mut index = 0;
    let mut latencies = Vec::new();
    loop {
        gate.open.wait();
        let rounds = gate.rounds.load(Ordering::Relaxed);
        if rounds == 0 {
            return;
        }
        for _ in 0..rounds {
            let compact_to = (index > 0 && index % COMPACT_EVERY == 0).then_some(index);
            index += 1;
            let began = Instant::now();
            if let Err(error) = log.write(writer, index, compact_to) {
                eprintln!("error: a writer failed: {error}");
                // The others would wait for it for ever.
                std::process::exit(1);
            }
            latencies.push(began.elapsed());
        }
        lock(&gate.latencies).append(&mut latencies);
        gate.closed.wait();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The median of some durations, which it sorts; zero of none.
pub(crate) fn median(durations: &mut [Duration]) -> Duration {
    durations.sort_unstable();
    durations
        .get(durations.len() / 2)
        .copied()
        .unwrap_or_default()
}
