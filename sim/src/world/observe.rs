//! Tells the checkers what happens.

use super::{Node, World, unexpected};
use crate::invariants::{
    Acknowledged, AppliedOnce, Checked, Disk, Invariant, LeaderCompleteness, LogMatching,
    OneLeaderPerTerm, OwnTermCommit, Promises, StateMachineSafety, Violation,
};
use crate::members::{Membership, Memberships};
use crate::shadow::{ShadowLog, ShadowNode, ShadowRecord};
use bytes::Bytes;
use pontoon_engine::frame::FrameReader;
use pontoon_engine::worker::Switch;
use pontoon_raft::{Message, MessageBody};
use pontoon_shard_router::ClusterMap;
use pontoon_store::StateHash;
use pontoon_types::{
    Command, Entry, EntryKind, GroupId, LogIndex, LogPosition, NodeId, ReplicaId, Term,
};
use pontoon_wal::{Recovered, SealedBatch};
use std::collections::{BTreeMap, BTreeSet};

/// The checkers, and the shadows of the logs that they look at.
pub(super) struct Observer {
    shadows: BTreeMap<NodeId, ShadowNode>,
    pub(super) members: Memberships,
    leaders: OneLeaderPerTerm,
    matching: LogMatching,
    completeness: LeaderCompleteness,
    pub(super) machines: StateMachineSafety,
    commits: OwnTermCommit,
    promises: Promises,
    /// Replicas that were quarantined once.
    damaged: BTreeSet<(NodeId, GroupId)>,
    pub(super) acknowledged: Acknowledged,
    pub(super) once: AppliedOnce,
    applied_entries: u64,
    installs: u64,
}

impl Observer {
    pub(super) fn new(map: &ClusterMap) -> Self {
        Self {
            shadows: map
                .nodes()
                .map(|node| (node.node, ShadowNode::default()))
                .collect(),
            members: Memberships::new(map),
            leaders: OneLeaderPerTerm::default(),
            matching: LogMatching::default(),
            completeness: LeaderCompleteness::default(),
            machines: StateMachineSafety::default(),
            commits: OwnTermCommit::default(),
            promises: Promises::default(),
            damaged: BTreeSet::new(),
            acknowledged: Acknowledged::default(),
            once: AppliedOnce::default(),
            applied_entries: 0,
            installs: 0,
        }
    }

    pub(super) fn elections(&self) -> u64 {
        self.leaders.elections()
    }

    pub(super) const fn applied_entries(&self) -> u64 {
        self.applied_entries
    }

    pub(super) const fn acknowledged_writes(&self) -> u64 {
        self.acknowledged.writes()
    }

    pub(super) const fn installs(&self) -> u64 {
        self.installs
    }

    /// The nodes that led a group last, the latest first.
    pub(super) fn recent_leaders(&self, group: GroupId) -> Vec<NodeId> {
        let replicas = self.leaders.recent(group);
        let members = self.members.of(group);
        let nodes = replicas.filter_map(|replica| members?.node_of(replica));
        let mut recent: Vec<NodeId> = Vec::new();
        for node in nodes {
            if recent.len() < 3 && !recent.contains(&node) {
                recent.push(node);
            }
        }
        recent
    }

    /// The groups that have a replica on a node.
    pub(super) fn groups_of(&self, node: NodeId) -> Vec<GroupId> {
        self.members.groups_of(node)
    }

    /// The term of a group's log on a node, and its end.
    pub(super) fn end_of(&self, node: NodeId, group: GroupId) -> (Term, LogIndex) {
        let shadow = self.shadows.get(&node);
        let log = shadow.and_then(|shadow| shadow.laid(group));
        log.map_or((Term::ZERO, LogIndex::ZERO), |log| {
            (log.hard_state.term, log.last())
        })
    }

    fn shadow(&mut self, node: NodeId) -> &mut ShadowNode {
        self.shadows.entry(node).or_default()
    }

    /// A node's log lays a batch.
    pub(super) fn laid(&mut self, node: NodeId, batch: &SealedBatch) -> Checked {
        for record in batch.records() {
            let (group, shadow) = (record.group(), ShadowRecord::from(record));
            if let ShadowRecord::Entry(index, stamp) = shadow {
                let laid = self.shadow(node).laid(group);
                let before = LogIndex(index.0 - 1);
                let previous = match laid {
                    Some(log) if index <= log.compacted.index => {
                        return Err(unexpected(format!(
                            "group {group}: node {node} lays entry {index}, but it is compacted up to {}",
                            log.compacted.index
                        )));
                    }
                    Some(log) => log.term_at(before),
                    None => (before == LogIndex::ZERO).then_some(Term::ZERO),
                };
                let Some(previous) = previous else {
                    return Err(unexpected(format!(
                        "group {group}: node {node} lays entry {index} behind a gap"
                    )));
                };
                self.promises.overwritten(node, group, index);
                self.matching.laid(node, group, index, stamp, previous)?;
            }
            match shadow {
                ShadowRecord::Install(last) => self.installs_into_log(node, group, last)?,
                ShadowRecord::Remove(_) => {
                    self.promises.left(node, group);
                    self.once.left(node, group);
                    self.damaged.remove(&(node, group));
                }
                _ => {}
            }
            self.shadow(node).lay(group, shadow);
        }
        self.shadow(node).end_batch();
        Ok(())
    }

    /// A snapshot takes the place of a group's log.
    fn installs_into_log(&mut self, node: NodeId, group: GroupId, last: LogPosition) -> Checked {
        let applied = self.machines.at(group, last.index);
        if applied.is_none_or(|stamp| stamp.term != last.term) {
            let what = format!(
                "group {group}: node {node} takes a snapshot at {last:?}, where {applied:x?} was applied"
            );
            return Err(Violation::new(Invariant::S4, what));
        }
        // What it has acknowledged beyond that was another leader's.
        self.promises.overwritten(node, group, last.index.next());
        Ok(())
    }

    /// Something other than an entry happens to a state.
    pub(super) fn switches(&mut self, node: NodeId, switch: &Switch) -> Checked {
        let Switch::Install { record, applied } = switch else {
            return Ok(());
        };
        self.installs += 1;
        let durable = self.shadows.get(&node);
        let durable = durable.and_then(|shadow| shadow.durable(record.group));
        if durable.is_none_or(|log| log.last() < *applied) {
            let what = format!(
                "group {}: node {node} installs a snapshot at {applied} before its log says so durably",
                record.group
            );
            return Err(Violation::new(Invariant::S6, what));
        }
        self.once.installed(node, record.group, *applied)
    }

    /// A node's log has synced all that was laid.
    pub(super) fn synced(&mut self, node: NodeId) {
        self.shadow(node).sync();
    }

    /// A node's log was opened. Returns how many batches that were not durable it has kept.
    pub(super) fn recovered(
        &mut self,
        node: NodeId,
        recovered: &Recovered,
        may_be_damaged: bool,
    ) -> Result<usize, Violation> {
        let broken =
            |what: String| Violation::new(Invariant::S6, format!("node {node}: recovery {what}"));
        let is_damaged = !recovered.damaged.is_empty() || !recovered.report.damage.is_empty();
        if is_damaged && !may_be_damaged {
            return Err(broken(format!("reports damage: {:?}", recovered.report)));
        }
        let groups = self.groups_of(node).into_iter();
        let lost = groups.filter(|group| recovered.is_quarantined(*group));
        self.damaged.extend(lost.map(|group| (node, group)));
        let kept = self.shadow(node).recover(recovered).map_err(broken)?;
        for (group, found) in &recovered.groups {
            if recovered.is_quarantined(*group) {
                continue; // It will say nothing any more.
            }
            self.promises.recovered(node, *group, found)?;
        }
        Ok(kept)
    }

    /// A frame leaves a node. Messages of a leader tell who leads.
    pub(super) fn sent(
        &mut self,
        node: NodeId,
        frame: &Bytes,
        mut show: impl FnMut(GroupId, &Message),
    ) -> Checked {
        let unreadable = |error| {
            unexpected(format!(
                "node {node} sends a frame that cannot be read: {error}"
            ))
        };
        let mut reader = FrameReader::new(frame.clone()).map_err(unreadable)?;
        let empty = ShadowLog::default();
        while let Some((group, message)) = reader.next_message().map_err(unreadable)? {
            show(group, &message);
            let shadow = self.shadows.get(&node);
            let durable = shadow.and_then(|shadow| shadow.durable(group));
            let durable = durable.unwrap_or(&empty);
            let laid = shadow.and_then(|shadow| shadow.laid(group));
            let laid = laid.unwrap_or(&empty);
            self.promises.sent(node, group, &message, durable, laid)?;
            let (from, term) = (message.from, message.term);
            match message.body {
                MessageBody::Append { commit, .. } => {
                    if self.leaders.leads(group, term, from)? {
                        self.completeness.elected(group, term, from, laid)?;
                    }
                    self.commits.told(group, term, commit, laid)?;
                    if let Some(stamp) = laid.stamp_at(commit) {
                        let members = self.members.of(group).expect("a group has members");
                        let disks = disks(members, &self.shadows, &self.damaged, group);
                        self.acknowledged
                            .committed(group, commit, stamp, members, disks)?;
                    }
                }
                MessageBody::Heartbeat { .. } => self.leaders.check(group, term, from)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// A node hands an entry to its state machine.
    pub(super) fn applies(&mut self, node: NodeId, entry: &Entry) -> Checked {
        let (group, index) = (entry.group(), entry.index());
        self.applied_entries += 1;
        self.members.applied(entry);
        let shadow = self.shadows.get(&node);
        let durable = shadow.and_then(|shadow| shadow.durable(group));
        if durable.is_none_or(|log| log.last() < index) {
            let what = format!("group {group}: node {node} applies {index}, which is not durable");
            return Err(Violation::new(Invariant::S6, what));
        }
        self.machines.applied(node, entry)?;
        let latest = self.leaders.latest(group).max(entry.term());
        self.completeness.applied(entry, latest);
        self.once.applied(node, group, index, command_of(entry))
    }

    /// A client is told that its write was done.
    pub(super) fn acknowledges(&mut self, command: (u64, u64)) -> Checked {
        let Some((group, index)) = self.once.place(command) else {
            return Err(unexpected(format!(
                "command {command:?} was acknowledged, and nobody has applied it"
            )));
        };
        let stamp = self.machines.at(group, index).expect("it was applied");
        let members = self.members.of(group).expect("a group has members");
        let disks = disks(members, &self.shadows, &self.damaged, group);
        self.acknowledged
            .acknowledged(group, index, stamp, members, disks)
    }
}

/// What the members of a group have on their disks.
fn disks<'a>(
    members: &'a Membership,
    shadows: &'a BTreeMap<NodeId, ShadowNode>,
    damaged: &'a BTreeSet<(NodeId, GroupId)>,
    group: GroupId,
) -> impl Fn(ReplicaId) -> Disk<'a> {
    move |replica| {
        let Some(node) = members.node_of(replica) else {
            return Disk::Blank;
        };
        if damaged.contains(&(node, group)) {
            return Disk::Damaged;
        }
        let durable = shadows.get(&node).and_then(|shadow| shadow.durable(group));
        match durable {
            None => Disk::Blank,
            Some(log) if log.removed >= Some(replica) => Disk::Gone,
            Some(log) => Disk::Holds(log),
        }
    }
}

/// The client's command in an entry.
fn command_of(entry: &Entry) -> Option<(u64, u64)> {
    if entry.kind() != EntryKind::Command {
        return None;
    }
    // Bytes that are no command may look like the front of one.
    let request = Command::decode(entry.payload()).ok()?.request;
    Some((request.session.0, request.sequence.0))
}

impl World {
    /// Looks at every replica's rows, once in a while.
    pub(super) fn inspect(&mut self) -> Checked {
        self.check_states()?;
        self.plan(std::time::Duration::from_secs(1), super::Event::Inspect);
        Ok(())
    }

    pub(super) fn check_states(&mut self) -> Checked {
        let Self {
            nodes,
            observer,
            trace,
            ownership,
            ..
        } = self;
        for Node { id, process, .. } in nodes {
            let Some(process) = process else { continue };
            for state in process.states() {
                let group = state.record().group;
                let mut hash = StateHash::default();
                for (key, value) in state.rows(None).flatten() {
                    ownership.holds(*id, group, &key[1..])?;
                    hash.push(&key, &value);
                }
                let hash = hash.finish() as u64;
                trace.mix(&[group.0, hash]);
                let applied = state.applied();
                observer.machines.state(*id, group, applied, hash)?;
            }
        }
        Ok(())
    }
}
