//! The deadlines of a worker's groups.

use pontoon_types::Instant;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A heap of deadlines with at most one place per group.
///
/// A follower's election deadline moves back with every message from its leader. Moving its place in
/// the heap each time would cost more than the message; so a place is only ever added for an *earlier*
/// deadline, and one that comes up too early is put back at the group's real deadline.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Per slot: the earliest place it has in the heap.
    places: Vec<Option<Instant>>,
}

impl Timers {
    /// Makes sure that `slot` comes up at `deadline` at the latest.
    pub(crate) fn schedule(&mut self, slot: usize, deadline: Option<Instant>) {
        if self.places.len() <= slot {
            self.places.resize(slot + 1, None);
        }
        let Some(deadline) = deadline else { return };
        if self.places[slot].is_none_or(|place| deadline < place) {
            self.places[slot] = Some(deadline);
            self.heap.push(Reverse((deadline, slot)));
        }
    }

    /// The next slot whose real deadline, as `deadline_of` gives it, is not after `now`.
    pub(crate) fn pop_due(
        &mut self,
        now: Instant,
        deadline_of: impl Fn(usize) -> Option<Instant>,
    ) -> Option<usize> {
        while let Some(Reverse((place, slot))) = self.heap.peek().copied() {
            if place > now {
                return None;
            }
            self.heap.pop();
            if self.places[slot] != Some(place) {
                continue; // An earlier place of this slot came up before.
            }
            self.places[slot] = None;
            match deadline_of(slot) {
                Some(deadline) if deadline <= now => return Some(slot),
                later => self.schedule(slot, later),
            }
        }
        None
    }

    /// The earliest real deadline.
    pub(crate) fn next(
        &mut self,
        deadline_of: impl Fn(usize) -> Option<Instant>,
    ) -> Option<Instant> {
        while let Some(Reverse((place, slot))) = self.heap.peek().copied() {
            let deadline = deadline_of(slot);
            if self.places[slot] == Some(place) && deadline == Some(place) {
                return Some(place);
            }
            self.heap.pop();
            if self.places[slot] == Some(place) {
                self.places[slot] = None;
                self.schedule(slot, deadline);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn a_deadline_that_moved_back_comes_up_once_and_late() {
        let mut timers = Timers::default();
        timers.schedule(0, Some(at(10)));
        timers.schedule(1, Some(at(20)));
        // Slot 0's deadline has moved to 30 since it was scheduled.
        let deadline_of = |slot: usize| Some(at([30, 20][slot]));
        assert_eq!(timers.next(deadline_of), Some(at(20)));
        assert_eq!(timers.pop_due(at(25), deadline_of), Some(1));
        assert_eq!(timers.pop_due(at(25), deadline_of), None);
        assert_eq!(timers.next(deadline_of), Some(at(30)));
        assert_eq!(timers.pop_due(at(30), deadline_of), Some(0));
    }

    #[test]
    fn a_deadline_that_moved_forward_comes_up_early() {
        let mut timers = Timers::default();
        timers.schedule(0, Some(at(100)));
        timers.schedule(0, Some(at(10)));
        assert_eq!(timers.pop_due(at(10), |_| Some(at(10))), Some(0));
        timers.schedule(0, Some(at(200)));
        assert_eq!(timers.pop_due(at(100), |_| Some(at(200))), None);
        assert_eq!(timers.next(|_| Some(at(200))), Some(at(200)));
    }

    #[test]
    fn a_group_without_a_deadline_has_no_place() {
        let mut timers = Timers::default();
        timers.schedule(0, Some(at(10)));
        assert_eq!(timers.next(|_| None), None);
        assert_eq!(timers.pop_due(at(50), |_| None), None);
    }
}
