//! Batches: what one cycle of a worker wants to have in the log.

use crate::format::batch::BATCH_HEADER_BYTES;
use crate::format::record::{COMPACT_BYTES, HARD_STATE_BYTES, record_bytes};
use crate::format::state::{MAX_INSTALL_BYTES, TOMBSTONE_BYTES, install_bytes};
use bytes::Bytes;
use pontoon_types::{Entry, GroupId, HardState, LogPosition, ReplicaId};

/// One record to lay. An entry is a handle on bytes that were encoded and checksummed elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An entry, as [`BatchBuilder::append`] took it.
    Entry(Entry),
    /// A hard state, as [`BatchBuilder::hard_state`] took it.
    HardState(GroupId, HardState),
    /// A compaction, as [`BatchBuilder::compact`] took it.
    Compact(GroupId, LogPosition),
    /// An installed snapshot, as [`BatchBuilder::install_snapshot`] took it.
    SnapshotInstall(GroupId, LogPosition, Bytes),
    /// The end of a replica, as [`BatchBuilder::tombstone`] took it.
    Tombstone(GroupId, ReplicaId),
}

impl Record {
    /// The group that it belongs to.
    #[must_use]
    pub fn group(&self) -> GroupId {
        match self {
            Self::Entry(entry) => entry.group(),
            Self::HardState(group, _)
            | Self::Compact(group, _)
            | Self::SnapshotInstall(group, ..)
            | Self::Tombstone(group, _) => *group,
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
    /// log has another term, it empties the log. From the last entry of an
    /// [installed snapshot](Self::install_snapshot) on, it also says that the snapshot's payload is no longer
    /// needed.
    ///
    /// Only what was announced as durable may be compacted: a batch of nothing but compactions is laid ahead of batches
    /// that wait for room.
    pub fn compact(&mut self, group: GroupId, up_to: LogPosition) {
        self.body_bytes += record_bytes(COMPACT_BYTES);
        self.records.push(Record::Compact(group, up_to));
    }

    /// Puts a snapshot in the place of a group's log, which then begins behind `last`, whatever it held. This
    /// record is the one commit point: the store switches over when it is durable, and recovery redoes the
    /// switch from `payload`, of which the log understands nothing, until a [compaction](Self::compact) at
    /// `last` or behind it says that the switch is flushed.
    ///
    /// # Panics
    /// If the payload is longer than [`MAX_INSTALL_BYTES`].
    pub fn install_snapshot(&mut self, group: GroupId, last: LogPosition, payload: Bytes) {
        let length = payload.len();
        assert!(
            length <= MAX_INSTALL_BYTES,
            "the payload of an install has {length} bytes, at most {MAX_INSTALL_BYTES} are allowed"
        );
        self.body_bytes += record_bytes(install_bytes(length));
        self.records
            .push(Record::SnapshotInstall(group, last, payload));
    }

    /// Says that a replica is gone for good: its log, hard state and installed snapshot are forgotten, and what
    /// it may have lost. The log remembers the highest one of the group for ever; the group may live again
    /// under a higher one.
    pub fn tombstone(&mut self, group: GroupId, replica: ReplicaId) {
        self.body_bytes += record_bytes(TOMBSTONE_BYTES);
        self.records.push(Record::Tombstone(group, replica));
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

    /// Whether it only frees space, so that it may overtake `others` when there is no room for those. A
    /// tombstone may not overtake records of its own group, which would then be the next replica's.
    pub(crate) fn may_overtake<'a>(&self, others: impl Iterator<Item = &'a Self> + Clone) -> bool {
        self.records.iter().all(|record| match record {
            Record::Compact(..) => true,
            Record::Tombstone(group, _) => others
                .clone()
                .all(|other| other.records.iter().all(|record| record.group() != *group)),
            Record::Entry(_) | Record::HardState(..) | Record::SnapshotInstall(..) => false,
        })
    }
}
