//! S3: the log of a new leader holds every entry that was committed before its term (Raft §5.4).

use super::{Checked, Invariant, StateMachineSafety, Violation};
use crate::shadow::ShadowLog;
use pontoon_types::{GroupId, LogIndex, ReplicaId, Term};

/// A replica has been seen to lead `term` for the first time; `log` is what it holds. Everything that any
/// replica has applied so far of earlier terms was committed before, and must be in it.
///
/// # Errors
/// Names the first entry that is missing or another one.
pub fn check_elected(
    group: GroupId,
    term: Term,
    leader: ReplicaId,
    log: &ShadowLog,
    committed: &StateMachineSafety,
) -> Checked {
    // What is compacted was applied by this replica, and is compared there (S4).
    let first = log.compacted.index.0 + 1;
    for index in (first..=committed.last(group).0).map(LogIndex) {
        let Some(expected) = committed.at(group, index) else {
            continue;
        };
        if expected.term >= term {
            break;
        }
        let found = log.stamp_at(index);
        if found != Some(expected) {
            let what = format!(
                "group {group}: replica {leader} leads term {term}, but where {expected:x?} is committed at \
                 index {index}, its log has {found:x?}"
            );
            return Err(Violation::new(Invariant::S3, what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::broken;
    use crate::shadow::{ShadowRecord, Stamp};
    use pontoon_types::{Entry, EntryKind, NodeId};

    #[test]
    fn a_leader_without_a_committed_entry_is_found() {
        let (group, leader) = (GroupId(1), ReplicaId(2));
        let entry = |index, payload: &[u8]| {
            Entry::encode(group, Term(1), LogIndex(index), EntryKind::Command, payload)
        };
        let mut committed = StateMachineSafety::default();
        let mut log = ShadowLog::default();
        for index in 1..=2 {
            let entry = entry(index, b"committed");
            assert_eq!(committed.applied(NodeId(1), &entry), Ok(()));
            log.take(&ShadowRecord::Entry(LogIndex(index), Stamp::of(&entry)));
        }
        let check = |log: &ShadowLog| check_elected(group, Term(2), leader, log, &committed);
        assert_eq!(check(&log), Ok(()));
        let mut other = log.clone();
        let stamp = Stamp::of(&entry(2, b"another"));
        other.take(&ShadowRecord::Entry(LogIndex(2), stamp));
        assert_eq!(broken(&check(&other)), Invariant::S3);
        log.entries.pop_back();
        assert_eq!(broken(&check(&log)), Invariant::S3);
    }
}
