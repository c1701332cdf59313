//! What can be known about a store from outside of its thread.

use super::background::Shared;
use super::damage::DamagedTable;
use super::schedule::ScrubBudget;
use super::scrub::ScrubCounters;
use crate::StoreError;
use lsm_tree::AbstractTree;
use std::sync::Arc;

/// Looks at an [`LsmStore`](crate::LsmStore) from any thread.
#[derive(Clone)]
pub struct LsmMonitor {
    shared: Arc<Shared>,
}

/// What the store holds and has done, for metrics and status.
#[derive(Clone, Debug)]
pub struct LsmStats {
    /// Bytes in the active memtable.
    pub memtable_bytes: u64,
    /// Memtables that wait for their flush, the one under way included.
    pub sealed_memtables: usize,
    /// Tables on disk.
    pub tables: usize,
    /// Bytes of those tables.
    pub disk_bytes: u64,
    /// Flushes finished since opening.
    pub flushes: u64,
    /// Compactions finished since opening.
    pub compactions: u64,
    /// Compactions that have failed since opening.
    pub failed_compactions: u64,
    /// Views alive.
    pub views: usize,
    /// What the last flush or compaction met, if it failed.
    pub trouble: Option<StoreError>,
    /// What scrubbing has done.
    pub scrub: ScrubCounters,
}

impl LsmMonitor {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// What the store holds and has done.
    #[must_use]
    pub fn stats(&self) -> LsmStats {
        let Shared {
            tree, pins, scrub, ..
        } = &*self.shared;
        let progress = self.shared.progress();
        let (memtables, _) = pins.visible();
        LsmStats {
            memtable_bytes: memtables.active().bytes(),
            sealed_memtables: memtables.sealed().len(),
            tables: tree.table_count(),
            disk_bytes: tree.disk_space(),
            flushes: progress.flushes,
            compactions: progress.compactions,
            failed_compactions: progress.failed_compactions,
            views: pins.live(),
            trouble: progress.trouble,
            scrub: scrub.counters(),
        }
    }

    /// The damaged tables that are known and still there.
    #[must_use]
    pub fn damaged_tables(&self) -> Vec<DamagedTable> {
        self.shared.damaged_tables().into_values().collect()
    }

    /// What may be read to find damage, for who reads something else within the same rate.
    #[must_use]
    pub fn scrub_budget(&self) -> Arc<ScrubBudget> {
        Arc::clone(self.shared.scrub.budget())
    }

    /// Has everything read and held against its checksums, beginning now.
    pub fn scrub(&self) {
        self.shared.scrub.want();
    }
}
