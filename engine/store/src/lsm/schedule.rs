//! When everything is to be read to find damage, and how fast.

use super::pace::Rate;
use parking_lot::Mutex;
use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Its time of modification says when everything was last read to the end.
const MARKER: &str = "scrubbed";
/// What has never been read to the end is read so long after its opening, at the latest.
const FIRST_AFTER: Duration = Duration::from_secs(600);

/// When everything in a directory is to be read: once per interval, also over restarts.
#[derive(Clone, Debug)]
pub struct ScrubSchedule {
    marker: PathBuf,
    interval: Option<Duration>,
}

impl ScrubSchedule {
    /// Without an interval, never.
    #[must_use]
    pub fn new(directory: &Path, interval: Option<Duration>) -> Self {
        Self {
            marker: directory.join(MARKER),
            interval,
        }
    }

    /// When it is first to be read after an opening.
    #[must_use]
    pub fn first(&self) -> Option<Instant> {
        let interval = self.interval?;
        let since = self.last();
        let since = since.and_then(|last| SystemTime::now().duration_since(last).ok());
        let wait = match since {
            Some(since) => interval.saturating_sub(since),
            None => interval.min(FIRST_AFTER),
        };
        Some(Instant::now() + wait)
    }

    /// Notes that it has been read; returns when it is to be read again.
    #[must_use]
    pub fn finish(&self) -> Option<Instant> {
        if let Err(error) = fs::write(&self.marker, b"") {
            tracing::warn!(path = %self.marker.display(), %error, "when everything was scrubbed is not noted");
        }
        self.interval.map(|interval| Instant::now() + interval)
    }

    /// When it was last read to the end, if ever.
    #[must_use]
    pub fn last(&self) -> Option<SystemTime> {
        fs::metadata(&self.marker).ok()?.modified().ok()
    }
}

/// What may be read for that, by all who share it together.
#[derive(Debug)]
pub struct ScrubBudget {
    opened: Instant,
    rate: Mutex<Rate>,
}

impl ScrubBudget {
    pub(super) fn new(bytes_per_second: NonZeroU64) -> Self {
        Self {
            opened: Instant::now(),
            rate: Mutex::new(Rate::new(bytes_per_second)),
        }
    }

    /// Spends what was read; returns when to go on.
    #[must_use]
    pub fn spend(&self, bytes: u64) -> Instant {
        let paid_at = self.rate.lock().spend(self.opened.elapsed(), bytes);
        // At a rate of some bytes a second that may be beyond what a clock can show.
        let paid_at = paid_at.min(self.opened.elapsed() + Duration::from_secs(3600));
        self.opened + paid_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shares_a_budget_waits_for_what_the_others_read() {
        let budget = ScrubBudget::new(NonZeroU64::new(1000).unwrap());
        let first = budget.spend(10_000);
        assert!(first >= budget.opened + Duration::from_secs(10));
        assert!(budget.spend(10_000) >= first + Duration::from_secs(10));
        assert!(budget.spend(u64::MAX) <= Instant::now() + Duration::from_secs(3601));
    }

    #[test]
    fn a_restart_begins_no_new_interval() {
        let directory = tempfile::tempdir().unwrap();
        let interval = Duration::from_secs(3600);
        let schedule = ScrubSchedule::new(directory.path(), Some(interval));
        let now = Instant::now();
        assert!(schedule.first().unwrap() <= now + FIRST_AFTER + Duration::from_secs(60));
        assert_eq!(schedule.last(), None);
        assert!(schedule.finish().unwrap() >= now + interval);
        assert!(schedule.last().is_some());
        let again = ScrubSchedule::new(directory.path(), Some(interval));
        assert!(again.first().unwrap() > now + FIRST_AFTER + Duration::from_secs(60));
        let never = ScrubSchedule::new(directory.path(), None);
        assert_eq!((never.first(), never.finish()), (None, None));
    }
}
