//! S4: if a replica has applied an entry at an index, no other applies another there (Raft §5.4.3); and
//! replicas that have applied the same hold the same rows.

use super::{Checked, Invariant, Violation};
use crate::shadow::Stamp;
use pontoon_types::{Entry, GroupId, LogIndex, NodeId};
use std::collections::BTreeMap;

/// What was applied at every index, and the hash of the state at some.
#[derive(Debug, Default)]
pub struct StateMachineSafety {
    /// By group; index 1 is first.
    applied: BTreeMap<GroupId, Vec<Stamp>>,
    hashes: BTreeMap<(GroupId, LogIndex), u64>,
}

impl StateMachineSafety {
    /// A node applies an entry. Whoever comes first must follow what others have applied.
    ///
    /// # Errors
    /// If another one was applied at the index, or nothing yet at the index before.
    pub fn applied(&mut self, node: NodeId, entry: &Entry) -> Checked {
        let (group, index, stamp) = (entry.group(), entry.index(), Stamp::of(entry));
        let log = self.applied.entry(group).or_default();
        let at = index.0 as usize;
        if at == log.len() + 1 {
            log.push(stamp);
            return Ok(());
        }
        match log.get(at.wrapping_sub(1)) {
            Some(known) if *known == stamp => Ok(()),
            known => Err(Violation::new(
                Invariant::S4,
                format!(
                    "group {group}: node {node} applies {stamp:x?} at index {index}, where others have {known:x?}"
                ),
            )),
        }
    }

    /// A node's rows of a group hash to `hash` once `index` is applied.
    ///
    /// # Errors
    /// If another node's had another hash there.
    pub fn state(&mut self, node: NodeId, group: GroupId, index: LogIndex, hash: u64) -> Checked {
        let known = *self.hashes.entry((group, index)).or_insert(hash);
        if known == hash {
            return Ok(());
        }
        let what = format!(
            "group {group}: with index {index} applied, the rows of node {node} hash to {hash:016x}, those of another \
             node to {known:016x}"
        );
        Err(Violation::new(Invariant::S4, what))
    }

    /// The entry that was applied at an index.
    #[must_use]
    pub fn at(&self, group: GroupId, index: LogIndex) -> Option<Stamp> {
        let at = (index.0 as usize).checked_sub(1)?;
        self.applied.get(&group)?.get(at).copied()
    }

    /// The highest index that anyone has applied.
    #[must_use]
    pub fn last(&self, group: GroupId) -> LogIndex {
        LogIndex(self.applied.get(&group).map_or(0, Vec::len) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::broken;
    use pontoon_types::{EntryKind, Term};

    #[test]
    fn another_entry_a_gap_and_another_state_are_found() {
        let group = GroupId(1);
        let entry = |index, payload: &[u8]| {
            Entry::encode(group, Term(1), LogIndex(index), EntryKind::Command, payload)
        };
        let mut checker = StateMachineSafety::default();
        for node in [NodeId(1), NodeId(2)] {
            assert_eq!(checker.applied(node, &entry(1, b"a")), Ok(()));
            assert_eq!(checker.state(node, group, LogIndex(1), 7), Ok(()));
        }
        let another = checker.applied(NodeId(3), &entry(1, b"b"));
        assert_eq!(broken(&another), Invariant::S4);
        let gap = checker.applied(NodeId(3), &entry(3, b"c"));
        assert_eq!(broken(&gap), Invariant::S4);
        let state = checker.state(NodeId(3), group, LogIndex(1), 8);
        assert_eq!(broken(&state), Invariant::S4);
    }
}
