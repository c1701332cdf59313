//! S7: an acknowledged write survives the loss of any minority and the power loss of all nodes.
//!
//! When a client is told of success, or a peer that an entry is committed, it must be on the disks of a
//! majority, finished; then nothing that leaves a majority of disks can lose it. At the end every replica
//! must have applied what was acknowledged.

use super::{Checked, Invariant, Violation};
use crate::shadow::{ShadowLog, Stamp};
use pontoon_types::{GroupId, LogIndex};
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
}

impl Disk<'_> {
    fn may_have_held(self, index: LogIndex, stamp: Stamp) -> bool {
        match self {
            // What is compacted has been applied on this node, and is compared there (S4).
            Self::Holds(log) => index <= log.compacted.index || log.stamp_at(index) == Some(stamp),
            Self::Blank => false,
            Self::Damaged => true,
        }
    }
}

/// How many of the disks may have held an entry, and how many there are.
fn holders<'a>(
    disks: impl IntoIterator<Item = Disk<'a>>,
    index: LogIndex,
    stamp: Stamp,
) -> (usize, usize) {
    disks.into_iter().fold((0, 0), |(holders, members), disk| {
        let holds = disk.may_have_held(index, stamp);
        (holders + usize::from(holds), members + 1)
    })
}

impl Acknowledged {
    /// A write that is the entry `stamp` at `index` is acknowledged; `disks` are what each member of
    /// the group has durably.
    ///
    /// # Errors
    /// If it is not on a majority of them.
    pub fn acknowledged<'a>(
        &mut self,
        group: GroupId,
        index: LogIndex,
        stamp: Stamp,
        disks: impl IntoIterator<Item = Disk<'a>>,
    ) -> Checked {
        let (holders, members) = holders(disks, index, stamp);
        self.writes += 1;
        let last = self.last.entry(group).or_default();
        *last = index.max(*last);
        if 2 * holders > members {
            return Ok(());
        }
        let what = format!(
            "group {group}: the write at index {index} was acknowledged, and is on {holders} of {members} disks"
        );
        Err(Violation::new(Invariant::S7, what))
    }

    /// A leader, whose entry at `index` is `stamp`, says that it is committed.
    ///
    /// # Errors
    /// If it is not on a majority of disks.
    pub fn committed<'a>(
        &mut self,
        group: GroupId,
        index: LogIndex,
        stamp: Stamp,
        disks: impl IntoIterator<Item = Disk<'a>>,
    ) -> Checked {
        let last = self.committed.entry(group).or_default();
        if index <= *last {
            return Ok(());
        }
        *last = index;
        let (holders, members) = holders(disks, index, stamp);
        if 2 * holders > members {
            return Ok(());
        }
        let what = format!(
            "group {group}: the leader says that {index} is committed, and it is on {holders} of {members} disks"
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
        let sound = [Disk::Holds(&holder), Disk::Blank, Disk::Holds(&holder)];
        assert_eq!(checker.acknowledged(group, index, stamp(7), sound), Ok(()));
        let damaged = [Disk::Holds(&holder), Disk::Damaged, Disk::Blank];
        assert_eq!(
            checker.acknowledged(group, index, stamp(7), damaged),
            Ok(())
        );
        let few = [Disk::Holds(&holder), Disk::Blank, Disk::Holds(&other)];
        let acknowledged = checker.acknowledged(group, index, stamp(7), few);
        assert_eq!(broken(&acknowledged), Invariant::S7);
        let committed = checker.committed(group, index, stamp(7), few);
        assert_eq!(broken(&committed), Invariant::S7);
        assert_eq!(checker.survived(group, index), Ok(()));
        assert_eq!(
            broken(&checker.survived(group, LogIndex::ZERO)),
            Invariant::S7
        );
    }
}
