//! A group's replica as its worker sees it: the protocol, and who waits for what.

use super::io::{Output, Read};
use crate::config::EngineConfig;
use crate::reply::{Reply, Waiter};
use crate::status::{GroupStatus, MemberStatus, RoleName};
use pontoon_raft::{ConfigError, ProposeError, Raft, ReadError, Ready, Restored};
use pontoon_store::{Pieces, ReplicaRecord};
use pontoon_types::{
    ConfChange, EntryKind, GroupId, HardState, Instant, LogIndex, LogPosition, NodeId, ReplicaId,
    Term, mutant,
};
use std::collections::{BTreeMap, VecDeque};

/// Raft's limits per peer and group that are no user's business.
mod limits {
    /// Appends on their way to a peer, beyond which a group waits for an answer.
    pub(super) const INFLIGHT_APPENDS: usize = 32;
    /// Entry bytes in them.
    pub(super) const INFLIGHT_BYTES: usize = 4 << 20;
    /// Entry bytes in one append.
    pub(super) const APPEND_BYTES: usize = 256 << 10;
    /// Entry bytes handed to the apply stage at once.
    pub(super) const APPLY_BYTES: usize = 1 << 20;
    /// Entry bytes kept in memory for a peer that lags a little.
    pub(super) const CACHED_BYTES: usize = 256 << 10;
}

#[derive(Debug)]
pub(crate) struct Group {
    node: NodeId,
    /// What the store notes of the replica, as far as it is known here; its members run ahead of what is applied.
    pub(crate) record: ReplicaRecord,
    pub(crate) raft: Raft,
    /// Set once the replica must not take part any more.
    pub(crate) failure: Option<&'static str>,
    /// Whether this cycle has to look at it.
    pub(crate) is_dirty: bool,
    /// A hard state of which only the commit index is new; written with the next record.
    pub(crate) hint: Option<HardState>,
    /// Proposals at whose index nothing is committed yet, ascending by index.
    proposals: VecDeque<(LogPosition, Waiter)>,
    /// Reads that wait for a quorum to confirm the leader, by the context of their round.
    asked: VecDeque<(u64, Vec<Read>)>,
    next_context: u64,
    /// The time that came with the reads of the last context. What is read at another time needs a context of its
    /// own: a lease that held when one read was asked says nothing about a later one.
    asked_at: Instant,
    /// Reads that are confirmed and wait for their index to be handed over.
    confirmed: VecDeque<(LogIndex, Vec<Read>)>,
    /// The last index handed to the apply stage.
    handed_over: LogIndex,
    /// The last index up to which the log was told to forget.
    compacted: LogIndex,
    /// Where a snapshot took the log's place, until the log has been told that its record of that is not needed.
    installed: Option<LogPosition>,
    /// A snapshot that Raft has been given and has not taken yet.
    pub(crate) staged: Option<(LogPosition, Box<ReplicaRecord>)>,
    /// Changes of members that are handed to the apply stage and not applied yet.
    changes: VecDeque<(LogIndex, ConfChange)>,
    /// Whether some node has several members: a lost one, and another that takes its place.
    pub(crate) is_doubled: bool,
    /// The replica that this leader has made in its term for a node that has lost one, and in which life of that node.
    pub(crate) made: Option<(u64, Term, ReplicaId)>,
    /// Per node that has lost a replica and is to have none: the life in which it said so, and the entry that this leader has
    /// proposed since.
    pub(crate) heard_of: BTreeMap<NodeId, (u64, LogPosition)>,
    /// The replica of which this leader has said, in its term, that it can be spared.
    pub(crate) spared: Option<(Term, ReplicaId)>,
    /// Where the rows were with whose damage this replica has asked whether it can be spared.
    pub(crate) damaged: Option<Pieces>,
    /// When it leaves the node, if it was removed.
    pub(crate) leave_at: Option<Instant>,
    /// When it asks whether it still is a member, if nobody is heard until then.
    pub(crate) ask_at: Option<Instant>,
    /// Whether it has asked everybody since it last heard of its group.
    pub(crate) has_asked: bool,
    /// It takes no part any more, and leaves.
    pub(crate) is_leaving: bool,
    /// What is known to be committed by one that leaves.
    pub(crate) committed: LogPosition,
    /// It has left; what is still on its way to it means nothing.
    pub(crate) is_buried: bool,
}

impl Group {
    pub(crate) fn new(
        node: NodeId,
        record: ReplicaRecord,
        restored: Restored,
        config: &EngineConfig,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        let (handed_over, compacted) = (restored.applied, restored.compacted);
        let raft = pontoon_raft::Config {
            group: record.group,
            id: record.replica,
            election_timeout: config.election_timeout,
            heartbeat_interval: config.heartbeat_interval,
            pre_vote: true,
            check_quorum: true,
            lease: config.lease_reads,
            max_clock_drift_percent: config.max_clock_drift_percent,
            election_rank: config.election_rank,
            incarnation: config.seed,
            max_inflight_appends: limits::INFLIGHT_APPENDS,
            max_inflight_bytes: limits::INFLIGHT_BYTES,
            max_append_bytes: limits::APPEND_BYTES,
            max_uncommitted_bytes: config.max_uncommitted_bytes,
            max_apply_bytes: limits::APPLY_BYTES,
            max_cached_bytes: limits::CACHED_BYTES,
            seed: config.seed,
        };
        let mut group = Self {
            node,
            record,
            raft: Raft::new(raft, restored, now)?,
            failure: None,
            is_dirty: false,
            hint: None,
            proposals: VecDeque::new(),
            asked: VecDeque::new(),
            next_context: 1,
            asked_at: now,
            confirmed: VecDeque::new(),
            handed_over,
            compacted: compacted.index,
            // The store may have had no flush since; telling the log once too often costs nothing.
            installed: (compacted.index > LogIndex::ZERO).then_some(compacted),
            staged: None,
            changes: VecDeque::new(),
            is_doubled: false,
            made: None,
            heard_of: BTreeMap::new(),
            spared: None,
            damaged: None,
            leave_at: None,
            ask_at: None,
            has_asked: false,
            is_leaving: false,
            committed: LogPosition::ZERO,
            is_buried: false,
        };
        group.find_doubles();
        Ok(group)
    }

    pub(crate) const fn id(&self) -> GroupId {
        self.record.group
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.failure.is_some() {
            return None;
        }
        let own = [self.leave_at, self.ask_at].into_iter().flatten();
        own.chain(self.raft.next_deadline()).min()
    }

    pub(crate) fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        self.record.members.node_of(replica)
    }

    /// The replica on another node.
    pub(crate) fn replica_on(&self, node: NodeId) -> Option<ReplicaId> {
        self.live_on(node).filter(|_| node != self.node)
    }

    pub(crate) const fn handed_over(&self) -> LogIndex {
        self.handed_over
    }

    /// A snapshot takes the place of the log and of the state.
    pub(crate) fn switched(&mut self, record: &ReplicaRecord, last: LogPosition) {
        self.record = record.clone();
        self.changes.clear();
        self.handed_over = last.index;
        self.compacted = last.index;
        self.installed = Some(last);
        // What was proposed here in an earlier leadership is decided by now, and how is not known here.
        self.proposals
            .retain(|(position, _)| position.index > last.index);
        // No read may be served from the old state as if it were the new one.
        let leader = self.leader();
        let asked = self.asked.drain(..).map(|asked| asked.1);
        let confirmed = self.confirmed.drain(..).map(|confirmed| confirmed.1);
        for read in asked.chain(confirmed).flatten() {
            read.refuse(Reply::NotLeader { leader });
        }
    }

    pub(crate) fn is_drained(&self) -> bool {
        let is_leaving = self.failure.is_none() && self.raft.transferee().is_some();
        self.proposals.is_empty()
            && self.asked.is_empty()
            && self.confirmed.is_empty()
            && !is_leaving
    }

    /// Hands the leadership over, if there is one and somebody to take it, so that nobody has to notice
    /// that the node is gone. Returns whether it tries.
    pub(crate) fn leave(&mut self, now: Instant) -> bool {
        let best = self
            .raft
            .best_transferee()
            .filter(|_| self.failure.is_none());
        best.is_some_and(|best| self.raft.transfer_leadership(best, now).is_ok())
    }

    /// Notes who waits for a proposal.
    ///
    /// Kept in the order of indexes. A leader that was deposed and leads again proposes at indexes where
    /// proposals of its former term still wait: their fate is known only when something is committed
    /// there, and they must not stand in the way of those behind them.
    pub(crate) fn proposed(&mut self, position: LogPosition, waiter: Waiter) {
        let at = self
            .proposals
            .partition_point(|(proposed, _)| proposed.index <= position.index);
        self.proposals.insert(at, (position, waiter));
    }

    /// Asks for a read. All reads of one moment share a context, and all of one cycle a round of confirmation.
    pub(crate) fn ask_read(&mut self, read: Read, now: Instant) {
        if let Some(reason) = self.failure {
            return read.refuse(Reply::Unavailable { reason });
        }
        if let Some((context, reads)) = self.asked.back_mut()
            && *context == self.next_context
        {
            if self.asked_at == now {
                return reads.push(read);
            }
            self.next_context += 1;
        }
        self.asked_at = now;
        match self.raft.read_index(self.next_context, now) {
            Ok(()) => self.asked.push_back((self.next_context, vec![read])),
            Err(ReadError::NotLeader { leader }) => {
                let leader = leader.and_then(|leader| self.node_of(leader));
                read.refuse(Reply::NotLeader { leader });
            }
            Err(ReadError::Stopped) => {
                read.refuse(Reply::Unavailable {
                    reason: "the replica has stopped",
                });
            }
            Err(ReadError::Overloaded { .. }) => {
                read.refuse(Reply::Overloaded {
                    reason: "too many reads wait to be confirmed",
                });
            }
        }
    }

    /// Passes on what is committed, with those who wait for it, and the reads that have become due.
    /// Returns the bytes of the entries.
    pub(crate) fn hand_over(&mut self, ready: &mut Ready, out: &mut Output) -> usize {
        // The reads that come from now on need a round of their own.
        self.next_context += u64::from(self.asked.back().is_some_and(|a| a.0 == self.next_context));
        let mut bytes = 0;
        for entry in ready.committed.drain(..) {
            let position = entry.position();
            assert_eq!(
                position.index,
                self.handed_over.next(),
                "group {} hands over its entries in order, each once",
                self.id()
            );
            self.handed_over = position.index;
            bytes += entry.encoded_len();
            if entry.kind() == EntryKind::ConfChange
                && let Ok(change) = ConfChange::decode(entry.payload())
            {
                self.changes.push_back((position.index, change));
            }
            while let Some((proposed, _)) = self.proposals.front()
                && proposed.index <= position.index
            {
                let (proposed, waiter) = self.proposals.pop_front().expect("a front was just seen");
                let is_same = proposed == position
                    || mutant!(AnswersByIndex) && proposed.index == position.index;
                if is_same {
                    out.apply.waiters.push((out.apply.entries.len(), waiter));
                } else {
                    // Another leader's entry took the place: the proposal can never be committed.
                    waiter.reply(Reply::NotLeader {
                        leader: self.leader(),
                    });
                }
            }
            out.apply.entries.push(entry);
        }
        out.apply.bytes += bytes;
        for read in ready.reads.drain(..) {
            if let Some(at) = self
                .asked
                .iter()
                .position(|(context, _)| *context == read.context)
            {
                let (_, reads) = self.asked.remove(at).expect("the position was just found");
                self.confirmed.push_back((read.index, reads));
            }
        }
        while self
            .confirmed
            .front()
            .is_some_and(|(index, _)| *index <= self.handed_over || mutant!(ReadsUnapplied))
        {
            let (_, reads) = self.confirmed.pop_front().expect("a front was just seen");
            let id = self.id();
            out.apply
                .reads
                .extend(reads.into_iter().map(|read| (id, read)));
        }
        for context in ready.reads_refused.drain(..) {
            let leader = self.leader();
            if let Some(at) = self.asked.iter().position(|(asked, _)| *asked == context) {
                let (_, reads) = self.asked.remove(at).expect("the position was just found");
                reads
                    .into_iter()
                    .for_each(|read| read.refuse(Reply::NotLeader { leader }));
            }
        }
        bytes
    }

    /// The members are others now, as of what is applied.
    pub(crate) fn members_changed(&mut self) {
        let applied = self.raft.applied();
        if self
            .changes
            .front()
            .is_none_or(|(index, _)| *index > applied)
        {
            return;
        }
        while let Some((_, change)) = self.changes.pop_front_if(|(index, _)| *index <= applied) {
            self.record.members.apply(&change, self.raft.conf_state());
        }
        self.find_doubles();
    }

    /// The members, with their nodes.
    fn members(&self) -> Vec<MemberStatus> {
        let conf = self.raft.conf_state();
        let members = conf.members().into_iter();
        let status = |replica| MemberStatus {
            replica,
            node: self.node_of(replica),
            is_voter: conf.is_voter(replica),
        };
        members.map(status).collect()
    }

    /// What to answer for a proposal that was refused.
    pub(crate) fn refusal(&self, error: &ProposeError) -> Reply {
        let node_of = |replica: Option<ReplicaId>| replica.and_then(|one| self.node_of(one));
        match error {
            ProposeError::NotLeader { leader } => Reply::NotLeader {
                leader: node_of(*leader),
            },
            ProposeError::Transferring { to } => Reply::NotLeader {
                leader: node_of(Some(*to)),
            },
            ProposeError::Overloaded { .. } => Reply::Overloaded {
                reason: "too much waits to be committed",
            },
            ProposeError::TooLarge { .. } => Reply::Unavailable {
                reason: "the command is too large for an entry",
            },
            ProposeError::ConfChange(refusal) => Reply::Refused {
                reason: refusal.to_string(),
            },
            ProposeError::Stopped => Reply::Unavailable {
                reason: "the replica has stopped",
            },
        }
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.raft.leader().and_then(|leader| self.node_of(leader))
    }

    /// How far the log may forget: what is durable in the store here, except for a tail that followers may need who
    /// lag a little. `None` if that is nothing new.
    pub(crate) fn compact(&mut self, applied: LogIndex, tail_entries: u64) -> Option<LogPosition> {
        let installed = self
            .installed
            .take_if(|installed| installed.index <= applied);
        let applied = if mutant!(ForgetsUnflushed) {
            self.handed_over
        } else {
            applied
        };
        let index = applied
            .min(self.raft.compactable(tail_entries))
            .min(self.handed_over);
        if index <= self.compacted {
            return installed;
        }
        let term = self.raft.term_at(index)?;
        self.compacted = index;
        self.raft.compact(index);
        Some(LogPosition { term, index })
    }

    /// Whether the log holds something of it that goes without anybody's help: what is committed is applied here,
    /// flushed and forgotten. A full log can wait for that; not for what others must commit first, whose logs may be
    /// as full.
    pub(crate) fn will_make_room(&self) -> bool {
        self.raft.commit() > self.compacted
    }

    /// Takes the replica out of everything, and tells those who wait.
    pub(crate) fn fail(&mut self, reason: &'static str) {
        self.failure = Some(reason);
        self.proposals.clear(); // Each waiter answers "unknown" when it is dropped.
        let reads = self.asked.drain(..).map(|asked| asked.1);
        for read in reads
            .chain(self.confirmed.drain(..).map(|confirmed| confirmed.1))
            .flatten()
        {
            read.refuse(Reply::Unavailable { reason });
        }
    }

    pub(crate) fn status(&self) -> GroupStatus {
        GroupStatus {
            group: self.id(),
            shard: self.record.shard,
            replica: self.record.replica,
            role: match self.failure {
                Some(_) => RoleName::Stopped,
                None => self.raft.role().into(),
            },
            term: self.raft.term(),
            leader: self.leader(),
            members: self.members(),
            commit: self.raft.commit(),
            applied: self.raft.applied(),
            first: self.raft.first_index(),
            last: self.raft.last_position().index,
        }
    }
}
