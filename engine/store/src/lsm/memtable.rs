//! The rows that no table has yet.
//!
//! A memtable holds versions of rows in the order of their keys, the newest of a key first. It is a B-tree under a lock: the
//! one thread that writes holds it for some rows of a batch, and readers for as long as it takes to copy some.
//! The tree's own memtable is a skip list that needs no lock, but on the way to a row's place it looks at one node after the
//! other that is in no cache, which made it the dearest single thing in a write; a B-tree looks at far fewer.

use itertools::Itertools;
use lsm_tree::{InternalValue, SeqNo, Slice, ValueType};
use parking_lot::{RwLock, RwLockWriteGuard};
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// So many rows are inserted before a reader gets its turn.
const LOCKED_INSERTS: usize = 256;
/// So many versions a scan looks at under the lock at first, and at most; most scans want few.
const FIRST_LOOKS: usize = 32;
const MOST_LOOKS: usize = 512;
/// What a version takes of a B-tree's nodes, of whose places a third is free.
const VERSION_BYTES: usize = size_of::<(Version, Found)>() * 3 / 2;

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
    /// The number of its oldest rows.
    oldest: OnceLock<SeqNo>,
    /// Whether tables have its rows, so that only older views need it.
    is_flushed: AtomicBool,
}

impl Memtable {
    /// About what it takes of memory.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn note_flushed(&self) {
        self.is_flushed.store(true, Ordering::Relaxed);
    }

    fn is_empty(&self) -> bool {
        self.rows.read().is_empty()
    }

    /// Takes in rows of one batch; of several with one key the last wins.
    pub(super) fn insert(&self, seqno: SeqNo, batch: impl IntoIterator<Item = (Slice, Found)>) {
        let mut bytes = 0;
        self.oldest.get_or_init(|| seqno);
        let mut rows = self.rows.write();
        for (at, (key, found)) in batch.into_iter().enumerate() {
            if at % LOCKED_INSERTS == LOCKED_INSERTS - 1 {
                RwLockWriteGuard::bump(&mut rows);
            }
            bytes += key.len() + found.as_ref().map_or(0, |value| value.len());
            bytes += VERSION_BYTES;
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

    /// Whether it has nothing for a view at `seqno`.
    fn is_hidden(&self, seqno: SeqNo) -> bool {
        self.oldest.get().is_none_or(|oldest| *oldest >= seqno)
    }
}

/// Goes through the rows of a memtable as a view sees them. The lock is held only now and then.
struct Scan {
    memtable: Arc<Memtable>,
    seqno: SeqNo,
    /// Where to go on.
    from: Option<Bound<Version>>,
    to: Slice,
    copied: VecDeque<(Slice, Found)>,
    /// The last key that was copied.
    last: Option<Slice>,
    looks: usize,
}

impl Scan {
    /// Copies some rows, of as many versions as may be looked at. That may be none although there are more.
    fn copy(&mut self, from: Bound<Version>) {
        let rows = self.memtable.rows.read();
        let mut looks = 0;
        for (version, found) in rows.range((from, Bound::Unbounded)) {
            if version.key >= self.to {
                return;
            }
            if version.seqno.0 < self.seqno && self.last.as_ref() != Some(&version.key) {
                self.last = Some(version.key.clone());
                self.copied.push_back((version.key.clone(), found.clone()));
            }
            looks += 1;
            if looks == self.looks {
                self.looks = (2 * looks).min(MOST_LOOKS);
                self.from = Some(Bound::Excluded(version.clone()));
                return;
            }
        }
    }
}

impl Iterator for Scan {
    type Item = (Slice, Found);

    fn next(&mut self) -> Option<Self::Item> {
        while self.copied.is_empty()
            && let Some(from) = self.from.take()
        {
            self.copy(from);
        }
        self.copied.pop_front()
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

    /// Those that tables have by now, by their addresses, and their bytes.
    pub(super) fn flushed(&self) -> Vec<(usize, u64)> {
        let flushed = self
            .newest_first()
            .filter(|one| one.is_flushed.load(Ordering::Relaxed));
        flushed
            .map(|one| (Arc::as_ptr(one).addr(), one.bytes()))
            .collect()
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
                copied: VecDeque::new(),
                last: None,
                looks: FIRST_LOOKS,
            };
            scan.map(move |(key, found)| (key, age, found))
        };
        let seen = self.newest_first().filter(|table| !table.is_hidden(seqno));
        let scans: Vec<_> = seen.enumerate().map(scan).collect();
        scans
            .into_iter()
            .kmerge_by(|one, other| (&one.0, one.1) < (&other.0, other.1))
            .dedup_by(|newest, older| newest.0 == older.0)
            .map(|(key, _, found)| (key, found))
    }
}

/// Hands over the newest versions of what is in sealed memtables, as the tables want them.
///
/// Nobody needs the older ones there: a view finds the tables only if it is taken at a number above that of their registration,
/// and so above every row's in them; all others have the memtables.
pub(super) fn with_newest<T>(
    sealed: &[Arc<Memtable>],
    write: impl FnOnce(&mut dyn Iterator<Item = lsm_tree::Result<InternalValue>>) -> T,
) -> T {
    let locked: Vec<_> = sealed.iter().map(|table| table.rows.read()).collect();
    let all = locked.iter().map(|rows| rows.iter());
    let mut newest = all
        .kmerge_by(|one, other| one.0 < other.0)
        .dedup_by(|newest, older| newest.0.key == older.0.key)
        .map(|(version, found)| {
            let (key, seqno) = (version.key.clone(), version.seqno.0);
            Ok(match found {
                Some(value) => {
                    InternalValue::from_components(key, value.clone(), seqno, ValueType::Value)
                }
                None => InternalValue::new_tombstone(key, seqno),
            })
        });
    write(&mut newest)
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
    fn a_table_gets_the_newest_versions_deletions_included() {
        let all = three().seal().unwrap();
        let rows: Vec<_> = with_newest(&all.sealed, |rows| rows.map(Result::unwrap).collect());
        let told = |row: &InternalValue| {
            let key = str::from_utf8(&row.key.user_key).unwrap();
            format!(
                "{key}{}{}",
                row.key.seqno,
                if row.is_tombstone() { "-" } else { "" }
            )
        };
        assert_eq!(rows.iter().map(told).join(" "), "a4 b3- c1");
        let left = all.without(&all.sealed[..2]);
        assert_eq!(
            (left.sealed.len(), seen(&left, 9)),
            (1, vec![row("a", "4")])
        );
    }

    #[test]
    fn versions_that_a_view_does_not_see_cost_it_no_long_lock() {
        let memtables = Memtables::default();
        memtables.active.insert(1, [row("a", "1"), row("z", "1")]);
        for seqno in 2..10_000 {
            memtables
                .active
                .insert(seqno, [row("a", "2"), row("m", "2")]);
        }
        let mut scan = Scan {
            memtable: Arc::clone(&memtables.active),
            seqno: 5_000,
            from: Some(Bound::Unbounded),
            to: "~".into(),
            copied: VecDeque::new(),
            last: None,
            looks: FIRST_LOOKS,
        };
        let (mut rows, mut turns) = (Vec::new(), 0);
        while let Some(from) = scan.from.take() {
            scan.copy(from);
            rows.extend(scan.copied.drain(..));
            turns += 1;
        }
        assert_eq!(rows, [row("a", "2"), row("m", "2"), row("z", "1")]);
        assert!(turns > 2 * 10_000 / MOST_LOOKS, "{turns}");
        let early: Vec<_> = memtables.range(b"", b"~", 2).collect();
        assert_eq!(early, [row("a", "1"), row("z", "1")]);
        assert!(memtables.active.is_hidden(1) && !memtables.active.is_hidden(2));
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
