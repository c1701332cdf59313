//! The replica: its state, what goes in, and what can be seen of it.
//!
//! The rules are in the modules beside this one, each a part of the same `impl`: elections in
//! `election`, the leader's half of replication in `leader`, the follower's half in `follower`, changes of
//! members in `membership`, snapshots in `snapshot`, what comes out in `poll`, and what can be seen in `view`.

use crate::config::{Config, ConfigError, MAX_PAYLOAD_BYTES, Restored};
use crate::durability::Durability;
use crate::error::{ProposeError, StepError};
use crate::lease::Lease;
use crate::log::Log;
use crate::message::{Message, MessageBody};
use crate::progress::{FetchState, Progress, ProgressMode};
use crate::read_index::ReadIndex;
use crate::ready::{AppendSequence, FetchPurpose, Snapshot};
use crate::rng::Rng;
use crate::transfer::Transfer;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use pontoon_types::{
    ConfChange, ConfState, Entry, EntryKind, Instant, LogIndex, LogPosition, ReplicaId, Term,
    mutant,
};

/// What a replica is in its term (Raft §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It follows a leader, or waits for one.
    Follower,
    /// It asks whether it could win an election (thesis §9.6).
    PreCandidate,
    /// It asks for votes.
    Candidate,
    /// It leads its term.
    Leader,
}

/// One replica of one group.
///
/// The contract is in the [crate's documentation](crate). Every call that takes `now` first moves the
/// replica's clock to it; a `now` before one seen earlier counts as that one.
#[derive(Clone, Debug)]
pub struct Raft {
    pub(crate) config: Config,
    /// The members as of `log.applied()`: a change takes effect when its entry is applied, and not before.
    pub(crate) conf: ConfState,
    /// The changes handed out to be applied, with their indexes, ascending.
    pub(crate) conf_changes: VecDeque<(LogIndex, ConfChange)>,
    /// The shell has not been told of `conf` yet.
    pub(crate) conf_is_news: bool,
    pub(crate) rng: Rng,
    /// The latest moment that anybody told.
    pub(crate) clock: Instant,

    /// Never falls. Spoken of only once it is durable; see `poll`.
    pub(crate) term: Term,
    /// Changes from `None` to a candidate at most once per term (S1).
    pub(crate) vote: Option<ReplicaId>,
    pub(crate) role: Role,
    /// The leader of `term`, if known.
    pub(crate) leader: Option<ReplicaId>,
    pub(crate) log: Log,
    pub(crate) durability: Durability,
    /// Everything up to here is committed and held durably by every member.
    pub(crate) matched_by_all: LogIndex,

    /// Until then no candidate gets this replica's vote that was not sent by the leader. An election
    /// timeout from when a leader, of whatever term, was last heard of; never falls. See `lease`.
    pub(crate) promised_until: Instant,
    /// The term whose leader has told this replica to campaign.
    pub(crate) told_in: Option<Term>,
    /// When a follower or candidate campaigns.
    pub(crate) election_deadline: Instant,
    /// It would campaign, but has a committed change of the members to apply first.
    pub(crate) campaign_waits: bool,
    /// When a leader sends Heartbeats.
    pub(crate) heartbeat_deadline: Instant,
    /// When a leader checks that it has heard a quorum since the last check.
    pub(crate) quorum_deadline: Instant,

    /// To whom a leader hands over.
    pub(crate) transfer: Option<Transfer>,
    pub(crate) lease: Lease,

    /// Answers to the present campaign, by voter.
    pub(crate) votes: Vec<(ReplicaId, bool)>,
    /// All other members, by id. Meaningful while leading.
    pub(crate) peers: Vec<Progress>,
    pub(crate) reads: ReadIndex,

    /// Messages that speak of term and vote and nothing else.
    pub(crate) outbox: Vec<Message>,
    /// The acknowledgement that the leader of `term` is owed; several Appends share one.
    pub(crate) ack: Option<Ack>,
    pub(crate) heartbeat_due: bool,
    /// A snapshot that the shell has not been told to put in place yet.
    pub(crate) snapshot: Option<Box<Snapshot>>,
    /// A quiet moment came, in which the commit hint may be stored for its own sake.
    pub(crate) hint_due: bool,
    pub(crate) apply_fetch: FetchState,
    /// Fetched entries that begin right after `log.applying()`, or none.
    pub(crate) apply_fetched: Vec<Entry>,
    /// The log contradicts the group's; see [`StepError::is_fatal`].
    pub(crate) stopped: bool,
    /// Nothing has come in since a poll that left nothing to be done.
    pub(crate) settled: bool,
}

/// An AppendResponse in the making.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Ack {
    pub(crate) to: ReplicaId,
    pub(crate) matched: LogIndex,
    pub(crate) read_round: u64,
}

impl Raft {
    /// A replica as its disk remembers it. It starts as a follower that knows no leader (Raft §5.2);
    /// entries that are committed and not yet applied come out of [`Raft::poll_ready`] at once.
    ///
    /// # Errors
    /// If the settings cannot work or `restored` is not the state of a replica.
    pub fn new(config: Config, restored: Restored, now: Instant) -> Result<Self, ConfigError> {
        config.validate()?;
        let log = restored.log()?;
        let conf = restored.conf_state;
        let peers = conf.members().into_iter().filter(|id| *id != config.id);
        let mut raft = Self {
            rng: Rng::new(config.seed, config.group.0, config.id.0),
            clock: now,
            term: restored.hard_state.term,
            vote: restored.hard_state.vote,
            role: Role::Follower,
            leader: None,
            log,
            durability: Durability::new(restored.hard_state),
            matched_by_all: LogIndex::ZERO,
            promised_until: now,
            told_in: None,
            election_deadline: now,
            campaign_waits: false,
            heartbeat_deadline: now,
            quorum_deadline: now,
            transfer: None,
            lease: Lease::default(),
            votes: Vec::new(),
            peers: peers.map(Progress::new).collect(),
            reads: ReadIndex::default(),
            outbox: Vec::new(),
            ack: None,
            heartbeat_due: false,
            snapshot: None,
            hint_due: false,
            apply_fetch: FetchState::Idle,
            apply_fetched: Vec::new(),
            stopped: false,
            settled: false,
            conf_changes: VecDeque::new(),
            conf_is_news: false,
            conf,
            config,
        };
        raft.restart_election_timer();
        // What an earlier life has promised is not on the disk, but its term is, and who was never in one has
        // promised nothing.
        if raft.config.lease && raft.term > Term::ZERO && !mutant!(RestartForgetsPromise) {
            raft.promised_until = now + raft.config.election_timeout;
        }
        Ok(raft)
    }

    /// Takes a message.
    ///
    /// # Errors
    /// If it is not one that a correct replica sends to this one; then nothing has changed, unless
    /// [`StepError::is_fatal`] says that the replica has stopped.
    pub fn step(&mut self, message: Message, now: Instant) -> Result<(), StepError> {
        self.observe(now);
        if self.stopped {
            return Err(StepError::Stopped { id: self.config.id });
        }
        self.check(&message)?;
        let Message {
            from, term, body, ..
        } = message;
        if term < self.term {
            self.answer_older_term(from, &body);
            return Ok(());
        }
        if term > self.term && !self.meet_newer_term(from, term, &body) {
            return Ok(());
        }
        match body {
            MessageBody::RequestVote {
                last,
                pre,
                transfer,
            } => {
                self.handle_request_vote(from, term, last, pre, transfer);
                Ok(())
            }
            MessageBody::VoteResponse {
                granted,
                pre,
                committed,
            } => {
                self.learn_committed(committed);
                self.handle_vote_response(from, term, granted, pre);
                Ok(())
            }
            MessageBody::Append {
                previous,
                commit,
                matched_by_all,
                read_round,
                entries,
            } => {
                self.follow(from)?;
                self.handle_append(from, previous, commit, read_round, entries)?;
                self.learn_matched_by_all(matched_by_all);
                Ok(())
            }
            MessageBody::Heartbeat {
                commit,
                matched_by_all,
                read_round,
            } => {
                self.follow(from)?;
                self.handle_heartbeat(from, commit, read_round)?;
                self.learn_matched_by_all(matched_by_all);
                Ok(())
            }
            MessageBody::InstallSnapshot { last, conf_state } => {
                self.follow(from)?;
                let conf_state = *conf_state;
                self.handle_install_snapshot(from, Snapshot { last, conf_state })
            }
            MessageBody::AppendResponse {
                matched,
                read_round,
            } => self.handle_append_response(from, matched, read_round),
            MessageBody::AppendRejected {
                rejected,
                hint,
                read_round,
            } => self.handle_append_rejected(from, rejected, hint, read_round),
            MessageBody::HeartbeatResponse { read_round } => {
                self.handle_heartbeat_response(from, read_round)
            }
            MessageBody::TimeoutNow => {
                self.follow(from)?;
                self.handle_timeout_now();
                Ok(())
            }
            MessageBody::ReadIndex { asker } => {
                self.handle_read_index(from, asker);
                Ok(())
            }
            MessageBody::ReadIndexResponse { asker, index } => {
                self.handle_read_index_response(from, asker, index)
            }
        }
    }

    /// Appends a command. Its bytes are encoded here, once; it leaves with the next
    /// [`Raft::poll_ready`], together with everything else that was proposed until then.
    ///
    /// The position tells its fate: if an entry of that index *and term* is applied, it was this one; if
    /// one of another term is, it was not and never will be.
    ///
    /// # Errors
    /// If it was not appended.
    pub fn propose(&mut self, payload: &[u8], now: Instant) -> Result<LogPosition, ProposeError> {
        self.propose_as(EntryKind::Command, payload, now)
    }

    /// Appends a mark: an entry that changes nothing, at whose index all replicas can be compared.
    ///
    /// # Errors
    /// If it was not appended.
    pub fn propose_mark(&mut self, now: Instant) -> Result<LogPosition, ProposeError> {
        self.propose_as(EntryKind::Mark, &[], now)
    }

    /// Appends an entry that changes nothing. Once it is committed in its term, this replica knows that it still led when it
    /// proposed it, and that whatever was committed by others until then is before it.
    ///
    /// # Errors
    /// If it was not appended.
    pub fn propose_empty(&mut self, now: Instant) -> Result<LogPosition, ProposeError> {
        self.propose_as(EntryKind::Empty, &[], now)
    }

    fn propose_as(
        &mut self,
        kind: EntryKind,
        payload: &[u8],
        now: Instant,
    ) -> Result<LogPosition, ProposeError> {
        self.observe(now);
        self.may_propose(payload)?;
        let uncommitted_bytes = self.log.uncommitted_bytes();
        let limit_bytes = self.config.max_uncommitted_bytes;
        let after = uncommitted_bytes + pontoon_types::ENTRY_HEADER_BYTES + payload.len();
        if uncommitted_bytes > 0 && after > limit_bytes {
            return Err(ProposeError::Overloaded {
                uncommitted_bytes,
                limit_bytes,
            });
        }
        Ok(self.append(kind, payload))
    }

    /// What holds for proposals of every kind.
    pub(crate) fn may_propose(&self, payload: &[u8]) -> Result<(), ProposeError> {
        if self.stopped {
            return Err(ProposeError::Stopped);
        }
        if self.role != Role::Leader {
            let leader = self.leader;
            return Err(ProposeError::NotLeader { leader });
        }
        if let Some(Transfer { to, .. }) = self.transfer
            && !mutant!(ProposalsDuringTransfer)
        {
            return Err(ProposeError::Transferring { to });
        }
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(ProposeError::TooLarge {
                payload_bytes: payload.len(),
                limit_bytes: MAX_PAYLOAD_BYTES,
            });
        }
        Ok(())
    }

    /// Does what is due. Early calls are harmless, late ones only make the group slower.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.observe(now);
        if self.stopped {
            return;
        }
        let clock = self.clock;
        let fetches = self.peers.iter_mut().map(|peer| &mut peer.fetch);
        for fetch in fetches.chain([&mut self.apply_fetch]) {
            if matches!(*fetch, FetchState::Backoff(until) if until <= clock) {
                *fetch = FetchState::Idle;
            }
        }
        if self.role == Role::Leader {
            self.handle_leader_timeout();
        } else if self.election_deadline <= clock {
            self.start_campaign();
        }
    }

    /// When [`Raft::handle_timeout`] is next wanted, if nothing comes in before. May be in the past.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.stopped {
            return None;
        }
        let role = if self.role == Role::Leader {
            let quorum = self.config.check_quorum.then_some(self.quorum_deadline);
            let transfer = self.transfer.map(|transfer| transfer.deadline);
            let heartbeat = (!self.peers.is_empty()).then_some(self.heartbeat_deadline);
            let quorum = quorum.filter(|_| heartbeat.is_some());
            heartbeat.into_iter().chain(quorum).chain(transfer).min()
        } else {
            let waits = self.is_voter() || self.reads.waiting() > 0;
            waits.then_some(self.election_deadline)
        };
        let fetches = self.peers.iter().map(|peer| peer.fetch);
        fetches
            .chain([self.apply_fetch])
            .filter_map(|fetch| match fetch {
                FetchState::Backoff(until) => Some(until),
                FetchState::Idle | FetchState::Outstanding => None,
            })
            .chain(role)
            .min()
    }

    /// Everything handed out up to and including the [`Persist`](crate::Persist) of this sequence and
    /// term is durable. Only now does it count: as this replica's part of a quorum, as its own vote, as
    /// something that it may apply.
    ///
    /// # Panics
    /// If no such [`Persist`](crate::Persist) was handed out: whoever says so lost track of its disk.
    pub fn handle_durable(&mut self, sequence: AppendSequence, term: Term, now: Instant) {
        let was_settled = self.settled;
        let was_candidate = self.role == Role::Candidate;
        self.observe(now);
        let Some(last) = self.durability.acknowledge(sequence, term) else {
            return;
        };
        self.log.durable_to(last);
        if self.stopped {
            return;
        }
        match self.role {
            Role::Leader => self.advance_commit(),
            // The candidate's own vote, no earlier than it would count anybody else's (S6).
            Role::Candidate if self.durability.covers(self.term, self.vote) => {
                self.count_vote(self.config.id, true);
            }
            Role::Candidate | Role::PreCandidate | Role::Follower => {}
        }
        self.evict();
        // Whoever waited for this has it already; what follows from it is that more may be applied, or an election.
        let has_more = !self.has_handed_out_committed() && !mutant!(StaysSettled);
        self.settled = was_settled && !was_candidate && !has_more;
    }

    /// The state machine has applied everything up to `index`, or has the state of a snapshot that
    /// ends there.
    ///
    /// # Panics
    /// If that was never handed out, or is a snapshot that is not durable yet.
    pub fn handle_applied(&mut self, index: LogIndex) {
        self.log.applied_to(index);
        self.apply_conf_changes(index);
        if self.campaign_waits && !self.stopped && !self.awaits_conf_change() {
            self.start_campaign();
            self.settled = false;
        }
        // A joint configuration may be left as soon as nothing stands in the way that may be another change.
        let may_leave = self.conf.is_joint() && !mutant!(StaysSettled);
        self.settled &= !self.conf_is_news && !may_leave;
        self.evict();
    }

    /// The leader of `term` was heard of in another way than by a message of this group.
    /// Hearsay of other terms or other leaders is ignored: only the group's own messages settle those.
    pub fn handle_leader_contact(&mut self, leader: ReplicaId, term: Term, now: Instant) {
        self.observe(now);
        if !self.stopped && term == self.term && self.leader == Some(leader) {
            self.hear_leader();
        }
    }

    /// `peer` was heard of in another way than by a message of this group, and follows this leader in
    /// `term`.
    pub fn handle_peer_contact(&mut self, peer: ReplicaId, term: Term, now: Instant) {
        self.observe(now);
        if self.role == Role::Leader
            && term == self.term
            && let Some(peer) = self.peer_mut(peer)
        {
            peer.active = true;
        }
    }

    /// The answer to a [`Fetch`](crate::Fetch): entries from its `from` on, maybe fewer than were asked
    /// for, none if they cannot be read. Without entries it is asked again a heartbeat interval later.
    pub fn handle_fetched(&mut self, purpose: FetchPurpose, mut entries: Vec<Entry>) {
        self.settled = false;
        let retry = FetchState::Backoff(self.clock + self.config.heartbeat_interval);
        let log = &self.log;
        match purpose {
            FetchPurpose::Apply if self.apply_fetch == FetchState::Outstanding => {
                let from = LogIndex(log.applying().0 + 1);
                let usable = !entries.is_empty() && log.holds(&entries, from, log.appliable());
                self.apply_fetch = if usable { FetchState::Idle } else { retry };
                if usable {
                    self.apply_fetched = entries;
                }
            }
            FetchPurpose::Send(id) if self.role == Role::Leader => {
                let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == id) else {
                    return;
                };
                if peer.fetch != FetchState::Outstanding {
                    return; // The answer to an earlier leadership's fetch.
                }
                // What was asked for may have been sent or skipped since: then ask for what is next.
                let skipped = entries.iter().take_while(|entry| entry.index() < peer.next);
                let skipped = skipped.count();
                let came = !entries.is_empty();
                entries.drain(..skipped);
                let usable = came && log.holds(&entries, peer.next, log.last_index());
                peer.fetch = if usable { FetchState::Idle } else { retry };
                if usable {
                    peer.fetched = entries;
                }
            }
            FetchPurpose::Apply | FetchPurpose::Send(_) => {}
        }
    }

    /// Messages to `peer` were lost: what is in flight to it will not be answered.
    pub fn handle_unreachable(&mut self, peer: ReplicaId) {
        self.settled = false;
        if self.role == Role::Leader
            && let Some(peer) = self.peer_mut(peer)
        {
            peer.unreachable();
        }
    }

    /// The log no longer holds anything up to `up_to`. What is not applied is kept in any case.
    pub fn compact(&mut self, up_to: LogIndex) {
        self.settled = false;
        self.log.compact(up_to);
    }

    pub(crate) fn observe(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
        self.settled = false;
    }

    pub(crate) fn is_voter(&self) -> bool {
        self.conf.is_voter(self.config.id)
    }

    pub(crate) fn peer(&self, id: ReplicaId) -> Option<&Progress> {
        let at = self.peers.binary_search_by_key(&id, |peer| peer.id).ok()?;
        self.peers.get(at)
    }

    pub(crate) fn peer_mut(&mut self, id: ReplicaId) -> Option<&mut Progress> {
        let at = self.peers.binary_search_by_key(&id, |peer| peer.id).ok()?;
        self.peers.get_mut(at)
    }

    /// Queues a message about term and vote.
    pub(crate) fn say(&mut self, to: ReplicaId, term: Term, body: MessageBody) {
        let from = self.config.id;
        self.outbox.push(Message {
            from,
            to,
            term,
            body,
        });
    }

    /// The log contradicts its group's: this replica says and does nothing more (DESIGN §3.5).
    pub(crate) fn stop(&mut self, reason: StepError) -> StepError {
        self.become_follower(self.term, None);
        self.stopped = true;
        self.outbox.clear();
        self.ack = None;
        reason
    }

    /// Entries stay in memory for peers that are fed as entries come. Who is away, or only begins, is fed from the log, and
    /// a follower feeds nobody: so a group costs memory only while it is busy.
    pub(crate) fn evict(&mut self) {
        let fed = self.peers.iter();
        let fed =
            fed.filter(|peer| self.role == Role::Leader && peer.mode == ProgressMode::Pipeline);
        let had_by_all = fed.map(|peer| peer.matched).min();
        let soft = self.config.max_cached_bytes;
        let hard = soft.saturating_add(self.config.max_uncommitted_bytes);
        self.log
            .evict(had_by_all.unwrap_or(LogIndex(u64::MAX)), soft, hard);
    }
}
