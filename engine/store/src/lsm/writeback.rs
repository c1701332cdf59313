//! Tables go to the disk while they are being written.
//!
//! The tree writes a table of many megabytes into the page cache and syncs it when it is whole. The disk then has all of it
//! before it at once, and every sync of the log waits behind that. So a thread beside those that write tables has the kernel
//! begin with each piece as soon as it is there. It does not wait for the disk, and nothing depends on it: the tree's own sync
//! is the one that counts.

use super::background::{DeathWatch, Shared};
use super::preflight::TABLE_DIRECTORY;
use lsm_tree::{AbstractTree, TableId};
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// How often it is looked what has been written.
const EVERY: Duration = Duration::from_millis(10);
/// So much of a table is written back at once.
const PIECE_BYTES: u64 = 1 << 20;
/// A table that has not grown in so many looks is whole, or was never begun.
const MAX_LOOKS: u32 = 1_000;

impl Shared {
    /// Body of the thread.
    pub(super) fn write_back_until_stopped(&self) {
        let _guard = DeathWatch::of(self, "writeback");
        let mut tables = Growing::behind(self.tree.next_table_id());
        let mut state = self.state.lock();
        while !state.stop {
            if state.writes_tables() {
                drop(state);
                thread::sleep(EVERY);
                tables.look(self.tree.next_table_id(), &self.path.join(TABLE_DIRECTORY));
                state = self.state.lock();
            } else {
                tables.0.clear();
                self.changed.wait(&mut state);
            }
        }
    }
}

/// The tables that are being written, and the number of the next one.
struct Growing(Vec<Table>, TableId);

struct Table {
    id: TableId,
    /// `None` until it is there.
    file: Option<File>,
    bytes: u64,
    /// How much of them the kernel has been told to write.
    begun_bytes: u64,
    /// How often it was looked at since it has grown.
    looks: u32,
}

impl Growing {
    const fn behind(next: TableId) -> Self {
        Self(Vec::new(), next)
    }

    /// Looks what has been written since the last time. Tables below `next` have been begun, or are about to be.
    fn look(&mut self, next: TableId, directory: &Path) {
        let Self(tables, last) = self;
        tables.extend((*last..next).map(Table::new));
        *last = next;
        tables.retain_mut(|table| {
            // An error here is the tree's to meet, too, and to handle.
            table.looks < MAX_LOOKS && table.look(directory).unwrap_or(false)
        });
    }
}

impl Table {
    const fn new(id: TableId) -> Self {
        Self {
            id,
            file: None,
            bytes: 0,
            begun_bytes: 0,
            looks: 0,
        }
    }

    /// Returns whether there may be more to come.
    fn look(&mut self, directory: &Path) -> io::Result<bool> {
        self.looks += 1;
        let file = match &self.file {
            Some(file) => file,
            None => match File::open(directory.join(self.id.to_string())) {
                Ok(file) => self.file.insert(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
                Err(error) => return Err(error),
            },
        };
        let metadata = file.metadata()?;
        if metadata.nlink() == 0 {
            // Its space is free only when nobody has it open.
            return Ok(false);
        }
        let before = self.bytes;
        if metadata.len() <= before {
            return Ok(true);
        }
        (self.bytes, self.looks) = (metadata.len(), 0);
        let piece = NonZero::new(self.bytes - self.begun_bytes);
        // One that was not seen to grow may be whole and synced.
        let piece = piece.filter(|piece| before > 0 && piece.get() >= PIECE_BYTES);
        if let Some(piece) = piece {
            // That a range is not needed makes the kernel begin to write it, and forget what is on the disk already
            // (mm/fadvise.c): of a table that is growing hardly anything. To sync it would wait, and commit the file system's
            // journal each time.
            fadvise(file, self.begun_bytes, Some(piece), Advice::DontNeed)?;
            self.begun_bytes = self.bytes;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    #[test]
    fn a_table_is_written_back_piece_by_piece_until_it_grows_no_more_or_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("7");
        let mut tables = Growing::behind(7);
        tables.look(8, dir.path());
        assert_eq!(tables.0.len(), 1, "it will be there soon");
        let mut file = File::create(&path).unwrap();
        let piece = vec![1; PIECE_BYTES as usize];
        for (bytes, pieces) in [(PIECE_BYTES, 0), (1, 1), (1, 1), (PIECE_BYTES, 2)] {
            file.write_all(&piece[..bytes as usize]).unwrap();
            tables.look(8, dir.path());
            let table = &tables.0[0];
            assert_eq!(table.begun_bytes / PIECE_BYTES, pieces);
            assert_eq!(table.bytes, file.metadata().unwrap().len());
        }
        for _ in 0..=MAX_LOOKS {
            tables.look(8, dir.path());
        }
        assert!(tables.0.is_empty(), "it is whole");
        fs::write(dir.path().join("8"), b"begun").unwrap();
        tables.look(9, dir.path());
        assert_eq!(tables.0.len(), 1);
        fs::remove_file(dir.path().join("8")).unwrap();
        tables.look(9, dir.path());
        assert!(tables.0.is_empty(), "it is gone");
    }
}
