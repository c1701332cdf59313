//! What is measured against: the least that the machine could do with the same bytes.

use super::Failure;
use pontoon_wal::{Record, SealedBatch};
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const PIECE: usize = 64 << 10;

/// A file of zeros in blocks that exist, written 64 KiB at a time as the log fills its own: the page cache then
/// holds it in folios of that size, which makes large writes cheaper than pages do and small ones hardly dearer.
pub(crate) fn zeroed_file(path: &Path, bytes: u64) -> Result<File, Failure> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)?;
    for piece in 0..bytes / PIECE as u64 {
        file.write_all_at(&[0; PIECE], piece * PIECE as u64)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// A zeroed file that is written and synced piece after piece, with nothing around it.
pub(crate) struct SyncFloor {
    file: File,
    piece: Vec<u8>,
    cursor: u64,
}

impl SyncFloor {
    const BYTES: u64 = 16 << 20;

    /// A floor for pieces of so many bytes.
    pub(crate) fn new(directory: &Path, piece_bytes: usize) -> Result<Self, Failure> {
        assert!(
            (piece_bytes as u64) < Self::BYTES,
            "a piece of {piece_bytes} bytes"
        );
        Ok(Self {
            file: zeroed_file(&directory.join("floor"), Self::BYTES)?,
            piece: vec![0xa5; piece_bytes],
            cursor: 0,
        })
    }

    /// Writes a piece behind the last one, or at the front when the end is reached, and syncs.
    pub(crate) fn write_and_sync(&mut self) -> Result<(), Failure> {
        if self.cursor + self.piece.len() as u64 > Self::BYTES {
            self.cursor = 0;
        }
        self.file.write_all_at(&self.piece, self.cursor)?;
        self.file.sync_data()?;
        self.cursor += self.piece.len() as u64;
        Ok(())
    }
}

/// Memory that entries are copied into, round about, after their CRC32C was taken.
pub(crate) struct CopyFloor {
    memory: Vec<u8>,
    cursor: usize,
}

impl CopyFloor {
    pub(crate) fn new() -> Self {
        // Not 0, for which the system would hand out pages that are not there yet.
        let memory = vec![1; 16 << 20];
        Self { memory, cursor: 0 }
    }

    pub(crate) fn take(&mut self, batch: &SealedBatch) {
        for record in batch.records() {
            let Record::Entry(entry) = record else {
                continue;
            };
            let bytes = entry.as_bytes();
            if self.cursor + bytes.len() > self.memory.len() {
                self.cursor = 0;
            }
            black_box(crc32c::crc32c(bytes));
            self.memory[self.cursor..][..bytes.len()].copy_from_slice(bytes);
            self.cursor += bytes.len();
        }
        black_box(&self.memory);
    }
}
