//! How far each group's state has reached the disk.

use parking_lot::Mutex;
use pontoon_types::{GroupId, LogIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The applied index of every group at one moment.
pub type AppliedIndexes = BTreeMap<GroupId, LogIndex>;

/// What a memtable brings the groups to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reached {
    pub(crate) applied: Arc<AppliedIndexes>,
    /// The groups that have left the node since the memtable before; they may be back.
    pub(crate) left: BTreeSet<GroupId>,
}

/// A shared, cheap handle that tells up to where the state is durable, from any thread.
///
/// It moves only when a flush has **finished**, so a group's log may be cut up to and including
/// [`Durability::applied`]: after any crash the store comes back with at least that.
#[derive(Clone, Debug)]
pub struct Durability(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    applied: Arc<AppliedIndexes>,
    generation: u64,
}

impl Durability {
    pub(crate) fn new(applied: Arc<AppliedIndexes>) -> Self {
        Self(Arc::new(Mutex::new(State {
            applied,
            generation: 0,
        })))
    }

    /// Up to which index `group` is durable; zero if nothing of it is.
    #[must_use]
    pub fn applied(&self, group: GroupId) -> LogIndex {
        self.0
            .lock()
            .applied
            .get(&group)
            .copied()
            .unwrap_or_default()
    }

    /// All groups at once, as of the last finished flush.
    #[must_use]
    pub fn all(&self) -> Arc<AppliedIndexes> {
        Arc::clone(&self.0.lock().applied)
    }

    /// How many memtables have reached the disk since the store was opened, in their order.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.lock().generation
    }

    /// A flush has finished that held everything up to there.
    pub(crate) fn advance(&self, reached: &Reached) {
        let mut state = self.0.lock();
        for (group, durable) in state.applied.iter() {
            let new = reached.applied.get(group).copied().unwrap_or_default();
            assert!(
                new >= *durable || reached.left.contains(group),
                "group {group} was durable up to {durable}, now only up to {new}"
            );
        }
        state.applied = Arc::clone(&reached.applied);
        state.generation += 1;
    }
}
