//! One group's log, as the index and the recovery see it.

use super::Pins;
use crate::Lsn;
use crate::format::record::Extent;
use pontoon_types::{HardState, LogIndex, LogPosition, Term};
use std::collections::VecDeque;

/// What the log knows of a group.
///
/// Invariant: `last.index + 1 == first + positions.len()`. Outside recovery also
/// `first == compacted.index + 1`: between what is compacted and the end, nothing is missing.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupLog {
    pub(crate) hard_state: HardState,
    pub(crate) compacted: LogPosition,
    pub(crate) last: LogPosition,
    /// The group's newest record.
    pub(crate) link: Lsn,
    /// Whether something that was durable is lost, or cannot be proven not to be.
    pub(crate) damaged: bool,
    /// The index of the first entry in `positions`.
    first: u64,
    positions: VecDeque<Lsn>,
    /// Where runs of one term start, ascending.
    terms: VecDeque<(u64, Term)>,
    /// Where runs of one segment start, ascending. Each holds a pin on its segment.
    spans: VecDeque<(u32, u64)>,
}

/// Whether an entry follows its group's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sequenced {
    Yes,
    No,
}

impl GroupLog {
    pub(crate) fn new() -> Self {
        Self {
            first: 1,
            ..Self::default()
        }
    }

    /// The first index that is held, or would be.
    pub(crate) const fn first(&self) -> LogIndex {
        LogIndex(self.first)
    }

    pub(crate) const fn extent(&self) -> Extent {
        Extent {
            compacted: self.compacted,
            last: self.last,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether entries between what is compacted and the first one held are missing.
    pub(crate) const fn has_gap(&self) -> bool {
        self.first != self.compacted.index.0 + 1
    }

    pub(crate) fn position_of(&self, index: LogIndex) -> Option<Lsn> {
        let at = index.0.checked_sub(self.first)?;
        self.positions.get(usize::try_from(at).ok()?).copied()
    }

    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.compacted.index {
            return Some(self.compacted.term);
        }
        if index.0 < self.first || index > self.last.index {
            return None;
        }
        let run = self.terms.partition_point(|(first, _)| *first <= index.0);
        self.terms.get(run.checked_sub(1)?).map(|(_, term)| *term)
    }

    pub(crate) fn terms(&self) -> Vec<(LogIndex, Term)> {
        let runs = self.terms.iter();
        runs.map(|(first, term)| (LogIndex(*first), *term))
            .collect()
    }

    /// Adds an entry and cuts what was at its index and above (Raft §5.3).
    pub(crate) fn append(&mut self, position: LogPosition, at: Lsn, pins: &mut Pins) -> Sequenced {
        let index = position.index.0;
        if index < self.first || index > self.last.index.0 + 1 {
            return Sequenced::No;
        }
        self.cut_from(index, pins);
        self.positions.push_back(at);
        if self
            .terms
            .back()
            .is_none_or(|(_, term)| *term != position.term)
        {
            self.terms.push_back((index, position.term));
        }
        let segment = at.generation();
        if self.spans.back().is_none_or(|(held, _)| *held != segment) {
            self.spans.push_back((segment, index));
            pins.add(segment);
        }
        self.last = position;
        Sequenced::Yes
    }

    /// Forgets the entries at `index` and above.
    fn cut_from(&mut self, index: u64, pins: &mut Pins) {
        if index > self.last.index.0 {
            return;
        }
        self.positions
            .truncate(index.saturating_sub(self.first) as usize);
        while self.terms.back().is_some_and(|(first, _)| *first >= index) {
            self.terms.pop_back();
        }
        while let Some((segment, first)) = self.spans.back()
            && *first >= index
        {
            pins.release(*segment);
            self.spans.pop_back();
        }
    }

    /// Forgets the entries up to `up_to`; all of them if it is beyond the log or of another history.
    pub(crate) fn compact(&mut self, up_to: LogPosition, pins: &mut Pins) {
        if up_to.index <= self.compacted.index {
            return;
        }
        if self.term_at(up_to.index) == Some(up_to.term) {
            self.forget_below(up_to.index.0 + 1, pins);
        } else {
            self.clear(up_to, pins);
        }
        self.compacted = up_to;
    }

    fn forget_below(&mut self, index: u64, pins: &mut Pins) {
        if index <= self.first {
            return;
        }
        let gone = ((index - self.first) as usize).min(self.positions.len());
        self.positions.drain(..gone);
        self.first = index;
        if self.positions.is_empty() {
            self.terms.clear();
        }
        while self.terms.get(1).is_some_and(|(first, _)| *first <= index) {
            self.terms.pop_front();
        }
        if let Some(run) = self.terms.front_mut() {
            run.0 = run.0.max(index);
        }
        while let Some((segment, _)) = self.spans.front()
            && (self.positions.is_empty()
                || self.spans.get(1).is_some_and(|(_, next)| *next <= index))
        {
            pins.release(*segment);
            self.spans.pop_front();
        }
        if let Some(span) = self.spans.front_mut() {
            span.1 = span.1.max(index);
        }
        // A burst must not hold its memory for ever.
        if self.positions.capacity() > 64 && self.positions.len() < self.positions.capacity() / 4 {
            self.positions.shrink_to(2 * self.positions.len());
        }
    }

    /// Empties the log, which then ends at `last`.
    fn clear(&mut self, last: LogPosition, pins: &mut Pins) {
        for (segment, _) in self.spans.drain(..) {
            pins.release(segment);
        }
        self.positions = VecDeque::new();
        self.terms.clear();
        self.first = last.index.0 + 1;
        self.last = last;
    }

    // Recovery: segments in which nothing was needed any more are gone, so entries may be missing that a
    // later record says are compacted. Until the end, a gap is only noted (`has_gap`).

    /// Like [`GroupLog::append`], over gaps.
    pub(crate) fn recover_entry(&mut self, position: LogPosition, at: Lsn, pins: &mut Pins) {
        let index = position.index.0;
        if index < self.first {
            // All that is held is above, and so of the past that this entry cuts.
            self.clear(
                LogPosition {
                    index: LogIndex(index.saturating_sub(1)),
                    term: Term::ZERO,
                },
                pins,
            );
        } else if index > self.last.index.0 + 1 {
            self.clear(
                LogPosition {
                    index: LogIndex(index - 1),
                    term: Term::ZERO,
                },
                pins,
            );
        }
        let sequenced = self.append(position, at, pins);
        debug_assert_eq!(sequenced, Sequenced::Yes);
    }

    /// Where the log starts and ends, as a compaction or a checkpoint says it.
    pub(crate) fn recover_extent(&mut self, extent: &Extent, pins: &mut Pins) {
        if extent.compacted.index > self.compacted.index {
            self.compacted = extent.compacted;
        }
        if self.first <= self.compacted.index.0 {
            if self.last.index >= self.compacted.index {
                self.forget_below(self.compacted.index.0 + 1, pins);
            } else {
                self.clear(self.compacted, pins);
            }
        }
        let last = extent.last;
        if self.last.index > last.index && last.index.0 + 1 >= self.first {
            self.cut_from(last.index.0 + 1, pins);
            self.last = LogPosition {
                index: last.index,
                term: self.term_at(last.index).unwrap_or(last.term),
            };
        }
        // Entries that it speaks of are missing, or those here are of a history that was cut.
        if self.last != last {
            self.clear(last, pins);
        }
    }
}
