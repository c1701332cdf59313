//! S3: the log of a leader holds every entry that was committed in an earlier term (Raft §5.4).
//!
//! A candidate may learn late that it was elected, when a later leader has committed more already: that it
//! need not have. So with every entry goes the latest term that anyone led when it was first applied; it
//! was committed in that term or before.

use super::{Checked, Invariant, Violation};
use crate::shadow::{ShadowLog, Stamp};
use pontoon_types::{Entry, GroupId, LogIndex, ReplicaId, Term};
use std::collections::BTreeMap;

/// What was committed, and in which term at the latest.
#[derive(Debug, Default)]
pub struct LeaderCompleteness {
    /// By group; index 1 is first.
    committed: BTreeMap<GroupId, Vec<(Stamp, Term)>>,
}

impl LeaderCompleteness {
    /// An entry is applied, so it is committed; `latest` is the latest term of the group that was led so far.
    pub fn applied(&mut self, entry: &Entry, latest: Term) {
        let log = self.committed.entry(entry.group()).or_default();
        if entry.index().0 == log.len() as u64 + 1 {
            log.push((Stamp::of(entry), latest));
        }
    }

    /// A replica has been seen to lead `term` for the first time; `log` is what it holds.
    ///
    /// # Errors
    /// Names the first entry committed before its term that is missing, or another one.
    pub fn elected(
        &self,
        group: GroupId,
        term: Term,
        leader: ReplicaId,
        log: &ShadowLog,
    ) -> Checked {
        let committed = self.committed.get(&group).into_iter().flatten();
        // What is compacted was applied by this replica, and is compared there (S4).
        let held = log.compacted.index.0;
        for (index, (expected, latest)) in (1..).zip(committed).skip(held as usize) {
            if *latest >= term {
                break; // The later ones were committed no earlier.
            }
            let found = log.stamp_at(LogIndex(index));
            if found != Some(*expected) {
                let what = format!(
                    "group {group}: replica {leader} leads term {term}, but where {expected:x?} was committed at \
                     index {index} by term {latest}, its log has {found:x?}"
                );
                return Err(Violation::new(Invariant::S3, what));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::broken;
    use crate::shadow::ShadowRecord;
    use pontoon_types::EntryKind;

    const GROUP: GroupId = GroupId(1);

    fn entry(index: u64, payload: &[u8]) -> Entry {
        Entry::encode(GROUP, Term(1), LogIndex(index), EntryKind::Command, payload)
    }

    #[test]
    fn a_leader_without_a_committed_entry_is_found() {
        let mut checker = LeaderCompleteness::default();
        let mut log = ShadowLog::default();
        for index in 1..=2 {
            let entry = entry(index, b"committed");
            checker.applied(&entry, Term(1));
            log.take(&ShadowRecord::Entry(LogIndex(index), Stamp::of(&entry)));
        }
        let check = |log: &ShadowLog| checker.elected(GROUP, Term(2), ReplicaId(2), log);
        assert_eq!(check(&log), Ok(()));
        let mut other = log.clone();
        let stamp = Stamp::of(&entry(2, b"another"));
        other.take(&ShadowRecord::Entry(LogIndex(2), stamp));
        assert_eq!(broken(&check(&other)), Invariant::S3);
        log.entries.pop_back();
        assert_eq!(broken(&check(&log)), Invariant::S3);
    }

    #[test]
    fn a_leader_that_learns_late_need_not_hold_what_a_later_one_committed() {
        let mut checker = LeaderCompleteness::default();
        checker.applied(&entry(1, b"committed by term 3"), Term(3));
        let (log, leader) = (ShadowLog::default(), ReplicaId(2));
        assert_eq!(checker.elected(GROUP, Term(2), leader, &log), Ok(()));
        let missing = checker.elected(GROUP, Term(4), leader, &log);
        assert_eq!(broken(&missing), Invariant::S3);
    }
}
