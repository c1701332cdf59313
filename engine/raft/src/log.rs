//! A replica's log as the protocol sees it: terms for all of it, entries for its end, and five marks.
//!
//! ```text
//! compacted <= applied <= applying <= min(commit, durable) ; commit <= last ; durable <= offered <= last
//! ```
//!
//! except between a snapshot's arrival and its being durable and in place: it moves `compacted`, `applying`
//! and `commit` at once, `durable` and `applied` follow.
//!
//! Entries are handles on shared bytes and are kept only from `first_cached` to the end of the log:
//! everything not yet durable or not yet committed, and beyond that as much as a setting allows. Older
//! ones are fetched from the log when somebody needs them.

use crate::message::Entries;
use crate::terms::Terms;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use pontoon_types::{Entry, EntryKind, LogIndex, LogPosition, Term, mutant};

#[derive(Clone, Debug, Hash)]
pub(crate) struct Log {
    terms: Terms,
    /// The last `cache.len()` entries of the log.
    cache: VecDeque<Entry>,
    cached_bytes: usize,
    /// Bytes of the cached entries above `commit`.
    uncommitted_bytes: usize,
    /// The last entry handed out to be persisted.
    offered: LogIndex,
    /// The last entry that is durable here, and everything before it as it is in this log.
    durable: LogIndex,
    commit: LogIndex,
    /// The last entry handed out to be applied.
    applying: LogIndex,
    applied: LogIndex,
    /// What is handed out and not yet applied: last index and bytes of every batch.
    apply_batches: VecDeque<(LogIndex, usize)>,
    applying_bytes: usize,
    /// The membership changes above `applied`, as far as their entries were seen in this life.
    changes: VecDeque<LogIndex>,
    /// Entries up to here were in the log at the start: any that is not applied may be a change.
    unseen: LogIndex,
}

/// What stands in the way of taking a leader's entry at or below the commit index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) index: LogIndex,
    pub(crate) ours: Term,
    pub(crate) theirs: Term,
}

impl Log {
    /// A log of checked runs, all of it durable and none of it in memory.
    pub(crate) fn new(
        compacted: LogPosition,
        runs: &[(LogIndex, Term)],
        last: LogIndex,
        commit: LogIndex,
        applied: LogIndex,
    ) -> Self {
        Self {
            terms: Terms::new(compacted, runs, last),
            cache: VecDeque::new(),
            cached_bytes: 0,
            uncommitted_bytes: 0,
            offered: last,
            durable: last,
            commit: commit.max(applied),
            applying: applied,
            applied,
            apply_batches: VecDeque::new(),
            applying_bytes: 0,
            changes: VecDeque::new(),
            unseen: last,
        }
    }

    pub(crate) fn compacted(&self) -> LogPosition {
        self.terms.compacted()
    }

    pub(crate) fn last(&self) -> LogPosition {
        self.terms.last()
    }

    pub(crate) fn last_index(&self) -> LogIndex {
        self.terms.last().index
    }

    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.terms.term_at(index)
    }

    pub(crate) fn last_within(&self, index: LogIndex, term: Term) -> LogPosition {
        self.terms.last_within(index, term)
    }

    pub(crate) fn durable(&self) -> LogIndex {
        self.durable
    }

    pub(crate) fn offered(&self) -> LogIndex {
        self.offered
    }

    pub(crate) fn commit(&self) -> LogIndex {
        self.commit
    }

    /// The position of the last entry known to be committed.
    pub(crate) fn committed(&self) -> LogPosition {
        let term = self.term_at(self.commit);
        LogPosition {
            term: term.expect("the commit index is not before the log, nor after it"),
            index: self.commit,
        }
    }

    pub(crate) fn applied(&self) -> LogIndex {
        self.applied
    }

    pub(crate) fn applying(&self) -> LogIndex {
        self.applying
    }

    pub(crate) fn uncommitted_bytes(&self) -> usize {
        self.uncommitted_bytes
    }

    pub(crate) fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }

    /// The first index from which all entries are in memory; past the end if none is.
    pub(crate) fn first_cached(&self) -> LogIndex {
        LogIndex(self.last_index().0 + 1 - self.cache.len() as u64)
    }

    /// Entries from `from` on that are in memory, up to `to` and `max_bytes`, but at least one if there
    /// is one. Appended to `out`; returns their bytes.
    pub(crate) fn copy_cached(
        &self,
        from: LogIndex,
        to: LogIndex,
        max_bytes: usize,
        out: &mut impl Extend<Entry>,
    ) -> usize {
        let first = self.first_cached();
        if from < first || from > to {
            return 0;
        }
        let start = ((from.0 - first.0) as usize).min(self.cache.len());
        let most = usize::try_from(to.0 - from.0 + 1).unwrap_or(usize::MAX);
        let (mut count, mut bytes) = (0, 0);
        for entry in self.cache.range(start..).take(most) {
            let after = bytes + entry.encoded_len();
            if count > 0 && after > max_bytes {
                break;
            }
            (count, bytes) = (count + 1, after);
        }
        // Counted first, so that `out` grows once.
        out.extend(self.cache.range(start..start + count).cloned());
        bytes
    }

    /// Adds an entry right after the last.
    pub(crate) fn push(&mut self, entry: Entry) {
        let index = self.last_index().next();
        assert_eq!(
            entry.index(),
            index,
            "an entry that does not follow the last"
        );
        if entry.kind() == EntryKind::ConfChange {
            self.changes.push_back(index);
        }
        self.terms.push(entry.term());
        self.cached_bytes += entry.encoded_len();
        self.uncommitted_bytes += entry.encoded_len();
        self.cache.push_back(entry);
    }

    /// Checks a leader's consecutive entries after `previous` against what is committed here (S4).
    pub(crate) fn committed_conflict(
        &self,
        previous: LogPosition,
        entries: &[Entry],
    ) -> Option<Conflict> {
        let theirs = entries.iter().map(Entry::position);
        core::iter::once(previous)
            .chain(theirs)
            .take_while(|position| position.index <= self.commit)
            .find_map(|position| {
                let ours = self.term_at(position.index)?;
                (ours != position.term).then_some(Conflict {
                    index: position.index,
                    ours,
                    theirs: position.term,
                })
            })
    }

    /// Takes a leader's consecutive entries, the first of which follows an entry that both logs hold.
    /// Skips those that are here already; only a real conflict truncates, so that a late or short
    /// Append never shortens a longer log (Raft figure 2, "receiver implementation" 3 and 4).
    ///
    /// Returns the index after which entries were removed, if any were.
    pub(crate) fn merge(&mut self, entries: Entries) -> Option<LogIndex> {
        let mut removed_after = None;
        let mut here = true;
        for entry in entries {
            if here && self.term_at(entry.index()) == Some(entry.term()) {
                continue;
            }
            if here && entry.index() <= self.last_index() {
                if mutant!(KeepsConflicts) {
                    continue;
                }
                let last = LogIndex(entry.index().0 - 1);
                self.truncate_after(last);
                removed_after = Some(last);
            }
            here = false;
            self.push(entry);
        }
        if here && mutant!(ShortAppendsTruncate) && self.commit < self.last_index() {
            self.truncate_after(self.commit);
            removed_after = Some(self.commit);
        }
        removed_after
    }

    fn truncate_after(&mut self, last: LogIndex) {
        assert!(
            last >= self.commit,
            "truncating after {last}, committed to {}",
            self.commit
        );
        while self.last_index() > last && !self.cache.is_empty() {
            if let Some(entry) = self.cache.pop_back() {
                self.cached_bytes -= entry.encoded_len();
                self.uncommitted_bytes -= entry.encoded_len();
                self.terms.truncate_after(LogIndex(entry.index().0 - 1));
            }
        }
        self.terms.truncate_after(last);
        self.offered = self.offered.min(last);
        self.durable = self.durable.min(last);
        self.unseen = self.unseen.min(last);
        while self.changes.back().is_some_and(|index| *index > last) {
            self.changes.pop_back();
        }
    }

    /// The first entry up to `index` that is not applied and is a membership change, or may be one
    /// because nobody has looked at it since the start.
    pub(crate) fn first_change(&self, index: LogIndex) -> Option<LogIndex> {
        let unseen = (self.applied < self.unseen).then(|| self.applied.next());
        let first = unseen.or_else(|| self.changes.front().copied())?;
        (first <= index).then_some(first)
    }

    /// A snapshot that ends at `last`, beyond what is committed here, takes the place of all entries.
    /// It counts as handed out, to be persisted and to be applied, and as durable once it is.
    pub(crate) fn restore(&mut self, last: LogPosition) {
        assert!(
            last.index > self.commit,
            "a snapshot at {}, committed to {}",
            last.index,
            self.commit
        );
        // What is durable of the old log is what the snapshot's history begins with, as far as it is
        // committed.
        self.durable = self.durable.min(self.commit);
        self.terms = Terms::new(last, &[], last.index);
        self.cache.clear();
        (self.cached_bytes, self.uncommitted_bytes) = (0, 0);
        self.apply_batches.clear();
        self.applying_bytes = 0;
        self.changes.clear();
        self.unseen = LogIndex::ZERO;
        (self.offered, self.commit, self.applying) = (last.index, last.index, last.index);
    }

    /// Hands out what was not handed out before.
    pub(crate) fn offer(&mut self, out: &mut Vec<Entry>) {
        let last = self.last_index();
        let count = (last.0 - self.offered.0) as usize;
        out.extend(self.cache.range(self.cache.len() - count..).cloned());
        self.offered = last;
    }

    /// The log as it is now is durable up to `index`.
    pub(crate) fn durable_to(&mut self, index: LogIndex) {
        assert!(
            index <= self.offered,
            "durable to {index}, handed out to {}",
            self.offered
        );
        self.durable = self.durable.max(index);
    }

    /// Raises the commit index. Returns whether it moved.
    pub(crate) fn commit_to(&mut self, index: LogIndex) -> bool {
        if index <= self.commit {
            return false;
        }
        let last = self.last_index();
        assert!(index <= last, "committing {index}, the log ends at {last}");
        let first = self.first_cached();
        let from = LogIndex(self.commit.0 + 1).max(first);
        if from <= index {
            let range = (from.0 - first.0) as usize..=(index.0 - first.0) as usize;
            let bytes: usize = self.cache.range(range).map(Entry::encoded_len).sum();
            self.uncommitted_bytes -= bytes;
        }
        self.commit = index;
        true
    }

    /// The last entry that may be applied: only what is committed and durable here.
    pub(crate) fn appliable(&self) -> LogIndex {
        if mutant!(AppliesUnsynced) {
            return self.commit;
        }
        self.commit.min(self.durable)
    }

    /// Whether the applier has as much to do as it may have: twice a batch.
    pub(crate) fn applier_is_full(&self, max_batch_bytes: usize) -> bool {
        self.applying_bytes >= max_batch_bytes.saturating_mul(2)
    }

    /// Records that a batch that ends at `last` was handed out to be applied.
    pub(crate) fn hand_out(&mut self, last: LogIndex, bytes: usize) {
        assert!(
            last > self.applying && last <= self.appliable(),
            "handing out {last} after {} within {}",
            self.applying,
            self.appliable()
        );
        self.applying = last;
        self.applying_bytes += bytes;
        self.apply_batches.push_back((last, bytes));
    }

    pub(crate) fn applied_to(&mut self, index: LogIndex) {
        assert!(
            index <= self.applying && index <= self.durable,
            "applied {index}, handed out to {}, durable to {}",
            self.applying,
            self.durable
        );
        self.applied = self.applied.max(index);
        while self.changes.front().is_some_and(|at| *at <= index) {
            self.changes.pop_front();
        }
        while let Some(&(last, bytes)) = self.apply_batches.front()
            && last <= self.applied
        {
            self.applying_bytes -= bytes;
            self.apply_batches.pop_front();
        }
    }

    /// Lets go of entries at the front of the cache. Applied ones go up to `needless`, and above `soft_bytes`; committed
    /// ones that a slow applier still needs go above `hard_bytes`, to be fetched again. What is not durable
    /// or not committed stays: it is bounded by the leader's limit on uncommitted bytes.
    pub(crate) fn evict(&mut self, needless: LogIndex, soft_bytes: usize, hard_bytes: usize) {
        loop {
            let limit = if self.cached_bytes > hard_bytes {
                self.appliable()
            } else if self.cached_bytes > soft_bytes {
                self.applied.min(self.durable)
            } else {
                self.applied.min(self.durable).min(needless)
            };
            match self.cache.front() {
                Some(entry) if entry.index() <= limit => {
                    self.cached_bytes -= entry.encoded_len();
                    self.cache.pop_front();
                }
                _ => break,
            }
        }
    }

    /// Forgets everything up to `index`, or up to what is applied if that is less.
    pub(crate) fn compact(&mut self, index: LogIndex) {
        let applied = if mutant!(CompactsUnapplied) {
            self.commit
        } else {
            self.applied
        };
        let index = index.min(applied).min(self.durable);
        if index <= self.compacted().index {
            return;
        }
        self.terms.compact(index);
        while let Some(entry) = self.cache.front()
            && entry.index() <= index
        {
            self.cached_bytes -= entry.encoded_len();
            self.cache.pop_front();
        }
    }

    /// Whether these are entries of this log, in order, the first at `from`, none after `to`.
    pub(crate) fn holds(&self, entries: &[Entry], from: LogIndex, to: LogIndex) -> bool {
        (from.0..).zip(entries).all(|(index, entry)| {
            entry.index() == LogIndex(index)
                && entry.index() <= to
                && self.term_at(entry.index()) == Some(entry.term())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_types::{EntryKind, GroupId};

    fn entry(term: u64, index: u64) -> Entry {
        let (term, index) = (Term(term), LogIndex(index));
        Entry::encode(GroupId(1), term, index, EntryKind::Command, b"x")
    }

    fn log_of(terms: &[u64]) -> Log {
        let mut log = Log::new(
            LogPosition::ZERO,
            &[],
            LogIndex::ZERO,
            LogIndex::ZERO,
            LogIndex::ZERO,
        );
        for (at, &term) in terms.iter().enumerate() {
            log.push(entry(term, at as u64 + 1));
        }
        log
    }

    #[test]
    fn a_shorter_append_never_shortens_a_matching_log() {
        let mut log = log_of(&[1, 1, 1]);
        assert_eq!(
            log.merge([entry(1, 1), entry(1, 2)].into_iter().collect()),
            None
        );
        assert_eq!(log.last_index(), LogIndex(3));
    }

    #[test]
    fn a_conflict_replaces_the_tail_and_takes_durability_back() {
        let mut log = log_of(&[1, 1, 1, 1]);
        log.offer(&mut Vec::new());
        log.durable_to(LogIndex(4));
        let bytes = entry(1, 1).encoded_len();
        let removed = log.merge([entry(1, 2), entry(2, 3)].into_iter().collect());
        assert_eq!(removed, Some(LogIndex(2)));
        assert_eq!(log.last_index(), LogIndex(3));
        assert_eq!(log.durable(), LogIndex(2));
        assert_eq!(
            (log.uncommitted_bytes(), log.cached_bytes()),
            (3 * bytes, 3 * bytes)
        );
        let mut offered = Vec::new();
        log.offer(&mut offered);
        assert_eq!(offered, [entry(2, 3)]);
    }

    #[test]
    fn the_cache_lets_go_only_of_what_can_be_fetched_again() {
        let mut log = log_of(&[1, 1, 1, 1]);
        log.offer(&mut Vec::new());
        log.evict(LogIndex(0), 0, 0);
        assert_eq!(log.first_cached(), LogIndex(1));
        log.durable_to(LogIndex(3));
        log.commit_to(LogIndex(4));
        log.hand_out(LogIndex(2), 0);
        log.applied_to(LogIndex(1));
        log.evict(LogIndex(0), usize::MAX, usize::MAX);
        assert_eq!(log.first_cached(), LogIndex(1));
        log.evict(LogIndex(4), usize::MAX, usize::MAX);
        assert_eq!(log.first_cached(), LogIndex(2));
        log.evict(LogIndex(0), 0, 0);
        assert_eq!(log.first_cached(), LogIndex(4));
        assert_eq!(log.uncommitted_bytes(), 0);
    }

    #[test]
    fn a_change_that_was_replaced_is_none_any_more() {
        let mut log = log_of(&[1, 1]);
        let (term, index) = (Term(1), LogIndex(3));
        let kind = EntryKind::ConfChange;
        log.push(Entry::encode(GroupId(1), term, index, kind, b"x"));
        assert_eq!(log.first_change(LogIndex(3)), Some(LogIndex(3)));
        assert_eq!(log.first_change(LogIndex(2)), None);
        log.merge([entry(2, 3)].into());
        assert_eq!(log.first_change(LogIndex(3)), None);
    }

    #[test]
    #[should_panic(expected = "durable to 1")]
    fn a_snapshot_is_not_applied_before_it_is_durable() {
        let mut log = log_of(&[1]);
        log.offer(&mut Vec::new());
        log.durable_to(LogIndex(1));
        log.commit_to(LogIndex(1));
        let (term, index) = (Term(2), LogIndex(9));
        log.restore(LogPosition { term, index });
        log.applied_to(LogIndex(9));
    }

    #[test]
    fn compaction_keeps_the_term_at_its_end() {
        let mut log = log_of(&[1, 2, 2, 3]);
        log.offer(&mut Vec::new());
        log.durable_to(LogIndex(4));
        log.commit_to(LogIndex(4));
        log.hand_out(LogIndex(3), 0);
        log.applied_to(LogIndex(3));
        log.compact(LogIndex(9));
        assert_eq!(log.compacted().index, LogIndex(3));
        assert_eq!(log.term_at(LogIndex(3)), Some(Term(2)));
        assert_eq!(log.term_at(LogIndex(2)), None);
        assert_eq!(log.term_at(LogIndex(4)), Some(Term(3)));
    }
}
