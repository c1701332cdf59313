//! The damage of `damage.rs` on real files, and what only files can suffer: a shorter one, one of another
//! node, one that another segment's name was given to.
#![allow(clippy::unwrap_used)] // Also in helpers that are not themselves tests.

mod common;

use common::IDENTITY;
use common::model::{Dice, Model, Run, small_config};
use pontoon_types::{GroupId, NodeId};
use pontoon_wal::{FsDirectory, Log, LogIdentity, WalError, inspect};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
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
    assert!(is_found(directory, model, what), "{what}: not found");
}

/// Whether damage is found, twice alike. Every group that is not quarantined is whole, so without any all are.
fn is_found(directory: &TempDir, model: &Model, what: &str) -> bool {
    let found = [(); 2].map(|()| {
        let disk = FsDirectory::open(directory.path()).unwrap();
        let (log, recovered) = Log::open(disk, small_config(), IDENTITY)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let counts = |id| !recovered.is_quarantined(GroupId(id));
        model
            .matches(&recovered, &log.reader(), counts)
            .unwrap_or_else(|error| panic!("{what}: {error}\n{:?}", recovered.report));
        !recovered.report.damage.is_empty()
    });
    assert_eq!(found[0], found[1], "{what}");
    found[0]
}

/// Changes the bytes of a file in place.
fn change(path: &Path, change: impl FnOnce(&mut [u8])) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    file.write_all_at(&bytes, 0).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_flipped_bit_is_found_or_means_nothing() {
    let (mut found, mut tried) = (0, 0);
    for seed in 0..24 {
        let (directory, model, segments) = durable_log(seed);
        let mut dice = Dice(seed);
        let path = &segments[dice.roll(segments.len() as u64) as usize];
        // The first batches of a segment; in one of its last pages there may be nothing.
        let at = 4096 + dice.roll(4096) as usize;
        let bit = 1 << dice.roll(8);
        change(path, |bytes| bytes[at] ^= bit);
        let what = format!("seed {seed}, {} at {at:#x}", path.display());
        found += usize::from(is_found(&directory, &model, &what));
        tried += 1;
    }
    // The rest fell on what fills up records.
    assert!(found * 10 > tried * 8, "{found} of {tried} were found");
}

#[test]
fn a_page_that_reads_as_zeros_is_damage() {
    for seed in 0..12 {
        let (directory, model, segments) = durable_log(seed);
        let path = &segments[seed as usize % segments.len()];
        change(path, |bytes| bytes[4096..8192].fill(0));
        let what = format!("seed {seed}, {}", path.display());
        check(&directory, &model, &what);
    }
}

#[test]
fn swapped_pages_are_damage() {
    for seed in 0..12 {
        let (directory, model, segments) = durable_log(seed);
        let path = &segments[seed as usize % segments.len()];
        change(path, |bytes| {
            let (one, other) = bytes[4096..].split_at_mut(4096);
            one.swap_with_slice(&mut other[..4096]);
        });
        let what = format!("seed {seed}, {}", path.display());
        check(&directory, &model, &what);
    }
}

#[test]
fn a_segment_with_another_generations_name_is_damage() {
    for seed in 0..12 {
        let (directory, model, segments) = durable_log(seed);
        let path = &segments[seed as usize % segments.len()];
        fs::rename(path, directory.path().join("0000000999.seg")).unwrap();
        let what = format!("seed {seed}, {} misplaced", path.display());
        check(&directory, &model, &what);
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
