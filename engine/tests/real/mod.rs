//! Three engines on real files, in one process.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use bytes::Bytes;
use parking_lot::RwLock;
use pontoon_engine::frame::{Frame, Lane};
use pontoon_engine::worker::{Read, ReadQuery};
use pontoon_engine::{
    Engine, EngineConfig, EngineError, GroupStatus, Host, Opened, Reply, RoleName, Waiter,
};
use pontoon_store::{Compression, LsmSettings, Outcome, ReplicaRecord};
use pontoon_types::{
    ClusterId, Command, ConfState, Epoch, GroupId, Members, Mutation, NodeId, Operation, ReplicaId,
    Request, Sequence, SessionId, ShardId, TabletId,
};
use pontoon_wal::WalConfig;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const GROUPS: u64 = 3;
pub const ROWS: u64 = 1_500;
/// The group that the damage befalls.
pub const HIT: u64 = 2;

/// By node; none while that is down.
type Engines = Arc<RwLock<Vec<Option<Arc<Engine>>>>>;

struct Wires {
    from: NodeId,
    engines: Engines,
}

impl Host for Wires {
    fn send(&self, to: NodeId, _: usize, lane: Lane, frame: Frame) {
        let engine = self.engines.read().get(to.0 as usize - 1).cloned();
        if let Some(engine) = engine.flatten() {
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

pub struct Cluster {
    pub dir: TempDir,
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

pub fn key(i: u64) -> Vec<u8> {
    format!("key {i:05}").into_bytes()
}

pub fn value(group: u64, i: u64) -> Vec<u8> {
    format!("value {i:05} of {group} {}", "-".repeat(100)).into_bytes()
}

fn open(dir: &Path, node: u64) -> Opened {
    static LIVES: AtomicU64 = AtomicU64::new(0);
    let config = EngineConfig {
        workers: 1,
        seed: LIVES.fetch_add(1, Ordering::Relaxed),
        election_timeout: Duration::from_millis(300),
        heartbeat_interval: Duration::from_millis(50),
        compaction_interval: Duration::from_millis(100),
        log_tail_entries: 16,
        wal: WalConfig {
            segment_bytes: 256 << 10,
            ..WalConfig::default()
        },
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

impl Cluster {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engines = Engines::default();
        let opened = (1..=3).map(|node| {
            let mut opened = open(dir.path(), node);
            let records: Vec<_> = (1..=GROUPS).map(|group| record(group, node)).collect();
            opened.machine().bootstrap(&records, &[]).unwrap();
            let from = NodeId(node);
            let engines = engines.clone();
            opened.start(Arc::new(Wires { from, engines })).unwrap()
        });
        let opened: Vec<_> = opened.map(|engine| Some(Arc::new(engine))).collect();
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

    pub fn engine(&self, node: u64) -> Arc<Engine> {
        let engine = self.engines.read()[node as usize - 1].clone();
        engine.expect("it is up")
    }

    pub fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let started = Instant::now();
        while !holds() {
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "not after 30 s: {what}: {:#?}",
                (self.engines.read().iter().flatten())
                    .map(|engine| (
                        engine.status(),
                        engine.log_damage(),
                        engine.store().damaged_tables()
                    ))
                    .collect::<Vec<_>>(),
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// None while the node has no replica: between a lost one and the one that takes its place.
    pub fn status(&self, node: u64, group: u64) -> Option<GroupStatus> {
        let mut status = self.engine(node).status().into_iter();
        status.find(|status| status.group == GroupId(group))
    }

    pub fn leader(&self, group: u64) -> Option<u64> {
        let up = (1..=3).filter(|node| self.engines.read()[*node as usize - 1].is_some());
        up.into_iter().find(|node| self.leads(*node, group))
    }

    pub fn leads(&self, node: u64, group: u64) -> bool {
        let status = self.engine(node).status();
        let mut status = status.iter();
        status.any(|one| one.group == GroupId(group) && one.role == RoleName::Leader)
    }

    /// Proposes until it is done.
    pub fn write(&self, group: u64, operation: Operation<'_>) -> Outcome {
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
    pub fn read(&self, node: u64, group: u64, key: Vec<u8>) -> Option<Option<Bytes>> {
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
    pub fn read_all(&self, node: u64, group: u64) -> u64 {
        let mut unserved = 0;
        for i in 0..ROWS {
            match self.read(node, group, key(i)) {
                Some(read) => assert_eq!(read.as_deref(), Some(&value(group, i)[..]), "row {i}"),
                None => unserved += 1,
            }
        }
        unserved
    }

    pub fn make_lead(&self, node: u64, group: u64) {
        self.wait("the leader is the one that it should be", || {
            if let Some(leader) = self.leader(group).filter(|leader| *leader != node) {
                let engine = self.engine(leader);
                engine.transfer_leadership(GroupId(group), NodeId(node));
            }
            self.leads(node, group)
        });
    }

    pub fn stop(&self, node: u64) {
        let engine = self.engines.write()[node as usize - 1].take();
        let engine = engine.expect("it is up");
        engine.shutdown(Duration::ZERO);
        // Somebody may be about to send it a frame.
        let stopped = Arc::downgrade(&engine);
        drop(engine);
        while stopped.strong_count() > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn start(&self, node: u64) {
        let from = NodeId(node);
        let engines = self.engines.clone();
        let opened = open(self.dir.path(), node);
        let engine = opened.start(Arc::new(Wires { from, engines })).unwrap();
        self.engines.write()[node as usize - 1] = Some(Arc::new(engine));
    }
}
