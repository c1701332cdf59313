//! Batches: what one cycle of a worker wants to have in the log.

use crate::format::batch::BATCH_HEADER_BYTES;
use crate::format::record::{COMPACT_BYTES, HARD_STATE_BYTES, record_bytes};
use pontoon_types::{Entry, GroupId, HardState, LogPosition};

/// One record to lay. An entry is a handle on bytes that were encoded and checksummed elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An entry, as [`BatchBuilder::append`] took it.
    Entry(Entry),
    /// A hard state, as [`BatchBuilder::hard_state`] took it.
    HardState(GroupId, HardState),
    /// A compaction, as [`BatchBuilder::compact`] took it.
    Compact(GroupId, LogPosition),
}

impl Record {
    /// The group that it belongs to.
    #[must_use]
    pub fn group(&self) -> GroupId {
        match self {
            Self::Entry(entry) => entry.group(),
            Self::HardState(group, _) | Self::Compact(group, _) => *group,
        }
    }
}

/// Gathers the records of a batch. Records of a group that follow each other cost the log less.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    records: Vec<Record>,
    body_bytes: usize,
    entries: usize,
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch with room for `records` records.
    #[must_use]
    pub fn with_capacity(records: usize) -> Self {
        Self {
            records: Vec::with_capacity(records),
            ..Self::default()
        }
    }

    /// Adds an entry. At its index or below, it replaces what its group's log holds from there on.
    pub fn append(&mut self, entry: &Entry) {
        self.body_bytes += record_bytes(entry.encoded_len());
        self.entries += 1;
        self.records.push(Record::Entry(entry.clone()));
    }

    /// Adds a group's hard state. Put it after the entries whose commit index it names.
    pub fn hard_state(&mut self, group: GroupId, state: &HardState) {
        self.body_bytes += record_bytes(HARD_STATE_BYTES);
        self.records.push(Record::HardState(group, *state));
    }

    /// Says that a group's entries up to `up_to` are no longer needed. Beyond the log's end, or where the
    /// log has another term, it empties the log, as an installed snapshot does.
    pub fn compact(&mut self, group: GroupId, up_to: LogPosition) {
        self.body_bytes += record_bytes(COMPACT_BYTES);
        self.records.push(Record::Compact(group, up_to));
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many bytes the batch takes in the log.
    #[must_use]
    pub fn bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.body_bytes
    }

    /// Closes the batch and leaves an empty builder behind.
    #[must_use]
    pub fn seal(&mut self) -> SealedBatch {
        let Self {
            records,
            body_bytes,
            entries,
        } = std::mem::take(self);
        SealedBatch {
            records,
            body_bytes,
            entries,
        }
    }
}

/// A batch that is ready for the log. It survives a crash whole or not at all, and is never
/// acknowledged in part.
#[derive(Debug, Default)]
pub struct SealedBatch {
    pub(crate) records: Vec<Record>,
    pub(crate) body_bytes: usize,
    pub(crate) entries: usize,
}

impl SealedBatch {
    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many bytes it takes in the log.
    #[must_use]
    pub fn bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.body_bytes
    }

    /// How many of its records are entries.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// The records, in order: for those who watch what goes into a log.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Whether it only frees space. Such a batch may overtake others when there is no room for those.
    pub(crate) fn only_compacts(&self) -> bool {
        self.records
            .iter()
            .all(|record| matches!(record, Record::Compact(..)))
    }
}
