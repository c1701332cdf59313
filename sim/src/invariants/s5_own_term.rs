//! S5: a leader commits by counting only entries of its own term (Raft §5.4.2, figure 8).
//!
//! A leader tells its commit index in every append. What it says first is what it knew when it was
//! elected; whenever it says more, it has counted, and the index must be one of an entry of its term.

use super::{Checked, Invariant, Violation};
use crate::shadow::ShadowLog;
use pontoon_types::{GroupId, LogIndex, Term};
use std::collections::BTreeMap;

/// The commit index that each leader has told.
#[derive(Debug, Default)]
pub struct OwnTermCommit {
    told: BTreeMap<(GroupId, Term), LogIndex>,
}

impl OwnTermCommit {
    /// The leader of `term`, with `log`, says in an append that it has committed up to `commit`. (What its
    /// heartbeats say may be less than it knows.)
    ///
    /// # Errors
    /// If the index has risen to an entry of another term.
    pub fn told(
        &mut self,
        group: GroupId,
        term: Term,
        commit: LogIndex,
        log: &ShadowLog,
    ) -> Checked {
        let known = self.told.entry((group, term)).or_insert(commit);
        if commit <= *known {
            return Ok(());
        }
        let before = std::mem::replace(known, commit);
        match log.term_at(commit) {
            Some(of) if of != term => Err(Violation::new(
                Invariant::S5,
                format!(
                    "group {group}: the leader of term {term} went from commit {before} to {commit}, an entry of \
                     term {of}"
                ),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::broken;
    use crate::shadow::{ShadowRecord, Stamp};

    #[test]
    fn counting_replicas_of_an_earlier_terms_entry_is_found() {
        let mut log = ShadowLog::default();
        for (index, term) in [(1, 1), (2, 1), (3, 3)] {
            let stamp = Stamp {
                term: Term(term),
                checksum: 0,
            };
            log.take(&ShadowRecord::Entry(LogIndex(index), stamp));
        }
        let group = GroupId(1);
        let mut sound = OwnTermCommit::default();
        for commit in [1, 1, 3] {
            assert_eq!(sound.told(group, Term(3), LogIndex(commit), &log), Ok(()));
        }
        let mut unsound = OwnTermCommit::default();
        assert_eq!(unsound.told(group, Term(3), LogIndex(1), &log), Ok(()));
        let counted = unsound.told(group, Term(3), LogIndex(2), &log);
        assert_eq!(broken(&counted), Invariant::S5);
    }
}
