//! The world: nodes, network, clients and time, turned by one queue of events.
//!
//! All chance comes from the seed, all order from the queue: events at the same moment happen in the order
//! in which they were planned. Nothing here looks at a real clock, a thread or the order of a hash map.

mod apply;
mod chaos;
mod clients;
mod healing;
mod log;
mod observe;
mod outsiders;
mod process;
mod service;
mod snapshots;

use crate::clock::Clock;
use crate::faults::{Fault, FaultCounts};
use crate::invariants::{Bounds, Checked, Invariant, Linearizability, Ownership, Violation};
use crate::network::Network;
use crate::profile::{Profile, Scale, Theme};
use crate::random::Dice;
use crate::trace::Trace;
use bytes::Bytes;
use clients::{Client, TryId};
use observe::Observer;
use pontoon_client::protocol::Response;
use pontoon_engine::EngineConfig;
use pontoon_engine::snapshot::{CarrierInput, SnapshotSettings};
use pontoon_shard_router::{ClusterMap, Manifest};
use pontoon_store::ModelStore;
use pontoon_types::{ClusterId, GroupId, Instant, NodeId};
use pontoon_wal::{Lsn, MemoryDisk, WalConfig};
use process::Process;
use service::Service;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

const CLUSTER: ClusterId = ClusterId(0x5e_ed);
/// Groups are shared out between so many workers, as in production.
const WORKERS: usize = 2;
/// From so many segments on the log writes again what little is needed of old ones.
const SEGMENTS_TO_RECOVER: u64 = 3;
/// So many segments a log may have beyond its bound: the spare, and what is kept to be used again.
const LOG_EXTRA_SEGMENTS: u64 = 4;
/// And so many bytes: what may still come until the keeper looks again and says that the log is full.
const LOG_EXTRA_BYTES: u64 = 2 << 20;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The trace hash: equal for every run of this seed at this scale.
    pub trace_hash: u64,
    /// Events that happened.
    pub events: u64,
    /// The faults that were injected.
    pub faults: FaultCounts,
    /// Simulated time, healing included.
    pub simulated: Duration,
    /// Whether it served counters, not keys and values.
    pub counts: bool,
    /// Elections that were won.
    pub elections: u64,
    /// Entries applied, over all replicas.
    pub applied: u64,
    /// Calls of clients that ended or stay open, without those that were surely not done.
    pub calls: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Starts of processes, beyond the first of each node.
    pub restarts: u64,
    /// Segments of logs that were given back because nothing in them was needed.
    pub compactions: u64,
    /// Reads of the log for replicas that lag, and for the state machine after a restart.
    pub fetches: u64,
    /// Starts of replicas that found their log damaged.
    pub quarantined: u64,
    /// Places of damage that scrubbing found in logs of running nodes.
    pub scrubbed: u64,
    /// Snapshots that were put in place.
    pub snapshots: u64,
    /// Changes of members that were made.
    pub changes: u64,
    /// What went wrong, and when.
    pub violation: Option<(Instant, Violation)>,
}

impl Report {
    /// The report of a seed whose world broke off.
    pub(crate) fn of_panic(seed: u64, at: Instant, violation: Violation) -> Self {
        Self {
            seed,
            trace_hash: 0,
            events: 0,
            faults: FaultCounts::default(),
            simulated: Duration::ZERO,
            counts: false,
            elections: 0,
            applied: 0,
            calls: 0,
            acknowledged: 0,
            restarts: 0,
            compactions: 0,
            fetches: 0,
            quarantined: 0,
            scrubbed: 0,
            snapshots: 0,
            changes: 0,
            violation: Some((at, violation)),
        }
    }
}

/// Something that is going to happen. `node` is a place in the cluster; `life` is the life of its process
/// for which the event is meant: what a dead process had planned does not happen.
enum Event {
    Cycle {
        node: usize,
        life: u64,
        worker: usize,
        wake: u64,
    },
    SyncDone {
        node: usize,
        life: u64,
    },
    LogHangs {
        node: usize,
        life: u64,
    },
    LogIdle {
        node: usize,
        life: u64,
        round: u64,
    },
    LogChores {
        node: usize,
        life: u64,
    },
    Apply {
        node: usize,
        life: u64,
    },
    ServeReads {
        node: usize,
        life: u64,
    },
    FlushDone {
        node: usize,
        life: u64,
    },
    Fetch {
        node: usize,
        life: u64,
        worker: usize,
        fetch: pontoon_engine::worker::Fetch,
    },
    Keeper {
        node: usize,
        life: u64,
    },
    Start {
        node: usize,
    },
    Frame {
        from: usize,
        to: usize,
        worker: usize,
        frame: Bytes,
    },
    SnapshotFrame {
        from: usize,
        to: usize,
        frame: Bytes,
    },
    Carry {
        node: usize,
        life: u64,
        input: Option<Box<CarrierInput<ModelStore>>>,
    },
    PeerLost {
        node: usize,
        peer: usize,
    },
    ClientNext {
        client: usize,
    },
    ClientTry {
        client: usize,
        id: TryId,
    },
    Request {
        client: usize,
        id: TryId,
        node: usize,
    },
    Answer {
        client: usize,
        id: TryId,
        response: Box<Response>,
    },
    Broken {
        client: usize,
        id: TryId,
        sent: bool,
    },
    TimedOut {
        client: usize,
        id: TryId,
    },
    Audit {
        node: usize,
        group: GroupId,
        key: u64,
    },
    Fault,
    Heal {
        what: Healing,
    },
    Inspect,
}

/// What becomes of a fault that lasts for a while.
enum Healing {
    Network,
    CutOutgoing { node: usize },
    Disk { node: usize },
    Shutdown { node: usize, life: u64 },
}

struct Planned {
    at: Instant,
    number: u64,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A machine with a disk, on which a process runs or does not.
struct Node {
    id: NodeId,
    disk: MemoryDisk,
    clock: Clock,
    /// Counts the processes that were started here.
    life: u64,
    process: Option<Process>,
    /// What a process left of the store that was not durable is gone; this is the rest.
    store: Option<ModelStore>,
    /// Until then the process does not get the processor.
    paused_until: Instant,
    /// Until then no process is started.
    stays_down_until: Instant,
    disk_is_full: bool,
    /// After so many operations of the disk the power goes.
    power_ends_at: Option<u64>,
    /// The number of the sync that fails.
    sync_fails_at: Option<u64>,
    /// How long the next sync hangs.
    next_sync_hangs: Option<Duration>,
    /// What recovery has seen and marked as durable lies below.
    marked: Lsn,
    /// Bits of its log have flipped.
    is_damaged: bool,
}

/// One seed's world.
pub struct World {
    seed: u64,
    scale: Scale,
    profile: Profile,
    service: Service,
    config: EngineConfig,
    dice: Dice,
    now: Instant,
    queue: BinaryHeap<Reverse<Planned>>,
    planned: u64,
    nodes: Vec<Node>,
    network: Network,
    clients: Vec<Client>,
    /// Keys to write (true) or read at the end.
    probes: VecDeque<(u64, bool)>,
    map: ClusterMap,
    history: Linearizability,
    observer: Observer,
    faults: FaultCounts,
    trace: Trace,
    restarts: u64,
    compactions: u64,
    fetches: u64,
    quarantined: u64,
    scrubbed: u64,
    ownership: Ownership,
    bounds: Bounds,
    /// Sessions of those who are no clients.
    outsiders: u64,
    /// The next frame with entries is damaged on its way.
    tampering: bool,
    /// Somebody has asked for other members.
    members_asked: bool,
    /// Nothing fails any more.
    healed: bool,
}

impl World {
    /// The world of a seed, before its first event.
    #[must_use]
    pub fn new(seed: u64, theme: Theme, scale: Scale, prints: bool) -> Self {
        let mut dice = Dice::new(seed);
        let profile = Profile::draw(theme, &mut dice);
        let service = Service::of(seed);
        let map = initial_map(scale);
        let config = EngineConfig {
            workers: WORKERS,
            wal: WalConfig {
                segment_bytes: profile.segment_bytes,
                max_bytes: profile.segment_bytes * profile.max_segments,
                recovery_bytes: profile.segment_bytes * SEGMENTS_TO_RECOVER,
                recovery_threads: 0,
                group_quota_bytes: profile.group_quota_bytes,
                ..WalConfig::default()
            },
            lease_reads: profile.lease_reads,
            max_uncommitted_bytes: profile.max_uncommitted_bytes,
            max_backlog_bytes: profile.max_backlog_bytes,
            log_tail_entries: profile.log_tail_entries,
            snapshots: SnapshotSettings {
                bytes_per_second: profile.snapshot_bytes_per_second,
                chunk_bytes: profile.snapshot_chunk_bytes,
                max_outgoing: 2,
                max_incoming: 2,
                patience: Duration::from_secs(5),
                ..SnapshotSettings::default()
            },
            ..EngineConfig::default()
        };
        let bounds = Bounds {
            backlog_bytes: config.max_backlog_bytes as u64,
            log_bytes: config.wal.max_bytes
                + LOG_EXTRA_SEGMENTS * config.wal.segment_bytes
                + LOG_EXTRA_BYTES,
            groups: scale.groups as u64 + 1,
        };
        let mut faults = FaultCounts::default();
        let nodes = (1..=scale.nodes as u64).map(|id| {
            let drift = i64::from(profile.drift_ppm);
            let drift = dice.between(0, 2 * drift as u64) as i64 - drift;
            if drift != 0 {
                faults.count(Fault::Drift);
            }
            Node {
                id: NodeId(id),
                disk: MemoryDisk::new(),
                clock: Clock::new(dice.below(1 << 50), drift as i32),
                life: 0,
                process: None,
                store: Some(ModelStore::new(profile.memtable_bytes)),
                paused_until: Instant::ZERO,
                stays_down_until: Instant::ZERO,
                disk_is_full: false,
                power_ends_at: None,
                sync_fails_at: None,
                next_sync_hangs: None,
                marked: Lsn::ZERO,
                is_damaged: false,
            }
        });
        let nodes = nodes.collect();
        let clients = (0..profile.clients).map(|_| Client::new(&map)).collect();
        Self {
            seed,
            scale,
            service,
            config,
            dice,
            now: Instant::ZERO,
            queue: BinaryHeap::new(),
            planned: 0,
            nodes,
            network: Network::default(),
            clients,
            probes: VecDeque::new(),
            observer: Observer::new(&map),
            ownership: Ownership::new(&map),
            history: Linearizability::default(),
            map,
            faults,
            trace: Trace::new(prints),
            restarts: 0,
            compactions: 0,
            fetches: 0,
            quarantined: 0,
            scrubbed: 0,
            bounds,
            outsiders: 0,
            tampering: false,
            members_asked: false,
            healed: false,
            profile,
        }
    }

    /// Runs the world to its end, or to the first violation.
    #[must_use]
    pub fn run(mut self) -> Report {
        let violation = self.live().err().map(|violation| (self.now, violation));
        if let Some((at, violation)) = &violation {
            self.trace.line(*at, || format!("VIOLATION {violation}"));
        }
        Report {
            seed: self.seed,
            trace_hash: self.trace.hash(),
            events: self.trace.events(),
            faults: self.faults,
            simulated: self.now - Instant::ZERO,
            counts: self.service == Service::Counters,
            elections: self.observer.elections(),
            applied: self.observer.applied_entries(),
            calls: self.history.calls() as u64,
            acknowledged: self.observer.acknowledged_writes(),
            restarts: self.restarts,
            compactions: self.compactions,
            fetches: self.fetches,
            quarantined: self.quarantined,
            scrubbed: self.scrubbed,
            snapshots: self.observer.installs(),
            changes: self.observer.members.changes(),
            violation,
        }
    }

    fn live(&mut self) -> Checked {
        self.trace.line(self.now, || {
            let Self {
                seed,
                service,
                scale,
                profile,
                ..
            } = self;
            format!("seed {seed} serves {service:?} {scale:?} {profile:?}")
        });
        for node in 0..self.nodes.len() {
            self.plan(Duration::ZERO, Event::Start { node });
        }
        for client in 0..self.clients.len() {
            let after = self.dice.micros((0, 1_000_000));
            self.plan(after, Event::ClientNext { client });
        }
        self.plan(self.profile.fault_gap, Event::Fault);
        self.plan(Duration::from_secs(1), Event::Inspect);
        let end = self.now + Duration::from_secs(self.scale.simulated_seconds);
        self.run_until(end)?;
        self.heal_and_converge()?;
        self.history.check()
    }

    /// Lets everything happen that is planned up to `end`.
    fn run_until(&mut self, end: Instant) -> Checked {
        while let Some(Reverse(next)) = self.queue.peek() {
            if next.at > end {
                break;
            }
            if let Some(Reverse(Planned { at, event, .. })) = self.queue.pop() {
                assert!(at >= self.now, "time goes forward");
                self.now = at;
                self.happen(event)?;
            }
        }
        self.now = end;
        Ok(())
    }

    fn plan(&mut self, after: Duration, event: Event) {
        self.plan_at(self.now + after, event);
    }

    fn plan_at(&mut self, at: Instant, event: Event) {
        let number = self.planned;
        self.planned += 1;
        self.queue.push(Reverse(Planned { at, number, event }));
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::Cycle {
                node,
                life,
                worker,
                wake,
            } => self.cycle(node, life, worker, wake),
            Event::SyncDone { node, life } => self.sync_done(node, life),
            Event::LogHangs { node, life } => self.log_hangs(node, life),
            Event::LogIdle { node, life, round } => self.log_idle(node, life, round),
            Event::LogChores { node, life } => self.log_chores(node, life),
            Event::Apply { node, life } => self.apply(node, life),
            Event::ServeReads { node, life } => self.serve_reads(node, life),
            Event::FlushDone { node, life } => self.flush_done(node, life),
            Event::Fetch {
                node,
                life,
                worker,
                fetch,
            } => self.fetch(node, life, worker, fetch),
            Event::Keeper { node, life } => self.keep(node, life),
            Event::Start { node } => self.start(node),
            Event::Frame {
                from,
                to,
                worker,
                frame,
            } => self.receive(from, to, worker, frame),
            Event::SnapshotFrame { from, to, frame } => self.receive_snapshot(from, to, frame),
            Event::Carry { node, life, input } => self.carry(node, life, input),
            Event::PeerLost { node, peer } => self.peer_lost(node, peer),
            Event::ClientNext { client } => self.client_next(client),
            Event::ClientTry { client, id } => self.client_try(client, id),
            Event::Request { client, id, node } => self.request(client, id, node),
            Event::Answer {
                client,
                id,
                response,
            } => self.answer(client, id, &response),
            Event::Broken { client, id, sent } => self.broken(client, id, sent),
            Event::TimedOut { client, id } => self.timed_out(client, id),
            Event::Audit { node, group, key } => self.audit(node, group, key),
            Event::Fault => self.fault(),
            Event::Heal { what } => self.heal(&what),
            Event::Inspect => self.inspect(),
        }
    }
}

/// Something that the code under test must not say has been said.
fn unexpected(what: String) -> Violation {
    Violation::new(Invariant::NoPanic, what)
}

/// The map that a cluster of this scale begins with: a shard per group, cut by the first letters of keys.
fn initial_map(scale: Scale) -> ClusterMap {
    let nodes = (1..=scale.nodes as u64).map(|id| (NodeId(id), format!("10.0.0.{id}:7700")));
    let borders = (1..scale.groups)
        .map(|group| clients::key_of(group, 0))
        .collect();
    let replication = scale.nodes.min(if scale.nodes >= 5 { 5 } else { 3 });
    let manifest = Manifest::new(CLUSTER, nodes, borders, Some(replication));
    manifest.expect("the scale was checked").initial_map()
}
