//! S2: if two logs hold an entry with the same index and term, they are equal up to there (Raft §5.3).
//!
//! Every entry that goes into any log is compared with the first one seen at its index and term: it must
//! be the same, and follow an entry of the same term. By induction that makes all logs that hold it equal
//! below it.

use super::{Checked, Invariant, Violation};
use crate::shadow::Stamp;
use pontoon_types::{GroupId, LogIndex, NodeId, Term};
use std::collections::BTreeMap;

/// The first sight of every entry.
#[derive(Debug, Default)]
pub struct LogMatching {
    seen: BTreeMap<(GroupId, LogIndex, Term), (u32, Term)>,
}

impl LogMatching {
    /// A node's log takes in an entry behind one of term `previous`.
    ///
    /// # Errors
    /// If another log has another entry at that index and term, or another one before it.
    pub fn laid(
        &mut self,
        node: NodeId,
        group: GroupId,
        index: LogIndex,
        stamp: Stamp,
        previous: Term,
    ) -> Checked {
        let found = (stamp.checksum, previous);
        let known = *self.seen.entry((group, index, stamp.term)).or_insert(found);
        if known == found {
            return Ok(());
        }
        let term = stamp.term;
        let what = format!(
            "group {group}, entry {term}/{index} on node {node}: checksum and term before it are {found:x?}, \
             but {known:x?} in another log"
        );
        Err(Violation::new(Invariant::S2, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::broken;

    #[test]
    fn different_entries_and_different_pasts_are_found() {
        let lay = |checker: &mut LogMatching, index, term, checksum, previous| {
            let stamp = Stamp {
                term: Term(term),
                checksum,
            };
            checker.laid(
                NodeId(1),
                GroupId(1),
                LogIndex(index),
                stamp,
                Term(previous),
            )
        };
        let mut checker = LogMatching::default();
        for _ in 0..2 {
            assert_eq!(lay(&mut checker, 1, 1, 0xa, 0), Ok(()));
            assert_eq!(lay(&mut checker, 2, 2, 0xb, 1), Ok(()));
        }
        assert_eq!(lay(&mut checker, 2, 3, 0xc, 1), Ok(()), "another term");
        assert_eq!(broken(&lay(&mut checker, 1, 1, 0xd, 0)), Invariant::S2);
        assert_eq!(broken(&lay(&mut checker, 2, 2, 0xb, 2)), Invariant::S2);
    }
}
