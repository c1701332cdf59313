//! Files that do not hold what was written to them: a typed error, never wrong rows, never a panic.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod common;

use common::*;
use pontoon_store::{KvMachine, LsmSettings, LsmStore, ReadError, Store, StoreError};
use pontoon_types::{GroupId, ShardId};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

type Rows = BTreeMap<String, String>;

/// A store of two tables, shut down cleanly.
fn written() -> (Lsm, Rows) {
    let mut harness = Lsm::new();
    let mut machine = machine(&mut harness, 1);
    let key = |i| format!("1key{i:05}");
    let entries: Vec<_> = (1..=60).map(|i| put(1, i, &key(i), "some value")).collect();
    apply(&mut machine, &entries);
    machine.store_mut().flush().unwrap();
    let whole = rows(&machine.reader(), 1);
    machine.into_store().shutdown().unwrap();
    (harness, whole)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A copy of the store in which one file is `bytes` (`None`: it is gone).
fn copy_with(dir: &Path, file: &Path, bytes: Option<&[u8]>) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for other in files(dir) {
        let target = copy.path().join(other.strip_prefix(dir).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        match bytes {
            _ if other != file => drop(fs::copy(&other, &target).unwrap()),
            Some(bytes) => fs::write(&target, bytes).unwrap(),
            None => {}
        }
    }
    copy
}

/// Opens such a copy, and reads all rows.
fn read_with(dir: &Path, file: &Path, bytes: Option<&[u8]>) -> Result<Rows, StoreError> {
    let copy = copy_with(dir, file, bytes);
    let machine = KvMachine::open(LsmStore::open(copy.path(), LsmSettings::default())?)?;
    let range = (&b"1"[..], &b""[..]);
    let reader = machine.reader();
    match reader.scan(GroupId(1), ShardId(10), EPOCH, range, NO_LIMIT) {
        Ok(page) => Ok(page.rows.iter().map(|(k, v)| (text(k), text(v))).collect()),
        Err(ReadError::Store(error)) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

fn is_damage(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Damaged { .. } | StoreError::DamagedFile { .. }
    )
}

#[test]
fn a_flipped_bit_anywhere_is_found_before_a_wrong_row_is() {
    let (harness, whole) = written();
    let dir = harness.0.path();
    let mut harmless = 0;
    let mut total = 0;
    for file in files(dir) {
        let mut bytes = fs::read(&file).unwrap();
        for at in 0..bytes.len() {
            let flip = if at % 2 == 0 { 0x10 } else { 0xff };
            bytes[at] ^= flip;
            total += 1;
            match read_with(dir, &file, Some(&bytes)) {
                Ok(found) => {
                    assert_eq!(found, whole, "{} at {at}", file.display());
                    harmless += 1;
                }
                Err(error) => assert!(is_damage(&error), "{} at {at}: {error:?}", file.display()),
            }
            bytes[at] ^= flip;
        }
    }
    // What no read of rows needs, such as padding: a small part.
    assert!(
        harmless * 10 < total,
        "{harmless} of {total} flips were not noticed"
    );
}

#[test]
fn a_shortened_or_missing_file_is_damage() {
    let (harness, _) = written();
    let dir = harness.0.path();
    for file in files(dir) {
        let bytes = fs::read(&file).unwrap();
        for len in (0..bytes.len()).step_by(13) {
            let error = read_with(dir, &file, Some(&bytes[..len])).unwrap_err();
            assert!(
                is_damage(&error),
                "{} cut at {len}: {error:?}",
                file.display()
            );
        }
        if file.file_name().unwrap() != "current" {
            let error = read_with(dir, &file, None).unwrap_err();
            assert!(is_damage(&error), "{} gone: {error:?}", file.display());
        }
    }
}

#[test]
fn damage_in_one_block_costs_the_rows_in_it_and_no_others() {
    let mut harness = Lsm::new();
    let mut machine = machine(&mut harness, 1);
    let key = |i| format!("1key{i:05}");
    let entries: Vec<_> = (1..=3000)
        .map(|i| put(1, i, &key(i), "some value"))
        .collect();
    apply(&mut machine, &entries);
    machine.into_store().shutdown().unwrap();
    let path = harness.0.path();
    let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
    let table = files(&path.join("tables"))
        .into_iter()
        .max_by_key(size)
        .unwrap();
    let mut bytes = fs::read(&table).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    fs::write(&table, bytes).unwrap();

    let store = LsmStore::open(path, LsmSettings::default()).unwrap();
    let mut machine = KvMachine::open(store).unwrap();
    let reader = machine.reader();
    let mut lost = Vec::new();
    for i in 1..=3000 {
        match reader.get(GroupId(1), ShardId(10), EPOCH, key(i).as_bytes()) {
            Ok(value) => assert_eq!(value.as_deref(), Some(&b"some value"[..])),
            Err(ReadError::Store(error)) if is_damage(&error) => {
                let text = error.to_string();
                assert!(text.starts_with(table.to_str().unwrap()), "{text}");
                lost.push(i);
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!((1..1000).contains(&lost.len()), "{} rows", lost.len());
    // A swap has to read too: it fails as a whole. A put does not, and is taken.
    let mut outcomes = Vec::new();
    let swap = swap(1, 3001, &key(lost[0]), Some("some value"), Some("new"));
    let error = machine.apply(&[swap], &mut outcomes).unwrap_err();
    assert_eq!(error.group(), Some(GroupId(1)), "the others can go on");
    assert!(
        matches!(&error, StoreError::Execute { source, .. } if is_damage(source)),
        "{error:?}"
    );
    apply(&mut machine, &[put(1, 3001, &key(lost[0]), "x")]);
}

#[test]
fn damage_wherever_it_is_does_not_stop_the_reclaiming_of_what_can_be_read() {
    let mut harness = Lsm::new();
    let mut machine = machine(&mut harness, 3);
    for group in 1..=3 {
        let key = |i| format!("{group}key{i:05}");
        let put = |i| put(group, i, &key(i), "some value");
        apply(&mut machine, &(1..=300).map(put).collect::<Vec<_>>());
    }
    // One is known to be garbage from here on, the others are in use.
    machine.store_mut().flush().unwrap();
    machine.remove(GroupId(2)).unwrap();
    machine.into_store().shutdown().unwrap();
    let tables = files(&harness.0.path().join("tables"));
    let mut opened = 0;
    for table in tables {
        let whole = fs::read(&table).unwrap();
        for at in (0..whole.len()).step_by(131) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            let copy = copy_with(harness.0.path(), &table, Some(&bytes));
            let store = LsmStore::open(copy.path(), LsmSettings::default());
            let Ok(mut machine) = store.and_then(KvMachine::open) else {
                continue;
            };
            opened += 1;
            machine.remove(GroupId(3)).unwrap();
            while machine.reclaim(50).unwrap() {}
        }
    }
    assert!(opened > 50, "{opened} damaged stores could be opened");
}

#[test]
fn what_a_crash_left_of_an_unfinished_flush_is_no_damage() {
    let (harness, whole) = written();
    let dir = harness.0.path();
    fs::write(dir.join("tables/977"), b"the beginning of a table").unwrap();
    fs::write(dir.join("v977"), b"the beginning of a manifest").unwrap();
    let current = dir.join("current");
    assert_eq!(
        read_with(dir, &current, Some(&fs::read(&current).unwrap())).unwrap(),
        whole
    );
}

#[test]
fn after_a_flush_that_failed_the_store_takes_no_more_writes() {
    let mut harness = Lsm::new();
    let mut machine = machine(&mut harness, 1);
    apply(&mut machine, &[put(1, 1, "1a", "x")]);
    fs::remove_dir_all(harness.0.path().join("tables")).unwrap();
    let error = machine.store_mut().flush().unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
    assert_eq!(
        machine.durability().applied(GroupId(1)).0,
        0,
        "nothing was promised"
    );
    let mut outcomes = Vec::new();
    assert!(
        machine
            .apply(&[put(1, 2, "1b", "x")], &mut outcomes)
            .is_err()
    );
    assert_eq!(rows(&machine.reader(), 1).len(), 1);
    assert!(machine.store().stats().trouble.is_some());
}
