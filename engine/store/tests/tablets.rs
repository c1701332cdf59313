//! Replicas come as snapshots, change, leave and come back, and the process dies at any point in between: a group's
//! state is always one that it had, whole, the log brings back the newest, and nothing that went comes back.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod common;

use common::*;
use pontoon_store::keys::{LOCAL_TABLET, Space, tablet_of};
use pontoon_store::{KvMachine, KvSnapshot, ReplicaRecord, Stager, StateHash, Store};
use pontoon_types::{Entry, GroupId, LogIndex, TabletId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const GROUPS: u64 = 3;

/// Rows by the key that a snapshot gives them: space and key.
type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug)]
enum Op {
    /// Commands of a group: keys and values, or deletes.
    Apply(u64, Vec<(u8, Option<u8>)>),
    /// A snapshot comes in, and how it ends.
    Snapshot(u64, Rows, End),
    Leave(u64),
    Reclaim(usize),
    Rotate,
    Flush,
    Settle,
    Pin(u64),
    Unpin,
    Crash,
    /// The process dies just when the store begins to let go of whole tables.
    CrashDropping,
}

#[derive(Clone, Copy, Debug)]
enum End {
    /// The stager is dropped after so many rows.
    Aborted(usize),
    /// All is staged, and not needed.
    Discarded,
    /// All is staged, and the process dies before the log knows.
    CrashUnlogged,
    /// The log knows, and the process dies before the store does.
    CrashLogged,
    Installed,
}

fn snapshot_rows() -> impl Strategy<Value = Rows> {
    let row = (0..60_u8, any::<u8>(), 0..400_usize);
    prop::collection::vec(row, 0..60).prop_map(|rows| {
        let row = |(key, fill, len)| (data_key(&format!("{key:02}")), vec![fill; len]);
        rows.into_iter().map(row).collect()
    })
}

fn op() -> impl Strategy<Value = Op> {
    let group = || 1..=GROUPS;
    let end = prop_oneof![
        (0..60_usize).prop_map(End::Aborted),
        Just(End::Discarded),
        Just(End::CrashUnlogged),
        Just(End::CrashLogged),
        Just(End::Installed),
        Just(End::Installed),
    ];
    let commands = prop::collection::vec((0..60_u8, any::<Option<u8>>()), 1..8);
    prop_oneof![
        6 => (group(), commands).prop_map(|(group, rows)| Op::Apply(group, rows)),
        4 => (group(), snapshot_rows(), end).prop_map(|(group, rows, end)| Op::Snapshot(group, rows, end)),
        1 => group().prop_map(Op::Leave),
        4 => (1..40_usize).prop_map(Op::Reclaim),
        2 => Just(Op::Rotate),
        2 => Just(Op::Flush),
        1 => Just(Op::Settle),
        1 => group().prop_map(Op::Pin),
        1 => Just(Op::Unpin),
        2 => Just(Op::Crash),
        2 => Just(Op::CrashDropping),
    ]
}

fn data_key(key: &str) -> Vec<u8> {
    [&[Space::Data as u8], key.as_bytes()].concat()
}

fn hash_of(rows: &Rows) -> u128 {
    let mut hash = StateHash::default();
    for (key, value) in rows {
        hash.push(key, value);
    }
    hash.finish()
}

/// What the log has of a group, and what must come of it.
#[derive(Default)]
struct Logged {
    /// The last snapshot that was installed; `None`: it began as it was made, or it has left.
    installed: Option<(ReplicaRecord, LogIndex)>,
    has_left: bool,
    /// The entries behind that.
    entries: Vec<Entry>,
    rows: Rows,
    applied: LogIndex,
    /// Every state that it has had: the tablet, the applied index, the hash.
    past: BTreeSet<(u64, u64, u128)>,
}

struct World<H: Harness> {
    harness: H,
    /// `None` only while it is opened again.
    machine: Option<KvMachine<H::Store>>,
    log: BTreeMap<u64, Logged>,
    pinned: Vec<(KvSnapshot<<H::Store as Store>::View>, u128)>,
}

impl<H: Harness> World<H> {
    fn new() -> Self {
        let mut harness = H::new();
        let machine = machine(&mut harness, GROUPS);
        let mut world = Self {
            harness,
            machine: Some(machine),
            log: (1..=GROUPS)
                .map(|group| (group, Logged::default()))
                .collect(),
            pinned: Vec::new(),
        };
        for group in 1..=GROUPS {
            world.remember(group);
        }
        world
    }

    fn machine(&mut self) -> &mut KvMachine<H::Store> {
        self.machine.as_mut().unwrap()
    }

    fn log(&mut self, group: u64) -> &mut Logged {
        self.log.get_mut(&group).unwrap()
    }

    fn remember(&mut self, group: u64) {
        let tablet = self
            .machine()
            .replica(GroupId(group))
            .map(|at| at.pieces.first().0);
        let log = self.log(group);
        let state = (log.applied.0, hash_of(&log.rows));
        log.past
            .extend(tablet.map(|tablet| (tablet, state.0, state.1)));
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Apply(group, commands) => self.apply(group, commands),
            Op::Snapshot(group, rows, end) => self.snapshot(group, rows, end),
            Op::Leave(group) => {
                // The log has it first.
                let past = std::mem::take(&mut self.log(group).past);
                *self.log(group) = Logged {
                    has_left: true,
                    past,
                    ..Logged::default()
                };
                self.machine().remove(GroupId(group)).unwrap();
            }
            Op::Reclaim(rows) => {
                self.machine().reclaim(rows).unwrap();
            }
            Op::Rotate => self.machine().store_mut().rotate().unwrap(),
            Op::Flush => self.machine().store_mut().flush().unwrap(),
            Op::Settle => H::settle(self.machine().store()),
            Op::Pin(group) => {
                if let Some(snapshot) = self.machine().snapshot(GroupId(group)) {
                    let hash = hash_of(&self.log(group).rows);
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

    fn apply(&mut self, group: u64, commands: Vec<(u8, Option<u8>)>) {
        if self.machine().replica(GroupId(group)).is_none() {
            return;
        }
        let log = self.log(group);
        let mut entries = Vec::new();
        for (number, value) in commands {
            let index = log.applied.next();
            // Within the group's range.
            let key = format!("{group}{number:02}");
            entries.push(match value {
                Some(value) => {
                    let value = "v".repeat(value.into());
                    log.rows.insert(data_key(&key), value.clone().into_bytes());
                    put(group, index.0, &key, &value)
                }
                None => {
                    log.rows.remove(&data_key(&key));
                    delete(group, index.0, &key)
                }
            });
            log.applied = index;
        }
        log.entries.extend(entries.clone());
        apply(self.machine(), &entries);
        self.remember(group);
    }

    fn snapshot(&mut self, group: u64, rows: Rows, end: End) {
        let (tablet, mut stager) = self.machine().begin_install().unwrap();
        let kept = match end {
            End::Aborted(rows) => rows,
            _ => rows.len(),
        };
        for (key, value) in rows.iter().take(kept) {
            stager.push(key, value).unwrap();
        }
        match end {
            End::Aborted(_) => drop(stager),
            _ => stager.finish().unwrap(),
        }
        match end {
            End::Aborted(_) | End::Discarded => {
                self.machine().discard(tablet);
                return;
            }
            End::CrashUnlogged => return self.crash(),
            End::CrashLogged | End::Installed => {}
        }
        let log = self.log(group);
        // Ahead of what is here, or of nothing if the replica comes back.
        let applied = LogIndex(log.applied.0 + 5);
        let record = ReplicaRecord {
            pieces: tablet.into(),
            ..record(group)
        };
        let past = std::mem::take(&mut log.past);
        *log = Logged {
            installed: Some((record.clone(), applied)),
            rows,
            applied,
            past,
            ..Logged::default()
        };
        let state = (tablet.0, applied.0, hash_of(&log.rows));
        log.past.insert(state);
        match end {
            End::CrashLogged => self.crash(),
            _ => self.machine().install(record, applied).unwrap(),
        }
    }

    /// The process dies; the next one opens the store, and brings it to where the log is.
    fn crash(&mut self) {
        self.pinned.clear();
        let store = self.machine.take().unwrap().into_store();
        let mut machine = KvMachine::open(self.harness.crash(store)).unwrap();
        for (group, log) in &self.log {
            let id = GroupId(*group);
            if let Some(found) = machine.snapshot(id) {
                let state = (
                    found.record().pieces.first().0,
                    found.applied().0,
                    found.hash().unwrap(),
                );
                assert!(
                    log.past.contains(&state),
                    "group {group} never was {state:?}"
                );
            }
            match &log.installed {
                Some((record, applied)) => {
                    let is_here =
                        machine.replica(id).map(|found| &found.pieces) == Some(&record.pieces);
                    if !is_here {
                        // It may have left before it came back, and its index have been higher.
                        if machine.applied(id) >= *applied {
                            machine.remove(id).unwrap();
                        }
                        machine.install(record.clone(), *applied).unwrap();
                    }
                }
                None if log.has_left => machine.remove(id).unwrap(),
                None => {}
            }
            let applied = machine.applied(id);
            let missing: Vec<_> = log
                .entries
                .iter()
                .filter(|entry| entry.index() > applied)
                .cloned()
                .collect();
            apply(&mut machine, &missing);
        }
        self.machine = Some(machine);
    }

    fn check(&mut self) {
        let machine = self.machine.as_ref().unwrap();
        for (group, log) in &self.log {
            let found = machine.snapshot(GroupId(*group));
            assert_eq!(found.is_none(), log.has_left, "group {group}");
            let Some(found) = found else { continue };
            assert_eq!(found.applied(), log.applied, "group {group}");
            let rows: Rows = found
                .rows(None)
                .map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect::<Result<_, _>>()
                .unwrap();
            assert_eq!(rows, log.rows, "group {group}");
            assert_eq!(found.hash().unwrap(), hash_of(&log.rows));
        }
        for (snapshot, hash) in &self.pinned {
            assert_eq!(snapshot.hash().unwrap(), *hash, "a pinned state has moved");
        }
    }

    /// Everything that nobody needs goes, whatever came before, and stays away.
    fn finish(mut self) {
        self.pinned.clear();
        while self.machine().reclaim(9).unwrap() {}
        for life in 0..2 {
            self.machine().store_mut().flush().unwrap();
            H::settle(self.machine().store());
            let machine = self.machine();
            let used: BTreeSet<_> = machine.replicas().map(|at| at.pieces.first()).collect();
            for (key, _) in dump(&machine.store().view()) {
                let tablet: TabletId = tablet_of(&key).unwrap();
                assert!(
                    tablet == LOCAL_TABLET || used.contains(&tablet),
                    "life {life}: {tablet:?} still has rows"
                );
            }
            self.check();
            self.crash();
        }
    }
}

fn replicas_come_and_go<H: Harness>(ops: Vec<Op>) {
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
    fn replicas_come_and_go_on_disk(ops in prop::collection::vec(op(), 1..60)) {
        replicas_come_and_go::<Lsm>(ops);
    }
}

proptest! {
    #[test]
    fn replicas_come_and_go_in_the_model(ops in prop::collection::vec(op(), 1..40)) {
        replicas_come_and_go::<Model>(ops);
    }
}
