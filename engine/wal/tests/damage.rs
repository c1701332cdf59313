//! Damage below the durable mark: found, attributed, and never taken for the end of the log.
#![allow(clippy::unwrap_used)] // Also in helpers that are not themselves tests.

mod common;

use common::model::{Dice, Model, Run, small_config};
use common::{IDENTITY, batch_of, config, entry};
use pontoon_types::{GroupId, LogIndex};
use pontoon_wal::{BatchBuilder, Directory, Log, MemoryDisk, Recovered, WalConfig, WalError};

const GROUPS: u64 = 6;

/// A log whose every byte is durable and marked so, what it holds, and its segments without the spare one.
fn durable_log(seed: u64) -> (MemoryDisk, Model, Vec<String>) {
    let disk = MemoryDisk::new();
    let mut run = Run::new(disk.clone());
    assert!(run.go(&mut Dice(seed), 60, GROUPS));
    run.log.sync().unwrap();
    run.log.write_mark().unwrap();
    let model = run.states.pop().unwrap();
    let last = format!("{:010}.seg", run.log.end().generation());
    let mut names = disk.list().unwrap();
    names.retain(|name| name.ends_with(".seg") && *name <= last);
    names.sort();
    (disk.crash(seed), model, names)
}

/// Opens a damaged log: every group that is not quarantined must be whole, and the loss must be known
/// also the next time, after the log was written to.
fn check(disk: &MemoryDisk, model: &Model, what: &str) -> Recovered {
    let (mut log, recovered) = Log::open(disk.clone(), small_config(), IDENTITY)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    intact(model, &recovered, &log, what);
    log.append(&batch_of(&[entry(99, 1, 1, b"life goes on")]))
        .unwrap();
    log.sync().unwrap();
    drop(log);
    let (log, again) = Log::open(disk.crash(5), small_config(), IDENTITY).unwrap();
    let mut later = model.clone();
    let group = later.groups.entry(99).or_default();
    group.entries.insert(1, entry(99, 1, 1, b"life goes on"));
    group.last = common::position(1, 1);
    intact(&later, &again, &log, what);
    assert!(
        again.damaged.is_superset(&recovered.damaged),
        "{what}: forgotten, {again:?}"
    );
    // A group that only the lost part knew, perhaps with its vote, stays quarantined as well.
    let unknown = GroupId(1_000);
    assert_eq!(
        again.is_quarantined(unknown),
        recovered.is_quarantined(unknown),
        "{what}: forgotten, {again:?}"
    );
    recovered
}

fn intact(model: &Model, recovered: &Recovered, log: &Log<MemoryDisk>, what: &str) {
    let counts = |id| !recovered.is_quarantined(GroupId(id));
    model
        .matches(recovered, &log.reader(), counts)
        .unwrap_or_else(|error| panic!("{what}: {error}\n{:?}", recovered.report));
}

#[test]
fn a_flipped_bit_is_never_taken_for_the_end() {
    let (mut found, mut attributed, mut tried) = (0, 0, 0);
    for seed in 0..12 {
        let (disk, model, names) = durable_log(seed);
        let mut dice = Dice(seed);
        for _ in 0..60 {
            let name = &names[dice.roll(names.len() as u64) as usize];
            let bytes = disk.contents(name).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64;
            let at = 4096 + dice.roll(used.saturating_sub(4096).max(1)) as usize;
            let copy = disk.crash(1);
            let bit = 1 << dice.roll(8);
            assert!(copy.corrupt(name, at, |bytes| bytes[0] ^= bit));
            let recovered = check(&copy, &model, &format!("seed {seed}, {name} at {at:#x}"));
            tried += 1;
            found += usize::from(!recovered.report.damage.is_empty());
            attributed += usize::from(recovered.damaged.len() < model.groups.len());
        }
    }
    // The rest fell on padding, on one copy of a header, or behind a segment's last batch.
    assert!(found * 10 > tried * 8, "{found} of {tried} were found");
    assert!(
        attributed * 10 > tried * 8,
        "{attributed} of {tried} left some group alone"
    );
}

/// Every bit of a small log in turn. The only ones that may go unnoticed are those with which nothing is
/// lost: what fills up records, and one of a header's two copies.
#[test]
fn every_single_bit_is_found_or_means_nothing() {
    const NAME: &str = "0000000001.seg";
    let disk = MemoryDisk::new();
    let (mut log, _) = Log::open(disk.clone(), small_config(), IDENTITY).unwrap();
    for index in 1..=3 {
        let mut batch = batch_builder(index);
        log.append(&batch.seal()).unwrap();
        log.sync().unwrap();
    }
    log.write_mark().unwrap();
    let end = log.end().offset() as usize;
    drop(log);
    let (_, whole) = Log::open(disk.crash(1), small_config(), IDENTITY).unwrap();
    let (mut found, mut harmless) = (0, 0);
    for at in 4096..end {
        for bit in 0..8 {
            let copy = disk.crash(1);
            assert!(copy.flip(NAME, at, 1 << bit));
            let (_, recovered) = Log::open(copy, small_config(), IDENTITY).unwrap();
            if recovered.report.damage.is_empty() {
                assert_eq!(recovered.groups, whole.groups, "bit {bit} of {at:#x}");
                assert_eq!(recovered.report.end, whole.report.end, "{at:#x}");
                harmless += 1;
                continue;
            }
            found += 1;
            for (id, group) in &whole.groups {
                let holds = recovered.groups.get(id) == Some(group);
                let quarantined = recovered.is_quarantined(*id);
                assert!(holds || quarantined, "group {id}, bit {bit} of {at:#x}");
            }
        }
    }
    assert!(harmless * 20 < found, "{harmless} of {found} bits");
}

/// Two groups' next entries, and a vote.
fn batch_builder(index: u64) -> BatchBuilder {
    let mut batch = BatchBuilder::new();
    batch.append(&entry(1, 1, index, b"12345"));
    batch.append(&entry(2, 1, index, b""));
    batch.hard_state(GroupId(2), &common::hard_state(index, Some(2), index));
    batch
}

#[test]
fn a_flipped_bit_in_a_payload_hits_one_group() {
    let disk = MemoryDisk::new();
    let (mut log, _) = Log::open(disk.clone(), config(64 << 10), IDENTITY).unwrap();
    let entries: Vec<_> = (1..=8)
        .map(|group| entry(group, 1, 1, &[group as u8; 100]))
        .collect();
    log.append(&batch_of(&entries)).unwrap();
    log.sync().unwrap();
    log.write_mark().unwrap();
    let name = "0000000001.seg";
    let bytes = disk.contents(name).unwrap();
    let at = bytes
        .windows(20)
        .position(|bytes| bytes == [5; 20])
        .unwrap();
    assert!(disk.corrupt(name, at, |bytes| bytes[0] ^= 4));
    let (log, recovered) = Log::open(disk, config(64 << 10), IDENTITY).unwrap();
    assert!(recovered.damaged.iter().eq(&[GroupId(5)]));
    let damage = &recovered.report.damage[0];
    assert_eq!(
        (damage.file.as_str(), damage.group),
        (name, Some(GroupId(5)))
    );
    assert!((at as u32) - damage.start.offset() < 100);
    let whole = log
        .reader()
        .read(GroupId(4), LogIndex(1), LogIndex(1), 1)
        .unwrap();
    assert_eq!(whole[0], entries[3]);
}

#[test]
fn a_page_that_reads_as_zeros_is_damage() {
    for seed in 0..40 {
        let (disk, model, names) = durable_log(seed);
        let mut dice = Dice(seed);
        let name = &names[dice.roll(names.len() as u64) as usize];
        let page = 4096 * (1 + dice.roll(3)) as usize;
        assert!(disk.corrupt(name, page, |bytes| bytes[..4096].fill(0)));
        check(&disk, &model, &format!("seed {seed}, {name} at {page:#x}"));
    }
}

#[test]
fn swapped_pages_are_damage() {
    for seed in 0..40 {
        let (disk, model, names) = durable_log(seed);
        let name = &names[seed as usize % names.len()];
        assert!(disk.corrupt(name, 4096, |bytes| {
            let (one, other) = bytes.split_at_mut(4096);
            one.swap_with_slice(&mut other[..4096]);
        }));
        check(&disk, &model, &format!("seed {seed}, {name}"));
    }
}

#[test]
fn a_missing_or_misplaced_segment_is_damage_of_those_who_needed_it() {
    for seed in 0..40 {
        for misplaced in [false, true] {
            let (disk, model, names) = durable_log(seed);
            let name = &names[seed as usize % names.len()];
            if misplaced {
                disk.rename(name, "0000000999.seg").unwrap();
            } else {
                disk.remove(name).unwrap();
            }
            disk.sync().unwrap();
            let what = format!("seed {seed}, {name}, misplaced: {misplaced}");
            check(&disk, &model, &what);
        }
    }
}

#[test]
fn the_last_acknowledged_batch_is_told_from_a_torn_tail_once_the_mark_is_written() {
    let disk = MemoryDisk::new();
    let (mut log, _) = Log::open(disk.clone(), config(64 << 10), IDENTITY).unwrap();
    log.append(&batch_of(&[entry(1, 1, 1, b"first")])).unwrap();
    log.sync().unwrap();
    let start = log.append(&batch_of(&[entry(1, 1, 2, b"last")])).unwrap();
    let end = log.sync().unwrap();
    assert!(log.mark_is_stale());
    log.write_mark().unwrap();
    assert!(!log.mark_is_stale());
    let header = start.offset() as usize - 8;
    assert!(disk.corrupt("0000000001.seg", header, |bytes| bytes[0] ^= 1));
    let (_, recovered) = Log::open(disk, config(64 << 10), IDENTITY).unwrap();
    assert!(recovered.damaged.contains(&GroupId(1)), "{recovered:?}");
    assert_eq!(recovered.report.durable, end);
    assert!(recovered.is_quarantined(GroupId(1)));
}

/// A log without its last segment, or without any. Nothing tells that but the durable mark, and later
/// the batch that was laid after it.
fn log_without_end(everything: bool) -> MemoryDisk {
    let (disk, _, mut names) = durable_log(13);
    if !everything {
        names.drain(..names.len() - 1);
    }
    for name in names {
        disk.remove(&name).unwrap();
    }
    disk.sync().unwrap();
    disk
}

#[test]
fn a_lost_end_is_not_forgotten_when_the_power_goes_while_the_log_is_opened() {
    for everything in [false, true] {
        let disk = log_without_end(everything);
        let before = disk.operations();
        let whole = disk.crash(1);
        drop(Log::open(disk.clone(), small_config(), IDENTITY).unwrap());
        for cut in 0..=disk.operations() - before {
            let disk = whole.crash(1);
            disk.cut_power_after(cut);
            drop(Log::open(disk.clone(), small_config(), IDENTITY));
            let opened = Log::open(disk.crash(cut), small_config(), IDENTITY);
            let (_, recovered) = opened.unwrap();
            let unknown = GroupId(1_000);
            assert!(
                recovered.is_quarantined(unknown),
                "everything: {everything}, cut {cut}: {recovered:?}"
            );
        }
    }
}

#[test]
fn a_lost_end_is_remembered_for_good() {
    for everything in [false, true] {
        let disk = log_without_end(everything);
        let unknown = GroupId(1_000);
        let mut index = 0;
        for life in 0..4 {
            let opened = Log::open(disk.clone(), small_config(), IDENTITY);
            let (mut log, recovered) = opened.unwrap();
            let what = format!("life {life}: {recovered:?}");
            assert!(recovered.is_quarantined(unknown), "{what}");
            // Long enough to leave and recycle every segment in which nothing is needed.
            let first = log.end().generation();
            while log.end().generation() < first + 4 {
                index += 1;
                let mut batch = BatchBuilder::new();
                batch.append(&entry(99, 1, index, &[9; 2_000]));
                batch.compact(GroupId(99), common::position(1, index));
                log.append(&batch.seal()).unwrap();
                log.sync().unwrap();
                log.maintain().unwrap();
            }
            log.write_mark().unwrap();
        }
        assert!(disk.recycled() > 0);
    }
}

#[test]
fn a_failed_sync_stops_the_log_for_good() {
    let disk = MemoryDisk::new();
    let (mut log, _) = Log::open(disk.clone(), config(64 << 10), IDENTITY).unwrap();
    log.append(&batch_of(&[entry(1, 1, 1, b"kept")])).unwrap();
    let durable = log.sync().unwrap();
    log.append(&batch_of(&[entry(1, 1, 2, b"lost")])).unwrap();
    disk.fail_sync_after(0);
    assert!(matches!(log.sync(), Err(WalError::Poisoned { .. })));
    // Later syncs of the disk succeed, and mean nothing.
    assert!(matches!(log.sync(), Err(WalError::Poisoned { .. })));
    assert!(matches!(log.write_mark(), Err(WalError::Poisoned { .. })));
    let more = batch_of(&[entry(1, 1, 3, b"more")]);
    assert!(
        matches!(log.append(&more), Err(WalError::Poisoned { durable: at, .. }) if at == durable)
    );
    let (_, recovered) = Log::open(disk.crash(3), config(64 << 10), IDENTITY).unwrap();
    assert_eq!(recovered.groups[&GroupId(1)].last, LogIndex(1));
    assert!(recovered.damaged.is_empty());
}

#[test]
fn the_segment_that_a_busy_log_writes_to_is_missed_when_it_is_lost_as_a_whole() {
    type Loss = fn(&MemoryDisk, &str);
    let losses: [Loss; 2] = [
        |disk, name| assert!(disk.corrupt(name, 0, |bytes| bytes[..4096].fill(0))),
        |disk, name| disk.remove(name).unwrap(),
    ];
    for lose in losses {
        let disk = MemoryDisk::new();
        let (mut log, _) = Log::open(disk.clone(), small_config(), IDENTITY).unwrap();
        let first = log.end().generation();
        let mut index = 0;
        // It never rests, so that it writes no mark for that.
        while log.end().generation() == first {
            index += 1;
            log.append(&batch_of(&[entry(1, 1, index, &[7; 1000])]))
                .unwrap();
            log.sync().unwrap();
            log.maintain().unwrap();
        }
        let name = format!("{:010}.seg", log.end().generation());
        drop(log);
        let disk = disk.crash(1);
        lose(&disk, &name);
        let (_, recovered) = Log::open(disk, small_config(), IDENTITY).unwrap();
        assert!(recovered.is_quarantined(GroupId(1)), "{recovered:?}");
    }
}

#[test]
fn a_checkpoint_larger_than_a_segment_does_not_make_an_idle_log_roll() {
    let disk = MemoryDisk::new();
    let config = WalConfig {
        segment_bytes: 16 << 10,
        ..WalConfig::default()
    };
    let (mut log, _) = Log::open(disk, config, IDENTITY).unwrap();
    for group in 1..=300 {
        let mut batch = BatchBuilder::new();
        batch.hard_state(GroupId(group), &common::hard_state(1, None, 0));
        log.append(&batch.seal()).unwrap();
        log.sync().unwrap();
        log.maintain().unwrap();
    }
    let turn = |log: &mut Log<MemoryDisk>| {
        log.sync().unwrap();
        log.maintain().unwrap();
        log.end().generation()
    };
    for _ in 0..10 {
        turn(&mut log);
    }
    let before = turn(&mut log);
    for _ in 0..10 {
        turn(&mut log);
    }
    assert_eq!(turn(&mut log), before);
}
