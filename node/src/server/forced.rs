//! What was forced on this node's groups while it was stopped: said at the start, shown in the status.

use crate::recovery::audit;
use pontoon_store::ReplicaRecord;
use pontoon_types::{GroupId, NodeId, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The groups that `pontoon recover` has made this node the only voter of, and the nodes that were declared lost.
#[derive(Debug, Default)]
pub(super) struct Forced {
    /// When, by the replica that was made then.
    groups: BTreeMap<(GroupId, ReplicaId), String>,
    lost: BTreeSet<NodeId>,
}

impl Forced {
    /// Reads the record in the data directory and says what is in force. A record that cannot be read is no reason not to
    /// start.
    pub(super) fn read<'a>(
        data_dir: &Path,
        replicas: impl Iterator<Item = &'a ReplicaRecord>,
    ) -> Self {
        let entries = audit::read(data_dir).unwrap_or_else(|error| {
            tracing::error!(file = audit::FILE, %error, "cannot read what was recovered by force");
            Vec::new()
        });
        let here: BTreeSet<_> = replicas.map(|one| (one.group, one.replica)).collect();
        let mut forced = Self::default();
        for entry in entries {
            let groups = entry.groups.iter();
            let made = groups.map(|one| (GroupId(one.group), ReplicaId(one.new_replica)));
            let made: Vec<_> = made.filter(|one| here.contains(one)).collect();
            if !made.is_empty() {
                forced.lost.extend(entry.lost.iter().copied().map(NodeId));
            }
            let made = made.into_iter().map(|one| (one, entry.at.clone()));
            forced.groups.extend(made);
        }
        if !forced.groups.is_empty() {
            tracing::warn!(
                groups = forced.groups.len(),
                lost = ?forced.lost.iter().map(|node| node.0).collect::<Vec<_>>(),
                "groups were recovered by force; acknowledged writes may be missing, and the lost nodes must never \
                 be started with their old data"
            );
        }
        forced
    }

    /// When a replica was made its group's only voter, if it was.
    pub(super) fn since(&self, group: GroupId, replica: ReplicaId) -> Option<&str> {
        self.groups.get(&(group, replica)).map(String::as_str)
    }

    /// Says so if a node that was declared lost is there.
    pub(super) fn note_connected(&self, peer: NodeId) {
        if self.lost.contains(&peer) {
            tracing::warn!(
                node = %peer,
                "a node that was declared lost is back; its replicas of the groups recovered here are told to leave"
            );
        }
    }
}
