//! A flipped byte in a table of one node: the group that it befell is rebuilt, and nobody else notices.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use bytes::Bytes;
use parking_lot::RwLock;
use pontoon_engine::frame::{Frame, Lane};
use pontoon_engine::worker::{Read, ReadQuery};
use pontoon_engine::{
    Engine, EngineConfig, EngineError, GroupStatus, Host, LostReplicas, Opened, Reply, RoleName,
    Waiter,
};
use pontoon_store::{Compression, LsmSettings, Outcome, ReplicaRecord};
use pontoon_types::{
    ClusterId, Command, ConfState, Epoch, GroupId, Members, Mutation, NodeId, Operation, ReplicaId,
    Request, Sequence, SessionId, ShardId, TabletId,
};
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const GROUPS: u64 = 3;
const ROWS: u64 = 1_500;
/// The group that the damage befalls, and one of its rows.
const HIT: u64 = 2;
const ROW: u64 = 700;

type Engines = Arc<RwLock<Vec<Arc<Engine>>>>;

struct Wires {
    from: NodeId,
    engines: Engines,
}

impl Host for Wires {
    fn send(&self, to: NodeId, _: usize, lane: Lane, frame: Frame) {
        let engine = self.engines.read().get(to.0 as usize - 1).cloned();
        if let Some(engine) = engine {
            let bytes = Bytes::from(frame.chunks.concat());
            match lane {
                Lane::Snapshot => engine.receive_snapshot(self.from, bytes),
                Lane::Append | Lane::Control => engine.receive(self.from, bytes),
            }
        }
    }

    fn failed(&self, error: EngineError) {
        eprintln!("node {} stops: {error}", self.from);
        std::process::abort();
    }
}

struct Cluster {
    dir: TempDir,
    engines: Engines,
    sequence: std::cell::Cell<u64>,
}

fn record(group: u64, node: u64) -> ReplicaRecord {
    ReplicaRecord {
        group: GroupId(group),
        shard: ShardId(group),
        replica: ReplicaId(node),
        start: Bytes::new(),
        end: Bytes::new(),
        epoch: Epoch {
            range: 1,
            membership: 1,
        },
        pieces: TabletId(group).into(),
        conf_state: ConfState::of_voters([1, 2, 3].map(ReplicaId)),
        members: Members::new([1, 2, 3].map(|id| (ReplicaId(id), NodeId(id)))),
        descriptor: Bytes::new(),
    }
}

fn key(i: u64) -> Vec<u8> {
    format!("key {i:05}").into_bytes()
}

fn value(group: u64, i: u64) -> Vec<u8> {
    format!("value {i:05} of {group} {}", "-".repeat(100)).into_bytes()
}

fn open(dir: &Path, node: u64) -> Opened {
    let config = EngineConfig {
        workers: 1,
        seed: node,
        election_timeout: Duration::from_millis(300),
        heartbeat_interval: Duration::from_millis(50),
        compaction_interval: Duration::from_millis(100),
        log_tail_entries: 16,
        ..EngineConfig::default()
    };
    let settings = LsmSettings {
        memtable_bytes: 64 << 10,
        block_cache_bytes: 16 << 10,
        compression: Compression::None,
        scrub_interval: None,
        ..LsmSettings::default()
    };
    let path = dir.join(format!("node-{node}"));
    Opened::open(&path, ClusterId(1), NodeId(node), config, settings).unwrap()
}

fn start(opened: Opened, node: u64, engines: &Engines) -> Arc<Engine> {
    let (from, engines) = (NodeId(node), engines.clone());
    Arc::new(opened.start(Arc::new(Wires { from, engines })).unwrap())
}

impl Cluster {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engines = Engines::default();
        let opened = (1..=3).map(|node| {
            let mut opened = open(dir.path(), node);
            let records: Vec<_> = (1..=GROUPS).map(|group| record(group, node)).collect();
            opened.machine().bootstrap(&records, &[]).unwrap();
            start(opened, node, &engines)
        });
        let opened: Vec<_> = opened.collect();
        *engines.write() = opened;
        let sequence = std::cell::Cell::new(0);
        let cluster = Self {
            dir,
            engines,
            sequence,
        };
        for group in 1..=GROUPS {
            let rows: Vec<_> = (0..ROWS).map(|i| (key(i), value(group, i))).collect();
            for rows in rows.chunks(50) {
                let puts = rows.iter().map(|(key, value)| Mutation::Put { key, value });
                cluster.write(group, Operation::Write(puts.collect()));
            }
        }
        cluster.wait("all is applied, and merged for now", || {
            let stats = |node| cluster.engine(node).store().stats();
            let before = [1, 2, 3].map(|node| stats(node).compactions);
            std::thread::sleep(Duration::from_millis(300));
            let after = [1, 2, 3].map(|node| stats(node).compactions);
            before == after && before.iter().all(|count| *count > 0)
        });
        cluster
    }

    fn engine(&self, node: u64) -> Arc<Engine> {
        self.engines.read()[node as usize - 1].clone()
    }

    fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let started = Instant::now();
        while !holds() {
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "not after 30 s: {what}: {:#?}, {:?}",
                [1, 2, 3].map(|node| self.engine(node).status()),
                [1, 2, 3].map(|node| self.engine(node).store().damaged_tables()),
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// None while the node has no replica: between a lost one and the one that takes its place.
    fn status(&self, node: u64, group: u64) -> Option<GroupStatus> {
        let mut status = self.engine(node).status().into_iter();
        status.find(|status| status.group == GroupId(group))
    }

    fn leader(&self, group: u64) -> Option<u64> {
        (1..=3).find(|node| self.leads(*node, group))
    }

    fn leads(&self, node: u64, group: u64) -> bool {
        let status = self.engine(node).status();
        let mut status = status.iter();
        status.any(|one| one.group == GroupId(group) && one.role == RoleName::Leader)
    }

    /// Proposes until it is done.
    fn write(&self, group: u64, operation: Operation<'_>) -> Outcome {
        let mut answer = None;
        self.wait("a write", || {
            let Some(leader) = self.leader(group) else {
                return false;
            };
            let (reply, answered) = mpsc::channel();
            self.sequence.set(self.sequence.get() + 1);
            let request = Request {
                shard: ShardId(group),
                epoch: Epoch {
                    range: 1,
                    membership: 1,
                },
                session: SessionId(1),
                sequence: Sequence(self.sequence.get()),
            };
            let operation = operation.clone();
            let mut command = Vec::new();
            Command { request, operation }.encode(&mut command);
            let waiter = Waiter::new(move |answer| drop(reply.send(answer)));
            let engine = self.engine(leader);
            engine.propose(GroupId(group), command.into(), waiter);
            if let Reply::Applied(outcome) = answered.recv().unwrap() {
                answer = Some(outcome);
            }
            answer.is_some()
        });
        answer.unwrap()
    }

    /// Reads a row on a node. `None`: it was not served.
    fn read(&self, node: u64, group: u64, key: Vec<u8>) -> Option<Option<Bytes>> {
        let (reply, answered) = mpsc::channel();
        let read = Read {
            shard: ShardId(group),
            epoch: Epoch {
                range: 1,
                membership: 1,
            },
            query: ReadQuery::Get { key: key.into() },
            waiter: Waiter::new(move |answer| drop(reply.send(answer))),
        };
        self.engine(node).read(GroupId(group), read);
        match answered.recv().unwrap() {
            Reply::Value(value) => Some(value),
            Reply::StaleRead => panic!("the epoch is the same all the time"),
            _ => None,
        }
    }

    /// Reads everything on a node; no answer may be wrong. How many reads were not served.
    fn read_all(&self, node: u64, group: u64) -> u64 {
        let mut unserved = 0;
        for i in 0..ROWS {
            match self.read(node, group, key(i)) {
                Some(read) => assert_eq!(read.as_deref(), Some(&value(group, i)[..]), "row {i}"),
                None => unserved += 1,
            }
        }
        unserved
    }

    fn make_lead(&self, node: u64, group: u64) {
        self.wait("the leader is the one that it should be", || {
            if let Some(leader) = self.leader(group).filter(|leader| *leader != node) {
                let engine = self.engine(leader);
                engine.transfer_leadership(GroupId(group), NodeId(node));
            }
            self.leads(node, group)
        });
    }

    /// Flips a byte of a row in the tables of a node.
    fn flip(&self, node: u64) -> PathBuf {
        self.flip_in(node, "store/tables", &value(HIT, ROW))
    }

    /// Flips the first byte of what only one file in a directory of a node has, and once.
    fn flip_in(&self, node: u64, below: &str, needle: &[u8]) -> PathBuf {
        let dir = self.dir.path().join(format!("node-{node}")).join(below);
        let mut found = Vec::new();
        self.wait("only one file has it", || {
            found.clear();
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                // Tables may be merged away meanwhile.
                let bytes = fs::read(&path).unwrap_or_default();
                let mut windows = bytes.windows(needle.len());
                found.extend(windows.position(|w| w == needle).map(|at| (path, at)));
            }
            found.len() == 1
        });
        let (path, at) = &found[0];
        let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start(*at as u64)).unwrap();
        file.write_all(&[needle[0] ^ 1]).unwrap();
        path.clone()
    }

    /// The group heals, with a new replica on `node` for the one that was lost, and that is counted.
    fn is_rebuilt(&self, node: u64, by_log: u64, by_table: u64) {
        self.wait("the group is healed", || {
            let status = [1, 2, 3].map(|node| self.status(node, HIT));
            let healed = status.iter().flatten().filter(|status| {
                status.role != RoleName::Stopped
                    && status.members.len() == 3
                    && status.members.iter().all(|member| member.is_voter)
            });
            let is_new = |status: &GroupStatus| status.replica > ReplicaId(3);
            healed.count() == 3 && status[node as usize - 1].as_ref().is_some_and(is_new)
        });
        let counted = LostReplicas {
            by_log,
            by_table,
            otherwise: 0,
            replaced: 1,
        };
        self.wait("it is counted", || {
            self.engine(node).lost_replicas() == counted
        });
    }

    /// After something has met the damage on `node`: the group heals, the table goes, and no other group has noticed.
    fn heals(&self, node: u64, before: &[GroupStatus]) {
        self.is_rebuilt(node, 0, 1);
        self.wait("the damaged table has gone", || {
            let store = self.engine(node).store().clone();
            store.stats().scrub.damaged > 0 && store.damaged_tables().is_empty()
        });
        for group in (1..=GROUPS).filter(|group| *group != HIT) {
            let now = self.status(node, group).unwrap();
            let was = &before[group as usize - 1];
            assert_eq!(
                (now.replica, now.term, now.leader),
                (was.replica, was.term, was.leader),
                "another group has noticed"
            );
        }
        // What the new replica has.
        self.make_lead(node, HIT);
        for group in 1..=GROUPS {
            let leader = self.leader(group).unwrap();
            assert_eq!(self.read_all(leader, group), 0, "group {group}");
            let put = Mutation::Put {
                key: b"new",
                value: b"new",
            };
            assert_eq!(
                self.write(group, Operation::Write(vec![put])),
                Outcome::Written
            );
        }
        // Merging goes on.
        self.wait("nothing is wrong with the store", || {
            let store = self.engine(node).store().stats();
            store.trouble.is_none()
        });
    }
}

fn statuses(cluster: &Cluster, node: u64) -> Vec<GroupStatus> {
    (1..=GROUPS)
        .map(|group| cluster.status(node, group).unwrap())
        .collect()
}

#[test]
fn a_leader_whose_reads_meet_damage_is_replaced_and_rebuilt() {
    let cluster = Cluster::new();
    cluster.make_lead(2, HIT);
    let before = statuses(&cluster, 2);
    cluster.flip(2);
    assert!(cluster.read_all(2, HIT) > 0);
    cluster.heals(2, &before);
    assert_eq!(cluster.engine(2).store().stats().scrub.passes, 0);
}

#[test]
fn a_replica_that_cannot_apply_its_log_for_damage_costs_no_other_group() {
    let cluster = Cluster::new();
    cluster.make_lead(1, HIT);
    let before = statuses(&cluster, 2);
    cluster.flip(2);
    let (row, there) = (key(ROW), value(HIT, ROW));
    let swap = |expect: &[u8], set: &[u8]| {
        let (expect, set) = (Some(expect), Some(set));
        let key = &row;
        cluster.write(HIT, Operation::CompareAndSwap { key, expect, set })
    };
    assert_eq!(swap(&there, b"other"), Outcome::Swapped);
    for group in 1..=GROUPS {
        let put = Mutation::Put {
            key: b"meanwhile",
            value: b"written",
        };
        cluster.write(group, Operation::Write(vec![put]));
    }
    assert_eq!(swap(b"other", &there), Outcome::Swapped);
    cluster.heals(2, &before);
}

#[test]
fn a_leader_that_cannot_apply_its_log_for_damage_is_replaced_and_rebuilt() {
    let cluster = Cluster::new();
    cluster.make_lead(2, HIT);
    let before = statuses(&cluster, 2);
    cluster.flip(2);
    let (row, there) = (key(ROW), value(HIT, ROW));
    let (key, expect, set) = (&row[..], Some(&there[..]), Some(&b"other"[..]));
    let swap = Operation::CompareAndSwap { key, expect, set };
    // The leader answered that the outcome is unknown, and the next one says that it was done.
    let actual = Some(Bytes::from_static(b"other"));
    assert_eq!(cluster.write(HIT, swap), Outcome::NotSwapped { actual });
    let (expect, set) = (set, expect);
    let back = Operation::CompareAndSwap { key, expect, set };
    assert_eq!(cluster.write(HIT, back), Outcome::Swapped);
    cluster.heals(2, &before);
}

#[test]
fn damage_that_only_scrubbing_finds_is_healed_as_well() {
    let cluster = Cluster::new();
    cluster.make_lead(1, HIT);
    let before = statuses(&cluster, 2);
    let path = cluster.flip(2);
    cluster.engine(2).store().scrub();
    cluster.heals(2, &before);
    assert!(!path.exists());
}

#[test]
fn a_replica_whose_log_is_damaged_is_rebuilt_and_counted() {
    let cluster = Cluster::new();
    cluster.make_lead(1, HIT);
    let put = |group, key, value| {
        cluster.write(group, Operation::Write(vec![Mutation::Put { key, value }]))
    };
    put(HIT, b"late", b"what the log still has");
    for group in 1..=GROUPS {
        put(group, b"later", b"what makes that durable everywhere");
    }
    let engine = cluster.engine(2);
    cluster.wait("node 2 has it all", || {
        [1, 2]
            .map(|node| cluster.status(node, HIT).unwrap().applied.0)
            .windows(2)
            .all(|it| it[0] == it[1])
    });
    engine.shutdown(Duration::from_secs(1));
    cluster.flip_in(2, "log", b"what the log still has");
    drop(engine);
    let opened = open(cluster.dir.path(), 2);
    cluster.engines.write()[1] = start(opened, 2, &cluster.engines);
    assert_eq!(cluster.engine(2).lost_replicas().by_log, 1);
    cluster.is_rebuilt(2, 1, 0);
    cluster.make_lead(2, HIT);
    assert_eq!(cluster.read_all(2, HIT), 0);
}

#[test]
fn two_replicas_that_are_damaged_at_once_are_rebuilt_one_after_the_other() {
    let cluster = Cluster::new();
    cluster.make_lead(1, HIT);
    let before = [2, 3].map(|node| statuses(&cluster, node));
    for node in [2, 3] {
        cluster.flip(node);
    }
    for node in [2, 3] {
        cluster.engine(node).store().scrub();
    }
    cluster.heals(2, &before[0]);
    cluster.heals(3, &before[1]);
}
