//! What the engine tells about itself.

use pontoon_raft::Role;
use pontoon_store::ReplicaRecord;
use pontoon_types::{GroupId, LogIndex, NodeId, ReplicaId, ShardId, Term};
use std::fmt;
use std::ops::AddAssign;

/// A replica's state at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Its group.
    pub group: GroupId,
    /// The shard that the group owns.
    pub shard: ShardId,
    /// Its id in the group.
    pub replica: ReplicaId,
    /// What it is doing.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// The node of the leader it knows.
    pub leader: Option<NodeId>,
    /// The members of the group, as far as they are known here.
    pub members: Vec<MemberStatus>,
    /// Its commit index.
    pub commit: LogIndex,
    /// Its applied index.
    pub applied: LogIndex,
    /// The first index in its log.
    pub first: LogIndex,
    /// The last index in its log.
    pub last: LogIndex,
}

impl GroupStatus {
    /// The state of a replica that takes no part because its log is damaged.
    pub(crate) fn quarantined(record: &ReplicaRecord) -> Self {
        Self {
            group: record.group,
            shard: record.shard,
            replica: record.replica,
            role: RoleName::Stopped,
            term: Term::ZERO,
            leader: None,
            members: Vec::new(),
            commit: LogIndex::ZERO,
            applied: LogIndex::ZERO,
            first: LogIndex::ZERO,
            last: LogIndex::ZERO,
        }
    }
}

/// Replicas of a node that were lost, and those whose groups have healed, counted since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LostReplicas {
    /// Lost because what the log holds of them is damaged.
    pub by_log: u64,
    /// Lost because rows of theirs were in a damaged table.
    pub by_table: u64,
    /// Stopped for another reason: contradicted by a peer, or unable to read what a newer Pontoon has written.
    pub otherwise: u64,
    /// Of all these, those that have left their groups since, nearly always for a new replica on the same node.
    pub replaced: u64,
}

impl AddAssign for LostReplicas {
    fn add_assign(&mut self, other: Self) {
        self.by_log += other.by_log;
        self.by_table += other.by_table;
        self.otherwise += other.otherwise;
        self.replaced += other.replaced;
    }
}

/// Why a replica is lost.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    Log,
    Table,
    Contradicted,
    NewerLog,
}

impl Loss {
    /// What is said to those who still ask the replica.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Log => "its log cannot be read; the replica was stopped",
            Self::Table => "its state is damaged; the replica is rebuilt from its peers",
            Self::Contradicted => "a peer contradicted what is committed; the replica was stopped",
            Self::NewerLog => "its log is of a newer Pontoon; the replica was stopped",
        }
    }
}

/// A member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its id.
    pub replica: ReplicaId,
    /// Its node, if that is known.
    pub node: Option<NodeId>,
    /// Whether it votes; otherwise it is a learner.
    pub is_voter: bool,
}

/// What a replica is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it could win an election.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
    /// Takes no part any more, because of damage.
    Stopped,
}

impl RoleName {
    /// The role in one lower-case word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<Role> for RoleName {
    fn from(role: Role) -> Self {
        match role {
            Role::Follower => Self::Follower,
            Role::PreCandidate => Self::PreCandidate,
            Role::Candidate => Self::Candidate,
            Role::Leader => Self::Leader,
        }
    }
}
