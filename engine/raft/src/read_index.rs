//! Linearizable reads without writing: ReadIndex (thesis §6.4).
//!
//! A read is safe at the commit index of the moment it was asked, once it is certain that the replica
//! was still the leader at some moment after that. Certainty comes in *rounds*: reads wait; the next
//! [`Raft::poll_ready`](crate::Raft::poll_ready) begins a round for all of them; every Append and
//! Heartbeat carries the number of the latest round and answers repeat it. A quorum of answers to a
//! round confirms all reads that were asked before it began, and no others: what was sent before a read
//! was asked says nothing about the time after.

use crate::ready::ReadReady;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use pontoon_types::{LogIndex, mutant};

/// Reads that may wait in a group at one time (S11).
pub(crate) const MAX_WAITING_READS: usize = 1 << 16;

#[derive(Clone, Debug, Default)]
pub(crate) struct ReadIndex {
    /// The latest round that has begun in this leadership; 0 if none has.
    round: u64,
    /// Asked since the last round began.
    asked: Vec<u64>,
    /// Waiting for their round to be confirmed, oldest first: round, index, context.
    pending: VecDeque<(u64, LogIndex, u64)>,
    /// Confirmed and not yet handed out.
    ready: Vec<ReadReady>,
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

    pub(crate) fn ask(&mut self, context: u64) {
        self.asked.push(context);
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
            .extend(asked.map(|context| (round, commit, context)));
        true
    }

    pub(crate) fn awaits_confirmation(&self) -> bool {
        !self.pending.is_empty()
    }

    /// A quorum has answered `round`, and with it every earlier one.
    pub(crate) fn confirm(&mut self, round: u64) {
        while let Some(&(of, index, context)) = self.pending.front()
            && of <= round
        {
            self.ready.push(ReadReady { context, index });
            self.pending.pop_front();
        }
    }

    /// Leadership is lost: nothing that waits will be confirmed. Reads confirmed before stay so.
    pub(crate) fn refuse_all(&mut self) {
        self.refused.append(&mut self.asked);
        let pending = self.pending.drain(..);
        self.refused.extend(pending.map(|(_, _, context)| context));
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
