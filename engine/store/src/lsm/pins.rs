//! Which versions are in use, and so how far old ones may be forgotten.
//!
//! Every batch has one sequence number, drawn from the counter that the tree also draws from when
//! it registers tables. A view at `seqno` sees what has a smaller one. The tree finds the tables
//! that belong to a view by its number, and panics if they have been forgotten: that is
//! why every flush and compaction is given a watermark that [`Pins`] holds at or below each living
//! view and each view that may still be taken.
//!
//! The memtables that belong to a view it gets with its number, so that nothing can be sealed in between. A memtable
//! that was flushed goes only once every view taken from then on finds its table: while a batch is written, views
//! are taken at a number from before the flush.
//!
//! The tree forgets from the oldest version on. So a view that it has to find keeps all versions that are newer, with every
//! table that was merged away since: under writes that is many times the state within a minute. One that is to live long
//! therefore holds its version itself, and the tree may forget it; the book then knows only which tables it reads.

use super::memtable::{Memtable, Memtables};
use lsm_tree::{SeqNo, SequenceNumberCounter, TableId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// The book of living views and of the batch that is being written.
pub(super) struct Pins {
    seqno: SequenceNumberCounter,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of the batch that is being written: it must stay invisible until it is whole.
    open_batch: Option<SeqNo>,
    memtables: Arc<Memtables>,
    /// How many views are at each number.
    views: BTreeMap<SeqNo, usize>,
    /// The tables of each version that is held.
    holds: HashMap<u64, Arc<[TableId]>>,
    next_hold: u64,
}

impl Pins {
    /// `seqno` is the tree's own counter and is above everything that the tree holds.
    pub(super) fn new(seqno: SequenceNumberCounter) -> Self {
        Self {
            seqno,
            state: Mutex::default(),
        }
    }

    /// Draws the number of a batch, which stays invisible until [`Pins::publish`].
    pub(super) fn open_batch(&self) -> SeqNo {
        let mut state = self.state.lock();
        let seqno = self.seqno.next();
        assert_eq!(state.open_batch, None, "two batches are written at once");
        state.open_batch = Some(seqno);
        seqno
    }

    /// The open batch is whole: views taken from now on see it.
    pub(super) fn publish(&self) {
        self.state.lock().open_batch = None;
    }

    /// The present memtables, and what a view taken now is at.
    pub(super) fn visible(&self) -> (Arc<Memtables>, SeqNo) {
        let state = self.state.lock();
        (Arc::clone(&state.memtables), self.visible_in(&state))
    }

    /// Lets a new memtable take the active one's place, unless that is empty, and returns it.
    pub(super) fn seal(&self) -> Option<Arc<Memtable>> {
        let mut state = self.state.lock();
        state.memtables = Arc::new(state.memtables.seal()?);
        Some(Arc::clone(state.memtables.active()))
    }

    /// The number of what comes next.
    pub(super) fn next(&self) -> SeqNo {
        self.seqno.get()
    }

    /// Lets go of memtables whose rows are in tables that were registered before `next`, and returns whether it did: not while
    /// a batch is open that is older.
    pub(super) fn forget(&self, flushed: &[Arc<Memtable>], next: SeqNo) -> bool {
        let mut state = self.state.lock();
        let is_seen = self.visible_in(&state) >= next;
        if is_seen {
            flushed.iter().for_each(|one| one.note_flushed());
            state.memtables = Arc::new(state.memtables.without(flushed));
        }
        is_seen
    }

    fn visible_in(&self, state: &State) -> SeqNo {
        state.open_batch.unwrap_or_else(|| self.seqno.get())
    }

    /// Pins the newest version that is whole.
    pub(super) fn pin(self: &Arc<Self>) -> Pin {
        let mut state = self.state.lock();
        let seqno = self.visible_in(&state);
        *state.views.entry(seqno).or_default() += 1;
        Pin {
            pins: Arc::clone(self),
            memtables: Arc::clone(&state.memtables),
            seqno,
        }
    }

    /// Below this, nobody looks or will look any more.
    pub(super) fn watermark(&self) -> SeqNo {
        let state = self.state.lock();
        let visible = self.visible_in(&state);
        state
            .views
            .first_key_value()
            .map_or(visible, |(oldest, _)| visible.min(*oldest))
    }

    /// Writes down that somebody holds a version of these tables.
    pub(super) fn hold(self: &Arc<Self>, tables: Arc<[TableId]>) -> Hold {
        let mut state = self.state.lock();
        let number = state.next_hold;
        state.next_hold += 1;
        state.holds.insert(number, tables);
        Hold {
            pins: Arc::clone(self),
            number,
        }
    }

    /// The tables of versions that are held.
    pub(super) fn held_tables(&self) -> HashSet<TableId> {
        // Writers wait for the lock, and there may be many.
        let holds: Vec<_> = self.state.lock().holds.values().cloned().collect();
        holds
            .iter()
            .flat_map(|tables| tables.iter().copied())
            .collect()
    }

    /// How many views live.
    pub(super) fn live(&self) -> usize {
        let state = self.state.lock();
        state.views.values().sum::<usize>() + state.holds.len()
    }
}

/// Says that a version is held.
pub(super) struct Hold {
    pins: Arc<Pins>,
    number: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.pins.state.lock().holds.remove(&self.number);
    }
}

/// Keeps one version alive.
pub(super) struct Pin {
    pins: Arc<Pins>,
    memtables: Arc<Memtables>,
    seqno: SeqNo,
}

impl Pin {
    pub(super) const fn seqno(&self) -> SeqNo {
        self.seqno
    }

    pub(super) fn memtables(&self) -> &Memtables {
        &self.memtables
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.pins.state.lock();
        if let Some(count) = state.views.get_mut(&self.seqno) {
            *count -= 1;
            if *count == 0 {
                state.views.remove(&self.seqno);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flushed_memtable_stays_while_views_are_taken_from_before_its_flush() {
        let pins = Arc::new(Pins::new(SequenceNumberCounter::new(5)));
        assert!(pins.seal().is_none(), "there is nothing in it");
        let row = || [("key".into(), Some("value".into()))];
        let has_row = |pin: &Pin| pin.memtables().get(b"key", pin.seqno()).is_some();
        let active = Arc::clone(pins.visible().0.active());
        let early = pins.pin();
        active.insert(pins.open_batch(), row());
        assert!(!has_row(&pins.pin()));
        pins.publish();
        assert!(pins.seal().is_some_and(|new| !Arc::ptr_eq(&new, &active)));
        let sealed = pins.visible().0.sealed().to_vec();
        let batch = pins.open_batch();
        // The tree draws a number for the table now, and does not show it to a view of a smaller one.
        assert!(pins.seqno.next() > batch);
        let next = pins.next();
        assert!(!pins.forget(&sealed, next));
        let late = pins.pin();
        pins.publish();
        // The batch after that is no reason to keep them.
        pins.open_batch();
        assert!(pins.forget(&sealed, next));
        assert!(has_row(&late) && !has_row(&early) && !has_row(&pins.pin()));
        assert!(pins.visible().0.sealed().is_empty());
    }

    #[test]
    fn the_watermark_is_never_above_a_view_or_an_open_batch() {
        let pins = Arc::new(Pins::new(SequenceNumberCounter::new(5)));
        assert_eq!(pins.watermark(), 5);
        let old = pins.pin();
        let batch = pins.open_batch();
        assert_eq!((old.seqno(), batch), (5, 5));
        // The tree draws a number of its own for a flush in the middle of the batch.
        assert_eq!(pins.seqno.next(), 6);
        let amid = pins.pin().seqno();
        assert_eq!(amid, 5, "a view must not see half a batch");
        pins.publish();
        let new = pins.pin();
        assert_eq!(new.seqno(), 7);
        assert_eq!((pins.watermark(), pins.live()), (5, 2));
        drop(old);
        assert_eq!((pins.watermark(), pins.live()), (7, 1));
        let hold = pins.hold([3, 4].into());
        drop(new);
        assert_eq!(pins.seqno.next(), 7);
        assert_eq!((pins.watermark(), pins.live()), (8, 1));
        assert_eq!(pins.held_tables(), HashSet::from([3, 4]));
        drop(hold);
        assert_eq!((pins.held_tables().len(), pins.live()), (0, 0));
    }
}
