//! The clients: many calls on few keys, whatever happens to the nodes.

use crate::history::{History, bytes_of, value_of};
use parking_lot::Mutex;
use pontoon::workload::KeyStyle;
use pontoon_client::{CasOutcome, Client, ClientError};
use pontoon_sim::Dice;
use pontoon_sim::invariants::{Action, ValueId, Violation};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Calls after which a key is left for a new one. What it holds then must stay until the end, and its
/// history can be checked in no time.
const CALLS_PER_KEY: u64 = 400;
/// Longest pause of a client between two calls.
const THINKS: (u64, u64) = (0, 12_000);
/// Pause of a client after a failure.
const AFTER_FAILURE: Duration = Duration::from_millis(20);

/// What the clients share.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) history: Arc<History>,
    last_key: AtomicU64,
    /// Keys that were left and not looked at yet.
    left: Mutex<Vec<u64>>,
    stopping: AtomicBool,
    /// The first thing that a client saw that cannot be.
    found: Mutex<Option<Violation>>,
}

/// Some clients that use the same key.
#[derive(Debug, Default)]
struct Slot {
    key: u64,
    calls: u64,
    /// The last value that one of them saw, for others to expect.
    seen: ValueId,
}

impl Load {
    /// Starts the clients.
    pub(crate) fn start(
        history: Arc<History>,
        connections: &[Client],
        keys: u64,
        clients: u64,
        seed: u64,
    ) -> (Arc<Self>, JoinSet<()>) {
        let load = Arc::new(Self {
            history,
            last_key: AtomicU64::new(0),
            left: Mutex::default(),
            stopping: AtomicBool::new(false),
            found: Mutex::default(),
        });
        let mut dice = Dice::new(!seed);
        let mut tasks = JoinSet::new();
        let mut connections = connections.iter().cycle();
        for _ in 0..keys {
            let slot = Arc::new(Mutex::new(Slot::default()));
            for _ in 0..clients {
                let Some(client) = connections.next().cloned() else {
                    break;
                };
                let (load, slot, dice) = (load.clone(), slot.clone(), Dice::new(dice.roll()));
                tasks.spawn(async move { load.work(&client, &slot, dice).await });
            }
        }
        (load, tasks)
    }

    /// Lets the clients come to an end.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Keys that were left since the last call of this.
    pub(crate) fn take_left(&self) -> Vec<u64> {
        std::mem::take(&mut *self.left.lock())
    }

    /// What a client saw that cannot be.
    pub(crate) fn found(&self) -> Option<Violation> {
        self.found.lock().clone()
    }

    async fn work(&self, client: &Client, slot: &Mutex<Slot>, mut dice: Dice) {
        while !self.stopping.load(Ordering::Relaxed) {
            let (key, seen) = self.turn(slot);
            match self.call(client, key, seen, &mut dice).await {
                Ok(Some(value)) => {
                    let mut slot = slot.lock();
                    if slot.key == key {
                        slot.seen = value;
                    }
                }
                Ok(None) => tokio::time::sleep(AFTER_FAILURE).await,
                Err(violation) => {
                    self.found.lock().get_or_insert(violation);
                    return;
                }
            }
            tokio::time::sleep(dice.micros(THINKS)).await;
        }
    }

    /// Which key is used next, and what it held lately.
    fn turn(&self, slot: &Mutex<Slot>) -> (u64, ValueId) {
        let mut slot = slot.lock();
        if slot.calls.is_multiple_of(CALLS_PER_KEY) {
            if slot.key > 0 {
                self.left.lock().push(slot.key);
            }
            slot.key = self.last_key.fetch_add(1, Ordering::Relaxed) + 1;
            slot.seen = 0;
        }
        slot.calls += 1;
        (slot.key, slot.seen)
    }

    /// One call. Returns what the key held then, or nothing if that is not known.
    async fn call(
        &self,
        client: &Client,
        key: u64,
        seen: ValueId,
        dice: &mut Dice,
    ) -> Result<Option<ValueId>, Violation> {
        let (history, name) = (&self.history, KeyStyle::Hashed.key(key));
        let counts = &history.counts;
        match dice.below(100) {
            0..40 => {
                let began = history.now();
                let Ok(found) = client.get(&name).await else {
                    add(&counts.unread);
                    return Ok(None);
                };
                let value = value_of(key, found.as_deref())?;
                history.read(key, began, value);
                add(&counts.reads);
                Ok(Some(value))
            }
            40..65 => {
                let value = history.new_value();
                let pending = history.begin(key, Action::Write(value));
                let result = client.put(&name, &bytes_of(value)).await;
                if self.failed(&pending, &result) {
                    return Ok(None);
                }
                history.done(&pending, None);
                add(&counts.writes);
                Ok(Some(value))
            }
            65..70 => {
                let pending = history.begin(key, Action::Write(0));
                let result = client.delete(&name).await;
                if self.failed(&pending, &result) {
                    return Ok(None);
                }
                history.done(&pending, None);
                add(&counts.removals);
                Ok(Some(0))
            }
            _ => {
                let (expect, set) = (seen, history.new_value());
                let pending = history.begin(key, Action::Swap { expect, set });
                let expected = (expect > 0).then(|| bytes_of(expect));
                let result = client
                    .compare_and_swap(&name, expected.as_deref(), Some(&bytes_of(set)))
                    .await;
                if self.failed(&pending, &result) {
                    return Ok(None);
                }
                let Ok(CasOutcome::NotSwapped { actual }) = result else {
                    history.done(&pending, None);
                    add(&counts.swaps);
                    return Ok(Some(set));
                };
                let actual = value_of(key, actual.as_deref())?;
                history.done(&pending, Some(Action::NoSwap { expect, actual }));
                add(&counts.not_swapped);
                Ok(Some(actual))
            }
        }
    }

    /// Whether a call was not done, or its outcome is unknown; which is noted.
    fn failed<T>(
        &self,
        pending: &crate::history::Pending,
        result: &Result<T, ClientError>,
    ) -> bool {
        let counts = &self.history.counts;
        match result {
            Ok(_) => return false,
            Err(error) if error.is_unknown_outcome() => add(&counts.unknown),
            Err(_) => {
                self.history.refused(pending);
                add(&counts.refused);
            }
        }
        true
    }
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}
