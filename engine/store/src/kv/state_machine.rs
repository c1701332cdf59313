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
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let stored = keys::stored_key(self.record.tablet, Space::Data, key);
        match self.batch.staged(&stored) {
            Some(value) => Ok(value.map(Bytes::copy_from_slice)),
            None => self.store.get(&stored),
        }
    }

    /// Sets a row.
    ///
    /// # Panics
    /// If the key is longer than [`MAX_STORED_KEY_BYTES`](keys::MAX_STORED_KEY_BYTES).
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.batch.put(self.record.tablet, Space::Data, key, value);
    }

    /// Removes a row, which need not be there.
    ///
    /// # Panics
    /// If the key is longer than [`MAX_STORED_KEY_BYTES`](keys::MAX_STORED_KEY_BYTES).
    pub fn delete(&mut self, key: &[u8]) {
        self.batch.delete(self.record.tablet, Space::Data, key);
    }
}
