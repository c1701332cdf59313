//! One replica with its disk and its state machine.

use super::clock::Clock;
use super::{ELECTION, HEARTBEAT};
use pontoon_raft::{
    Config, ConfigError, Fetch, FetchPurpose, Message, Persist, Raft, ReadReady, Ready, Restored,
    Snapshot,
};
use pontoon_types::{
    ConfChange, ConfState, Entry, EntryKind, GroupId, HardState, Instant, LogIndex, LogPosition,
    ReplicaId, Term,
};
use std::collections::{BTreeMap, VecDeque};

pub(crate) fn position(term: u64, index: u64) -> LogPosition {
    LogPosition {
        term: Term(term),
        index: LogIndex(index),
    }
}

/// How a replica starts.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) config: Config,
    pub(crate) conf_state: ConfState,
    /// The terms of the entries from index 1 on.
    pub(crate) log: Vec<u64>,
    pub(crate) term: u64,
    pub(crate) vote: u64,
    pub(crate) commit: u64,
    pub(crate) applied: u64,
}

impl Options {
    pub(crate) fn voters(voters: impl IntoIterator<Item = u64>) -> Self {
        Self::members(ConfState::of_voters(voters.into_iter().map(ReplicaId)))
    }

    pub(crate) fn members(conf_state: ConfState) -> Self {
        let mut config = Config::new(GroupId(1), ReplicaId(1));
        config.election_timeout = ELECTION;
        config.heartbeat_interval = HEARTBEAT;
        config.pre_vote = false;
        config.check_quorum = false;
        Self {
            config,
            conf_state,
            log: Vec::new(),
            term: 0,
            vote: 0,
            commit: 0,
            applied: 0,
        }
    }

    pub(crate) fn pre_vote(mut self, on: bool) -> Self {
        self.config.pre_vote = on;
        self
    }

    pub(crate) fn check_quorum(mut self, on: bool) -> Self {
        self.config.check_quorum = on;
        self
    }

    /// With leases, and what they need.
    pub(crate) fn lease(mut self, on: bool) -> Self {
        self.config.lease = on;
        self.config.check_quorum |= on;
        self
    }

    /// A log, in a term that is at least its last entry's.
    pub(crate) fn log(mut self, terms: &[u64]) -> Self {
        self.log = terms.to_vec();
        self.term = self.term.max(terms.last().copied().unwrap_or(0));
        self
    }

    pub(crate) fn hard_state(mut self, term: u64, vote: u64, commit: u64) -> Self {
        (self.term, self.vote, self.commit) = (term, vote, commit);
        self
    }
}

/// The bytes that survive.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    /// Index 1 is at 0. What is compacted away is kept here for those who check, and for nobody else.
    pub(crate) log: Vec<Entry>,
    /// Where the log begins.
    pub(crate) compacted: LogPosition,
    /// The last flush of the state machine.
    pub(crate) machine: Machine,
}

/// A state machine that remembers all that it was ever given, and who its group's members are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    pub(crate) state: Vec<Entry>,
    pub(crate) conf_state: ConfState,
}

impl Machine {
    pub(crate) fn applied(&self) -> LogIndex {
        LogIndex(self.state.len() as u64)
    }

    /// Where its state ends.
    pub(crate) fn last(&self) -> LogPosition {
        self.state.last().map(Entry::position).unwrap_or_default()
    }

    fn apply(&mut self, entry: Entry) {
        assert_eq!(entry.index(), self.applied().next(), "I9: out of order");
        if entry.kind() == EntryKind::ConfChange {
            let change = ConfChange::decode(entry.payload()).unwrap();
            if let Ok(next) = self.conf_state.apply(&change) {
                self.conf_state = next;
            }
        }
        self.state.push(entry);
    }
}

impl Disk {
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        let at = usize::try_from(index.0).unwrap().checked_sub(1)?;
        self.log.get(at).map(Entry::term)
    }

    /// `staged` has the state of the snapshot that is put in place, if one is.
    fn write(&mut self, persist: &Persist, staged: &BTreeMap<LogPosition, Machine>) {
        if let Some(Snapshot { last, conf_state }) = persist.snapshot.as_deref() {
            let machine = staged.get(last).expect("a snapshot whose data never came");
            assert_eq!(&machine.conf_state, conf_state, "members of {last:?}");
            self.machine = machine.clone();
            self.log = machine.state.clone();
            self.compacted = *last;
        }
        if let Some(state) = persist.hard_state {
            assert!(state.term >= self.hard_state.term, "I5: {state:?}");
            assert!(
                state.term > self.hard_state.term
                    || self
                        .hard_state
                        .vote
                        .is_none_or(|vote| state.vote == Some(vote)),
                "I6: {state:?} after {:?}",
                self.hard_state
            );
            self.hard_state = state;
        }
        for entry in &persist.entries {
            let before = usize::try_from(entry.index().0).unwrap() - 1;
            assert!(before <= self.log.len(), "a hole before {entry:?}");
            self.log.truncate(before);
            self.log.push(entry.clone());
        }
    }

    fn restored(&self) -> Restored {
        let mut terms: Vec<(LogIndex, Term)> = Vec::new();
        for entry in &self.log[self.compacted.index.0 as usize..] {
            if terms.last().is_none_or(|(_, term)| *term != entry.term()) {
                terms.push((entry.index(), entry.term()));
            }
        }
        Restored {
            hard_state: self.hard_state,
            conf_state: self.machine.conf_state.clone(),
            compacted: self.compacted,
            terms,
            last: LogIndex(self.log.len() as u64),
            applied: self.machine.applied(),
        }
    }
}

/// Why a replica does not start.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StartError {
    /// Recovery has found damage in its log: it may have forgotten what it promised.
    Quarantined,
    /// The core refuses what recovery has found.
    Config(ConfigError),
}

/// An append on its way to the disk, and what waits for it.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) persist: Persist,
    pub(crate) then: Vec<Message>,
}

pub(crate) struct Node {
    pub(crate) id: u64,
    config: Config,
    /// `None` while it is down.
    pub(crate) raft: Option<Raft>,
    pub(crate) disk: Disk,
    pub(crate) pending: VecDeque<Pending>,
    pub(crate) disk_held: bool,
    pub(crate) apply_held: bool,
    pub(crate) clock: Clock,
    /// The process stands still.
    pub(crate) paused: bool,
    /// What came for it meanwhile.
    pub(crate) unread: Vec<Message>,
    /// The disk has lost what was durable.
    pub(crate) damaged: bool,
    /// Recovery has noticed.
    pub(crate) quarantined: bool,
    /// What the state machine was given in this incarnation.
    pub(crate) machine: Vec<Entry>,
    /// The state machine as it is in memory.
    pub(crate) memory: Machine,
    /// The states of the snapshots that have come, by where they end.
    pub(crate) staged: BTreeMap<LogPosition, Machine>,
    /// Peers for whom a snapshot is wanted and not taken yet.
    pub(crate) snapshots_asked: Vec<ReplicaId>,
    /// Snapshots are taken only when somebody says so.
    pub(crate) snapshots_held: bool,
    pub(crate) reads: Vec<ReadReady>,
    pub(crate) refused: Vec<u64>,
    /// The first index that was replaced on the disk, if any was.
    pub(crate) first_overwritten: Option<LogIndex>,
}

impl Node {
    pub(crate) fn new(id: u64, options: Options, now: Instant) -> Result<Self, StartError> {
        let mut config = options.config;
        config.id = ReplicaId(id);
        let entry = |(at, term): (usize, &u64)| {
            let position = position(*term, at as u64 + 1);
            // Equal positions must hold equal entries.
            let LogPosition { term, index } = position;
            let payload = format!("{term}/{index}");
            let payload = payload.as_bytes();
            Entry::encode(config.group, term, index, EntryKind::Command, payload)
        };
        let mut disk = Disk {
            hard_state: HardState {
                term: Term(options.term),
                vote: (options.vote != 0).then_some(ReplicaId(options.vote)),
                commit: LogIndex(options.commit),
            },
            log: options.log.iter().enumerate().map(entry).collect(),
            ..Disk::default()
        };
        disk.machine.conf_state = options.conf_state;
        disk.machine.state = disk.log[..options.applied as usize].to_vec();
        let mut node = Self {
            id,
            config,
            raft: None,
            disk,
            pending: VecDeque::new(),
            disk_held: false,
            apply_held: false,
            clock: Clock::default(),
            paused: false,
            unread: Vec::new(),
            damaged: false,
            quarantined: false,
            machine: Vec::new(),
            memory: Machine::default(),
            staged: BTreeMap::new(),
            snapshots_asked: Vec::new(),
            snapshots_held: false,
            reads: Vec::new(),
            refused: Vec::new(),
            first_overwritten: None,
        };
        node.start(now)?;
        Ok(node)
    }

    /// Everything that the state machine was ever given, as far as it has not lost it.
    pub(crate) fn state(&self) -> impl Iterator<Item = &Entry> {
        self.memory.state.iter()
    }

    pub(crate) fn raft(&self) -> &Raft {
        self.raft.as_ref().expect("the replica is down")
    }

    /// When it wants to be called, in true time.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        let raft = self.raft.as_ref().filter(|_| !self.paused)?;
        raft.next_deadline().map(|at| self.clock.shows_at(at))
    }

    /// The terms of the log, from its first entry on.
    pub(crate) fn log_terms(&self) -> Vec<u64> {
        let raft = self.raft();
        let indexes = raft.first_index().0..=raft.last_position().index.0;
        indexes
            .map(|index| raft.term_at(LogIndex(index)).unwrap().0)
            .collect()
    }

    pub(crate) fn start(&mut self, now: Instant) -> Result<(), StartError> {
        if self.quarantined {
            return Err(StartError::Quarantined);
        }
        let restored = self.disk.restored();
        self.config.incarnation += 1;
        self.machine.clear();
        self.memory = self.disk.machine.clone();
        let raft = Raft::new(self.config.clone(), restored, now);
        self.raft = Some(raft.map_err(StartError::Config)?);
        Ok(())
    }

    pub(crate) fn crash(&mut self, written: usize) {
        for pending in self.pending.drain(..).take(written) {
            self.disk.write(&pending.persist, &self.staged);
        }
        self.pending.clear();
        self.staged.clear();
        self.snapshots_asked.clear();
        self.unread.clear();
        self.paused = false;
        self.raft = None;
        self.reads.clear();
        self.refused.clear();
    }

    /// The state machine flushes what it has applied.
    pub(crate) fn flush(&mut self) {
        self.disk.machine = self.memory.clone();
    }

    /// The log lets go of its front, as far as the state machine has flushed what it says.
    pub(crate) fn compact(&mut self, up_to: LogIndex) {
        let up_to = up_to.min(self.disk.machine.applied());
        if let Some(entry) = up_to
            .previous()
            .and_then(|at| self.disk.log.get(at.0 as usize))
            && up_to > self.disk.compacted.index
        {
            self.disk.compacted = entry.position();
            self.raft.as_mut().unwrap().compact(up_to);
        }
    }

    pub(crate) fn apply(&mut self, entry: Entry) {
        self.memory.apply(entry.clone());
        self.machine.push(entry);
    }

    pub(crate) fn acknowledge_applied(&mut self) {
        if let Some(raft) = self.raft.as_mut() {
            raft.handle_applied(self.memory.applied());
            // A snapshot brings its members before its state is in place.
            if raft.first_index() <= self.memory.applied().next() {
                assert_eq!(raft.conf_state(), &self.memory.conf_state, "the members");
            }
        }
    }

    /// Queues what has to reach the disk.
    pub(crate) fn take(&mut self, ready: &mut Ready) {
        if let Some(persist) = ready.persist.take() {
            let then = Vec::new();
            self.pending.push_back(Pending { persist, then });
        }
        if !ready.messages_after_durable.is_empty() {
            let last = self.pending.back_mut();
            let last = last.expect("messages wait, and nothing is on its way to the disk");
            assert!(
                last.persist.must_sync,
                "messages wait for a bare commit hint"
            );
            last.then.append(&mut ready.messages_after_durable);
        }
    }

    /// Writes the oldest pending append; returns the messages that it lets go.
    pub(crate) fn sync_one(&mut self, now: Instant) -> Option<Vec<Message>> {
        let Pending { persist, then } = self.pending.pop_front()?;
        if let Some(first) = persist.entries.first().map(Entry::index)
            && first.0 <= self.disk.log.len() as u64
        {
            let earlier = self.first_overwritten.unwrap_or(first);
            self.first_overwritten = Some(first.min(earlier));
        }
        self.disk.write(&persist, &self.staged);
        if persist.snapshot.is_some() {
            // Durable, and so in place: nothing was handed out since that comes after it.
            self.memory = self.disk.machine.clone();
        }
        let raft = self
            .raft
            .as_mut()
            .expect("a process that is down cannot write");
        raft.handle_durable(persist.sequence, persist.term, now);
        if !self.apply_held {
            self.acknowledge_applied();
        }
        Some(then)
    }

    /// Answers a fetch from the disk.
    pub(crate) fn serve(&mut self, fetch: Fetch) {
        let Fetch {
            purpose,
            from,
            to,
            max_bytes,
        } = fetch;
        assert!(from <= to, "a fetch of nothing: {fetch:?}");
        assert!(
            from > self.disk.compacted.index,
            "{fetch:?} of what is gone"
        );
        let (first, last) = (from.0 as usize - 1, to.0 as usize);
        let mut bytes = 0;
        let wanted = self.disk.log.get(first..last).unwrap_or_default().iter();
        let entries = wanted.take_while(|entry| {
            bytes += entry.encoded_len();
            bytes <= max_bytes || bytes == entry.encoded_len()
        });
        let entries: Vec<Entry> = entries.cloned().collect();
        if purpose == FetchPurpose::Apply {
            assert!(!entries.is_empty(), "{fetch:?} of what is not durable");
        }
        let raft = self
            .raft
            .as_mut()
            .expect("a process that is down does not ask");
        raft.handle_fetched(purpose, entries);
    }
}
