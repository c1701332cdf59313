//! Reading one version.

use super::LsmStore;
use super::background::Shared;
use super::memtable::{Found, Memtables};
use super::pins::{Hold, Pin};
use crate::{Row, StoreError, View};
use bytes::Bytes;
use itertools::{EitherOrBoth, Itertools};
use lsm_tree::{AbstractTree, Guard, SeqNo, Slice, Tree};
use std::cmp::Ordering;
use std::sync::Arc;

/// An immutable version of an [`LsmStore`](crate::LsmStore).
#[derive(Clone)]
pub struct LsmView(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    version: Version,
}

/// How a version is kept.
enum Version {
    /// The tree finds it by its number, and keeps all that are newer, too.
    Pinned(Pin),
    /// It is in our own hands, and the tree may forget it.
    Held {
        memtables: Arc<Memtables>,
        seqno: SeqNo,
        read: Box<ReadTables>,
        _hold: Hold,
    },
}

type TableRows = Box<dyn Iterator<Item = lsm_tree::Result<(Slice, Slice)>> + Send>;
type ReadTables = dyn Fn(&[u8], &[u8]) -> TableRows + Send + Sync;

impl LsmView {
    pub(super) fn pinned(shared: Arc<Shared>) -> Self {
        let version = Version::Pinned(shared.pins.pin());
        Self(Arc::new(Inner { shared, version }))
    }

    /// It keeps the memtables and tables of the present version, and nothing that comes after.
    ///
    /// The store is borrowed so that nobody writes meanwhile. Then no row has a newer number than the view, so whatever
    /// the latest version has forgotten of older ones, what the view sees is in it.
    pub(super) fn held(store: &LsmStore) -> Self {
        let shared = Arc::clone(&store.shared);
        // Before the tables, so that what is flushed meanwhile is in both and not in neither.
        let (memtables, seqno) = shared.pins.visible();
        let (version, hold) = loop {
            let present = shared.tree.current_version();
            let tables = present.iter_tables().map(|table| table.id());
            // Before it can be known whether it is the one: what goes out of it after that stays on the disk.
            let hold = shared.pins.hold(tables.collect());
            let version = shared.tree.get_version_history_lock().latest_version();
            if shared.tree.current_version().id() == present.id() {
                break (version, hold);
            }
        };
        let read = move |from: &[u8], to: &[u8]| -> TableRows {
            let range = Slice::from(from)..Slice::from(to);
            let rows = Tree::create_internal_range(version.clone(), &range, seqno, None);
            Box::new(rows.map(|row| row.map(|row| (row.key.user_key, row.value))))
        };
        let version = Version::Held {
            memtables,
            seqno,
            read: Box::new(read),
            _hold: hold,
        };
        Self(Arc::new(Inner { shared, version }))
    }
}

impl Inner {
    fn memtables(&self) -> (&Memtables, SeqNo) {
        match &self.version {
            Version::Pinned(pin) => (pin.memtables(), pin.seqno()),
            Version::Held {
                memtables, seqno, ..
            } => (memtables, *seqno),
        }
    }

    fn table_rows(&self, from: &[u8], to: &[u8]) -> TableRows {
        match &self.version {
            Version::Pinned(pin) => {
                let rows = self.shared.tree.range(from..to, pin.seqno(), None);
                Box::new(rows.map(Guard::into_inner))
            }
            Version::Held { read, .. } => read(from, to),
        }
    }

    fn rows(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> impl Iterator<Item = lsm_tree::Result<(Slice, Slice)>> + Send + use<> {
        let (memtables, seqno) = self.memtables();
        overlay(memtables.range(from, to, seqno), self.table_rows(from, to))
    }
}

/// What the tables have, where the memtables do not know of anything newer.
fn overlay(
    memtables: impl Iterator<Item = (Slice, Found)> + Send,
    tables: impl Iterator<Item = lsm_tree::Result<(Slice, Slice)>> + Send,
) -> impl Iterator<Item = lsm_tree::Result<(Slice, Slice)>> + Send {
    let order = |newer: &(Slice, Found), older: &lsm_tree::Result<(Slice, Slice)>| match older {
        Ok((key, _)) => newer.0.cmp(key),
        // Told at once.
        Err(_) => Ordering::Greater,
    };
    let both = memtables.merge_join_by(tables, order);
    both.filter_map(|row| match row {
        EitherOrBoth::Right(older) => Some(older),
        EitherOrBoth::Left((key, found)) | EitherOrBoth::Both((key, found), _) => {
            found.map(|value| Ok((key, value)))
        }
    })
}

impl View for LsmView {
    fn kept_memory(&self) -> Vec<(usize, u64)> {
        self.0.memtables().0.flushed()
    }

    fn get(&self, stored_key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let Inner { shared, version } = &*self.0;
        let (memtables, seqno) = self.0.memtables();
        if let Some(found) = memtables.get(stored_key, seqno) {
            return Ok(found.map(own));
        }
        let found = match version {
            Version::Pinned(pin) => shared.tree.get(stored_key, pin.seqno()),
            Version::Held { read, .. } => {
                let behind = [stored_key, &[0]].concat();
                let row = read(stored_key, &behind).next().transpose();
                row.map(|row| row.map(|(_, value)| value))
            }
        };
        let value = found.map_err(|error| shared.read_error(error, stored_key, stored_key))?;
        Ok(value.map(own))
    }

    fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> impl Iterator<Item = Result<Row, StoreError>> + Send + use<'a> {
        // The tree takes an inverted range for a bug of its caller.
        let rows = (from < to).then(|| self.0.rows(from, to));
        let keep = Arc::clone(&self.0);
        let (mut last, to) = (Slice::from(from), Slice::from(to));
        rows.into_iter().flatten().map(move |row| {
            let (key, value) = row.map_err(|error| keep.shared.read_error(error, &last, &to))?;
            last = key.clone();
            Ok((own(key), own(value)))
        })
    }
}

/// What was read, for whoever wants it. Small rows are copied, so that one that waits to be sent does
/// not keep its block of 4 KiB alive.
fn own(row: Slice) -> Bytes {
    if row.len() < 1024 {
        Bytes::copy_from_slice(&row)
    } else {
        Bytes::from_owner(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{self, Space};
    use crate::{LsmSettings, Store as _, WriteBatch};
    use pontoon_types::TabletId;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::sync::mpsc::sync_channel;

    const TABLET: TabletId = TabletId(7);
    const KEYS: usize = 64;
    const FLUSHES: u64 = 40;

    /// The one number that all rows hold; zero if there is none yet.
    fn number(view: &LsmView) -> u64 {
        let prefix = keys::prefix(TABLET, Space::Data);
        let end = keys::prefix_end(TABLET, Space::Data);
        let rows: Vec<_> = view.range(&prefix, &end).map(Result::unwrap).collect();
        let Some((_, value)) = rows.first() else {
            return 0;
        };
        assert_eq!(rows.len(), KEYS);
        for (key, found) in &rows {
            assert_eq!(
                (found, view.get(key).unwrap().as_ref()),
                (value, Some(value))
            );
        }
        u64::from_be_bytes(value[..8].try_into().unwrap())
    }

    fn write(store: &mut LsmStore, number: u64) {
        let mut batch = WriteBatch::new();
        let mut value = number.to_be_bytes().to_vec();
        value.resize(100, 0);
        for n in 0..KEYS {
            batch.put(TABLET, Space::Data, format!("{n:04}").as_bytes(), &value);
        }
        store.write(&mut batch).unwrap();
    }

    #[test]
    fn whatever_is_sealed_and_flushed_meanwhile_views_see_whole_batches_and_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let settings = LsmSettings {
            memtable_bytes: 256 << 10,
            ..LsmSettings::default()
        };
        let mut store = LsmStore::open(dir.path(), settings).unwrap();
        let (shared, monitor) = (Arc::clone(&store.shared), store.monitor());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (views, taken) = sync_channel::<(LsmView, u64)>(4);
            scope.spawn(move || {
                for (view, expected) in taken {
                    assert_eq!(number(&view), expected);
                }
            });
            // This one takes them in the middle of batches, too.
            let done = &done;
            scope.spawn(move || {
                let mut last = 0;
                while !done.load(Relaxed) {
                    let seen = number(&LsmView::pinned(Arc::clone(&shared)));
                    assert!(seen >= last, "{seen} after {last}");
                    last = seen;
                }
                assert!(last > 0);
            });
            let mut last = 0;
            while monitor.stats().flushes < FLUSHES {
                last += 1;
                write(&mut store, last);
                let view = match last % 7 {
                    0 => store.hold(),
                    3 => store.view(),
                    _ => continue,
                };
                views.send((view, last)).unwrap();
            }
            done.store(true, Relaxed);
        });
        store.flush().unwrap();
        assert_eq!(monitor.stats().sealed_memtables, 0);
    }

    #[test]
    fn what_a_view_keeps_in_memory_is_counted_from_when_the_store_lets_it_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = LsmStore::open(dir.path(), LsmSettings::default()).unwrap();
        write(&mut store, 1);
        let views = [store.hold(), store.hold(), store.view()];
        assert!(views.iter().all(|view| view.kept_memory().is_empty()));
        store.flush().unwrap();
        let kept = views[0].kept_memory();
        assert!(kept.len() == 1 && kept[0].1 > 100 * KEYS as u64, "{kept:?}");
        assert!(views.iter().all(|view| view.kept_memory() == kept));
        write(&mut store, 2);
        let later = store.hold();
        assert_eq!(later.kept_memory(), []);
        store.flush().unwrap();
        assert_ne!(later.kept_memory()[0].0, kept[0].0);
    }

    #[test]
    fn what_cannot_be_read_is_told_before_anything_that_may_lie_behind_it() {
        let newer = [("a".into(), None), ("b".into(), Some("new".into()))];
        let older = [
            Ok(("a".into(), "old".into())),
            Err(lsm_tree::Error::Unrecoverable),
            Ok(("c".into(), "old".into())),
        ];
        let rows: Vec<_> = overlay(newer.into_iter(), older.into_iter()).collect();
        assert!(rows[0].is_err());
        let told = |row: &lsm_tree::Result<(Slice, Slice)>| match row {
            Ok((key, value)) => Some((key.to_vec(), value.to_vec())),
            Err(_) => None,
        };
        let rows: Vec<_> = rows[1..].iter().map(told).collect();
        let row = |key: &str, value: &str| Some((key.into(), value.into()));
        assert_eq!(rows, [row("b", "new"), row("c", "old")]);
    }
}
