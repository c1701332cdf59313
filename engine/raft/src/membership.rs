//! Changes of the group's members (Raft §6; thesis §4).
//!
//! A change is an entry like any other, and takes effect on each replica when that replica *applies* it.
//! So the members are always those of some committed prefix of the log, nothing has to be taken back when a
//! log is truncated, and the state machine's record of them moves in step. Four rules make that safe.
//! Together they see to it that at any moment replicas act by at most two configurations, neighbours
//! in the log, and neighbours' quorums overlap:
//!
//! - A leader proposes a change only when all earlier ones are applied on it, and hence committed.
//! - It also must have committed an entry of its own term: else a predecessor's change, of which it knows
//!   nothing, may be committed by majorities that do not overlap with its own (the bug in the thesis's
//!   single-server changes; Ongaro on raft-dev, 2015).
//! - Whoever campaigns has applied every change that it knows to be committed. A log that holds a change
//!   knows the one before it to be committed, because an Append brings the leader's commit index, and it
//!   is stored with the entries: so no candidate is two changes behind its own log.
//! - Several changes at once go through a joint configuration, whose decisions take both majorities (§4.3).
//!
//! Votes are given whatever the voter thinks of who is a member: it may be behind, and the candidate's
//! configuration, not the voter's, says whose votes count (thesis §4.2.2).

use crate::error::{ConfChangeRefusal, ProposeError};
use crate::message::MessageBody;
use crate::progress::Progress;
use crate::raft::{Raft, Role};
use alloc::vec::Vec;
use pontoon_types::{
    ConfChange, ConfState, Entry, EntryKind, Instant, LogIndex, LogPosition, ReplicaId, mutant,
};

impl Raft {
    /// Appends a change of the members. It takes effect, here and on every other replica, when its entry is
    /// applied, which [`Ready::conf_state`](crate::Ready::conf_state) tells; [`ConfChange::leave`] ends
    /// a joint configuration. A leader that removes or demotes itself steps down once that is applied.
    ///
    /// Changes pass when other proposals are refused as too many.
    ///
    /// # Errors
    /// If it was not appended; see [`ConfChangeRefusal`].
    pub fn propose_conf_change(
        &mut self,
        change: &ConfChange,
        now: Instant,
    ) -> Result<LogPosition, ProposeError> {
        self.observe(now);
        let mut payload = Vec::new();
        change.encode(&mut payload);
        self.may_propose(&payload)?;
        if let Some(index) = self.log.first_change(self.log.last_index())
            && !mutant!(ChangesOverlap)
        {
            return Err(ConfChangeRefusal::Pending { index }.into());
        }
        if !self.has_committed_own() && !mutant!(ChangesBeforeOwnCommit) {
            let term = self.term;
            return Err(ConfChangeRefusal::TermNotCommitted { term }.into());
        }
        // No change is under way, so these are the members that it will be applied to.
        self.conf
            .apply(change)
            .map_err(ConfChangeRefusal::Invalid)?;
        Ok(self.append(EntryKind::ConfChange, &payload))
    }

    /// Whether this leader has committed an entry of its own term, and so knows of everything that was
    /// committed before.
    pub(crate) fn has_committed_own(&self) -> bool {
        self.log.term_at(self.log.commit()) == Some(self.term)
    }

    /// A leader leaves a joint configuration by itself, if that is wanted.
    pub(crate) fn leave_joint_if_due(&mut self) {
        if !self.conf.is_joint() || !self.conf.auto_leave || mutant!(StaysJoint) {
            return;
        }
        // Whoever takes over does it, with a log that has not grown meanwhile.
        let is_settled =
            self.transfer.is_none() && self.log.first_change(self.log.last_index()).is_none();
        if is_settled && self.has_committed_own() {
            let mut payload = Vec::new();
            ConfChange::leave().encode(&mut payload);
            self.append(EntryKind::ConfChange, &payload);
        }
    }

    /// Whether a change that is committed still has to be applied here. Until then this replica does not
    /// know whose votes it needs.
    pub(crate) fn awaits_conf_change(&self) -> bool {
        self.log.first_change(self.log.commit()).is_some() && !mutant!(CampaignsUnapplied)
    }

    /// Remembers the changes among the entries that are handed out.
    ///
    /// What came from a peer was checked. A change that cannot be read all the same was written by a
    /// newer Pontoon than this: the replica stops in front of it, because it cannot know any more who
    /// the members are.
    pub(crate) fn note_handed_out(&mut self, entries: &mut Vec<Entry>) {
        let is_change = |entry: &&Entry| entry.kind() == EntryKind::ConfChange;
        let mut unknown = None;
        for entry in entries.iter().filter(is_change) {
            match ConfChange::decode(entry.payload()) {
                Ok(change) => self.conf_changes.push_back((entry.index(), change)),
                Err(_) => unknown = unknown.or(Some(entry.index())),
            }
        }
        if let Some(index) = unknown {
            entries.retain(|entry| entry.index() < index);
            self.conf_changes.retain(|(at, _)| *at < index);
            self.become_follower(self.term, None);
            self.stopped = true;
        }
    }

    /// Makes the changes that are applied with everything up to `index`.
    pub(crate) fn apply_conf_changes(&mut self, index: LogIndex) {
        while let Some((at, change)) = self.conf_changes.front()
            && *at <= index
        {
            // One that cannot be made changes nothing, on any replica.
            let next = self.conf.apply(change);
            self.conf_changes.pop_front();
            if let Ok(next) = next {
                self.change_members(next);
            }
        }
    }

    /// From here on these are the members.
    pub(crate) fn change_members(&mut self, conf: ConfState) {
        assert!(
            matches!(self.role, Role::Follower | Role::Leader),
            "{:?} while the members change: its votes were counted for others",
            self.role
        );
        self.conf = conf;
        self.conf_is_news = true;
        if self.role == Role::Leader {
            self.part_from_removed();
        }
        let next = self.log.last_index().next();
        let id = self.config.id;
        let members = self
            .conf
            .members()
            .into_iter()
            .filter(|member| *member != id);
        let peers = core::mem::take(&mut self.peers);
        let mut known = peers.into_iter().peekable();
        for member in members {
            while known.next_if(|peer| peer.id < member).is_some() {}
            let peer = known.next_if(|peer| peer.id == member);
            self.peers
                .push(peer.unwrap_or_else(|| Progress::added(member, next)));
        }
        if self.role != Role::Leader {
            return;
        }
        self.lease.start_anew();
        if self.is_voter() || mutant!(RemovedLeaderLeads) {
            // Fewer may be asked now than before.
            self.advance_commit();
            self.confirm_round();
            self.give_up_transfer_if_due();
        } else {
            // It does not count itself, and the others choose among themselves (thesis §4.2.2).
            self.become_follower(self.term, None);
        }
    }

    /// The last word to who is no peer any more: the commit index, so that a replica that holds the
    /// change learns that it is removed. A leader that is leaving says it to all, for the same reason:
    /// it is the last to know that they may go on without it.
    fn part_from_removed(&mut self) {
        let leaves = !self.is_voter();
        for at in 0..self.peers.len() {
            let (to, matched) = (self.peers[at].id, self.peers[at].matched);
            if leaves || !self.conf.is_member(to) {
                let body = MessageBody::Heartbeat {
                    commit: self.log.commit().min(matched),
                    matched_by_all: self.matched_by_all,
                    read_round: self.reads.round(),
                };
                self.say(to, self.term, body);
            }
        }
    }

    /// Whether this replica has yet to learn who the members of its group are. What changes them means
    /// nothing to it, so it takes no entries, only a snapshot.
    pub(crate) fn is_uninitialised(&self) -> bool {
        self.conf.voters.is_empty()
    }

    /// Refuses an Append for want of a snapshot: what comes before the first entry is refused by
    /// nobody else.
    pub(crate) fn ask_for_snapshot(
        &mut self,
        from: ReplicaId,
        rejected: LogIndex,
        read_round: u64,
    ) {
        let body = MessageBody::AppendRejected {
            rejected,
            hint: LogPosition::ZERO,
            read_round,
        };
        self.say(from, self.term, body);
    }
}
