//! What can be seen of a replica from outside.

use crate::progress::{Progress, ProgressMode, ProgressView};
use crate::raft::{Raft, Role};
use pontoon_types::{ConfState, GroupId, LogIndex, LogPosition, ReplicaId, Term};

impl Raft {
    /// The group.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.config.group
    }

    /// This replica.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.config.id
    }

    /// The present term; maybe not durable yet.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Whom it voted for in this term; maybe not durable yet.
    #[must_use]
    pub fn vote(&self) -> Option<ReplicaId> {
        self.vote
    }

    /// What it is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Who leads this term, if known.
    #[must_use]
    pub fn leader(&self) -> Option<ReplicaId> {
        self.leader
    }

    /// The commit index.
    #[must_use]
    pub fn commit(&self) -> LogIndex {
        self.log.commit()
    }

    /// What the state machine has said it applied.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.log.applied()
    }

    /// The last index that is durable here.
    #[must_use]
    pub fn durable(&self) -> LogIndex {
        self.log.durable()
    }

    /// The first index of the log; one past the last if the log is empty.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.log.compacted().index.next()
    }

    /// The last position of the log.
    #[must_use]
    pub fn last_position(&self) -> LogPosition {
        self.log.last()
    }

    /// The term at `index`, for the last compacted index and the whole log.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.log.term_at(index)
    }

    /// The members.
    #[must_use]
    pub fn conf_state(&self) -> &ConfState {
        &self.conf
    }

    /// What a leader knows of `peer`; `None` from others, and for who is not a peer.
    #[must_use]
    pub fn progress(&self, peer: ReplicaId) -> Option<ProgressView> {
        if self.role != Role::Leader {
            return None;
        }
        self.peer(peer).map(Progress::view)
    }

    /// Whether a leader has heard of `peer` since it last made sure of its quorum, which is less than an election timeout ago.
    /// Of itself it always has.
    #[must_use]
    pub fn hears(&self, peer: ReplicaId) -> bool {
        let is_heard = || self.peer(peer).is_some_and(|peer| peer.active);
        self.role == Role::Leader && (peer == self.config.id || is_heard())
    }

    /// Which voter, if any, would best lead after this leader: of those heard of lately the one that holds most.
    #[must_use]
    pub fn best_transferee(&self) -> Option<ReplicaId> {
        let may_lead = |peer: &&Progress| peer.active && self.conf.is_voter(peer.id);
        let leads = self.role == Role::Leader;
        let peers = self.peers.iter().filter(|_| leads).filter(may_lead);
        peers.max_by_key(|peer| peer.matched).map(|peer| peer.id)
    }

    /// To whom a leader hands its leadership over at present.
    #[must_use]
    pub fn transferee(&self) -> Option<ReplicaId> {
        self.transfer.map(|transfer| transfer.to)
    }

    /// Everything up to here is committed and was held durably by every member of the group when the leader
    /// said so: none of them needs it from a peer's log any more. Who joins later begins with a
    /// snapshot, and holds it back from then on until it has caught up. Followers learn it from leaders; it
    /// never falls.
    #[must_use]
    pub fn matched_by_all(&self) -> LogIndex {
        self.matched_by_all
    }

    /// Bytes of entries in memory that are not known to be committed. Entries from before a restart are
    /// on disk only and do not count.
    #[must_use]
    pub fn uncommitted_bytes(&self) -> usize {
        self.log.uncommitted_bytes()
    }

    /// Bytes of entries in memory.
    #[must_use]
    pub fn cached_bytes(&self) -> usize {
        self.log.cached_bytes()
    }

    /// Whether an entry has still to be fetched from the log for the replica's own sake: it is not handed out to be applied,
    /// and not in memory.
    #[must_use]
    pub fn needs_from_log(&self, index: LogIndex) -> bool {
        index > self.log.applying() && index < self.log.first_cached()
    }

    /// Whether the replica has stopped; see [`StepError::is_fatal`](crate::StepError::is_fatal).
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Whether nothing is under way: the log is committed, durable and applied to its end, and a leader
    /// has no peer that lags and no transfer; and no read waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let last = self.log.last_index();
        let settled = self.log.commit() == last
            && self.log.durable() == last
            && self.log.applied() == last
            && self.durability.covers(self.term, self.vote);
        settled
            && match self.role {
                Role::Leader => {
                    self.reads.waiting() == 0
                        && self.transfer.is_none()
                        && self
                            .peers
                            .iter()
                            .all(|peer| peer.mode == ProgressMode::Pipeline && peer.matched == last)
                }
                Role::Follower => self.reads.waiting() == 0,
                Role::Candidate | Role::PreCandidate => false,
            }
    }
}
