//! A log that takes batches for as long as a bench likes, in bounded space.

use crate::entry;
use pontoon_types::{ClusterId, GroupId, LogIndex, LogPosition, NodeId, Term};
use pontoon_wal::{BatchBuilder, FsDirectory, Log, LogIdentity, SealedBatch, WalConfig};
use std::fmt;
use std::path::Path;

/// Whose log it is.
pub const IDENTITY: LogIdentity = LogIdentity {
    cluster: ClusterId(0xbe9c),
    node: NodeId(1),
};

/// What a batch is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// How many entries.
    pub records: u64,
    /// The payload of each.
    pub payload_bytes: usize,
    /// Over how many groups they go, round about.
    pub groups: u64,
}

impl fmt::Display for BatchShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            records,
            payload_bytes,
            groups,
        } = self;
        write!(f, "{records}x{payload_bytes}B/{groups}groups")
    }
}

/// The log's synchronous core on real files, with the entries that come next in each group.
///
/// What it holds is cut by [`LogFixture::tidy`], which a bench calls between two measurements: so
/// segments are recycled, as they are in a node that has run for a while.
pub struct LogFixture {
    log: Log<FsDirectory>,
    shape: BatchShape,
    last: Vec<LogIndex>,
    turn: u64,
    untidied_bytes: usize,
}

impl LogFixture {
    /// A quarter of what is usual, so that a bench is set up in a moment.
    const SEGMENT_BYTES: u64 = 16 << 20;
    /// When so much was laid, it is cut: before a second segment is full, as only one spare is there.
    const TIDY_BYTES: usize = 8 << 20;

    /// A new log in `directory` for batches of one shape.
    ///
    /// # Panics
    /// If it cannot be made there.
    #[must_use]
    pub fn new(directory: &Path, shape: BatchShape) -> Self {
        let directory = FsDirectory::open(directory).expect("the directory is free");
        let config = WalConfig {
            segment_bytes: Self::SEGMENT_BYTES,
            ..WalConfig::default()
        };
        let opened = Log::open(directory, config, IDENTITY);
        let (mut log, _) = opened.expect("a log can be made");
        log.maintain().expect("there is room for a spare segment");
        Self {
            log,
            shape,
            last: vec![LogIndex::ZERO; shape.groups as usize],
            turn: 0,
            untidied_bytes: 0,
        }
    }

    /// The batch that comes next.
    #[must_use]
    pub fn next_batch(&mut self) -> SealedBatch {
        let BatchShape {
            records,
            payload_bytes,
            groups,
        } = self.shape;
        let mut batch = BatchBuilder::with_capacity(records as usize);
        for _ in 0..records {
            let group = self.turn % groups;
            let last = &mut self.last[group as usize];
            *last = last.next();
            batch.append(&entry(GroupId(group + 1), *last, payload_bytes));
            self.turn += 1;
        }
        batch.seal()
    }

    /// Lays a batch.
    ///
    /// # Panics
    /// If the log has failed.
    pub fn append(&mut self, batch: &SealedBatch) {
        self.log.append(batch).expect("the log takes the batch");
        self.untidied_bytes += batch.bytes();
    }

    /// Syncs what was laid.
    ///
    /// # Panics
    /// If the log has failed.
    pub fn sync(&mut self) {
        self.log.sync().expect("the log can be synced");
    }

    /// If much was laid since the last time, lets the log forget all of it and prepare its next segment.
    ///
    /// # Panics
    /// If the log has failed.
    pub fn tidy(&mut self) {
        if self.untidied_bytes < Self::TIDY_BYTES {
            return;
        }
        self.untidied_bytes = 0;
        let mut batch = BatchBuilder::new();
        for (group, &index) in (1..).map(GroupId).zip(&self.last) {
            let term = Term(1);
            batch.compact(group, LogPosition { term, index });
        }
        self.log
            .append(&batch.seal())
            .expect("there is room to cut");
        // The second sync makes durable that the log is without the segments which the first let go.
        self.sync();
        self.sync();
        self.log.maintain().expect("segments can be recycled");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_tidied_stays_small() {
        let directory = tempfile::tempdir().expect("a directory");
        let shape = BatchShape {
            records: 64,
            payload_bytes: 4096,
            groups: 3,
        };
        let mut log = LogFixture::new(directory.path(), shape);
        for _ in 0..256 {
            let batch = log.next_batch();
            log.append(&batch);
            log.tidy();
        }
        let stats = log.log.stats();
        assert!(stats.bytes > 4 * LogFixture::SEGMENT_BYTES, "{stats:?}");
        assert!(stats.segments_live <= 2, "{stats:?}");
    }
}
