//! Power cuts at every change that reaches the disk, over runs of several groups with roll-over,
//! compaction, truncation and recycled segments.
//!
//! What is recovered must be the state after some batch: not before the last that was acknowledged, and not
//! anything that was never written. That one rule covers lost acknowledgements, torn batches, batches in the
//! wrong order and leftovers of a recycled segment.
#![allow(clippy::unwrap_used)] // Also in helpers that are not themselves tests.

mod common;

use common::model::{Dice, Run, small_config};
use common::{IDENTITY, batch_of, entry};
use pontoon_types::{GroupId, LogIndex};
use pontoon_wal::{Log, MemoryDisk};

const GROUPS: u64 = 5;
const BATCHES: usize = 90;

/// How many changes the whole run makes, opening included.
fn changes(seed: u64, groups: u64) -> u64 {
    let disk = MemoryDisk::new();
    let mut run = Run::new(disk.clone());
    assert!(run.go(&mut Dice(seed), BATCHES, groups));
    let stats = run.log.stats();
    let recycled = disk.recycled();
    assert!(recycled > 0, "the run uses files again: {stats:?}");
    assert!(
        run.log.end().generation() >= 6,
        "the run rolls over: {stats:?}"
    );
    assert!(stats.entries_rewritten > 0, "{stats:?}");
    disk.operations()
}

/// Runs until the power goes after `cut` changes; `None` if that was before the log was open.
fn run_until(cut: u64, seed: u64, groups: u64) -> (MemoryDisk, Option<Run<MemoryDisk>>) {
    let disk = MemoryDisk::new();
    disk.cut_power_after(cut);
    let run = Log::open(disk.clone(), small_config(), IDENTITY).ok();
    let run = run.map(|(log, _)| {
        let mut run = Run::from(log, common::model::Model::default());
        run.go(&mut Dice(seed), BATCHES, groups);
        run
    });
    (disk, run)
}

#[test]
fn every_change_may_be_the_last() {
    for (seed, groups) in [(0, GROUPS), (1, GROUPS), (2, 64)] {
        for cut in 0..changes(seed, groups) {
            let (disk, run) = run_until(cut, seed, groups);
            let disk = disk.crash(cut ^ seed);
            let (log, recovered) = Log::open(disk.clone(), small_config(), IDENTITY)
                .unwrap_or_else(|error| panic!("cut {cut}, seed {seed}: {error}"));
            assert!(
                recovered.damaged.is_empty(),
                "cut {cut}: {:?}",
                recovered.report
            );
            assert_eq!(recovered.report.damage, [], "cut {cut}, seed {seed}");
            match run {
                Some(run) => drop(run.find(&recovered, &log.reader())),
                None => assert!(recovered.groups.is_empty()),
            }
        }
    }
}

#[test]
fn cuts_during_recovery_and_in_later_lives_lose_nothing_either() {
    let mut dice = Dice(77);
    for seed in 0..150u64 {
        let mut disk = MemoryDisk::new();
        let mut model = common::model::Model::default();
        let mut script = Dice(seed);
        for life in 0..5u64 {
            let (log, recovered) = Log::open(disk.clone(), small_config(), IDENTITY).unwrap();
            model
                .matches(&recovered, &log.reader(), |_| true)
                .unwrap_or_else(|error| panic!("seed {seed}, life {life}: {error}"));
            let mut run = Run::from(log, model);
            disk.cut_power_after(dice.roll(700));
            run.go(&mut script, 60, GROUPS);
            disk = disk.crash(seed * 8 + life);
            // Recovery itself is cut short a few times, and killed without a power cut once.
            for again in 0..dice.roll(3) {
                disk.cut_power_after(dice.roll(60));
                let _ = Log::open(disk.clone(), small_config(), IDENTITY);
                disk = disk.crash(seed * 64 + life * 8 + again);
            }
            drop(Log::open(disk.clone(), small_config(), IDENTITY).unwrap());
            let (log, recovered) = Log::open(disk.clone(), small_config(), IDENTITY).unwrap();
            assert_eq!(recovered.report.damage, [], "seed {seed}, life {life}");
            let at = run.find(&recovered, &log.reader());
            model = run.states.swap_remove(at);
        }
    }
}

#[test]
fn a_torn_tail_of_many_segments_goes_as_one_however_often_the_power_does() {
    let large = vec![7; small_config().segment_bytes as usize / 2];
    for seed in 0..600u64 {
        let disk = MemoryDisk::new();
        let (mut log, _) = Log::open(disk.clone(), small_config(), IDENTITY).unwrap();
        log.append(&batch_of(&[entry(1, 1, 1, b"durable")]))
            .unwrap();
        log.sync().unwrap();
        for index in 2..9 {
            log.append(&batch_of(&[entry(1, 1, index, &large)]))
                .unwrap();
        }
        assert!(log.end().generation() >= 5);
        let mut disk = disk.crash(seed);
        // The rest of it may be removed in part when the power goes again.
        for again in 0..2 {
            disk.cut_power_after(seed % 16);
            let _ = Log::open(disk.clone(), small_config(), IDENTITY);
            disk = disk.crash(seed * 2 + again);
        }
        let (log, recovered) = Log::open(disk, small_config(), IDENTITY).unwrap();
        assert_eq!(recovered.report.damage, [], "seed {seed}");
        let read = log.reader().read(GroupId(1), LogIndex(1), LogIndex(1), 1);
        assert_eq!(read.unwrap()[0].payload()[..], *b"durable", "seed {seed}");
    }
}

#[test]
fn what_recovery_found_in_the_page_cache_of_a_killed_process_survives_a_power_cut_after_it() {
    for seed in 0..200u64 {
        let disk = MemoryDisk::new();
        let mut run = Run::new(disk.clone());
        run.go(&mut Dice(seed), 40, GROUPS);
        // Killed: nothing more is synced, but the cache has all of it, and the next process reads it.
        let killed = run.states.len() - 1;
        let (log, recovered) = Log::open(disk.clone(), small_config(), IDENTITY).unwrap();
        let found = run.states[killed].matches(&recovered, &log.reader(), |_| true);
        assert_eq!(found, Ok(()), "seed {seed}");
        // It has spoken of what it found, so that must be on the disk now.
        run.durable = killed;
        let (log, recovered) = Log::open(disk.crash(seed), small_config(), IDENTITY).unwrap();
        run.find(&recovered, &log.reader());
    }
}
