//! A worker: the owner of a part of the node's groups, and the cycle that it turns.
//!
//! A worker is synchronous and deterministic. It has no thread, clock, socket or file: inputs go in
//! through [`Worker::handle`], the time is an argument, and what is to be done comes out as an
//! [`Output`]. The runtime turns it on a thread of its own; the simulator turns many by hand.
//!
//! One cycle is: hand in everything that came in, then call [`Worker::run`] once. It steps the groups
//! that were touched or whose deadline has passed, and gathers what all of them want into
//!
//! - at most one batch for the log, with a sequence that comes back as [`Input::Durable`],
//! - one frame per peer and lane, or a few if there is very much to say,
//! - one batch for the apply stage.
//!
//! # What waits for the log
//!
//! A message that promises durability must not leave before what it speaks of is synced (invariant
//! S6). The worker keeps every batch that it handed to the log, with the acknowledgements that Raft
//! is owed for it and the messages that wait for it. Batches become durable in the order in which they
//! were handed out, so the messages of batch *n* leave in the cycle that hears of *n*.
//!
//! # What an idle group costs
//!
//! A cycle touches only the groups that an input named or whose deadline came. Groups that nothing
//! happens to are not looked at, however many there are.

mod group;
mod inbox;
mod io;
mod lost;
mod members;
mod snapshots;
mod timers;

pub use io::{
    ApplyBatch, Fetch, Input, LogBatch, MemberStep, OfferAnswer, Output, Read, ReadQuery,
    SnapshotOrder, Switch,
};

use crate::config::EngineConfig;
use crate::frame::{Frame, FrameBuilder, Lane, Origin};
use crate::reply::Reply;
use crate::status::{GroupStatus, Loss, LostReplicas};
use group::Group;
use members::ASK_AFTER;
use pontoon_raft::{AppendSequence, Message, Ready, Restored};
use pontoon_store::ReplicaRecord;
use pontoon_types::{
    GroupId, HardState, Instant, LogIndex, LogPosition, NodeId, ReplicaId, Term, mutant,
};
use pontoon_wal::{BatchBuilder, Recovered};
use snapshots::Offer;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use timers::Timers;

/// What is answered while the node stops.
pub(crate) const STOPPING: Reply = Reply::Unavailable {
    reason: "the node is stopping",
};

/// A frame that has grown to this is closed, and what follows goes into the next: a transport refuses
/// frames over some bound, and a refused one takes the appends of all its groups with it.
const FRAME_BYTES: usize = 4 << 20;

/// One of a node's workers.
#[derive(Debug)]
pub struct Worker {
    node: NodeId,
    origin: Origin,
    config: EngineConfig,
    groups: Vec<Group>,
    slots: HashMap<GroupId, usize>,
    timers: Timers,
    /// Slots of the groups that this cycle has to ask for what they want.
    dirty: Vec<usize>,
    /// What the log has been handed and not yet synced, oldest first.
    in_flight: VecDeque<InFlight>,
    next_batch: u64,
    batch: BatchBuilder,
    frames: BTreeMap<(NodeId, Lane), FrameBuilder>,
    /// Frames of this cycle that are full, in order; those in `frames` come after them.
    full_frames: Vec<(NodeId, Lane, Frame)>,
    /// What the log may forget and has not been told.
    compactions: Vec<(GroupId, LogPosition)>,
    /// For the carrier of snapshots, from this cycle.
    orders: Vec<SnapshotOrder>,
    /// For the apply stage, from this cycle: the log is durable as far as they need it.
    switches: Vec<Switch>,
    /// Groups whose tombstones are in the batch that is being built.
    buried: Vec<GroupId>,
    /// Per group: the last replica that has left this node. It takes no part, and neither does an earlier one.
    removed: HashMap<GroupId, Removed>,
    /// What the log remembers of replicas that the store knows nothing of: they were made known here and got no
    /// snapshot.
    dormant: HashMap<GroupId, HardState>,
    /// Groups without a record here whose logs are damaged: whoever is called on first there is lost.
    condemned: HashSet<GroupId>,
    /// The same for all groups of which the log knows nothing: they may be those that it has lost.
    condemns_unknown: bool,
    /// The replicas whose logs were found damaged.
    quarantined: BTreeMap<GroupId, ReplicaRecord>,
    /// Which of them the store has a record of: those, and all before them, have been here.
    recorded: HashMap<GroupId, ReplicaId>,
    /// Groups that have lost replicas here and not healed since, with how many.
    unhealed: BTreeMap<GroupId, u64>,
    /// When the others are told again which replicas are lost; `None` if none are.
    notice_at: Option<Instant>,
    /// All other nodes that are known to have, or to have had, something to do with a group of this worker.
    others: BTreeSet<NodeId>,
    /// How many replicas wait for their first snapshot.
    blank: usize,
    /// Slots that are free once that batch is durable.
    vacant: VecDeque<(u64, usize)>,
    unapplied_bytes: usize,
    /// Bytes of the batches in `in_flight`.
    unsynced_bytes: usize,
    log_is_full: bool,
    stopping: bool,
    /// Reused from group to group.
    ready: Ready,
    counters: Counters,
}

/// What a worker has counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Cycles that had something to do.
    pub cycles: u64,
    /// Commands proposed here.
    pub proposals: u64,
    /// Reads asked here.
    pub reads: u64,
    /// Messages of groups, received and sent.
    pub messages: u64,
    /// Frames that could not be read to their end.
    pub bad_frames: u64,
    /// Appends dropped because too much waited for the disk, or the log was full.
    pub dropped_appends: u64,
    /// Replicas lost, and replaced.
    pub lost: LostReplicas,
}

/// A replica that has left the node.
#[derive(Clone, Copy, Debug)]
struct Removed {
    replica: ReplicaId,
    /// What it knew to be committed, for those whose votes hang on it; zero if nobody needs to know.
    committed: LogPosition,
    /// The batch with its tombstone; 0: an earlier life's.
    batch: u64,
}

/// A batch that the log was handed: what Raft is owed, and what may leave, when it is durable.
#[derive(Debug, Default)]
struct InFlight {
    sequence: u64,
    bytes: usize,
    acknowledgements: Vec<(usize, AppendSequence, Term)>,
    messages: Vec<(usize, Message)>,
    switches: Vec<Switch>,
}

impl Worker {
    /// Worker number `index` of `node`, without groups.
    ///
    /// # Panics
    /// If the configuration has not been validated.
    #[must_use]
    pub fn new(node: NodeId, index: usize, config: &EngineConfig) -> Self {
        let number = |n: usize| u8::try_from(n).expect("the number of workers was validated");
        Self {
            node,
            origin: Origin {
                worker: number(index),
                workers: number(config.workers),
            },
            config: config.clone(),
            groups: Vec::new(),
            slots: HashMap::new(),
            timers: Timers::default(),
            dirty: Vec::new(),
            in_flight: VecDeque::new(),
            next_batch: 1,
            batch: BatchBuilder::default(),
            frames: BTreeMap::new(),
            full_frames: Vec::new(),
            compactions: Vec::new(),
            orders: Vec::new(),
            switches: Vec::new(),
            buried: Vec::new(),
            removed: HashMap::new(),
            dormant: HashMap::new(),
            condemned: HashSet::new(),
            condemns_unknown: false,
            quarantined: BTreeMap::new(),
            recorded: HashMap::new(),
            unhealed: BTreeMap::new(),
            notice_at: None,
            others: BTreeSet::new(),
            blank: 0,
            vacant: VecDeque::new(),
            unapplied_bytes: 0,
            unsynced_bytes: 0,
            log_is_full: false,
            stopping: false,
            ready: Ready::default(),
            counters: Counters::default(),
        }
    }

    /// Takes on a replica, with what recovery found of it.
    ///
    /// # Errors
    /// If what was found cannot be a replica's state.
    ///
    /// # Panics
    /// If the worker has a replica of that group already.
    pub fn add_group(
        &mut self,
        record: ReplicaRecord,
        restored: Restored,
        now: Instant,
    ) -> Result<(), pontoon_raft::ConfigError> {
        let id = record.group;
        let group = Group::new(self.node, record, restored, &self.config, now)?;
        // The batch with the tombstone is the last that speaks of a slot's former replica.
        let oldest = self.oldest_in_flight();
        let slot = match self.vacant.pop_front_if(|(batch, _)| *batch < oldest) {
            Some((_, slot)) => slot,
            None => self.groups.len(),
        };
        let previous = self.slots.insert(id, slot);
        assert!(
            previous.is_none(),
            "group {id} has two replicas on node {}",
            self.node
        );
        if slot == self.groups.len() {
            self.groups.push(group);
        } else {
            self.groups[slot] = group;
        }
        self.note_others(slot);
        self.leave_later(slot, now);
        self.touch(slot);
        Ok(())
    }

    /// The first batch that is not known to be durable.
    fn oldest_in_flight(&self) -> u64 {
        let oldest = self.in_flight.front();
        oldest.map_or(self.next_batch, |oldest| oldest.sequence)
    }

    /// Takes note of a replica whose log is damaged. It takes no part; the others hear of it.
    pub fn quarantine(&mut self, record: ReplicaRecord, now: Instant) {
        self.recorded.insert(record.group, record.replica);
        self.condemn(record, now);
    }

    /// The same for one of which there is no record, and which was called on.
    fn condemn(&mut self, record: ReplicaRecord, now: Instant) {
        self.condemned.remove(&record.group);
        self.note_lost(record.group, Loss::Log, now);
        self.quarantined.insert(record.group, record);
    }

    /// Takes note of what the log remembers of groups beside the replicas that were added: the last ones that have
    /// left, what those have promised that never got a snapshot, and which of them must not be trusted.
    pub fn remember(&mut self, recovered: &Recovered) {
        let (worker, workers) = (self.origin.worker, self.origin.workers);
        let is_own = |group: &GroupId| group.0 % u64::from(workers) == u64::from(worker);
        for (group, log) in recovered.groups.iter().filter(|(group, _)| is_own(group)) {
            let HardState { term, commit, .. } = log.hard_state;
            let is_sound = commit > LogIndex::ZERO && !recovered.is_quarantined(*group);
            let committed = if is_sound {
                LogPosition {
                    term,
                    index: commit,
                }
            } else {
                LogPosition::ZERO
            };
            let removed = log.removed.map(|replica| Removed {
                replica,
                committed,
                batch: 0,
            });
            self.removed
                .extend(removed.map(|removed| (*group, removed)));
            if log.hard_state != HardState::default() {
                self.dormant.insert(*group, log.hard_state);
            }
        }
        let damaged = recovered.damaged.iter().copied().filter(is_own);
        let unknown = damaged.filter(|group| !self.quarantined.contains_key(group));
        self.condemned.extend(unknown);
        self.condemns_unknown = recovered.report.unattributed;
    }

    /// Takes in one thing that happened. What follows from it comes out of the next [`Worker::run`].
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Propose {
                group,
                command,
                waiter,
            } => self.propose(group, &command, waiter, now),
            Input::Mark { group, waiter } => self.mark(group, waiter, now),
            Input::Read { group, read } => self.read(group, read, now),
            Input::Frame { from, frame } => self.receive(from, frame, now),
            Input::Durable { sequence } => self.durable(sequence, now),
            Input::Applied { indexes, bytes } => self.applied(&indexes, bytes),
            Input::Fetched {
                group,
                purpose,
                entries,
            } => {
                if let Some(slot) = self.slot(group) {
                    self.groups[slot].raft.handle_fetched(purpose, entries);
                    self.touch(slot);
                }
            }
            Input::LogUnreadable { group, indexes } => self.log_unreadable(group, &indexes, now),
            Input::StateDamaged {
                group,
                pieces,
                is_stuck,
            } => self.state_damaged(group, pieces, is_stuck, now),
            Input::PeerLost { node } => self.peer_lost(node),
            Input::Campaign { group } => {
                if let Some(slot) = self.slot(group) {
                    self.groups[slot].raft.campaign(now);
                    self.touch(slot);
                }
            }
            Input::Compact {
                applied,
                without_tail,
            } => self.compact(&applied, &without_tail),
            Input::LogPressure { full } => self.log_is_full = full,
            Input::Status { reply } => reply(self.status()),
            Input::TransferLeadership { group, to } => self.transfer(group, to, now),
            Input::ChangeMembers {
                group,
                steps,
                waiter,
            } => self.change_members(group, &steps, waiter, now),
            Input::SnapshotPinned {
                group,
                peer,
                transfer,
                applied,
                conf_state,
            } => self.snapshot_pinned(group, peer, transfer, applied, conf_state),
            Input::SnapshotDelivered { group, peer } => self.snapshot_ended(group, peer, true),
            Input::SnapshotFailed { group, peer } => self.snapshot_ended(group, peer, false),
            Input::SnapshotOffered {
                group,
                from,
                sender,
                to,
                term,
                last,
            } => {
                let offer = Offer {
                    from,
                    sender,
                    to,
                    term,
                    last,
                };
                self.snapshot_offered(group, &offer);
            }
            Input::SnapshotStaged {
                from,
                message,
                record,
            } => self.snapshot_staged(from, *message, record, now),
            Input::LogHangs => self.leave_all(now),
            Input::Stop => self.stop(now),
        }
    }

    /// When the next deadline is, if any group has one.
    #[must_use]
    pub fn next_deadline(&mut self) -> Option<Instant> {
        let next = self.timers.next(|slot| self.groups[slot].deadline());
        match (next, self.notice_at) {
            (Some(next), Some(notice)) => Some(next.min(notice)),
            (next, notice) => next.or(notice),
        }
    }

    /// Whether every answer that was owed has been given and nothing waits for the log or the store.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.unapplied_bytes == 0
            && self.in_flight.is_empty()
            && self.groups.iter().all(Group::is_drained)
    }

    /// What the worker has counted.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Ends the cycle: steps what was touched and what is due, and gathers all that follows in `out`.
    ///
    /// `now` is read after the inputs were handed in, so that a message that arrived in time counts
    /// before the timeout that it prevents.
    pub fn run(&mut self, now: Instant, out: &mut Output) {
        while let Some(slot) = self
            .timers
            .pop_due(now, |slot| self.groups[slot].deadline())
        {
            self.leave_if_due(slot, now);
            self.groups[slot].raft.handle_timeout(now);
            self.touch(slot);
        }
        self.notify_lost(now);
        let has_frames =
            || !self.full_frames.is_empty() || self.frames.values().any(|frame| !frame.is_empty());
        if !self.has_work() && !has_frames() {
            return;
        }
        self.counters.cycles += 1;
        let mut in_flight = InFlight::default();
        let mut dirty = std::mem::take(&mut self.dirty);
        // Before the entries that follow them.
        out.apply.switches.append(&mut self.switches);
        for slot in dirty.drain(..) {
            self.groups[slot].is_dirty = false;
            self.gather(slot, &mut in_flight, now, out);
            self.timers.schedule(slot, self.groups[slot].deadline());
        }
        self.dirty = dirty;
        self.gather_compactions();
        self.gather_buried(&mut in_flight);
        self.seal(in_flight, now, out);
        out.apply.switches.append(&mut self.switches);
        out.snapshots.append(&mut self.orders);
        out.frames.append(&mut self.full_frames);
        for ((node, lane), builder) in &mut self.frames {
            if !builder.is_empty() {
                out.frames.push((*node, *lane, builder.finish()));
            }
        }
    }

    /// Puts the compactions into the batch. While the log is full they go in a batch without anything
    /// else, for only such a one is laid ahead of those that wait for the room that it makes.
    fn gather_compactions(&mut self) {
        if self.log_is_full && !self.batch.is_empty() {
            return;
        }
        for (group, position) in self.compactions.drain(..) {
            self.batch.compact(group, position);
        }
    }

    /// Asks one group for all that it wants now.
    fn gather(&mut self, slot: usize, in_flight: &mut InFlight, now: Instant, out: &mut Output) {
        if self.groups[slot].failure.is_some() {
            return self.discard_unused(slot); // It says and promises nothing any more.
        }
        self.repair(slot, now);
        let mut ready = std::mem::take(&mut self.ready);
        while self.groups[slot].raft.poll_ready(&mut ready) {
            for message in ready.messages.drain(..) {
                self.send(slot, &message);
            }
            if let Some(persist) = &ready.persist {
                if let Some(snapshot) = &persist.snapshot {
                    self.put_in_place(slot, snapshot, in_flight);
                }
                let group = &mut self.groups[slot];
                for entry in &persist.entries {
                    self.batch.append(entry);
                }
                // A commit hint alone is not worth a sync: it rides along with what follows.
                group.hint = persist.hard_state.or(group.hint);
                if persist.must_sync
                    && let Some(hard_state) = group.hint.take()
                {
                    self.batch.hard_state(group.id(), &hard_state);
                }
                let acknowledgement = (slot, persist.sequence, persist.term);
                self.waiting(in_flight)
                    .acknowledgements
                    .push(acknowledgement);
            }
            for message in ready.messages_after_durable.drain(..) {
                self.waiting(in_flight).messages.push((slot, message));
            }
            let group = &mut self.groups[slot];
            self.unapplied_bytes += group.hand_over(&mut ready, out);
            for peer in ready.snapshots.drain(..) {
                match group.node_of(peer) {
                    Some(to) => self.orders.push(SnapshotOrder::Wanted {
                        group: group.id(),
                        peer,
                        to,
                    }),
                    None => group.raft.handle_snapshot_failed(peer),
                }
            }
            for fetch in ready.fetches.drain(..) {
                let group = group.id();
                out.fetches.push(Fetch { group, fetch });
            }
            if ready.conf_state.take().is_some() {
                self.members_changed(slot, now);
            }
        }
        self.ready = ready;
        if self.groups[slot].raft.is_stopped() {
            // It would have to follow a change that it cannot read.
            self.lose(slot, Loss::NewerLog, now);
        }
        self.groups[slot].ask_if_alone(now, ASK_AFTER * self.config.election_timeout);
        self.discard_unused(slot);
    }

    /// Where something belongs that must wait until all that was handed out so far is durable: with the
    /// batch being built, or, if it is still empty, with the youngest one that the log has. If there
    /// is neither, `seal` finds it in `current` and lets it go at once.
    fn waiting<'a>(&'a mut self, current: &'a mut InFlight) -> &'a mut InFlight {
        if (self.batch.is_empty() && !mutant!(MessagesOvertakeSync))
            && let Some(youngest) = self.in_flight.back_mut()
        {
            return youngest;
        }
        current
    }

    fn seal(&mut self, mut in_flight: InFlight, now: Instant, out: &mut Output) {
        if self.batch.is_empty() {
            // Nothing waits for the log: what was handed out before is durable already.
            assert!(
                in_flight.messages.is_empty() || self.in_flight.is_empty(),
                "messages would overtake {} batches",
                self.in_flight.len()
            );
            self.release(in_flight, now);
            return;
        }
        in_flight.sequence = self.next_batch;
        in_flight.bytes = self.batch.bytes();
        self.next_batch += 1;
        self.unsynced_bytes += in_flight.bytes;
        out.log = Some(LogBatch {
            batch: self.batch.seal(),
            sequence: in_flight.sequence,
        });
        self.in_flight.push_back(in_flight);
    }

    fn durable(&mut self, sequence: u64, now: Instant) {
        while self
            .in_flight
            .front()
            .is_some_and(|batch| batch.sequence <= sequence)
        {
            let batch = self.in_flight.pop_front().expect("a front was just seen");
            self.unsynced_bytes -= batch.bytes;
            self.release(batch, now);
        }
    }

    /// Whether so much waits for the disk, to be synced or to be applied, that no more is taken (S11).
    fn is_backed_up(&self) -> bool {
        self.unapplied_bytes.max(self.unsynced_bytes) > self.config.max_backlog_bytes
            && !mutant!(BacklogUnbounded)
    }

    fn release(&mut self, batch: InFlight, now: Instant) {
        for (slot, message) in batch.messages {
            if self.groups[slot].failure.is_none() {
                self.send(slot, &message);
            }
        }
        for (slot, sequence, term) in batch.acknowledgements {
            self.groups[slot].raft.handle_durable(sequence, term, now);
            self.touch(slot);
        }
        self.switches.extend(batch.switches);
    }

    fn slot(&self, group: GroupId) -> Option<usize> {
        self.slots.get(&group).copied()
    }

    /// Marks a group for this cycle.
    fn touch(&mut self, slot: usize) {
        let group = &mut self.groups[slot];
        if !group.is_dirty {
            group.is_dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Whether [`Worker::run`] would find something to do without any input or deadline.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.dirty.is_empty()
            || !self.compactions.is_empty()
            || !self.batch.is_empty()
            || !self.orders.is_empty()
            || !self.switches.is_empty()
    }

    fn send(&mut self, slot: usize, message: &Message) {
        let group = &self.groups[slot];
        let Some(node) = group.node_of(message.to) else {
            return;
        };
        self.counters.messages += 1;
        let (id, lane) = (group.id(), Lane::of(message));
        let builder = self.frame_to(node, lane);
        builder.push(id, message);
        if builder.len() >= FRAME_BYTES {
            let frame = builder.finish();
            self.full_frames.push((node, lane, frame));
        }
    }

    fn frame_to(&mut self, node: NodeId, lane: Lane) -> &mut FrameBuilder {
        let frame = self.frames.entry((node, lane));
        frame.or_insert_with(|| FrameBuilder::new(self.origin))
    }

    fn applied(&mut self, indexes: &[(GroupId, LogIndex)], bytes: usize) {
        self.unapplied_bytes = self
            .unapplied_bytes
            .checked_sub(bytes)
            .expect("the apply stage gives back what it was handed");
        for (group, index) in indexes {
            let slot = self.slots[group];
            self.groups[slot].raft.handle_applied(*index);
            // At once: whoever asks for the next change must meet these members.
            self.groups[slot].members_changed();
            self.touch(slot);
            self.bury_if_done(slot);
        }
    }

    fn peer_lost(&mut self, node: NodeId) {
        for slot in 0..self.groups.len() {
            let Some(replica) = self.groups[slot].replica_on(node) else {
                continue;
            };
            self.groups[slot].raft.handle_unreachable(replica);
            self.touch(slot);
        }
    }

    /// Lets the log forget what is in a finished flush of the store here, but for what peers may still need of it.
    fn compact(&mut self, applied: &[(GroupId, LogIndex)], without_tail: &[GroupId]) {
        for (group, applied) in applied {
            let Some(slot) = self.slot(*group) else {
                continue;
            };
            let group = &mut self.groups[slot];
            let tail = if self.log_is_full || without_tail.binary_search(&group.id()).is_ok() {
                0
            } else {
                self.config.log_tail_entries
            };
            if let Some(position) = group.compact(*applied, tail) {
                self.compactions.push((group.id(), position));
            }
        }
    }

    /// The state of every group.
    #[must_use]
    pub fn status(&self) -> Vec<GroupStatus> {
        let known = |group: &&Group| !group.is_buried && group.is_initialised();
        let groups = self.groups.iter().filter(known).map(Group::status);
        let quarantined = self.quarantined.values().map(GroupStatus::quarantined);
        groups.chain(quarantined).collect()
    }
}
