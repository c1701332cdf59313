//! The one clock of the engine.

use pontoon_types::Instant;
use rustix::time::{ClockId, clock_gettime};

/// Now, on a monotonic clock that goes on while the machine is suspended: a leader that slept must see
/// that its time is over.
#[must_use]
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
    Instant::from_nanos(seconds * 1_000_000_000 + nanos)
}
