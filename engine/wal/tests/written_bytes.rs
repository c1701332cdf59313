//! What a sync of a small batch costs the device. Large folios in the page cache would make it up to
//! 1 MiB for a few hundred bytes; this is the test that nothing brings them in.
#![allow(clippy::unwrap_used)] // Also in helpers that are not themselves tests.

mod common;

use common::{IDENTITY, batch_of, config, entry};
use pontoon_wal::{FsDirectory, Log};
use std::path::Path;

const SYNCS: u64 = 200;
const SEGMENT: u64 = 4 << 20;

/// What this thread has caused to be written to devices, by the kernel's account: pages are counted when they
/// get dirty, whole folios at a time, by a write or through a map.
fn written_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    line.unwrap().parse().unwrap()
}

/// Appends and syncs small batches; checks what each cost, if the file system keeps that account.
fn measure(log: &mut Log<FsDirectory>, first: u64, accounted: bool) {
    let (start, position) = (written_bytes(), log.end());
    for index in first..first + SYNCS {
        log.append(&batch_of(&[entry(1, 1, index, &[7; 400])]))
            .unwrap();
        log.sync().unwrap();
    }
    assert_eq!(
        log.end().generation(),
        position.generation(),
        "no roll-over in between"
    );
    let laid = u64::from(log.end().offset() - position.offset()) / SYNCS;
    assert!(laid <= 600, "{laid} bytes laid per sync");
    let written = (written_bytes() - start) / SYNCS;
    if accounted {
        assert!(
            (400..=8192).contains(&written),
            "{written} bytes written per sync"
        );
    } else {
        assert_eq!(
            written, 0,
            "a file system without an account counts nothing"
        );
    }
}

#[test]
fn a_sync_of_a_small_batch_writes_at_most_two_pages() {
    // The build's directory is on a disk even where the system's temporary one is memory.
    let directory = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let open = || {
        let disk = FsDirectory::open(directory.path()).unwrap();
        Log::open(disk, config(SEGMENT), IDENTITY).unwrap().0
    };
    let before = written_bytes();
    let mut log = open();
    // Making the first segment wrote all of it. In memory (tmpfs) nothing is ever counted.
    let accounted = written_bytes() - before >= SEGMENT;
    measure(&mut log, 1, accounted);
    drop(log);
    // Recovery has read the segment in large pieces; going on in it must not cost more for that.
    measure(&mut open(), 1 + SYNCS, accounted);
}
