//! Files that do not hold what was written to them.

mod common;

use common::*;
use pontoon_store::{KvMachine, LsmSettings, LsmStore, StoreError};
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn read_all(dir: &Path) -> Result<BTreeMap<String, String>, StoreError> {
    let machine = KvMachine::open(LsmStore::open(dir, LsmSettings::default())?)?;
    let reader = machine.reader();
    let range = (&b"1"[..], &b""[..]);
    use pontoon_types::{GroupId, ShardId};
    match reader.scan(GroupId(1), ShardId(10), EPOCH, range, NO_LIMIT) {
        Ok(page) => Ok(page.rows.iter().map(|(k, v)| (text(k), text(v))).collect()),
        Err(pontoon_store::ReadError::Store(error)) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn survey() {
    let mut harness = Lsm::new();
    let mut machine = machine(&mut harness, 1);
    let entries: Vec<_> = (1..=300).map(|i| put(1, i, &format!("1key{i:05}"), "some value")).collect();
    apply(&mut machine, &entries);
    let whole = rows(&machine.reader(), 1);
    machine.into_store().shutdown().unwrap();
    let dir = harness.0.path();
    let mut census: BTreeMap<String, usize> = BTreeMap::new();
    for file in files(dir) {
        let bytes = fs::read(&file).unwrap();
        println!("{} {}", file.display(), bytes.len());
        for at in (0..bytes.len()).step_by(3) {
            let copy = tempfile::tempdir().unwrap();
            for other in files(dir) {
                let target = copy.path().join(other.strip_prefix(dir).unwrap());
                fs::create_dir_all(target.parent().unwrap()).unwrap();
                fs::copy(&other, &target).unwrap();
            }
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            fs::write(copy.path().join(file.strip_prefix(dir).unwrap()), &bad).unwrap();
            let result = catch_unwind(AssertUnwindSafe(|| read_all(copy.path())));
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            let kind = match result {
                Ok(Ok(found)) if found == whole => "same".into(),
                Ok(Ok(found)) => format!("WRONG {}", found.len()),
                Ok(Err(StoreError::Damaged { source, .. })) => format!("damaged {source}").chars().take(40).collect(),
                Ok(Err(error)) => format!("other {error:?}").chars().take(60).collect(),
                Err(_) => format!("PANIC at {at}"),
            };
            *census.entry(format!("{name} {kind}")).or_default() += 1;
        }
    }
    panic!("{census:#?}");
}
