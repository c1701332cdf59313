//! The store of production: a log-structured merge tree (the crate `lsm-tree`) that is durable only
//! by its flushes.
//!
//! One thread writes, see [`Store`]. A batch goes into the active memtable at one sequence number;
//! when the memtable is full it is sealed together with the applied indexes of that moment, and a
//! thread of the store's own writes it to tables. Only when that has finished does [`Durability`]
//! move. A second thread merges tables.
//!
//! What the tree asks of its user, and how it is kept here:
//!
//! - After opening, both counters are raised above everything on disk, or new rows would hide behind
//!   old ones ([`LsmStore::open`]).
//! - Numbers come from the counter that the tree shares, because registering tables draws one too;
//!   visibility is kept apart from it, because that may happen in the middle of a batch (`pins`).
//! - No flush and no compaction is given a watermark above a living view (`pins`).
//! - The tree syncs its manifest under a lock that every insert through its front door needs. The rows that no table has
//!   yet are therefore kept beside it (`memtable`), and no sync of tables ever stops an apply. The tree's own memtable stays
//!   empty.
//! - Opening believes the manifest and the tables' directories before it has verified them; a flipped
//!   bit there ends in a panic, an abort or a wrong list of tables. So they are verified first
//!   (`preflight`). Blocks of tables are verified by the tree whenever they are read.
//! - Whole tables are dropped only of tablets, or parts of them, that nothing refers to, and not before a flush has made that durable: it
//!   cannot be undone, and it can bring back rows whose deletion was in a table that went.
//! - What a failed flush or merge has begun to write stays until the next opening, and on a full disk takes the space that
//!   the next try needs. So it is removed, as soon as it can be told from what is needed (`litter`).
//! - A tree that is dropped while a compaction runs would commit half of it. The compacting thread
//!   holds the tree until it has ended, and is ended by an error of the filter (`CompactionPace`). Threads that write a
//!   snapshot's tables are waited for as well: the next life writes tables under the same names.

mod background;
mod damage;
mod litter;
mod memtable;
mod monitor;
mod pace;
mod pins;
mod preflight;
mod schedule;
mod scrub;
mod settings;
mod shed;
mod stager;
mod view;
mod writeback;

pub use damage::DamagedTable;
pub use monitor::{LsmMonitor, LsmStats};
pub use schedule::{ScrubBudget, ScrubSchedule};
pub use scrub::ScrubCounters;
pub use settings::{Compression, LsmSettings};
pub use shed::Shed;
pub use stager::LsmStager;
pub use view::LsmView;

use crate::durability::{AppliedIndexes, Reached};
use crate::keys::{self, LOCAL_TABLET, Space};
use crate::{Durability, Piece, Store, StoreError, View as _, WriteBatch};
use background::{Sealed, Shared};
use bytes::Bytes;
use byteview::ByteView;
use lsm_tree::{AbstractTree, AnyTree, Guard as _, SequenceNumberCounter, Slice};
use memtable::Memtable;
use pins::Pins;
use pontoon_types::codec::DecodeError;
use pontoon_types::{GroupId, LogIndex, TabletId};
use scrub::Scrub;
use shed::Shedding;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};

/// The ordered state of a node on disk. See the module's essay.
///
/// Dropping it stops its threads and leaves unflushed rows to the log; [`LsmStore::shutdown`] flushes
/// them first. The directory must be this process's own: whoever opens it holds the node's lock file.
pub struct LsmStore {
    settings: LsmSettings,
    shared: Arc<Shared>,
    tree: AnyTree,
    /// The active one. Only sealing changes it.
    memtable: Arc<Memtable>,
    applied: AppliedIndexes,
    /// The groups whose applied index has moved since the active memtable began. Their rows are written
    /// when it is sealed: it reaches the disk as a whole, so they need to be in it only then, and
    /// a batch costs no row per group.
    moved: BTreeSet<GroupId>,
    /// The groups that have left the node since then.
    left: BTreeSet<GroupId>,
    /// The pieces of tablets whose tables are to go once the active memtable is durable.
    unneeded: Vec<Piece>,
    shedding: Shedding,
    /// How often something was handed over to be flushed.
    handed_over: u64,
    threads: Vec<JoinHandle<()>>,
}

impl LsmStore {
    /// Opens the store in a directory, or makes it.
    ///
    /// # Errors
    /// If the directory cannot be read or written, or what is in it is damaged.
    pub fn open(path: &Path, settings: LsmSettings) -> Result<Self, StoreError> {
        preflight::verify(path)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let (seqno, visible) = <(SequenceNumberCounter, SequenceNumberCounter)>::default();
        let tree = settings
            .configure(path, seqno.clone(), visible.clone(), Arc::clone(&stopping))
            .open()
            .map_err(|error| classify("open its tables", path.into(), error))?;
        // One above everything on disk, and never 0: the tree takes 0 for "the oldest there is".
        let next = tree.get_highest_seqno().map_or(1, |highest| highest + 1);
        seqno.fetch_max(next);
        visible.fetch_max(next);

        refuse_old_names(&tree, next, path)?;
        let applied = read_applied(&tree, next, path)?;
        let durability = Durability::new(Arc::new(applied.clone()));
        let pins = Arc::new(Pins::new(seqno));
        let schedule = ScrubSchedule::new(path, settings.scrub_interval);
        let scrub = Scrub::new(schedule, settings.scrub_bytes_per_second);
        let shared = Shared::new(path.into(), tree.clone(), pins, durability, stopping, scrub);
        let shared = Arc::new(shared);
        let memtable = Arc::clone(shared.pins.visible().0.active());
        let mut store = Self {
            settings,
            shared,
            tree,
            memtable,
            applied,
            moved: BTreeSet::new(),
            left: BTreeSet::new(),
            unneeded: Vec::new(),
            shedding: Shedding::default(),
            handed_over: 0,
            threads: Vec::new(),
        };
        store.spawn("pontoon-flush", Shared::flush_until_stopped)?;
        store.spawn("pontoon-compact", Shared::compact_until_stopped)?;
        store.spawn("pontoon-writeback", Shared::write_back_until_stopped)?;
        store.spawn("pontoon-scrub", Shared::scrub_until_stopped)?;
        tracing::info!(
            path = %path.display(),
            groups = store.applied.len(),
            tables = store.tree.table_count(),
            disk_bytes = store.tree.disk_space(),
            "store opened"
        );
        Ok(store)
    }

    fn spawn(&mut self, name: &str, body: fn(&Shared)) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new()
            .name(name.into())
            .spawn(move || body(&shared));
        self.threads.push(thread.map_err(|source| StoreError::Io {
            operation: "start a thread",
            path: self.shared.path.clone(),
            source: Arc::new(source),
        })?);
        Ok(())
    }

    /// Makes everything durable and stops the store's threads.
    ///
    /// # Errors
    /// If the last flush failed; the log still has what it would have written.
    pub fn shutdown(mut self) -> Result<(), StoreError> {
        self.flush()
    }

    /// Waits until the tables are merged as far as they should be. For tests and benches.
    ///
    /// # Errors
    /// If the store has failed.
    pub fn wait_for_compaction(&self) -> Result<(), StoreError> {
        self.shared.wait_for_compaction()
    }

    /// What the store holds and has done.
    #[must_use]
    pub fn stats(&self) -> LsmStats {
        self.monitor().stats()
    }

    /// Tells that from any thread.
    #[must_use]
    pub fn monitor(&self) -> LsmMonitor {
        LsmMonitor::new(Arc::clone(&self.shared))
    }

    fn seal(&mut self) {
        self.write_applied();
        self.write_sentinel();
        let next = self.shared.pins.seal();
        let is_sealed = next.is_some();
        if let Some(next) = next {
            self.memtable = next;
        }
        if is_sealed || !self.unneeded.is_empty() || self.shedding.request.is_some() {
            self.handed_over += 1;
            self.shared.hand_over(Sealed {
                reached: Reached {
                    applied: Arc::new(self.applied.clone()),
                    left: std::mem::take(&mut self.left),
                },
                unneeded: std::mem::take(&mut self.unneeded),
                shed: self.shedding.request.take(),
            });
        }
    }
}

impl LsmStore {
    fn write_applied(&mut self) {
        if self.moved.is_empty() {
            return;
        }
        let moved = std::mem::take(&mut self.moved);
        self.insert(moved.into_iter().map(|group| {
            let index = self.applied.get(&group);
            let value = index.map(|index| Slice::from(index.0.to_be_bytes()));
            (keys::group_key(Space::Applied, group).into(), value)
        }));
    }

    /// Writes rows at a number of their own.
    fn insert(&self, rows: impl IntoIterator<Item = (Slice, Option<Slice>)>) {
        self.memtable.insert(self.shared.pins.open_batch(), rows);
        self.shared.pins.publish();
    }
}

impl Store for LsmStore {
    type View = LsmView;
    type Stager = LsmStager;

    fn write(&mut self, batch: &mut WriteBatch) -> Result<(), StoreError> {
        let LsmSettings {
            max_sealed_memtables,
            max_stall,
            memtable_bytes,
            ..
        } = self.settings;
        if self.memtable.bytes() >= memtable_bytes {
            // One more memtable may be sealed only if that keeps to the bound (S11).
            self.shared.wait_for_room(max_sealed_memtables, max_stall)?;
            self.seal();
        } else {
            self.shared.check()?;
        }
        if batch.is_empty() {
            return Ok(());
        }
        // One allocation for the whole batch; rows are slices of it, but for keys of up to 20 bytes, which lie
        // in the memtable's nodes. It lives as long as its memtable, which is as long as the rows would anyway.
        let bytes = ByteView::new(batch.bytes());
        let slice = |range| Slice::from(bytes.slice(range));
        let rows = batch.rows();
        self.insert(rows.map(|row| (slice(row.key), row.value.map(slice))));
        for (group, index) in batch.applied() {
            self.moved.insert(*group);
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
        batch.clear();
        Ok(())
    }

    fn get(&self, stored_key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.view().get(stored_key)
    }

    fn view(&self) -> LsmView {
        LsmView::pinned(Arc::clone(&self.shared))
    }

    fn hold(&self) -> LsmView {
        LsmView::held(self)
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
        self.shared.durability.clone()
    }

    fn generation(&self) -> u64 {
        self.handed_over + 1
    }

    fn rotate(&mut self) -> Result<(), StoreError> {
        self.shared.check()?;
        self.seal();
        Ok(())
    }

    fn stager(&mut self, tablet: TabletId) -> Result<LsmStager, StoreError> {
        self.shared.check()?;
        LsmStager::new(&self.shared, tablet)
    }

    fn drop_pieces(&mut self, pieces: &[Piece]) -> Result<(), StoreError> {
        self.unneeded.extend_from_slice(pieces);
        self.rotate()
    }

    fn is_dropping(&self) -> bool {
        self.shared.is_dropping()
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.rotate()?;
        self.shared.wait_for_flush()
    }
}

impl Drop for LsmStore {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so in the log; there is nobody left to tell.
            let _ = thread.join();
        }
        self.shared.wait_for_stagings();
    }
}

/// Until tablets' ids were as short as can be, the node's own rows began with eight zero bytes. None of them would
/// be found by its name now, and a node with a past would take itself for a blank one.
fn refuse_old_names(tree: &AnyTree, seqno: u64, path: &Path) -> Result<(), StoreError> {
    match tree.prefix([0, 0], seqno, None).next() {
        None => Ok(()),
        Some(_) => Err(StoreError::OldFormat { path: path.into() }),
    }
}

/// Reads back what the last finished flush brought the groups to.
fn read_applied(tree: &AnyTree, seqno: u64, path: &Path) -> Result<AppliedIndexes, StoreError> {
    let rows = tree.prefix(keys::prefix(LOCAL_TABLET, Space::Applied), seqno, None);
    rows.map(|row| {
        let (key, value) = row
            .into_inner()
            .map_err(|error| classify("read the applied indexes", path.into(), error))?;
        let index = <[u8; 8]>::try_from(&*value).ok().map(u64::from_be_bytes);
        match (keys::group_of(&key), index) {
            (Some(group), Some(index)) => Ok((group, LogIndex(index))),
            _ => Err(StoreError::DamagedRow {
                row: format!("an applied index (key {key:x?})"),
                source: DecodeError::Invalid {
                    what: "not a group and an index",
                },
            }),
        }
    })
    .collect()
}

/// Tells a refusing file system from damaged files.
fn classify(operation: &'static str, path: PathBuf, error: lsm_tree::Error) -> StoreError {
    match error {
        lsm_tree::Error::Io(source)
            if !matches!(
                source.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
            ) =>
        {
            StoreError::Io {
                operation,
                path,
                source: Arc::new(source),
            }
        }
        source => StoreError::Damaged {
            operation,
            path,
            source: Arc::new(source),
        },
    }
}
