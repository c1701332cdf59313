//! What the map of a long log holds in memory: not the segments that are full.
#![allow(clippy::unwrap_used)] // Also in helpers that are not themselves tests.

mod common;

use common::{IDENTITY, batch_of, config, entry};
use pontoon_types::{GroupId, LogIndex};
use pontoon_wal::{FsDirectory, Log};
use std::path::Path;

const SEGMENT: u64 = 1 << 20;
const SEGMENTS: u64 = 12;

/// Resident bytes of this process's maps of files in a directory.
fn resident(directory: &Path) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut is_ours, mut kib) = (false, 0);
    for line in maps.lines() {
        if let Some(size) = line.strip_prefix("Rss:") {
            let size = size.trim().strip_suffix(" kB").unwrap();
            kib += size.parse::<u64>().unwrap() * u64::from(is_ours);
        } else if line.contains('-') && line.contains('/') {
            is_ours = line.contains(&*directory.to_string_lossy());
        }
    }
    kib << 10
}

#[test]
fn a_full_segment_leaves_memory_and_is_read_all_the_same() {
    let directory = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let disk = FsDirectory::open(directory.path()).unwrap();
    let mut log = Log::open(disk, config(SEGMENT), IDENTITY).unwrap().0;
    assert!(resident(directory.path()) > SEGMENT / 2, "mapped ahead");
    let value = [7; 8000];
    let mut last = 0;
    while log.stats().segments_live < SEGMENTS {
        last += 1;
        log.append(&batch_of(&[entry(1, 1, last, &value)])).unwrap();
        if last % 16 == 0 {
            log.sync().unwrap();
        }
    }
    // The one that is written to, the next one, and those just left.
    let most = resident(directory.path());
    assert!(most <= 4 * SEGMENT, "{most} bytes are in memory");
    let read = log
        .reader()
        .read(GroupId(1), LogIndex(1), LogIndex(last), usize::MAX);
    let read = read.unwrap();
    assert_eq!(read.len() as u64, last);
    assert!(read.iter().all(|entry| entry.payload()[..] == value));
}
