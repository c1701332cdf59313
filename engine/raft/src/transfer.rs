//! Handing the leadership over (thesis §3.10).
//!
//! The leader stops taking proposals, brings its transferee up to the end of the log, and tells it to campaign
//! at once: [`MessageBody::TimeoutNow`]. The transferee then asks for real votes, without a pre-vote, and says
//! that it was told to, so that voters help it although their leader is well. It needs their votes like any
//! candidate, and gets them only with a log as long as theirs: the transfer decides who asks, not who wins.
//!
//! A transferee that has not taken over within an election timeout is given up, and the leader goes on. It may
//! campaign all the same when the message reaches it late, which costs an election and nothing else.

use crate::error::TransferError;
use crate::message::MessageBody;
use crate::raft::{Raft, Role};
use pontoon_types::{Instant, ReplicaId, mutant};

/// A transfer under way on the leader.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Transfer {
    pub(crate) to: ReplicaId,
    /// When it is given up.
    pub(crate) deadline: Instant,
    /// The transferee has been told since the last heartbeat interval began.
    pub(crate) told: bool,
}

impl Raft {
    /// Hands the leadership over to `to`. Until that is done or given up, after an election timeout, proposals
    /// are refused; reads are not. Another transferee takes the place of an earlier one; the same one again
    /// changes nothing.
    ///
    /// # Errors
    /// If this replica does not lead, or `to` cannot.
    pub fn transfer_leadership(
        &mut self,
        to: ReplicaId,
        now: Instant,
    ) -> Result<(), TransferError> {
        self.observe(now);
        if self.stopped {
            return Err(TransferError::Stopped);
        }
        if self.role != Role::Leader {
            let leader = self.leader;
            return Err(TransferError::NotLeader { leader });
        }
        if to == self.config.id {
            return Err(TransferError::LeadsAlready);
        }
        if !self.conf.is_voter(to) {
            return Err(match self.conf.is_member(to) {
                true => TransferError::Learner { to },
                false => TransferError::NotMember { to },
            });
        }
        if self.transfer.is_none_or(|transfer| transfer.to != to) {
            self.transfer = Some(Transfer {
                to,
                deadline: self.clock + self.config.election_timeout,
                told: false,
            });
        }
        Ok(())
    }

    /// Tells the transferee, once it has the whole log, and again every heartbeat interval. It obeys at
    /// most once: after that it is in a later term.
    pub(crate) fn tell_transferee(&mut self) {
        let last = self.log.last_index();
        let Some(Transfer { to, told, .. }) = self.transfer else {
            return;
        };
        let has_all = self.peer(to).is_some_and(|peer| peer.matched == last);
        if told || !has_all && !mutant!(TransfersToLagging) {
            return;
        }
        // Votes for the transferee are not held up by the promises that the lease rests on.
        self.lease.give_up();
        if let Some(transfer) = &mut self.transfer {
            transfer.told = true;
        }
        self.say(to, self.term, MessageBody::TimeoutNow);
    }

    /// Gives the transfer up if its time is over, or the transferee cannot lead any more.
    pub(crate) fn give_up_transfer_if_due(&mut self) {
        let clock = self.clock;
        let conf = &self.conf;
        self.transfer
            .take_if(|transfer| transfer.deadline <= clock || !conf.is_voter(transfer.to));
    }

    /// The leader of this term wants this replica to succeed it. If it has a committed change of the members
    /// to apply first, it campaigns when it has.
    pub(crate) fn handle_timeout_now(&mut self) {
        self.told_in = Some(self.term);
        self.start_campaign();
    }

    /// Whether a campaign from here is one that the leader wants: the leader of this very term. What an earlier
    /// one has wanted must not depose a later one.
    pub(crate) fn is_told_to_campaign(&self) -> bool {
        self.told_in == Some(self.term) || self.told_in.is_some() && mutant!(TransferOutlivesTerm)
    }
}
