//! What a database brings of its own, and what it may do.

use super::{Outcome, ReplicaRecord};
use crate::keys::{self, Space};
use crate::{Store, StoreError, WriteBatch};
use bytes::Bytes;

/// What committed commands do to the state of their group.
///
/// The state is rows: ordered keys with values, each group's apart from all others'. A state machine is one function from a
/// command and the rows to new rows and an outcome. All that is hard about replicas rests on the state being rows, so it
/// is there for every state machine: batches across groups, exactly once over crashes, changes of members,
/// [snapshots](super::KvSnapshot) that stop nobody, their [atomic install](super::Machine::install), hashes to compare.
///
/// A group that is [split](super::Machine::split) or [merged](super::Machine::merge) keeps its rows where they are, and which
/// half has a row is told by its key. So that needs a state machine whose rows have the users' keys, within the
/// group's range. One with rows of other keys, such as a counter of its own, cannot be split or merged: what it writes outside
/// of the range would be another group's.
///
/// [`KeyValue`](super::KeyValue) is the one that ships; `examples/queue.rs` has another, and `engine/examples/counter` a
/// service of three nodes with its own.
pub trait StateMachine: Send + 'static {
    /// Executes one command.
    ///
    /// It must be deterministic, or replicas drift apart (S4): the outcome and what becomes of the rows follow from the
    /// command, the rows and the group's record, never from a clock, a random number, or something kept in `self` from
    /// command to command. A command may be executed again if its batch could not be written; nothing of the first time
    /// is left then.
    ///
    /// # Errors
    /// Only what [`State`] returns. Whatever is wrong with the command itself is an outcome, the same on all replicas.
    fn execute<S: Store>(
        &self,
        command: &[u8],
        state: &mut State<'_, S>,
    ) -> Result<Outcome, StoreError>;
}

/// The rows of one group, as the commands before this one left them.
pub struct State<'a, S> {
    store: &'a S,
    batch: &'a mut WriteBatch,
    record: &'a ReplicaRecord,
}

impl<'a, S: Store> State<'a, S> {
    pub(super) const fn new(
        store: &'a S,
        batch: &'a mut WriteBatch,
        record: &'a ReplicaRecord,
    ) -> Self {
        Self {
            store,
            batch,
            record,
        }
    }

    /// The record of the group's replica.
    #[must_use]
    pub const fn record(&self) -> &'a ReplicaRecord {
        self.record
    }

    /// The value of a row; it may have been written in the same batch.
    ///
    /// # Errors
    /// If the row could not be read.
    ///
    /// # Panics
    /// If the key is outside the group's range, and the group was split or merged.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let stored = keys::stored_key(self.record.pieces.tablet(key), Space::Data, key);
        match self.batch.staged(&stored) {
            Some(value) => Ok(value.map(Bytes::copy_from_slice)),
            None => self.store.get(&stored),
        }
    }

    /// Sets a row.
    ///
    /// # Panics
    /// If the key is longer than [`MAX_STORED_KEY_BYTES`](keys::MAX_STORED_KEY_BYTES); or outside the group's range, and the
    /// group was split or merged.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let tablet = self.record.pieces.tablet(key);
        self.batch.put(tablet, Space::Data, key, value);
    }

    /// Removes a row, which need not be there.
    ///
    /// # Panics
    /// If the key is longer than [`MAX_STORED_KEY_BYTES`](keys::MAX_STORED_KEY_BYTES); or outside the group's range, and the
    /// group was split or merged.
    pub fn delete(&mut self, key: &[u8]) {
        let tablet = self.record.pieces.tablet(key);
        self.batch.delete(tablet, Space::Data, key);
    }
}
