//! What comes out: one [`Ready`] for all that happened since the last.
//!
//! Here it is decided what may leave at once and what waits for the disk (S6):
//!
//! - A leader's messages leave at once. Its term is durable, and entries are not promises.
//! - Everything else carries a term, and maybe a vote, and waits until both are durable.
//! - An acknowledgement waits until the entries that it acknowledges are durable as well.

use crate::message::{Message, MessageBody};
use crate::progress::{FetchState, Progress, ProgressMode};
use crate::raft::{Raft, Role};
use crate::ready::{Fetch, FetchPurpose, Persist, Ready};
use pontoon_types::{Entry, HardState, LogIndex, mutant};

/// Whether a poll that could be spared is made all the same, to see that it brings nothing.
const VERIFIES_SETTLED: bool = cfg!(debug_assertions) || mutant::ARE_LOOKED_FOR;

impl Raft {
    /// Clears `ready` and fills it with all that is to be done. Returns whether there is anything.
    ///
    /// What is handed out is considered done, except that the calls named at each part of [`Ready`]
    /// report its end. A shell that drops a [`Persist`] must not use this replica any more.
    pub fn poll_ready(&mut self, ready: &mut Ready) -> bool {
        ready.clear();
        let is_settled = self.settled;
        if is_settled && !VERIFIES_SETTLED {
            return false;
        }
        if !self.stopped {
            match self.role {
                Role::Leader => self.lead(ready),
                Role::Follower => self.forward_reads(),
                Role::Candidate | Role::PreCandidate => {}
            }
            self.persist(ready);
            self.release(ready);
            self.hand_out_committed(ready);
        }
        if core::mem::take(&mut self.conf_is_news) {
            ready.conf_state = Some(self.conf.clone());
        }
        self.reads
            .hand_out(&mut ready.reads, &mut ready.reads_refused);
        // Everything is taken whole, except that what is to be applied comes in batches, and a snapshot is asked
        // for again after a while.
        let waits = |peer: &Progress| peer.mode == ProgressMode::Snapshot;
        self.settled = self.has_handed_out_committed() && !self.peers.iter().any(waits);
        let is_empty = ready.is_empty();
        assert!(is_empty || !is_settled, "settled, and yet: {ready:?}");
        !is_empty
    }

    fn persist(&mut self, ready: &mut Ready) {
        let state = HardState {
            term: self.term,
            vote: self.vote,
            commit: self.log.commit(),
        };
        let stored = self.durability.offered();
        let must_sync = (state.term, state.vote) != (stored.term, stored.vote)
            || self.snapshot.is_some()
            || self.log.offered() < self.log.last_index();
        // A commit index travels with whatever is stored anyway; by itself it goes only in quiet moments.
        let lone_hint = self.hint_due && state != stored && !self.durability.awaits_sync();
        self.hint_due = false;
        if !must_sync && !lone_hint {
            return;
        }
        let mut entries = core::mem::take(&mut ready.spare);
        self.log.offer(&mut entries);
        let last = self.log.last_index();
        let sequence = self.durability.hand_out(state, last, must_sync);
        ready.persist = Some(Persist {
            sequence,
            term: self.term,
            hard_state: (state != stored).then_some(state),
            snapshot: self.snapshot.take(),
            entries,
            must_sync,
        });
    }

    /// Sorts what was said into what may leave now and what waits.
    fn release(&mut self, ready: &mut Ready) {
        let covered = self.durability.covers(self.term, self.vote)
            || mutant!(VotesUnsynced)
            || mutant!(OwnVoteUnsynced) && self.role == Role::Candidate;
        if self.outbox.is_empty() {
            // Nearly always, while entries flow.
        } else if covered {
            ready.messages.append(&mut self.outbox);
        } else {
            ready.messages_after_durable.append(&mut self.outbox);
        }
        if let Some(ack) = self.ack.take() {
            let message = Message {
                from: self.config.id,
                to: ack.to,
                term: self.term,
                body: MessageBody::AppendResponse {
                    matched: ack.matched,
                    read_round: ack.read_round,
                },
            };
            let is_durable = ack.matched <= self.log.durable() || mutant!(AcknowledgesUnsynced);
            if covered && is_durable {
                ready.messages.push(message);
            } else {
                ready.messages_after_durable.push(message);
            }
        }
    }

    /// Whether all that may be applied was handed out.
    pub(crate) fn has_handed_out_committed(&self) -> bool {
        self.log.applying() >= self.log.appliable()
    }

    fn hand_out_committed(&mut self, ready: &mut Ready) {
        let max_bytes = self.config.max_apply_bytes;
        let (from, to) = (LogIndex(self.log.applying().0 + 1), self.log.appliable());
        if from > to || self.log.applier_is_full(max_bytes) {
            return;
        }
        let first_cached = self.log.first_cached();
        if from >= first_cached {
            self.log
                .copy_cached(from, to, max_bytes, &mut ready.committed);
        } else if !self.apply_fetched.is_empty() {
            ready.committed.append(&mut self.apply_fetched);
        } else if self.apply_fetch == FetchState::Idle {
            self.apply_fetch = FetchState::Outstanding;
            ready.fetches.push(Fetch {
                purpose: FetchPurpose::Apply,
                from,
                to: to.min(LogIndex(first_cached.0 - 1)),
                max_bytes,
            });
        }
        self.note_handed_out(&mut ready.committed);
        if let Some(last) = ready.committed.last() {
            let last = last.index();
            let bytes = ready.committed.iter().map(Entry::encoded_len).sum();
            self.log.hand_out(last, bytes);
        }
    }
}
