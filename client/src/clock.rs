//! The one clock of the shell. The core is given what it reads.

use core::time::Duration;
use pontoon_types::Instant;

/// Moments since the client was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            origin: tokio::time::Instant::now(),
        }
    }

    pub(crate) fn now(self) -> Instant {
        Instant::ZERO + self.origin.elapsed()
    }

    /// The same moment on the runtime's clock.
    pub(crate) fn to_runtime(self, moment: Instant) -> tokio::time::Instant {
        let far = Duration::from_secs(86_400 * 365);
        self.origin + moment.saturating_since(Instant::ZERO).min(far)
    }
}
