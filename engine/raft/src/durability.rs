//! What of this replica's state is on its disk.
//!
//! The log is written in the background: several [`Persist`](crate::Persist)s may be on their way while
//! the protocol goes on, and by the time one is acknowledged a new leader may have replaced the very
//! entries it carried. An acknowledgement that was believed then would make a promise about entries that
//! the disk does not hold (the ABA of asynchronous appends). Therefore every one on its way is
//! remembered with the last index that it makes durable, and truncation clips that.

use crate::ready::AppendSequence;
use alloc::collections::VecDeque;
use core::hash::{Hash, Hasher};
use pontoon_types::{HardState, LogIndex, ReplicaId, Term, mutant};

#[derive(Clone, Copy, Debug)]
struct InFlight {
    sequence: AppendSequence,
    term: Term,
    vote: Option<ReplicaId>,
    /// Where the log that is durable with it ends, as far as it is still the log.
    last: LogIndex,
    must_sync: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Durability {
    /// The last one handed out.
    sequence: AppendSequence,
    in_flight: VecDeque<InFlight>,
    /// The hard state handed out last.
    offered: HardState,
    term: Term,
    vote: Option<ReplicaId>,
}

impl Durability {
    pub(crate) fn new(restored: HardState) -> Self {
        Self {
            sequence: AppendSequence(0),
            in_flight: VecDeque::new(),
            offered: restored,
            term: restored.term,
            vote: restored.vote,
        }
    }

    pub(crate) fn offered(&self) -> HardState {
        self.offered
    }

    /// Whether this term and vote are on the disk.
    pub(crate) fn covers(&self, term: Term, vote: Option<ReplicaId>) -> bool {
        self.term == term && self.vote == vote
    }

    /// Whether something on its way will be synced for its own sake.
    ///
    /// A bare commit hint is only handed out if this is false. Then whatever waits for "the last one
    /// handed out" waits for one that is synced: if nothing else was on its way, nothing waited.
    pub(crate) fn awaits_sync(&self) -> bool {
        self.in_flight.back().is_some_and(|one| one.must_sync)
    }

    /// Hands out the next one. `last` is the last index of the log that is durable with it.
    pub(crate) fn hand_out(
        &mut self,
        state: HardState,
        last: LogIndex,
        must_sync: bool,
    ) -> AppendSequence {
        self.sequence.0 += 1;
        self.offered = state;
        self.in_flight.push_back(InFlight {
            sequence: self.sequence,
            term: state.term,
            vote: state.vote,
            last,
            must_sync,
        });
        self.sequence
    }

    /// The log was truncated after `last`.
    pub(crate) fn clip(&mut self, last: LogIndex) {
        for one in self
            .in_flight
            .iter_mut()
            .filter(|_| !mutant!(BelievesLateSyncs))
        {
            one.last = one.last.min(last);
        }
    }

    /// Everything up to `sequence` is durable. Returns where the durable log ends, or `None` if that
    /// was known.
    pub(crate) fn acknowledge(&mut self, sequence: AppendSequence, term: Term) -> Option<LogIndex> {
        assert!(
            sequence <= self.sequence,
            "append {sequence} is durable, handed out up to {}",
            self.sequence
        );
        let mut last = None;
        while let Some(one) = self.in_flight.front()
            && one.sequence <= sequence
        {
            assert!(
                one.sequence < sequence || one.term == term,
                "append {sequence} of term {} acknowledged for term {term}",
                one.term
            );
            (self.term, self.vote) = (one.term, one.vote);
            last = Some(one.last);
            self.in_flight.pop_front();
        }
        last
    }
}

/// Numbers only name what is on its way: what it is, and in which order, tells two of these apart.
impl Hash for Durability {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Self {
            sequence: _,
            in_flight,
            offered,
            term,
            vote,
        } = self;
        (in_flight.len(), offered, term, vote).hash(hasher);
        for one in in_flight {
            (one.term, one.vote, one.last, one.must_sync).hash(hasher);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(term: u64) -> HardState {
        HardState {
            term: Term(term),
            ..HardState::default()
        }
    }

    #[test]
    fn a_late_acknowledgement_does_not_cover_what_was_replaced_since() {
        let mut durability = Durability::new(HardState::default());
        let first = durability.hand_out(state(1), LogIndex(10), true);
        durability.clip(LogIndex(5));
        let second = durability.hand_out(state(2), LogIndex(8), true);
        assert_eq!(durability.acknowledge(first, Term(1)), Some(LogIndex(5)));
        assert!(!durability.covers(Term(2), None));
        assert_eq!(durability.acknowledge(second, Term(2)), Some(LogIndex(8)));
        assert!(durability.covers(Term(2), None));
        assert_eq!(durability.acknowledge(second, Term(2)), None);
    }

    #[test]
    #[should_panic(expected = "handed out up to 0")]
    fn what_was_never_handed_out_cannot_be_durable() {
        Durability::new(HardState::default()).acknowledge(AppendSequence(1), Term(0));
    }
}
