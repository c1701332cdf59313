//! The state of one replica at one moment, to be sent to another.

use super::ReplicaRecord;
use crate::keys::{self, MAX_STORED_KEY_BYTES};
use crate::{Row, StoreError, View};
use bytes::Bytes;
use pontoon_types::LogIndex;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// A pinned version of a replica's state: its record, how far it has been applied, and its rows. Taking one copies nothing
/// and stops nobody; while it lives it keeps the tables of its version on disk.
#[derive(Clone)]
pub struct KvSnapshot<V> {
    view: V,
    record: Arc<ReplicaRecord>,
    applied: LogIndex,
}

impl<V: View> KvSnapshot<V> {
    pub(super) const fn new(view: V, record: Arc<ReplicaRecord>, applied: LogIndex) -> Self {
        Self {
            view,
            record,
            applied,
        }
    }

    /// The replica's record as of [`KvSnapshot::applied`].
    #[must_use]
    pub fn record(&self) -> &ReplicaRecord {
        &self.record
    }

    /// Up to where the replica had been applied.
    #[must_use]
    pub const fn applied(&self) -> LogIndex {
        self.applied
    }

    /// As [`View::kept_memory`] has it.
    #[must_use]
    pub fn kept_memory(&self) -> Vec<(usize, u64)> {
        self.view.kept_memory()
    }

    /// Its rows behind a key, or from the first on, in the order of their keys. A key is the space byte and the key
    /// within it: what is the same on all replicas, whatever their tablets are called and however many pieces they have.
    ///
    /// An item is an error if the row could not be read; what follows it is not to be trusted.
    pub fn rows(
        &self,
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<Row, StoreError>> + Send + use<'_, V> {
        let view = &self.view;
        let after = after.map(<[u8]>::to_vec);
        // Where a page begins anybody may say; the tree takes no longer bound than a key can be.
        let mut bound = after.clone();
        match &mut bound {
            Some(bound) if bound.len() > MAX_STORED_KEY_BYTES => {
                bound.truncate(MAX_STORED_KEY_BYTES);
            }
            Some(bound) => bound.push(0),
            None => {}
        }
        self.record.pieces.iter().flat_map(move |piece| {
            let tablet = keys::tablet_prefix(piece.tablet);
            let (mut from, to) = (piece.stored_start(), piece.stored_end());
            if let Some(bound) = &bound {
                from = from.max([&tablet[..], bound].concat());
            }
            // Behind the piece there is nothing.
            let rows = (from < to).then(|| view.range(&from, &to));
            let tablet_bytes = tablet.len();
            let key = move |stored: Bytes| stored.slice(tablet_bytes..);
            let rows = rows.into_iter().flatten();
            let rows = rows.map(move |row| row.map(|(stored, value)| (key(stored), value)));
            let after = after.clone();
            rows.skip_while(move |row| {
                let key = row.as_ref().map(|(key, _)| &key[..]);
                matches!((key, &after), (Ok(key), Some(after)) if key <= &after[..])
            })
        })
    }

    /// The hash of all rows, in their order: the same on all replicas that have applied the same.
    ///
    /// # Errors
    /// If a row could not be read.
    pub fn hash(&self) -> Result<u128, StoreError> {
        let mut hash = StateHash::default();
        for row in self.rows(None) {
            let (key, value) = row?;
            hash.push(&key, &value);
        }
        Ok(hash.finish())
    }
}

/// The hash of a state, made row by row: 128 bits of XXH3 over key and value of each, with their lengths.
#[derive(Clone, Default)]
pub struct StateHash(Xxh3);

impl StateHash {
    /// Adds the next row.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        for bytes in [key, value] {
            self.0.update(&(bytes.len() as u64).to_le_bytes());
            self.0.update(bytes);
        }
    }

    /// The hash of the rows so far.
    #[must_use]
    pub fn finish(&self) -> u128 {
        self.0.digest128()
    }
}

/// Takes in the rows of a snapshot, away from the apply thread. Dropped before it has finished, it leaves
/// garbage at most.
pub trait Stager: Send + 'static {
    /// Takes the next row; keys ascend, and are as [`KvSnapshot::rows`] gives them.
    ///
    /// # Errors
    /// If the disk does not take it.
    fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError>;

    /// All rows have come. They are durable when this returns.
    ///
    /// # Errors
    /// If the disk does not take them.
    fn finish(self) -> Result<(), StoreError>;
}
