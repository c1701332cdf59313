//! Splitting replicas and merging them, without a row being copied or moved.

use super::{Machine, put_record};
use crate::keys::{LOCAL_TABLET, Space};
use crate::kv::StateMachine;
use crate::{Piece, Pieces, ReplicaRecord, Store, StoreError, WriteBatch};
use itertools::Itertools;
use pontoon_types::{GroupId, LogIndex};
use std::sync::Arc;

impl<S: Store, M: StateMachine> Machine<S, M> {
    /// Applies the split of a group, the entry at `index` of its log: `parent` is its replica's record from here on, and
    /// `child` that of the replica which gets the rest of its range, and the index that this one begins at. Both share the tablets; no
    /// row is read or written. The records and the applied indexes change in one batch, so after a crash both replicas are split, or the
    /// log splits them again.
    ///
    /// `child` is `None` if the child's replica is here already, by a snapshot that overtook the split, or has come and left. Its
    /// part of the rows is garbage then.
    ///
    /// What the records say of pieces is not looked at: those follow from the parent's.
    ///
    /// Returns whether it was made; not if the entry was applied before (S10).
    ///
    /// It is for whoever applies a group's entries, on the apply thread, when the next one is a split. That they are agreed on
    /// follows from the log, and the caller checks what the entry says first: that it was proposed under the present range epoch, and
    /// that the key is in the range. The state machine's rows must have the users' keys ([`StateMachine`]).
    ///
    /// # Errors
    /// If the parent is unknown, there is a replica of the child, the records are not those of two halves of the parent's range, or the
    /// store cannot write. Nothing has changed then.
    ///
    /// # Panics
    /// If the entry does not follow the last applied one: a bug of the caller.
    pub fn split(
        &mut self,
        mut parent: ReplicaRecord,
        index: LogIndex,
        child: Option<(ReplicaRecord, LogIndex)>,
    ) -> Result<bool, StoreError> {
        let group = parent.group;
        let Some(old) = self.to_reshape(group, index)? else {
            return Ok(false);
        };
        let invalid = |group, what| StoreError::InvalidRecord { group, what };
        let at = parent.end.clone();
        if at.is_empty() || at <= old.start || !old.end.is_empty() && at >= old.end {
            return Err(invalid(group, "a range is split at a key behind its first"));
        }
        let (left, right) = old.pieces.split(&at);
        parent.pieces = left;
        check_next(&old, &parent)?;
        let mut batch = WriteBatch::new();
        put_record(&mut batch, &parent);
        batch.set_applied(group, index);
        let child = match child {
            None => None,
            Some((child, _)) if self.groups.contains_key(&child.group) => {
                return Err(StoreError::ReplicaExists { group: child.group });
            }
            Some((mut child, begins_at)) => {
                let group = child.group;
                if child.start != at || child.end != old.end {
                    return Err(invalid(group, "its range is not what is split off"));
                }
                child.pieces = right.clone();
                child.check().map_err(|what| invalid(group, what))?;
                put_record(&mut batch, &child);
                batch.set_applied(group, begins_at);
                Some(child)
            }
        };
        assert_live(&[&old], &parent.pieces);
        assert_live(&[&old], &right);
        self.store.write(&mut batch)?;
        self.adopt(Arc::new(parent));
        match child {
            Some(child) => self.adopt(Arc::new(child)),
            None => self.tablets.are_garbage(right.iter()),
        }
        Ok(true)
    }

    /// Applies the merge of a group with the one that has the range behind its own, the entry at `index` of the left one's
    /// log: `left` is its replica's record from here on, with the ranges of both. It gets the pieces of both; no row is read or
    /// written. The right one's replica is forgotten in the same batch.
    ///
    /// What the record says of pieces is not looked at.
    ///
    /// Returns whether it was made; not if the entry was applied before (S10).
    ///
    /// It is for whoever applies the left group's entries, on the apply thread, when the next one is a merge. Of what follows, the
    /// caller makes sure, as nothing here could tell:
    ///
    /// - The entry was proposed under the present range epoch.
    /// - The right group is sealed: an entry of its log has ended it, which names the merge; nothing is served or proposed behind it.
    /// - The right replica has applied exactly up to that entry, as the left one's entry says, on every node that applies it. One
    ///   that has not come there yet is waited for.
    /// - Its log is kept, and has no tombstone for it, until this is [durable](Machine::durability): after a crash it is brought to where it
    ///   was sealed once more. A tombstone is obeyed before anything is applied, and its rows would be gone.
    /// - The members of both groups are on the same nodes, and the state machine's rows have the users' keys ([`StateMachine`]).
    ///
    /// # Errors
    /// If a group is unknown, they are not neighbours, the record is not of both ranges, or the store cannot write. Nothing has
    /// changed then.
    ///
    /// # Panics
    /// If the entry does not follow the last applied one: a bug of the caller.
    pub fn merge(
        &mut self,
        mut left: ReplicaRecord,
        index: LogIndex,
        right: GroupId,
    ) -> Result<bool, StoreError> {
        let group = left.group;
        let Some(old) = self.to_reshape(group, index)? else {
            return Ok(false);
        };
        let gone = self.groups.get(&right);
        let gone = gone.ok_or(StoreError::UnknownGroup { group: right })?;
        let gone = Arc::clone(&gone.record);
        if old.end.is_empty() || old.end != gone.start || left.end != gone.end {
            let what = "only neighbours are merged, and all of them";
            return Err(StoreError::InvalidRecord { group, what });
        }
        left.pieces = Pieces::join(&old.pieces, &gone.pieces, &old.end);
        check_next(&old, &left)?;
        assert_live(&[&old, &gone], &left.pieces);
        let mut batch = WriteBatch::new();
        put_record(&mut batch, &left);
        batch.set_applied(group, index);
        batch.delete(LOCAL_TABLET, Space::Replica, &right.0.to_be_bytes());
        batch.forget_applied(right);
        self.store.write(&mut batch)?;
        self.groups.remove(&right);
        Arc::make_mut(&mut self.records).remove(&right);
        self.adopt(Arc::new(left));
        Ok(true)
    }

    /// The record of a replica whose next entry is at `index`; `None`: it was applied before.
    fn to_reshape(
        &self,
        group: GroupId,
        index: LogIndex,
    ) -> Result<Option<Arc<ReplicaRecord>>, StoreError> {
        let state = self.groups.get(&group);
        let state = state.ok_or(StoreError::UnknownGroup { group })?;
        if index <= state.applied {
            return Ok(None);
        }
        assert_eq!(
            index,
            state.applied.next(),
            "group {group}: the entry to apply must follow the last applied one"
        );
        Ok(Some(Arc::clone(&state.record)))
    }
}

/// Whether a record is what becomes of another one by a split or a merge.
fn check_next(old: &ReplicaRecord, new: &ReplicaRecord) -> Result<(), StoreError> {
    let ReplicaRecord { group, epoch, .. } = *new;
    let invalid = |what| StoreError::InvalidRecord { group, what };
    let kept = ReplicaRecord {
        end: new.end.clone(),
        epoch,
        pieces: new.pieces.clone(),
        descriptor: new.descriptor.clone(),
        ..old.clone()
    };
    if kept != *new || epoch.membership != old.epoch.membership {
        return Err(invalid(
            "more than its end, range epoch and descriptor change",
        ));
    }
    if epoch.range <= old.epoch.range {
        return Err(invalid("with its range its range epoch must grow"));
    }
    new.check().map_err(invalid)
}

/// What nobody refers to must never be referred to again: the rows there may be old ones, and may be about to go.
fn assert_live(old: &[&ReplicaRecord], new: &Pieces) {
    let live = old.iter().flat_map(|record| record.pieces.iter());
    let live = Piece::united(live.sorted());
    assert!(
        new.are_within(&live),
        "{new:?} is more than what there was: {live:?}"
    );
}
