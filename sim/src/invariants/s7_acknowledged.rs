//! S7: an acknowledged write survives the loss of any minority and the power loss of all nodes.
//!
//! When a client is told of success, or a peer that an entry is committed, it must be on the disks of a
//! majority, finished; then nothing that leaves a majority of disks can lose it. At the end every replica
//! must have applied what was acknowledged.

use super::{Checked, Invariant, Violation};
use crate::members::Membership;
use crate::shadow::{ShadowLog, Stamp};
use pontoon_types::{GroupId, LogIndex, ReplicaId};
use std::collections::BTreeMap;

/// Where the acknowledged writes are.
#[derive(Debug, Default)]
pub struct Acknowledged {
    last: BTreeMap<GroupId, LogIndex>,
    /// What was said to be committed, by group.
    committed: BTreeMap<GroupId, LogIndex>,
    writes: u64,
}

/// What a member of a group has on its disk.
#[derive(Clone, Copy, Debug)]
pub enum Disk<'a> {
    /// This, finished.
    Holds(&'a ShadowLog),
    /// Nothing was ever finished.
    Blank,
    /// Nobody knows: it is damaged. It may have held an entry before.
    Damaged,
    /// The replica has left. It may have held an entry before.
    Gone,
}

impl Disk<'_> {
    fn may_have_held(self, index: LogIndex, stamp: Stamp) -> bool {
        match self {
            // What is compacted has been applied on this node, and is compared there (S4).
            Self::Holds(log) => index <= log.compacted.index || log.stamp_at(index) == Some(stamp),
            Self::Blank => false,
            Self::Damaged | Self::Gone => true,
        }
    }
}

impl Acknowledged {
    /// A write that is the entry `stamp` at `index` is acknowledged; `disk_of` tells what each member of
    /// the group has durably.
    ///
    /// # Errors
    /// If it is not on the disks of a quorum.
    pub fn acknowledged<'a>(
        &mut self,
        group: GroupId,
        index: LogIndex,
        stamp: Stamp,
        members: &Membership,
        disk_of: impl Fn(ReplicaId) -> Disk<'a>,
    ) -> Checked {
        self.writes += 1;
        let last = self.last.entry(group).or_default();
        *last = index.max(*last);
        if members.is_quorum(|replica| disk_of(replica).may_have_held(index, stamp)) {
            return Ok(());
        }
        let what = format!(
            "group {group}: the write at index {index} was acknowledged, and is not on the disks of a quorum of {members:?}"
        );
        Err(Violation::new(Invariant::S7, what))
    }

    /// A leader, whose entry at `index` is `stamp`, says that it is committed.
    ///
    /// # Errors
    /// If it is not on the disks of a quorum.
    pub fn committed<'a>(
        &mut self,
        group: GroupId,
        index: LogIndex,
        stamp: Stamp,
        members: &Membership,
        disk_of: impl Fn(ReplicaId) -> Disk<'a>,
    ) -> Checked {
        let last = self.committed.entry(group).or_default();
        if index <= *last {
            return Ok(());
        }
        *last = index;
        if members.is_quorum(|replica| disk_of(replica).may_have_held(index, stamp)) {
            return Ok(());
        }
        let what = format!(
            "group {group}: the leader says that {index} is committed, and it is not on the disks of a quorum of {members:?}"
        );
        Err(Violation::new(Invariant::S7, what))
    }

    /// At the end a replica has applied up to `applied`.
    ///
    /// # Errors
    /// If an acknowledged write is not among that.
    pub fn survived(&self, group: GroupId, applied: LogIndex) -> Checked {
        let last = self.last.get(&group).copied().unwrap_or_default();
        if last <= applied {
            return Ok(());
        }
        let what = format!(
            "group {group}: the write at index {last} was acknowledged, but a replica ends at {applied}"
        );
        Err(Violation::new(Invariant::S7, what))
    }

    /// How many writes were acknowledged.
    #[must_use]
    pub const fn writes(&self) -> u64 {
        self.writes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::broken;
    use crate::shadow::ShadowRecord;
    use pontoon_types::Term;

    #[test]
    fn a_write_on_too_few_disks_and_one_that_is_gone_are_found() {
        let (group, index) = (GroupId(1), LogIndex(1));
        let stamp = |checksum| Stamp {
            term: Term(1),
            checksum,
        };
        let disk = |checksum| {
            let mut log = ShadowLog::default();
            log.take(&ShadowRecord::Entry(index, stamp(checksum)));
            log
        };
        let (holder, other) = (disk(7), disk(8));
        let mut checker = Acknowledged::default();
        let members = Membership::of_voters([1, 2, 3].map(ReplicaId));
        fn of<'a>(disks: [Disk<'a>; 3]) -> impl Fn(ReplicaId) -> Disk<'a> + Copy {
            move |replica| disks[replica.0 as usize - 1]
        }
        let sound = of([Disk::Holds(&holder), Disk::Blank, Disk::Holds(&holder)]);
        let checked = checker.acknowledged(group, index, stamp(7), &members, sound);
        assert_eq!(checked, Ok(()));
        let damaged = of([Disk::Holds(&holder), Disk::Damaged, Disk::Blank]);
        let checked = checker.acknowledged(group, index, stamp(7), &members, damaged);
        assert_eq!(checked, Ok(()));
        let few = of([Disk::Holds(&holder), Disk::Blank, Disk::Holds(&other)]);
        let acknowledged = checker.acknowledged(group, index, stamp(7), &members, few);
        assert_eq!(broken(&acknowledged), Invariant::S7);
        let committed = checker.committed(group, index, stamp(7), &members, few);
        assert_eq!(broken(&committed), Invariant::S7);
        assert_eq!(checker.survived(group, index), Ok(()));
        assert_eq!(
            broken(&checker.survived(group, LogIndex::ZERO)),
            Invariant::S7
        );
    }
}
