//! The thread that reads the log now and then, so that damage is found while the other replicas are whole.
//!
//! It keeps to the schedule of the store's scrubbing, and both to one rate together. What it finds it has go from the log; the
//! keeper sees to those who have lost something with it.

use super::Shared;
use pontoon_store::{ScrubBudget, ScrubSchedule};
use pontoon_wal::ScrubStep;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::park_timeout;
use std::time::{Duration, Instant};

/// How soon damage that a reader has met is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads the log once per interval, and at once where somebody has met damage.
pub(super) struct LogScrub {
    pub(super) shared: Arc<Shared>,
    pub(super) schedule: ScrubSchedule,
    pub(super) budget: Arc<ScrubBudget>,
}

impl LogScrub {
    pub(super) fn run(&self) {
        let mut scrubber = self.shared.wal.scrubber();
        let mut due = self.schedule.first();
        let (mut wanted, mut began) = (false, Instant::now());
        while !self.is_halting() {
            // It stays wanted while a pass is under way, which may have read by what it is wanted for.
            wanted |= self.shared.scrub_is_wanted.swap(false, Ordering::AcqRel);
            if (wanted || due.is_some_and(|due| due <= Instant::now())) && scrubber.begin() {
                (wanted, began) = (false, Instant::now());
            }
            match scrubber.step() {
                ScrubStep::Idle => park_timeout(LOOK_EVERY),
                ScrubStep::Read { bytes, found } => {
                    for damage in found {
                        self.shared.wal.condemn(damage.start.generation());
                    }
                    self.pay(self.budget.spend(bytes));
                }
                ScrubStep::Finished => {
                    due = self.schedule.finish();
                    let damaged = self.shared.wal.damage().len();
                    tracing::info!(damaged, elapsed = ?began.elapsed(), "scrubbed the log");
                }
            }
        }
    }

    fn is_halting(&self) -> bool {
        self.shared.halting.load(Ordering::Acquire)
    }

    /// Waits until what was read is paid for.
    fn pay(&self, until: Instant) {
        while !self.is_halting() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            park_timeout(left);
        }
    }
}
