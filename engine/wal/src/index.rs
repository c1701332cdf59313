//! Where the entries of every group are, for readers on any thread.
//!
//! A group costs 8 bytes an entry, its terms by runs, and its segments by spans. The log's thread is the
//! only writer; it holds a shard's lock for the records that a batch has of one group, never over a sync.

mod group;
mod spans;

pub(crate) use group::{GroupLog, Sequenced};
use spans::Spans;

use parking_lot::{Mutex, MutexGuard};
use pontoon_types::GroupId;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

const SHARDS: usize = 64;

type Groups = HashMap<GroupId, GroupLog, BuildHasherDefault<GroupHasher>>;

/// All groups, in shards by their ids.
pub(crate) struct Index {
    shards: Box<[Mutex<Groups>]>,
}

impl Index {
    pub(crate) fn new(groups: impl IntoIterator<Item = (GroupId, GroupLog)>) -> Self {
        let index = Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        };
        for (id, group) in groups {
            index.shard(id).insert(id, group);
        }
        index
    }

    pub(crate) fn shard(&self, group: GroupId) -> MutexGuard<'_, Groups> {
        self.shards[group.0 as usize % SHARDS].lock()
    }

    /// Something of every group, in the order of their ids.
    pub(crate) fn map_all<T>(&self, f: impl Fn(&GroupLog) -> T) -> Vec<(GroupId, T)> {
        let mut all: Vec<_> = Vec::with_capacity(self.len());
        for shard in &self.shards {
            all.extend(shard.lock().iter().map(|(id, group)| (*id, f(group))));
        }
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// Calls `f` with every group, shard by shard.
    pub(crate) fn for_each(&self, mut f: impl FnMut(GroupId, &mut GroupLog)) {
        for shard in &self.shards {
            for (id, group) in shard.lock().iter_mut() {
                f(*id, group);
            }
        }
    }

    /// The sum of something over all groups.
    pub(crate) fn sum(&self, f: impl Fn(&GroupLog) -> usize) -> usize {
        let of_shard = |shard: &Mutex<Groups>| shard.lock().values().map(&f).sum::<usize>();
        self.shards.iter().map(of_shard).sum()
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

/// Group ids are drawn by the cluster, not by an attacker: one multiplication is hash enough.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GroupHasher(u64);

impl Hasher for GroupHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

/// How many groups still need something in each segment.
#[derive(Debug, Default)]
pub(crate) struct Pins(BTreeMap<u32, usize>);

impl Pins {
    pub(crate) fn add(&mut self, segment: u32) {
        *self.0.entry(segment).or_default() += 1;
    }

    /// # Panics
    /// If nobody holds the segment: then the accounts are wrong, and a segment could go too early.
    pub(crate) fn release(&mut self, segment: u32) {
        let count = self.0.get_mut(&segment);
        let count = count.unwrap_or_else(|| panic!("segment {segment} was released but not held"));
        *count -= 1;
        if *count == 0 {
            self.0.remove(&segment);
        }
    }

    /// Takes in what other groups need.
    pub(crate) fn merge(&mut self, other: Self) {
        for (segment, groups) in other.0 {
            *self.0.entry(segment).or_default() += groups;
        }
    }

    pub(crate) fn holds(&self, segment: u32) -> bool {
        self.0.contains_key(&segment)
    }
}
