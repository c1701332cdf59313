//! The damage of `damage.rs` on real files, and what only files can suffer: a shorter one, one of another
//! node, one that another segment's name was given to.
#![allow(clippy::unwrap_used)] // Also in helpers that are not themselves tests.

mod common;

use common::IDENTITY;
use common::model::{Dice, Model, Run, small_config};
use pontoon_types::{GroupId, NodeId};
use pontoon_wal::{FsDirectory, Log, LogIdentity, WalError, inspect};
use std::fs::{self, File};
use std::path::PathBuf;
use tempfile::TempDir;

const GROUPS: u64 = 6;

/// A log whose every byte is durable and marked so, what it holds, and the segments in which
/// something is needed.
fn durable_log(seed: u64) -> (TempDir, Model, Vec<PathBuf>) {
    let directory = tempfile::tempdir().unwrap();
    let mut run = Run::new(FsDirectory::open(directory.path()).unwrap());
    assert!(run.go(&mut Dice(seed), 60, GROUPS));
    run.log.sync().unwrap();
    run.log.write_mark().unwrap();
    let model = run.states.pop().unwrap();
    drop(run);
    // A spare segment, and one that waits to be recycled, may vanish without a loss.
    let report = inspect::verify(directory.path()).unwrap();
    let last = report.end.generation();
    let segments = report.segments.iter();
    let segments = segments.filter(|segment| segment.needed || segment.generation == last);
    let segments = segments.map(|segment| directory.path().join(&segment.file));
    let segments = segments.collect();
    (directory, model, segments)
}

/// Opens it: there is damage, and every group that is not quarantined is whole. Again the next time.
fn check(directory: &TempDir, model: &Model, what: &str) {
    for _ in 0..2 {
        let disk = FsDirectory::open(directory.path()).unwrap();
        let (log, recovered) = Log::open(disk, small_config(), IDENTITY)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(!recovered.report.damage.is_empty(), "{what}: not found");
        let counts = |id| !recovered.is_quarantined(GroupId(id));
        model
            .matches(&recovered, &log.reader(), counts)
            .unwrap_or_else(|error| panic!("{what}: {error}\n{:?}", recovered.report));
    }
}

#[test]
fn a_segment_that_became_shorter_is_damage() {
    for seed in 0..24 {
        let (directory, model, segments) = durable_log(seed);
        let mut dice = Dice(seed);
        let path = &segments[dice.roll(segments.len() as u64) as usize];
        // From nothing at all, over a cut in the header, to the middle of what was written.
        let length = match seed % 4 {
            0 => 0,
            1 => dice.roll(4096),
            _ => 4096 + dice.roll(4096),
        };
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(length).unwrap();
        let what = format!("seed {seed}, {} cut to {length}", path.display());
        check(&directory, &model, &what);
    }
}

#[test]
fn a_segment_under_the_name_of_another_is_damage() {
    for seed in 0..12 {
        let (directory, model, segments) = durable_log(seed);
        assert!(segments.len() >= 2, "seed {seed}: {segments:?}");
        let at = seed as usize % (segments.len() - 1);
        fs::copy(&segments[at], &segments[at + 1]).unwrap();
        let what = format!("seed {seed}, {} twice", segments[at].display());
        check(&directory, &model, &what);
    }
}

#[test]
fn a_missing_segment_is_damage() {
    for seed in 0..12 {
        let (directory, model, segments) = durable_log(seed);
        let path = &segments[seed as usize % segments.len()];
        fs::remove_file(path).unwrap();
        let what = format!("seed {seed}, without {}", path.display());
        check(&directory, &model, &what);
    }
}

#[test]
fn a_segment_of_another_nodes_log_is_refused_by_name() {
    let (directory, _, segments) = durable_log(1);
    let other = LogIdentity {
        node: NodeId(2),
        ..IDENTITY
    };
    let foreign = tempfile::tempdir().unwrap();
    let disk = FsDirectory::open(foreign.path()).unwrap();
    drop(Log::open(disk, small_config(), other).unwrap());
    fs::copy(foreign.path().join("0000000001.seg"), &segments[0]).unwrap();
    let disk = FsDirectory::open(directory.path()).unwrap();
    let opened = Log::open(disk, small_config(), IDENTITY).map(drop);
    let name = segments[0].file_name().unwrap().to_str().unwrap();
    assert!(
        matches!(&opened, Err(WalError::Foreign { file, found, .. }) if file == name && *found == other),
        "{opened:?}"
    );
}
