//! Who the members of each group are, as the applied entries tell.

use pontoon_shard_router::ClusterMap;
use pontoon_types::{
    ConfChange, ConfState, Entry, EntryKind, GroupId, LogIndex, NodeId, ReplicaId,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// So many configurations of a group are kept: a leader may act by one that others have left.
const KEPT: usize = 4;

/// The members of all groups.
#[derive(Debug, Default)]
pub struct Memberships {
    of: BTreeMap<GroupId, Membership>,
}

/// The members of one group, and who they were before.
#[derive(Debug)]
pub struct Membership {
    /// The latest last.
    configurations: VecDeque<ConfState>,
    /// Where each replica that there ever was is or was.
    places: BTreeMap<ReplicaId, NodeId>,
    /// Up to where the log has been looked at.
    seen: LogIndex,
    changes: u64,
}

impl Memberships {
    /// The members that a map begins with.
    #[must_use]
    pub fn new(map: &ClusterMap) -> Self {
        let shards = map.shards().chain([map.meta()]);
        let memberships = shards.map(|shard| {
            let replicas = shard.replicas.iter();
            let membership = Membership {
                configurations: VecDeque::from([shard.conf_state()]),
                places: replicas.map(|one| (one.replica, one.node)).collect(),
                seen: LogIndex::ZERO,
                changes: 0,
            };
            (shard.group, membership)
        });
        Self {
            of: memberships.collect(),
        }
    }

    /// Some replica applies an entry.
    pub fn applied(&mut self, entry: &Entry) {
        let Some(group) = self.of.get_mut(&entry.group()) else {
            return;
        };
        if entry.index() <= group.seen {
            return;
        }
        group.seen = entry.index();
        if entry.kind() != EntryKind::ConfChange {
            return;
        }
        let Ok(change) = ConfChange::decode(entry.payload()) else {
            return;
        };
        group.places.extend(change.nodes());
        if let Some(Ok(next)) = group.configurations.back().map(|conf| conf.apply(&change)) {
            group.changes += 1;
            group.configurations.push_back(next);
            if group.configurations.len() > KEPT {
                group.configurations.pop_front();
            }
        }
    }

    /// All groups.
    pub fn iter(&self) -> impl Iterator<Item = (GroupId, &Membership)> {
        self.of
            .iter()
            .map(|(group, membership)| (*group, membership))
    }

    /// One group's members.
    #[must_use]
    pub fn of(&self, group: GroupId) -> Option<&Membership> {
        self.of.get(&group)
    }

    /// The groups that have, or lately had, a member on a node.
    #[must_use]
    pub fn groups_of(&self, node: NodeId) -> Vec<GroupId> {
        let of_node = self.iter().filter(|(_, membership)| {
            let mut members = membership
                .configurations
                .iter()
                .flat_map(ConfState::members);
            members.any(|replica| membership.node_of(replica) == Some(node))
        });
        of_node.map(|(group, _)| group).collect()
    }

    /// Changes of members that were applied.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.of.values().map(|group| group.changes).sum()
    }
}

impl Membership {
    /// Voters, somewhere.
    #[cfg(test)]
    pub(crate) fn of_voters(voters: impl IntoIterator<Item = ReplicaId>) -> Self {
        Self {
            configurations: VecDeque::from([ConfState::of_voters(voters)]),
            places: BTreeMap::new(),
            seen: LogIndex::ZERO,
            changes: 0,
        }
    }

    /// The node of a replica.
    #[must_use]
    pub fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        self.places.get(&replica).copied()
    }

    /// The present members.
    #[must_use]
    pub fn latest(&self) -> &ConfState {
        self.configurations.back().expect("there is always one")
    }

    /// The nodes of the present members.
    #[must_use]
    pub fn nodes(&self) -> BTreeSet<NodeId> {
        let members = self.latest().members().into_iter();
        members.filter_map(|member| self.node_of(member)).collect()
    }

    /// Whether the replicas for which `holds` is true are a quorum of one of the configurations that a leader may act by.
    pub fn is_quorum(&self, mut holds: impl FnMut(ReplicaId) -> bool) -> bool {
        let mut majority = |half: &[ReplicaId]| {
            let holders = half.iter().filter(|replica| holds(**replica)).count();
            half.is_empty() || 2 * holders > half.len()
        };
        let mut configurations = self.configurations.iter();
        configurations.any(|conf| majority(&conf.voters) && majority(&conf.outgoing))
    }
}
