//! The format's golden files: a log of version 1, written by this code, byte for byte.
//!
//! A test that fails here has found a change of the format. If the change is wanted, it needs a new version
//! and a golden file of its own; the files of older versions stay, and must still be read.
#![allow(clippy::unwrap_used)] // Also in helpers that are not themselves tests.

mod common;

use common::{IDENTITY, entry, hard_state, position};
use pontoon_types::{GroupId, LogIndex, ReplicaId, Term};
use pontoon_wal::{BatchBuilder, Directory, Log, LogFile, MemoryDisk, RecordKind, WalConfig};
use std::fmt::Write;

const SEGMENT: &str = "0000000001.seg";
const MARK: &str = "durable.mark";
const LINE_BYTES: usize = 16;

const GOLDEN_SEGMENT: &str = include_str!("golden/v1-segment.hex");
const GOLDEN_MARK: &str = include_str!("golden/v1-mark.hex");
const GOLDEN_REPLICAS: &str = include_str!("golden/v1-replicas-segment.hex");
const GOLDEN_REWRITTEN: &str = include_str!("golden/v1-rewritten-segment.hex");

fn config() -> WalConfig {
    WalConfig {
        segment_bytes: WalConfig::MIN_SEGMENT_BYTES,
        max_bytes: 4 * WalConfig::MIN_SEGMENT_BYTES,
        ..WalConfig::default()
    }
}

/// Entries, hard states and a compaction over two batches, and the checkpoints of two openings.
fn write_log() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let (mut log, _) = Log::open(disk.clone(), config(), IDENTITY).unwrap();
    let mut batch = BatchBuilder::new();
    batch.append(&entry(1, 2, 1, b"first"));
    batch.append(&entry(1, 2, 2, b"second"));
    batch.append(&entry(9, 1, 1, b""));
    batch.hard_state(GroupId(1), &hard_state(2, Some(3), 1));
    log.append(&batch.seal()).unwrap();
    log.sync().unwrap();
    batch.append(&entry(9, 4, 1, b"instead"));
    batch.hard_state(GroupId(9), &hard_state(4, None, 0));
    batch.compact(GroupId(1), position(2, 1));
    log.append(&batch.seal()).unwrap();
    log.sync().unwrap();
    drop(log);
    drop(Log::open(disk.clone(), config(), IDENTITY).unwrap());
    disk
}

/// A snapshot that is installed and kept, one that is let go, and a removed replica; then the checkpoint of
/// another opening.
fn write_replicas() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let (mut log, _) = Log::open(disk.clone(), config(), IDENTITY).unwrap();
    let mut batch = BatchBuilder::new();
    batch.append(&entry(1, 2, 1, b"forgotten"));
    batch.install_snapshot(
        GroupId(1),
        position(3, 7),
        b"switch to this".as_slice().into(),
    );
    batch.compact(GroupId(1), position(3, 6));
    batch.install_snapshot(GroupId(5), position(1, 2), b"flushed".as_slice().into());
    batch.compact(GroupId(5), position(1, 2));
    batch.hard_state(GroupId(9), &hard_state(4, None, 0));
    batch.tombstone(GroupId(9), ReplicaId(12));
    log.append(&batch.seal()).unwrap();
    log.sync().unwrap();
    drop(log);
    drop(Log::open(disk.clone(), config(), IDENTITY).unwrap());
    disk
}

/// An entry of an idle group, written again into the only segment that is left; and that segment's name.
fn write_rewritten() -> (MemoryDisk, String) {
    let disk = MemoryDisk::new();
    let config = WalConfig {
        recovery_bytes: 0,
        ..config()
    };
    let (mut log, _) = Log::open(disk.clone(), config, IDENTITY).unwrap();
    let mut batch = BatchBuilder::new();
    batch.append(&entry(9, 3, 1, b"written twice"));
    log.append(&batch.seal()).unwrap();
    let mut index = 0;
    while log.stats().entries_rewritten == 0 || log.stats().segments_live > 1 {
        index += 1;
        batch.append(&entry(1, 2, index, &[0; 3_000]));
        batch.compact(GroupId(1), position(2, index));
        log.append(&batch.seal()).unwrap();
        log.sync().unwrap();
        log.maintain().unwrap();
    }
    log.sync().unwrap();
    let name = format!("{:010}.seg", log.end().generation());
    (disk, name)
}

/// Lines of an offset and sixteen bytes; lines of zeros are left out.
fn to_hex(bytes: &[u8]) -> String {
    let mut text = format!("{:06x} bytes\n", bytes.len());
    for (number, line) in bytes.chunks(LINE_BYTES).enumerate() {
        if line.iter().any(|byte| *byte != 0) {
            write!(text, "{:06x} ", number * LINE_BYTES).unwrap();
            for byte in line {
                write!(text, " {byte:02x}").unwrap();
            }
            text.push('\n');
        }
    }
    text
}

fn from_hex(text: &str) -> Vec<u8> {
    let number = |text| usize::from_str_radix(text, 16).unwrap();
    let mut lines = text.lines();
    let length = lines.next().unwrap().strip_suffix(" bytes").unwrap();
    let mut bytes = vec![0; number(length)];
    for line in lines {
        let mut words = line.split_whitespace();
        let offset = number(words.next().unwrap());
        for (at, byte) in (offset..).zip(words) {
            bytes[at] = u8::from_str_radix(byte, 16).unwrap();
        }
    }
    bytes
}

#[test]
fn what_is_written_are_the_bytes_of_the_golden_files() {
    let (log, replicas) = (write_log(), write_replicas());
    let (rewritten, last) = write_rewritten();
    for (disk, name, golden) in [
        (&log, SEGMENT, GOLDEN_SEGMENT),
        (&log, MARK, GOLDEN_MARK),
        (&replicas, SEGMENT, GOLDEN_REPLICAS),
        (&rewritten, &last, GOLDEN_REWRITTEN),
    ] {
        let written = to_hex(&disk.contents(name).unwrap());
        assert!(written == golden, "{name} is now\n{written}");
    }
}

fn disk_of(files: &[(&str, &str)]) -> MemoryDisk {
    let disk = MemoryDisk::new();
    for (name, golden) in files {
        let bytes = from_hex(golden);
        let file = disk.create(name).unwrap();
        file.allocate(bytes.len() as u64).unwrap();
        file.write_at(0, &bytes).unwrap();
        file.sync().unwrap();
    }
    disk.sync().unwrap();
    disk
}

#[test]
fn the_golden_files_are_read() {
    let disk = disk_of(&[(SEGMENT, GOLDEN_SEGMENT), (MARK, GOLDEN_MARK)]);
    let (log, recovered) = Log::open(disk, config(), IDENTITY).unwrap();
    let report = &recovered.report;
    assert_eq!((&report.damage[..], report.torn_bytes), (&[][..], 0));
    assert!(report.mark_found);
    assert_eq!(report.durable, report.end);
    let kinds = [
        (RecordKind::Entry, 4),
        (RecordKind::HardState, 2),
        (RecordKind::Compact, 1),
        (RecordKind::Checkpoint, 2),
        (RecordKind::Segments, 2),
    ];
    assert!(report.records.iter().eq(kinds.iter().map(|(k, n)| (k, n))));

    let one = &recovered.groups[&GroupId(1)];
    assert_eq!(one.hard_state, hard_state(2, Some(3), 1));
    assert_eq!((one.compacted, one.last), (position(2, 1), LogIndex(2)));
    let nine = &recovered.groups[&GroupId(9)];
    assert_eq!(nine.hard_state, hard_state(4, None, 0));
    assert_eq!(nine.terms, [(LogIndex(1), Term(4))]);
    for entry in [entry(1, 2, 2, b"second"), entry(9, 4, 1, b"instead")] {
        let (group, index) = (entry.group(), entry.index());
        let read = log.reader().read(group, index, index, usize::MAX).unwrap();
        assert_eq!(read, [entry]);
    }
}

#[test]
fn the_golden_file_of_replicas_is_read() {
    let disk = disk_of(&[(SEGMENT, GOLDEN_REPLICAS)]);
    let (_, recovered) = Log::open(disk, config(), IDENTITY).unwrap();
    let report = &recovered.report;
    assert_eq!((&report.damage[..], report.torn_bytes), (&[][..], 0));
    let kinds = [
        (RecordKind::Entry, 1),
        (RecordKind::HardState, 1),
        (RecordKind::Compact, 2),
        (RecordKind::Checkpoint, 3),
        (RecordKind::SnapshotInstall, 2),
        (RecordKind::Tombstone, 1),
        (RecordKind::Segments, 2),
    ];
    assert!(report.records.iter().eq(kinds.iter().map(|(k, n)| (k, n))));

    let [one, five, nine] = [1, 5, 9].map(|group| &recovered.groups[&GroupId(group)]);
    let installed = one.installed.as_ref().unwrap();
    assert_eq!(
        (one.compacted, installed.last),
        (position(3, 7), position(3, 7))
    );
    assert_eq!(installed.payload, b"switch to this".as_slice());
    assert_eq!((five.compacted, &five.installed), (position(1, 2), &None));
    assert_eq!(
        (nine.removed, nine.last),
        (Some(ReplicaId(12)), LogIndex(0))
    );
    assert_eq!(nine.hard_state, hard_state(0, None, 0));
}

#[test]
fn the_golden_file_of_a_rewritten_entry_is_read() {
    let (_, name) = write_rewritten();
    let disk = disk_of(&[(&name, GOLDEN_REWRITTEN)]);
    let (log, recovered) = Log::open(disk, config(), IDENTITY).unwrap();
    assert_eq!(recovered.report.damage, []);
    assert_eq!(recovered.report.records[&RecordKind::Rewrite], 1);
    let read = log.reader().read(GroupId(9), LogIndex(1), LogIndex(1), 1);
    assert_eq!(read.unwrap(), [entry(9, 3, 1, b"written twice")]);
}
