//! The leader's half of replication: appending, feeding peers, committing, confirming reads
//! (Raft §5.3, §5.4.2; thesis §6.4, §10.2).

use crate::error::StepError;
use crate::message::{Entries, Message, MessageBody};
use crate::progress::{FetchState, Progress, ProgressMode};
use crate::quorum::{Tally, agreed, tally};
use crate::raft::{Raft, Role};
use crate::ready::{Fetch, FetchPurpose, Ready};
use alloc::vec::Vec;
use pontoon_types::{Entry, EntryKind, Instant, LogIndex, LogPosition, ReplicaId, mutant};

impl Raft {
    /// Appends an entry of this term to the own log; a leader never removes any (S1's companion,
    /// Raft figure 3, "Leader Append-Only").
    pub(crate) fn append(&mut self, kind: EntryKind, payload: &[u8]) -> LogPosition {
        let index = self.log.last_index().next();
        let entry = Entry::encode(self.config.group, self.term, index, kind, payload);
        self.log.push(entry);
        self.log.last()
    }

    pub(crate) fn handle_append_response(
        &mut self,
        from: ReplicaId,
        matched: LogIndex,
        read_round: u64,
    ) -> Result<(), StepError> {
        let (first, last) = (self.first_index(), self.log.last_index());
        let (commit, now) = (self.log.commit(), self.clock);
        let Some(peer) = self.answering_peer(from, read_round)? else {
            return Ok(());
        };
        if matched > last {
            return Err(StepError::Malformed {
                from,
                what: "it matches more than there is",
            });
        }
        let before = peer.matched;
        peer.accepted(matched, first);
        if peer.matched > before {
            peer.got_on(commit, now);
        }
        self.advance_commit();
        self.evict();
        self.confirm_round();
        Ok(())
    }

    pub(crate) fn handle_append_rejected(
        &mut self,
        from: ReplicaId,
        rejected: LogIndex,
        hint: LogPosition,
        read_round: u64,
    ) -> Result<(), StepError> {
        // The follower skipped the terms it has and the leader lacks; here the leader skips those it
        // has and the follower lacks. Each rejection so disposes of at least one term.
        let agree = self.log.last_within(hint.index, hint.term).index;
        if let Some(peer) = self.answering_peer(from, read_round)? {
            peer.rejected(rejected, agree);
            self.confirm_round();
        }
        Ok(())
    }

    pub(crate) fn handle_heartbeat_response(
        &mut self,
        from: ReplicaId,
        read_round: u64,
    ) -> Result<(), StepError> {
        let last = self.log.last_index();
        if let Some(peer) = self.answering_peer(from, read_round)? {
            peer.answered(last);
            self.confirm_round();
        }
        Ok(())
    }

    /// The peer that answers in this term, which proves that it followed this leader when it received
    /// what it answers. `None` if nobody is asking.
    fn answering_peer(
        &mut self,
        from: ReplicaId,
        read_round: u64,
    ) -> Result<Option<&mut Progress>, StepError> {
        if self.role != Role::Leader {
            return Ok(None);
        }
        if read_round > self.reads.round() {
            return Err(StepError::Malformed {
                from,
                what: "it answers a round that has not begun",
            });
        }
        let Some(peer) = self.peer_mut(from) else {
            return Ok(None);
        };
        peer.active = true;
        peer.read_round = peer.read_round.max(read_round);
        Ok(Some(peer))
    }

    /// Commits what a quorum holds durably, the leader included only as far as its own disk is.
    pub(crate) fn advance_commit(&mut self) {
        let id = self.config.id;
        let durable = if mutant!(LeaderCountsUnsynced) {
            self.log.last_index()
        } else {
            self.log.durable()
        };
        let held = |voter| {
            if voter == id {
                durable
            } else {
                self.peer(voter).map_or(LogIndex::ZERO, |peer| peer.matched)
            }
        };
        if self.log.commit() < self.log.last_index() {
            let index = agreed(&self.conf, held);
            // Counting replicas commits only entries of the own term; older ones follow with them
            // (S5; Raft §5.4.2, figure 8).
            let is_own = self.log.term_at(index) == Some(self.term) || mutant!(CountsOldTerms);
            if index > self.log.commit() && is_own {
                self.log.commit_to(index);
            }
        }
        let held_by_peers = self.peers.iter().map(|peer| peer.matched).min();
        let held_by_all = held_by_peers.map_or(durable, |index| index.min(durable));
        self.learn_matched_by_all(held_by_all);
    }

    /// Sees how far a quorum, itself included, has answered rounds, for the reads and the lease that wait
    /// for it.
    pub(crate) fn confirm_round(&mut self) {
        if !self.reads.awaits_confirmation() && !self.lease.awaits_confirmation() {
            return;
        }
        let (id, round) = (self.config.id, self.reads.round());
        let answered = |voter| {
            if voter == id {
                round
            } else {
                self.peer(voter).map_or(0, |peer| peer.read_round)
            }
        };
        let confirmed = if mutant!(ReadsUnconfirmed) {
            round
        } else {
            agreed(&self.conf, answered)
        };
        self.reads.confirm(confirmed);
        self.lease.confirm(confirmed, self.clock);
    }

    /// The next multiple of the interval on the node's clock: all groups of a node speak at the same
    /// moments, so that their Heartbeats share a frame and a wake-up.
    pub(crate) fn next_heartbeat(&self) -> Instant {
        let interval = u64::try_from(self.config.heartbeat_interval.as_nanos()).unwrap_or(u64::MAX);
        let beats = self.clock.as_nanos() / interval + 1;
        Instant::from_nanos(beats.saturating_mul(interval))
    }

    pub(crate) fn handle_leader_timeout(&mut self) {
        if self.heartbeat_deadline <= self.clock {
            self.heartbeat_deadline = self.next_heartbeat();
            self.heartbeat_due = true;
            self.hint_due = true;
            if let Some(transfer) = &mut self.transfer {
                transfer.told = false;
            }
        }
        self.give_up_transfer_if_due();
        if self.config.check_quorum && self.quorum_deadline <= self.clock {
            self.quorum_deadline = self.clock + self.config.election_timeout;
            self.check_quorum();
        }
    }

    /// Steps down if no quorum has been heard since the last check: then somebody else may lead by now,
    /// and whoever waits here should learn it (thesis §6.2).
    fn check_quorum(&mut self) {
        let id = self.config.id;
        let heard = |voter| {
            let active = voter == id || self.peer(voter).is_some_and(|peer| peer.active);
            active.then_some(true)
        };
        if tally(&self.conf, heard) == Tally::Won {
            for peer in &mut self.peers {
                peer.active = false;
            }
        } else {
            self.become_follower(self.term, None);
        }
    }

    /// What a leader has to say: a round of reads, Heartbeats, Appends.
    pub(crate) fn lead(&mut self, ready: &mut Ready) {
        // A leader won by votes that were counted after its own was durable, so nothing it says has to
        // wait for its own disk (S6).
        assert!(
            self.durability.covers(self.term, self.vote) || mutant!(OwnVoteUnsynced),
            "leading term {} before it is durable",
            self.term
        );
        self.leave_joint_if_due();
        self.begin_reads();
        self.tell_transferee();
        if core::mem::take(&mut self.heartbeat_due) {
            self.renew_lease();
            self.send_heartbeats(&mut ready.messages);
        }
        self.confirm_round();
        self.answer_forwarded();
        for at in 0..self.peers.len() {
            self.feed(at, ready);
        }
        self.ask_for_snapshots(ready);
    }

    /// Serves the reads that were asked, or begins a round for them.
    fn begin_reads(&mut self) {
        // A new leader does not know how far its predecessors committed until it has committed an entry
        // of its own (thesis §6.4).
        let knows_commit = self.has_committed_own() || mutant!(ReadsBeforeOwnCommit);
        let commit = self.log.commit();
        if self.reads.are_asked() && self.holds_lease(self.clock) {
            self.reads.confirm_asked(commit);
        } else if knows_commit && self.reads.begin_round(commit) {
            self.heartbeat_due = true;
        }
    }

    fn send_heartbeats(&self, messages: &mut Vec<Message>) {
        for peer in &self.peers {
            let body = MessageBody::Heartbeat {
                // Further on the peer's log may not be this one.
                commit: if mutant!(HeartbeatsCommitUnmatched) {
                    self.log.commit()
                } else {
                    self.log.commit().min(peer.matched)
                },
                matched_by_all: self.matched_by_all,
                read_round: self.reads.round(),
            };
            messages.push(Message {
                from: self.config.id,
                to: peer.id,
                term: self.term,
                body,
            });
        }
    }

    /// Sends a peer as much as it may be sent.
    fn feed(&mut self, at: usize, ready: &mut Ready) {
        let Self {
            config, log, peers, ..
        } = self;
        let Some(peer) = peers.get_mut(at) else {
            return;
        };
        let last = log.last_index();
        while peer.mode != ProgressMode::Snapshot {
            let wanted = peer.next <= last && peer.may_send(config);
            if !wanted && !peer.probe_due {
                return;
            }
            let index = LogIndex(peer.next.0 - 1);
            let Some(term) = log.term_at(index) else {
                peer.needs_snapshot();
                return;
            };
            let mut entries = Entries::new();
            if wanted && peer.next >= log.first_cached() {
                log.copy_cached(peer.next, last, config.max_append_bytes, &mut entries);
            } else if wanted && !peer.fetched.is_empty() {
                entries = core::mem::take(&mut peer.fetched).into();
            } else if wanted && peer.mode == ProgressMode::Pipeline {
                if peer.fetch == FetchState::Idle {
                    peer.fetch = FetchState::Outstanding;
                    ready.fetches.push(Fetch {
                        purpose: FetchPurpose::Send(peer.id),
                        from: peer.next,
                        to: LogIndex(log.first_cached().0 - 1),
                        max_bytes: config.max_append_bytes,
                    });
                }
                if !peer.probe_due {
                    return;
                }
            }
            // A probe of cold entries goes empty: where the logs agree is worth knowing before the disk
            // is asked.
            let last_sent = entries.last().map(Entry::index);
            let bytes = entries.iter().map(Entry::encoded_len).sum();
            ready.messages.push(Message {
                from: config.id,
                to: peer.id,
                term: self.term,
                body: MessageBody::Append {
                    previous: LogPosition { term, index },
                    commit: log.commit(),
                    matched_by_all: self.matched_by_all,
                    read_round: self.reads.round(),
                    entries,
                },
            });
            peer.sent(last_sent, bytes);
        }
    }
}
