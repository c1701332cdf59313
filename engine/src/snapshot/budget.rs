//! How many bytes a node moves for snapshots, over all of them.

use pontoon_types::Instant;
use std::time::Duration;

/// Bytes that may be moved at once after a pause.
const BURST: Duration = Duration::from_millis(50);

/// A rate, kept to on average: whoever moves something is charged for it, and the next has to wait until the debt
/// is paid off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    bytes_per_second: u64,
    /// When everything that was charged is paid for.
    paid_at: Instant,
}

impl Budget {
    pub(crate) const fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self {
            bytes_per_second,
            paid_at: now,
        }
    }

    /// When something may be moved; now, or later.
    pub(crate) fn opens_at(&self, now: Instant) -> Instant {
        self.paid_at.max(now)
    }

    /// Charges what is moved now.
    pub(crate) fn charge(&mut self, bytes: usize, now: Instant) {
        let nanos = u128::from(bytes as u64) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let price = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // What was not used earlier is worth a little, not for ever.
        let from = if now - self.paid_at > BURST {
            Instant::from_nanos(now.as_nanos().saturating_sub(BURST.as_nanos() as u64))
        } else {
            self.paid_at
        };
        self.paid_at = from + price;
    }
}
