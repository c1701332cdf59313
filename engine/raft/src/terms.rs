//! The terms of a log, as runs: all that elections and matching ever ask of it.
//!
//! A log of a million entries has about as many runs as there were elections, so this stays in memory
//! when the entries do not, and every question is a binary search.

use alloc::collections::VecDeque;
use pontoon_types::{LogIndex, LogPosition, Term};

/// Consecutive entries of one term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Run {
    first: LogIndex,
    term: Term,
}

/// The positions of a log: which indexes there are, and the term at each.
///
/// Invariants: runs ascend strictly in index and in term; the first begins right after `compacted`;
/// there are none exactly if `last == compacted.index`.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Terms {
    compacted: LogPosition,
    runs: VecDeque<Run>,
    last: LogIndex,
}

impl Terms {
    /// The runs must have been checked; see [`Restored`](crate::Restored).
    pub(crate) fn new(compacted: LogPosition, runs: &[(LogIndex, Term)], last: LogIndex) -> Self {
        let runs = runs.iter().map(|&(first, term)| Run { first, term });
        Self {
            compacted,
            runs: runs.collect(),
            last,
        }
    }

    pub(crate) fn compacted(&self) -> LogPosition {
        self.compacted
    }

    pub(crate) fn last(&self) -> LogPosition {
        LogPosition {
            term: self.runs.back().map_or(self.compacted.term, |run| run.term),
            index: self.last,
        }
    }

    /// The term at `index`, if it is the last compacted one or one of the log's.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.compacted.index {
            return Some(self.compacted.term);
        }
        if index < self.compacted.index || index > self.last {
            return None;
        }
        // Nearly every question is about the end of the log.
        match self.runs.back() {
            Some(run) if run.first <= index => Some(run.term),
            _ => {
                let after = self.runs.partition_point(|run| run.first <= index);
                self.runs.get(after.checked_sub(1)?).map(|run| run.term)
            }
        }
    }

    /// The last position at or before `index` whose term is not above `term`: the furthest point where
    /// a log with `term` at `index` can agree with this one. Both sides of a conflict skip whole terms
    /// with it, which bounds the rejections by the number of terms.
    pub(crate) fn last_within(&self, index: LogIndex, term: Term) -> LogPosition {
        let index = index.min(self.last);
        let after = self
            .runs
            .partition_point(|run| run.first <= index && run.term <= term);
        let Some(run) = after.checked_sub(1).and_then(|at| self.runs.get(at)) else {
            let index = index.min(self.compacted.index);
            let term = self.term_at(index).unwrap_or(Term::ZERO);
            return LogPosition { term, index };
        };
        let end = match self.runs.get(after).and_then(|next| next.first.previous()) {
            Some(end) => end.min(index),
            None => index,
        };
        LogPosition {
            term: run.term,
            index: end,
        }
    }

    /// Adds an entry of `term` after the last.
    pub(crate) fn push(&mut self, term: Term) {
        let last = self.last();
        assert!(
            term >= last.term,
            "appending term {term} after term {}",
            last.term
        );
        self.last = self.last.next();
        if self.runs.back().is_none_or(|run| run.term != term) {
            let first = self.last;
            self.runs.push_back(Run { first, term });
        }
    }

    /// Removes everything after `last`.
    pub(crate) fn truncate_after(&mut self, last: LogIndex) {
        assert!(
            last >= self.compacted.index,
            "truncating at {last}, compacted to {}",
            self.compacted.index
        );
        self.last = self.last.min(last);
        while self.runs.back().is_some_and(|run| run.first > last) {
            self.runs.pop_back();
        }
    }

    /// Forgets everything up to `index`, which is in the log.
    pub(crate) fn compact(&mut self, index: LogIndex) {
        let Some(term) = self.term_at(index) else {
            return;
        };
        self.compacted = LogPosition { term, index };
        while self
            .runs
            .get(1)
            .is_some_and(|run| run.first.0 <= index.0 + 1)
        {
            self.runs.pop_front();
        }
        if index == self.last {
            self.runs.clear();
        } else if let Some(run) = self.runs.front_mut() {
            run.first = run.first.max(index.next());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn position(term: u64, index: u64) -> LogPosition {
        LogPosition {
            term: Term(term),
            index: LogIndex(index),
        }
    }

    #[test]
    fn the_last_position_within_a_term_skips_newer_runs() {
        let runs = [(1, 1), (4, 4), (6, 5), (8, 6)].map(|(i, t)| (LogIndex(i), Term(t)));
        let terms = Terms::new(LogPosition::ZERO, &runs, LogIndex(10));
        for (index, term, expected) in [
            (10, 6, position(6, 10)),
            (99, 9, position(6, 10)),
            (10, 5, position(5, 7)),
            (6, 5, position(5, 6)),
            (10, 3, position(1, 3)),
            (2, 3, position(1, 2)),
            (10, 0, position(0, 0)),
        ] {
            let found = terms.last_within(LogIndex(index), Term(term));
            assert_eq!(found, expected, "{term}/{index}");
        }
    }

    proptest! {
        /// Against the plain thing: a vector of terms.
        #[test]
        fn runs_answer_as_a_plain_list_does(
            steps in prop::collection::vec((0u64..3, 0u64..4, 0usize..40), 1..60)
        ) {
            let mut terms = Terms::new(LogPosition::ZERO, &[], LogIndex::ZERO);
            let mut model: Vec<u64> = Vec::from([0]);
            let mut compacted = 0usize;
            for (action, rise, at) in steps {
                match action {
                    0 | 1 => {
                        let term = model.last().unwrap() + if action == 0 { rise } else { 0 };
                        let term = term.max(1);
                        model.push(term);
                        terms.push(Term(term));
                    }
                    _ if rise < 2 => {
                        let last = at.clamp(compacted, model.len() - 1);
                        model.truncate(last + 1);
                        terms.truncate_after(LogIndex(last as u64));
                    }
                    _ => {
                        compacted = at.clamp(compacted, model.len() - 1);
                        terms.compact(LogIndex(compacted as u64));
                    }
                }
                let last = model.len() - 1;
                prop_assert_eq!(terms.last(), position(model[last], last as u64));
                for index in 0..last + 3 {
                    let expected = model.get(index).filter(|_| index >= compacted);
                    let found = terms.term_at(LogIndex(index as u64));
                    prop_assert_eq!(found, expected.copied().map(Term));
                }
            }
        }
    }
}
