//! Getting rid of a damaged table, in which every merge with it would fail.
//!
//! The tree does not drop a table; it drops all tables within a range of keys. That is done to the range of the damaged one,
//! when nothing that somebody needs hangs on any of them: whose rows the damage befell have been rebuilt under new tablets, and
//! every other row that is needed and occurs there is written again before, as it is now, or its deletion if it
//! is gone. Newer ones elsewhere then say all that the tables said, and what comes back with them is of tablets, or parts of
//! them, that nobody refers to. The node's own rows are needed like any others.
//!
//! What was written again must not be in a table that goes:
//!
//! - No table is merged meanwhile.
//! - Every memtable that is sealed meanwhile also has a deletion behind the range, of a key that no row ever has. Its table
//!   therefore does not lie within.
//! - Only tables that were looked through go. If there is another one within the range in the end, all stay, and
//!   it begins anew.
//!
//! And what is not needed must never be again: a flush makes that durable before anything else.

use super::LsmStore;
use super::background::Shared;
use crate::keys::{self, LOCAL_TABLET};
use crate::{Piece, Store, StoreError, WriteBatch};
use lsm_tree::{AbstractTree, Slice, Table, TableId};
use pontoon_types::TabletId;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Rows and bytes that are written again at once.
const STEP_ROWS: usize = 256;
const STEP_BYTES: usize = 1 << 20;
/// How often it begins anew for one table.
const MAX_ATTEMPTS: u32 = 5;
/// How long the threads that write tables may keep it waiting in the end.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far the store is with getting rid of a damaged table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shed {
    /// There is none, or none that can go.
    Idle,
    /// It goes on when it is called again.
    Underway,
    /// One has gone, and rows that nobody refers to may be back.
    Done,
}

/// What the apply thread knows of it.
#[derive(Default)]
pub(super) struct Shedding {
    work: Option<Work>,
    /// Deleted in every memtable that is sealed now, so that its table does not lie within the range.
    pub(super) sentinel: Option<Vec<u8>>,
    /// What goes with the next memtable.
    pub(super) request: Option<ShedRequest>,
    attempts: BTreeMap<TableId, u32>,
}

struct Work {
    id: TableId,
    live: Live,
    stage: Stage,
}

enum Stage {
    /// What is not needed becomes durable, and the last merge ends.
    Settling,
    Copying(Copying),
    /// The last of what was written again is flushed, then the tables go.
    Dropping,
}

/// What came of one step.
enum Step {
    Some,
    Last,
    /// Nothing was written.
    Unreadable(StoreError),
}

struct Copying {
    keys: (Slice, Slice),
    all: HashSet<TableId>,
    /// Those that are still to be looked through, the last one from a key on.
    left: Vec<TableId>,
    from: Vec<u8>,
}

/// Tables that may go once everything written so far is durable.
pub(super) struct ShedRequest {
    keys: (Slice, Slice),
    /// Those that were looked through.
    tables: HashSet<TableId>,
}

impl LsmStore {
    /// Goes on with getting rid of damaged tables, a little at a time; begins with another one only if it is told which
    /// pieces of tablets are `live`: all that somebody refers to. A table can go when it has lost no rows of those.
    ///
    /// # Errors
    /// If the store cannot write.
    pub fn shed(&mut self, live: Option<Vec<Piece>>) -> Result<Shed, StoreError> {
        match (self.shedding.work.take(), live) {
            (Some(work), _) => self.go_on(work),
            (None, Some(live)) => self.begin(Live::of(live)),
            (None, None) => Ok(Shed::Idle),
        }
    }

    fn begin(&mut self, live: Live) -> Result<Shed, StoreError> {
        let damaged = self.shared.damaged_tables();
        let found = damaged.iter().find(|(_, table)| {
            !table.is_stuck && !live.0.iter().any(|piece| table.has_lost_some_of(piece))
        });
        let Some((id, table)) = found else {
            return Ok(Shed::Idle);
        };
        tracing::info!(path = %table.path.display(), "a damaged table goes; what else is in it is written again");
        *self.shedding.attempts.entry(*id).or_default() += 1;
        self.rotate()?;
        self.shared.hold_merges();
        self.shedding.work = Some(Work {
            id: *id,
            live,
            stage: Stage::Settling,
        });
        Ok(Shed::Underway)
    }

    fn go_on(&mut self, mut work: Work) -> Result<Shed, StoreError> {
        match &mut work.stage {
            Stage::Settling => {
                if self.shared.is_settled() {
                    let Some(copying) = self.begin_copying(work.id) else {
                        // A merge that was under way has got rid of it: it had only deletions to read.
                        self.end_shedding();
                        return Ok(Shed::Done);
                    };
                    work.stage = Stage::Copying(copying);
                }
            }
            Stage::Copying(copying) => match self.copy(copying, &work.live) {
                Ok(Step::Unreadable(error)) => {
                    tracing::error!(%error, "a damaged table stays, what is in it cannot be written again");
                    if error.is_damage() || self.is_last_attempt(work.id) {
                        self.shared.scrub.note_stuck(work.id);
                    }
                    self.end_shedding();
                    return Ok(Shed::Idle);
                }
                Ok(Step::Last) => {
                    self.shedding.request = Some(ShedRequest {
                        keys: copying.keys.clone(),
                        tables: std::mem::take(&mut copying.all),
                    });
                    self.rotate()?;
                    work.stage = Stage::Dropping;
                }
                Ok(Step::Some) => {}
                Err(error) => {
                    self.shedding.work = Some(work);
                    return Err(error);
                }
            },
            Stage::Dropping => {
                if !self.shared.holds_merges() {
                    self.end_shedding();
                    if !self.shared.damaged_tables().contains_key(&work.id) {
                        return Ok(Shed::Done);
                    }
                    if self.is_last_attempt(work.id) {
                        self.shared.scrub.note_stuck(work.id);
                    }
                    return Ok(Shed::Idle);
                }
            }
        }
        self.shedding.work = Some(work);
        Ok(Shed::Underway)
    }

    fn begin_copying(&mut self, id: TableId) -> Option<Copying> {
        let version = self.tree.current_version();
        let table = version.iter_tables().find(|table| table.id() == id)?;
        let range = &table.metadata.key_range;
        let keys = (range.min().clone(), range.max().clone());
        let within = version.iter_tables().filter(|one| lies_within(one, &keys));
        let left: Vec<_> = within.map(Table::id).collect();
        // No row has the key at the end of a tablet, and one that comes later lies behind it.
        let tablet = keys::tablet_of(&keys.1).unwrap_or(TabletId(u64::MAX));
        let mut sentinel = keys::tablet_end(tablet).to_vec();
        if *sentinel <= *keys.1 {
            sentinel = keys.1.to_vec();
            sentinel.push(0);
        }
        self.shedding.sentinel = Some(sentinel);
        Some(Copying {
            keys,
            all: left.iter().copied().collect(),
            left,
            from: Vec::new(),
        })
    }

    fn end_shedding(&mut self) {
        self.shedding.sentinel = None;
        self.shared.release_merges();
    }

    fn is_last_attempt(&self, id: TableId) -> bool {
        self.shedding.attempts.get(&id) >= Some(&MAX_ATTEMPTS)
    }

    /// Writes some rows again.
    fn copy(&mut self, copying: &mut Copying, live: &Live) -> Result<Step, StoreError> {
        let mut batch = WriteBatch::new();
        let (from, done) = match self.gather(copying, live, &mut batch) {
            Ok(gathered) => gathered,
            Err(error) => return Ok(Step::Unreadable(error)),
        };
        self.write(&mut batch)?;
        // Only now: a write that found no room is made again.
        copying.from = from;
        copying.left.truncate(copying.left.len() - done);
        Ok(if copying.left.is_empty() {
            Step::Last
        } else {
            Step::Some
        })
    }

    /// Gathers some rows as they are now. Where to go on, and how many tables are looked through by then.
    fn gather(
        &self,
        copying: &Copying,
        live: &Live,
        batch: &mut WriteBatch,
    ) -> Result<(Vec<u8>, usize), StoreError> {
        // No file is removed that is read here, even if its table goes now (`litter`).
        let _reading = self.shared.writing.read();
        let version = self.tree.current_version();
        let mut bytes = 0;
        let mut from = copying.from.clone();
        let mut done = 0;
        'tables: for id in copying.left.iter().rev() {
            // One that has gone had only rows that nobody refers to.
            let table = version.iter_tables().find(|table| table.id() == *id);
            let Some(table) = table else {
                from.clear();
                done += 1;
                continue;
            };
            while let Some((start, mut end)) = live.next(&from) {
                let mut is_end = true;
                for row in table.range(Slice::from(&*start)..) {
                    let row = row.map_err(|error| self.shared.error("read a row", error))?;
                    let key = row.key.user_key;
                    is_end = false;
                    from.clear();
                    from.extend_from_slice(&key);
                    if *key >= *end {
                        match live.next(&key) {
                            Some((start, next)) if *start <= *key => end = next,
                            _ => break,
                        }
                    }
                    // Several versions of a key are next to each other.
                    from.push(0);
                    if batch.last_key() != Some(&*key) {
                        let value = self.get(&key)?;
                        bytes += key.len() + value.as_ref().map_or(0, |value| value.len());
                        batch.put_stored(&key, value.as_deref());
                    }
                    if batch.len() >= STEP_ROWS || bytes >= STEP_BYTES {
                        break 'tables;
                    }
                    is_end = true;
                }
                if is_end {
                    break;
                }
            }
            from.clear();
            done += 1;
        }
        Ok((from, done))
    }

    /// Keeps the memtable's table out of the range that is to go.
    pub(super) fn write_sentinel(&mut self) {
        if let Some(sentinel) = &self.shedding.sentinel {
            self.insert([(sentinel.as_slice().into(), None)]);
        }
    }
}

/// What somebody refers to, in order.
struct Live(Vec<Piece>);

impl Live {
    /// With them the node's own rows.
    fn of(mut pieces: Vec<Piece>) -> Self {
        pieces.push(Piece::whole(LOCAL_TABLET));
        pieces.sort_unstable();
        Self(pieces)
    }

    /// Where the first key from `from` on may be that somebody refers to, and where what is referred to ends.
    fn next(&self, from: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let at = self.0.partition_point(|piece| *piece.stored_end() <= *from);
        let piece = self.0.get(at)?;
        Some((piece.stored_start().max(from.to_vec()), piece.stored_end()))
    }
}

fn lies_within(table: &Table, keys: &(Slice, Slice)) -> bool {
    let range = &table.metadata.key_range;
    **range.min() >= *keys.0 && **range.max() <= *keys.1
}

impl Shared {
    fn hold_merges(&self) {
        self.state.lock().held = true;
    }

    fn holds_merges(&self) -> bool {
        let state = self.state.lock();
        state.held && state.failed.is_none()
    }

    fn release_merges(&self) {
        self.state.lock().held = false;
        self.changed.notify_all();
    }

    /// Whether nothing is merged or waits to be flushed.
    fn is_settled(&self) -> bool {
        let state = self.state.lock();
        !state.compacting && state.sealed.is_empty() && state.flushing == 0
    }

    /// Lets go of all tables within the range, if they are those that were looked through.
    pub(super) fn drop_shed(&self, ShedRequest { keys, tables }: &ShedRequest) {
        let started = Instant::now();
        let dropped = loop {
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            // Nobody registers a table from here on. Whoever waited for the lock would keep flushes waiting too.
            if let Some(_alone) = self.writing.try_write() {
                let version = self.tree.current_version();
                let mut within = version.iter_tables().filter(|one| lies_within(one, keys));
                if !within.all(|table| tables.contains(&table.id())) {
                    break Ok(false);
                }
                break self.tree.drop_range(&*keys.0..=&*keys.1).map(|()| true);
            }
            if started.elapsed() > PATIENCE {
                break Ok(false);
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        match dropped {
            Ok(true) => {
                self.forget_versions();
                tracing::info!(tables = tables.len(), "a damaged table has gone");
            }
            Ok(false) => tracing::warn!("a damaged table stays for now, others are written"),
            Err(error) => {
                let error = self.error("drop tables", error);
                tracing::error!(%error, "a damaged table stays");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Space;
    use crate::{LsmSettings, View};
    use bytes::Bytes;
    use pontoon_types::{GroupId, LogIndex};
    use proptest::prelude::*;
    use std::path::Path;

    type Rows = BTreeMap<Bytes, Bytes>;

    #[derive(Clone, Debug)]
    enum Op {
        Put(u64, u8),
        Delete(u64, u8),
        Flush,
        Merge,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            12 => (0..5_u64, 0..24_u8).prop_map(|(tablet, key)| Op::Put(tablet, key)),
            6 => (0..5_u64, 0..24_u8).prop_map(|(tablet, key)| Op::Delete(tablet, key)),
            3 => Just(Op::Flush),
            1 => Just(Op::Merge),
        ]
    }

    struct World {
        store: LsmStore,
        rows: Rows,
        index: u64,
    }

    impl World {
        fn open(path: &Path) -> LsmStore {
            LsmStore::open(path, LsmSettings::default()).unwrap()
        }

        fn run(&mut self, op: &Op) {
            let mut batch = WriteBatch::new();
            self.index += 1;
            match *op {
                Op::Put(tablet, key) => {
                    let stored = keys::stored_key(TabletId(tablet), Space::Data, &[key]);
                    let value = self.index.to_be_bytes();
                    batch.put(TabletId(tablet), Space::Data, &[key], &value);
                    self.rows.insert(stored.into(), value.to_vec().into());
                }
                Op::Delete(tablet, key) => {
                    let stored = keys::stored_key(TabletId(tablet), Space::Data, &[key]);
                    batch.delete(TabletId(tablet), Space::Data, &[key]);
                    self.rows.remove(&stored[..]);
                }
                Op::Flush => return self.store.flush().unwrap(),
                Op::Merge if self.store.shared.holds_merges() => return,
                Op::Merge => return self.store.wait_for_compaction().unwrap(),
            }
            batch.set_applied(GroupId(7), LogIndex(self.index));
            self.store.write(&mut batch).unwrap();
        }

        fn ids(&self) -> Vec<TableId> {
            let version = self.store.tree.current_version();
            version.iter_tables().map(Table::id).collect()
        }

        /// Takes a sound table for damaged.
        fn condemn(&self, id: TableId) {
            let version = self.store.tree.current_version();
            let table = version.iter_tables().find(|one| one.id() == id).unwrap();
            self.store.shared.scrub.condemn(table);
        }

        /// All rows of pieces that are live, as they should be; and how far the group is.
        fn check(&self, live: &[Piece], applied: u64) {
            let is_live = |key: &[u8]| {
                let is_local = keys::tablet_of(key) == Some(LOCAL_TABLET);
                let has =
                    |piece: &Piece| *piece.stored_start() <= *key && *key < *piece.stored_end();
                is_local && key[1] == Space::Data as u8 || live.iter().any(has)
            };
            let view = self.store.view();
            let found = view.range(&[], &[0xff; 9]).map(Result::unwrap);
            let found: Rows = found.filter(|(key, _)| is_live(key)).collect();
            let rows = self.rows.iter().filter(|(key, _)| is_live(key));
            let rows: Rows = rows.map(|(k, v)| (k.clone(), v.clone())).collect();
            assert_eq!(found, rows);
            assert_eq!(self.store.applied(GroupId(7)), LogIndex(applied));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

        /// Whatever goes, and whatever is written meanwhile: nothing that is needed changes.
        #[test]
        fn tables_go_and_no_row_that_is_needed_does(
            ops in proptest::collection::vec(op(), 20..300),
            meanwhile in proptest::collection::vec(op(), 0..40),
            dead in 0..6_u64,
            border in 1..24_u8,
            picks in proptest::collection::vec(any::<proptest::sample::Index>(), 1..4),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let store = World::open(dir.path());
            let mut world = World { store, rows: Rows::new(), index: 0 };
            ops.iter().for_each(|op| world.run(op));
            world.store.flush().unwrap();
            world.store.wait_for_compaction().unwrap();
            // Of two tablets somebody refers to a part.
            let border = Bytes::copy_from_slice(&[border]);
            let live = (1..5).filter(|tablet| *tablet != dead).map(|tablet| {
                let whole = Piece::whole(TabletId(tablet));
                match tablet {
                    2 => Piece { start: border.clone(), ..whole },
                    3 => Piece { end: border.clone(), ..whole },
                    _ => whole,
                }
            });
            let live: Vec<_> = live.collect();
            let mut meanwhile = meanwhile.iter();
            for pick in picks {
                let ids = world.ids();
                let id = ids[pick.index(ids.len())];
                world.condemn(id);
                let mut shed = world.store.shed(Some(live.clone())).unwrap();
                while shed == Shed::Underway {
                    meanwhile.next().into_iter().for_each(|op| world.run(op));
                    std::thread::yield_now();
                    shed = world.store.shed(None).unwrap();
                }
                prop_assert!(!world.ids().contains(&id) && shed == Shed::Done);
                prop_assert!(!world.store.shared.holds_merges());
                world.check(&live, world.store.applied(GroupId(7)).0);
            }
            world.store.flush().unwrap();
            let applied = world.store.applied(GroupId(7)).0;
            let World { store, rows, index } = world;
            drop(store);
            let world = World { store: World::open(dir.path()), rows, index };
            world.check(&live, applied);
            world.store.wait_for_compaction().unwrap();
            world.check(&live, applied);
        }
    }
}
