//! One client of a run: does an operation, measures it and notes what came of it.

use super::Run;
use crate::history::Outcome;
use crate::measure::{Kind, Recorder};
use bytes::Bytes;
use parking_lot::Mutex;
use pontoon_client::{Client, ClientError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// An operation did not succeed, and why; it was counted and noted.
#[derive(Clone, Debug)]
pub struct Failed(pub Box<ClientError>);

/// One client of a run.
#[derive(Debug)]
pub struct Actor {
    run: Arc<Run>,
    client: Client,
    /// Shared with others: histograms of their own would not all stay in a core's cache.
    recorder: Arc<Mutex<Recorder>>,
    last_success: Instant,
}

impl Actor {
    pub(super) fn new(run: Arc<Run>, client: Client, recorder: Arc<Mutex<Recorder>>) -> Self {
        Self {
            run,
            client,
            recorder,
            last_success: Instant::now(),
        }
    }

    /// The run it takes part in.
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Writes a key.
    ///
    /// # Errors
    /// If it was refused, or the outcome is unknown.
    pub async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Failed> {
        let began = Instant::now();
        let result = self.noted_put(key, value).await;
        self.account(Kind::Write, began, result).await
    }

    /// Reads a key.
    ///
    /// # Errors
    /// If it could not be read.
    pub async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, Failed> {
        let began = Instant::now();
        let result = self.client.get(key).await;
        self.account(Kind::Read, began, result).await
    }

    /// Reads rows from a key on.
    ///
    /// # Errors
    /// If they could not be read.
    pub async fn scan(&mut self, from: &[u8], rows: usize) -> Result<usize, Failed> {
        let began = Instant::now();
        let result = self.client.scan(from, None, rows).await;
        self.account(Kind::Read, began, result.map(|rows| rows.len()))
            .await
    }

    /// Reads a key and writes what `change` makes of its value; measured as one write.
    ///
    /// # Errors
    /// If either failed.
    pub async fn modify(
        &mut self,
        key: &[u8],
        change: impl FnOnce(Option<Bytes>) -> Bytes,
    ) -> Result<(), Failed> {
        let began = Instant::now();
        let value = match self.client.get(key).await {
            Ok(value) => change(value),
            Err(error) => return self.account(Kind::Write, began, Err(error)).await,
        };
        let result = self.noted_put(key, &value).await;
        self.account(Kind::Write, began, result).await
    }

    async fn noted_put(&self, key: &[u8], value: &[u8]) -> Result<(), ClientError> {
        let Some(history) = &self.run.history else {
            return self.client.put(key, value).await;
        };
        let pending = history.begin(key, Some(value));
        let result = self.client.put(key, value).await;
        history.end(pending, outcome_of(&result));
        result
    }

    async fn account<T>(
        &mut self,
        kind: Kind,
        began: Instant,
        result: Result<T, ClientError>,
    ) -> Result<T, Failed> {
        let measuring = self.run.measuring.load(Ordering::Relaxed);
        match result {
            Ok(value) => {
                self.run.done.fetch_add(1, Ordering::Relaxed);
                let now = Instant::now();
                let pause = now.duration_since(self.last_success);
                self.last_success = now;
                if measuring {
                    let mut recorder = self.recorder.lock();
                    recorder.longest_pause = recorder.longest_pause.max(pause);
                    recorder.record(kind, now.duration_since(began));
                }
                Ok(value)
            }
            Err(error) => {
                // Failures count even outside the window: there must be none at all.
                if error.is_unknown_outcome() {
                    self.recorder.lock().unknown += 1;
                } else {
                    self.recorder.lock().errors += 1;
                }
                self.run.note_error(&error);
                // A cluster that refuses at once is not helped by being asked a million times.
                tokio::time::sleep(Duration::from_millis(10)).await;
                Err(Failed(Box::new(error)))
            }
        }
    }
}

fn outcome_of<T>(result: &Result<T, ClientError>) -> Outcome {
    match result {
        Ok(_) => Outcome::Acknowledged,
        Err(error) if error.is_unknown_outcome() => Outcome::Unknown,
        Err(_) => Outcome::Refused,
    }
}
