//! Which groups hold more of the log than they should.

use crate::Lsn;
use crate::index::{GroupLog, Index};
use parking_lot::Mutex;
use pontoon_types::{GroupId, LogIndex};
use std::collections::BTreeSet;

/// A group that holds more of the log than its quota. Only its owner can help: by a snapshot and a
/// [compaction](crate::BatchBuilder::compact), and by no more proposals until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverQuota {
    /// The group.
    pub group: GroupId,
    /// What its entries take in the log.
    pub bytes: u64,
    /// Its first entry, which a compaction should reach at least.
    pub first: LogIndex,
    /// Its last.
    pub last: LogIndex,
    /// Where the first one lies: its segment, and all that is needed behind it, cannot go.
    pub pinned: Lsn,
}

/// The quota, and the list of those above it.
pub(crate) struct Quota {
    bytes: u64,
    over: Mutex<BTreeSet<GroupId>>,
}

impl Quota {
    pub(crate) fn new(bytes: u64, index: &Index) -> Self {
        let quota = Self {
            bytes,
            over: Mutex::default(),
        };
        index.for_each(|id, group| quota.check(id, group));
        quota
    }

    /// Lists a group, or takes it from the list, if what it holds has crossed the quota.
    #[inline]
    pub(crate) fn check(&self, id: GroupId, group: &mut GroupLog) {
        if (group.bytes() > self.bytes) != group.listed {
            self.cross(id, group);
        }
    }

    #[cold]
    fn cross(&self, id: GroupId, group: &mut GroupLog) {
        group.listed = !group.listed;
        let mut over = self.over.lock();
        if group.listed {
            over.insert(id);
        } else {
            over.remove(&id);
        }
    }

    pub(crate) fn groups_over(&self) -> usize {
        self.over.lock().len()
    }

    /// Those above it now, by id.
    pub(crate) fn over(&self, index: &Index) -> Vec<OverQuota> {
        let listed: Vec<GroupId> = self.over.lock().iter().copied().collect();
        let describe = |group: GroupId| {
            let groups = index.lock();
            let log = groups.get(group).filter(|log| log.listed)?;
            Some(OverQuota {
                group,
                bytes: log.bytes(),
                first: log.first(),
                last: log.last.index,
                pinned: log.position_of(log.first())?,
            })
        };
        listed.into_iter().filter_map(describe).collect()
    }
}
