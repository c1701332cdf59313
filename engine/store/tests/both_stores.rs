//! What must hold of the state machine on either store, crash and replay above all.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod common;

use common::*;
use pontoon_store::keys::MAX_STORED_KEY_BYTES;
use pontoon_store::{KvMachine, Outcome, ReadError, ScanLimits, Store, StoreError};
use pontoon_types::{Entry, EntryKind, Epoch, GroupId, LogIndex, Mutation, Operation, ShardId};
use std::collections::BTreeMap;

macro_rules! on_both_stores {
    ($($test:ident),* $(,)?) => {
        mod on_lsm { $(#[test] fn $test() { super::$test::<super::Lsm>(); })* }
        mod on_model { $(#[test] fn $test() { super::$test::<super::Model>(); })* }
    };
}

on_both_stores! {
    a_crash_leaves_exactly_what_was_flushed_and_replay_brings_the_rest,
    replaying_from_before_the_applied_index_changes_nothing,
    readers_never_change,
    records_and_named_rows_are_durable_before_bootstrap_returns,
    a_replica_is_never_redefined,
    what_does_not_belong_here_is_an_outcome_and_changes_nothing,
    commands_see_the_commands_before_them,
    the_last_write_of_a_batch_wins,
    a_damaged_entry_stops_its_group_and_no_other,
    an_unknown_group_is_an_error,
    scans_keep_to_their_limits_and_to_the_shard,
    reads_check_shard_epoch_and_range,
    bounds_longer_than_any_key_are_only_bounds,
    durability_moves_only_when_a_flush_has_finished,
    failed_calls_leave_the_machine_as_it_was,
}

/// Entry `n` of the script below: the entries of three groups in turn, with overwrites and deletes.
fn script(n: u64) -> Entry {
    let (group, index) = (1 + n % 3, 1 + n / 3);
    let key = format!("{group}key{:03}", n * 7 % 250);
    match n % 11 {
        0 => delete(group, index, &key),
        _ => put(group, index, &key, &format!("value {n}")),
    }
}

/// What the first `count` entries of the script come to.
fn expected(count: u64) -> [BTreeMap<String, String>; 3] {
    let mut rows = [const { BTreeMap::new() }; 3];
    for n in 0..count {
        let group = 1 + n % 3;
        let key = format!("{group}key{:03}", n * 7 % 250);
        let rows = &mut rows[group as usize - 1];
        match n % 11 {
            0 => rows.remove(&key),
            _ => rows.insert(key, format!("value {n}")),
        };
    }
    rows
}

fn run<S: Store>(machine: &mut KvMachine<S>, entries: std::ops::Range<u64>) {
    let entries: Vec<_> = entries.map(script).collect();
    for batch in entries.chunks(7) {
        for outcome in apply(machine, batch) {
            assert_eq!(outcome, Outcome::Written);
        }
    }
}

fn assert_state<S: Store>(machine: &KvMachine<S>, count: u64) {
    let reader = machine.reader();
    for group in 1..=3 {
        assert_eq!(
            rows(&reader, group),
            expected(count)[group as usize - 1],
            "group {group}"
        );
        let applied = (count + 3 - group) / 3;
        assert_eq!(
            machine.applied(GroupId(group)),
            LogIndex(applied),
            "group {group}"
        );
    }
}

fn a_crash_leaves_exactly_what_was_flushed_and_replay_brings_the_rest<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 3);
    run(&mut machine, 0..600);
    machine.store_mut().flush().unwrap();
    run(&mut machine, 600..1000);
    assert_state(&machine, 1000);

    let mut machine = reopen(&mut harness, machine);
    assert_state(&machine, 600);
    assert_eq!(
        machine.store().all_applied(),
        [1, 2, 3].map(|g| (GroupId(g), LogIndex(200)))
    );
    assert_eq!(machine.durability().applied(GroupId(2)), LogIndex(200));

    run(&mut machine, 600..1000);
    assert_state(&machine, 1000);
    machine.store_mut().flush().unwrap();
    let machine = reopen(&mut harness, machine);
    assert_state(&machine, 1000);
}

fn replaying_from_before_the_applied_index_changes_nothing<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 3);
    run(&mut machine, 0..300);
    let again: Vec<_> = (30..303).map(script).collect();
    let outcomes = apply(&mut machine, &again);
    let skipped = outcomes
        .iter()
        .filter(|outcome| **outcome == Outcome::AlreadyApplied)
        .count();
    assert_eq!(skipped, 270);
    assert_state(&machine, 303);
    // All of it again: the batch is empty.
    assert!(
        apply(&mut machine, &again)
            .iter()
            .all(|o| *o == Outcome::AlreadyApplied)
    );
    assert_state(&machine, 303);
}

fn readers_never_change<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 3);
    let mut readers = Vec::new();
    for round in 0..12 {
        run(&mut machine, round * 100..(round + 1) * 100);
        readers.push(((round + 1) * 100, machine.reader()));
        match round % 3 {
            0 => machine.store_mut().flush().unwrap(),
            1 => machine.store_mut().rotate().unwrap(),
            _ => {}
        }
        if round == 5 {
            // The oldest go, so that versions may be forgotten while newer ones are still read.
            readers.drain(..3);
        }
        H::settle(machine.store());
        for (count, reader) in &readers {
            for group in 1..=3 {
                assert_eq!(rows(reader, group), expected(*count)[group as usize - 1]);
            }
        }
    }
    // They may outlive the machine, and be read elsewhere.
    drop(machine);
    let (count, reader) = readers.pop().unwrap();
    let found = std::thread::spawn(move || rows(&reader, 2)).join().unwrap();
    assert_eq!(found, expected(count)[1]);
}

fn records_and_named_rows_are_durable_before_bootstrap_returns<H: Harness>() {
    let mut harness = H::new();
    let mut machine = KvMachine::open(harness.open()).unwrap();
    assert_eq!(machine.replicas().count(), 0);
    let records = [record(1), record(2)];
    machine
        .bootstrap(&records, &[("identity", b"node 7")])
        .unwrap();
    machine.put_local("later", b"").unwrap();

    let mut machine = reopen(&mut harness, machine);
    assert!(machine.replicas().eq(&records));
    assert_eq!(
        machine.get_local("identity").unwrap().as_deref(),
        Some(&b"node 7"[..])
    );
    assert_eq!(
        machine.get_local("later").unwrap().as_deref(),
        Some(&b""[..])
    );
    assert_eq!(machine.get_local("never").unwrap(), None);
    assert_eq!(
        apply(&mut machine, &[put(2, 1, "2a", "x")]),
        [Outcome::Written]
    );
}

fn a_replica_is_never_redefined<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 2);
    machine.bootstrap(&[record(1), record(3)], &[]).unwrap();
    assert_eq!(machine.replicas().count(), 3);
    let mut other = record(2);
    other.epoch.range += 1;
    let refused = machine.bootstrap(&[record(4), other], &[("mark", b"")]);
    assert!(
        matches!(
            refused,
            Err(StoreError::ReplicaExists { group: GroupId(2) })
        ),
        "{refused:?}"
    );
    assert_eq!(
        machine.replicas().count(),
        3,
        "nothing of a refused step may stay"
    );
    assert_eq!(machine.get_local("mark").unwrap(), None);
    let (one, mut two) = (record(6), record(6));
    two.pieces = record(7).pieces;
    let refused = machine.bootstrap(&[one, two], &[]);
    assert!(
        matches!(
            refused,
            Err(StoreError::ReplicaExists { group: GroupId(6) })
        ),
        "{refused:?}"
    );
    let mut empty = record(5);
    empty.end = empty.start.clone();
    assert!(matches!(
        machine.bootstrap(&[empty], &[]),
        Err(StoreError::InvalidRecord { .. })
    ));
}

fn what_does_not_belong_here_is_an_outcome_and_changes_nothing<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 2);
    let shard = ShardId(10);
    let write = |keys: &[&'static str]| {
        let value = &b"v"[..];
        let mutations = keys.iter().map(|key| Mutation::Put {
            key: key.as_bytes(),
            value,
        });
        Operation::Write(mutations.collect())
    };
    let long = vec![b'1'; 70_000];
    let too_long = Operation::Write(vec![Mutation::Put {
        key: &long,
        value: b"",
    }]);
    let epoch = |range, membership| Epoch { range, membership };
    let cases = [
        (
            command(1, 1, shard, epoch(2, 5), write(&["1a"])),
            Outcome::StaleEpoch,
        ),
        (
            command(1, 2, shard, epoch(4, 5), write(&["1a"])),
            Outcome::StaleEpoch,
        ),
        (
            command(1, 3, ShardId(20), EPOCH, write(&["1a"])),
            Outcome::StaleEpoch,
        ),
        (
            command(1, 4, shard, EPOCH, write(&["2a"])),
            Outcome::OutOfRange,
        ),
        (
            command(1, 5, shard, EPOCH, write(&["1a", "1~"])),
            Outcome::OutOfRange,
        ),
        (swap(1, 6, "0", None, Some("v")), Outcome::OutOfRange),
        (command(1, 7, shard, EPOCH, too_long), Outcome::Malformed),
        (
            command(1, 8, shard, EPOCH, write(&[""])),
            Outcome::Malformed,
        ),
        (entry(1, 9, EntryKind::Command, b""), Outcome::Malformed),
        (
            entry(1, 10, EntryKind::Command, &[0xff; 40]),
            Outcome::Malformed,
        ),
        (entry(1, 11, EntryKind::Empty, b""), Outcome::None),
        (
            entry(1, 12, EntryKind::ConfChange, b"anything"),
            Outcome::Malformed,
        ),
    ];
    let (entries, outcomes): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let before = rows(&machine.reader(), 1);
    assert_eq!(apply(&mut machine, &entries), outcomes);
    assert_eq!(rows(&machine.reader(), 1), before);
    assert_eq!(machine.applied(GroupId(1)), LogIndex(12));
    // Members changed since: the group is still the owner of the same keys.
    let moved = command(1, 13, shard, epoch(3, 1), write(&["1a"]));
    assert_eq!(apply(&mut machine, &[moved]), [Outcome::Written]);
}

fn commands_see_the_commands_before_them<H: Harness>() {
    let not_swapped = |actual: Option<&'static str>| Outcome::NotSwapped {
        actual: actual.map(Into::into),
    };
    let cases = [
        (swap(1, 1, "1k", Some("a"), Some("b")), not_swapped(None)),
        (swap(1, 2, "1k", None, Some("a")), Outcome::Swapped),
        (swap(1, 3, "1k", None, Some("b")), not_swapped(Some("a"))),
        (put(1, 4, "1k", "c"), Outcome::Written),
        (swap(1, 5, "1k", Some("c"), Some("")), Outcome::Swapped),
        (swap(1, 6, "1k", None, Some("d")), not_swapped(Some(""))),
        (swap(1, 7, "1k", Some(""), None), Outcome::Swapped),
        (swap(1, 8, "1k", Some(""), None), not_swapped(None)),
        (put(1, 9, "1k", "e"), Outcome::Written),
        (delete(1, 10, "1k"), Outcome::Written),
        (swap(1, 11, "1k", None, None), Outcome::Swapped),
        (swap(1, 12, "1k", None, Some("f")), Outcome::Swapped),
    ];
    let (entries, outcomes): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    // However the entries are cut into batches, the same comes of them.
    for batch in [12, 5, 3, 1] {
        let mut harness = H::new();
        let mut machine = machine(&mut harness, 1);
        let found: Vec<_> = entries
            .chunks(batch)
            .flat_map(|e| apply(&mut machine, e))
            .collect();
        assert_eq!(found, outcomes, "in batches of {batch}");
        assert_eq!(
            rows(&machine.reader(), 1),
            [("1k".into(), "f".into())].into()
        );
    }
}

fn the_last_write_of_a_batch_wins<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 2);
    let entries = [
        put(1, 1, "1a", "old"),
        put(2, 1, "2a", "other"),
        put(1, 2, "1a", "new"),
        put(1, 3, "1b", "gone"),
        delete(1, 4, "1b"),
        delete(1, 5, "1c"),
        put(1, 6, "1c", "back"),
    ];
    apply(&mut machine, &entries);
    let expected =
        BTreeMap::from([("1a", "new"), ("1c", "back")].map(|(k, v)| (k.into(), v.into())));
    assert_eq!(rows(&machine.reader(), 1), expected);
    machine.store_mut().flush().unwrap();
    let machine = reopen(&mut harness, machine);
    assert_eq!(rows(&machine.reader(), 1), expected);
    assert_eq!(machine.applied(GroupId(1)), LogIndex(6));
}

fn damaged(entry: &Entry) -> Entry {
    let mut bytes = entry.as_bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    Entry::decode_unverified(bytes.into()).unwrap()
}

fn a_damaged_entry_stops_its_group_and_no_other<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 2);
    let whole = [put(1, 1, "1a", "x"), put(2, 1, "2a", "y")];
    let mut outcomes = Vec::new();
    let error = machine
        .apply(&[whole[0].clone(), damaged(&whole[1])], &mut outcomes)
        .unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::DamagedEntry {
                group: GroupId(2),
                index: LogIndex(1),
                ..
            }
        ),
        "{error}"
    );
    assert!(outcomes.is_empty());
    assert_eq!(
        machine.applied(GroupId(1)),
        LogIndex(0),
        "nothing of the call may stay"
    );
    assert_eq!(apply(&mut machine, &whole[..1]), [Outcome::Written]);
}

fn an_unknown_group_is_an_error<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 1);
    let error = machine
        .apply(&[put(9, 1, "9", "")], &mut Vec::new())
        .unwrap_err();
    assert!(
        matches!(error, StoreError::UnknownGroup { group: GroupId(9) }),
        "{error}"
    );
}

fn failed_calls_leave_the_machine_as_it_was<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 1);
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        let entries = [
            put(1, 1, "1a", "x"),
            put(1, 2, "1b", "x"),
            put(9, 1, "9", ""),
        ];
        assert!(machine.apply(&entries, &mut outcomes).is_err());
        assert!(rows(&machine.reader(), 1).is_empty());
    }
    // Had the cursor of group 1 moved, this would be a gap or taken for a repeat.
    assert_eq!(
        apply(&mut machine, &[put(1, 1, "1a", "x")]),
        [Outcome::Written]
    );
}

fn scans_keep_to_their_limits_and_to_the_shard<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 3);
    let entries: Vec<_> = (1..=30)
        .flat_map(|i| (1..=3).map(move |g| put(g, i, &format!("{g}{i:02}"), "12345")))
        .collect();
    apply(&mut machine, &entries);
    let reader = machine.reader();
    let scan = |from: &str, to: &str, rows, bytes| {
        let range = (from.as_bytes(), to.as_bytes());
        let limits = ScanLimits { rows, bytes };
        let page = reader
            .scan(GroupId(2), ShardId(20), EPOCH, range, limits)
            .unwrap();
        let keys: Vec<_> = page.rows.iter().map(|(key, _)| text(key)).collect();
        (keys.join(" "), page.more)
    };
    let many = usize::MAX;
    assert_eq!(scan("2", "", many, many).0.split(' ').count(), 30);
    assert_eq!(
        scan("2", "9", many, many).0.split(' ').count(),
        30,
        "clipped to the shard"
    );
    assert_eq!(scan("228", "", many, many), ("228 229 230".into(), false));
    assert_eq!(scan("228", "230", many, many), ("228 229".into(), false));
    assert_eq!(scan("205", "", 2, many), ("205 206".into(), true));
    assert_eq!(
        scan("205", "207", 2, many),
        ("205 206".into(), false),
        "nothing is left"
    );
    assert_eq!(scan("205", "", 0, many), (String::new(), true));
    assert_eq!(
        scan("205", "", many, 16),
        ("205 206".into(), true),
        "rows of 8 bytes"
    );
    assert_eq!(
        scan("205", "", many, 1),
        ("205".into(), true),
        "never stuck on a large row"
    );
    assert_eq!(scan("207", "205", many, many), (String::new(), false));
}

fn reads_check_shard_epoch_and_range<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 2);
    apply(&mut machine, &[put(1, 1, "1a", "x")]);
    let reader = machine.reader();
    let get = |group, shard, range, key: &str| {
        let epoch = Epoch {
            range,
            membership: 0,
        };
        reader.get(GroupId(group), ShardId(shard), epoch, key.as_bytes())
    };
    assert_eq!(get(1, 10, 3, "1a").unwrap().as_deref(), Some(&b"x"[..]));
    assert_eq!(get(1, 10, 3, "1b").unwrap(), None);
    assert!(matches!(
        get(1, 10, 2, "1a"),
        Err(ReadError::StaleEpoch { current: EPOCH, .. })
    ));
    assert!(matches!(
        get(1, 20, 3, "1a"),
        Err(ReadError::StaleEpoch { .. })
    ));
    assert!(matches!(
        get(1, 10, 3, "2a"),
        Err(ReadError::OutOfRange { shard: ShardId(10) })
    ));
    assert!(matches!(
        get(7, 10, 3, "1a"),
        Err(ReadError::UnknownGroup { group: GroupId(7) })
    ));
    let scan = |from: &str| {
        let range = (from.as_bytes(), &b""[..]);
        reader.scan(GroupId(1), ShardId(10), EPOCH, range, NO_LIMIT)
    };
    assert!(matches!(scan("0"), Err(ReadError::OutOfRange { .. })));
    assert!(matches!(scan("2"), Err(ReadError::OutOfRange { .. })));
    assert_eq!(reader.replica(GroupId(1)), Some(&record(1)));
}

fn durability_moves_only_when_a_flush_has_finished<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 2);
    let durability = machine.durability();
    let generation = durability.generation();
    apply(
        &mut machine,
        &[
            put(1, 1, "1a", ""),
            put(1, 2, "1a", ""),
            put(2, 1, "2a", ""),
        ],
    );
    assert_eq!(durability.applied(GroupId(1)), LogIndex(0));
    assert_eq!(durability.generation(), generation);
    machine.store_mut().flush().unwrap();
    assert_eq!(durability.applied(GroupId(1)), LogIndex(2));
    assert_ne!(durability.generation(), generation);
    apply(&mut machine, &[put(2, 2, "2a", "")]);
    let all = durability.all();
    assert_eq!(
        (all[&GroupId(1)], all[&GroupId(2)]),
        (LogIndex(2), LogIndex(1))
    );
    assert_eq!(durability.applied(GroupId(8)), LogIndex(0));
}

#[test]
#[should_panic(expected = "must follow the last applied one")]
fn a_gap_in_a_groups_entries_is_a_bug_that_stops_the_node() {
    let mut machine = machine(&mut Model, 1);
    let _ = machine.apply(&[put(1, 2, "1a", "")], &mut Vec::new());
}

/// A client chooses the bounds of a scan: none may hurt (S12).
fn bounds_longer_than_any_key_are_only_bounds<H: Harness>() {
    let mut harness = H::new();
    let mut machine = machine(&mut harness, 1);
    let entries: Vec<_> = (1..=3)
        .map(|n| put(1, n, &format!("1{n}"), "value"))
        .collect();
    apply(&mut machine, &entries);
    let longest = "12".to_owned() + &"x".repeat(MAX_STORED_KEY_BYTES - 2);
    apply(&mut machine, &[put(1, 4, &longest, "value")]);
    let reader = machine.reader();
    let scan = |from: &str, to: &str| {
        let range = (from.as_bytes(), to.as_bytes());
        let page = reader.scan(GroupId(1), ShardId(10), EPOCH, range, NO_LIMIT);
        page.unwrap().rows.len()
    };
    let beyond = longest.clone() + "y";
    assert_eq!(scan("1", &beyond), 3, "11, 12 and the longest");
    assert_eq!(scan(&beyond, ""), 1, "13");
    assert_eq!(scan(&beyond, &(beyond.clone() + "z")), 0);
    assert_eq!(scan("1", ""), 4);
    let found = reader.get(GroupId(1), ShardId(10), EPOCH, beyond.as_bytes());
    assert_eq!(found.unwrap(), None);
}
