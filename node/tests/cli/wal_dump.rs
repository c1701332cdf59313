//! `pontoon wal dump` on a log that was written record by record.

use crate::cluster::{error_line, run, stdout};
use pontoon_types::{
    ClusterId, Entry, EntryKind, GroupId, HardState, LogIndex, LogPosition, NodeId, ReplicaId, Term,
};
use pontoon_wal::{BatchBuilder, FsDirectory, Log, LogIdentity, WalConfig};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Two groups with entries, and one record of each kind that a node asks for.
fn write_log(directory: &Path) {
    let identity = LogIdentity {
        cluster: ClusterId(7),
        node: NodeId(1),
    };
    let config = WalConfig {
        segment_bytes: 64 << 10,
        ..WalConfig::default()
    };
    let disk = FsDirectory::open(directory).unwrap();
    let (mut log, _) = Log::open(disk, config, identity).unwrap();
    let position = |index| LogPosition {
        term: Term(3),
        index: LogIndex(index),
    };
    let mut batch = BatchBuilder::new();
    for index in 1..=3 {
        for group in [1, 2] {
            let at = position(index);
            let payload = format!("payload {group}/{index}");
            let (group, kind) = (GroupId(group), EntryKind::Command);
            let entry = Entry::encode(group, at.term, at.index, kind, payload.as_bytes());
            batch.append(&entry);
        }
    }
    let state = HardState {
        term: Term(4),
        vote: Some(ReplicaId(9)),
        commit: LogIndex(2),
    };
    batch.hard_state(GroupId(1), &state);
    batch.compact(GroupId(1), position(1));
    batch.install_snapshot(GroupId(2), position(8), b"switch".as_slice().into());
    batch.tombstone(GroupId(3), ReplicaId(5));
    log.append(&batch.seal()).unwrap();
    log.sync().unwrap();
    log.write_mark().unwrap();
}

fn dump(directory: &Path, args: &[&str]) -> String {
    let directory = directory.to_str().unwrap();
    stdout(&run(&[&["wal", "dump", directory], args].concat()))
}

#[test]
fn a_line_is_a_record_and_the_filters_choose_among_them() {
    let directory = tempfile::tempdir().unwrap();
    write_log(directory.path());
    let all = dump(directory.path(), &[]);
    for says in [
        "entry                 term 3 index 2 command, 11 bytes",
        "term 4, vote 9, commit 2",
        "compacted up to term 3 index 1, last term 3 index 3",
        "snapshot installation term 3 index 8, 6 bytes",
        "replica 5 is gone",
    ] {
        assert!(all.contains(says), "{says:?} is not in\n{all}");
    }
    let only = dump(directory.path(), &["--group", "2"]);
    let of_group_2: Vec<&str> = all
        .lines()
        .filter(|line| line.contains("group 2 "))
        .collect();
    assert_eq!(of_group_2.len(), 4, "{all}");
    assert_eq!(only.lines().collect::<Vec<_>>(), of_group_2);
    let two = dump(directory.path(), &["--group", "2", "--limit", "2"]);
    assert_eq!(two.lines().collect::<Vec<_>>(), of_group_2[..2]);
    // What a line begins with can be asked for.
    let at = of_group_2[1].split_whitespace().next().unwrap();
    let rest = dump(directory.path(), &["--group", "2", "--from", at]);
    assert_eq!(rest.lines().collect::<Vec<_>>(), of_group_2[1..]);
    assert_eq!(dump(directory.path(), &["--from", "2"]), "");
    assert_eq!(dump(directory.path(), &["--limit", "0"]), "");
}

#[test]
fn with_json_a_line_is_an_object_and_payloads_are_there_if_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    write_log(directory.path());
    let objects = |args: &[&str]| -> Vec<serde_json::Value> {
        let lines = dump(directory.path(), &[&["--json"], args].concat());
        let read = |line| serde_json::from_str(line).unwrap();
        lines.lines().map(read).collect()
    };
    let all = objects(&[]);
    assert_eq!(all.len(), dump(directory.path(), &[]).lines().count());
    let entry = all.iter().find(|object| object["kind"] == "entry").unwrap();
    assert_eq!((&entry["group"], &entry["term"]), (&1.into(), &3.into()));
    assert_eq!(
        (&entry["index"], &entry["payload_bytes"]),
        (&1.into(), &11.into())
    );
    assert_eq!(entry["segment"], 1);
    assert!(all.iter().all(|object| object["readable"] == true));
    assert!(!dump(directory.path(), &["--json"]).contains("\"payload\""));
    let with_payloads = objects(&["--payloads", "--group", "2"]);
    assert_eq!(with_payloads[0]["payload"], "cGF5bG9hZCAyLzE=");
    assert_eq!(with_payloads[3]["installed"]["payload"], "c3dpdGNo");
    let state = all.iter().find(|object| object["kind"] == "hard state");
    let expected = serde_json::json!({ "term": 4, "vote": 9, "commit": 2 });
    assert_eq!(state.unwrap()["hard_state"], expected);
}

#[test]
fn what_is_damaged_is_shown_as_unreadable_and_named_on_stderr() {
    let directory = tempfile::tempdir().unwrap();
    write_log(directory.path());
    let path = directory.path().join("0000000001.seg");
    let bytes = std::fs::read(&path).unwrap();
    let payload = b"payload 2/2";
    let at = bytes
        .windows(payload.len())
        .position(|found| found == payload);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"x", at.unwrap() as u64).unwrap();
    let output = run(&["wal", "dump", directory.path().to_str().unwrap()]);
    let line = error_line(&output);
    assert!(line.contains("0000000001.seg from 1:"), "{line}");
    assert!(line.contains("group 2"), "{line}");
    let shown = String::from_utf8(output.stdout).unwrap();
    let unreadable: Vec<&str> = shown
        .lines()
        .filter(|line| line.ends_with("unreadable"))
        .collect();
    assert!(
        matches!(unreadable[..], [one] if one.contains("group 2 ")),
        "{shown}"
    );
    assert!(
        shown.contains("group 1      entry                 term 3 index 3"),
        "{shown}"
    );
}
