//! The store as an ordered map in memory, with the flush and crash rules of the real one.
//!
//! It has two uses: tests hold [`LsmStore`](crate::LsmStore) to it, and the simulator runs whole nodes
//! on it. So it has no threads and no clock. A flush that production does in the background is here a
//! queue that [`ModelStore::finish_flush`] works off, one sealed memtable at a time, whenever the
//! simulation wants a disk to have been that fast; and [`ModelStore::crash`] loses exactly what no
//! finished flush held.

use crate::durability::{AppliedIndexes, Reached};
use crate::{Durability, Piece, Row, Stager, Store, StoreError, View, WriteBatch, keys};
use bytes::Bytes;
use parking_lot::Mutex;
use pontoon_types::{GroupId, LogIndex, TabletId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;

type Rows = BTreeMap<Bytes, Bytes>;

/// One change of a row; `None` removes it.
type Change = (Bytes, Option<Bytes>);

/// An ordered map in memory that forgets in a crash what was not flushed.
pub struct ModelStore {
    memtable_bytes: usize,
    /// What is visible. Views share it; a write copies it if one is alive.
    rows: Arc<Rows>,
    applied: AppliedIndexes,
    active: Memtable,
    sealed: VecDeque<(Memtable, Reached)>,
    left: BTreeSet<GroupId>,
    /// Rows that stagers have made durable and that are not in `rows` yet.
    staged: Arc<Mutex<Vec<(Bytes, Bytes)>>>,
    /// What a crash leaves.
    durable_rows: Rows,
    durability: Durability,
}

#[derive(Default)]
struct Memtable {
    changes: Vec<Change>,
    bytes: usize,
    touched: bool,
}

impl ModelStore {
    /// An empty store that seals a memtable by itself once it holds `memtable_bytes`.
    #[must_use]
    pub fn new(memtable_bytes: usize) -> Self {
        Self::recovered(memtable_bytes, Rows::new(), AppliedIndexes::new())
    }

    fn recovered(memtable_bytes: usize, rows: Rows, applied: AppliedIndexes) -> Self {
        Self {
            memtable_bytes,
            rows: Arc::new(rows.clone()),
            applied: applied.clone(),
            active: Memtable::default(),
            sealed: VecDeque::new(),
            left: BTreeSet::new(),
            staged: Arc::default(),
            durable_rows: rows,
            durability: Durability::new(Arc::new(applied)),
        }
    }

    /// The disk has finished writing the oldest sealed memtable; `false` if there is none.
    pub fn finish_flush(&mut self) -> bool {
        let Some((memtable, applied)) = self.sealed.pop_front() else {
            return false;
        };
        for (key, value) in memtable.changes {
            apply(&mut self.durable_rows, key, value);
        }
        self.durability.advance(&applied);
        true
    }

    /// How many sealed memtables wait for the disk.
    #[must_use]
    pub fn sealed_memtables(&self) -> usize {
        self.sealed.len()
    }

    /// The store as the next process finds it.
    #[must_use]
    pub fn crash(mut self) -> Self {
        self.take_staged();
        let applied = (*self.durability.all()).clone();
        Self::recovered(self.memtable_bytes, self.durable_rows, applied)
    }

    fn seal(&mut self) {
        if self.active.touched {
            let memtable = mem::take(&mut self.active);
            let reached = Reached {
                applied: Arc::new(self.applied.clone()),
                left: mem::take(&mut self.left),
            };
            self.sealed.push_back((memtable, reached));
        }
    }

    fn take_staged(&mut self) {
        for (key, value) in mem::take(&mut *self.staged.lock()) {
            self.durable_rows.insert(key.clone(), value.clone());
            Arc::make_mut(&mut self.rows).insert(key, value);
        }
    }
}

impl Store for ModelStore {
    type View = ModelView;
    type Stager = ModelStager;

    fn write(&mut self, batch: &mut WriteBatch) -> Result<(), StoreError> {
        self.take_staged();
        if self.active.bytes >= self.memtable_bytes {
            self.seal();
        }
        if batch.is_empty() {
            return Ok(());
        }
        let bytes = Bytes::copy_from_slice(batch.bytes());
        let rows = Arc::make_mut(&mut self.rows);
        for row in batch.rows() {
            let (key, value) = (
                bytes.slice(row.key),
                row.value.map(|value| bytes.slice(value)),
            );
            apply(rows, key.clone(), value.clone());
            self.active.changes.push((key, value));
        }
        for (group, index) in batch.applied() {
            match index {
                Some(index) => {
                    self.applied.insert(*group, *index);
                }
                None => {
                    self.applied.remove(group);
                    self.left.insert(*group);
                }
            }
        }
        self.active.bytes += bytes.len();
        self.active.touched = true;
        batch.clear();
        Ok(())
    }

    fn get(&self, stored_key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.rows.get(stored_key).cloned())
    }

    fn view(&self) -> ModelView {
        ModelView(Arc::clone(&self.rows))
    }

    fn applied(&self, group: GroupId) -> LogIndex {
        self.applied.get(&group).copied().unwrap_or_default()
    }

    fn all_applied(&self) -> Vec<(GroupId, LogIndex)> {
        self.applied
            .iter()
            .map(|(group, index)| (*group, *index))
            .collect()
    }

    fn durability(&self) -> Durability {
        self.durability.clone()
    }

    fn generation(&self) -> u64 {
        self.durability.generation() + self.sealed.len() as u64 + 1
    }

    fn rotate(&mut self) -> Result<(), StoreError> {
        self.seal();
        Ok(())
    }

    fn stager(&mut self, tablet: TabletId) -> Result<ModelStager, StoreError> {
        Ok(ModelStager {
            prefix: keys::tablet_prefix(tablet).to_vec(),
            rows: Vec::new(),
            staged: Arc::clone(&self.staged),
        })
    }

    /// There is nothing that could be given back without looking at rows.
    fn drop_pieces(&mut self, _: &[Piece]) -> Result<(), StoreError> {
        Ok(())
    }

    fn is_dropping(&self) -> bool {
        false
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.seal();
        while self.finish_flush() {}
        Ok(())
    }
}

fn apply(rows: &mut Rows, key: Bytes, value: Option<Bytes>) {
    match value {
        Some(value) => {
            rows.insert(key, value);
        }
        None => {
            rows.remove(&key);
        }
    }
}

/// Takes in the rows of a tablet of a [`ModelStore`].
pub struct ModelStager {
    prefix: Vec<u8>,
    rows: Vec<(Bytes, Bytes)>,
    staged: Arc<Mutex<Vec<(Bytes, Bytes)>>>,
}

impl Stager for ModelStager {
    fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let stored = [&self.prefix[..], key].concat();
        let is_next = self.rows.last().is_none_or(|(last, _)| **last < *stored);
        assert!(is_next, "staged rows ascend");
        self.rows
            .push((stored.into(), Bytes::copy_from_slice(value)));
        Ok(())
    }

    fn finish(self) -> Result<(), StoreError> {
        self.staged.lock().extend(self.rows);
        Ok(())
    }
}

/// An immutable version of a [`ModelStore`].
#[derive(Clone)]
pub struct ModelView(Arc<Rows>);

impl View for ModelView {
    fn get(&self, stored_key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.get(stored_key).cloned())
    }

    fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> impl Iterator<Item = Result<Row, StoreError>> + Send + use<'a> {
        let rows = (from < to).then(|| {
            self.0.range::<[u8], _>((
                std::ops::Bound::Included(from),
                std::ops::Bound::Excluded(to),
            ))
        });
        let rows = rows.into_iter().flatten();
        rows.map(|(key, value)| Ok((key.clone(), value.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Space, stored_key};
    use pontoon_types::TabletId;

    const GROUP: GroupId = GroupId(1);

    /// Writes the number `index` under one key as entry `index`.
    fn write(store: &mut ModelStore, index: u64) {
        let mut batch = WriteBatch::new();
        batch.put(TabletId(1), Space::Data, b"k", &[index as u8; 100]);
        batch.set_applied(GROUP, LogIndex(index));
        assert!(store.write(&mut batch).is_ok());
    }

    fn state(store: &ModelStore) -> (u64, Option<u8>) {
        let row = store.get(&stored_key(TabletId(1), Space::Data, b"k"));
        (
            store.applied(GROUP).0,
            row.ok().flatten().map(|value| value[0]),
        )
    }

    #[test]
    fn a_crash_loses_exactly_what_no_finished_flush_held() {
        for finished in 0..=3 {
            let mut store = ModelStore::new(usize::MAX);
            for index in 1..=6 {
                write(&mut store, index);
                if index % 2 == 0 {
                    assert!(store.rotate().is_ok());
                }
            }
            assert_eq!(store.sealed_memtables(), 3);
            for _ in 0..finished {
                assert!(store.finish_flush());
            }
            write(&mut store, 7);
            assert_eq!(state(&store), (7, Some(7)));
            let last = 2 * finished;
            assert_eq!(store.durability().applied(GROUP), LogIndex(last));
            let mut store = store.crash();
            assert_eq!(state(&store), (last, (last > 0).then_some(last as u8)));
            assert!(
                !store.finish_flush(),
                "nothing of the former life is under way"
            );
        }
    }

    #[test]
    fn a_full_memtable_is_sealed_unasked_and_an_untouched_one_never() {
        let mut store = ModelStore::new(250);
        assert!(store.rotate().is_ok());
        assert_eq!(store.sealed_memtables(), 0);
        for index in 1..=4 {
            write(&mut store, index);
        }
        assert_eq!(store.sealed_memtables(), 1);
        assert!(store.finish_flush());
        assert_eq!(store.durability().applied(GROUP), LogIndex(3));
    }
}
