//! Lost replicas, and how their groups heal.
//!
//! A replica whose log is damaged, or which was contradicted, can vouch for nothing; one whose state is damaged cannot serve.
//! It takes no part, and its node says so to the others again and again. The leader heals the group in two changes, of which any later leader makes the second,
//! because the members say that it is next: a new replica on the same node, as a learner; when that holds
//! all that is committed, its vote in exchange for the lost one's.
//!
//! A damaged log may have forgotten as well which replicas were here. So a node that has lost one believes nobody that a
//! replica is new but a leader that has made it since, in answer to the notice of this very life of the node. If it is to have
//! none any more, the leader names the next id that it would give: it has to make sure first that it still leads, for a later leader
//! may have given that id to this very node.

use super::Worker;
use super::group::Group;
use crate::frame::Lane;
use crate::status::Loss;
use pontoon_raft::Role;
use pontoon_store::Pieces;
use pontoon_types::{
    ConfChange, GroupId, Instant, LogIndex, LogPosition, MemberChange, NodeId, ReplicaId, Term,
    Transition,
};
use std::collections::BTreeSet;
use std::time::Duration;

/// How often a node says which of its replicas are lost.
const LOST_NOTICE: Duration = Duration::from_secs(1);

impl Worker {
    /// A node says that its replica is lost; with it, whichever came before.
    pub(super) fn hear_lost(
        &mut self,
        from: NodeId,
        group: GroupId,
        lost: ReplicaId,
        life: u64,
        now: Instant,
    ) {
        let Some(slot) = self.usable(group) else {
            return;
        };
        let group = &mut self.groups[slot];
        let id = group.id();
        if group.has_left(lost) {
            // Enough for one whose log is whole.
            self.tell_gone(from, slot, lost);
        }
        let group = &mut self.groups[slot];
        if group.is_initialised() && group.live_on(from).is_none() {
            return self.let_go(from, slot, life, now);
        }
        // In another term it may be somebody else who made it, before that life.
        if let Some((of, term, made)) = group.made
            && (of, term) == (life, group.raft.term())
            && group.raft.role() == Role::Leader
            && group.raft.conf_state().is_member(made)
            && group.live_on(from) == Some(made)
        {
            let frame = self.frame_to(from, Lane::Control);
            return frame.push_fresh(id, made, life);
        }
        let is_known = group.raft.role() == Role::Leader
            && group.live_on(from).is_some_and(|live| live <= lost);
        if !is_known {
            return;
        }
        let next = group.record.members.next_replica();
        let change = ConfChange::one(MemberChange::AddLearner(next)).with_nodes([(next, from)]);
        if group.raft.propose_conf_change(&change, now).is_ok() {
            tracing::warn!(group = %id, node = %from, %lost, %next, "a replica is lost; another takes its place");
            group.made = Some((life, group.raft.term(), next));
            self.touch(slot);
        }
    }

    /// A node that has lost a replica is to have none. What it had before its present life was given to it by entries that were
    /// committed before that; so they come before what this leader proposes now, and what follows on that is new to the node.
    fn let_go(&mut self, node: NodeId, slot: usize, life: u64, now: Instant) {
        let group = &mut self.groups[slot];
        let heard = group.heard_of.get(&node).copied();
        if let Some((_, at)) = heard.filter(|(of, at)| *of == life && at.term == group.raft.term())
        {
            if at.index <= group.raft.applied() {
                let (id, next) = (group.id(), group.record.members.next_replica());
                let frame = self.frame_to(node, Lane::Control);
                frame.push_fresh(id, next, life);
            }
        } else if let Ok(position) = group.raft.propose_empty(now) {
            group.heard_of.insert(node, (life, position));
            self.touch(slot);
        }
    }

    /// A leader has given an id for this node, or would give it, after it had heard that a replica is lost: ids only rise, so
    /// whichever were here before are below it, and this one has promised nothing yet.
    pub(super) fn hear_fresh(&mut self, group: GroupId, fresh: ReplicaId, life: u64) {
        // Not compared with who was called on in this life: anybody may call by any id, and none of them was made. But who
        // is known to have been here is never new, whoever says so.
        let recorded = self.recorded.get(&group).copied();
        let removed = self.removed.get(&group).map(|removed| removed.replica);
        let floor = recorded.max(removed).unwrap_or(ReplicaId(1));
        if life == self.config.seed && fresh > floor && self.quarantined.remove(&group).is_some() {
            self.recorded.remove(&group);
            // What was known here to be committed is not to be trusted.
            self.bury(group, ReplicaId(fresh.0 - 1), LogPosition::ZERO);
        }
    }

    /// Goes on with healing a group that is led here: the new replica has caught up, and gets what the lost one had.
    pub(super) fn repair(&mut self, slot: usize, now: Instant) {
        let group = &mut self.groups[slot];
        if !group.is_doubled {
            return;
        }
        let Some((lost, next)) = group.replaceable() else {
            return;
        };
        let mut changes = vec![MemberChange::Remove(lost)];
        if group.raft.conf_state().is_voter(lost) {
            changes.insert(0, MemberChange::AddVoter(next));
        }
        // Refused while another change is under way; it is tried again at the next occasion.
        let _ = group
            .raft
            .propose_conf_change(&ConfChange::of(changes, Transition::Auto), now);
    }

    /// Says which replicas are lost, if it is time to.
    pub(super) fn notify_lost(&mut self, now: Instant) {
        if self.notice_at.is_none_or(|at| at > now) {
            return;
        }
        let failed = self.groups.iter().filter(|group| group.is_lost());
        let quarantined = self.quarantined.values();
        let lost: Vec<_> = failed
            .map(|group| &group.record)
            .chain(quarantined)
            .flat_map(|record| {
                // Not just the members that it knows: all of them may have left since, for others that it has never met.
                let nodes = record.members.iter().map(|(_, node)| node);
                let nodes: BTreeSet<_> = nodes.chain(self.others.iter().copied()).collect();
                let nodes = nodes.into_iter();
                nodes.map(|node| (node, record.group, record.replica))
            })
            .filter(|(node, ..)| *node != self.node)
            .collect();
        let life = self.config.seed;
        self.notice_at = (!lost.is_empty()).then_some(now + LOST_NOTICE);
        for (node, group, replica) in lost {
            let frame = self.frame_to(node, Lane::Control);
            frame.push_lost(group, replica, life);
        }
    }

    /// Entries of a replica's log cannot be read. One that is applied, or is still in memory and so will be, is needed by
    /// nobody here but those who lag, and they can have a snapshot: the log is cut beyond it when the store holds what it did.
    /// A replica that needs one from the disk has lost what it has promised, as one whose damage is found at a start.
    pub(super) fn log_unreadable(&mut self, group: GroupId, indexes: &[LogIndex], now: Instant) {
        let Some(slot) = self.usable(group) else {
            return;
        };
        let raft = &self.groups[slot].raft;
        if indexes.iter().any(|index| raft.needs_from_log(*index)) {
            tracing::error!(%group, replica = %raft.id(), "the log of a replica is damaged; quarantined it");
            self.lose(slot, Loss::Log, now);
        }
    }

    /// Rows of a replica cannot be read. One that is stuck is lost like any other. Else its log is whole and its vote counts, so
    /// one that serves what it can is better than none, and it is given up only if its leader says that the others can go on
    /// without it.
    pub(super) fn state_damaged(
        &mut self,
        group: GroupId,
        pieces: Pieces,
        is_stuck: bool,
        now: Instant,
    ) {
        let Some(slot) = self.usable(group) else {
            return;
        };
        let group = &mut self.groups[slot];
        if !group.record.pieces.overlaps(&pieces) {
            return;
        }
        let (id, replica, term) = (group.id(), group.raft.id(), group.raft.term());
        group.damaged = Some(pieces);
        if is_stuck || group.spare(replica) {
            return self.give_up(slot, now);
        }
        let leader = group.raft.leader().filter(|leader| *leader != replica);
        if let Some(node) = leader.and_then(|leader| group.node_of(leader)) {
            self.frame_to(node, Lane::Control)
                .push_damaged(id, replica, term);
        }
    }

    /// A replica that has lost rows asks whether it can be spared. It asks again, so there is no answer if not.
    pub(super) fn hear_damaged(
        &mut self,
        from: NodeId,
        group: GroupId,
        replica: ReplicaId,
        term: Term,
    ) {
        let Some(slot) = self.usable(group) else {
            return;
        };
        let group = &mut self.groups[slot];
        let id = group.id();
        if group.raft.term() == term && group.live_on(from) == Some(replica) && group.spare(replica)
        {
            self.frame_to(from, Lane::Control)
                .push_spared(id, replica, term);
        }
    }

    /// The leader says that a replica here can be spared. That holds for its term: a later leader may have counted on this
    /// replica's answers, and spared another.
    pub(super) fn hear_spared(
        &mut self,
        from: NodeId,
        group: GroupId,
        replica: ReplicaId,
        term: Term,
        now: Instant,
    ) {
        let Some(slot) = self.usable(group) else {
            return;
        };
        let group = &self.groups[slot];
        let leader = group.raft.leader().and_then(|leader| group.node_of(leader));
        let damaged = group.damaged.as_ref();
        let is_here = damaged.is_some_and(|damaged| damaged.overlaps(&group.record.pieces));
        let is_meant = group.raft.id() == replica && is_here;
        if is_meant && group.raft.term() == term && leader == Some(from) {
            self.give_up(slot, now);
        }
    }

    fn give_up(&mut self, slot: usize, now: Instant) {
        let group = &self.groups[slot];
        tracing::error!(group = %group.id(), replica = %group.raft.id(), "the state of a replica is damaged; quarantined it");
        self.lose(slot, Loss::Table, now);
    }

    /// A replica takes no part any more.
    pub(super) fn lose(&mut self, slot: usize, loss: Loss, now: Instant) {
        let group = &mut self.groups[slot];
        let (id, is_first) = (group.id(), group.failure.is_none());
        group.fail(loss.reason());
        if is_first {
            self.note_lost(id, loss, now);
        }
    }

    /// A replica has been lost: it is counted, and the others hear of it.
    pub(super) fn note_lost(&mut self, group: GroupId, loss: Loss, now: Instant) {
        let lost = &mut self.counters.lost;
        *match loss {
            Loss::Log => &mut lost.by_log,
            Loss::Table => &mut lost.by_table,
            Loss::Contradicted | Loss::NewerLog => &mut lost.otherwise,
        } += 1;
        *self.unhealed.entry(group).or_default() += 1;
        self.notice_at = Some(self.notice_at.unwrap_or(now));
    }

    /// Whoever was lost here of a group is no member of it any more.
    pub(super) fn note_healed(&mut self, group: GroupId) {
        self.counters.lost.replaced += self.unhealed.remove(&group).unwrap_or(0);
    }
}

impl Group {
    /// Whether it takes no part because it cannot vouch for what it has promised.
    pub(super) fn is_lost(&self) -> bool {
        self.failure.is_some() && !self.is_leaving
    }

    /// Whether this leader can commit without a member, on which nobody must count any more then. Only voters that were heard
    /// lately count, and one must have been replaced before another goes.
    fn spare(&mut self, replica: ReplicaId) -> bool {
        let (conf, term) = (self.raft.conf_state(), self.raft.term());
        if self.raft.role() != Role::Leader || conf.is_joint() {
            return false;
        }
        if !conf.is_voter(replica) {
            return true;
        }
        let is_first = self
            .spared
            .is_none_or(|(of, one)| of != term || one == replica || !conf.is_voter(one));
        let others = conf.voters.iter().filter(|voter| **voter != replica);
        let heard = others.filter(|voter| self.raft.hears(**voter)).count();
        let is_spared = is_first && heard > conf.voters.len() / 2;
        if is_spared {
            self.spared = Some((term, replica));
        }
        is_spared
    }

    /// A replica that has caught up, and an older one on its node whose place it takes.
    fn replaceable(&self) -> Option<(ReplicaId, ReplicaId)> {
        let conf = self.raft.conf_state();
        let has_caught_up = |next: &&ReplicaId| {
            let progress = self.raft.progress(**next);
            progress.is_some_and(|progress| progress.matched >= self.raft.commit())
        };
        let mut learners = conf.learners.iter().rev().filter(has_caught_up);
        learners.find_map(|next| {
            let node = self.node_of(*next)?;
            let older = conf.members().into_iter().filter(|member| member < next);
            let lost = older
                .filter(|member| self.node_of(*member) == Some(node))
                .max()?;
            Some((lost, *next))
        })
    }

    /// Whether it is the only member on its node, so that nobody who was lost there is one.
    pub(super) fn is_sole(&self) -> bool {
        let own = self.raft.id();
        let others = self.raft.conf_state().members().into_iter();
        let mut others = others.filter(|member| *member != own);
        let node = self.node_of(own);
        self.is_member() && others.all(|member| self.node_of(member) != node)
    }

    /// Finds out whether a node has several members, all but one of which are lost.
    pub(super) fn find_doubles(&mut self) {
        let conf = self.raft.conf_state();
        let members = conf.members();
        let mut nodes: Vec<_> = members
            .iter()
            .filter_map(|one| self.node_of(*one))
            .collect();
        nodes.sort_unstable();
        self.is_doubled = !conf.is_joint() && nodes.windows(2).any(|pair| pair[0] == pair[1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EngineConfig;
    use pontoon_raft::Restored;
    use pontoon_store::ReplicaRecord;
    use pontoon_types::{ConfState, Epoch, Members, ShardId};

    /// Replica 4 on node 3, where replica 3 was, of a group with these voters and learners.
    fn newer(voters: &[u64], learners: &[u64]) -> Group {
        let ids = |ids: &[u64]| ids.iter().copied().map(ReplicaId).collect::<Vec<_>>();
        let conf_state = ConfState {
            learners: ids(learners).into_iter().collect(),
            ..ConfState::of_voters(ids(voters))
        };
        let nodes = [(1, 1), (2, 2), (3, 3), (4, 3)];
        let record = ReplicaRecord {
            group: GroupId(1),
            shard: ShardId(1),
            replica: ReplicaId(4),
            start: bytes::Bytes::new(),
            end: bytes::Bytes::new(),
            epoch: Epoch::default(),
            pieces: pontoon_types::TabletId(1).into(),
            conf_state: conf_state.clone(),
            members: Members::new(nodes.map(|(id, node)| (ReplicaId(id), NodeId(node)))),
            descriptor: bytes::Bytes::new(),
        };
        let restored = Restored {
            conf_state,
            ..Restored::default()
        };
        let (config, now) = (EngineConfig::default(), Instant::from_nanos(1));
        Group::new(NodeId(3), record, restored, &config, now).unwrap()
    }

    #[test]
    fn a_group_is_healed_when_the_new_replica_is_the_only_member_on_its_node() {
        assert!(!newer(&[1, 2, 3], &[4]).is_sole(), "the old one is there");
        assert!(!newer(&[1, 2, 3], &[]).is_sole(), "it is no member");
        assert!(newer(&[1, 2, 4], &[]).is_sole());
        assert!(newer(&[1, 2], &[4]).is_sole(), "a learner was replaced");
    }
}
