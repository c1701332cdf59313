//! The floor: how fast the disk syncs when there is nothing else to do.
//!
//! Three files, because a write of three replicas on one machine is synced in three logs; each is
//! written and synced by a thread of its own, at the same time as the others, 4 KiB at a time into
//! blocks that exist and are zeroed. That is the best that any log can do which syncs each write
//! alone, and what group commit is measured against.

use crate::error::Error;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Files that are synced at the same time.
pub const FILES: usize = 3;
const BLOCK: usize = 4096;
const BLOCKS: u64 = 1024;

/// What the probe found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    /// Syncs a second of each file, while all are synced.
    pub syncs_per_s: f64,
}

impl Floor {
    /// Between two probes: the disk of a shared machine is not the same before a load and after it.
    #[must_use]
    pub fn mean(self, other: Self) -> Self {
        Self {
            syncs_per_s: f64::midpoint(self.syncs_per_s, other.syncs_per_s),
        }
    }
}

/// Probes the disk that holds `directory` for about `duration`. Blocks the thread.
///
/// # Errors
/// If the files cannot be made, written or synced.
pub fn probe(directory: &Path, duration: Duration) -> Result<Floor, Error> {
    let probing = || Error::file("probe the disk in", directory);
    let files = (0..FILES)
        .map(|_| zeroed_file(directory))
        .collect::<Result<Vec<_>, _>>()
        .map_err(probing())?;
    let start = Barrier::new(FILES);
    let rates = std::thread::scope(|scope| {
        let threads: Vec<_> = files
            .iter()
            .map(|file| {
                let start = &start;
                scope.spawn(move || sync_for(file, duration, start))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a probing thread does not panic"))
            .collect::<Result<Vec<f64>, _>>()
    })
    .map_err(probing())?;
    Ok(Floor {
        syncs_per_s: rates.iter().sum::<f64>() / FILES as f64,
    })
}

/// How fast the disk that holds `directory` takes `bytes` in one file, written one after the other and synced, in bytes a
/// second. Blocks the thread.
///
/// # Errors
/// If the file cannot be made, written or synced.
pub fn write_rate(directory: &Path, bytes: u64) -> Result<f64, Error> {
    const PIECE: usize = 1 << 20;
    let write = || {
        let mut file = tempfile::tempfile_in(directory)?;
        let piece = vec![0xA5; PIECE];
        let began = Instant::now();
        let mut left = bytes;
        while left > 0 {
            let next = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            file.write_all(&piece[..next])?;
            left -= next as u64;
        }
        file.sync_all()?;
        Ok(bytes as f64 / began.elapsed().as_secs_f64())
    };
    write().map_err(Error::file("probe the disk in", directory))
}

/// A file without a name, all of whose blocks exist.
fn zeroed_file(directory: &Path) -> std::io::Result<File> {
    let file = tempfile::tempfile_in(directory)?;
    for block in 0..BLOCKS {
        file.write_all_at(&[0; BLOCK], block * BLOCK as u64)?;
    }
    file.sync_all()?;
    Ok(file)
}

fn sync_for(file: &File, duration: Duration, start: &Barrier) -> std::io::Result<f64> {
    let block = [0xA5; BLOCK];
    start.wait();
    let began = Instant::now();
    let mut syncs = 0_u64;
    while began.elapsed() < duration {
        file.write_all_at(&block, syncs % BLOCKS * BLOCK as u64)?;
        file.sync_data()?;
        syncs += 1;
    }
    Ok(syncs as f64 / began.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_counts_syncs_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let floor = probe(directory.path(), Duration::from_millis(50)).unwrap();
        assert!(floor.syncs_per_s > 0.0);
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn the_rate_of_a_long_write_is_told_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        assert!(write_rate(directory.path(), (3 << 20) + 5).unwrap() > 0.0);
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = probe(Path::new("/no/such/place"), Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("/no/such/place"), "{error}");
    }
}
