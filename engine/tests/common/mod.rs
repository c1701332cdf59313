//! A few nodes turned by hand: real workers and apply stages over the model store, with a log that is
//! durable when the test says so and a network that delivers when the test says so.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(unreachable_pub, reason = "shared by several test binaries")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use pontoon_engine::apply::ApplyStage;
use pontoon_engine::frame::Lane;
use pontoon_engine::worker::{Fetch, Input, Output, Read, ReadQuery, SnapshotOrder, Worker};
use pontoon_engine::{EngineConfig, Reply, Waiter};
use pontoon_raft::Restored;
use pontoon_store::{KvMachine, ModelStore, ReplicaRecord};
use pontoon_types::{
    Command, ConfState, Entry, Epoch, GroupId, Instant, Members, Mutation, NodeId, Operation,
    ReplicaId, Request, Sequence, SessionId, ShardId, TabletId,
};
use pontoon_wal::Record;
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

pub struct Cluster {
    pub nodes: Vec<Node>,
    pub now: Instant,
    /// Frames under way: from, to, lane, bytes.
    pub wire: Vec<(NodeId, NodeId, Lane, Bytes)>,
}

pub struct Node {
    pub id: NodeId,
    pub worker: Worker,
    pub stage: ApplyStage<ModelStore>,
    /// What its carrier of snapshots was told, if there is one.
    pub orders: Vec<SnapshotOrder>,
    /// Batches that the log was handed and has not synced.
    pub unsynced: Vec<u64>,
    /// The envelopes of all entries that the log was handed, in order.
    pub logged: Vec<Bytes>,
    /// The replicas of which the log was told that they have left, in order.
    pub tombstones: Vec<(GroupId, ReplicaId)>,
}

/// What one cycle put out, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub log_batches: usize,
    pub entries: usize,
    pub frames: usize,
    pub applied: usize,
}

pub fn record(group: GroupId, replica: u64, nodes: u64) -> ReplicaRecord {
    ReplicaRecord {
        group,
        shard: ShardId(group.0),
        replica: ReplicaId(replica),
        start: Bytes::new(),
        end: Bytes::new(),
        epoch: Epoch {
            range: 1,
            membership: 1,
        },
        pieces: TabletId(group.0).into(),
        conf_state: ConfState::of_voters((1..=nodes).map(ReplicaId)),
        members: Members::new((1..=nodes).map(|id| (ReplicaId(id), NodeId(id)))),
        descriptor: Bytes::new(),
    }
}

impl Node {
    /// The log answers at once.
    fn fetch(&mut self, Fetch { group, fetch }: Fetch, now: Instant) {
        let logged = self.logged.iter();
        let logged = logged.map(|bytes| Entry::decode_unverified(bytes.clone()).unwrap());
        // What was logged later replaces what stood at its index.
        let by_index: BTreeMap<_, _> = logged
            .filter(|entry| entry.group() == group)
            .map(|entry| (entry.index(), entry))
            .collect();
        let mut bytes = 0;
        let fits = |entry: &Entry| {
            let is_first = bytes == 0;
            bytes += entry.encoded_len();
            is_first || bytes <= fetch.max_bytes
        };
        let wanted = by_index.range(fetch.from..=fetch.to);
        let entries = wanted.map(|(_, entry)| entry.clone()).take_while(fits);
        let fetched = Input::Fetched {
            group,
            purpose: fetch.purpose,
            entries: entries.collect(),
        };
        self.worker.handle(fetched, now);
    }
}

impl Cluster {
    pub fn new(nodes: u64, groups: u64, config: &EngineConfig) -> Self {
        Self::of_configs(groups, &vec![config.clone(); nodes as usize])
    }

    /// A node for each of these.
    pub fn of_configs(groups: u64, configs: &[EngineConfig]) -> Self {
        let nodes = configs.len() as u64;
        let now = Instant::from_nanos(1_000_000_000);
        let make = |id: u64| {
            let records: Vec<_> = (1..=groups)
                .map(|group| record(GroupId(group), id, nodes))
                .collect();
            let mut machine = KvMachine::open(ModelStore::new(1 << 20)).unwrap();
            machine.bootstrap(&records, &[]).unwrap();
            let mut worker = Worker::new(NodeId(id), 0, &configs[id as usize - 1]);
            for record in records {
                let restored = Restored {
                    conf_state: record.conf_state.clone(),
                    ..Restored::default()
                };
                worker.add_group(record, restored, now).unwrap();
            }
            let stage = ApplyStage::new(machine);
            let (orders, unsynced, logged, tombstones) = Default::default();
            Node {
                id: NodeId(id),
                worker,
                stage,
                orders,
                unsynced,
                logged,
                tombstones,
            }
        };
        Self {
            nodes: (1..=nodes).map(make).collect(),
            now,
            wire: Vec::new(),
        }
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    /// Turns one cycle of a node and carries out what it wants, except for syncing and delivering.
    pub fn cycle(&mut self, id: u64) -> Summary {
        let now = self.now;
        let node = &mut self.nodes[id as usize - 1];
        let mut out = Output::default();
        node.worker.run(now, &mut out);
        let mut summary = Summary {
            frames: out.frames.len(),
            applied: out.apply.entries.len(),
            ..Summary::default()
        };
        if let Some(batch) = out.log {
            summary.log_batches = 1;
            summary.entries = batch.batch.entries();
            node.logged.extend(
                batch
                    .batch
                    .records()
                    .iter()
                    .filter_map(|record| match record {
                        Record::Entry(entry) => Some(entry.as_bytes().clone()),
                        _ => None,
                    }),
            );
            let records = batch.batch.records().iter();
            node.tombstones
                .extend(records.filter_map(|record| match record {
                    Record::Tombstone(group, replica) => Some((*group, *replica)),
                    _ => None,
                }));
            node.unsynced.push(batch.sequence);
        }
        node.orders.extend(out.snapshots);
        for fetch in out.fetches {
            node.fetch(fetch, now);
        }
        for (to, lane, frame) in out.frames {
            self.wire.push((node.id, to, lane, frame.to_bytes()));
        }
        node.stage.gather(0, out.apply);
        node.stage.run().unwrap();
        let progress: Vec<_> = node.stage.progress().collect();
        for progress in progress {
            let (indexes, bytes) = (progress.indexes, progress.bytes);
            node.worker.handle(Input::Applied { indexes, bytes }, now);
        }
        if let Some(reads) = node.stage.take_reads() {
            reads.serve();
        }
        summary
    }

    /// Syncs what a node's log has been handed.
    pub fn sync(&mut self, id: u64) {
        let now = self.now;
        let node = self.node(id);
        if let Some(sequence) = node.unsynced.drain(..).max() {
            node.worker.handle(Input::Durable { sequence }, now);
        }
    }

    /// Delivers every frame under way that `keep` does not hold back.
    pub fn deliver(&mut self, deliverable: impl Fn(NodeId, NodeId) -> bool) {
        let (now, wire) = (self.now, std::mem::take(&mut self.wire));
        for (from, to, lane, frame) in wire {
            if deliverable(from, to) {
                self.node(to.0)
                    .worker
                    .handle(Input::Frame { from, frame }, now);
            } else {
                self.wire.push((from, to, lane, frame));
            }
        }
    }

    /// Cycles, syncs and delivers until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..100 {
            for id in 1..=self.nodes.len() as u64 {
                self.cycle(id);
                self.sync(id);
            }
            let idle = self.wire.is_empty() && !self.nodes.iter().any(|n| n.worker.has_work());
            if idle {
                return;
            }
            self.deliver(|_, _| true);
        }
        panic!("the cluster does not settle");
    }

    /// Lets time pass, a millisecond at a time, with everything working.
    pub fn pass(&mut self, duration: Duration) {
        for _ in 0..duration.as_millis() {
            self.now = self.now + Duration::from_millis(1);
            self.settle();
        }
    }

    /// Makes node `id` lead every group.
    pub fn elect(&mut self, id: u64, groups: u64) {
        let now = self.now;
        for group in 1..=groups {
            self.node(id).worker.handle(
                Input::Campaign {
                    group: GroupId(group),
                },
                now,
            );
        }
        self.settle();
    }

    pub fn put(&mut self, id: u64, group: u64, key: &str, value: &str) -> mpsc::Receiver<Reply> {
        let (sender, receiver) = mpsc::channel();
        let mutation = Mutation::Put {
            key: key.as_bytes(),
            value: value.as_bytes(),
        };
        let request = Request {
            shard: ShardId(group),
            epoch: Epoch {
                range: 1,
                membership: 1,
            },
            session: SessionId::default(),
            sequence: Sequence(0),
        };
        let mut command = Vec::new();
        Command {
            request,
            operation: Operation::Write(vec![mutation]),
        }
        .encode(&mut command);
        let waiter = Waiter::new(move |reply| sender.send(reply).unwrap());
        let (group, command) = (GroupId(group), command.into());
        let now = self.now;
        self.node(id).worker.handle(
            Input::Propose {
                group,
                command,
                waiter,
            },
            now,
        );
        receiver
    }

    pub fn get(&mut self, id: u64, group: u64, key: &str) -> mpsc::Receiver<Reply> {
        let (sender, receiver) = mpsc::channel();
        let read = Read {
            shard: ShardId(group),
            epoch: Epoch {
                range: 1,
                membership: 1,
            },
            query: ReadQuery::Get {
                key: Bytes::copy_from_slice(key.as_bytes()),
            },
            waiter: Waiter::new(move |reply| sender.send(reply).unwrap()),
        };
        let now = self.now;
        self.node(id).worker.handle(
            Input::Read {
                group: GroupId(group),
                read,
            },
            now,
        );
        receiver
    }
}
