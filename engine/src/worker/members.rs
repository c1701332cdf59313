//! Replicas that come and go.
//!
//! A replica is made known to its node by the first message for it, and knows nothing: it may vote, takes no entries
//! and asks for a snapshot, which brings everything else (`pontoon_raft::membership`). It leaves when its removal is
//! applied, or when it hears that it was removed: whenever it answers somebody who knows, and for that it asks when it is alone, and
//! when its node is called by the id of a later replica. One that has nothing yet just makes room for the later one. What it leaves behind is a tombstone
//! in the log: ids only rise, so whatever is said to a replica up to that one is about somebody who is gone.

use super::group::Group;
use super::io::{MemberStep, Switch};
use super::{InFlight, Removed, STOPPING, Worker};
use crate::frame::Lane;
use crate::reply::{Reply, Waiter};
use pontoon_raft::{Message, MessageBody, ProposeError, Restored, Role};
use pontoon_store::ReplicaRecord;
use pontoon_types::{
    ConfChange, Epoch, GroupId, HardState, Instant, LogIndex, LogPosition, MemberChange, Members,
    NodeId, ReplicaId, ShardId, TabletId, Transition, mutant,
};
use std::time::Duration;

/// After so many election timeouts alone a replica asks whether it still is a member.
pub(super) const ASK_AFTER: u32 = 4;

/// Replicas that a group knows beside its members.
const MAX_STRANGERS: usize = 16;

/// Replicas of a worker that know nothing yet. More wait until some have their snapshots (S11).
const MAX_BLANK: usize = 4096;

/// What a replica that is told to leave gives as its reason to those who still ask it.
const REMOVED: &str = "the replica was removed from its group";

impl Worker {
    /// The slot of the replica that a message is for, if there is one that takes part.
    ///
    /// Without one it may be the first that this node hears of it; then it is made.
    pub(super) fn addressed(
        &mut self,
        from: NodeId,
        group: GroupId,
        message: &Message,
        now: Instant,
    ) -> Option<usize> {
        let calls = match message.body {
            MessageBody::RequestVote { .. }
            | MessageBody::Append { .. }
            | MessageBody::Heartbeat { .. } => true,
            MessageBody::VoteResponse { .. }
            | MessageBody::AppendResponse { .. }
            | MessageBody::AppendRejected { .. }
            | MessageBody::HeartbeatResponse { .. }
            | MessageBody::InstallSnapshot { .. }
            | MessageBody::TimeoutNow
            | MessageBody::ReadIndex { .. }
            | MessageBody::ReadIndexResponse { .. } => false,
        };
        let slot = self.slot(group);
        if let Some(slot) = slot {
            let own = self.groups[slot].raft.id();
            if own == message.to {
                return Some(slot).filter(|slot| self.groups[*slot].failure.is_none());
            }
            if own > message.to {
                // It may even lead: others of a group that was recovered by force, who came back.
                if calls && self.groups[slot].has_left(message.from) {
                    self.tell_gone(from, slot, message.from);
                }
                self.answer_for_gone(from, group, message);
                return None;
            }
        }
        if message.to == message.from {
            return None;
        }
        // A frame may hold what is for others, if its sender shares its groups out in another way.
        let is_own = group.0 % u64::from(self.origin.workers) == u64::from(self.origin.worker);
        if !calls || !is_own || self.stopping {
            return None;
        }
        if self.answer_for_gone(from, group, message) && !mutant!(GoneComeBack) {
            return None;
        }
        if let Some(slot) = slot {
            let group = &self.groups[slot];
            let (id, own) = (group.id(), group.raft.id());
            if group.is_lost() || !group.is_initialised() {
                // It has nothing, or nothing that could be trusted.
                self.retire(slot, LogPosition::ZERO);
            } else {
                // Its group may have gone on without the one that is here.
                self.frame_to(from, Lane::Control).push_question(id, own);
            }
            return None;
        }
        if let Some(lost) = self.quarantined.get_mut(&group) {
            // It may have been here before, whatever the log remembers: it is lost as well, until its group says that it
            // is fresh. Whoever calls may be the one who has to know.
            lost.replica = lost.replica.max(message.to);
            if lost.members.iter().count() < MAX_STRANGERS {
                lost.members.learn(message.from, from);
            }
            return None;
        }
        let is_unknown = !self.removed.contains_key(&group) && !self.dormant.contains_key(&group);
        if self.quarantined.len() >= self.groups.len() + MAX_BLANK {
            return None;
        }
        if self.condemned.contains(&group) || self.condemns_unknown && is_unknown {
            // What this one has promised is lost, if it was here before. Its group replaces it, if it was not as well.
            tracing::error!(%group, replica = %message.to, "a replica's log is damaged; quarantined it");
            self.condemn(self.blank(from, group, message), now);
            return None;
        }
        if self.blank >= MAX_BLANK {
            return None;
        }
        // What it takes over from the one before it must be durable, for it may speak of it at once (S6).
        let before = self.removed.get(&group);
        let is_settled = before.is_none_or(|before| before.batch < self.oldest_in_flight());
        is_settled.then(|| self.make(from, group, message, now))?
    }

    /// Answers a candidate in the name of a replica that has left: no, but this is committed. The candidate may hold the
    /// very change that removed the replica without knowing that it is committed, and so ask for a vote that nobody can
    /// give any more: of two members, the one that stays could never lead again.
    ///
    /// Returns whether the message is for a replica that has left.
    fn answer_for_gone(&mut self, from: NodeId, group: GroupId, message: &Message) -> bool {
        let removed = self.removed.get(&group).copied();
        let removed = removed.filter(|one| one.replica >= message.to);
        let Some(Removed {
            committed, batch, ..
        }) = removed
        else {
            return false;
        };
        if batch >= self.oldest_in_flight() {
            return true; // It speaks of a term, which is to be durable first (S6).
        }
        let MessageBody::RequestVote { pre, .. } = message.body else {
            return true;
        };
        if committed == LogPosition::ZERO || mutant!(GoneStaySilent) {
            return true;
        }
        let answer = Message {
            from: message.to,
            to: message.from,
            term: committed.term,
            body: MessageBody::VoteResponse {
                granted: false,
                pre,
                committed,
            },
        };
        self.frame_to(from, Lane::Control).push(group, &answer);
        true
    }

    /// Makes a replica that knows nothing but who has called it.
    fn make(
        &mut self,
        from: NodeId,
        group: GroupId,
        message: &Message,
        now: Instant,
    ) -> Option<usize> {
        let promised = self.dormant.get(&group).copied().unwrap_or_default();
        let restored = Restored {
            // Its log has nothing that could be committed.
            hard_state: HardState {
                commit: LogIndex::ZERO,
                ..promised
            },
            ..Restored::default()
        };
        match self.add_group(self.blank(from, group, message), restored, now) {
            Ok(()) => {
                self.dormant.remove(&group);
                self.blank += 1;
                if self.blank == MAX_BLANK {
                    tracing::warn!(
                        "{MAX_BLANK} replicas wait for their first snapshots; no more are taken on until some have them"
                    );
                }
                tracing::info!(%group, replica = %message.to, "took on a new replica");
                self.slot(group)
            }
            Err(error) => {
                tracing::error!(%group, %error, "cannot take on a replica");
                None
            }
        }
    }

    /// The record of a replica that knows nothing but who has called it.
    fn blank(&self, from: NodeId, group: GroupId, message: &Message) -> ReplicaRecord {
        ReplicaRecord {
            group,
            shard: ShardId(0),
            replica: message.to,
            start: bytes::Bytes::new(),
            end: bytes::Bytes::new(),
            epoch: Epoch::default(),
            pieces: TabletId(0).into(),
            conf_state: pontoon_types::ConfState::default(),
            members: Members::new([(message.from, from), (message.to, self.node)]),
            descriptor: bytes::Bytes::new(),
        }
    }

    /// Takes a replica out of everything. It is buried when what it has handed out is applied, so that nothing of
    /// it meets its successor.
    ///
    /// `told` is what others have said to be committed.
    fn retire(&mut self, slot: usize, told: LogPosition) {
        let group = &mut self.groups[slot];
        if !group.is_leaving {
            tracing::info!(group = %group.id(), replica = %group.raft.id(), "a replica leaves");
            // What a replica that has failed believes to be committed is not to be trusted.
            let index = group.raft.commit();
            let term = group
                .raft
                .term_at(index)
                .filter(|_| group.failure.is_none());
            let own = term.map_or(LogPosition::ZERO, |term| LogPosition { term, index });
            group.fail(REMOVED);
            group.is_leaving = true;
            group.committed = if told.index > own.index { told } else { own };
        }
        self.bury_if_done(slot);
    }

    pub(super) fn bury_if_done(&mut self, slot: usize) {
        let group = &self.groups[slot];
        if group.is_leaving && !group.is_buried && group.is_applied() {
            let (id, replica) = (group.id(), group.raft.id());
            let committed = group.committed;
            if !self.groups[slot].is_initialised() {
                self.blank -= 1;
            }
            self.groups[slot].is_buried = true;
            self.discard_unused(slot);
            self.slots.remove(&id);
            self.compactions.retain(|(group, _)| *group != id);
            self.vacant.push_back((self.next_batch, slot));
            self.bury(id, replica, committed);
        }
    }

    /// The tombstone first; the store forgets the replica when that is durable. What the replica knew to be committed is
    /// kept where a replica's commit index always is.
    pub(super) fn bury(&mut self, group: GroupId, replica: ReplicaId, committed: LogPosition) {
        let LogPosition { term, index } = committed;
        self.batch.tombstone(group, replica);
        let state = HardState {
            term,
            vote: None,
            commit: index,
        };
        // The tombstone ends whatever else the log remembers.
        self.dormant.remove(&group);
        if committed != LogPosition::ZERO {
            self.batch.hard_state(group, &state);
            self.dormant.insert(group, state);
        }
        let batch = self.next_batch;
        let removed = Removed {
            replica,
            committed,
            batch,
        };
        self.removed.insert(group, removed);
        self.buried.push(group);
    }

    /// What waits for the tombstones of this cycle.
    pub(super) fn gather_buried(&mut self, in_flight: &mut InFlight) {
        let removals = self.buried.drain(..).map(Switch::Remove);
        in_flight.switches.extend(removals);
    }

    /// The members are others now, as of what is applied.
    pub(super) fn members_changed(&mut self, slot: usize, now: Instant) {
        let group = &mut self.groups[slot];
        group.members_changed();
        if group.is_sole() {
            let id = group.id();
            self.note_healed(id);
        }
        self.note_others(slot);
        self.leave_later(slot, now);
    }

    /// Takes note of the nodes of a group's members.
    pub(super) fn note_others(&mut self, slot: usize) {
        let members = self.groups[slot].record.members.iter();
        let nodes = members.map(|(_, node)| node);
        self.others.extend(nodes.filter(|node| *node != self.node));
    }

    /// A replica that is no member leaves. Those who have not applied it yet may need its vote for a while.
    pub(super) fn leave_later(&mut self, slot: usize, now: Instant) {
        let grace = 2 * self.config.election_timeout;
        let group = &mut self.groups[slot];
        if group.is_initialised() && !group.is_member() {
            group.leave_at = Some(now + grace);
        }
        group.ask_later(now, ASK_AFTER * self.config.election_timeout);
    }

    pub(super) fn leave_if_due(&mut self, slot: usize, now: Instant) {
        if self.groups[slot].leave_at.is_some_and(|at| at <= now) {
            self.groups[slot].leave_at = None;
            self.retire(slot, LogPosition::ZERO);
        }
        if self.groups[slot].ask_at.is_some_and(|at| at <= now) {
            let group = &mut self.groups[slot];
            group.ask_later(now, ASK_AFTER * self.config.election_timeout);
            group.has_asked = true;
            let (id, own) = (group.id(), group.raft.id());
            // Not just the members that it knows: all of them may have left since, for others that it has never met.
            for node in self.others.clone() {
                self.frame_to(node, Lane::Control).push_question(id, own);
            }
        }
    }

    /// Proposes a change of members that somebody asked for.
    pub(super) fn change_members(
        &mut self,
        group: GroupId,
        steps: &[MemberStep],
        waiter: Waiter,
        now: Instant,
    ) {
        let Some(slot) = self.slot(group) else {
            return waiter.reply(Reply::NoReplica { group });
        };
        if self.stopping {
            return waiter.reply(STOPPING);
        }
        let group = &mut self.groups[slot];
        if let Some(reason) = group.failure {
            return waiter.reply(Reply::Unavailable { reason });
        }
        let proposed = match group.change_of(steps) {
            Ok(change) => group.raft.propose_conf_change(&change, now),
            // Only the leader's members are sure to be the present ones.
            Err(_) if group.raft.role() != Role::Leader => Err(ProposeError::NotLeader {
                leader: group.raft.leader(),
            }),
            Err(reason) => return waiter.reply(Reply::Refused { reason }),
        };
        self.proposed(slot, proposed, waiter);
    }

    /// A replica that has left and does not know it wants to be elected, answers the last word of its leader or still asks for a
    /// snapshot. Others would never call on it, and it would stay for ever, with its log.
    pub(super) fn tell_if_gone(&mut self, slot: usize, from: NodeId, message: &Message) {
        let group = &self.groups[slot];
        let asks = matches!(
            message.body,
            MessageBody::RequestVote { .. }
                | MessageBody::HeartbeatResponse { .. }
                | MessageBody::AppendRejected { .. }
        );
        if asks && group.has_left(message.from) {
            self.tell_gone(from, slot, message.from);
        }
    }

    /// A node asks whether its replica still is a member. Silence means yes, or that nobody here knows.
    pub(super) fn hear_question(
        &mut self,
        from: NodeId,
        group: GroupId,
        replica: ReplicaId,
        now: Instant,
    ) {
        let Some(slot) = self.usable(group) else {
            return;
        };
        let group = &mut self.groups[slot];
        if group.has_left(replica) {
            return self.tell_gone(from, slot, replica);
        }
        // It was given up for lost, and is back whole: the one that was to take its place is not needed.
        let surplus = group.live_on(from).filter(|live| {
            let is_back =
                group.raft.conf_state().is_member(replica) && group.node_of(replica) == Some(from);
            is_back && *live > replica && !group.raft.conf_state().is_voter(*live)
        });
        if let Some(surplus) = surplus {
            let change = ConfChange::one(MemberChange::Remove(surplus));
            if group.raft.propose_conf_change(&change, now).is_ok() {
                self.touch(slot);
            }
        }
    }

    /// With it goes what is committed, the removal included: it may be that nobody but the one that leaves can tell.
    pub(super) fn tell_gone(&mut self, node: NodeId, slot: usize, replica: ReplicaId) {
        let group = &self.groups[slot];
        let (id, index) = (group.id(), group.raft.applied());
        let Some(term) = group.raft.term_at(index) else {
            return;
        };
        let committed = LogPosition { term, index };
        self.frame_to(node, Lane::Control)
            .push_gone(id, replica, committed);
    }

    /// A node says that a replica here is no member any more.
    pub(super) fn hear_gone(
        &mut self,
        from: NodeId,
        group: GroupId,
        gone: ReplicaId,
        committed: LogPosition,
    ) {
        if let Some(slot) = self.slot(group) {
            let group = &self.groups[slot];
            let is_member = if group.is_initialised() {
                group.live_on(from).is_some()
            } else {
                group.record.members.iter().any(|(_, node)| node == from)
            };
            let is_known = is_member || group.has_asked || group.is_lost();
            if group.raft.id() == gone && is_known {
                let id = group.id();
                self.note_healed(id);
                self.retire(slot, committed);
            }
        }
    }
}

impl Group {
    /// Whether a message of `replica` may come from `node`. Who is not known yet, because it joined later than what is
    /// applied here, is believed: its certificate says where it is, and Raft what it may say.
    pub(super) fn speaks_for(&self, replica: ReplicaId, node: NodeId) -> bool {
        self.node_of(replica).is_none_or(|known| known == node)
    }

    /// The member on a node that is alive: the latest.
    pub(super) fn live_on(&self, node: NodeId) -> Option<ReplicaId> {
        self.members_on(node).max()
    }

    /// The members on a node: the one that is alive, and lost ones that it is to replace.
    fn members_on(&self, node: NodeId) -> impl Iterator<Item = ReplicaId> {
        let members = self.raft.conf_state().members().into_iter();
        members.filter(move |member| self.node_of(*member) == Some(node))
    }

    /// The change that makes these steps.
    fn change_of(&self, steps: &[MemberStep]) -> Result<ConfChange, String> {
        let conf = self.raft.conf_state();
        let mut next = self.record.members.next_replica();
        let (mut changes, mut nodes) = (Vec::new(), Vec::new());
        let mut add = |node| {
            let id = next;
            next = ReplicaId(next.0 + 1);
            nodes.push((id, node));
            id
        };
        let absent = |node| format!("node {node} has no replica of the group");
        for step in steps {
            let change = match *step {
                MemberStep::AddLearner(node) => match self.live_on(node) {
                    Some(_) => {
                        return Err(format!("node {node} has a replica of the group already"));
                    }
                    None => MemberChange::AddLearner(add(node)),
                },
                MemberStep::AddVoter(node) => match self.live_on(node) {
                    Some(id) if conf.is_voter(id) => {
                        return Err(format!("the replica on node {node} is a voter already"));
                    }
                    Some(id) => MemberChange::AddVoter(id),
                    None => MemberChange::AddVoter(add(node)),
                },
                MemberStep::Demote(node) => match self.live_on(node) {
                    Some(id) if conf.is_voter(id) => MemberChange::AddLearner(id),
                    Some(_) => {
                        return Err(format!("the replica on node {node} is a learner already"));
                    }
                    None => return Err(absent(node)),
                },
                MemberStep::Remove(node) => {
                    let live = self.live_on(node).ok_or_else(|| absent(node))?;
                    // A lost one that it was to replace would stay for ever.
                    let older = self.members_on(node).filter(|one| *one < live);
                    changes.extend(older.map(MemberChange::Remove));
                    MemberChange::Remove(live)
                }
            };
            changes.push(change);
        }
        if changes.is_empty() {
            return Err("nothing is to be changed".to_owned());
        }
        Ok(ConfChange::of(changes, Transition::Auto).with_nodes(nodes))
    }

    /// Whether all that was handed to the apply stage is applied.
    fn is_applied(&self) -> bool {
        self.raft.applied() >= self.handed_over()
    }

    /// Whether a replica was a member once and is none any more. Only the log and snapshots raise the ids, so one that is
    /// not known yet is not taken for one that is gone; and who knows no members knows of none that left.
    pub(super) fn has_left(&self, replica: ReplicaId) -> bool {
        self.is_initialised()
            && !self.raft.conf_state().is_member(replica)
            && replica < self.record.members.next_replica()
    }

    /// Takes note of where somebody is who has spoken. A few are known beside the members, who may have joined later than
    /// what is applied here; not as many as a peer cares to name (S11).
    pub(super) fn meet(&mut self, replica: ReplicaId, node: NodeId) {
        let members = &mut self.record.members;
        if members.iter().count() < self.raft.conf_state().members().len() + MAX_STRANGERS {
            members.learn(replica, node);
        }
    }

    /// Whether it knows who the members of its group are.
    pub(super) fn is_initialised(&self) -> bool {
        !self.raft.conf_state().voters.is_empty()
    }

    /// Whether it is itself a member, as far as it knows.
    pub(super) fn is_member(&self) -> bool {
        self.raft.conf_state().is_member(self.raft.id())
    }

    /// Whether it has a vote, as far as it knows.
    pub(super) fn is_voter(&self) -> bool {
        self.raft.conf_state().is_voter(self.raft.id())
    }

    /// When it asks whether it still is a member: nobody calls on one that was removed while it was away. A voter asks when it
    /// has no leader for long, a learner, which never finds out that it has none, when it hears nothing for long.
    pub(super) fn ask_later(&mut self, now: Instant, patience: Duration) {
        let may_be_gone = !self.is_voter() || self.raft.leader().is_none();
        self.ask_at = may_be_gone.then_some(now + patience);
    }

    /// The same after a cycle in which its leader may have come or gone.
    pub(super) fn ask_if_alone(&mut self, now: Instant, patience: Duration) {
        if self.raft.leader().is_none() != self.ask_at.is_some() {
            self.has_asked = false;
            self.ask_later(now, patience);
        }
    }
}
