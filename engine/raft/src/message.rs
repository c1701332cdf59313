//! What replicas say to each other.
//!
//! A message names replicas, not nodes, and not its group: frames carry many groups' messages, and the
//! frame says whose they are. How they are encoded is the engine's business.

use alloc::boxed::Box;
use pontoon_types::{ConfState, Entry, LogIndex, LogPosition, ReplicaId, Term};
use smallvec::SmallVec;

/// The entries of an Append. With many groups most Appends carry one; it needs no allocation.
pub type Entries = SmallVec<[Entry; 1]>;

/// One message of one group, from replica to replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// Who says it.
    pub from: ReplicaId,
    /// To whom.
    pub to: ReplicaId,
    /// The sender's term, durable on the sender before the message leaves. In a pre-vote's request,
    /// and in the grant that answers it, the term that the candidate would campaign in.
    pub term: Term,
    /// What it says.
    pub body: MessageBody,
}

/// What a [`Message`] says. What is rare and large is boxed, so that what is frequent moves less.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MessageBody {
    /// Asks for a vote (Raft §5.2), or whether one would be given (thesis §9.6).
    RequestVote {
        /// Where the candidate's log ends, for the election restriction (§5.4.1).
        last: LogPosition,
        /// Whether it only asks.
        pre: bool,
        /// Whether the leader itself told the candidate to campaign; then stickiness does not hold.
        transfer: bool,
    },
    /// Answers a [`MessageBody::RequestVote`]. A real grant leaves only once the vote is durable.
    VoteResponse {
        /// Whether the vote is given.
        granted: bool,
        /// Whether it answers a pre-vote.
        pre: bool,
        /// What the voter knows to be committed. A candidate that is behind learns from it of changes of
        /// the members, without which it may ask the wrong ones for ever.
        committed: LogPosition,
    },
    /// Entries for a follower's log (Raft §5.3). Also the probe for where the logs agree.
    Append {
        /// The position before the first of `entries`, which the follower must hold.
        previous: LogPosition,
        /// The leader's commit index.
        commit: LogIndex,
        /// See [`Raft::matched_by_all`](crate::Raft::matched_by_all).
        matched_by_all: LogIndex,
        /// The latest round of reads that has begun; answers repeat it.
        read_round: u64,
        /// Consecutive entries after `previous`; may be empty.
        entries: Entries,
    },
    /// A snapshot has come, in another way than this: its data is with the receiver's shell, which hands
    /// over this message when it could put it in place (Raft §7). Answered with an
    /// [`MessageBody::AppendResponse`].
    InstallSnapshot {
        /// The last entry that the snapshot's state has applied.
        last: LogPosition,
        /// The members as of that entry.
        conf_state: Box<ConfState>,
    },
    /// The follower holds the leader's log up to `matched`, durably.
    AppendResponse {
        /// The last index known to be equal and durable.
        matched: LogIndex,
        /// The latest round seen.
        read_round: u64,
    },
    /// The follower does not hold an Append's `previous`.
    AppendRejected {
        /// The index of that `previous`.
        rejected: LogIndex,
        /// The last position of the follower's log, at or before `rejected`, whose term is not above
        /// that of the refused `previous`: everything between cannot agree.
        hint: LogPosition,
        /// The latest round seen.
        read_round: u64,
    },
    /// The leader is there.
    Heartbeat {
        /// The leader's commit index, as far as the follower is known to hold it.
        commit: LogIndex,
        /// See [`Raft::matched_by_all`](crate::Raft::matched_by_all).
        matched_by_all: LogIndex,
        /// The latest round of reads that has begun; answers repeat it.
        read_round: u64,
    },
    /// The follower is there, and this is still its leader. With a higher term than the receiver's it
    /// only says that there is one.
    HeartbeatResponse {
        /// The round of the Heartbeat it answers.
        read_round: u64,
    },
    /// The leader wants the receiver, who has its whole log, to campaign now and succeed it (thesis §3.10).
    TimeoutNow,
    /// A follower asks its leader for an index at which reads that were asked of it are linearizable.
    ReadIndex {
        /// Which reads.
        asker: ForwardedRound,
    },
    /// Answers a [`MessageBody::ReadIndex`].
    ReadIndexResponse {
        /// What it answers.
        asker: ForwardedRound,
        /// The index at which they are linearizable.
        index: LogIndex,
    },
}

/// All reads that a follower has forwarded up to a moment, by which a request and its answer are matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ForwardedRound {
    /// The follower's [`Config::incarnation`](crate::Config::incarnation): an earlier life of it has
    /// counted from the same beginning.
    pub incarnation: u64,
    /// The follower's count.
    pub round: u64,
}
