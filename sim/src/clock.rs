//! The clocks of the nodes, which run at slightly different speeds.

use pontoon_types::Instant;

const MILLION: u128 = 1_000_000;

/// A node's clock: starts somewhere, and gains or loses a little against simulated time.
///
/// Like the clock of production it never goes backwards and does not stop while the process is down.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin_nanos: u64,
    drift_ppm: i32,
}

impl Clock {
    /// A clock that shows `origin_nanos` at the start and gains `drift_ppm` millionths.
    #[must_use]
    pub const fn new(origin_nanos: u64, drift_ppm: i32) -> Self {
        Self {
            origin_nanos,
            drift_ppm,
        }
    }

    const fn rate(self) -> u128 {
        (MILLION as i64 + self.drift_ppm as i64) as u128
    }

    /// What it shows at a simulated moment.
    #[must_use]
    pub const fn at(self, now: Instant) -> Instant {
        let passed = now.as_nanos() as u128 * self.rate() / MILLION;
        Instant::from_nanos(self.origin_nanos + passed as u64)
    }

    /// The first simulated moment at which it shows `local` or later.
    #[must_use]
    pub const fn when(self, local: Instant) -> Instant {
        let passed = local.as_nanos().saturating_sub(self.origin_nanos) as u128;
        let nanos = (passed * MILLION).div_ceil(self.rate());
        if nanos >= u64::MAX as u128 {
            Instant::FAR_FUTURE
        } else {
            Instant::from_nanos(nanos as u64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_reached_early_and_at_most_a_tick_late() {
        for drift in [-10_000, -3, 0, 7, 10_000] {
            let clock = Clock::new(1_000_000_007, drift);
            for local in [1_000_000_007, 1_000_000_008, 5_123_456_789] {
                let local = Instant::from_nanos(local);
                let when = clock.when(local);
                assert!(clock.at(when) >= local, "{drift} {local:?}");
                if when > Instant::ZERO {
                    let before = Instant::from_nanos(when.as_nanos() - 1);
                    assert!(clock.at(before) < local, "{drift} {local:?}");
                }
            }
        }
    }
}
