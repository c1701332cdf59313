//! Reading everything now and then, so that damage is found while the other replicas are whole.
//!
//! Blocks of tables are verified whenever they are read, but much is read by nobody for a long time. So a thread holds
//! every table, file by file and at a bounded rate, against the checksum that the manifest has of it, once per interval.
//! Where a read has met damage it looks at once: the tree does not say which table it was.
//!
//! What it reads may come from the page cache, and then says nothing about the disk.

use super::background::{DeathWatch, Shared};
use super::damage::{self, DamagedTable};
use super::pace::MAX_SLEEP;
use super::schedule::{ScrubBudget, ScrubSchedule};
use crate::StoreError;
use crate::error::EIO;
use lsm_tree::{AbstractTree, Slice, Table, TableId};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};
use xxhash_rust::xxh3::Xxh3Default;

/// Bytes between two looks at the clock.
const STRIDE_BYTES: usize = 256 << 10;
/// Places of damage that wait to be looked at, at most; more come from reads that meet the same again and again.
const MAX_SUSPECTS: usize = 64;

/// What the scrubbing thread shares with the others.
pub(super) struct Scrub {
    schedule: ScrubSchedule,
    budget: Arc<ScrubBudget>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stop: bool,
    /// Ranges of keys in which a read has met damage.
    suspects: VecDeque<(Slice, Slice)>,
    /// Everything is to be read now.
    is_wanted: bool,
    damaged: BTreeMap<TableId, DamagedTable>,
    counters: ScrubCounters,
}

/// What scrubbing has counted since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubCounters {
    /// How often everything was read to the end.
    pub passes: u64,
    /// Bytes of tables that were read.
    pub bytes: u64,
    /// Damaged tables that were found.
    pub damaged: u64,
    /// When everything was last read to the end, also before the store was opened.
    pub last: Option<SystemTime>,
}

/// The store stops.
struct Stopping;

enum Task {
    Everything,
    Suspect(Slice, Slice),
}

impl Scrub {
    pub(super) fn new(schedule: ScrubSchedule, bytes_per_second: NonZeroU64) -> Self {
        Self {
            schedule,
            budget: Arc::new(ScrubBudget::new(bytes_per_second)),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(super) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// A read has met damage in the tables that have keys from `from` up to `to`.
    pub(super) fn suspect(&self, from: &[u8], to: &[u8]) {
        let mut state = self.state.lock();
        if state.suspects.len() < MAX_SUSPECTS {
            state.suspects.push_back((from.into(), to.into()));
            self.changed.notify_all();
        }
    }

    /// Somebody has met damage anywhere.
    pub(super) fn want(&self) {
        self.state.lock().is_wanted = true;
        self.changed.notify_all();
    }

    /// Takes a table for damaged that is not.
    #[cfg(test)]
    pub(super) fn condemn(&self, table: &Table) {
        let damaged = DamagedTable {
            path: table.path.to_path_buf(),
            offset: None,
            tablets: Default::default(),
            lost: Vec::new(),
            is_stuck: false,
        };
        self.state.lock().damaged.insert(table.id(), damaged);
    }

    /// A damaged table cannot be got rid of.
    pub(super) fn note_stuck(&self, id: TableId) {
        if let Some(table) = self.state.lock().damaged.get_mut(&id) {
            tracing::error!(path = %table.path.display(), "a damaged table stays; tables with the same keys cannot be merged");
            table.is_stuck = true;
        }
    }

    /// Whether a damaged table is known, which may be gone by now.
    pub(super) fn knows_damage(&self) -> bool {
        !self.state.lock().damaged.is_empty()
    }

    pub(super) fn counters(&self) -> ScrubCounters {
        ScrubCounters {
            last: self.schedule.last(),
            ..self.state.lock().counters
        }
    }

    pub(super) const fn budget(&self) -> &Arc<ScrubBudget> {
        &self.budget
    }

    /// Waits for something to do; `None`: the store stops.
    fn next(&self, due: Option<Instant>) -> Option<Task> {
        let mut state = self.state.lock();
        loop {
            if state.stop {
                return None;
            }
            if let Some((from, to)) = state.suspects.pop_front() {
                return Some(Task::Suspect(from, to));
            }
            if std::mem::take(&mut state.is_wanted) || due.is_some_and(|due| due <= Instant::now())
            {
                return Some(Task::Everything);
            }
            match due {
                Some(due) => drop(self.changed.wait_until(&mut state, due)),
                None => self.changed.wait(&mut state),
            }
        }
    }

    fn pop_suspect(&self) -> Option<(Slice, Slice)> {
        self.state.lock().suspects.pop_front()
    }
}

impl Shared {
    /// The damaged tables that are known and still there.
    pub(super) fn damaged_tables(&self) -> BTreeMap<TableId, DamagedTable> {
        let mut state = self.scrub.state.lock();
        if !state.damaged.is_empty() {
            let version = self.tree.current_version();
            let ids: HashSet<_> = version.iter_tables().map(Table::id).collect();
            state.damaged.retain(|id, _| ids.contains(id));
        }
        state.damaged.clone()
    }

    /// Body of the scrubbing thread.
    pub(super) fn scrub_until_stopped(&self) {
        let _guard = DeathWatch::of(self, "scrub");
        let mut due = self.scrub.schedule.first();
        while let Some(task) = self.scrub.next(due) {
            let done = match task {
                Task::Suspect(from, to) => self.check_suspect(&from, &to),
                Task::Everything => self.check_everything().map(|next| due = next),
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// Returns when it is to be done again.
    fn check_everything(&self) -> Result<Option<Instant>, Stopping> {
        let started = Instant::now();
        let ids: Vec<_> = self
            .tree
            .current_version()
            .iter_tables()
            .map(Table::id)
            .collect();
        for id in &ids {
            // Only the one that is read is kept from going, or the disk would have to hold all that is merged meanwhile.
            let table = self
                .tree
                .current_version()
                .iter_tables()
                .find(|table| table.id() == *id)
                .cloned();
            if let Some(table) = table {
                self.examine(&table, |bytes| self.pay(self.scrub.budget.spend(bytes)))?;
            }
        }
        self.scrub.state.lock().counters.passes += 1;
        let damaged = self.damaged_tables().len();
        tracing::info!(tables = ids.len(), damaged, elapsed = ?started.elapsed(), "scrubbed the store");
        Ok(self.scrub.schedule.finish())
    }

    /// Waits until what was read is paid for. What is suspect does not wait.
    fn pay(&self, until: Instant) -> Result<(), Stopping> {
        loop {
            while let Some((from, to)) = self.scrub.pop_suspect() {
                self.check_suspect(&from, &to)?;
            }
            if self.stopping.load(Ordering::Relaxed) {
                return Err(Stopping);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(MAX_SLEEP));
        }
    }

    /// Reads the tables that a read looked into.
    fn check_suspect(&self, from: &[u8], to: &[u8]) -> Result<(), Stopping> {
        for table in damage::suspects(&self.tree, from, to) {
            self.examine(&table, |_| match self.stopping.load(Ordering::Relaxed) {
                true => Err(Stopping),
                false => Ok(()),
            })?;
        }
        Ok(())
    }

    /// Reads a table, and takes note of it if it is not what was written.
    fn examine(
        &self,
        table: &Table,
        mut pay: impl FnMut(u64) -> Result<(), Stopping>,
    ) -> Result<(), Stopping> {
        if self.scrub.state.lock().damaged.contains_key(&table.id()) {
            return Ok(());
        }
        let checksum = match checksum_of(table, |bytes| {
            self.scrub.state.lock().counters.bytes += bytes;
            pay(bytes)
        })? {
            Ok(checksum) => Some(checksum),
            Err(error) if is_damage(&error) => None,
            Err(error) => {
                tracing::warn!(path = %table.path.display(), %error, "a table could not be scrubbed");
                return Ok(());
            }
        };
        if checksum != Some(table.checksum().into_u128()) {
            let damaged = damage::locate(table);
            // One that has gone meanwhile may have lost its file to the removing of what failed work has left (`litter`).
            let version = self.tree.current_version();
            if !version.iter_tables().any(|one| one.id() == table.id()) {
                return Ok(());
            }
            tracing::error!(
                path = %damaged.path.display(),
                offset = ?damaged.offset,
                tablets = ?damaged.tablets,
                lost = ?damaged.lost_tablets().collect::<Vec<_>>(),
                "a table of the store is damaged"
            );
            let mut state = self.scrub.state.lock();
            state.counters.damaged += 1;
            state.damaged.insert(table.id(), damaged);
        }
        Ok(())
    }

    /// What the tree's error means to who read rows from `from` up to `to`.
    pub(super) fn read_error(&self, error: lsm_tree::Error, from: &[u8], to: &[u8]) -> StoreError {
        let mut error = self.error("read a row", error);
        if error.is_damage() {
            self.scrub.suspect(from, to);
        }
        if let StoreError::Damaged { path, .. } | StoreError::Io { path, .. } = &mut error
            && let Some(table) = damage::culprit(&self.tree, from, to)
        {
            *path = table;
        }
        error
    }
}

fn is_damage(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::NotFound, io::ErrorKind::UnexpectedEof];
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(EIO)
}

/// The checksum of the whole file, as it is on the disk now.
fn checksum_of(
    table: &Table,
    mut pay: impl FnMut(u64) -> Result<(), Stopping>,
) -> Result<io::Result<u128>, Stopping> {
    let mut hasher = Xxh3Default::new();
    let mut buffer = vec![0; STRIDE_BYTES];
    let mut file = match File::open(&*table.path) {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Ok(hasher.digest128())),
            Ok(bytes) => {
                hasher.update(&buffer[..bytes]);
                pay(bytes as u64)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Err(error)),
        }
    }
}
