//! A replica that the log cannot feed, in a group that is written to all the while: workers and carriers of three
//! nodes, turned by hand.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod common;

use bytes::Bytes;
use common::Cluster;
use pontoon_engine::snapshot::{Carrier, CarrierInput, Errand, SnapshotSettings};
use pontoon_engine::worker::Input;
use pontoon_engine::{EngineConfig, GroupStatus, Reply};
use pontoon_store::{ModelStore, Outcome};
use pontoon_types::{GroupId, LogIndex, NodeId};
use std::sync::mpsc::Receiver;
use std::time::Duration;

const GROUP: GroupId = GroupId(1);
const TAIL: u64 = 16;
const ROWS: u64 = 200;
/// The leader, and who is brought up.
const LEADER: u64 = 1;
const BEHIND: u64 = 3;
/// Milliseconds between two writes, and between two times that the log is cut.
const WRITE_EVERY: u64 = 5;
const CUT_EVERY: u64 = 20;

struct World {
    cluster: Cluster,
    carriers: Vec<Carrier<ModelStore>>,
    snapshots: Vec<(NodeId, NodeId, Bytes)>,
    is_cut_off: bool,
    is_written_to: bool,
    millis: u64,
    written: u64,
    puts: Vec<Receiver<Reply>>,
}

impl World {
    /// Node 3 has heard of nothing, and the log is cut behind what the others have.
    fn new() -> Self {
        let config = EngineConfig {
            log_tail_entries: TAIL,
            snapshots: SnapshotSettings {
                bytes_per_second: 64 << 10,
                chunk_bytes: 4 << 10,
                ..SnapshotSettings::default()
            },
            ..EngineConfig::default()
        };
        let mut cluster = Cluster::new(3, 1, &config);
        cluster.elect(LEADER, 1);
        let now = cluster.now;
        let mut world = Self {
            cluster,
            carriers: (0..3)
                .map(|_| Carrier::new(config.snapshots, now))
                .collect(),
            snapshots: Vec::new(),
            is_cut_off: true,
            is_written_to: true,
            millis: 0,
            written: 0,
            puts: Vec::new(),
        };
        while world.written < ROWS {
            world.pass();
        }
        let first = world.status(LEADER).first;
        assert!(first > LogIndex(ROWS - 5 * TAIL), "cut before {first}");
        world.is_cut_off = false;
        world
    }

    fn status(&self, id: u64) -> GroupStatus {
        self.cluster.nodes[id as usize - 1]
            .worker
            .status()
            .remove(0)
    }

    /// A millisecond, in which everything works.
    fn pass(&mut self) {
        self.millis += 1;
        self.cluster.now = self.cluster.now + Duration::from_millis(1);
        if self.is_written_to && self.millis.is_multiple_of(WRITE_EVERY) {
            let key = format!("key {}", self.written % ROWS);
            let put = self.cluster.put(LEADER, 1, &key, &"v".repeat(1_000));
            self.puts.push(put);
            self.written += 1;
        }
        if self.millis.is_multiple_of(CUT_EVERY) {
            self.cut(&[]);
        }
        for _ in 0..6 {
            for id in 1..=3 {
                self.cluster.cycle(id);
                self.cluster.sync(id);
                self.carry(id);
            }
            if self.is_cut_off {
                let cut_off = |node| node == NodeId(BEHIND);
                let wire = &mut self.cluster.wire;
                wire.retain(|(from, to, ..)| !cut_off(*from) && !cut_off(*to));
            }
            self.cluster.deliver(|_, _| true);
        }
    }

    /// What is applied is flushed, and the logs are cut.
    fn cut(&mut self, without_tail: &[GroupId]) {
        let now = self.cluster.now;
        for id in 1..=3 {
            let applied = vec![(GROUP, self.status(id).applied)];
            let without_tail = without_tail.to_vec();
            let cut = Input::Compact {
                applied,
                without_tail,
            };
            self.cluster.node(id).worker.handle(cut, now);
        }
    }

    /// The carrier of a node hears what its worker and the others have for it.
    fn carry(&mut self, id: u64) {
        let now = self.cluster.now;
        let carrier = &mut self.carriers[id as usize - 1];
        let node = self.cluster.node(id);
        for order in node.orders.drain(..) {
            carrier.handle(order.into(), now);
        }
        for (from, to, frame) in std::mem::take(&mut self.snapshots) {
            match to == NodeId(id) {
                true => carrier.handle(CarrierInput::Frame { from, frame }, now),
                false => self.snapshots.push((from, to, frame)),
            }
        }
        carrier.handle_timeout(now);
        loop {
            let errands: Vec<_> = carrier.errands().collect();
            if errands.is_empty() {
                return;
            }
            for errand in errands {
                match errand {
                    Errand::Pin { group, transfer } => {
                        let snapshot = node.stage.pin(group);
                        carrier.handle(CarrierInput::Pinned { transfer, snapshot }, now);
                    }
                    Errand::Open { group } => {
                        let opened = node.stage.machine().begin_install();
                        carrier.handle(CarrierInput::Opened { group, opened }, now);
                    }
                    Errand::Discard { tablet } => node.stage.machine().discard(tablet),
                    Errand::Tell { input, .. } => node.worker.handle(input, now),
                    Errand::Send { to, frame } => {
                        self.snapshots.push((node.id, to, frame.to_bytes()));
                    }
                }
            }
        }
    }

    /// How many entries the leader's log holds.
    fn log_entries(&self) -> u64 {
        let status = self.status(LEADER);
        status.last.next().0 - status.first.0
    }

    /// How many snapshots have been brought to node 3.
    fn sent(&self) -> u64 {
        self.carriers[LEADER as usize - 1].counters().sent
    }

    /// Goes on until the replica lags by no more than a tail, and says how much was written until then.
    fn until_up(&mut self) -> u64 {
        let (began, before) = (self.millis, self.written);
        while self.status(BEHIND).applied.0 + TAIL < self.status(LEADER).applied.0 {
            assert!(
                self.millis - began < 30_000,
                "not up after {} snapshots",
                self.sent()
            );
            self.pass();
        }
        self.written - before
    }

    fn assert_whole(&mut self) {
        self.is_written_to = false;
        for _ in 0..1_000 {
            self.pass();
        }
        for put in self.puts.drain(..) {
            let reply = put.try_recv();
            assert_eq!(reply, Ok(Reply::Applied(Outcome::Written)));
        }
        let applied = [LEADER, BEHIND].map(|id| self.status(id).applied);
        assert_eq!(applied[0], applied[1]);
        let [leads, was_behind] = [LEADER, BEHIND].map(|id| {
            let snapshot = self.cluster.node(id).stage.pin(GROUP).unwrap();
            snapshot.hash().unwrap()
        });
        assert_eq!(leads, was_behind);
    }
}

#[test]
fn a_replica_comes_up_beside_more_writes_than_the_tail_of_the_log_holds() {
    let mut world = World::new();
    let written = world.until_up();
    assert!(written > 2 * 4 * TAIL, "{written} writes are no load");
    assert_eq!(world.sent(), 1);
    world.assert_whole();
    // Nobody needs more of the log any more.
    assert!(world.log_entries() <= TAIL);
}

#[test]
fn a_log_over_its_quota_waits_for_no_snapshot_and_a_newer_one_is_sent() {
    let mut world = World::new();
    for _ in 0..1_000 {
        world.pass();
    }
    assert_eq!(world.sent(), 0, "it is under way");
    assert!(world.log_entries() > 4 * TAIL);
    world.cut(&[GROUP]);
    world.pass();
    assert!(world.log_entries() < TAIL);
    world.until_up();
    assert_eq!(world.sent(), 2);
    world.assert_whole();
}
