//! A group in a bottle: replicas, their disks, the messages between them, and the time, all moved by
//! hand.
//!
//! Verbs are those that a plain-text script would use: add, campaign, propose, deliver, drop, hold,
//! process, make durable, crash, restart, advance. Every one of them ends with a check of all invariants.

// Each of the test binaries that share this uses its own part of it.
#![allow(dead_code)]

mod clock;
mod dice;
mod invariants;
mod node;

pub(crate) use dice::Dice;
pub(crate) use node::{Machine, Node, Options, StartError, position};

use invariants::Invariants;
use pontoon_raft::{
    Message, MessageBody, ProposeError, Raft, ReadError, Ready, Role, Snapshot, StepError,
    TransferError,
};
use pontoon_types::{
    ConfChange, ConfState, Entry, EntryKind, GroupId, Instant, LogIndex, LogPosition, ReplicaId,
    Term,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// The election timeout of every replica here.
pub(crate) const ELECTION: Duration = Duration::from_millis(1000);
/// The heartbeat interval of every replica here.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(100);

/// A unit of time for those who count instead of measure: ten to an election timeout.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// What kind of message a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Append,
    AppendResponse,
    AppendRejected,
    Heartbeat,
    HeartbeatResponse,
    RequestVote,
    VoteResponse,
    InstallSnapshot,
    TimeoutNow,
    ReadIndex,
    ReadIndexResponse,
}

impl Kind {
    pub(crate) const ALL: [Self; 11] = [
        Self::Append,
        Self::AppendResponse,
        Self::AppendRejected,
        Self::Heartbeat,
        Self::HeartbeatResponse,
        Self::RequestVote,
        Self::VoteResponse,
        Self::InstallSnapshot,
        Self::TimeoutNow,
        Self::ReadIndex,
        Self::ReadIndexResponse,
    ];
}

pub(crate) fn kind(message: &Message) -> Kind {
    match message.body {
        MessageBody::Append { .. } => Kind::Append,
        MessageBody::AppendResponse { .. } => Kind::AppendResponse,
        MessageBody::AppendRejected { .. } => Kind::AppendRejected,
        MessageBody::Heartbeat { .. } => Kind::Heartbeat,
        MessageBody::HeartbeatResponse { .. } => Kind::HeartbeatResponse,
        MessageBody::RequestVote { .. } => Kind::RequestVote,
        MessageBody::VoteResponse { .. } => Kind::VoteResponse,
        MessageBody::InstallSnapshot { .. } => Kind::InstallSnapshot,
        MessageBody::TimeoutNow => Kind::TimeoutNow,
        MessageBody::ReadIndex { .. } => Kind::ReadIndex,
        MessageBody::ReadIndexResponse { .. } => Kind::ReadIndexResponse,
    }
}

/// What happens to a message that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Drop,
    Hold,
}

/// Sorts messages out as they leave; `None` matches everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) from: Option<u64>,
    pub(crate) to: Option<u64>,
    pub(crate) kind: Option<Kind>,
    pub(crate) fate: Fate,
}

impl Rule {
    fn matches(&self, message: &Message) -> bool {
        self.from.is_none_or(|id| message.from.0 == id)
            && self.to.is_none_or(|id| message.to.0 == id)
            && self.kind.is_none_or(|of| kind(message) == of)
    }
}

/// What a client was told of its write.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    /// Whom it asked.
    pub(crate) asked: u64,
    pub(crate) entry: Entry,
    /// Whether it still waits there for an answer.
    pub(crate) waits: bool,
    pub(crate) acknowledged: bool,
}

#[derive(Default)]
pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) now: Instant,
    /// In the order in which they left.
    pub(crate) network: Vec<Message>,
    /// What a rule held back.
    pub(crate) held: Vec<Message>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) invariants: Invariants,
    /// Messages that were delivered, for counting.
    pub(crate) delivered: Vec<Message>,
    /// The states of all snapshots ever taken, by where they end.
    taken: BTreeMap<LogPosition, Machine>,
    /// Snapshots that were put in place.
    pub(crate) installed: u64,
    /// All that was proposed and taken.
    pub(crate) writes: Vec<Write>,
    /// Reads that were answered at a replica that did not lead.
    pub(crate) forwarded: u64,
    next_payload: u64,
    ready: Ready,
}

impl Cluster {
    /// Fresh voters 1..=n.
    pub(crate) fn fresh(voters: u64) -> Self {
        Self::with(voters, |options| options)
    }

    /// Voters 1..=n with these options.
    pub(crate) fn with(voters: u64, options: impl Fn(Options) -> Options) -> Self {
        let mut cluster = Self::default();
        for id in 1..=voters {
            cluster.add(id, options(Options::voters(1..=voters)));
        }
        cluster
    }

    pub(crate) fn add(&mut self, id: u64, options: Options) {
        self.add_unchecked(id, options).unwrap();
        self.check();
    }

    /// Adds a node to a group that is not all there yet, so that what its log says is committed need not
    /// be on a quorum's disks.
    pub(crate) fn add_unchecked(&mut self, id: u64, options: Options) -> Result<(), StartError> {
        let node = Node::new(id, options, self.now)?;
        self.nodes.insert(id, node);
        Ok(())
    }

    pub(crate) fn node(&self, id: u64) -> &Node {
        &self.nodes[&id]
    }

    pub(crate) fn raft(&self, id: u64) -> &Raft {
        self.nodes[&id].raft()
    }

    fn alive(&mut self, id: u64) -> Option<&mut Raft> {
        self.nodes.get_mut(&id).unwrap().raft.as_mut()
    }

    /// What the clock of this replica shows.
    pub(crate) fn clock(&self, id: u64) -> Instant {
        self.nodes[&id].clock.read(self.now)
    }

    // What goes in.

    pub(crate) fn campaign(&mut self, id: u64) {
        let now = self.clock(id);
        self.alive(id).unwrap().campaign(now);
        self.check();
    }

    pub(crate) fn propose(&mut self, id: u64) -> Result<LogPosition, ProposeError> {
        self.next_payload += 1;
        let payload = self.next_payload.to_be_bytes();
        self.propose_bytes(id, &payload)
    }

    pub(crate) fn propose_bytes(
        &mut self,
        id: u64,
        payload: &[u8],
    ) -> Result<LogPosition, ProposeError> {
        let now = self.clock(id);
        let proposed = self.alive(id).unwrap().propose(payload, now);
        if let Ok(LogPosition { term, index }) = proposed {
            self.writes.push(Write {
                asked: id,
                entry: Entry::encode(GroupId(1), term, index, EntryKind::Command, payload),
                waits: true,
                acknowledged: false,
            });
        }
        self.check();
        proposed
    }

    /// Asks for a read, and remembers what it has to see.
    pub(crate) fn read_index(&mut self, id: u64, context: u64) -> Result<(), ReadError> {
        let now = self.clock(id);
        let asked = self.alive(id).unwrap().read_index(context, now);
        self.read_asked(id, context, asked)
    }

    /// The same of a replica that may have to ask its leader.
    pub(crate) fn forward_read_index(&mut self, id: u64, context: u64) -> Result<(), ReadError> {
        let now = self.clock(id);
        let asked = self.alive(id).unwrap().forward_read_index(context, now);
        self.read_asked(id, context, asked)
    }

    fn read_asked(
        &mut self,
        id: u64,
        context: u64,
        asked: Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        if asked.is_ok() {
            self.invariants.read_asked(id, context);
        }
        self.check();
        asked
    }

    pub(crate) fn transfer_leadership(&mut self, id: u64, to: u64) -> Result<(), TransferError> {
        let now = self.clock(id);
        let raft = self.alive(id).unwrap();
        let asked = raft.transfer_leadership(ReplicaId(to), now);
        self.check();
        asked
    }

    pub(crate) fn propose_conf_change(
        &mut self,
        id: u64,
        change: &ConfChange,
    ) -> Result<LogPosition, ProposeError> {
        let now = self.clock(id);
        let raft = self.alive(id).unwrap();
        let proposed = raft.propose_conf_change(change, now);
        self.check();
        proposed
    }

    /// Lets go of the log up to `index`, as far as the state machine has flushed; it is flushed first.
    /// The connection from `id` to `peer` breaks.
    pub(crate) fn unreachable(&mut self, id: u64, peer: u64) {
        if let Some(raft) = self.alive(id) {
            raft.handle_unreachable(ReplicaId(peer));
        }
    }

    pub(crate) fn compact(&mut self, id: u64, index: LogIndex) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.flush();
        node.compact(index);
        self.check();
    }

    /// Takes the snapshots that were asked for, of what is applied, and sends them.
    pub(crate) fn take_snapshots(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.acknowledge_applied();
        for peer in std::mem::take(&mut node.snapshots_asked) {
            let node = self.nodes.get_mut(&id).unwrap();
            let snapshot = Snapshot {
                last: node.memory.last(),
                conf_state: node.memory.conf_state.clone(),
            };
            let taken = node.memory.clone();
            let raft = node.raft.as_mut().unwrap();
            if let Some(message) = raft.handle_snapshot_taken(peer, snapshot) {
                self.taken.insert(taken.last(), taken);
                self.post(message);
            }
        }
        self.check();
    }

    /// The state up to a position that some log holds, for messages that a test makes up.
    fn history(&self, last: LogPosition, conf_state: &ConfState) -> Option<Machine> {
        let disks = self.nodes.values().map(|node| &node.disk);
        let mut holders = disks.filter(|disk| disk.term_at(last.index) == Some(last.term));
        let log = holders.next()?.log.get(..last.index.0 as usize)?;
        Some(Machine {
            state: log.to_vec(),
            conf_state: conf_state.clone(),
        })
    }

    /// Loses the message at `at`.
    pub(crate) fn lose(&mut self, at: usize) {
        let message = self.network.remove(at);
        self.lost(&message);
    }

    /// Who sends a snapshot hears of it when it does not arrive.
    pub(crate) fn lost(&mut self, message: &Message) {
        if kind(message) == Kind::InstallSnapshot
            && let Some(raft) = self.alive(message.from.0)
        {
            raft.handle_snapshot_failed(message.to);
        }
    }

    pub(crate) fn step(&mut self, message: Message) -> Result<(), StepError> {
        let to = message.to.0;
        if let MessageBody::InstallSnapshot { last, conf_state } = &message.body {
            let taken = self.taken.get(last).cloned();
            let machine = taken.or_else(|| self.history(*last, conf_state));
            let node = self.nodes.get_mut(&to).unwrap();
            node.staged.extend(machine.map(|machine| (*last, machine)));
        }
        let now = self.clock(to);
        let result = match self.alive(to) {
            Some(raft) => raft.step(message, now),
            None => Ok(()),
        };
        self.check();
        result
    }

    // The network.

    pub(crate) fn rule(
        &mut self,
        from: Option<u64>,
        to: Option<u64>,
        kind: Option<Kind>,
        fate: Fate,
    ) {
        self.rules.push(Rule {
            from,
            to,
            kind,
            fate,
        });
    }

    pub(crate) fn drop_kind(&mut self, from: u64, to: u64, kind: Kind) {
        self.rule(Some(from), Some(to), Some(kind), Fate::Drop);
    }

    /// Cuts both ways between two replicas.
    pub(crate) fn cut(&mut self, one: u64, other: u64) {
        self.rule(Some(one), Some(other), None, Fate::Drop);
        self.rule(Some(other), Some(one), None, Fate::Drop);
    }

    /// Cuts a replica off from all others.
    pub(crate) fn isolate(&mut self, id: u64) {
        self.rule(Some(id), None, None, Fate::Drop);
        self.rule(None, Some(id), None, Fate::Drop);
    }

    /// Removes all rules; what was held stays held.
    pub(crate) fn heal(&mut self) {
        self.rules.clear();
    }

    /// Puts what was held back onto the network.
    pub(crate) fn release(&mut self) {
        self.network.append(&mut self.held);
    }

    fn post(&mut self, message: Message) {
        self.invariants.left(&message, &self.nodes);
        match self.rules.iter().find(|rule| rule.matches(&message)) {
            Some(rule) if rule.fate == Fate::Hold => self.held.push(message),
            Some(_) => self.lost(&message),
            None if !self.nodes.contains_key(&message.to.0) => self.lost(&message),
            None => self.network.push(message),
        }
    }

    /// Delivers the message at `at`; it must be taken without an error.
    pub(crate) fn deliver(&mut self, at: usize) {
        let message = self.network.remove(at);
        let shown = format!("{message:?}");
        match self.hand_over(message) {
            // One that has stopped is as good as one that is down.
            Ok(()) | Err(StepError::Stopped { .. }) => {}
            Err(error) => panic!("{shown}: {error}"),
        }
    }

    /// Brings a message to whom it is for; it waits there while the process is paused.
    pub(crate) fn hand_over(&mut self, message: Message) -> Result<(), StepError> {
        let node = self.nodes.get_mut(&message.to.0).unwrap();
        if node.paused {
            node.unread.push(message);
            return Ok(());
        }
        self.delivered.push(message.clone());
        if kind(&message) == Kind::InstallSnapshot {
            let arrives = self.node(message.to.0).raft.is_some();
            match self.alive(message.from.0) {
                Some(raft) if arrives => raft.handle_snapshot_delivered(message.to),
                Some(raft) => raft.handle_snapshot_failed(message.to),
                None => {}
            }
        }
        self.step(message)
    }

    pub(crate) fn deliver_all(&mut self) {
        while !self.network.is_empty() {
            self.deliver(0);
        }
    }

    pub(crate) fn delivered(&self, of: Kind, from: u64, to: u64) -> usize {
        let matching = self
            .delivered
            .iter()
            .filter(|message| kind(message) == of && message.from.0 == from && message.to.0 == to);
        matching.count()
    }

    // What comes out.

    /// Takes all outputs: messages leave, appends go to the disk, entries are applied, fetches are
    /// answered. Appends become durable at once unless the node's disk is held. Returns whether there
    /// was anything.
    pub(crate) fn process(&mut self, id: u64) -> bool {
        let mut any = false;
        for _ in 0..100_000 {
            let acted = self.take_outputs(id);
            let node = self.node(id);
            let synced = !node.disk_held && !node.paused && self.make_durable(id, usize::MAX);
            if !acted && !synced {
                return any;
            }
            any = true;
        }
        panic!("replica {id} does not come to rest");
    }

    /// One Ready. Appends stay pending.
    pub(crate) fn take_outputs(&mut self, id: u64) -> bool {
        if self.node(id).paused {
            return false;
        }
        let mut ready = std::mem::take(&mut self.ready);
        let Some(raft) = self.alive(id) else {
            self.ready = ready;
            return false;
        };
        let any = raft.poll_ready(&mut ready);
        let messages: Vec<Message> = ready.messages.drain(..).collect();
        for message in messages {
            self.post(message);
        }
        let read_indexes: Vec<_> = ready.reads.drain(..).collect();
        let leads = self.raft(id).role() == Role::Leader;
        for read in read_indexes {
            self.forwarded += u64::from(!leads);
            self.invariants.read_answered(id, read);
            self.nodes.get_mut(&id).unwrap().reads.push(read);
        }
        let node = self.nodes.get_mut(&id).unwrap();
        node.refused.append(&mut ready.reads_refused);
        node.take(&mut ready);
        for entry in ready.committed.drain(..) {
            self.invariants.applied(id, &entry);
            for write in self.writes.iter_mut().filter(|write| write.asked == id) {
                write.acknowledged |= write.waits && write.entry == entry;
            }
            node.apply(entry);
        }
        if !node.apply_held {
            node.acknowledge_applied();
        }
        for fetch in ready.fetches.drain(..) {
            node.serve(fetch);
        }
        node.snapshots_asked.append(&mut ready.snapshots);
        let takes = !node.snapshots_held && !node.snapshots_asked.is_empty();
        self.ready = ready;
        if takes {
            self.take_snapshots(id);
        }
        self.check();
        any
    }

    /// Writes up to `count` pending appends and acknowledges them; what waited for them leaves.
    pub(crate) fn make_durable(&mut self, id: u64, count: usize) -> bool {
        let mut any = false;
        for _ in 0..count {
            let now = self.clock(id);
            let node = self.nodes.get_mut(&id).unwrap();
            let next = node.pending.front();
            let installs = next.is_some_and(|next| next.persist.snapshot.is_some());
            let Some(messages) = node.sync_one(now) else {
                break;
            };
            self.installed += u64::from(installs);
            any = true;
            for message in messages {
                self.post(message);
            }
            let node = &self.nodes[&id];
            self.invariants.installed(id, node.memory.applied());
            self.check();
        }
        any
    }

    /// Processes and delivers until nothing is left to do.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            let ids: Vec<u64> = self.nodes.keys().copied().collect();
            let mut acted = false;
            for id in ids {
                acted |= self.process(id);
            }
            if self.network.is_empty() && !acted {
                return;
            }
            self.deliver_all();
        }
        panic!("the group does not come to rest");
    }

    // Time.

    /// Moves time, stopping at every deadline on the way and settling there.
    pub(crate) fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        self.settle();
        while self.now < end {
            let deadlines = self.nodes.values().filter_map(Node::wakes_at);
            let next = deadlines.min().unwrap_or(Instant::FAR_FUTURE);
            self.now = next.max(self.now).min(end);
            self.fire_timeouts();
            self.settle();
            if next <= self.now && self.now < end {
                // A deadline that stays due, a non-voter's for one, must not stop time.
                self.now = self.now + Duration::from_micros(1);
            }
        }
    }

    pub(crate) fn fire_timeouts(&mut self) {
        for node in self.nodes.values_mut() {
            let now = node.clock.read(self.now);
            if let Some(raft) = node.raft.as_mut()
                && !node.paused
                && raft.next_deadline().is_some_and(|at| at <= now)
            {
                raft.handle_timeout(now);
            }
        }
        self.check();
    }

    /// Stops a process where it is: time and the network go on without it.
    pub(crate) fn pause(&mut self, id: u64) {
        self.nodes.get_mut(&id).unwrap().paused = true;
    }

    /// Lets a process go on. What has come for it meanwhile is what the network delivers next.
    pub(crate) fn resume(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.paused = false;
        let unread = std::mem::take(&mut node.unread);
        self.network.splice(0..0, unread);
    }

    // Crashes.

    /// Ends a process. Of what was pending the first `written` appends reach the disk all the same,
    /// unacknowledged; the rest, and all that waited for it, is gone.
    pub(crate) fn crash(&mut self, id: u64, written: usize) {
        self.nodes.get_mut(&id).unwrap().crash(written);
        for write in self.writes.iter_mut().filter(|write| write.asked == id) {
            write.waits = false;
        }
        self.check();
    }

    pub(crate) fn restart(&mut self, id: u64) {
        self.try_restart(id).unwrap();
    }

    /// Starts a replica from what is durable, if that can be; ends it first if it runs.
    pub(crate) fn try_restart(&mut self, id: u64) -> Result<(), StartError> {
        self.crash(id, 0);
        let now = self.clock(id);
        let node = self.nodes.get_mut(&id).unwrap();
        node.start(now)?;
        let durable = node.disk.hard_state;
        self.invariants.restarted(id, &durable);
        self.check();
        Ok(())
    }

    pub(crate) fn check(&mut self) {
        self.invariants.check(&self.nodes);
    }

    // Observers.

    pub(crate) fn leaders(&self) -> Vec<u64> {
        let leads = |node: &&Node| {
            node.raft
                .as_ref()
                .is_some_and(|raft| raft.role() == Role::Leader)
        };
        self.nodes
            .values()
            .filter(leads)
            .map(|node| node.id)
            .collect()
    }

    /// The leader of the highest term.
    pub(crate) fn leader(&self) -> Option<u64> {
        let leaders = self.leaders().into_iter();
        leaders.max_by_key(|id| self.raft(*id).term())
    }

    pub(crate) fn terms(&self) -> Vec<u64> {
        self.nodes
            .values()
            .map(|node| node.raft().term().0)
            .collect()
    }

    pub(crate) fn commits(&self) -> Vec<u64> {
        self.nodes
            .values()
            .map(|node| node.raft().commit().0)
            .collect()
    }
}

pub(crate) fn message(from: u64, to: u64, term: u64, body: MessageBody) -> Message {
    Message {
        from: ReplicaId(from),
        to: ReplicaId(to),
        term: Term(term),
        body,
    }
}

pub(crate) fn index(of: u64) -> LogIndex {
    LogIndex(of)
}
