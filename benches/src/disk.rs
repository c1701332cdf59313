//! Places on a real disk, and the floor that a sync cannot get below.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use tempfile::TempDir;

/// `TMPFS_MAGIC` of `linux/magic.h`.
const TMPFS: u64 = 0x0102_1994;

/// An empty directory below `target`, for which benches give Cargo's `CARGO_TARGET_TMPDIR`. It goes
/// when it is dropped. Says so if it is in memory, where figures of syncs mean nothing.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn scratch(target: &str) -> TempDir {
    let directory = TempDir::new_in(target).expect("the target directory can be written");
    let system = rustix::fs::statfs(directory.path()).expect("a directory has a file system");
    if system.f_type as u64 == TMPFS {
        println!("note: {target} is in memory (tmpfs); what is said of syncs here means nothing");
    }
    directory
}

/// A zeroed file that is written and synced piece after piece, with nothing around it.
///
/// Its blocks exist and were written 64 KiB at a time: that is how a log finds its segments on ext4, and the page cache
/// then holds them in folios of that size, which makes large writes cheaper than single pages do.
#[derive(Debug)]
pub struct SyncFloor {
    file: File,
    cursor: usize,
}

impl SyncFloor {
    const BYTES: usize = 16 << 20;
    const PIECE: usize = 64 << 10;

    /// A floor on the file system of `directory`.
    ///
    /// # Panics
    /// If the file cannot be written.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        let file = tempfile::tempfile_in(directory).expect("the directory can be written");
        for piece in 0..Self::BYTES / Self::PIECE {
            file.write_all_at(&[0; Self::PIECE], (piece * Self::PIECE) as u64)
                .expect("the disk has room for the floor");
        }
        file.sync_all().expect("the floor can be synced");
        Self { file, cursor: 0 }
    }

    /// Writes `bytes` behind the last ones, or at the front when the end is reached, and syncs.
    ///
    /// # Panics
    /// If there are more bytes than the file has, or the disk fails.
    pub fn write_and_sync(&mut self, bytes: &[u8]) {
        if self.cursor + bytes.len() > Self::BYTES {
            self.cursor = 0;
        }
        assert!(
            bytes.len() <= Self::BYTES,
            "a piece of {} bytes",
            bytes.len()
        );
        self.file
            .write_all_at(bytes, self.cursor as u64)
            .expect("the floor can be written");
        self.file.sync_data().expect("the floor can be synced");
        self.cursor += bytes.len();
    }
}
