//! A process: the real workers, log and apply stage, with what production does on threads laid out in time.

use super::clients::TryId;
use super::service::Service;
use super::{CLUSTER, Event, WORKERS, World, unexpected};
use crate::faults::Fault;
use crate::invariants::{Checked, Claim, CommandId, Invariant, Violation};
use bytes::Bytes;
use parking_lot::Mutex;
use pontoon_engine::apply::{ApplyStage, DueReads};
use pontoon_engine::frame::{Lane, Origin};
use pontoon_engine::snapshot::Carrier;
use pontoon_engine::worker::{ApplyBatch, Input, LogBatch, Output, Worker};
use pontoon_engine::{GroupStatus, Reply, Waiter, redo, restore};
use pontoon_store::{Durability, KvSnapshot, Machine, ModelStore, ModelView, ReplicaRecord};
use pontoon_types::{GroupId, Instant, Members, TabletId};
use pontoon_wal::{
    Log, LogIdentity, LogQueue, LogReader, LogScrubber, MemoryDisk, MemoryFile, WalError,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// The local row that says that a node has begun.
const IDENTITY: &str = "identity";
/// How many inputs a cycle takes in, at most, as in production.
const CYCLE_INPUTS: usize = 1024;
/// How long a worker takes to look into its mailbox, in microseconds.
const WAKE_MICROS: (u64, u64) = (1, 30);
/// How long the process takes to come up again, in microseconds.
pub(super) const RESTART_MICROS: (u64, u64) = (10_000, 3_000_000);
/// Chance, in millionths, that the power goes again while a node recovers.
const CRASH_IN_RECOVERY: u32 = 60_000;

/// What the waiters of a process have been told and nobody has picked up.
type Replies = Arc<Mutex<Vec<(Asker, Reply)>>>;

/// Who waits for an answer of a process.
#[derive(Clone, Debug)]
pub(super) enum Asker {
    /// A client, with one of its tries.
    Client(usize, TryId),
    /// A read that looks whether the node still answers when it should not.
    Audit { key: u64, began: Instant },
    /// A request that the group must not serve.
    Astray(Claim),
    /// One of too many proposals.
    Flood(CommandId),
    /// Somebody who wants other members.
    Members,
    /// Something that is no request.
    Nonsense,
}

pub(super) struct Process {
    pub(super) log: Log<MemoryDisk>,
    pub(super) reader: LogReader<MemoryFile>,
    pub(super) scrubber: LogScrubber<MemoryFile>,
    pub(super) stage: ApplyStage<ModelStore, Service>,
    pub(super) durability: Durability,
    pub(super) carrier: Carrier<ModelStore>,
    /// When the carrier looks next what is due.
    pub(super) carrier_due: Option<Instant>,
    workers: Vec<Slot>,
    /// Batches that the log's thread has not taken yet, and by which worker.
    pub(super) log_inbox: VecDeque<(usize, LogBatch)>,
    /// Those that it has, by their worker and sequence.
    pub(super) log_queue: LogQueue<(usize, u64)>,
    /// Bytes of batches that the workers handed out and that are not synced, by worker and sequence.
    pub(super) unsynced: [BTreeMap<u64, u64>; WORKERS],
    /// Bytes of entries that they handed out and that are not applied.
    pub(super) unapplied: [u64; WORKERS],
    pub(super) chores_are_planned: bool,
    /// A sync is under way.
    pub(super) is_syncing: bool,
    /// Tells idle looks that were overtaken.
    pub(super) idle_round: u64,
    pub(super) apply_queue: Vec<(usize, ApplyBatch)>,
    pub(super) apply_is_planned: bool,
    /// It waits until the disk has taken a memtable.
    pub(super) apply_stalls: bool,
    pub(super) reads: VecDeque<DueReads<ModelView>>,
    pub(super) is_flushing: bool,
    /// What the keeper has seen.
    pub(super) generation: u64,
    pub(super) log_was_full: bool,
    pub(super) replies: Replies,
}

/// A worker with its mailbox.
struct Slot {
    worker: Worker,
    inbox: VecDeque<Input>,
    /// When the next cycle is planned, and the number that it must still have then.
    planned: Option<Instant>,
    wake: u64,
}

impl Process {
    /// The state of every replica that has one.
    pub(super) fn states(&mut self) -> Vec<KvSnapshot<ModelView>> {
        let machine = self.stage.machine();
        let groups = machine.replicas().map(|record| record.group);
        groups.filter_map(|group| machine.snapshot(group)).collect()
    }

    /// A waiter for somebody.
    pub(super) fn waiter(&self, asker: Asker) -> Waiter {
        let replies = Arc::clone(&self.replies);
        Waiter::new(move |reply| replies.lock().push((asker, reply)))
    }

    /// Hands something to a worker at once. Returns its groups before and after.
    pub(super) fn hand(
        &mut self,
        worker: usize,
        input: Input,
        local: Instant,
    ) -> (Vec<GroupStatus>, Vec<GroupStatus>) {
        let worker = &mut self.workers[worker].worker;
        let before = worker.status();
        worker.handle(input, local);
        (before, worker.status())
    }

    /// What every worker says of its groups.
    pub(super) fn status(&self) -> Vec<GroupStatus> {
        let workers = self.workers.iter();
        workers.flat_map(|slot| slot.worker.status()).collect()
    }
}

pub(super) fn worker_of(group: GroupId) -> usize {
    (group.0 % WORKERS as u64) as usize
}

impl World {
    /// A process starts on a node: opens the log and the store, joins what they know, and runs.
    pub(super) fn start(&mut self, at: usize) -> Checked {
        if self.nodes[at].process.is_some() {
            return Ok(());
        }
        let earliest = self.nodes[at].stays_down_until;
        if self.now < earliest {
            self.plan_at(earliest, Event::Start { node: at });
            return Ok(());
        }
        if !self.healed && self.nodes[at].life > 0 && self.dice.chance(CRASH_IN_RECOVERY) {
            let operations = self.dice.below(12);
            self.nodes[at].cut_power_after(operations);
        }
        let node = &mut self.nodes[at];
        node.life += 1;
        node.paused_until = self.now;
        let (id, life) = (node.id, node.life);
        self.restarts += u64::from(life > 1);
        let identity = LogIdentity {
            cluster: CLUSTER,
            node: id,
        };
        let opened = Log::open(node.disk.clone(), self.config.wal.clone(), identity);
        let (log, recovered) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.cannot_open(at, &error),
        };
        node.marked = log.durable();
        let kept = self.observer.recovered(id, &recovered, node.is_damaged)?;
        let report = (recovered.report.batches, recovered.report.torn_bytes);
        self.trace
            .event(self.now, 1, &[id.0, life, report.0, report.1]);
        self.trace.line(self.now, || {
            format!(
                "n{id} starts (life {life}): {} batches, {kept} of them kept beyond the last sync, {} torn bytes cut",
                report.0, report.1
            )
        });
        let mut config = self.config.clone();
        config.seed = self.dice.roll();
        config.election_rank = u32::from(config.seed.is_multiple_of(4));
        let process = self.open_process(at, log, recovered, &config)?;
        self.nodes[at].process = Some(process);
        for worker in 0..WORKERS {
            self.wake(at, worker, self.now);
        }
        self.plan_chores(at);
        self.plan_log_idle(at);
        self.keep(at, life)
    }

    fn cannot_open(&mut self, at: usize, error: &WalError) -> Checked {
        let node = &mut self.nodes[at];
        let line = format!("n{} cannot start: {error}", node.id);
        self.trace.event(self.now, 2, &[node.id.0, node.life]);
        self.trace.line(self.now, || line);
        if node.power_is_off() {
            self.faults.count(Fault::CrashInRecovery);
            self.nodes[at].lose_power(self.dice.roll());
        } else if node.sync_has_failed() {
            self.faults.count(Fault::FailedSync);
            self.nodes[at].sync_fails_at = None;
        } else if !node.disk_is_full {
            return Err(unexpected(format!(
                "node {} cannot open its log: {error}",
                node.id
            )));
        }
        let after = self.dice.micros(RESTART_MICROS);
        self.plan(after, Event::Start { node: at });
        Ok(())
    }

    fn open_process(
        &mut self,
        at: usize,
        log: Log<MemoryDisk>,
        mut recovered: pontoon_wal::Recovered,
        config: &pontoon_engine::EngineConfig,
    ) -> Result<Process, Violation> {
        let store_failed = |error| unexpected(format!("a store failed: {error}"));
        let node = &mut self.nodes[at];
        let (id, local) = (node.id, node.clock.at(self.now));
        let store = node
            .store
            .take()
            .expect("a store is on its node or in its process");
        let mut machine = Machine::open_with(store, self.service).map_err(store_failed)?;
        // Not for want of replicas: those that it began with may all have been removed.
        let identity = machine.get_local(IDENTITY).map_err(store_failed)?;
        let is_blank = identity.is_none();
        if is_blank {
            let records = records_of(&self.map, id);
            let identity: (&str, &[u8]) = (IDENTITY, b"has begun");
            machine
                .bootstrap(&records, &[identity])
                .map_err(store_failed)?;
        }
        redo(&mut recovered, &mut machine)
            .map_err(|error| Violation::new(Invariant::S6, format!("node {id}: {error}")))?;
        let replicas: Vec<_> = machine.replicas().cloned().collect();
        let durability = machine.durability();
        let mut workers: Vec<_> = (0..WORKERS)
            .map(|index| Slot {
                worker: Worker::new(id, index, config),
                inbox: VecDeque::new(),
                planned: None,
                wake: 0,
            })
            .collect();
        for record in &replicas {
            let group = record.group;
            let (applied, durable) = (machine.applied(group), durability.applied(group));
            let log = recovered.groups.get(&group);
            // An install that the log says has happened is made again, whatever was flushed.
            let sound = log.filter(|log| !log.damaged);
            let installed = sound.and_then(|log| log.installed.as_ref());
            let durable = installed.map_or(durable, |one| one.last.index.max(durable));
            self.observer.once.opened(id, group, applied, durable)?;
            let restored = restore(record, &mut recovered, &machine)
                .map_err(|error| Violation::new(Invariant::S6, format!("node {id}: {error}")))?;
            let Some(restored) = restored else {
                self.quarantined += 1;
                self.trace
                    .line(self.now, || format!("n{id} g{group} is quarantined"));
                let slot = &mut workers[worker_of(group)];
                slot.worker.quarantine(record.clone(), local);
                continue;
            };
            let shard = self.map.shard(record.shard).unwrap_or(self.map.meta());
            let slot = &mut workers[worker_of(group)];
            let added = slot.worker.add_group(record.clone(), restored, local);
            added.map_err(|error| {
                unexpected(format!(
                    "group {group}: node {id} cannot restore its replica: {error}"
                ))
            })?;
            if is_blank
                && shard
                    .preferred_leader()
                    .is_some_and(|leader| leader.node == id)
            {
                slot.inbox.push_back(Input::Campaign { group });
            }
        }
        for slot in &mut workers {
            slot.worker.remember(&recovered);
        }
        Ok(Process {
            carrier: Carrier::new(config.snapshots, local),
            carrier_due: None,
            reader: log.reader(),
            scrubber: log.scrubber(),
            log,
            stage: ApplyStage::new(machine),
            generation: durability.generation(),
            durability,
            workers,
            log_inbox: VecDeque::new(),
            log_queue: LogQueue::default(),
            unsynced: Default::default(),
            unapplied: [0; WORKERS],
            chores_are_planned: false,
            is_syncing: false,
            idle_round: 0,
            apply_queue: Vec::new(),
            apply_is_planned: false,
            apply_stalls: false,
            reads: VecDeque::new(),
            is_flushing: false,
            log_was_full: false,
            replies: Replies::default(),
        })
    }

    /// The process of a node, if it is still the one of that life.
    pub(super) fn process(&mut self, at: usize, life: u64) -> Option<&mut Process> {
        let node = &mut self.nodes[at];
        node.process.as_mut().filter(|_| node.life == life)
    }

    /// Puts something into a worker's mailbox.
    pub(super) fn tell(&mut self, at: usize, worker: usize, input: Input) {
        let when = self.now + self.dice.micros(WAKE_MICROS);
        if let Some(process) = &mut self.nodes[at].process {
            process.workers[worker].inbox.push_back(input);
            self.wake(at, worker, when);
        }
    }

    /// Plans a cycle at that moment at the latest.
    fn wake(&mut self, at: usize, worker: usize, when: Instant) {
        let node = &mut self.nodes[at];
        let (life, when) = (node.life, when.max(node.paused_until));
        let Some(process) = &mut node.process else {
            return;
        };
        let slot = &mut process.workers[worker];
        if slot.planned.is_none_or(|planned| when < planned) {
            slot.planned = Some(when);
            slot.wake += 1;
            let wake = slot.wake;
            self.plan_at(
                when,
                Event::Cycle {
                    node: at,
                    life,
                    worker,
                    wake,
                },
            );
        }
    }

    /// A worker turns a cycle.
    pub(super) fn cycle(&mut self, at: usize, life: u64, worker: usize, wake: u64) -> Checked {
        let now = self.now;
        let node = &mut self.nodes[at];
        let (clock, paused_until, id) = (node.clock, node.paused_until, node.id);
        let Some(process) = node.process.as_mut().filter(|_| node.life == life) else {
            return Ok(());
        };
        let slot = &mut process.workers[worker];
        if slot.wake != wake || slot.planned.is_none() {
            return Ok(());
        }
        slot.planned = None;
        if now < paused_until {
            self.wake(at, worker, paused_until);
            return Ok(());
        }
        let local = clock.at(now);
        let unsynced = process.unsynced[worker].values().sum::<u64>();
        let waiting = unsynced.max(process.unapplied[worker]);
        let count = slot.inbox.len().min(CYCLE_INPUTS);
        for input in slot.inbox.drain(..count) {
            slot.worker.handle(input, local);
        }
        let mut out = Output::default();
        slot.worker.run(local, &mut out);
        let busy = slot.worker.has_work() || !slot.inbox.is_empty();
        let deadline = slot
            .worker
            .next_deadline()
            .map(|deadline| clock.when(deadline));
        self.trace
            .event(now, 3, &[id.0, worker as u64, count as u64]);
        let laid = out.log.as_ref().map_or(0, |log| log.batch.bytes() as u64);
        self.bounds.cycle(id, worker, waiting, laid)?;
        self.hand_out(at, worker, out)?;
        self.collect_replies(at)?;
        if busy {
            self.wake(at, worker, now + Duration::from_micros(1));
        } else if let Some(deadline) = deadline {
            self.wake(at, worker, deadline.max(now + Duration::from_nanos(1)));
        }
        Ok(())
    }

    /// The log first, then the peers, then what is committed: as in production.
    fn hand_out(&mut self, at: usize, worker: usize, out: Output) -> Checked {
        let life = self.nodes[at].life;
        if let Some(batch) = out.log
            && let Some(process) = self.process(at, life)
        {
            process.unsynced[worker].insert(batch.sequence, batch.batch.bytes() as u64);
            process.log_inbox.push_back((worker, batch));
            if !process.is_syncing {
                self.log_round(at)?;
            }
        }
        for (to, lane, frame) in out.frames {
            self.send(at, to.0 as usize - 1, worker, lane, frame.to_bytes())?;
        }
        let apply_after = self.dice.micros(self.profile.apply_micros);
        // The log may have failed meanwhile, and the process with it.
        let Some(process) = self.process(at, life) else {
            return Ok(());
        };
        if !out.apply.is_empty() {
            process.unapplied[worker] += out.apply.bytes as u64;
            process.apply_queue.push((worker, out.apply));
            if !std::mem::replace(&mut process.apply_is_planned, true) {
                self.plan(apply_after, Event::Apply { node: at, life });
            }
        }
        for order in out.snapshots {
            self.tell_carrier(at, order.into());
        }
        for fetch in out.fetches {
            let after = self.dice.micros((20, 5_000));
            self.plan(
                after,
                Event::Fetch {
                    node: at,
                    life,
                    worker,
                    fetch,
                },
            );
        }
        Ok(())
    }

    fn send(&mut self, from: usize, to: usize, worker: usize, lane: Lane, frame: Bytes) -> Checked {
        let (now, id) = (self.now, self.nodes[from].id);
        let trace = &self.trace;
        self.observer.sent(id, &frame, |group, message| {
            trace.line(now, || {
                let (term, to) = (message.term, to + 1);
                format!("n{id} -> n{to} g{group} t{term} {:?}", message.body)
            });
        })?;
        if self.tampering && !self.healed {
            self.tamper(from, to, &frame)?;
        }
        let stream = (from, to, worker, lane);
        let Self {
            network,
            profile,
            dice,
            faults,
            ..
        } = self;
        for arrival in network.send(stream, now, profile, dice, faults) {
            let frame = frame.clone();
            self.plan_at(
                arrival,
                Event::Frame {
                    from,
                    to,
                    worker,
                    frame,
                },
            );
        }
        Ok(())
    }

    /// A frame arrives.
    pub(super) fn receive(
        &mut self,
        from: usize,
        to: usize,
        worker: usize,
        frame: Bytes,
    ) -> Checked {
        let numbers = [from as u64, to as u64, worker as u64, xxh3_64(&frame)];
        self.trace.event(self.now, 4, &numbers);
        let origin = Origin::of(&frame);
        if !origin
            .as_ref()
            .is_ok_and(|origin| usize::from(origin.worker) == worker)
        {
            return Err(unexpected(format!(
                "a frame of worker {worker} says {origin:?}"
            )));
        }
        let from = self.nodes[from].id;
        self.tell(to, worker, Input::Frame { from, frame });
        Ok(())
    }

    /// A node hears that its connection to a peer broke.
    pub(super) fn peer_lost(&mut self, at: usize, peer: usize) -> Checked {
        self.trace.event(self.now, 5, &[at as u64, peer as u64]);
        let node = self.nodes[peer].id;
        for worker in 0..WORKERS {
            self.tell(at, worker, Input::PeerLost { node });
        }
        Ok(())
    }

    /// Sends what waiters were told to their clients.
    pub(super) fn collect_replies(&mut self, at: usize) -> Checked {
        let Some(process) = &self.nodes[at].process else {
            return Ok(());
        };
        let replies = std::mem::take(&mut *process.replies.lock());
        for (asker, reply) in replies {
            match asker {
                Asker::Client(client, id) => self.reply(at, client, id, reply)?,
                asker => self.answer_outsider(at, asker, &reply)?,
            }
        }
        Ok(())
    }

    /// Tells all workers to take no new proposals.
    pub(super) fn tell_stop(&mut self, at: usize) {
        for worker in 0..WORKERS {
            self.tell(at, worker, Input::Stop);
        }
    }

    /// A process ends, with the power or by itself, and will be started again.
    pub(super) fn end_process(&mut self, at: usize, power: bool) -> Checked {
        let node = &mut self.nodes[at];
        let id = node.id;
        let Some(mut process) = node.process.take() else {
            return Ok(());
        };
        let blank = ModelStore::new(self.profile.memtable_bytes);
        let store = std::mem::replace(process.stage.machine().store_mut(), blank);
        node.store = Some(store.crash());
        drop(process);
        if power {
            node.lose_power(self.dice.roll());
        }
        self.trace.event(self.now, 13, &[id.0, u64::from(power)]);
        self.trace.line(self.now, || {
            format!("n{id} {}", if power { "loses its power" } else { "ends" })
        });
        self.lose_connections(at);
        let after = self.dice.micros(RESTART_MICROS);
        self.plan(after, Event::Start { node: at });
        Ok(())
    }
}

/// The replicas that a node has at its first start.
fn records_of(
    map: &pontoon_shard_router::ClusterMap,
    node: pontoon_types::NodeId,
) -> Vec<ReplicaRecord> {
    let shards = [map.meta()].into_iter().chain(map.shards());
    let records = shards.filter_map(|shard| {
        let mut descriptor = Vec::new();
        shard.encode(&mut descriptor);
        Some(ReplicaRecord {
            group: shard.group,
            shard: shard.shard,
            replica: shard.replica_on(node)?.replica,
            start: shard.start.clone(),
            end: shard.end.clone().unwrap_or_default(),
            epoch: shard.epoch,
            pieces: TabletId(shard.group.0).into(),
            conf_state: shard.conf_state(),
            members: Members::new(shard.replicas.iter().map(|one| (one.replica, one.node))),
            descriptor: descriptor.into(),
        })
    });
    records.collect()
}
