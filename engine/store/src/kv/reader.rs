//! Reads from one pinned version of the state.

use super::ReplicaRecord;
use crate::keys::{self, MAX_STORED_KEY_BYTES, Space};
use crate::{Row, StoreError, View};
use bytes::Bytes;
use pontoon_types::{Epoch, GroupId, ShardId, mutant};
use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;

/// Reads a consistent version of all groups' state, from any thread.
///
/// A linearizable read takes a reader only after its ReadIndex was confirmed and applied. Each read
/// checks shard, epoch and range once more, against the records of the same version: a split may have
/// been applied since the request was checked first (S9).
#[derive(Clone)]
pub struct KvReader<V> {
    view: V,
    records: Arc<BTreeMap<GroupId, Arc<ReplicaRecord>>>,
}

/// Why a read is refused.
#[derive(Clone, Debug, Error)]
pub enum ReadError {
    /// The group has no replica here.
    #[error("group {group} has no replica on this node")]
    UnknownGroup {
        /// The group.
        group: GroupId,
    },
    /// The request was routed by an old map, or to another shard.
    #[error("the shard is at epoch {current}, the request was routed by {requested}")]
    StaleEpoch {
        /// The shard's epoch here.
        current: Epoch,
        /// The request's.
        requested: Epoch,
    },
    /// A key is outside the shard's range.
    #[error("a key is outside the range of shard {shard}")]
    OutOfRange {
        /// The shard.
        shard: ShardId,
    },
    /// The store could not read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// When a scan ends, even if there is more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanLimits {
    /// The most rows.
    pub rows: usize,
    /// The most bytes of keys and values; the first row comes whatever its size.
    pub bytes: usize,
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// Keys and values in key order.
    pub rows: Vec<Row>,
    /// Whether a limit ended the scan before the range did: there is at least one more row, the
    /// next one behind the last key.
    pub more: bool,
}

impl<V: View> KvReader<V> {
    pub(super) fn new(view: V, records: Arc<BTreeMap<GroupId, Arc<ReplicaRecord>>>) -> Self {
        Self { view, records }
    }

    /// The record of the group's replica, in this version.
    #[must_use]
    pub fn replica(&self, group: GroupId) -> Option<&ReplicaRecord> {
        self.records.get(&group).map(|record| &**record)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// If the request is not for this shard and range, or the store could not read.
    pub fn get(
        &self,
        group: GroupId,
        shard: ShardId,
        epoch: Epoch,
        key: &[u8],
    ) -> Result<Option<Bytes>, ReadError> {
        let record = self.current(group, shard, epoch)?;
        if !record.contains(key) && !mutant!(ReadsAstray) {
            return Err(ReadError::OutOfRange { shard });
        }
        if key.len() > MAX_STORED_KEY_BYTES {
            return Ok(None); // The tree panics at a key that it could not hold.
        }
        Ok(self.view.get(&keys::stored_key(
            record.pieces.tablet(key),
            Space::Data,
            key,
        ))?)
    }

    /// The rows from `from` up to, and without, `to`, as far as the shard has them; an empty `to`
    /// asks for everything up to the shard's end.
    ///
    /// # Errors
    /// If `from` is not in the shard's range or the request is not for this shard, or the store
    /// could not read.
    pub fn scan(
        &self,
        group: GroupId,
        shard: ShardId,
        epoch: Epoch,
        (from, to): (&[u8], &[u8]),
        limits: ScanLimits,
    ) -> Result<ScanPage, ReadError> {
        let record = self.current(group, shard, epoch)?;
        if !record.contains(from) {
            return Err(ReadError::OutOfRange { shard });
        }
        // A bound longer than any key panics in the tree. Of the rows that a shortened `from` lets in at
        // most one comes before it; an overlong `to` is looked at row by row.
        let is_storable = |key: &[u8]| key.len() <= MAX_STORED_KEY_BYTES;
        let shortened = &from[..from.len().min(MAX_STORED_KEY_BYTES)];
        let end = [to, &record.end]
            .into_iter()
            .filter(|end| !end.is_empty() && is_storable(end))
            .min();
        let mut page = ScanPage::default();
        let mut bytes = 0;
        for piece in record.pieces.iter() {
            let Some((first, behind)) = piece.stored_range(shortened, end) else {
                continue;
            };
            let key_start = keys::prefix(piece.tablet, Space::Data).len();
            for row in self.view.range(&first, &behind) {
                let (stored, value) = row?;
                let key = stored.slice(key_start..);
                if !is_storable(from) && key < from {
                    continue;
                }
                if !is_storable(to) && key >= to {
                    return Ok(page);
                }
                bytes += key.len() + value.len();
                let full = page.rows.len() >= limits.rows;
                if full || (bytes > limits.bytes && !page.rows.is_empty()) {
                    page.more = true;
                    return Ok(page);
                }
                page.rows.push((key, value));
            }
        }
        Ok(page)
    }

    fn current(
        &self,
        group: GroupId,
        shard: ShardId,
        epoch: Epoch,
    ) -> Result<&ReplicaRecord, ReadError> {
        let record = self
            .replica(group)
            .ok_or(ReadError::UnknownGroup { group })?;
        if record.is_current(shard, epoch) || mutant!(ReadsAstray) {
            Ok(record)
        } else {
            Err(ReadError::StaleEpoch {
                current: record.epoch,
                requested: epoch,
            })
        }
    }
}
