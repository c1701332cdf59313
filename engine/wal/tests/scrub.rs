//! Scrubbing a log that runs: it finds what recovery would find, nothing else, and what is damaged goes.
#![allow(clippy::unwrap_used)] // Also in helpers that are not themselves tests.

mod common;

use common::model::{Dice, Model, Run, SEGMENT};
use common::{IDENTITY, batch_of, config, entry, hard_state, position};
use pontoon_types::{GroupId, LogIndex};
use pontoon_wal::{
    BatchBuilder, Directory, Log, LogDamage, LogScrubber, Lsn, MemoryDisk, MemoryFile, Recovered,
    ScrubStep, WalConfig, WalError,
};
use std::collections::BTreeMap;

const GROUPS: u64 = 6;

/// Reads everything once, and has what is damaged go.
fn scrub(log: &mut Log<MemoryDisk>) -> Vec<LogDamage> {
    let mut scrubber = log.scrubber();
    scrubber.begin();
    let mut all = Vec::new();
    loop {
        match scrubber.step() {
            ScrubStep::Read { found, .. } => all.extend(found),
            ScrubStep::Finished => break,
            ScrubStep::Idle => panic!("a pass was begun"),
        }
    }
    assert_eq!(scrubber.step(), ScrubStep::Idle);
    for damage in &all {
        log.condemn(damage.start.generation());
    }
    all
}

/// What the log's thread does until nothing is left to be done.
fn settle(log: &mut Log<MemoryDisk>) {
    for _ in 0..64 {
        log.sync().unwrap();
        log.maintain().unwrap();
        if !log.has_chores() && !log.is_dirty() {
            log.write_mark().unwrap();
            return;
        }
    }
    panic!("there is no end to it: {:?}", log.stats());
}

/// Small entries of `groups` groups, one batch per index, durable.
fn filled(disk: &MemoryDisk, config: WalConfig, groups: u64, last: u64) -> Log<MemoryDisk> {
    let (mut log, _) = Log::open(disk.clone(), config, IDENTITY).unwrap();
    for index in 1..=last {
        let mut batch = BatchBuilder::new();
        for group in 1..=groups {
            batch.append(&entry(group, 1, index, &[group as u8; 500]));
        }
        log.append(&batch.seal()).unwrap();
    }
    settle(&mut log);
    log
}

/// Where in a file the payload of an entry of `filled` lies.
fn payload_of(disk: &MemoryDisk, name: &str, group: u64, index: u64) -> usize {
    let envelope = entry(group, 1, index, &[group as u8; 500]);
    let bytes = disk.contents(name).unwrap();
    let envelope = envelope.as_bytes();
    let at = bytes.windows(envelope.len()).position(|it| it == envelope);
    at.unwrap() + envelope.len() - 250
}

fn segments(disk: &MemoryDisk) -> Vec<String> {
    let mut names = disk.list().unwrap();
    names.retain(|name| name.len() == 14 && name.ends_with(".seg"));
    names.sort();
    names
}

/// Compacts every group with something unreadable beyond that, as its owner does once the store has it.
fn forget_unreadable(log: &mut Log<MemoryDisk>, model: &mut Model) {
    let mut batch = BatchBuilder::new();
    for (id, indexes) in log.unreadable() {
        let last = *indexes.last().unwrap();
        let group = model.groups.get_mut(&id.0).unwrap();
        let up_to = group.entries[&last.0].position();
        batch.compact(id, up_to);
        group
            .installed
            .take_if(|installed| installed.last.index <= last);
        group.compacted = up_to;
        group.entries.retain(|index, _| *index > last.0);
    }
    log.append(&batch.seal()).unwrap();
}

fn reopened(disk: &MemoryDisk, model: &Model, what: &str) {
    let (log, recovered) = Log::open(disk.crash(3), config(SEGMENT), IDENTITY).unwrap();
    assert!(
        recovered.damaged.is_empty() && recovered.report.damage.is_empty(),
        "{what}: {:?}",
        recovered.report
    );
    let matches = model.matches(&recovered, &log.reader(), |_| true);
    matches.unwrap_or_else(|error| panic!("{what}: {error}"));
}

#[test]
fn nothing_is_damage_while_the_log_rolls_over_compacts_recycles_and_rewrites() {
    let (mut passes, mut recycled, mut rewritten) = (0, 0, 0);
    for seed in 0..10 {
        let disk = MemoryDisk::new();
        let mut run = Run::new(disk.clone());
        let mut dice = Dice(seed);
        let mut scrubber: LogScrubber<MemoryFile> = run.log.scrubber();
        for _ in 0..600 {
            assert!(run.go(&mut dice, 1, GROUPS));
            scrubber.begin();
            for _ in 0..dice.roll(3) {
                if let ScrubStep::Read { found, .. } = scrubber.step() {
                    assert_eq!(found, [], "seed {seed}");
                }
            }
        }
        let stats = run.log.stats();
        passes += stats.scrub.passes;
        recycled += disk.recycled();
        rewritten += stats.entries_rewritten;
        assert_eq!(stats.scrub.damaged, 0);
    }
    assert!(passes > 100, "{passes}");
    assert!(recycled > 100 && rewritten > 100, "{recycled} {rewritten}");
}

#[test]
fn a_segment_that_is_being_read_can_go() {
    let disk = MemoryDisk::new();
    let mut log = filled(&disk, config(1 << 20), 2, 500);
    let mut scrubber = log.scrubber();
    scrubber.begin();
    assert!(matches!(scrubber.step(), ScrubStep::Read { bytes, .. } if bytes > 0));
    // The rest of the first segment is not read yet.
    for index in 501..=1_600 {
        log.append(&batch_of(&[entry(1, 1, index, &[7; 1_000])]))
            .unwrap();
    }
    let mut batch = BatchBuilder::new();
    batch.compact(GroupId(1), position(1, 1_600));
    batch.compact(GroupId(2), position(1, 500));
    log.append(&batch.seal()).unwrap();
    settle(&mut log);
    assert!(!segments(&disk).contains(&"0000000001.seg".to_owned()));
    while let step @ ScrubStep::Read { .. } = scrubber.step() {
        assert!(
            matches!(&step, ScrubStep::Read { found, .. } if found.is_empty()),
            "{step:?}"
        );
    }
}

/// Scrubbing and recovery agree on what is damage; and when it is healed a restart finds nothing.
#[test]
fn a_flipped_bit_is_found_if_recovery_would_find_it_and_is_healed() {
    let (mut tried, mut found, mut held) = (0, 0, 0);
    for seed in 0..60 {
        let disk = MemoryDisk::new();
        let (log, _) = Log::open(disk.clone(), config(SEGMENT), IDENTITY).unwrap();
        let mut run = Run::from(log, Model::default());
        let mut dice = Dice(seed);
        assert!(run.go(&mut dice, 80, GROUPS));
        let (mut log, mut model) = (run.log, run.states.pop().unwrap());
        settle(&mut log);
        for _ in 0..4 {
            let end = log.end();
            let names = segments(&disk);
            let active = names
                .iter()
                .position(|name| *name == format!("{:010}.seg", end.generation()))
                .unwrap();
            let name = &names[dice.roll(active as u64 + 1) as usize];
            let below = if *name == names[active] {
                end.offset() as usize
            } else {
                SEGMENT as usize
            };
            let used = disk.contents(name).unwrap()[..below]
                .iter()
                .rposition(|byte| *byte != 0)
                .unwrap();
            let at = dice.roll(used as u64) as usize;
            let what = format!("seed {seed}: {name} at {at:#x}");
            assert!(disk.flip(name, at, 1 << dice.roll(8)), "{what}");
            let (_, recovered) = Log::open(disk.crash(1), config(SEGMENT), IDENTITY).unwrap();
            let damage = scrub(&mut log);
            tried += 1;
            assert_eq!(
                starts(&damage),
                starts_of_recovery(&recovered, &disk),
                "{what}: {damage:?}"
            );
            let Some(first) = damage.first() else {
                continue;
            };
            found += 1;
            assert_eq!(&first.file, name, "{what}");
            let near = first.start.offset() as usize..=(first.end.offset() as usize).max(at);
            assert!(near.contains(&at), "{what}: {first:?}");
            settle(&mut log);
            held += log.unreadable().len();
            let named: Vec<_> = damage.iter().flat_map(|it| &it.groups).collect();
            for group in log.unreadable().keys() {
                assert!(
                    named.contains(&group),
                    "{what}: {group} is not in {damage:?}"
                );
            }
            forget_unreadable(&mut log, &mut model);
            settle(&mut log);
            assert_eq!(log.damage(), [], "{what}");
            assert!(!segments(&disk).contains(name), "{what}: it is still there");
            reopened(&disk, &model, &what);
            assert_eq!(scrub(&mut log), [], "{what}");
        }
    }
    // The rest fell on a header's page, of which two copies of 64 bytes count, and on padding.
    assert!(found * 10 > tried * 7, "{found} of {tried}");
    assert!(held > 20, "{held}");
}

fn starts(damage: &[LogDamage]) -> Vec<Lsn> {
    damage.iter().map(|it| it.start).collect()
}

/// Without what it misses of segments that are gone, because the record is damaged that says so.
fn starts_of_recovery(recovered: &Recovered, disk: &MemoryDisk) -> Vec<Lsn> {
    let names = segments(disk);
    let damage = recovered.report.damage.iter();
    let damage = damage.filter(|it| names.contains(&it.file));
    damage.map(|it| it.start).collect()
}

#[test]
fn batches_larger_than_a_piece_and_holes_over_several_are_seen_as_recovery_sees_them() {
    let (mut found, mut dice) = (0, Dice(5));
    for round in 0..12 {
        let disk = MemoryDisk::new();
        let (mut log, _) = Log::open(disk.clone(), config(4 << 20), IDENTITY).unwrap();
        for index in 1..=8 {
            let payload = vec![index as u8; 1 + dice.roll(700_000) as usize];
            let mut batch = BatchBuilder::new();
            batch.append(&entry(1, 1, index, &payload));
            batch.append(&entry(2, 1, index, b"behind it"));
            log.append(&batch.seal()).unwrap();
        }
        settle(&mut log);
        let (name, end) = (&segments(&disk)[0], log.end().offset() as usize);
        for _ in 0..=dice.roll(3) {
            // Most bytes are payload; so every other time the first record's header, or the batch's.
            let batches = starts_of_batches(&disk.contents(name).unwrap());
            let batch = batches[dice.roll(batches.len() as u64) as usize];
            let at = match dice.roll(2) {
                0 => batch + dice.roll(96) as usize,
                _ => 4096 + dice.roll(end as u64 - 4096) as usize,
            };
            disk.flip(name, at, 1 << dice.roll(8));
        }
        let (_, recovered) = Log::open(disk.crash(1), config(4 << 20), IDENTITY).unwrap();
        let damage = scrub(&mut log);
        assert_eq!(
            starts(&damage),
            starts_of_recovery(&recovered, &disk),
            "{round}"
        );
        found += damage.len();
    }
    assert!(found > 15, "{found}");
}

/// Where the magic number of a batch's header stands, four bytes behind its beginning.
fn starts_of_batches(bytes: &[u8]) -> Vec<usize> {
    let starts = (4096..bytes.len() - 8).step_by(8);
    starts
        .filter(|at| &bytes[at + 4..at + 8] == b"PBch")
        .collect()
}

#[test]
fn damage_that_nobody_can_do_without_keeps_its_segment_and_is_told_once() {
    let disk = MemoryDisk::new();
    let mut log = filled(&disk, config(SEGMENT), 3, 40);
    let name = &segments(&disk)[1];
    let index = (1..=40)
        .find(|index| {
            let bytes = disk.contents(name).unwrap();
            let envelope = entry(2, 1, *index, &[2; 500]);
            bytes
                .windows(envelope.encoded_len())
                .any(|it| it == envelope.as_bytes())
        })
        .unwrap();
    assert!(disk.flip(name, payload_of(&disk, name, 2, index), 1));
    let damage = scrub(&mut log);
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert_eq!(
        (&damage[0].file, &damage[0].groups[..]),
        (name, &[GroupId(2)][..])
    );
    settle(&mut log);
    let unreadable = BTreeMap::from([(GroupId(2), vec![LogIndex(index)])]);
    assert_eq!(log.unreadable(), unreadable);
    // All others were written again, and read as before.
    for group in [1, 3] {
        let entries = log
            .reader()
            .read(GroupId(group), LogIndex(1), LogIndex(40), usize::MAX);
        assert_eq!(entries.unwrap().len(), 40);
    }
    assert!(log.stats().entries_rewritten > 0);
    assert_eq!(scrub(&mut log), [], "it was told before");
    assert_eq!((log.damage(), log.stats().scrub.damaged), (damage, 1));
    assert!(segments(&disk).contains(name));
    // A replica that is given up leaves, and its damage with it.
    let mut batch = BatchBuilder::new();
    batch.tombstone(GroupId(2), pontoon_types::ReplicaId(9));
    log.append(&batch.seal()).unwrap();
    settle(&mut log);
    assert_eq!(
        (log.unreadable(), log.damage()),
        (BTreeMap::new(), Vec::new())
    );
    let (_, recovered) = Log::open(disk.crash(1), config(SEGMENT), IDENTITY).unwrap();
    assert!(recovered.damaged.is_empty() && recovered.report.damage.is_empty());
}

#[test]
fn the_last_record_of_a_hard_state_is_had_again_from_the_next_checkpoint() {
    let disk = MemoryDisk::new();
    let mut log = filled(&disk, config(SEGMENT), 2, 3);
    let mut batch = BatchBuilder::new();
    batch.hard_state(GroupId(2), &hard_state(77, Some(3), 3));
    let at = log.end();
    log.append(&batch.seal()).unwrap();
    settle(&mut log);
    let name = format!("{:010}.seg", at.generation());
    assert!(disk.flip(&name, at.offset() as usize + 64 + 24, 4));
    let (_, recovered) = Log::open(disk.crash(1), config(SEGMENT), IDENTITY).unwrap();
    assert!(recovered.is_quarantined(GroupId(2)), "the vote is lost");
    let damage = scrub(&mut log);
    assert_eq!(
        (damage[0].start, &damage[0].groups[..]),
        (at, &[GroupId(2)][..])
    );
    settle(&mut log);
    assert!(
        log.end().generation() > at.generation(),
        "nothing more is laid there"
    );
    assert_eq!(
        (log.unreadable(), log.damage()),
        (BTreeMap::new(), Vec::new())
    );
    let (_, recovered) = Log::open(disk.crash(1), config(SEGMENT), IDENTITY).unwrap();
    assert!(recovered.damaged.is_empty());
    assert_eq!(
        recovered.groups[&GroupId(2)].hard_state,
        hard_state(77, Some(3), 3)
    );
    assert_eq!(recovered.groups[&GroupId(2)].last, LogIndex(3));
}

#[test]
fn what_was_compacted_is_told_and_costs_nothing() {
    let disk = MemoryDisk::new();
    let mut log = filled(&disk, config(SEGMENT), 2, 40);
    let name = segments(&disk)[0].clone();
    let at = payload_of(&disk, &name, 1, 2);
    let mut batch = BatchBuilder::new();
    batch.compact(GroupId(1), position(1, 20));
    log.append(&batch.seal()).unwrap();
    settle(&mut log);
    assert!(disk.flip(&name, at, 8));
    let damage = scrub(&mut log);
    assert_eq!(damage[0].groups, [GroupId(1)]);
    settle(&mut log);
    assert_eq!(
        (log.unreadable(), log.damage()),
        (BTreeMap::new(), Vec::new())
    );
    let (_, recovered) = Log::open(disk.crash(1), config(SEGMENT), IDENTITY).unwrap();
    assert!(recovered.damaged.is_empty(), "{:?}", recovered.report);
}

#[test]
fn a_bad_block_is_damage_like_any_other_and_its_neighbours_are_read() {
    let disk = MemoryDisk::new();
    let mut log = filled(&disk, config(SEGMENT), 2, 60);
    let name = segments(&disk)[0].clone();
    assert!(disk.break_page(&name, 3));
    let damage = scrub(&mut log);
    let (first, last) = (&damage[0], damage.last().unwrap());
    // The batches that lie in it take some 1,200 bytes each.
    let (start, end) = (first.start.offset(), last.end.offset());
    assert!((3 * 4096 - 1_300..=3 * 4096).contains(&start), "{damage:?}");
    assert!((4 * 4096..=4 * 4096 + 1_300).contains(&end), "{damage:?}");
    settle(&mut log);
    let unreadable = log.unreadable();
    let indexes: Vec<_> = unreadable.values().flatten().collect();
    // Each entry takes about 560 bytes.
    assert!((5..=10).contains(&indexes.len()), "{unreadable:?}");
    let mut batch = BatchBuilder::new();
    for (group, indexes) in unreadable {
        batch.compact(group, position(1, indexes.last().unwrap().0));
    }
    log.append(&batch.seal()).unwrap();
    settle(&mut log);
    assert_eq!(log.damage(), []);
    let (_, recovered) = Log::open(disk.crash(1), config(SEGMENT), IDENTITY).unwrap();
    assert!(recovered.damaged.is_empty());
}

#[test]
fn a_segment_whose_header_is_lost_is_read_all_the_same_while_the_log_runs() {
    let disk = MemoryDisk::new();
    let mut log = filled(&disk, config(SEGMENT), 2, 60);
    let name = segments(&disk)[0].clone();
    assert!(disk.break_page(&name, 0));
    let damage = scrub(&mut log);
    assert_eq!(
        (starts(&damage), &damage[0].groups),
        (vec![Lsn::new(1, 0)], &vec![])
    );
    settle(&mut log);
    assert_eq!(
        (log.unreadable(), log.damage()),
        (BTreeMap::new(), Vec::new())
    );
    let (log, recovered) = Log::open(disk.crash(1), config(SEGMENT), IDENTITY).unwrap();
    assert!(recovered.damaged.is_empty() && recovered.report.damage.is_empty());
    let entries = log
        .reader()
        .read(GroupId(1), LogIndex(1), LogIndex(60), usize::MAX);
    assert_eq!(entries.unwrap().len(), 60);
    // Its blocks are not trusted with anything else.
    let recycled = format!("recycled-{name}");
    assert!(!disk.list().unwrap().contains(&recycled));
}

#[test]
fn a_reader_that_meets_damage_has_its_segment_looked_through_at_once() {
    let disk = MemoryDisk::new();
    let mut log = filled(&disk, config(SEGMENT), 2, 40);
    let name = segments(&disk)[0].clone();
    for index in [3, 5] {
        assert!(disk.flip(&name, payload_of(&disk, &name, 1, index), 8));
    }
    let mut scrubber = log.scrubber();
    assert_eq!(scrubber.step(), ScrubStep::Idle);
    let read = log
        .reader()
        .read(GroupId(1), LogIndex(3), LogIndex(9), usize::MAX);
    assert!(matches!(read, Err(WalError::Damaged { .. })), "{read:?}");
    assert_eq!(log.unreadable()[&GroupId(1)], [LogIndex(3)]);
    let ScrubStep::Read { found, .. } = scrubber.step() else {
        panic!("it is not looked through");
    };
    let groups: Vec<_> = found.iter().map(|damage| &damage.groups[..]).collect();
    assert_eq!(groups, [[GroupId(1)], [GroupId(1)]]);
    log.condemn(found[0].start.generation());
    settle(&mut log);
    assert_eq!(log.unreadable()[&GroupId(1)], [LogIndex(3), LogIndex(5)]);
    assert_eq!(scrubber.step(), ScrubStep::Idle, "once is enough");
}

#[test]
fn what_recovery_has_reported_is_no_news() {
    let disk = MemoryDisk::new();
    let log = filled(&disk, config(SEGMENT), 2, 40);
    drop(log);
    let name = segments(&disk)[0].clone();
    assert!(disk.flip(&name, payload_of(&disk, &name, 1, 3), 8));
    assert!(disk.flip(&name, 4096 + 8, 8));
    let (mut log, recovered) = Log::open(disk.clone(), config(SEGMENT), IDENTITY).unwrap();
    assert_eq!(recovered.report.damage.len(), 2, "{:?}", recovered.report);
    assert_eq!(scrub(&mut log), []);
    assert!(disk.flip(&name, payload_of(&disk, &name, 2, 9), 8));
    assert_eq!(scrub(&mut log).len(), 1);
}
