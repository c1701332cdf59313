//! Why a call was refused.

use pontoon_types::{ConfChangeError, LogIndex, ReplicaId, Term};
use thiserror::Error;

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StepError {
    /// The message is for another replica.
    #[error("a message for replica {to} came to replica {id}")]
    Misdirected {
        /// Whom it names.
        to: ReplicaId,
        /// Who got it.
        id: ReplicaId,
    },
    /// The message is one that no correct replica sends. Nothing was changed.
    #[error("replica {from} sent a malformed message: {what}")]
    Malformed {
        /// The sender.
        from: ReplicaId,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Somebody claims to lead a term that another replica leads (S1). Nothing was changed.
    #[error("replica {claimed} claims to lead term {term}, which replica {known} leads")]
    TwoLeaders {
        /// The term.
        term: Term,
        /// The leader known so far.
        known: ReplicaId,
        /// The sender.
        claimed: ReplicaId,
    },
    /// A leader's log contradicts what is committed here (S3, S4). The replica has stopped.
    #[error(
        "leader {from} has term {theirs} at index {index}, which is committed here in term {ours}"
    )]
    CommittedConflict {
        /// The leader.
        from: ReplicaId,
        /// The first index at which the logs differ.
        index: LogIndex,
        /// Our entry's term.
        ours: Term,
        /// The leader's.
        theirs: Term,
    },
    /// A leader knows that this replica has acknowledged more than its log holds: entries that were
    /// durable are gone. The replica has stopped, because its votes and acknowledgements are worth nothing.
    #[error("leader {from} knows us to hold index {acknowledged}, our log ends at {last}")]
    LogLost {
        /// The leader.
        from: ReplicaId,
        /// What we acknowledged once.
        acknowledged: LogIndex,
        /// Our last index.
        last: LogIndex,
    },
    /// The replica has stopped before, by one of the two errors above.
    #[error("replica {id} has stopped: its log contradicts its group's")]
    Stopped {
        /// The replica.
        id: ReplicaId,
    },
}

impl StepError {
    /// Whether the replica has stopped: it says and does nothing more and must be rebuilt from its
    /// peers. The node's other groups go on.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::CommittedConflict { .. } | Self::LogLost { .. } | Self::Stopped { .. }
        )
    }
}

/// Why a proposal was refused. In every case it was not appended and can be made again elsewhere or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// Only leaders take proposals.
    #[error("not the leader")]
    NotLeader {
        /// Who is, if known.
        leader: Option<ReplicaId>,
    },
    /// The leadership is being handed over. Until the transferee leads, or is given up, nobody takes
    /// proposals.
    #[error("the leadership is being transferred to replica {to}")]
    Transferring {
        /// To whom.
        to: ReplicaId,
    },
    /// Too much is waiting to be committed.
    #[error("{uncommitted_bytes} bytes are uncommitted, {limit_bytes} may be")]
    Overloaded {
        /// Bytes of entries that wait.
        uncommitted_bytes: usize,
        /// The setting that bounds them.
        limit_bytes: usize,
    },
    /// No entry holds so much.
    #[error("a payload of {payload_bytes} bytes is over the limit of {limit_bytes}")]
    TooLarge {
        /// The payload.
        payload_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The members cannot be changed like this, or not now.
    #[error("the members cannot be changed: {0}")]
    ConfChange(#[from] ConfChangeRefusal),
    /// The replica has stopped; see [`StepError::is_fatal`].
    #[error("the replica has stopped")]
    Stopped,
}

/// Why a leader does not take a membership change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfChangeRefusal {
    /// One change at a time: an earlier one, or an entry that may be one, is not applied here yet
    /// (thesis §4.1). It can be proposed again once it is.
    #[error("the change at index {index} is not applied yet")]
    Pending {
        /// Where it is.
        index: LogIndex,
    },
    /// The leader has not committed an entry of its own term yet, so there may be another leader's
    /// change of which it does not know whether it was committed (Ongaro, *bug in single-server
    /// membership changes*, raft-dev, 2015). It soon will have.
    #[error("no entry of term {term} is committed yet")]
    TermNotCommitted {
        /// The leader's term.
        term: Term,
    },
    /// The change makes no sense for the present members.
    #[error(transparent)]
    Invalid(#[from] ConfChangeError),
}

/// Why the leadership was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TransferError {
    /// Only leaders can.
    #[error("not the leader")]
    NotLeader {
        /// Who is, if known.
        leader: Option<ReplicaId>,
    },
    /// This replica leads, and it is the one that was named.
    #[error("the replica leads already")]
    LeadsAlready,
    /// Learners do not lead.
    #[error("replica {to} is a learner")]
    Learner {
        /// Who was named.
        to: ReplicaId,
    },
    /// No member of the group has that id.
    #[error("replica {to} is not a member")]
    NotMember {
        /// Who was named.
        to: ReplicaId,
    },
    /// The replica has stopped; see [`StepError::is_fatal`].
    #[error("the replica has stopped")]
    Stopped,
}

/// Why a read was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// Only leaders confirm reads, and nobody forwards them who knows no leader.
    #[error("not the leader")]
    NotLeader {
        /// Who is, if known.
        leader: Option<ReplicaId>,
    },
    /// Too many reads wait for a quorum.
    #[error("{waiting} reads wait for a quorum")]
    Overloaded {
        /// How many.
        waiting: usize,
    },
    /// The replica has stopped; see [`StepError::is_fatal`].
    #[error("the replica has stopped")]
    Stopped,
}
