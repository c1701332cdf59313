//! Terms and elections (Raft §5.2, §5.4.1; thesis §4.2.3, §6.2, §9.6).

use crate::lease::Lease;
use crate::message::MessageBody;
use crate::quorum::{Tally, tally};
use crate::raft::{Raft, Role};
use pontoon_types::{EntryKind, Instant, LogPosition, ReplicaId, Term, mutant};

impl Raft {
    /// Campaigns now, without waiting for a timeout; with a pre-vote first if that is on. Nothing
    /// happens if this replica leads already or is not a voter; if it has yet to apply a committed change
    /// of the members, it campaigns as soon as it has. With leases on, it does not within an election
    /// timeout of hearing its leader, whose lease may count on it, but right after, unless it hears it again.
    pub fn campaign(&mut self, now: Instant) {
        self.observe(now);
        if self.stopped || self.role == Role::Leader {
            return;
        }
        if self.config.lease && self.is_sticky() && !mutant!(CampaignBreaksPromise) {
            self.election_deadline = self.promised_until;
        } else {
            self.start_campaign();
        }
    }

    pub(crate) fn start_campaign(&mut self) {
        self.restart_election_timer();
        // The leader that they were forwarded to is gone, or does not answer.
        self.reads.refuse_all();
        if !self.is_voter() {
            return;
        }
        if self.awaits_conf_change() {
            self.campaign_waits = true;
            return;
        }
        self.leader = None;
        if self.config.pre_vote && !self.is_told_to_campaign() {
            self.role = Role::PreCandidate;
            self.request_votes(self.term.next(), true, false);
            // Its own answer to a mere question needs no disk.
            self.count_vote(self.config.id, true);
        } else {
            self.start_election();
        }
    }

    /// Raises the term and asks for votes in it. The requests carry the new term and so wait until it is
    /// durable; the replica's own vote is counted at that same moment, in
    /// [`Raft::handle_durable`].
    fn start_election(&mut self) {
        let transfer = self.is_told_to_campaign();
        self.term = self.term.next();
        self.vote = Some(self.config.id);
        self.role = Role::Candidate;
        self.leader = None;
        self.ack = None;
        self.request_votes(self.term, false, transfer);
        if mutant!(OwnVoteUnsynced) {
            self.count_vote(self.config.id, true);
        }
    }

    fn request_votes(&mut self, term: Term, pre: bool, transfer: bool) {
        self.votes.clear();
        let body = MessageBody::RequestVote {
            last: self.log.last(),
            pre,
            transfer,
        };
        for at in 0..self.peers.len() {
            let id = self.peers[at].id;
            if self.conf.is_voter(id) {
                self.say(id, term, body.clone());
            }
        }
    }

    /// Decides about a vote, or about what would be the answer.
    pub(crate) fn handle_request_vote(
        &mut self,
        from: ReplicaId,
        term: Term,
        last: LogPosition,
        pre: bool,
        transfer: bool,
    ) {
        // The election restriction (§5.4.1): nobody helps a log to lead that may lack what is committed.
        let up_to_date = last >= self.log.last()
            || mutant!(ElectsShorterLogs)
            || transfer && mutant!(TransferElectsShorterLogs);
        // Not while the leader is well, unless it is the leader who wants it. Who is in the candidate's term
        // already has forgotten its leader, but not what it has promised.
        let is_free = transfer || !self.is_sticky();
        let granted = if pre {
            up_to_date && term > self.term && is_free
        } else {
            let unused = self.vote.is_none() && self.leader.is_none() || mutant!(VotesTwice);
            let is_free = is_free || mutant!(TermsEndPromises);
            up_to_date && (self.vote == Some(from) || unused && is_free)
        };
        if granted && !pre {
            self.vote = Some(from);
            self.restart_election_timer();
        }
        let term = if granted { term } else { self.term };
        let body = MessageBody::VoteResponse {
            granted,
            pre,
            committed: self.log.committed(),
        };
        self.say(from, term, body);
    }

    /// Somebody knows this position to be committed; if this log holds it, everything up to it is.
    ///
    /// Followers learn that from their leader. But a leader that removed or demoted itself may have
    /// stepped down before they did: then they still need its vote, which it refuses to them if its log
    /// is longer, and it does not campaign itself. From the refusal they learn that they do not need it.
    pub(crate) fn learn_committed(&mut self, position: LogPosition) {
        let is_held = self.log.term_at(position.index) == Some(position.term);
        if self.role == Role::Leader || !is_held || !self.log.commit_to(position.index) {
            return;
        }
        if self.role != Role::Follower && self.awaits_conf_change() {
            // It may be asking the wrong ones.
            self.become_follower(self.term, None);
            self.campaign_waits = true;
        }
    }

    pub(crate) fn handle_vote_response(
        &mut self,
        from: ReplicaId,
        term: Term,
        granted: bool,
        pre: bool,
    ) {
        let expected = match self.role {
            Role::PreCandidate => pre && (!granted || term == self.term.next()),
            Role::Candidate => !pre && term == self.term,
            Role::Follower | Role::Leader => false,
        };
        if expected && self.conf.is_voter(from) {
            self.count_vote(from, granted);
        }
    }

    pub(crate) fn count_vote(&mut self, from: ReplicaId, granted: bool) {
        if self.votes.iter().any(|(id, _)| *id == from) {
            return;
        }
        self.votes.push((from, granted));
        let votes = &self.votes;
        let answer = |voter| {
            votes
                .iter()
                .find(|(id, _)| *id == voter)
                .map(|(_, yes)| *yes)
        };
        match (tally(&self.conf, answer), self.role) {
            (Tally::Won, Role::PreCandidate) => self.start_election(),
            // Others' votes may come first; the own one must be durable even if they suffice (S6).
            (Tally::Won, Role::Candidate)
                if self.durability.covers(self.term, self.vote) || mutant!(OwnVoteUnsynced) =>
            {
                self.become_leader();
            }
            (Tally::Lost, Role::PreCandidate | Role::Candidate) => {
                self.become_follower(self.term, None);
            }
            _ => {}
        }
    }

    fn become_leader(&mut self) {
        assert!(
            self.durability.covers(self.term, Some(self.config.id)) || mutant!(OwnVoteUnsynced),
            "leading term {} before the own vote in it is durable",
            self.term
        );
        self.role = Role::Leader;
        self.leader = Some(self.config.id);
        self.votes.clear();
        self.reads.restart();
        self.lease = Lease::default();
        let next = self.log.last_index().next();
        for peer in &mut self.peers {
            peer.reset(next);
        }
        self.heartbeat_due = false;
        self.heartbeat_deadline = self.next_heartbeat();
        self.quorum_deadline = self.clock + self.config.election_timeout;
        // Only an entry of its own term lets a leader commit what it inherited (§5.4.2), and it tells
        // everyone who leads (§8).
        self.append(EntryKind::Empty, &[]);
    }

    /// Follows `leader`, or waits for one, in `term`.
    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<ReplicaId>) {
        assert!(term >= self.term, "term {term} after term {}", self.term);
        if term > self.term || leader != self.leader {
            self.reads.refuse_all();
        }
        if term > self.term {
            self.term = term;
            self.vote = None;
            self.ack = None;
        }
        if self.role == Role::Leader {
            self.transfer = None;
            self.heartbeat_due = false;
            self.restart_election_timer();
        }
        self.role = Role::Follower;
        self.leader = leader;
        self.votes.clear();
    }

    /// A message of a newer term. Returns whether it is to be handled any further.
    pub(crate) fn meet_newer_term(
        &mut self,
        from: ReplicaId,
        term: Term,
        body: &MessageBody,
    ) -> bool {
        match body {
            // A question about a term raises none, and neither does the answer "yes".
            MessageBody::RequestVote { pre: true, .. }
            | MessageBody::VoteResponse {
                granted: true,
                pre: true,
                ..
            } => {}
            // While the leader is well, who does not hear it must not depose it (thesis §4.2.3).
            MessageBody::RequestVote { transfer, .. } if !transfer && self.is_sticky() => {
                return false;
            }
            MessageBody::Append { .. }
            | MessageBody::Heartbeat { .. }
            | MessageBody::InstallSnapshot { .. }
            | MessageBody::TimeoutNow => {
                self.become_follower(term, Some(from));
            }
            _ => self.become_follower(term, None),
        }
        true
    }

    /// A message of an older term changes nothing here. Its sender is told the present one if it
    /// campaigns or leads: else a leader that this replica has outrun, and that everyone else is content
    /// with, would never learn why it is not followed.
    pub(crate) fn answer_older_term(&mut self, from: ReplicaId, body: &MessageBody) {
        let answer = match *body {
            MessageBody::RequestVote { pre, .. } => MessageBody::VoteResponse {
                granted: false,
                pre,
                committed: self.log.committed(),
            },
            // What is committed is so in every term.
            MessageBody::VoteResponse { committed, .. } => return self.learn_committed(committed),
            MessageBody::Append { .. }
            | MessageBody::Heartbeat { .. }
            | MessageBody::InstallSnapshot { .. } => {
                MessageBody::HeartbeatResponse { read_round: 0 }
            }
            _ => return,
        };
        self.say(from, self.term, answer);
    }

    pub(crate) fn restart_election_timer(&mut self) {
        let timeout = self.config.election_timeout;
        let patience = timeout.saturating_mul(self.config.election_rank.saturating_add(1));
        self.campaign_waits = false;
        self.election_deadline = self.clock + patience + self.rng.below(timeout);
    }
}
