//! What goes into a worker and what comes out of it.

use crate::frame::{Frame, Lane};
use crate::reply::{Reply, Waiter};
use crate::status::GroupStatus;
use bytes::Bytes;
use pontoon_raft::{FetchPurpose, Message};
use pontoon_store::{Pieces, ReplicaRecord};
use pontoon_types::{
    ConfState, Entry, Epoch, GroupId, LogIndex, LogPosition, NodeId, ReplicaId, ShardId, TabletId,
    Term,
};
use pontoon_wal::SealedBatch;
use std::fmt;

/// One thing that happened.
pub enum Input {
    /// A client's command for a group.
    Propose {
        /// The group.
        group: GroupId,
        /// The encoded [`pontoon_types::Command`], which becomes the entry's payload as it is.
        command: Bytes,
        /// Who waits for the result.
        waiter: Waiter,
    },
    /// Put a mark into the log of a group.
    Mark {
        /// The group.
        group: GroupId,
        /// Who waits for its index.
        waiter: Waiter,
    },
    /// A linearizable read of a group.
    Read {
        /// The group.
        group: GroupId,
        /// What is read, and who waits for it.
        read: Read,
    },
    /// A frame from a peer's worker.
    Frame {
        /// The node that sent it, as its certificate says.
        from: NodeId,
        /// The frame.
        frame: Bytes,
    },
    /// The log has synced every batch up to this one.
    Durable {
        /// The sequence of [`LogBatch`].
        sequence: u64,
    },
    /// The log's disk has not answered for long: who waits for what is led here is better off elsewhere.
    LogHangs,
    /// The apply stage has applied entries.
    Applied {
        /// The last applied index of each group that moved.
        indexes: Vec<(GroupId, LogIndex)>,
        /// The bytes of the entries, as counted by [`ApplyBatch::bytes`].
        bytes: usize,
    },
    /// Entries that a [`Fetch`] asked for.
    Fetched {
        /// The group.
        group: GroupId,
        /// What they are for.
        purpose: FetchPurpose,
        /// The entries; fewer than asked for if there are too many for one answer.
        entries: Vec<Entry>,
    },
    /// Entries of a replica's log are damaged on the disk.
    LogUnreadable {
        /// The group.
        group: GroupId,
        /// Which ones.
        indexes: Vec<LogIndex>,
    },
    /// Rows of a replica's state are damaged in the store.
    StateDamaged {
        /// The group.
        group: GroupId,
        /// Where its rows are. If they are elsewhere by now, it is not concerned.
        pieces: Pieces,
        /// Whether it cannot apply its log any more.
        is_stuck: bool,
    },
    /// The connection to a node broke: what was sent to it may be lost.
    PeerLost {
        /// The node.
        node: NodeId,
    },
    /// Start an election now: this replica was chosen to be the first leader of its group.
    Campaign {
        /// The group.
        group: GroupId,
    },
    /// Hand the leadership of a group over to the replica on a node.
    TransferLeadership {
        /// The group.
        group: GroupId,
        /// The node.
        to: NodeId,
    },
    /// What a finished flush of the store covers, so that the log may be cut.
    Compact {
        /// Per group, the applied index that is durable in the store.
        applied: Vec<(GroupId, LogIndex)>,
        /// Groups that take more of the log than their quota, or have lost something of it, ascending: their log keeps no
        /// tail.
        without_tail: Vec<GroupId>,
    },
    /// Whether the log has room for new proposals.
    LogPressure {
        /// True if it has not.
        full: bool,
    },
    /// Change the members of a group.
    ChangeMembers {
        /// The group.
        group: GroupId,
        /// What to change, in one step: several changes go through a joint configuration.
        steps: Vec<MemberStep>,
        /// Who waits for it. Answered when the change is applied; a joint configuration is left after that.
        waiter: Waiter,
    },
    /// The carrier has a state of this group pinned, for a snapshot that [`SnapshotOrder::Wanted`] ordered.
    SnapshotPinned {
        /// The group.
        group: GroupId,
        /// The peer that is to get it.
        peer: ReplicaId,
        /// The carrier's number for it.
        transfer: u64,
        /// What that state has applied.
        applied: LogIndex,
        /// The members as of there.
        conf_state: ConfState,
    },
    /// A peer has received its snapshot whole.
    SnapshotDelivered {
        /// The group.
        group: GroupId,
        /// The peer.
        peer: ReplicaId,
    },
    /// A peer's snapshot was given up.
    SnapshotFailed {
        /// The group.
        group: GroupId,
        /// The peer.
        peer: ReplicaId,
    },
    /// A snapshot is offered to a replica here: is it wanted? Answered with [`SnapshotOrder::Answered`].
    SnapshotOffered {
        /// The group.
        group: GroupId,
        /// The node that offers it.
        from: NodeId,
        /// Its replica.
        sender: ReplicaId,
        /// The replica that is to get it.
        to: ReplicaId,
        /// The sender's term.
        term: Term,
        /// What it is of.
        last: LogPosition,
    },
    /// A snapshot is here, staged in a tablet of its own, durably.
    SnapshotStaged {
        /// The node that sent it.
        from: NodeId,
        /// The InstallSnapshot that it came with.
        message: Box<Message>,
        /// The record of the replica that this one becomes.
        record: Box<ReplicaRecord>,
    },
    /// Somebody wants to know the state of every group.
    Status {
        /// Takes the answer.
        reply: Box<dyn FnOnce(Vec<GroupStatus>) + Send>,
    },
    /// Take no new proposals, and hand over what is led here: the node is about to stop.
    Stop,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Propose { group, .. } => write!(f, "Propose({group})"),
            Self::Mark { group, .. } => write!(f, "Mark({group})"),
            Self::Read { group, read } => write!(f, "Read({group}, {:?})", read.query),
            Self::Frame { from, frame } => write!(f, "Frame(from {from}, {} B)", frame.len()),
            Self::Durable { sequence } => write!(f, "Durable({sequence})"),
            Self::Applied { indexes, .. } => write!(f, "Applied({indexes:?})"),
            Self::Fetched { group, entries, .. } => {
                write!(f, "Fetched({group}, {} entries)", entries.len())
            }
            Self::LogUnreadable { group, indexes } => {
                write!(f, "LogUnreadable({group}, {indexes:?})")
            }
            Self::StateDamaged { group, pieces, .. } => {
                write!(f, "StateDamaged({group}, in tablet {})", pieces.first())
            }
            Self::PeerLost { node } => write!(f, "PeerLost({node})"),
            Self::Campaign { group } => write!(f, "Campaign({group})"),
            Self::TransferLeadership { group, to } => {
                write!(f, "TransferLeadership({group}, {to})")
            }
            Self::Compact {
                applied,
                without_tail,
            } => write!(f, "Compact({applied:?}, {without_tail:?})"),
            Self::LogPressure { full } => write!(f, "LogPressure({full})"),
            Self::ChangeMembers { group, steps, .. } => {
                write!(f, "ChangeMembers({group}, {steps:?})")
            }
            Self::SnapshotPinned { group, peer, .. } => {
                write!(f, "SnapshotPinned({group}, for {peer})")
            }
            Self::SnapshotDelivered { group, peer } => {
                write!(f, "SnapshotDelivered({group}, to {peer})")
            }
            Self::SnapshotFailed { group, peer } => write!(f, "SnapshotFailed({group}, to {peer})"),
            Self::SnapshotOffered {
                group, to, last, ..
            } => {
                write!(f, "SnapshotOffered({group}, to {to}, at {last:?})")
            }
            Self::SnapshotStaged { record, .. } => write!(f, "SnapshotStaged({})", record.group),
            Self::Status { .. } => write!(f, "Status"),
            Self::LogHangs => write!(f, "LogHangs"),
            Self::Stop => write!(f, "Stop"),
        }
    }
}

/// One step of a change of members, in terms of nodes: a node has at most one live replica of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberStep {
    /// The node gets a new replica, which follows without a vote.
    AddLearner(NodeId),
    /// The learner on the node gets a vote; or the node gets a new replica that has one at once.
    AddVoter(NodeId),
    /// The voter on the node loses its vote, and goes on as a learner.
    Demote(NodeId),
    /// The replica on the node is no member any more, and leaves the node. So does a lost one whose place it was to take.
    Remove(NodeId),
}

/// What the carrier of snapshots is to do; see [`crate::snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotOrder {
    /// Take a snapshot of a group and bring it to a peer.
    Wanted {
        /// The group.
        group: GroupId,
        /// The peer.
        peer: ReplicaId,
        /// Its node.
        to: NodeId,
    },
    /// The pinned snapshot is to travel with this message, or, without one, not at all.
    Taken {
        /// The carrier's number for it.
        transfer: u64,
        /// The InstallSnapshot.
        message: Option<Box<Message>>,
    },
    /// Whether what was offered is wanted.
    Answered {
        /// The group.
        group: GroupId,
        /// Whether it is.
        answer: OfferAnswer,
    },
}

/// What a worker says to a snapshot that is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfferAnswer {
    /// The replica needs it.
    Wanted,
    /// The replica holds all that is in it.
    Held,
    /// It is for nobody here, or from nobody who may offer it.
    Refused,
}

/// A read and who waits for it.
#[derive(Debug)]
pub struct Read {
    /// The shard it was routed to.
    pub shard: ShardId,
    /// The epoch by which it was routed; checked again when it is served.
    pub epoch: Epoch,
    /// What it reads.
    pub query: ReadQuery,
    /// Who waits for it.
    pub waiter: Waiter,
}

/// What a read reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadQuery {
    /// The value of one key.
    Get {
        /// The key.
        key: Bytes,
    },
    /// The rows of a range, in key order.
    Scan {
        /// The first key.
        from: Bytes,
        /// The key before which it ends; empty for the end of the shard.
        to: Bytes,
        /// At most this many rows.
        max_rows: usize,
        /// About at most this many bytes of keys and values, but at least one row.
        max_bytes: usize,
    },
}

/// All that one cycle wants done.
#[derive(Debug, Default)]
pub struct Output {
    /// What must reach the log.
    pub log: Option<LogBatch>,
    /// One frame per peer and lane, or a few if one would be too long; in order, and they may leave at once.
    pub frames: Vec<(NodeId, Lane, Frame)>,
    /// What is committed, and the reads that may follow it.
    pub apply: ApplyBatch,
    /// Entries that are no longer in memory and are wanted from the log.
    pub fetches: Vec<Fetch>,
    /// For the carrier of snapshots.
    pub snapshots: Vec<SnapshotOrder>,
}

/// A batch on its way to the log.
#[derive(Debug)]
pub struct LogBatch {
    /// The records.
    pub batch: SealedBatch,
    /// Comes back as [`Input::Durable`]. Rises by one with every batch of a worker.
    pub sequence: u64,
}

/// Committed entries of all groups of a worker, each group's in order, and reads to be served after.
#[derive(Debug, Default)]
pub struct ApplyBatch {
    /// States that take a replica's place, before `entries`: the log has them, durably.
    pub switches: Vec<Switch>,
    /// The entries.
    pub entries: Vec<Entry>,
    /// Who waits for which entry, as positions in `entries`, ascending.
    pub waiters: Vec<(usize, Waiter)>,
    /// Reads that may be served once all of `entries`, and all that was handed out before, is applied.
    pub reads: Vec<(GroupId, Read)>,
    /// The encoded length of all entries.
    pub bytes: usize,
}

impl ApplyBatch {
    /// Whether there is nothing to apply and nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.reads.is_empty() && self.switches.is_empty()
    }
}

/// What becomes of a replica's state, other than by entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Switch {
    /// A snapshot takes its place.
    Install {
        /// The replica's record from now on; its tablet is the one in which the snapshot was staged.
        record: Box<ReplicaRecord>,
        /// What the snapshot has applied.
        applied: LogIndex,
    },
    /// The replica has left the node.
    Remove(GroupId),
    /// A staged snapshot is not wanted.
    Discard(TabletId),
}

/// Entries that a group wants from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The group.
    pub group: GroupId,
    /// Which entries, and what for.
    pub fetch: pontoon_raft::Fetch,
}

impl Read {
    /// Answers that this read was not served, and that it may be asked again.
    pub(crate) fn refuse(self, reply: Reply) {
        self.waiter.reply(reply);
    }
}
