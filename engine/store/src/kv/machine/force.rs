//! Putting a replica's record in the place of the one that its log led to.

use super::Machine;
use crate::kv::StateMachine;
use crate::{ReplicaRecord, Store, StoreError};
use pontoon_types::Entry;
use std::sync::Arc;

impl<S: Store, M: StateMachine> Machine<S, M> {
    /// Applies the rest of a group's log and puts `record` in the place of the record that this leads to. All of it is
    /// durable, or none, when this returns.
    ///
    /// This is for a group that has lost its quorum for good, and breaks what [`Machine::apply`] rests on: the entries need
    /// not be committed, and the members are not those of the log. Nothing else may be at work on the group.
    ///
    /// # Errors
    /// If the record is invalid, the group is unknown, an entry is damaged, or the store could not read or write.
    ///
    /// # Panics
    /// If the entries have a gap, or the record has its rows elsewhere: bugs of the caller.
    pub fn force(&mut self, entries: &[Entry], record: ReplicaRecord) -> Result<(), StoreError> {
        let group = record.group;
        record
            .check()
            .map_err(|what| StoreError::InvalidRecord { group, what })?;
        self.turn += 1;
        self.touched.clear();
        self.batch.clear();
        let executed = self.execute(entries, &mut Vec::new());
        let result = executed
            .and_then(|()| self.replace_record(record))
            .and_then(|()| {
                self.stage_progress();
                self.store.write(&mut self.batch)
            });
        self.settle(result.is_ok());
        result?;
        self.store.flush()
    }

    fn replace_record(&mut self, record: ReplicaRecord) -> Result<(), StoreError> {
        let group = record.group;
        let state = self
            .groups
            .get_mut(&group)
            .ok_or(StoreError::UnknownGroup { group })?;
        assert_eq!(
            state.record.pieces, record.pieces,
            "group {group}: the rows stay where they are"
        );
        if state.touched_in_turn != self.turn {
            state.touched_in_turn = self.turn;
            self.touched.push(group);
        }
        state.record = Arc::new(record);
        state.changed_in_turn = true;
        Ok(())
    }
}
