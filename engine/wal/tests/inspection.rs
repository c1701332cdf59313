//! What `pontoon wal verify`, `pontoon wal stat` and `pontoon wal dump` see, on real files.
#![allow(clippy::unwrap_used)] // Also in helpers that are not themselves tests.

mod common;

use common::{IDENTITY, batch_of, config, entry, hard_state, position};
use pontoon_types::{GroupId, LogIndex, Term};
use pontoon_wal::inspect::{self, Content, LoggedRecord};
use pontoon_wal::{BatchBuilder, Directory, FsDirectory, Log, LogFile, RecordKind, WalError};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SEGMENT: u64 = 64 << 10;

fn write_log(directory: &Path) {
    let disk = FsDirectory::open(directory).unwrap();
    let (mut log, _) = Log::open(disk, config(SEGMENT), IDENTITY).unwrap();
    for index in 1..=100 {
        let mut batch = BatchBuilder::new();
        batch.append(&entry(1, 3, index, &[1; 1_000]));
        batch.append(&entry(2, 3, index, &[2; 10]));
        log.append(&batch.seal()).unwrap();
    }
    let mut batch = BatchBuilder::new();
    batch.hard_state(GroupId(2), &hard_state(4, Some(2), 100));
    batch.compact(GroupId(2), position(3, 40));
    log.append(&batch.seal()).unwrap();
    log.sync().unwrap();
    log.write_mark().unwrap();
}

fn bytes_of(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_sound_log_is_described_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    write_log(directory.path());
    let before = bytes_of(directory.path());
    let report = inspect::stat(directory.path()).unwrap();
    assert!(
        bytes_of(directory.path()) == before,
        "an inspection writes nothing"
    );
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.identity, Some(IDENTITY));
    assert_eq!(report.records[&RecordKind::Entry], 200);
    assert_eq!(report.records[&RecordKind::HardState], 1);
    assert_eq!(report.records[&RecordKind::Compact], 1);
    assert_eq!(report.segments.len(), 2, "{:?}", report.segments);
    assert!(report.segments.iter().all(|segment| segment.needed));
    assert_eq!(report.live_bytes, 2 * SEGMENT);
    assert_eq!((report.torn_bytes, report.durable), (0, report.end));
    assert!(report.mark_found);
    let group = &report.groups[&GroupId(2)];
    assert_eq!((group.first, group.last), (LogIndex(41), LogIndex(100)));
    assert_eq!((group.term, group.entries), (Term(4), 60));
}

#[test]
fn the_first_damage_is_named_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    write_log(directory.path());
    let name = "0000000002.seg";
    let file = std::fs::File::options()
        .write(true)
        .open(directory.path().join(name))
        .unwrap();
    // Over the header of some batch and what follows.
    file.write_all_at(&[0xab; 3_000], 20_000).unwrap();
    let report = inspect::verify(directory.path()).unwrap();
    assert!(!report.is_sound());
    let damage = &report.damage[0];
    assert_eq!(damage.file, name);
    assert!(
        (18_000..=20_000).contains(&damage.start.offset()),
        "{damage:?}"
    );
    assert!(damage.end.offset() >= 23_000);
    // Both groups had entries there.
    assert!(report.damaged_groups.iter().eq(&[GroupId(1), GroupId(2)]));
    assert!(report.missing_segments.is_empty());
    assert_eq!(report.damage_within().count(), 1);
}

#[test]
fn a_segment_that_is_missing_is_named_and_no_place_in_another() {
    let names = ["0000000001.seg", "0000000002.seg"];
    for missing in [&names[..1], &names[1..], &names[..]] {
        let directory = tempfile::tempdir().unwrap();
        write_log(directory.path());
        for name in missing {
            std::fs::remove_file(directory.path().join(name)).unwrap();
        }
        let report = inspect::verify(directory.path()).unwrap();
        assert!(!report.is_sound());
        assert_eq!(report.damage_within().count(), 0, "{:?}", report.damage);
        // Nothing that is left knows of others than the last one.
        let named = if missing.len() == 2 {
            &names[1..]
        } else {
            missing
        };
        assert_eq!(report.missing_segments, named);
    }
}

#[test]
fn a_torn_tail_is_counted_and_not_called_damage() {
    let directory = tempfile::tempdir().unwrap();
    write_log(directory.path());
    let torn_at = {
        let disk = FsDirectory::open(directory.path()).unwrap();
        let (mut log, _) = Log::open(disk, config(SEGMENT), IDENTITY).unwrap();
        let at = log
            .append(&batch_of(&[entry(3, 1, 1, b"whole, never acknowledged")]))
            .unwrap();
        log.append(&batch_of(&[entry(3, 1, 2, &[9; 500])])).unwrap();
        at
    };
    let name = format!("{:010}.seg", torn_at.generation());
    let file = std::fs::File::options()
        .write(true)
        .open(directory.path().join(name))
        .unwrap();
    file.write_all_at(&[0; 32], u64::from(torn_at.offset()) + 300)
        .unwrap();
    let report = inspect::verify(directory.path()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert!(
        (560..700).contains(&report.torn_bytes),
        "{}",
        report.torn_bytes
    );
    assert_eq!(report.groups[&GroupId(3)].last, LogIndex(1));
}

#[test]
fn what_is_no_log_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("nowhere");
    assert!(matches!(
        inspect::verify(&missing),
        Err(WalError::Io { .. })
    ));
    assert!(!missing.exists(), "looking makes no directory");
    assert!(matches!(
        inspect::verify(directory.path()),
        Err(WalError::NotALog { .. })
    ));
}

#[test]
fn the_log_holds_the_bytes_that_the_leader_made() {
    let directory = tempfile::tempdir().unwrap();
    let leaders = entry(7, 2, 1, b"encoded once, by the leader");
    let disk = FsDirectory::open(directory.path()).unwrap();
    let (mut log, _) = Log::open(disk, config(SEGMENT), IDENTITY).unwrap();
    log.append(&batch_of(std::slice::from_ref(&leaders)))
        .unwrap();
    log.sync().unwrap();
    let read = log
        .reader()
        .read(GroupId(7), LogIndex(1), LogIndex(1), 1)
        .unwrap();
    assert_eq!(read[0].as_bytes(), leaders.as_bytes());
    let file = std::fs::read(directory.path().join("0000000001.seg")).unwrap();
    let envelope = leaders.as_bytes();
    assert!(file.windows(envelope.len()).any(|bytes| bytes == envelope));
}

fn dumped(directory: &Path) -> (Vec<LoggedRecord>, inspect::Report) {
    let mut records = Vec::new();
    let report = inspect::dump(directory, |record| {
        records.push(record.clone());
        ControlFlow::Continue(())
    });
    (records, report.unwrap().unwrap())
}

fn entries_of(records: &[LoggedRecord], group: u64) -> Vec<u64> {
    let entries = records.iter().filter_map(|record| match &record.content {
        Some(Content::Entry(entry)) if record.group == GroupId(group) => Some(entry.index().0),
        _ => None,
    });
    entries.collect()
}

#[test]
fn a_dump_shows_every_record_once_in_the_order_of_the_log() {
    let directory = tempfile::tempdir().unwrap();
    write_log(directory.path());
    let before = bytes_of(directory.path());
    let (records, report) = dumped(directory.path());
    assert!(bytes_of(directory.path()) == before, "it writes nothing");
    assert!(report.is_sound());
    assert_eq!(records.len() as u64, report.records.values().sum::<u64>());
    assert!(records.is_sorted_by(|one, next| one.at < next.at && one.batch <= next.batch));
    for group in [1, 2] {
        assert!(entries_of(&records, group).into_iter().eq(1..=100));
        // The chain by which recovery finds what a group has lost.
        let mut previous = pontoon_wal::Lsn::ZERO;
        let of_group = records
            .iter()
            .filter(|record| record.group == GroupId(group));
        for record in of_group.filter(|record| record.kind != RecordKind::Checkpoint) {
            assert_eq!(record.previous, previous, "{record:?}");
            previous = record.at;
        }
    }
    let [.., state, compaction] = &records[..] else {
        panic!("{} records", records.len());
    };
    let expected = Content::HardState(hard_state(4, Some(2), 100));
    assert_eq!(state.content.as_ref(), Some(&expected));
    let expected = Content::Compact {
        compacted: position(3, 40),
        last: position(3, 100),
        keeps_installed: false,
    };
    assert_eq!(compaction.content.as_ref(), Some(&expected));
    assert_eq!(compaction.at.0 + compaction.bytes, report.end.0);
}

#[test]
fn a_dump_goes_on_behind_damage_and_reports_it() {
    let directory = tempfile::tempdir().unwrap();
    write_log(directory.path());
    let (whole, _) = dumped(directory.path());
    let in_the_middle = |record: &&LoggedRecord| {
        record.kind == RecordKind::Entry
            && record.group == GroupId(1)
            && record.at.generation() == 2
    };
    let rotten = whole.iter().filter(in_the_middle).nth(10).unwrap();
    let name = "0000000002.seg";
    let file = std::fs::File::options()
        .write(true)
        .open(directory.path().join(name))
        .unwrap();
    // In the payload of one entry: its header can still be believed.
    file.write_all_at(&[0xab], u64::from(rotten.at.offset()) + 500)
        .unwrap();
    let (records, report) = dumped(directory.path());
    assert_eq!(records.len(), whole.len());
    for (record, was) in records.iter().zip(&whole) {
        let is_rotten = record.at == rotten.at;
        assert_eq!(record.content.is_none(), is_rotten, "{record:?}");
        assert!(is_rotten || record == was);
    }
    assert_eq!(report.damage[0].start, rotten.at);
    assert!(report.damaged_groups.iter().eq(&[GroupId(1)]));
}

#[test]
fn a_dump_leaves_out_what_the_next_start_cuts() {
    let directory = tempfile::tempdir().unwrap();
    write_log(directory.path());
    let torn_at = {
        let disk = FsDirectory::open(directory.path()).unwrap();
        let (mut log, _) = Log::open(disk, config(SEGMENT), IDENTITY).unwrap();
        let at = log.append(&batch_of(&[entry(3, 1, 1, &[9; 500])])).unwrap();
        log.append(&batch_of(&[entry(3, 1, 2, b"whole, behind a torn one")]))
            .unwrap();
        at
    };
    assert_eq!(entries_of(&dumped(directory.path()).0, 3), [1, 2]);
    let name = format!("{:010}.seg", torn_at.generation());
    let file = std::fs::File::options()
        .write(true)
        .open(directory.path().join(name))
        .unwrap();
    file.write_all_at(&[0; 32], u64::from(torn_at.offset()) - 300)
        .unwrap();
    let (records, report) = dumped(directory.path());
    assert_eq!(entries_of(&records, 3), []);
    assert!(report.is_sound() && report.torn_bytes > 0, "{report:?}");
}

#[test]
fn a_dump_that_is_broken_off_judges_nothing() {
    let directory = tempfile::tempdir().unwrap();
    write_log(directory.path());
    let mut seen = 0;
    let report = inspect::dump(directory.path(), |_| {
        seen += 1;
        if seen == 3 {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    assert!(report.unwrap().is_none());
    assert_eq!(seen, 3, "nothing is shown after a break");
}

#[test]
fn looking_needs_no_permission_to_write_and_keeps_only_writers_away() {
    let directory = tempfile::tempdir().unwrap();
    write_log(directory.path());
    let looking = FsDirectory::open_read_only(directory.path()).unwrap();
    assert!(
        inspect::verify(directory.path()).is_ok(),
        "another may look too"
    );
    let error = FsDirectory::open(directory.path()).unwrap_err();
    assert!(matches!(error, WalError::Locked { .. }), "{error}");
    let file = looking.open("0000000001.seg").unwrap();
    assert!(
        file.write_at(0, &[1]).is_err(),
        "what is looked at cannot be written"
    );
    drop((looking, file));

    let writing = FsDirectory::open(directory.path()).unwrap();
    let error = inspect::verify(directory.path()).unwrap_err();
    assert!(matches!(error, WalError::Locked { .. }), "{error}");
    drop(writing);

    // As on a mount that is read-only, where none can be made.
    std::fs::remove_file(directory.path().join("LOCK")).unwrap();
    assert!(inspect::verify(directory.path()).is_ok());
    assert!(!directory.path().join("LOCK").exists());
}
