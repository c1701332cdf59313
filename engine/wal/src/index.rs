//! Where the entries of every group are, for readers on any thread.
//!
//! A group costs 8 bytes an entry, its terms by runs, and its segments by spans. The log's thread is the
//! only writer; it holds the lock for a few records at a time, never over a sync.

mod group;
mod spans;

pub(crate) use group::{GroupLog, Sequenced};
use spans::Spans;

use parking_lot::{Mutex, MutexGuard};
use pontoon_types::GroupId;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;

/// Groups that lie side by side. A new stretch is begun for more of them, so that no group is ever moved.
const STRETCH: usize = 64;
/// Ids below this and twice as many as there are groups, added up, are looked up in a table.
const FEW: usize = 1024;

/// All groups, behind one lock.
pub(crate) struct Index {
    groups: Mutex<Groups>,
}

/// Groups that the log has met; none ever goes. Their ids are in small tables of their own, which stay in
/// the processor's cache where the groups themselves do not.
#[derive(Default)]
pub(crate) struct Groups {
    places: Places,
    stretches: Vec<Stretch>,
}

#[derive(Default)]
struct Stretch {
    ids: Vec<GroupId>,
    groups: Vec<GroupLog>,
}

/// Where a group is, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u32);

impl Place {
    pub(crate) const NONE: Self = Self(u32::MAX);

    /// Places are given out in order, from 0 on.
    #[inline]
    pub(crate) const fn number(self) -> usize {
        self.0 as usize
    }
}

/// The places by the groups' ids. Ids are drawn one after the other, so nearly all are found in a table, without a hash and
/// without a branch that the processor could guess wrong.
#[derive(Default)]
pub(crate) struct Places {
    near: Vec<Place>,
    far: HashMap<GroupId, Place, BuildHasherDefault<GroupHasher>>,
    len: usize,
}

impl Places {
    #[inline]
    pub(crate) fn get(&self, group: GroupId) -> Option<Place> {
        match self.near.get(Self::index(group)) {
            Some(place) if *place != Place::NONE => Some(*place),
            _ if self.far.is_empty() => None,
            _ => self.far.get(&group).copied(),
        }
    }

    /// Where a group is in the table, if it is there; no table gets as far as an id that has no index.
    #[inline]
    fn index(group: GroupId) -> usize {
        usize::try_from(group.0).unwrap_or(usize::MAX)
    }

    /// Gives a new group the next place.
    pub(crate) fn add(&mut self, group: GroupId) -> Place {
        let place = Place(self.len as u32);
        self.len += 1;
        // An id that is far out of line must not make a table as large.
        let at = Self::index(group);
        if at < FEW + 2 * self.len {
            if at >= self.near.len() {
                self.near.resize(at + 1, Place::NONE);
            }
            self.near[at] = place;
        } else {
            self.far.insert(group, place);
        }
        place
    }
}

impl Groups {
    pub(crate) fn get(&self, group: GroupId) -> Option<&GroupLog> {
        let place = self.places.get(group)?.number();
        Some(&self.stretches[place / STRETCH].groups[place % STRETCH])
    }

    pub(crate) fn get_mut(&mut self, group: GroupId) -> Option<&mut GroupLog> {
        let place = self.places.get(group)?;
        Some(self.at(place))
    }

    /// The group at a place that is known.
    #[inline]
    pub(crate) fn at(&mut self, place: Place) -> &mut GroupLog {
        let place = place.number();
        &mut self.stretches[place / STRETCH].groups[place % STRETCH]
    }

    /// Finds the places of groups, which are added if they are new. With many groups each would be waited for,
    /// one after the other; here the processor fetches them all at once.
    #[inline]
    pub(crate) fn locate(&mut self, groups: impl Iterator<Item = GroupId>, out: &mut Vec<Place>) {
        out.clear();
        let mut before = None;
        for group in groups {
            let place = match before {
                Some((same, place)) if same == group => place,
                _ => match self.places.get(group) {
                    Some(place) => place,
                    None => self.insert(group, GroupLog::default()),
                },
            };
            before = Some((group, place));
            out.push(place);
        }
        let touch = |touched, place: &Place| touched ^ self.at(*place).touch();
        black_box(out.iter().fold(0, touch));
        // Where their newest entries are noted; that is known now.
        let touch = |touched, place: &Place| touched ^ self.at(*place).touch_end();
        black_box(out.iter().fold(0, touch));
    }

    #[cold]
    fn insert(&mut self, group: GroupId, log: GroupLog) -> Place {
        let place = self.places.add(group);
        if place.number().is_multiple_of(STRETCH) {
            self.stretches.push(Stretch {
                ids: Vec::with_capacity(STRETCH),
                groups: Vec::with_capacity(STRETCH),
            });
        }
        let stretch = &mut self.stretches[place.number() / STRETCH];
        stretch.ids.push(group);
        stretch.groups.push(log);
        place
    }
}

impl Index {
    pub(crate) fn new(groups: impl IntoIterator<Item = (GroupId, GroupLog)>) -> Self {
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_unstable_by_key(|(id, _)| *id);
        let mut index = Groups::default();
        for (id, group) in groups {
            index.insert(id, group);
        }
        Self {
            groups: Mutex::new(index),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock()
    }

    /// Something of every group, in the order of their ids.
    pub(crate) fn map_all<T>(&self, f: impl Fn(&GroupLog) -> T) -> Vec<(GroupId, T)> {
        let mut all: Vec<_> = Vec::with_capacity(self.len());
        self.for_each(|id, group| all.push((id, f(group))));
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// Calls `f` with every group, some at a time: others get at the index in between.
    pub(crate) fn for_each(&self, mut f: impl FnMut(GroupId, &mut GroupLog)) {
        for number in 0.. {
            let mut groups = self.lock();
            let Some(stretch) = groups.stretches.get_mut(number) else {
                return;
            };
            for (id, group) in stretch.ids.iter().zip(&mut stretch.groups) {
                f(*id, group);
            }
        }
    }

    /// The sum of something over all groups.
    pub(crate) fn sum(&self, f: impl Fn(&GroupLog) -> usize) -> usize {
        let mut sum = 0;
        self.for_each(|_, group| sum += f(group));
        sum
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().places.len
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_keeps_its_place_however_many_come() {
        let index = Index::new([(GroupId(7), GroupLog::default())]);
        let ids = [7, 8, 8, 7].map(GroupId);
        let (mut first, mut later) = (Vec::new(), Vec::new());
        index.lock().locate(ids.into_iter(), &mut first);
        assert_eq!(first, [Place(0), Place(1), Place(1), Place(0)]);
        index.lock().get_mut(GroupId(8)).unwrap().damaged = true;
        let many = (0..1_000).map(|number| GroupId(number * number));
        index.lock().locate(many.clone(), &mut later);
        assert_eq!(later.len(), 1_000);
        // Once more, when the table has grown beyond ids that were too far for it: nobody moves, and nobody is met twice.
        let before = later.clone();
        let between = GroupId(2_000);
        index.lock().locate([between].into_iter(), &mut later);
        index.lock().locate(many.clone(), &mut later);
        assert_eq!(later, before);
        let groups = index.lock();
        let (near, far) = (&groups.places.near, &groups.places.far);
        assert!(near.len() > 2_000 && far.contains_key(&GroupId(44 * 44)));
        drop(groups);
        index.lock().locate(ids.into_iter(), &mut later);
        assert_eq!(later, first);
        assert!(index.lock().at(first[1]).damaged);
        let met: Vec<GroupId> = index
            .map_all(|_| ())
            .into_iter()
            .map(|(id, ())| id)
            .collect();
        let mut all: Vec<GroupId> = ids[..2].iter().copied().chain(many).collect();
        all.push(between);
        all.sort_unstable();
        assert_eq!(met, all);
        assert_eq!(index.len(), 1_003);
    }
}
