//! One group's log, as the index and the recovery see it.

use super::{Pins, Spans};
use crate::Lsn;
use crate::format::record::Extent;
use crate::format::state::{GroupState, InstalledSnapshot, Removal};
use pontoon_types::{HardState, LogIndex, LogPosition, ReplicaId, Term, mutant};
use std::collections::VecDeque;

/// What the log knows of a group.
///
/// Invariant: `first == compacted.index + 1` and `last.index + 1 == first + positions.len()`; between what
/// is compacted and the end, nothing is missing. Only a group that recovery found damaged may start
/// later.
///
/// What an append looks at comes first: two cache lines, which processors fetch together.
#[derive(Clone, Debug)]
#[repr(C, align(128))]
pub(crate) struct GroupLog {
    /// The group's newest record, checkpoints aside.
    pub(crate) link: Lsn,
    /// The index of the first entry in `positions`.
    first: u64,
    pub(crate) last: LogPosition,
    positions: VecDeque<Lsn>,
    spans: Spans,
    /// Whether it is listed among the groups that take more than their quota.
    pub(crate) listed: bool,
    /// Whether something that was durable is lost, or cannot be proven not to be.
    pub(crate) damaged: bool,
    /// The last installed snapshot, until a compaction says that nobody needs its payload any more. Boxed,
    /// because hardly any group has one.
    pub(crate) installed: Option<Box<InstalledSnapshot>>,
    pub(crate) removed: Option<Removal>,
    pub(crate) hard_state: HardState,
    pub(crate) compacted: LogPosition,
    /// Where runs of one term start, ascending.
    terms: VecDeque<(u64, Term)>,
}

const _: () = assert!(std::mem::offset_of!(GroupLog, damaged) < 128);

/// Whether an entry follows its group's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sequenced {
    Yes,
    No,
}

impl Default for GroupLog {
    /// A group that the log has not met before: its first entry will have index 1.
    fn default() -> Self {
        Self {
            hard_state: HardState::default(),
            compacted: LogPosition::ZERO,
            last: LogPosition::ZERO,
            link: Lsn::ZERO,
            damaged: false,
            installed: None,
            removed: None,
            first: 1,
            positions: VecDeque::new(),
            terms: VecDeque::new(),
            spans: Spans::default(),
            listed: false,
        }
    }
}

impl GroupLog {
    /// A log that starts behind `compacted`, or at `first` if entries before that are lost.
    pub(crate) fn starting_at(first: LogIndex, compacted: LogPosition) -> Self {
        Self {
            compacted,
            last: if first.previous() == Some(compacted.index) {
                compacted
            } else {
                LogPosition {
                    term: Term::ZERO,
                    index: LogIndex(first.0.saturating_sub(1)),
                }
            },
            first: first.0,
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

    /// All that a checkpoint says.
    pub(crate) fn state(&self) -> GroupState {
        GroupState {
            hard_state: self.hard_state,
            extent: self.extent(),
            damaged: self.damaged,
            removed: self.removed,
            installed: self.installed.as_deref().cloned(),
        }
    }

    /// How many bytes that takes.
    pub(crate) fn state_bytes(&self) -> usize {
        GroupState::encoded_len(self.removed.as_ref(), self.installed.as_deref())
    }

    /// Something of what an append needs, so that it comes into the processor's cache.
    #[inline]
    pub(crate) fn touch(&self) -> u64 {
        self.link.0 ^ self.spans.bytes()
    }

    /// The same of where the append's position will be noted.
    #[inline]
    pub(crate) fn touch_end(&self) -> u64 {
        self.positions.back().map_or(0, |at| at.0)
    }

    pub(crate) fn len(&self) -> usize {
        self.positions.len()
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

    /// What the entries take in the log.
    pub(crate) const fn bytes(&self) -> u64 {
        self.spans.bytes()
    }

    /// What the entries take in each segment.
    pub(crate) fn bytes_by_segment(&self) -> impl Iterator<Item = (u32, u64)> {
        self.spans.by_segment()
    }

    /// Where the entries are that lie in a segment.
    pub(crate) fn entries_in(&self, segment: u32) -> impl Iterator<Item = (LogIndex, Lsn)> {
        let ranges = self.spans.ranges_in(segment, self.end());
        ranges.flatten().filter_map(|index| {
            let index = LogIndex(index);
            Some((index, self.position_of(index)?))
        })
    }

    const fn end(&self) -> u64 {
        self.last.index.0 + 1
    }

    /// Adds an entry of so many bytes and cuts what was at its index and above (Raft §5.3).
    pub(crate) fn append(
        &mut self,
        position: LogPosition,
        at: Lsn,
        bytes: u64,
        pins: &mut Pins,
    ) -> Sequenced {
        let index = position.index.0;
        if index < self.first || index > self.last.index.0 + 1 {
            return Sequenced::No;
        }
        self.cut_from(index, pins);
        // Where the last entry's run goes on, as nearly always, the runs themselves are left alone.
        let follows = index == self.last.index.0 + 1 && !self.positions.is_empty();
        if !(follows && position.term == self.last.term) {
            self.begin_run(index, position.term);
        }
        self.positions.push_back(at);
        self.spans.push(index, at.generation(), bytes, pins);
        self.last = position;
        Sequenced::Yes
    }

    fn begin_run(&mut self, index: u64, term: Term) {
        if self.terms.back().is_none_or(|(_, last)| *last != term) {
            self.terms.push_back((index, term));
        }
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
        self.spans.cut_from(index, self.end(), pins);
    }

    /// Whether the entry at `index` is the one at `from`. A copy of another, whose place was taken meanwhile, means nothing.
    pub(crate) fn holds(&self, index: LogIndex, from: Lsn) -> bool {
        let position = self.position_of(index);
        position.is_some_and(|at| at == from || mutant!(RewriteOutranks))
    }

    /// Takes it that the entry at `index`, which it holds, has been written again at `to`.
    pub(crate) fn rewrite(&mut self, index: LogIndex, to: Lsn, bytes: u64, pins: &mut Pins) {
        let end = self.end();
        let at = index.0.checked_sub(self.first);
        let position = at.and_then(|at| self.positions.get_mut(at as usize));
        *position.expect("what is written again is held") = to;
        self.spans
            .relocate(index.0, end, to.generation(), bytes, pins);
    }

    /// Forgets the entries up to `up_to`; all of them if it is beyond the log or of another history.
    pub(crate) fn compact(&mut self, up_to: LogPosition, pins: &mut Pins) {
        self.installed
            .take_if(|installed| installed.last.index <= up_to.index);
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

    /// Replaces the log by a snapshot.
    pub(crate) fn install(&mut self, snapshot: InstalledSnapshot, pins: &mut Pins) {
        self.clear(snapshot.last, pins);
        self.compacted = snapshot.last;
        self.installed = Some(Box::new(snapshot));
    }

    /// Forgets everything but that the replica is gone.
    pub(crate) fn remove(&mut self, replica: ReplicaId, at: Lsn, pins: &mut Pins) {
        self.clear(LogPosition::ZERO, pins);
        *self = Self {
            link: self.link,
            listed: self.listed,
            removed: Some(Removal::of(self.removed, replica, at)),
            ..Self::default()
        };
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
        self.spans.forget_below(index, self.end(), pins);
        // A burst must not hold its memory for ever.
        if self.positions.capacity() > 64 && self.positions.len() < self.positions.capacity() / 4 {
            self.positions.shrink_to(2 * self.positions.len());
        }
    }

    /// Empties the log, which then ends at `last`.
    fn clear(&mut self, last: LogPosition, pins: &mut Pins) {
        self.spans.clear(pins);
        self.positions = VecDeque::new();
        self.terms.clear();
        self.first = last.index.0 + 1;
        self.last = last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, index: u64) -> LogPosition {
        LogPosition {
            term: Term(term),
            index: LogIndex(index),
        }
    }

    /// Entries 1..=9 of term 1, three in each of the segments 1, 2 and 3.
    fn three_segments(pins: &mut Pins) -> GroupLog {
        let mut group = GroupLog::default();
        for index in 1..=9 {
            let lsn = Lsn::new((index as u32 - 1) / 3 + 1, 64 * index as u32);
            assert_eq!(group.append(at(1, index), lsn, 64, pins), Sequenced::Yes);
        }
        group
    }

    fn held(pins: &Pins) -> Vec<u32> {
        (0..9).filter(|segment| pins.holds(*segment)).collect()
    }

    #[test]
    fn a_compaction_lets_go_of_segments_without_a_needed_entry() {
        let mut pins = Pins::default();
        let mut group = three_segments(&mut pins);
        group.compact(at(1, 2), &mut pins);
        assert_eq!(held(&pins), [1, 2, 3]);
        group.compact(at(1, 3), &mut pins);
        assert_eq!((held(&pins), group.first()), (vec![2, 3], LogIndex(4)));
        assert_eq!(group.position_of(LogIndex(3)), None);
        assert_eq!(group.position_of(LogIndex(4)), Some(Lsn::new(2, 256)));
        group.compact(at(1, 9), &mut pins);
        assert_eq!((held(&pins), group.len()), (vec![], 0));
        assert_eq!(group.last, at(1, 9));
    }

    #[test]
    fn an_entry_cuts_what_was_at_its_index_and_above() {
        let mut pins = Pins::default();
        let mut group = three_segments(&mut pins);
        let lsn = Lsn::new(4, 64);
        assert_eq!(group.append(at(2, 5), lsn, 64, &mut pins), Sequenced::Yes);
        assert_eq!(held(&pins), [1, 2, 4]);
        assert_eq!(
            group.terms(),
            [(LogIndex(1), Term(1)), (LogIndex(5), Term(2))]
        );
        assert_eq!(group.position_of(LogIndex(6)), None);
        assert_eq!(group.append(at(2, 7), lsn, 64, &mut pins), Sequenced::No);
    }

    #[test]
    fn a_compaction_beyond_the_log_or_of_another_history_empties_it() {
        for up_to in [at(3, 20), at(2, 5)] {
            let mut pins = Pins::default();
            let mut group = three_segments(&mut pins);
            group.compact(up_to, &mut pins);
            assert_eq!((held(&pins), group.len(), group.last), (vec![], 0, up_to));
            let next = at(3, up_to.index.0 + 1);
            assert_eq!(
                group.append(next, Lsn::new(5, 64), 64, &mut pins),
                Sequenced::Yes
            );
        }
    }

    #[test]
    fn a_rewritten_entry_moves_only_if_nothing_has_taken_its_place() {
        let mut pins = Pins::default();
        let mut group = three_segments(&mut pins);
        let rewrite = |group: &mut GroupLog, pins: &mut Pins, index: u32| {
            let from = Lsn::new((index - 1) / 3 + 1, 64 * index);
            let to = Lsn::new(8, 64 * index);
            let index = LogIndex(u64::from(index));
            let holds = group.holds(index, from);
            if holds {
                group.rewrite(index, to, 64, pins);
            }
            holds
        };
        assert!(rewrite(&mut group, &mut pins, 1) && rewrite(&mut group, &mut pins, 2));
        assert!(
            !rewrite(&mut group, &mut pins, 2),
            "it is not there any more"
        );
        assert_eq!(group.position_of(LogIndex(2)), Some(Lsn::new(8, 128)));
        assert_eq!((group.len(), group.last), (9, at(1, 9)), "nothing is cut");
        group.append(at(2, 5), Lsn::new(7, 64), 64, &mut pins);
        assert!(!rewrite(&mut group, &mut pins, 5), "a newer one is there");
        assert!(!rewrite(&mut group, &mut pins, 6), "it was cut");
        assert_eq!(group.position_of(LogIndex(5)), Some(Lsn::new(7, 64)));
        assert_eq!(group.last, at(2, 5));
    }
}
