//! Clients that keep a cluster busy, and note what it promised.
//!
//! A run is a closed loop: every client has one request under way and sends the next when the
//! answer is there. It begins with a warm-up that is not measured; then comes the window. What
//! ends inside the window counts, with its whole latency, retries of the client included. If a
//! [`History`] is kept, every write is in it, measured or not.

mod actor;

pub use actor::{Actor, Failed};

use crate::config::defaults;
use crate::history::History;
use crate::measure::Recorder;
use parking_lot::Mutex;
use pontoon_client::{Client, ClientError};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// What all clients of a run share.
#[derive(Debug, Default)]
pub struct Run {
    measuring: AtomicBool,
    stopping: AtomicBool,
    done: AtomicU64,
    first_error: Mutex<Option<String>>,
    /// What was promised, if that is to be verified.
    pub history: Option<Arc<History>>,
}

impl Run {
    /// A run that keeps a history or none.
    #[must_use]
    pub fn new(history: Option<Arc<History>>) -> Arc<Self> {
        Arc::new(Self {
            history,
            ..Self::default()
        })
    }

    /// Whether clients should come to an end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Operations that succeeded so far, measured or not.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// The first error that any client met, in words.
    pub fn first_error(&self) -> Option<String> {
        self.first_error.lock().clone()
    }

    fn note_error(&self, error: &ClientError) {
        let mut first = self.first_error.lock();
        first.get_or_insert_with(|| error.to_string());
    }

    /// From now on, what ends counts.
    pub fn start_measuring(&self) {
        self.measuring.store(true, Ordering::Relaxed);
    }

    /// From now on, nothing counts, and clients come to an end.
    pub fn stop(&self) {
        self.measuring.store(false, Ordering::Relaxed);
        self.stopping.store(true, Ordering::Relaxed);
    }
}

/// The clients of a run, at work.
#[derive(Debug)]
pub struct Clients {
    run: Arc<Run>,
    tasks: JoinSet<()>,
    /// What they see, some of them in one: as many as threads run clients at once.
    recorders: Vec<Arc<Mutex<Recorder>>>,
}

impl Clients {
    /// Starts `count` clients; each does what `work` says with its actor and number, until it
    /// finds [`Run::is_stopping`] or nothing more to do.
    pub fn start<W, F>(run: Arc<Run>, client: &Client, count: usize, work: W) -> Self
    where
        W: Fn(Actor, u64) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        let recorders: Vec<Arc<Mutex<Recorder>>> = (0..defaults::network_threads())
            .map(|_| Arc::default())
            .collect();
        for (number, recorder) in (0..count as u64).zip(recorders.iter().cycle()) {
            let actor = Actor::new(run.clone(), client.clone(), recorder.clone());
            tasks.spawn(work(actor, number));
        }
        Self {
            run,
            tasks,
            recorders,
        }
    }

    /// Lets the clients work for `duration`, and tells about it a few times a second: how much of
    /// it is over, and how many operations a second there were since the last time. Returns how
    /// long it was in truth, in seconds.
    pub async fn work_for(&self, duration: Duration, mut tell: impl FnMut(Duration, f64)) -> f64 {
        const INTERVAL: Duration = Duration::from_millis(250);
        let began = Instant::now();
        let mut last = (began, self.run.done());
        while let Some(left) = duration.checked_sub(began.elapsed())
            && !left.is_zero()
        {
            tokio::time::sleep(left.min(INTERVAL)).await;
            let (now, done) = (Instant::now(), self.run.done());
            let seconds = now.duration_since(last.0).as_secs_f64().max(1e-3);
            tell(began.elapsed(), (done - last.1) as f64 / seconds);
            last = (now, done);
        }
        began.elapsed().as_secs_f64()
    }

    /// Waits for all clients, and adds up what they saw.
    ///
    /// # Panics
    /// If a client panicked: then its history is not to be trusted.
    pub async fn finish(mut self) -> Recorder {
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a client does not panic");
        }
        let mut seen = Recorder::default();
        for recorder in &self.recorders {
            seen.merge(&recorder.lock());
        }
        seen
    }

    /// Waits until no client is at work any more, but no longer than `most`; says whether that is so.
    ///
    /// # Panics
    /// As [`Self::finish`].
    pub async fn end_within(&mut self, most: Duration) -> bool {
        let all_end = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.expect("a client does not panic");
            }
        };
        tokio::time::timeout(most, all_end).await.is_ok()
    }
}
