//! The rows that no table has yet.
//!
//! A memtable holds versions of rows in the order of their keys, the newest of a key first. It is a B-tree under a lock: the
//! one thread that writes holds it for some rows of a batch, and readers for as long as it takes to copy some.
//! The tree's own memtable is a skip list that needs no lock, but every row's place in it is some seventeen looks at
//! memory that is in no cache, which made it the dearest single thing in a write; a B-tree takes five.

use itertools::Itertools;
use lsm_tree::{InternalValue, SeqNo, Slice, ValueType};
use parking_lot::{RwLock, RwLockWriteGuard};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec;

/// So many rows are inserted before a reader gets its turn.
const LOCKED_INSERTS: usize = 256;
/// So many rows are copied under the lock for a scan at first, and at most; most scans want few.
const FIRST_COPY: usize = 32;
const MOST_COPIED: usize = 512;

/// What is known of a key: its value, or that it was deleted.
pub(super) type Found = Option<Slice>;

/// A version of a row: its key, and the number of the batch that wrote it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    key: Slice,
    seqno: Reverse<SeqNo>,
}

impl Version {
    /// The newest that a view at `seqno` may see of a key.
    fn newest_below(key: &[u8], seqno: SeqNo) -> Self {
        Self {
            key: key.into(),
            seqno: Reverse(seqno.saturating_sub(1)),
        }
    }
}

/// Some of the newest rows.
#[derive(Default)]
pub(super) struct Memtable {
    rows: RwLock<BTreeMap<Version, Found>>,
    bytes: AtomicU64,
}

impl Memtable {
    /// About what it takes of memory.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn is_empty(&self) -> bool {
        self.rows.read().is_empty()
    }

    /// Takes in rows of one batch; of several with one key the last wins.
    pub(super) fn insert(&self, seqno: SeqNo, batch: impl IntoIterator<Item = (Slice, Found)>) {
        let mut bytes = 0;
        let mut rows = self.rows.write();
        for (at, (key, found)) in batch.into_iter().enumerate() {
            if at % LOCKED_INSERTS == LOCKED_INSERTS - 1 {
                RwLockWriteGuard::bump(&mut rows);
            }
            bytes += key.len() + found.as_ref().map_or(0, |value| value.len());
            bytes += size_of::<(Version, Found)>();
            let seqno = Reverse(seqno);
            rows.insert(Version { key, seqno }, found);
        }
        drop(rows);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn get(&self, key: &[u8], seqno: SeqNo) -> Option<Found> {
        let rows = self.rows.read();
        let (version, found) = rows.range(Version::newest_below(key, seqno)..).next()?;
        (*version.key == *key).then(|| found.clone())
    }

    /// Copies some rows as a view at `seqno` sees them, and says whether there may be more.
    fn copy(
        &self,
        from: Bound<Version>,
        to: &[u8],
        seqno: SeqNo,
        most: usize,
        rows: &mut Vec<(Slice, Found)>,
    ) -> bool {
        let table = self.rows.read();
        for (version, found) in table.range((from, Bound::Unbounded)) {
            if *version.key >= *to {
                return false;
            }
            let is_newest = rows.last().is_none_or(|(last, _)| *last != version.key);
            if version.seqno.0 >= seqno || !is_newest {
                continue;
            }
            if rows.len() == most {
                return true;
            }
            rows.push((version.key.clone(), found.clone()));
        }
        false
    }
}

/// Goes through the rows of a memtable as a view sees them. The lock is held only now and then.
struct Scan {
    memtable: Arc<Memtable>,
    seqno: SeqNo,
    /// Where to go on.
    from: Option<Bound<Version>>,
    to: Slice,
    copied: vec::IntoIter<(Slice, Found)>,
    most: usize,
}

impl Iterator for Scan {
    type Item = (Slice, Found);

    fn next(&mut self) -> Option<Self::Item> {
        if self.copied.len() == 0
            && let Some(from) = self.from.take()
        {
            let mut rows = Vec::new();
            let is_more = self
                .memtable
                .copy(from, &self.to, self.seqno, self.most, &mut rows);
            self.most = (2 * self.most).min(MOST_COPIED);
            self.from = rows.last().filter(|_| is_more).map(|(key, _)| {
                // Behind all versions of the last one.
                let (key, seqno) = (key.clone(), Reverse(0));
                Bound::Excluded(Version { key, seqno })
            });
            self.copied = rows.into_iter();
        }
        self.copied.next()
    }
}

/// All memtables of a moment.
#[derive(Clone, Default)]
pub(super) struct Memtables {
    /// The one that is written to.
    active: Arc<Memtable>,
    /// The oldest first.
    sealed: Vec<Arc<Memtable>>,
}

impl Memtables {
    pub(super) fn active(&self) -> &Arc<Memtable> {
        &self.active
    }

    pub(super) fn sealed(&self) -> &[Arc<Memtable>] {
        &self.sealed
    }

    /// The same with the active one sealed, unless there is nothing in it.
    pub(super) fn seal(&self) -> Option<Self> {
        (!self.active.is_empty()).then(|| Self {
            active: Arc::default(),
            sealed: self.sealed.iter().chain([&self.active]).cloned().collect(),
        })
    }

    /// The same without some that tables have by now.
    pub(super) fn without(&self, flushed: &[Arc<Memtable>]) -> Self {
        let is_flushed = |one: &Arc<Memtable>| flushed.iter().any(|other| Arc::ptr_eq(one, other));
        let left = self.sealed.iter().filter(|one| !is_flushed(one));
        Self {
            active: Arc::clone(&self.active),
            sealed: left.cloned().collect(),
        }
    }

    fn newest_first(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        [&self.active].into_iter().chain(self.sealed.iter().rev())
    }

    /// What they know of a key, for a view at `seqno`. It is newer than what any table knows.
    pub(super) fn get(&self, key: &[u8], seqno: SeqNo) -> Option<Found> {
        self.newest_first().find_map(|table| table.get(key, seqno))
    }

    /// What they know of the keys from `from` up to, and without, `to`, in their order, for a view at `seqno`.
    pub(super) fn range(
        &self,
        from: &[u8],
        to: &[u8],
        seqno: SeqNo,
    ) -> impl Iterator<Item = (Slice, Found)> + Send + use<> {
        let scan = |(age, memtable): (usize, &Arc<Memtable>)| {
            let scan = Scan {
                memtable: Arc::clone(memtable),
                seqno,
                from: Some(Bound::Included(Version::newest_below(from, SeqNo::MAX))),
                to: to.into(),
                copied: Vec::new().into_iter(),
                most: FIRST_COPY,
            };
            scan.map(move |(key, found)| (key, age, found))
        };
        let scans: Vec<_> = self.newest_first().enumerate().map(scan).collect();
        scans
            .into_iter()
            .kmerge_by(|one, other| (&one.0, one.1) < (&other.0, other.1))
            .dedup_by(|newest, older| newest.0 == older.0)
            .map(|(key, _, found)| (key, found))
    }
}

/// Hands over what is in sealed memtables as the tables want it, without what no view at `watermark` or above can see.
pub(super) fn with_versions<T>(
    sealed: &[Arc<Memtable>],
    watermark: SeqNo,
    write: impl FnOnce(&mut dyn Iterator<Item = lsm_tree::Result<InternalValue>>) -> T,
) -> T {
    let locked: Vec<_> = sealed.iter().map(|table| table.rows.read()).collect();
    let all = locked.iter().map(|rows| rows.iter());
    let mut last: Option<&Version> = None;
    let mut needed = all
        .kmerge_by(|one, other| one.0 < other.0)
        .filter(|(version, _)| {
            let is_hidden =
                last.is_some_and(|last| last.key == version.key && last.seqno.0 < watermark);
            last = Some(version);
            !is_hidden
        })
        .map(|(version, found)| {
            let (key, seqno) = (version.key.clone(), version.seqno.0);
            Ok(match found {
                Some(value) => {
                    InternalValue::from_components(key, value.clone(), seqno, ValueType::Value)
                }
                None => InternalValue::new_tombstone(key, seqno),
            })
        });
    write(&mut needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, value: impl Into<Option<&'static str>>) -> (Slice, Found) {
        (key.into(), value.into().map(Slice::from))
    }

    /// Three memtables: `a` is set and set again, `b` is set and deleted, `c` is as it was.
    fn three() -> Memtables {
        let mut all = Memtables::default();
        all.active
            .insert(1, [row("a", "1"), row("b", "1"), row("c", "1")]);
        all.active.insert(2, [row("a", "2")]);
        all = all.seal().unwrap();
        all.active.insert(3, [row("a", "3"), row("b", None)]);
        all = all.seal().unwrap();
        all.active.insert(4, [row("a", "x"), row("a", "4")]);
        all
    }

    fn seen(all: &Memtables, seqno: SeqNo) -> Vec<(Slice, Found)> {
        let rows: Vec<_> = all.range(b"a", b"z", seqno).collect();
        for (key, found) in &rows {
            assert_eq!(all.get(key, seqno).as_ref(), Some(found), "at {seqno}");
        }
        rows
    }

    #[test]
    fn a_view_sees_the_newest_of_what_is_older_than_itself() {
        let all = three();
        assert_eq!(seen(&all, 1), []);
        let first = [row("a", "1"), row("b", "1"), row("c", "1")];
        assert_eq!(seen(&all, 2), first);
        assert_eq!(seen(&all, 3)[0], row("a", "2"));
        assert_eq!(seen(&all, 4)[..2], [row("a", "3"), row("b", None)]);
        assert_eq!(seen(&all, 5)[0], row("a", "4"));
        assert_eq!(all.get(b"aa", 5), None);
        let some: Vec<_> = all.range(b"b", b"c", 5).collect();
        assert_eq!(
            some,
            [row("b", None)],
            "from the first key on, and without the last"
        );
        let empty = Memtables::default();
        assert!(empty.seal().is_none() && empty.get(b"a", 5).is_none());
    }

    #[test]
    fn a_table_gets_every_version_that_some_view_may_see_and_no_other() {
        let all = three().seal().unwrap();
        let kept = |watermark| {
            with_versions(&all.sealed, watermark, |rows| {
                rows.map(|row| row.unwrap().key)
                    .map(|key| format!("{}{}", str::from_utf8(&key.user_key).unwrap(), key.seqno))
                    .join(" ")
            })
        };
        assert_eq!(kept(0), "a4 a3 a2 a1 b3 b1 c1");
        assert_eq!(kept(2), "a4 a3 a2 a1 b3 b1 c1");
        assert_eq!(kept(3), "a4 a3 a2 b3 b1 c1", "a view at 3 sees the second");
        assert_eq!(kept(4), "a4 a3 b3 c1");
        assert_eq!(
            kept(5),
            "a4 b3 c1",
            "a deletion hides what older tables have"
        );
        let left = all.without(&all.sealed[..2]);
        assert_eq!(
            (left.sealed.len(), seen(&left, 9)),
            (1, vec![row("a", "4")])
        );
    }

    #[test]
    fn a_long_scan_goes_on_where_it_was_and_sees_nothing_that_came_later() {
        let memtables = Memtables::default();
        let keys = |step| (0..3_000).step_by(step).map(|n| format!("{n:04}"));
        memtables
            .active
            .insert(1, keys(1).map(|key| row(&key, "old")));
        memtables
            .active
            .insert(2, keys(3).map(|key| row(&key, "new")));
        let mut scan = memtables.range(b"", b"~", 3);
        let first: Vec<_> = scan.by_ref().take(100).collect();
        memtables
            .active
            .insert(3, keys(1).map(|key| row(&key, None)));
        memtables
            .active
            .insert(4, keys(2).map(|key| row(&format!("{key}-"), "late")));
        let rows: Vec<_> = first.into_iter().chain(scan).collect();
        let expected = keys(1).enumerate().map(|(at, key)| match at % 3 {
            0 => row(&key, "new"),
            _ => row(&key, "old"),
        });
        assert_eq!(rows, expected.collect::<Vec<_>>());
    }
}
