//! What holds a compaction back while it runs: a bound on its rate, and the end of the store.
//!
//! The tree shows every row that it merges to a filter, and that is the one place where a merge of some gigabytes can be
//! held up or broken off. Nobody waits for it there: the tree merges without a lock.
//!
//! Flushes are not held back. Until one has finished its memtable stays in memory, so a slow flush would only move the
//! wait to the writers.

use lsm_tree::compaction::filter::{Context, Factory};
use lsm_tree::compaction::{CompactionFilter, ItemAccessor, Verdict};
use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes merged between two looks at the clock.
const STRIDE_BYTES: u64 = 64 << 10;
/// The longest that the end of the store goes unnoticed.
pub(super) const MAX_SLEEP: Duration = Duration::from_millis(20);

/// Keeps compactions to their rate, and breaks off the one under way when the store stops: nobody wants to wait for it,
/// and the tree's own stop signal makes it commit what it has merged so far, without the rest.
pub(super) struct CompactionPace {
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) bytes_per_second: Option<NonZeroU64>,
}

impl Factory for CompactionPace {
    fn name(&self) -> &'static str {
        "pace"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(PacedFilter {
            stopping: Arc::clone(&self.stopping),
            rate: self.bytes_per_second.map(Rate::new),
            started: Instant::now(),
            unpaid_bytes: 0,
        })
    }
}

struct PacedFilter {
    stopping: Arc<AtomicBool>,
    rate: Option<Rate>,
    started: Instant,
    /// What was merged since the last look at the clock.
    unpaid_bytes: u64,
}

impl PacedFilter {
    fn check(&self) -> lsm_tree::Result<()> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the store stops").into());
        }
        Ok(())
    }

    fn pay(&mut self) -> lsm_tree::Result<()> {
        let bytes = std::mem::take(&mut self.unpaid_bytes);
        let Some(rate) = &mut self.rate else {
            return Ok(());
        };
        let until = rate.spend(self.started.elapsed(), bytes);
        while let Some(left) = until.checked_sub(self.started.elapsed()) {
            thread::sleep(left.min(MAX_SLEEP));
            self.check()?;
        }
        Ok(())
    }
}

impl CompactionFilter for PacedFilter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> lsm_tree::Result<Verdict> {
        self.check()?;
        if self.rate.is_some() {
            self.unpaid_bytes += (item.key().len() + item.value()?.len()) as u64;
            if self.unpaid_bytes >= STRIDE_BYTES {
                self.pay()?;
            }
        }
        Ok(Verdict::Keep)
    }
}

/// A rate of bytes that saves nothing up: whoever was slow for a while may not make up for it by a burst.
#[derive(Debug)]
pub(super) struct Rate {
    bytes_per_second: NonZeroU64,
    /// When all that was spent is paid for.
    paid_at: Duration,
}

impl Rate {
    pub(super) const fn new(bytes_per_second: NonZeroU64) -> Self {
        Self {
            bytes_per_second,
            paid_at: Duration::ZERO,
        }
    }

    /// Spends at `now`; returns when to go on.
    pub(super) fn spend(&mut self, now: Duration, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.get());
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid_at = self.paid_at.max(now).saturating_add(cost);
        self.paid_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_rate_is_kept_and_nothing_is_saved_up() {
        let mut rate = Rate::new(NonZeroU64::new(1000).unwrap());
        assert_eq!(rate.spend(Duration::ZERO, 500), SECOND / 2);
        assert_eq!(rate.spend(SECOND / 4, 500), SECOND);
        // Ten idle seconds later.
        assert_eq!(rate.spend(11 * SECOND, 1000), 12 * SECOND);
        assert_eq!(rate.spend(11 * SECOND, 1000), 13 * SECOND);
    }

    #[test]
    fn no_number_of_bytes_overflows() {
        let mut rate = Rate::new(NonZeroU64::MIN);
        let until = rate.spend(SECOND, u64::MAX);
        assert!(until > SECOND);
        assert!(rate.spend(until, u64::MAX) >= until);
    }
}
