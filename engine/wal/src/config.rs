//! The settings of a log, and whose log it is.

use crate::WalError;
use crate::format::segment::SEGMENT_HEADER_BYTES;
use pontoon_types::{ClusterId, NodeId};
use std::num::NonZero;
use std::time::Duration;

/// How a log uses its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalConfig {
    /// The size of a segment file in bytes, a multiple of 4 KiB. A batch that does not fit gets a
    /// larger segment of its own.
    pub segment_bytes: u64,
    /// The bound on all segments that hold something needed. Two segments below it the log reports
    /// [`Pressure::Full`](crate::Pressure::Full), so that what was accepted before still has room.
    pub max_bytes: u64,
    /// What a recovery should have to read at most, so that it takes no longer than that. Above it, and above
    /// half of `max_bytes`, the log writes again what little is needed of old segments, so that they can go;
    /// of a segment of which more than half is needed, only its groups' owners can free anything.
    pub recovery_bytes: u64,
    /// How many threads take in what the one that opens the log reads back; what is found is the same with any number. Half
    /// as many more, rounded up, read and check ahead of it. Each of those holds a segment in memory, beside the one that is
    /// looked at, and each of the former some MiB of records that wait for it.
    pub recovery_threads: usize,
    /// How much of the log the entries of one group may take before it is
    /// [reported](crate::Wal::over_quota).
    pub group_quota_bytes: u64,
    /// How many files that hold nothing needed any more are kept for reuse.
    pub max_recycled: usize,
    /// How long after the last batch the durable mark is written a second time, at the latest.
    pub mark_after_idle: Duration,
    /// When what is submitted counts as durable.
    pub sync: SyncMode,
    /// After how long a write, a sync or the making of a segment that has not returned is
    /// [reported](crate::DurabilityListener::hung).
    pub hung_after: Duration,
}

/// When the log syncs, and so what an announced batch is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// Before anything is announced: what is announced survives a power cut. The only mode in which a replica keeps
    /// what it promises (S6, S7).
    #[default]
    Always,
    /// At most so often; a batch is announced when it is laid. A killed process loses nothing, a power cut up to so
    /// much of what was announced.
    Interval(Duration),
    /// When a segment is full, and at the end; a batch is announced when it is laid. Between the two the operating system
    /// writes when it sees fit. A killed process loses nothing, a power cut up to a segment.
    Os,
}

impl Default for WalConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            max_bytes: 8 << 30,
            recovery_bytes: 1 << 30,
            recovery_threads: std::thread::available_parallelism()
                .map_or(1, NonZero::get)
                .min(8),
            group_quota_bytes: 256 << 20,
            max_recycled: 2,
            mark_after_idle: Duration::from_millis(500),
            sync: SyncMode::Always,
            hung_after: Duration::from_secs(10),
        }
    }
}

impl WalConfig {
    /// The smallest segment: a header page and three more.
    pub const MIN_SEGMENT_BYTES: u64 = 4 * SEGMENT_HEADER_BYTES as u64;
    /// The largest segment: offsets in it have 32 bits.
    pub const MAX_SEGMENT_BYTES: u64 = 2 << 30;

    /// Checks every setting, as opening a log does before it touches the disk.
    ///
    /// # Errors
    /// Names the first one that is out of its bounds.
    pub fn check(&self) -> Result<(), WalError> {
        let invalid = |setting, value, allowed| {
            Err(WalError::Config {
                setting,
                value,
                allowed,
            })
        };
        if !(Self::MIN_SEGMENT_BYTES..=Self::MAX_SEGMENT_BYTES).contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(4096)
        {
            return invalid(
                "segment-bytes",
                self.segment_bytes,
                "a multiple of 4096 from 16 KiB to 2 GiB",
            );
        }
        if self.group_quota_bytes == 0 {
            return invalid("group-quota-bytes", 0, "more than 0");
        }
        if self.hung_after.is_zero() {
            return invalid("hung-disk-ms", 0, "more than 0");
        }
        if self.max_bytes < 4 * self.segment_bytes {
            return invalid("max-log-bytes", self.max_bytes, "at least four segments");
        }
        Ok(())
    }
}

/// Whose log it is. Written into every segment, so that a file of another node is refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node in it.
    pub node: NodeId,
}
