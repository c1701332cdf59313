//! Replicas are split and merged, come as snapshots, leave, and the process dies at any point in between: each has the rows
//! that a plain map has, the store has them and no others in the end, and nothing that was deleted comes back.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod common;

use common::*;
use pontoon_store::keys::{LOCAL_TABLET, Space, stored_key, tablet_of};
use pontoon_store::{
    KvMachine, KvSnapshot, Piece, ReplicaRecord, ScanLimits, Stager, StateHash, Store,
};
use pontoon_types::{Entry, Epoch, GroupId, LogIndex, Mutation, Operation, ShardId};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Keys are numbers below, of two digits.
const KEYS: u8 = 100;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug)]
enum Op {
    /// Keys and values, or deletes.
    Write(usize, Vec<(u8, Option<u8>)>),
    /// At some key, and whether the child comes to be here.
    Split(usize, u8, bool),
    /// With what is behind it.
    Merge(usize),
    /// A snapshot comes in with so many rows. It is put in place; or it is not, and its tablet goes.
    Install(usize, u8, bool),
    Remove(usize),
    Reclaim(usize),
    Rotate,
    Flush,
    Settle,
    Pin(usize),
    Unpin,
    Crash,
    /// The process dies just when the store begins to let go of whole tables.
    CrashDropping,
}

fn op() -> impl Strategy<Value = Op> {
    let at = || any::<usize>();
    let rows = prop::collection::vec((any::<u8>(), any::<Option<u8>>()), 1..12);
    prop_oneof![
        8 => (at(), rows).prop_map(|(at, rows)| Op::Write(at, rows)),
        4 => (at(), any::<u8>(), prop::bool::weighted(0.8)).prop_map(|(at, key, here)| Op::Split(at, key, here)),
        3 => at().prop_map(Op::Merge),
        2 => (at(), 0..40_u8, prop::bool::weighted(0.8)).prop_map(|(at, rows, used)| Op::Install(at, rows, used)),
        1 => at().prop_map(Op::Remove),
        5 => (1..40_usize).prop_map(Op::Reclaim),
        2 => Just(Op::Rotate),
        2 => Just(Op::Flush),
        1 => Just(Op::Settle),
        1 => at().prop_map(Op::Pin),
        1 => Just(Op::Unpin),
        2 => Just(Op::Crash),
        2 => Just(Op::CrashDropping),
    ]
}

fn key(number: u8) -> Vec<u8> {
    format!("{number:02}").into_bytes()
}

/// What the log has of the node, one call of the machine each.
#[derive(Clone)]
enum Step {
    Apply(Vec<Entry>),
    Split(
        Box<ReplicaRecord>,
        LogIndex,
        Option<(Box<ReplicaRecord>, LogIndex)>,
    ),
    Merge(Box<ReplicaRecord>, LogIndex, GroupId),
    Install(Box<ReplicaRecord>, LogIndex),
    Remove(GroupId),
}

impl Step {
    fn make<S: Store>(self, machine: &mut KvMachine<S>) {
        match self {
            Self::Apply(entries) => drop(apply(machine, &entries)),
            Self::Split(parent, index, child) => {
                let child = child.map(|(child, index)| (*child, index));
                assert!(machine.split(*parent, index, child).unwrap());
            }
            Self::Merge(left, index, right) => assert!(machine.merge(*left, index, right).unwrap()),
            Self::Install(record, applied) => machine.install(*record, applied).unwrap(),
            Self::Remove(group) => machine.remove(group).unwrap(),
        }
    }
}

/// A range with the group that has it.
#[derive(Clone, Debug)]
struct Shard {
    group: u64,
    keys: std::ops::Range<u8>,
    epoch: u64,
    applied: LogIndex,
    /// `None`: the group's replica is not on this node.
    rows: Option<Rows>,
}

impl Shard {
    /// The record without its pieces.
    fn record(&self) -> ReplicaRecord {
        let Shard { keys, group, .. } = self;
        ReplicaRecord {
            start: if keys.start == 0 {
                vec![]
            } else {
                key(keys.start)
            }
            .into(),
            end: if keys.end == KEYS {
                vec![]
            } else {
                key(keys.end)
            }
            .into(),
            epoch: Epoch {
                range: self.epoch,
                membership: 5,
            },
            ..record(*group)
        }
    }

    fn next(&mut self) -> LogIndex {
        self.applied = self.applied.next();
        self.applied
    }

    fn key(&self, number: u8) -> Vec<u8> {
        key(self.keys.start + number % (self.keys.end - self.keys.start))
    }
}

/// Of each group where its rows are, its applied index, and the hash.
type State = BTreeMap<u64, (Vec<Piece>, u64, u128)>;

fn state_of<S: Store>(machine: &KvMachine<S>) -> State {
    let of = |record: &ReplicaRecord| {
        let snapshot = machine.snapshot(record.group).unwrap();
        let pieces = record.pieces.iter().collect();
        (
            record.group.0,
            (pieces, snapshot.applied().0, snapshot.hash().unwrap()),
        )
    };
    machine.replicas().map(of).collect()
}

struct World<H: Harness> {
    harness: H,
    /// `None` only while it is opened again.
    machine: Option<KvMachine<H::Store>>,
    shards: Vec<Shard>,
    steps: Vec<Step>,
    /// What was there after so many of the steps.
    states: Vec<State>,
    /// So many of them are flushed.
    durable: usize,
    pinned: Vec<(KvSnapshot<<H::Store as Store>::View>, u128)>,
    groups: u64,
}

impl<H: Harness> World<H> {
    fn new() -> Self {
        let mut harness = H::new();
        let mut machine = KvMachine::open(harness.open()).unwrap();
        let shard = |group, keys| Shard {
            group,
            keys,
            epoch: 1,
            applied: LogIndex::ZERO,
            rows: Some(Rows::new()),
        };
        let shards = vec![shard(1, 0..40), shard(2, 40..KEYS)];
        let records: Vec<_> = shards.iter().map(Shard::record).collect();
        machine.bootstrap(&records, &[]).unwrap();
        Self {
            states: vec![state_of(&machine)],
            machine: Some(machine),
            harness,
            shards,
            steps: Vec::new(),
            durable: 0,
            pinned: Vec::new(),
            groups: 2,
        }
    }

    fn machine(&mut self) -> &mut KvMachine<H::Store> {
        self.machine.as_mut().unwrap()
    }

    fn step(&mut self, step: Step) {
        step.clone().make(self.machine());
        self.steps.push(step);
        let state = state_of(self.machine());
        self.states.push(state);
    }

    fn run(&mut self, op: Op) {
        let count = self.shards.len();
        match op {
            Op::Write(at, rows) => self.write(at % count, rows),
            Op::Split(at, key, is_here) => self.split(at % count, key, is_here),
            Op::Merge(at) => self.merge(at % count),
            Op::Install(at, rows, is_used) => self.install(at % count, rows, is_used),
            Op::Remove(at) => {
                let shard = &mut self.shards[at % count];
                let group = GroupId(shard.group);
                if shard.rows.take().is_some() {
                    self.step(Step::Remove(group));
                }
            }
            Op::Reclaim(rows) => {
                self.machine().reclaim(rows).unwrap();
            }
            Op::Rotate => self.machine().store_mut().rotate().unwrap(),
            Op::Flush => {
                self.machine().store_mut().flush().unwrap();
                self.durable = self.steps.len();
            }
            Op::Settle => H::settle(self.machine().store()),
            Op::Pin(at) => {
                let group = GroupId(self.shards[at % count].group);
                if let Some(snapshot) = self.machine().snapshot(group) {
                    let hash = snapshot.hash().unwrap();
                    self.pinned.push((snapshot, hash));
                }
            }
            Op::Unpin => {
                if !self.pinned.is_empty() {
                    self.pinned.remove(0);
                }
            }
            Op::Crash => self.crash(),
            Op::CrashDropping => {
                let machine = self.machine();
                while machine.reclaim(100).unwrap() && !machine.store().is_dropping() {}
                self.crash();
            }
        }
    }

    fn write(&mut self, at: usize, changes: Vec<(u8, Option<u8>)>) {
        let shard = &mut self.shards[at];
        let Some(mut rows) = shard.rows.take() else {
            return;
        };
        let mut entries = Vec::new();
        for (number, value) in changes {
            let key = shard.key(number);
            let index = shard.next();
            let value = value.map(|len| vec![number; len.into()]);
            let mutation = match &value {
                Some(value) => Mutation::Put { key: &key, value },
                None => Mutation::Delete { key: &key },
            };
            let write = Operation::Write(vec![mutation]);
            let epoch = shard.record().epoch;
            let (group, of) = (shard.group, ShardId(10 * shard.group));
            entries.push(command(group, index.0, of, epoch, write));
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        shard.rows = Some(rows);
        self.step(Step::Apply(entries));
    }

    fn split(&mut self, at: usize, number: u8, is_here: bool) {
        let shard = &mut self.shards[at];
        let width = shard.keys.end - shard.keys.start;
        let Some(rows) = shard.rows.as_mut().filter(|_| width >= 2) else {
            return;
        };
        let border = shard.keys.start + 1 + number % (width - 1);
        let right = rows.split_off(&key(border));
        self.groups += 1;
        shard.epoch += 1;
        let child = Shard {
            group: self.groups,
            keys: border..shard.keys.end,
            epoch: shard.epoch,
            applied: LogIndex(7),
            rows: is_here.then_some(right),
        };
        shard.keys.end = border;
        let index = shard.next();
        let here = is_here.then(|| (child.record().into(), child.applied));
        let step = Step::Split(shard.record().into(), index, here);
        self.shards.insert(at + 1, child);
        self.step(step);
    }

    fn merge(&mut self, at: usize) {
        let are_here =
            |shards: &[Shard]| shards.len() == 2 && shards.iter().all(|one| one.rows.is_some());
        let end = self.shards.len().min(at + 2);
        if !are_here(&self.shards[at..end]) {
            return;
        }
        let right = self.shards.remove(at + 1);
        let left = &mut self.shards[at];
        left.rows.as_mut().unwrap().extend(right.rows.unwrap());
        left.keys.end = right.keys.end;
        left.epoch = left.epoch.max(right.epoch) + 1;
        let index = left.next();
        let step = Step::Merge(left.record().into(), index, GroupId(right.group));
        self.step(step);
    }

    fn install(&mut self, at: usize, count: u8, is_used: bool) {
        let (tablet, mut stager) = self.machine().begin_install().unwrap();
        let shard = &mut self.shards[at];
        let row = |number: u8| (shard.key(number.wrapping_mul(37)), vec![number; 90]);
        let rows: Rows = (0..count).map(row).collect();
        for (key, value) in &rows {
            stager
                .push(&[&[Space::Data as u8], &key[..]].concat(), value)
                .unwrap();
        }
        stager.finish().unwrap();
        if !is_used {
            return self.machine().discard(tablet);
        }
        shard.applied = LogIndex(shard.applied.0 + 5);
        shard.rows = Some(rows);
        let record = ReplicaRecord {
            pieces: tablet.into(),
            ..shard.record()
        };
        let step = Step::Install(record.into(), shard.applied);
        self.step(step);
    }

    /// The process dies; the next one finds what was there after one of the steps, and makes the others again.
    fn crash(&mut self) {
        self.pinned.clear();
        let store = self.machine.take().unwrap().into_store();
        let mut machine = KvMachine::open(self.harness.crash(store)).unwrap();
        let found = state_of(&machine);
        let made = self.states.iter().rposition(|state| *state == found);
        let made = made.unwrap_or_else(|| panic!("there never was {found:?}"));
        assert!(
            made >= self.durable,
            "{made} steps of {} durable ones",
            self.durable
        );
        for step in &self.steps[made..] {
            step.clone().make(&mut machine);
        }
        assert_eq!(Some(&state_of(&machine)), self.states.last());
        self.machine = Some(machine);
    }

    fn check(&self) {
        let machine = self.machine.as_ref().unwrap();
        let reader = machine.reader();
        for shard in &self.shards {
            let group = GroupId(shard.group);
            let found = machine.snapshot(group);
            let (Some(found), Some(rows)) = (&found, &shard.rows) else {
                assert!(found.is_none() && shard.rows.is_none(), "{shard:?}");
                continue;
            };
            assert_eq!(found.applied(), shard.applied);
            // As they would be in one tablet, byte for byte.
            let data = |key: &[u8]| [&[Space::Data as u8], key].concat();
            let wanted: Vec<_> = rows
                .iter()
                .map(|(key, value)| (data(key), value.clone()))
                .collect();
            let read = |after: Option<&[u8]>| -> Vec<_> {
                let rows = found.rows(after).map(Result::unwrap);
                rows.map(|(key, value)| (key.to_vec(), value.to_vec()))
                    .collect()
            };
            assert_eq!(read(None), wanted, "{shard:?}");
            for at in (0..wanted.len()).step_by(7) {
                assert_eq!(read(Some(&wanted[at].0)), wanted[at + 1..]);
            }
            let mut hash = StateHash::default();
            wanted.iter().for_each(|(key, value)| hash.push(key, value));
            assert_eq!(found.hash().unwrap(), hash.finish());

            let (of, record) = (ShardId(10 * shard.group), shard.record());
            let limits = ScanLimits {
                rows: 5,
                bytes: usize::MAX,
            };
            let (mut from, mut scanned) = (record.start.to_vec(), Vec::new());
            loop {
                let range = (&from[..], &b""[..]);
                let page = reader.scan(group, of, record.epoch, range, limits).unwrap();
                scanned.extend(
                    page.rows
                        .iter()
                        .map(|(key, value)| (key.to_vec(), value.to_vec())),
                );
                if !page.more {
                    break;
                }
                from = [&page.rows.last().unwrap().0[..], &[0]].concat();
            }
            assert!(
                scanned.iter().map(|(key, value)| (key, value)).eq(rows),
                "{shard:?}"
            );
            for number in shard.keys.clone().step_by(3) {
                let value = reader.get(group, of, record.epoch, &key(number)).unwrap();
                assert_eq!(
                    value.as_deref(),
                    rows.get(&key(number)).map(|value| &value[..])
                );
            }
        }
        for (snapshot, hash) in &self.pinned {
            assert_eq!(snapshot.hash().unwrap(), *hash, "a pinned state has moved");
        }
    }

    /// Everything that nobody needs goes, whatever came before, and stays away.
    fn finish(mut self) {
        self.pinned.clear();
        for life in 0..2 {
            while self.machine().reclaim(9).unwrap() {}
            self.run(Op::Flush);
            H::settle(self.machine().store());
            let machine = self.machine.as_ref().unwrap();
            let mut wanted = Rows::new();
            for shard in &self.shards {
                for (key, value) in shard.rows.iter().flatten() {
                    let record = machine.replica(GroupId(shard.group)).unwrap();
                    let stored = stored_key(record.pieces.tablet(key), Space::Data, key);
                    assert_eq!(wanted.insert(stored, value.clone()), None);
                }
            }
            let mut found = dump(&machine.store().view());
            found.retain(|(key, _)| tablet_of(key) != Some(LOCAL_TABLET));
            let found: Rows = found
                .iter()
                .map(|(key, value)| (key.to_vec(), value.to_vec()))
                .collect();
            assert_eq!(found, wanted, "life {life}");
            self.check();
            self.crash();
        }
    }
}

fn replicas_are_split_and_merged<H: Harness>(ops: Vec<Op>) {
    let mut world = World::<H>::new();
    for op in ops {
        world.run(op);
        world.check();
    }
    world.run(Op::Crash);
    world.check();
    world.finish();
}

proptest! {
    // Every opening and flush waits for the disk.
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn replicas_are_split_and_merged_on_disk(ops in prop::collection::vec(op(), 1..60)) {
        replicas_are_split_and_merged::<Lsm>(ops);
    }
}

proptest! {
    #[test]
    fn replicas_are_split_and_merged_in_the_model(ops in prop::collection::vec(op(), 1..60)) {
        replicas_are_split_and_merged::<Model>(ops);
    }

    #[test]
    fn a_crash_between_two_batches_finds_replicas_before_a_step_or_behind_it(
        ops in prop::collection::vec(op(), 1..60),
    ) {
        replicas_are_split_and_merged::<Torn>(ops);
    }
}
