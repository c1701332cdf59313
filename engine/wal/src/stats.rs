//! What the log counts.

use crate::LogScrubCounters;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Whether there is room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// There is.
    Ok,
    /// The bound on the log is near, or the disk has no room for another segment. Proposals must be
    /// refused; what was accepted still has a reserve. It passes by itself when there is room again.
    Full,
}

/// Counts since the log was opened, and its present size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Syncs of segments.
    pub syncs: u64,
    /// Sealed batches laid.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Entries among those.
    pub entries: u64,
    /// Bytes laid, with all headers.
    pub bytes: u64,
    /// Segments that hold something needed, and the active one.
    pub segments_live: u64,
    /// Files kept for reuse.
    pub segments_recycled: u64,
    /// Bytes of the live segments: what the bound is about.
    pub live_bytes: u64,
    /// Groups with a record in the log.
    pub groups: u64,
    /// Groups that hold more of the log than their quota.
    pub groups_over_quota: u64,
    /// Entries written again so that their old segment could go.
    pub entries_rewritten: u64,
    /// Writes, syncs and preparations of segments that took longer than [`WalConfig::hung_after`](crate::WalConfig::hung_after).
    pub hangs: u64,
    /// For how long one of these has not returned, if it has been longer than that.
    pub hanging: Option<Duration>,
    /// What scrubbing has done.
    pub scrub: LogScrubCounters,
}

/// How long batches waited from being submitted until they were announced, counted since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogWaits {
    /// How many there were.
    pub batches: u64,
    /// How long they waited, all together.
    pub waited: Duration,
    /// How many are not announced yet.
    pub waiting: u64,
}

impl LogWaits {
    /// What came after an earlier count; of those that wait, all.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            batches: self.batches - earlier.batches,
            waited: self.waited.saturating_sub(earlier.waited),
            waiting: self.waiting,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) syncs: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) segments_live: AtomicU64,
    pub(crate) segments_recycled: AtomicU64,
    pub(crate) live_bytes: AtomicU64,
    pub(crate) rewritten: AtomicU64,
    pub(crate) submitted: AtomicU64,
    pub(crate) announced: AtomicU64,
    pub(crate) waited_us: AtomicU64,
}
