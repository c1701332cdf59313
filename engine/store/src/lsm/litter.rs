//! Removing what failed work has left behind.
//!
//! A flush, a compaction or a staging that fails half-way, on a full disk above all, leaves the tables that it had begun. The
//! tree removes them when it is opened next. Until then they would hold the very space that everything waits for: a flush is
//! tried again and again, and each time would take what had been freed meanwhile, and leave it in one more such table.

use super::background::Shared;
use super::preflight;
use crate::StoreError;
use lsm_tree::AbstractTree;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::{fs, io};

impl Shared {
    /// Work that writes tables has failed.
    pub(super) fn note_litter(&self) {
        self.is_littered.store(true, Ordering::Release);
    }

    /// Removes what failed work has left, if there is any and it can be told from what is needed; otherwise a later call
    /// does. For the threads behind the store, between two pieces of work.
    pub(super) fn tidy(&self) {
        if !self.is_littered.load(Ordering::Acquire) {
            return;
        }
        match self.sweep() {
            Ok(None) => {}
            Ok(Some(files)) => {
                self.is_littered.store(false, Ordering::Release);
                tracing::info!(files, "removed what failed work had left of tables");
            }
            Err(error) => {
                tracing::warn!(%error, "what failed work has left of tables stays for now");
            }
        }
    }

    /// Removes the files that are no table of the tree; returns how many. `None`: that cannot be told at present.
    fn sweep(&self) -> Result<Option<usize>, StoreError> {
        let failed = |operation| {
            move |source: io::Error| StoreError::Io {
                operation,
                path: self.path.clone(),
                source: Arc::new(source),
            }
        };
        // A table that is being written belongs to no version yet.
        let Some(_alone) = self.writing.try_write() else {
            return Ok(None);
        };
        // One that was merged belongs to none any more, but views from before read it. They hold their version, or keep it
        // in the tree's history, and so does every read while it lasts.
        //
        // In this order: what goes out of the version after it was looked at is in it, and whoever held it before is in the
        // book.
        let version = self.tree.current_version();
        self.forget_versions();
        if self.tree.version_free_list_len() > 0 {
            return Ok(None);
        }
        // If a list of tables was written and could not be taken up, the next life goes by that one.
        if preflight::newest_version(&self.path)? != Some(version.id()) {
            return Ok(None);
        }
        let mut tables = self.pins.held_tables();
        tables.extend(version.iter_tables().map(|table| table.id()));
        let directory = self.path.join(preflight::TABLE_DIRECTORY);
        let mut removed = 0;
        for entry in fs::read_dir(directory).map_err(failed("list its tables"))? {
            let path = entry.map_err(failed("list its tables"))?.path();
            let id = path
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok());
            if id.is_some_and(|id| !tables.contains(&id)) {
                fs::remove_file(&path).map_err(failed("remove a file"))?;
                removed += 1;
            }
        }
        Ok(Some(removed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Space, stored_key};
    use crate::{LsmSettings, LsmStore, Stager, Store, View, WriteBatch};
    use pontoon_types::{GroupId, LogIndex, TabletId};
    use std::path::PathBuf;

    fn write(store: &mut LsmStore, index: u64) {
        let mut batch = WriteBatch::new();
        batch.put(TabletId(1), Space::Data, b"k", &index.to_be_bytes());
        batch.set_applied(GroupId(1), LogIndex(index));
        store.write(&mut batch).unwrap();
        store.flush().unwrap();
    }

    /// What is left of a table that somebody began.
    fn litter(shared: &Shared) -> PathBuf {
        let id = shared.tree.get_next_table_id();
        let tables = shared.path.join(preflight::TABLE_DIRECTORY);
        let path = tables.join(id.to_string());
        fs::write(&path, b"the beginning of a table").unwrap();
        shared.note_litter();
        path
    }

    #[test]
    fn what_is_no_table_goes_and_what_is_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = LsmStore::open(dir.path(), LsmSettings::default()).unwrap();
        for index in 1..=3 {
            write(&mut store, index);
        }
        store.wait_for_compaction().unwrap();
        let left = litter(&store.shared);
        store.shared.tidy();
        assert!(!left.exists());
        let stored = stored_key(TabletId(1), Space::Data, b"k");
        assert_eq!(
            store.get(&stored).unwrap().unwrap()[..],
            3_u64.to_be_bytes()
        );
        drop(store);
        LsmStore::open(dir.path(), LsmSettings::default()).unwrap();
    }

    /// A file where the next table is to be written, so that it cannot be.
    fn obstacle(shared: &Shared) -> PathBuf {
        let next = shared.tree.get_next_table_id() + 1;
        let tables = shared.path.join(preflight::TABLE_DIRECTORY);
        let path = tables.join(next.to_string());
        fs::write(&path, b"in the way").unwrap();
        path
    }

    #[test]
    fn work_that_failed_is_cleaned_up_after() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = LsmStore::open(dir.path(), LsmSettings::default()).unwrap();
        let in_the_way = obstacle(&store.shared);
        let mut stager = store.stager(TabletId(2)).unwrap();
        let failed = stager.push(b"dk", b"v").and_then(|()| stager.finish());
        assert!(failed.is_err() && !in_the_way.exists());
        let mut stager = store.stager(TabletId(3)).unwrap();
        stager.push(b"dk", b"v").unwrap();
        stager.finish().unwrap();

        store.wait_for_compaction().unwrap();
        let in_the_way = obstacle(&store.shared);
        let mut batch = WriteBatch::new();
        batch.put(TabletId(1), Space::Data, b"k", b"v");
        store.write(&mut batch).unwrap();
        assert!(store.flush().is_err() && !in_the_way.exists());
    }

    #[test]
    fn nothing_goes_while_a_table_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = LsmStore::open(dir.path(), LsmSettings::default()).unwrap();
        let left = litter(&store.shared);
        let writing = store.shared.writing.read();
        store.shared.tidy();
        assert!(left.exists());
        drop(writing);
        store.shared.tidy();
        assert!(!left.exists());
    }

    #[test]
    fn nothing_goes_while_the_next_life_would_go_by_another_list_of_tables() {
        let dir = tempfile::tempdir().unwrap();
        let store = LsmStore::open(dir.path(), LsmSettings::default()).unwrap();
        let left = litter(&store.shared);
        let current = dir.path().join("current");
        let right = fs::read(&current).unwrap();
        let mut ahead = right.clone();
        ahead[0] += 1;
        fs::write(&current, ahead).unwrap();
        store.shared.tidy();
        assert!(left.exists());
        fs::write(&current, right).unwrap();
        store.shared.tidy();
        assert!(!left.exists());
    }

    #[test]
    fn nothing_goes_that_an_old_view_reads() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = LsmStore::open(dir.path(), LsmSettings::default()).unwrap();
        write(&mut store, 1);
        let old = store.view();
        let stored = stored_key(TabletId(1), Space::Data, b"k");
        // Enough of them that they are merged and the first table is the view's alone.
        for index in 2..=9 {
            write(&mut store, index);
            store.wait_for_compaction().unwrap();
        }
        let left = litter(&store.shared);
        store.shared.tidy();
        assert_eq!(old.get(&stored).unwrap().unwrap()[..], 1_u64.to_be_bytes());
        assert!(left.exists());
        drop(old);
        store.shared.tidy();
        assert!(!left.exists());
    }

    #[test]
    fn what_a_held_version_reads_stays_and_the_rest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = LsmStore::open(dir.path(), LsmSettings::default()).unwrap();
        write(&mut store, 1);
        let held = store.hold();
        let version = store.shared.tree.current_version();
        let table = version.iter_tables().next().unwrap().path.to_path_buf();
        drop(version);
        let stored = stored_key(TabletId(1), Space::Data, b"k");
        for index in 2..=9 {
            write(&mut store, index);
            store.wait_for_compaction().unwrap();
        }
        let left = litter(&store.shared);
        store.shared.tidy();
        assert!(table.exists() && !left.exists());
        assert_eq!(held.get(&stored).unwrap().unwrap()[..], 1_u64.to_be_bytes());
        drop(held);
        assert!(!table.exists());
    }
}
