//! What a sync of a small batch costs the device. A segment lies in large folios in the page cache; where the file system
//! wrote whole ones, this would be 64 KiB and more for a few hundred bytes.
#![allow(clippy::unwrap_used)] // Also in helpers that are not themselves tests.

mod common;

use common::{IDENTITY, batch_of, config, entry};
use pontoon_wal::{FsDirectory, Log};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

const SYNCS: u64 = 200;
const SEGMENT: u64 = 4 << 20;

/// The account of the device below a file system that has one of its own.
struct Device(PathBuf);

impl Device {
    fn below(directory: &Path) -> Option<Self> {
        let id = std::fs::metadata(directory).unwrap().dev();
        let (major, minor) = (rustix::fs::major(id), rustix::fs::minor(id));
        let stat = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
        stat.exists().then_some(Self(stat))
    }

    /// What was written to it, by whomever.
    fn written_bytes(&self) -> u64 {
        let stat = std::fs::read_to_string(&self.0).unwrap();
        let sectors: u64 = stat.split_whitespace().nth(6).unwrap().parse().unwrap();
        sectors * 512
    }
}

/// Appends and syncs small batches; checks what each cost.
fn measure(log: &mut Log<FsDirectory>, first: u64, device: &Device) {
    let position = log.end();
    let mut written = Vec::new();
    for index in first..first + SYNCS {
        log.append(&batch_of(&[entry(1, 1, index, &[7; 400])]))
            .unwrap();
        let before = device.written_bytes();
        log.sync().unwrap();
        written.push(device.written_bytes() - before);
    }
    assert_eq!(
        log.end().generation(),
        position.generation(),
        "no roll-over in between"
    );
    let laid = u64::from(log.end().offset() - position.offset()) / SYNCS;
    assert!(laid <= 600, "{laid} bytes laid per sync");
    // Others may write to the device too, but hardly during every sync.
    written.sort_unstable();
    let quartile = written[written.len() / 4];
    assert!(
        (512..=8192).contains(&quartile),
        "{quartile} bytes written per sync"
    );
}

#[test]
fn a_sync_of_a_small_batch_writes_at_most_two_pages() {
    // The build's directory is on a disk even where the system's temporary one is memory.
    let directory = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let Some(device) = Device::below(directory.path()) else {
        eprintln!("no device below: nothing is measured");
        return;
    };
    let open = || {
        let disk = FsDirectory::open(directory.path()).unwrap();
        Log::open(disk, config(SEGMENT), IDENTITY).unwrap().0
    };
    measure(&mut open(), 1, &device);
    // Recovery has read the segment in large pieces; going on in it must not cost more for that.
    measure(&mut open(), 1 + SYNCS, &device);
}
