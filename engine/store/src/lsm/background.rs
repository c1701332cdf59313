//! The two threads behind the store that write tables: one flushes, one compacts. Two more look after what they have
//! written: `writeback` and `scrub`.
//!
//! They are two so that a compaction, which may take many seconds, never keeps a full memtable in
//! memory. Both stop when told to; a compaction under way is broken off (`CompactionPace`).

use super::memtable;
use super::pins::Pins;
use super::scrub::Scrub;
use super::shed::ShedRequest;
use crate::durability::Reached;
use crate::{Durability, Piece, StoreError};
use lsm_tree::compaction::{CompactionStrategy, Leveled};
use lsm_tree::{AbstractTree, AnyTree};
use parking_lot::{Condvar, Mutex, RwLock};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a flush waits before it tries again on a full disk.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// How long a flush waits before it looks again whether a batch is whole.
const BATCH_PAUSE: Duration = Duration::from_micros(100);

/// How long merges wait after one has met damage, which doubles from time to time.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// What the apply thread and the threads behind the store share.
pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) tree: AnyTree,
    pub(super) pins: Arc<Pins>,
    pub(super) durability: Durability,
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
    /// Read by compactions on their way, which hold no lock.
    pub(super) stopping: Arc<AtomicBool>,
    /// Held for reading by all that write tables.
    pub(super) writing: RwLock<()>,
    /// Some of that has failed, and what it left has not been removed (`litter`).
    pub(super) is_littered: AtomicBool,
    pub(super) scrub: Scrub,
}

/// What comes with a sealed memtable.
#[derive(Default)]
pub(super) struct Sealed {
    /// What it brings the groups to.
    pub(super) reached: Reached,
    /// The pieces of tablets that nothing refers to any more, once it is durable.
    pub(super) unneeded: Vec<Piece>,
    /// What goes with a damaged table, once it is durable.
    pub(super) shed: Option<ShedRequest>,
}

#[derive(Default)]
pub(super) struct State {
    /// For each sealed memtable that no flush has taken up.
    pub(super) sealed: Vec<Sealed>,
    /// How many sealed memtables the flush under way holds.
    pub(super) flushing: usize,
    /// The pieces whose tables may go.
    unneeded: Vec<Piece>,
    /// How many pieces' tables are to go, or going, those that wait for a flush included.
    dropping: usize,
    compaction_wanted: bool,
    pub(super) compacting: bool,
    /// Nothing is merged until a damaged table has gone (`shed`).
    pub(super) held: bool,
    /// It may go now.
    shed: Option<ShedRequest>,
    /// How many threads write tables of their own.
    stagings: usize,
    pub(super) stop: bool,
    /// The store takes no more writes.
    pub(super) failed: Option<StoreError>,
    /// The last flush met a full disk; it is tried again.
    flush_trouble: Option<StoreError>,
    /// The last compaction failed; the next flush tries again.
    compaction_trouble: Option<StoreError>,
    flushes: u64,
    compactions: u64,
    failed_compactions: u64,
}

/// Counters of the background's work.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub(super) flushes: u64,
    pub(super) compactions: u64,
    pub(super) failed_compactions: u64,
    pub(super) trouble: Option<StoreError>,
}

impl State {
    /// Whether tables are being written.
    pub(super) fn writes_tables(&self) -> bool {
        self.flushing > 0 || self.compacting || self.stagings > 0
    }
}

impl Shared {
    pub(super) fn new(
        path: PathBuf,
        tree: AnyTree,
        pins: Arc<Pins>,
        durability: Durability,
        stopping: Arc<AtomicBool>,
        scrub: Scrub,
    ) -> Self {
        Self {
            path,
            tree,
            pins,
            durability,
            state: Mutex::default(),
            changed: Condvar::new(),
            stopping,
            writing: RwLock::default(),
            is_littered: AtomicBool::new(false),
            scrub,
        }
    }

    /// A memtable was sealed, or was empty and need not be.
    pub(super) fn hand_over(&self, sealed: Sealed) {
        let mut state = self.state.lock();
        state.dropping += sealed.unneeded.len();
        state.sealed.push(sealed);
        self.changed.notify_all();
    }

    /// Whether tables are still to go.
    pub(super) fn is_dropping(&self) -> bool {
        let state = self.state.lock();
        state.dropping > 0 && state.failed.is_none()
    }

    /// The error that ended the store, if one did.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match &self.state.lock().failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Waits until fewer than `most` sealed memtables are left.
    pub(super) fn wait_for_room(&self, most: usize, patience: Duration) -> Result<(), StoreError> {
        let started = Instant::now();
        let mut state = self.state.lock();
        loop {
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            let sealed = state.sealed.len() + state.flushing;
            if sealed < most {
                return Ok(());
            }
            let waited = started.elapsed();
            if self
                .changed
                .wait_until(&mut state, started + patience)
                .timed_out()
            {
                return Err(StoreError::Stalled { waited, sealed });
            }
        }
    }

    /// Waits until everything handed over is durable. Unlike [`Shared::wait_for_room`] it does not
    /// wait out a full disk: the caller wants to know.
    pub(super) fn wait_for_flush(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        state.flush_trouble = None;
        loop {
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if state.sealed.is_empty() && state.flushing == 0 {
                return Ok(());
            }
            if let Some(error) = &state.flush_trouble {
                return Err(error.clone());
            }
            self.changed.wait(&mut state);
        }
    }

    /// Waits until no compaction is wanted or under way.
    pub(super) fn wait_for_compaction(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        while state.compaction_wanted || state.compacting {
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            self.changed.wait(&mut state);
        }
        Ok(())
    }

    pub(super) fn progress(&self) -> Progress {
        let state = self.state.lock();
        Progress {
            flushes: state.flushes,
            compactions: state.compactions,
            failed_compactions: state.failed_compactions,
            trouble: state
                .failed
                .as_ref()
                .or(state.flush_trouble.as_ref())
                .or(state.compaction_trouble.as_ref())
                .cloned(),
        }
    }

    /// There are new tables.
    pub(super) fn want_compaction(&self) {
        self.state.lock().compaction_wanted = true;
        self.changed.notify_all();
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.state.lock().stop = true;
        self.changed.notify_all();
        self.scrub.stop();
    }

    /// A thread begins that writes tables of its own, and says so as long as it keeps what is returned.
    pub(super) fn begin_staging(self: &Arc<Self>) -> Staging {
        self.state.lock().stagings += 1;
        self.changed.notify_all();
        Staging(Arc::clone(self))
    }

    /// Waits until the last of them has ended.
    pub(super) fn wait_for_stagings(&self) {
        let mut state = self.state.lock();
        while state.stagings > 0 {
            self.changed.wait(&mut state);
        }
    }

    /// Fails once the store stops.
    pub(super) fn check_running(&self) -> lsm_tree::Result<()> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the store stops").into());
        }
        Ok(())
    }

    /// What the tree's error means to callers.
    pub(super) fn error(&self, operation: &'static str, error: lsm_tree::Error) -> StoreError {
        let path = self.path.clone();
        super::classify(operation, path, error)
    }

    /// Body of the flushing thread.
    pub(super) fn flush_until_stopped(&self) {
        let _guard = DeathWatch::of(self, "flush");
        let mut state = self.state.lock();
        loop {
            if state.stop {
                return;
            }
            if state.sealed.is_empty() {
                self.changed.wait(&mut state);
                continue;
            }
            // Taken before the flush begins: it writes every memtable sealed by then, so at least
            // these. One sealed in between is written too, but only its own turn says so.
            let taken = std::mem::take(&mut state.sealed);
            state.flushing = taken.len();
            self.changed.notify_all();
            drop(state);
            let started = Instant::now();
            let result = self.flush_sealed();
            self.tidy();
            state = self.state.lock();
            state.flushing = 0;
            match result {
                Ok(bytes) => {
                    for Sealed {
                        reached,
                        unneeded,
                        shed,
                    } in taken
                    {
                        self.durability.advance(&reached);
                        state.unneeded.extend(unneeded);
                        state.shed = state.shed.take().or(shed);
                    }
                    state.flushes += 1;
                    state.flush_trouble = None;
                    state.compaction_wanted = true;
                    tracing::debug!(bytes, elapsed = ?started.elapsed(), "flushed");
                    self.changed.notify_all();
                }
                Err(error) if error.is_disk_full() => {
                    tracing::warn!(%error, "flush put off, the disk is full");
                    state.sealed.splice(0..0, taken);
                    state.flush_trouble = Some(error);
                    self.changed.notify_all();
                    self.changed.wait_for(&mut state, RETRY_INTERVAL);
                }
                Err(error) => {
                    tracing::error!(%error, "flush failed");
                    state.failed = Some(error);
                    self.changed.notify_all();
                    return;
                }
            }
        }
    }

    fn flush_sealed(&self) -> Result<u64, StoreError> {
        let _writing = self.writing.read();
        let (memtables, _) = self.pins.visible();
        let sealed = memtables.sealed().to_vec();
        // With them goes the active one of now, which is not to be kept.
        drop(memtables);
        if sealed.is_empty() {
            return Ok(0);
        }
        let written = memtable::with_newest(&sealed, |rows| {
            let tables = self.tree.flush_to_tables(rows)?;
            let (tables, blobs) = tables.unwrap_or_default();
            let (blobs, watermark) = (blobs.as_deref(), self.pins.watermark());
            self.tree
                .register_tables(&tables, blobs, None, &[], watermark)
        });
        written.map_err(|error| {
            self.note_litter();
            self.error("flush a memtable", error)
        })?;
        // A batch takes no time that counts here, but a thread that died of a bug may have left one open.
        let next = self.pins.next();
        while !self.pins.forget(&sealed, next) && !self.stopping.load(Ordering::Acquire) {
            std::thread::sleep(BATCH_PAUSE);
        }
        self.forget_versions();
        Ok(sealed.iter().map(|table| table.bytes()).sum())
    }

    /// Lets go of versions that nobody can look at any more. The tree does so within a flush, but
    /// for lack of a newer number not yet of the version just replaced.
    pub(super) fn forget_versions(&self) {
        let watermark = self.pins.watermark();
        let mut versions = self.tree.get_version_history_lock();
        if let Err(error) = versions.maintenance(&self.path, watermark) {
            tracing::warn!(%error, "old versions of the store stay for now");
        }
    }

    /// Body of the compacting thread.
    pub(super) fn compact_until_stopped(&self) {
        let _guard = DeathWatch::of(self, "compaction");
        let strategy: Arc<dyn CompactionStrategy> = Arc::new(Leveled::default());
        let mut backoff = Backoff::default();
        let mut state = self.state.lock();
        loop {
            if state.stop {
                return;
            }
            let merges = state.compaction_wanted && !state.held && !backoff.holds();
            if !merges && state.unneeded.is_empty() && state.shed.is_none() {
                match backoff
                    .until
                    .filter(|_| state.compaction_wanted && !state.held)
                {
                    Some(until) => drop(self.changed.wait_until(&mut state, until)),
                    None => self.changed.wait(&mut state),
                }
                continue;
            }
            state.compaction_wanted &= !merges;
            state.compacting = merges;
            let unneeded = std::mem::take(&mut state.unneeded);
            let shed = state.shed.take();
            self.changed.notify_all();
            drop(state);
            let dropped = self.drop_tables(&unneeded);
            if let Some(shed) = &shed {
                self.drop_shed(shed);
                backoff = Backoff::default();
            }
            let result = dropped.and_then(|()| match merges {
                true => self.compact_once(&strategy),
                false => Ok(false),
            });
            self.tidy();
            state = self.state.lock();
            state.compacting = false;
            if shed.is_some() {
                state.held = false;
                state.compaction_wanted = true;
            }
            // If tables have stayed, their rows are removed like any others.
            state.dropping -= unneeded.len();
            match result {
                Ok(changed) => {
                    if merges {
                        state.compaction_trouble = None;
                        backoff = Backoff::default();
                    }
                    state.compactions += u64::from(changed);
                    // One step often makes the next one due.
                    state.compaction_wanted |= changed;
                }
                Err(_) if state.stop => return,
                // The tables it would have merged are still there, and durability does not hang
                // on it: the store goes on, and the next flush tries again.
                Err(error) => {
                    tracing::error!(%error, "compaction failed");
                    if error.is_damage() {
                        backoff.extend();
                        if !self.scrub.knows_damage() {
                            self.scrub.want();
                        }
                    }
                    state.failed_compactions += 1;
                    state.compaction_trouble = Some(error);
                }
            }
            self.changed.notify_all();
        }
    }

    /// Lets go of every table that has rows of one of the pieces and no others.
    ///
    /// Rows of a piece that had been deleted may be back afterwards, if a table with their deletion went and one with
    /// their value had a neighbour's rows too and stayed. Nobody looks at them.
    fn drop_tables(&self, pieces: &[Piece]) -> Result<(), StoreError> {
        for piece in pieces {
            let (from, to) = (piece.stored_start(), piece.stored_end());
            let version = self.tree.current_version();
            // Dropping none would write and sync the manifest all the same.
            let is_any_within = version.iter_tables().any(|table| {
                let keys = &table.metadata.key_range;
                **keys.min() >= *from && **keys.max() < *to
            });
            if is_any_within {
                let dropped = self.tree.drop_range(&*from..&*to);
                dropped.map_err(|error| self.error("drop tables", error))?;
            }
        }
        if !pieces.is_empty() {
            self.forget_versions();
        }
        Ok(())
    }

    /// One step of the strategy; whether it changed anything.
    fn compact_once(&self, strategy: &Arc<dyn CompactionStrategy>) -> Result<bool, StoreError> {
        let _writing = self.writing.read();
        let before = self.tree.current_version().id();
        let result = self
            .tree
            .compact(Arc::clone(strategy), self.pins.watermark());
        result.map_err(|error| {
            self.note_litter();
            self.error("compact tables", error)
        })?;
        self.forget_versions();
        Ok(self.tree.current_version().id() != before)
    }
}

/// Holds merges back that would meet the same damage again.
#[derive(Default)]
struct Backoff {
    wait: Duration,
    until: Option<Instant>,
}

impl Backoff {
    fn holds(&self) -> bool {
        self.until.is_some_and(|until| until > Instant::now())
    }

    fn extend(&mut self) {
        self.wait = (2 * self.wait).clamp(MIN_BACKOFF, MAX_BACKOFF);
        self.until = Some(Instant::now() + self.wait);
    }
}

/// A thread that writes tables of its own.
pub(super) struct Staging(Arc<Shared>);

impl Drop for Staging {
    fn drop(&mut self) {
        self.0.state.lock().stagings -= 1;
        self.0.changed.notify_all();
    }
}

/// Tells everyone who waits when a thread dies of a panic.
pub(super) struct DeathWatch<'a> {
    shared: &'a Shared,
    thread: &'static str,
}

impl<'a> DeathWatch<'a> {
    pub(super) const fn of(shared: &'a Shared, thread: &'static str) -> Self {
        Self { shared, thread }
    }
}

impl Drop for DeathWatch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = self.thread;
            self.shared.state.lock().failed = Some(StoreError::ThreadDied { thread });
            self.shared.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LsmSettings, LsmStore};
    use pontoon_types::TabletId;

    /// What is shared, without the threads.
    fn shared(path: &std::path::Path) -> Arc<Shared> {
        let store = LsmStore::open(path, LsmSettings::default()).unwrap();
        let shared = Arc::clone(&store.shared);
        drop(store);
        shared
    }

    #[test]
    fn a_write_that_finds_no_room_waits_its_patience_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let shared = shared(dir.path());
        let patience = Duration::from_millis(1);
        shared.hand_over(Sealed::default());
        shared.wait_for_room(2, patience).unwrap();
        shared.hand_over(Sealed::default());
        let error = shared.wait_for_room(2, patience).unwrap_err();
        assert!(
            matches!(error, StoreError::Stalled { sealed: 2, .. }),
            "{error}"
        );
    }

    #[test]
    fn tables_do_not_go_before_the_flush_that_makes_them_unneeded() {
        let dir = tempfile::tempdir().unwrap();
        let shared = shared(dir.path());
        let unneeded = vec![Piece::whole(TabletId(7))];
        shared.hand_over(Sealed {
            unneeded: unneeded.clone(),
            ..Sealed::default()
        });
        assert!(shared.is_dropping());
        assert!(shared.state.lock().unneeded.is_empty());
        shared.state.lock().stop = false;
        let flushing = Arc::clone(&shared);
        let thread = std::thread::spawn(move || flushing.flush_until_stopped());
        shared.wait_for_flush().unwrap();
        assert_eq!(shared.state.lock().unneeded, unneeded);
        assert!(shared.is_dropping());
        shared.stop();
        thread.join().unwrap();
    }

    #[test]
    fn a_thread_that_dies_tells_those_who_wait_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let shared = shared(dir.path());
        shared.hand_over(Sealed::default());
        let dying = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let _guard = DeathWatch::of(&dying, "flush");
            panic!("a bug");
        });
        let error = shared.wait_for_flush().unwrap_err();
        assert!(
            matches!(error, StoreError::ThreadDied { thread: "flush" }),
            "{error}"
        );
        assert!(thread.join().is_err());
        assert!(shared.check().is_err());
    }
}
