//! Applying committed entries.

mod force;
mod reshape;

use super::tablets::{NEXT_TABLET, Tablets, first_shared};
use super::{KeyValue, KvReader, KvSnapshot, Outcome, ReplicaRecord, State, StateMachine};
use crate::keys::{self, LOCAL_TABLET, Space};
use crate::{Durability, Store, StoreError, View, WriteBatch};
use bytes::Bytes;
use pontoon_types::codec::DecodeError;
use pontoon_types::{ConfChange, Entry, EntryKind, GroupId, LogIndex};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The key-value store as a state machine: what ships.
pub type KvMachine<S> = Machine<S, KeyValue>;

/// A state machine over a store, for all groups of one apply thread.
///
/// Deterministic: the state after an entry, and the entry's outcome, follow from the entries applied
/// so far, whatever batches they came in.
pub struct Machine<S, M> {
    store: S,
    commands: M,
    /// Shared with readers; copied if one is alive while a record changes.
    records: Arc<BTreeMap<GroupId, Arc<ReplicaRecord>>>,
    groups: HashMap<GroupId, Group>,
    batch: WriteBatch,
    /// The groups that the present call has entries of, each once.
    touched: Vec<GroupId>,
    /// Counts calls, to tell whether a group is in `touched`.
    turn: u64,
    pub(super) tablets: Tablets,
}

/// What applying needs of a group at hand. Within a call it is ahead of the store by what the batch holds.
struct Group {
    record: Arc<ReplicaRecord>,
    applied: LogIndex,
    touched_in_turn: u64,
    /// Whether the present call has changed the record.
    changed_in_turn: bool,
}

impl<S: Store, M: StateMachine + Default> Machine<S, M> {
    /// Takes a store and reads the records of the replicas in it.
    ///
    /// # Errors
    /// If a record could not be read.
    pub fn open(store: S) -> Result<Self, StoreError> {
        Self::open_with(store, M::default())
    }
}

impl<S: Store, M: StateMachine> Machine<S, M> {
    /// Takes a store and reads the records of the replicas in it; `commands` says what commands do.
    ///
    /// # Errors
    /// If a record could not be read.
    pub fn open_with(store: S, commands: M) -> Result<Self, StoreError> {
        let from = keys::prefix(LOCAL_TABLET, Space::Replica);
        let to = keys::prefix_end(LOCAL_TABLET, Space::Replica);
        let mut records = BTreeMap::<_, Arc<ReplicaRecord>>::new();
        for row in store.view().range(&from, &to) {
            let (key, value) = row?;
            let damaged = |source| StoreError::DamagedRow {
                row: format!("a replica's record (key {key:x?})"),
                source,
            };
            let group = keys::group_of(&key).ok_or(damaged(DecodeError::Invalid {
                what: "not a group",
            }))?;
            let record = ReplicaRecord::decode(group, &value).map_err(damaged)?;
            records.insert(group, Arc::new(record));
        }
        if let Some(group) = first_shared(records.values().map(|record| &**record)) {
            return Err(StoreError::DamagedRow {
                row: format!("the record of group {group}'s replica"),
                source: DecodeError::Invalid {
                    what: "another replica has rows in its tablet",
                },
            });
        }
        let mut machine = Self {
            store,
            commands,
            records: Arc::new(BTreeMap::new()),
            groups: HashMap::new(),
            batch: WriteBatch::new(),
            touched: Vec::new(),
            turn: 0,
            tablets: Tablets::default(),
        };
        for record in records.into_values() {
            machine.adopt(record);
        }
        machine.open_tablets()?;
        Ok(machine)
    }

    /// Makes replicas known that are new on this node, along with named local rows that belong to
    /// the same step, such as the node's identity. All of it is durable, or none, when this returns.
    ///
    /// Records that are there already, unchanged, are left alone, so a step that was cut short may be
    /// repeated.
    ///
    /// # Errors
    /// If a record is invalid, contradicts one that is there, or has a tablet that is not new; or the store could not write.
    pub fn bootstrap(
        &mut self,
        records: &[ReplicaRecord],
        named: &[(&str, &[u8])],
    ) -> Result<(), StoreError> {
        let mut batch = WriteBatch::new();
        let mut new = BTreeMap::new();
        for record in records {
            let group = record.group;
            record
                .check()
                .map_err(|what| StoreError::InvalidRecord { group, what })?;
            match self.replica(group).or(new.get(&group).copied()) {
                Some(known) if known == record => continue,
                Some(_) => return Err(StoreError::ReplicaExists { group }),
                None => new.insert(group, record),
            };
            if record
                .pieces
                .iter()
                .any(|piece| !self.tablets.is_new(piece.tablet))
            {
                let what = "its tablet is not new";
                return Err(StoreError::InvalidRecord { group, what });
            }
            put_record(&mut batch, record);
        }
        for (name, value) in named {
            batch.put(LOCAL_TABLET, Space::Named, name.as_bytes(), value);
        }
        if let Some(group) = first_shared(new.values().copied()) {
            let what = "another replica has rows in its tablet";
            return Err(StoreError::InvalidRecord { group, what });
        }
        let tablets = new.values().flat_map(|record| record.pieces.iter());
        let highest = tablets.map(|piece| piece.tablet).max();
        if let Some(end) = highest.and_then(|highest| self.tablets.end_above(highest)) {
            let (name, value) = (NEXT_TABLET.as_bytes(), end.to_be_bytes());
            batch.put(LOCAL_TABLET, Space::Named, name, &value);
        }
        self.store.write(&mut batch)?;
        self.store.flush()?;
        if let Some(highest) = highest {
            self.tablets.skip(highest);
        }
        for record in new.into_values() {
            self.adopt(Arc::new(record.clone()));
        }
        Ok(())
    }

    fn adopt(&mut self, record: Arc<ReplicaRecord>) {
        let group = record.group;
        let applied = self.store.applied(group);
        Arc::make_mut(&mut self.records).insert(group, Arc::clone(&record));
        self.groups.insert(
            group,
            Group {
                record,
                applied,
                touched_in_turn: 0,
                changed_in_turn: false,
            },
        );
    }

    /// The records of all replicas on this node, by group.
    pub fn replicas(&self) -> impl Iterator<Item = &ReplicaRecord> {
        self.records.values().map(|record| &**record)
    }

    /// The record of a group's replica.
    #[must_use]
    pub fn replica(&self, group: GroupId) -> Option<&ReplicaRecord> {
        self.records.get(&group).map(|record| &**record)
    }

    /// Up to where a group has been applied. After opening, this is what was durable, and the log
    /// must be replayed from the index behind it.
    #[must_use]
    pub fn applied(&self, group: GroupId) -> LogIndex {
        self.store.applied(group)
    }

    /// Writes a named local row; it is durable when this returns.
    ///
    /// # Errors
    /// If the store could not write.
    pub fn put_local(&mut self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        self.bootstrap(&[], &[(name, value)])
    }

    /// Reads a named local row.
    ///
    /// # Errors
    /// If the store could not read.
    pub fn get_local(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.store.get(&keys::stored_key(
            LOCAL_TABLET,
            Space::Named,
            name.as_bytes(),
        ))
    }

    /// Applies committed entries of any number of groups as one batch. `outcomes` is cleared first;
    /// afterwards `outcomes[i]` answers `entries[i]`.
    ///
    /// An entry that was applied before is skipped and answered as such: after a restart the caller
    /// may hand out entries from before the applied index, and no harm is done.
    ///
    /// # Errors
    /// If an entry is damaged, its group is unknown or the store could not read or write. Nothing
    /// has been applied then, of any group, and `outcomes` is empty: the caller may repeat the call,
    /// without the group that the error names ([`StoreError::group`]) if it names one.
    ///
    /// # Panics
    /// If a group's entries have a gap, before the first or between two: that is a bug of the caller,
    /// and going on would break S4.
    pub fn apply(
        &mut self,
        entries: &[Entry],
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), StoreError> {
        outcomes.clear();
        self.turn += 1;
        self.touched.clear();
        self.batch.clear();
        let result = self.execute(entries, outcomes).and_then(|()| {
            self.stage_progress();
            self.store.write(&mut self.batch)
        });
        if result.is_err() {
            outcomes.clear();
        }
        self.settle(result.is_ok());
        result
    }

    /// What was staged holds, for readers as well; or it never was.
    fn settle(&mut self, is_written: bool) {
        for group in &self.touched {
            let Some(state) = self.groups.get_mut(group) else {
                continue;
            };
            if !is_written {
                state.applied = self.store.applied(*group);
            }
            if std::mem::take(&mut state.changed_in_turn) {
                if is_written {
                    let record = Arc::clone(&state.record);
                    Arc::make_mut(&mut self.records).insert(*group, record);
                } else {
                    state.record = Arc::clone(&self.records[group]);
                }
            }
        }
    }

    /// Executes the entries into the batch.
    fn execute(
        &mut self,
        entries: &[Entry],
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), StoreError> {
        let Self {
            store,
            commands,
            groups,
            batch,
            touched,
            turn,
            ..
        } = self;
        for run in entries.chunk_by(|a, b| a.group() == b.group()) {
            let group = run[0].group();
            let state = groups
                .get_mut(&group)
                .ok_or(StoreError::UnknownGroup { group })?;
            if state.touched_in_turn != *turn {
                state.touched_in_turn = *turn;
                touched.push(group);
            }
            for entry in run {
                let index = entry.index();
                if index <= state.applied {
                    outcomes.push(Outcome::AlreadyApplied);
                    continue;
                }
                assert_eq!(
                    index,
                    state.applied.next(),
                    "group {group}: the entry to apply must follow the last applied one"
                );
                entry.verify().map_err(|source| StoreError::DamagedEntry {
                    group,
                    index,
                    source,
                })?;
                outcomes.push(match entry.kind() {
                    EntryKind::Empty => Outcome::None,
                    EntryKind::Mark => Outcome::Marked(index),
                    EntryKind::ConfChange => state.change_members(entry.payload()),
                    EntryKind::Command => commands
                        .execute(
                            entry.payload(),
                            &mut State::new(store, batch, &state.record),
                        )
                        .map_err(|source| StoreError::Execute {
                            group,
                            index,
                            source: Box::new(source),
                        })?,
                });
                state.applied = index;
            }
        }
        Ok(())
    }

    /// What became of the touched groups goes into the batch as well.
    fn stage_progress(&mut self) {
        for group in &self.touched {
            let state = &self.groups[group];
            if state.applied > self.store.applied(*group) {
                self.batch.set_applied(*group, state.applied);
            }
            if state.changed_in_turn {
                put_record(&mut self.batch, &state.record);
            }
        }
    }

    /// Puts a snapshot in a replica's place, or makes the replica with it: from here on this is its record, and what is in the
    /// record's one tablet its state, which has applied everything up to `applied`.
    ///
    /// It is as durable as whatever is written. Its commit point is a record in the log, from which the call is repeated
    /// after a crash, if the store has not come that far.
    ///
    /// # Errors
    /// If the record is invalid or the store cannot write; nothing has changed then.
    ///
    /// # Panics
    /// If the replica that is here has applied as much already, or a replica has rows in the tablet.
    pub fn install(&mut self, record: ReplicaRecord, applied: LogIndex) -> Result<(), StoreError> {
        let group = record.group;
        record
            .check()
            .map_err(|what| StoreError::InvalidRecord { group, what })?;
        let old = self.groups.get(&group);
        assert!(
            old.is_none_or(|old| old.applied < applied),
            "group {group}: a snapshot at {applied} for a replica that is there already"
        );
        let Some(tablet) = record.pieces.whole() else {
            let what = "a snapshot is put into one tablet, and nothing else is in it";
            return Err(StoreError::InvalidRecord { group, what });
        };
        // One that was begun in this life is new. In a former one it was as well, if nothing has come of it yet.
        let old = old.map(|old| Arc::clone(&old.record));
        if !self.tablets.is_staging(tablet) {
            let mut live = self.replicas().flat_map(|record| record.pieces.iter());
            assert!(
                live.all(|piece| piece.tablet != tablet),
                "group {group}: tablet {tablet} is in use, or was"
            );
        }
        let mut batch = WriteBatch::new();
        put_record(&mut batch, &record);
        batch.set_applied(group, applied);
        self.store.write(&mut batch)?;
        self.tablets.end_staging(tablet);
        self.tablets
            .are_garbage(old.iter().flat_map(|old| old.pieces.iter()));
        self.adopt(Arc::new(record));
        Ok(())
    }

    /// Forgets a replica that has left the node. Its rows are reclaimed by and by.
    ///
    /// # Errors
    /// If the store cannot write; nothing has changed then.
    pub fn remove(&mut self, group: GroupId) -> Result<(), StoreError> {
        let Some(state) = self.groups.get(&group) else {
            return Ok(());
        };
        let pieces = state.record.pieces.clone();
        let mut batch = WriteBatch::new();
        batch.delete(LOCAL_TABLET, Space::Replica, &group.0.to_be_bytes());
        batch.forget_applied(group);
        self.store.write(&mut batch)?;
        self.groups.remove(&group);
        Arc::make_mut(&mut self.records).remove(&group);
        self.tablets.are_garbage(pieces.iter());
        Ok(())
    }

    /// Pins the state of a group's replica, for a snapshot.
    #[must_use]
    pub fn snapshot(&self, group: GroupId) -> Option<KvSnapshot<S::View>> {
        let record = Arc::clone(&self.groups.get(&group)?.record);
        let applied = self.store.applied(group);
        Some(KvSnapshot::new(self.store.hold(), record, applied))
    }

    /// Pins the present version for reading.
    #[must_use]
    pub fn reader(&self) -> KvReader<S::View> {
        KvReader::new(self.store.view(), Arc::clone(&self.records))
    }

    /// Tells what is durable, from any thread.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.store.durability()
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The store below, to rotate and flush it.
    pub fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// Gives the store back.
    #[must_use]
    pub fn into_store(self) -> S {
        self.store
    }
}

impl Group {
    /// Members change with the log alone, so that the record is that of the applied index, also after a crash.
    fn change_members(&mut self, payload: &[u8]) -> Outcome {
        let Ok(change) = ConfChange::decode(payload) else {
            return Outcome::Malformed;
        };
        if !Arc::make_mut(&mut self.record).change_members(&change) {
            return Outcome::MembersUnchanged;
        }
        self.changed_in_turn = true;
        Outcome::MembersChanged(self.record.conf_state.clone())
    }
}

/// Writes a record into the node's own tablet.
fn put_record(batch: &mut WriteBatch, record: &ReplicaRecord) {
    let mut value = Vec::new();
    record.encode(&mut value);
    let key = record.group.0.to_be_bytes();
    batch.put(LOCAL_TABLET, Space::Replica, &key, &value);
}
