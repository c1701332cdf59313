//! Clocks that are not quite right.

use pontoon_types::Instant;
use std::time::Duration;

/// A replica's clock: it showed `shown` at the true time `since`, and has run at `percent` of the true
/// speed from then on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    since: Instant,
    shown: Instant,
    percent: u64,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            since: Instant::ZERO,
            shown: Instant::ZERO,
            percent: 100,
        }
    }
}

impl Clock {
    /// What it shows at the true time `now`.
    pub(crate) fn read(&self, now: Instant) -> Instant {
        let elapsed = now.saturating_since(self.since).as_nanos();
        let shown = elapsed * u128::from(self.percent) / 100;
        self.shown + Duration::from_nanos(u64::try_from(shown).unwrap())
    }

    /// The first true time at which it shows `at`.
    pub(crate) fn shows_at(&self, at: Instant) -> Instant {
        let wanted = at.saturating_since(self.shown).as_nanos() * 100;
        let elapsed = wanted.div_ceil(u128::from(self.percent));
        self.since + Duration::from_nanos(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    /// Runs at `percent` of the true speed from `now` on.
    pub(crate) fn set_speed(&mut self, percent: u64, now: Instant) {
        assert!(percent > 0, "a clock that stands");
        (self.shown, self.since, self.percent) = (self.read(now), now, percent);
    }

    /// Jumps ahead.
    pub(crate) fn skip(&mut self, by: Duration) {
        self.shown = self.shown + by;
    }
}
