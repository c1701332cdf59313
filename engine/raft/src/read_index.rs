//! Linearizable reads without writing: ReadIndex (thesis §6.4).
//!
//! A read is safe at the commit index of the moment it was asked, once it is certain that the replica
//! was still the leader at some moment after that. Certainty comes in *rounds*: reads wait; the next
//! [`Raft::poll_ready`](crate::Raft::poll_ready) begins a round for all of them; every Append and
//! Heartbeat carries the number of the latest round and answers repeat it. A quorum of answers to a
//! round confirms all reads that were asked before it began, and no others: what was sent before a read
//! was asked says nothing about the time after. A leader that holds a `lease` is certain without a round.
//!
//! A follower forwards its reads in rounds of its own: one message says "whatever I was asked up to now", and
//! the leader treats that like a read of its own and answers with the index. A lost message or answer is made
//! up for with a later Heartbeat, by which the follower also knows that there is still somebody to ask.

use crate::error::{ReadError, StepError};
use crate::message::{ForwardedRound, MessageBody};
use crate::raft::{Raft, Role};
use crate::ready::ReadReady;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use pontoon_types::{Instant, LogIndex, ReplicaId, mutant};

/// Reads that may wait in a group at one time (S11).
pub(crate) const MAX_WAITING_READS: usize = 1 << 16;

/// Who waits for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Asker {
    /// This replica's shell, by what it calls the read.
    Here(u64),
    /// A follower.
    Peer(ReplicaId, ForwardedRound),
}

#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct ReadIndex {
    /// The latest round that has begun in this leadership; 0 if none has. On a follower, the latest that it has
    /// forwarded.
    round: u64,
    /// When a follower last asked its leader.
    forwarded_at: Instant,
    /// Asked since the last round began. One place per follower: its latest round covers those before.
    asked: Vec<Asker>,
    /// Waiting for their round to be confirmed, oldest first. The index is the leader's to know.
    pending: VecDeque<(u64, LogIndex, Asker)>,
    /// Confirmed and not yet handed out.
    ready: Vec<ReadReady>,
    /// Confirmed for followers and not yet sent.
    answers: Vec<(ReplicaId, ForwardedRound, LogIndex)>,
    /// Refused and not yet handed out.
    refused: Vec<u64>,
}

impl ReadIndex {
    pub(crate) fn round(&self) -> u64 {
        self.round
    }

    pub(crate) fn waiting(&self) -> usize {
        self.asked.len() + self.pending.len()
    }

    fn ask(&mut self, context: u64) {
        self.asked.push(Asker::Here(context));
    }

    fn ask_for(&mut self, peer: ReplicaId, forwarded: ForwardedRound) {
        self.asked
            .retain(|asker| !matches!(asker, Asker::Peer(id, _) if *id == peer));
        self.asked.push(Asker::Peer(peer, forwarded));
    }

    pub(crate) fn are_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Begins a round if reads wait for one. `commit` is at least what it was when they were asked.
    pub(crate) fn begin_round(&mut self, commit: LogIndex) -> bool {
        if self.asked.is_empty() {
            return false;
        }
        self.round += u64::from(self.round == 0 || !mutant!(RoundsShared));
        let round = self.round;
        let asked = self.asked.drain(..);
        self.pending
            .extend(asked.map(|asker| (round, commit, asker)));
        true
    }

    /// Begins a round for which no read waits.
    pub(crate) fn next_round(&mut self) -> u64 {
        self.round += 1;
        self.round
    }

    pub(crate) fn awaits_confirmation(&self) -> bool {
        !self.pending.is_empty()
    }

    /// A quorum has answered `round`, and with it every earlier one.
    pub(crate) fn confirm(&mut self, round: u64) {
        while let Some(&(of, index, asker)) = self.pending.front()
            && of <= round
        {
            self.pending.pop_front();
            self.serve(asker, index);
        }
    }

    /// The leader holds a lease, which confirms what was asked until now.
    pub(crate) fn confirm_asked(&mut self, commit: LogIndex) {
        for asker in core::mem::take(&mut self.asked) {
            self.serve(asker, commit);
        }
    }

    /// The leader has answered what was forwarded up to `round`.
    fn answered(&mut self, round: u64, index: LogIndex) {
        for (_, at, _) in self.pending.iter_mut().take_while(|(of, ..)| *of <= round) {
            *at = index;
        }
        self.confirm(round);
    }

    fn serve(&mut self, asker: Asker, index: LogIndex) {
        match asker {
            Asker::Here(context) => self.ready.push(ReadReady { context, index }),
            Asker::Peer(peer, forwarded) => self.answers.push((peer, forwarded, index)),
        }
    }

    /// Nothing that waits will be confirmed. Reads confirmed before stay so. Followers find out by themselves.
    pub(crate) fn refuse_all(&mut self) {
        let asked = self.asked.drain(..);
        let pending = self.pending.drain(..).map(|(.., asker)| asker);
        let here = asked.chain(pending).filter_map(|asker| match asker {
            Asker::Here(context) => Some(context),
            Asker::Peer(..) => None,
        });
        self.refused.extend(here);
        self.answers.clear();
    }

    /// A leadership begins, and with it the count of rounds: answers carry the term, so those to an
    /// earlier leadership's rounds are told apart.
    pub(crate) fn restart(&mut self) {
        self.refuse_all();
        self.round = 0;
    }

    pub(crate) fn hand_out(&mut self, reads: &mut Vec<ReadReady>, refused: &mut Vec<u64>) {
        if self.ready.is_empty() && self.refused.is_empty() {
            return; // Nearly always.
        }
        reads.append(&mut self.ready);
        refused.append(&mut self.refused);
    }
}

impl Raft {
    /// Asks for an index at which a read is linearizable. Answered in
    /// [`Ready::reads`](crate::Ready::reads) or [`Ready::reads_refused`](crate::Ready::reads_refused)
    /// with the same `context`, after at least one exchange with a quorum, which the next
    /// [`Raft::poll_ready`] begins; at once if the leader holds a lease.
    ///
    /// # Errors
    /// If it cannot be asked here.
    pub fn read_index(&mut self, context: u64, now: Instant) -> Result<(), ReadError> {
        self.observe(now);
        if self.role != Role::Leader && !self.stopped {
            let leader = self.leader;
            return Err(ReadError::NotLeader { leader });
        }
        self.ask_read(context)
    }

    /// As [`Raft::read_index`], but a follower asks its leader, in a message that the next
    /// [`Raft::poll_ready`] sends. Refused later on if the leader is lost.
    ///
    /// # Errors
    /// If it cannot be asked here, for one because no leader is known.
    pub fn forward_read_index(&mut self, context: u64, now: Instant) -> Result<(), ReadError> {
        self.observe(now);
        if self.leader.is_none() && !self.stopped {
            return Err(ReadError::NotLeader { leader: None });
        }
        self.ask_read(context)
    }

    fn ask_read(&mut self, context: u64) -> Result<(), ReadError> {
        if self.stopped {
            return Err(ReadError::Stopped);
        }
        let waiting = self.reads.waiting();
        if waiting >= MAX_WAITING_READS {
            return Err(ReadError::Overloaded { waiting });
        }
        self.reads.ask(context);
        Ok(())
    }

    /// Forwards what was asked since the last time.
    pub(crate) fn forward_reads(&mut self) {
        if self.reads.begin_round(LogIndex::ZERO) {
            self.ask_leader();
        }
    }

    /// Asks again for what the leader has not answered, which it may never have got. Not with each of its
    /// Heartbeats: what is asked of it makes it send more of them.
    pub(crate) fn forward_reads_again(&mut self) {
        let due = self.reads.forwarded_at + self.config.heartbeat_interval;
        if self.reads.awaits_confirmation() && due <= self.clock {
            self.ask_leader();
        }
    }

    fn ask_leader(&mut self) {
        self.reads.forwarded_at = self.clock;
        if let Some(leader) = self.leader {
            let asker = self.forwarded_round();
            self.say(leader, self.term, MessageBody::ReadIndex { asker });
        }
    }

    fn forwarded_round(&self) -> ForwardedRound {
        ForwardedRound {
            incarnation: self.config.incarnation,
            round: self.reads.round(),
        }
    }

    /// The leader's half: a follower's reads wait like its own. Over the bound they are not taken, and asked
    /// for again.
    pub(crate) fn handle_read_index(&mut self, from: ReplicaId, asker: ForwardedRound) {
        let has_room = self.reads.waiting() < MAX_WAITING_READS;
        if self.role == Role::Leader && self.peer(from).is_some() && has_room {
            self.reads.ask_for(from, asker);
        }
    }

    pub(crate) fn answer_forwarded(&mut self) {
        for (to, asker, index) in core::mem::take(&mut self.reads.answers) {
            let body = MessageBody::ReadIndexResponse { asker, index };
            self.say(to, self.term, body);
        }
    }

    pub(crate) fn handle_read_index_response(
        &mut self,
        from: ReplicaId,
        asker: ForwardedRound,
        index: LogIndex,
    ) -> Result<(), StepError> {
        let asked = self.forwarded_round();
        if self.role != Role::Follower || self.leader != Some(from) {
            return Ok(());
        }
        if asker.incarnation != asked.incarnation && !mutant!(ReadsOutliveProcess) {
            return Ok(()); // What it answers was asked in an earlier life.
        }
        if asker.round > asked.round {
            return Err(StepError::Malformed {
                from,
                what: "it answers reads that were not forwarded",
            });
        }
        self.reads.answered(asker.round, index);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(round: u64) -> ForwardedRound {
        ForwardedRound {
            incarnation: 1,
            round,
        }
    }

    #[test]
    fn a_round_confirms_what_was_asked_before_it_began_and_nothing_else() {
        let mut reads = ReadIndex::default();
        let (mut ready, mut refused) = (Vec::new(), Vec::new());
        reads.ask(1);
        reads.ask(2);
        assert!(reads.begin_round(LogIndex(5)));
        reads.ask(3);
        reads.confirm(1);
        reads.hand_out(&mut ready, &mut refused);
        let contexts: Vec<u64> = ready.iter().map(|read| read.context).collect();
        assert_eq!(contexts, [1, 2]);
        assert!(reads.begin_round(LogIndex(6)));
        reads.confirm(1);
        assert!(reads.awaits_confirmation());
        reads.refuse_all();
        reads.hand_out(&mut ready, &mut refused);
        assert_eq!(refused, [3]);
        assert_eq!(reads.waiting(), 0);
    }

    #[test]
    fn a_follower_that_asks_again_and_again_takes_one_place() {
        let mut reads = ReadIndex::default();
        for round in 1..=9 {
            reads.ask_for(ReplicaId(2), forwarded(round));
        }
        assert_eq!(reads.waiting(), 1);
        reads.confirm_asked(LogIndex(5));
        assert_eq!(reads.answers, [(ReplicaId(2), forwarded(9), LogIndex(5))]);
        assert_eq!(reads.waiting(), 0);
    }
}
