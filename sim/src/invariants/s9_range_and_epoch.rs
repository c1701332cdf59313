//! S9: a replica serves and applies only what is in its range, and was routed by its epoch.
//!
//! Looked at from both ends: who is answered with success must have asked the owner, by its epoch, for a
//! key in its range; and every row in a replica's tablet must be in the range.

use super::{Checked, Invariant, Violation};
use bytes::Bytes;
use pontoon_shard_router::{ClusterMap, ShardDescriptor};
use pontoon_types::{Epoch, GroupId, NodeId, ShardId};
use std::collections::BTreeMap;

/// What somebody asks a group to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The group that is asked.
    pub group: GroupId,
    /// The shard that it is asked for.
    pub shard: ShardId,
    /// The epoch by which the request was routed.
    pub epoch: Epoch,
    /// The key.
    pub key: Bytes,
}

/// Which group owns which range, by which epoch.
#[derive(Debug)]
pub struct Ownership {
    owners: BTreeMap<GroupId, ShardDescriptor>,
}

impl Ownership {
    /// The owners that a map names.
    #[must_use]
    pub fn new(map: &ClusterMap) -> Self {
        let shards = map.shards().chain([map.meta()]);
        let owners = shards.map(|shard| (shard.group, (**shard).clone()));
        Self {
            owners: owners.collect(),
        }
    }

    /// A node has served what a claim asks for.
    ///
    /// # Errors
    /// If the group does not own it.
    pub fn served(&self, node: NodeId, claim: &Claim) -> Checked {
        let owner = self.owners.get(&claim.group);
        let owns = owner.is_some_and(|owner| {
            (owner.shard, owner.epoch) == (claim.shard, claim.epoch) && owner.contains(&claim.key)
        });
        if owns {
            return Ok(());
        }
        let what = format!("node {node} served {claim:?}, but the group owns {owner:?}");
        Err(Violation::new(Invariant::S9, what))
    }

    /// A replica holds a row.
    ///
    /// # Errors
    /// If its group does not own the key.
    pub fn holds(&self, node: NodeId, group: GroupId, key: &[u8]) -> Checked {
        let owner = self.owners.get(&group);
        if owner.is_some_and(|owner| owner.contains(key)) {
            return Ok(());
        }
        let what =
            format!("group {group}: node {node} holds the key {key:x?}, outside of {owner:?}");
        Err(Violation::new(Invariant::S9, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::broken;
    use pontoon_shard_router::Manifest;
    use pontoon_types::ClusterId;

    #[test]
    fn what_another_shard_owns_is_found_where_it_is_served_and_where_it_lies() {
        let nodes = [(NodeId(1), "10.0.0.1:7700".to_owned())];
        let borders = vec![Bytes::from("m")];
        let manifest = Manifest::new(ClusterId(1), nodes, borders, Some(1));
        let map = manifest.expect("a sound manifest").initial_map();
        let ownership = Ownership::new(&map);
        let shard = map.shards().next().expect("there are two shards");
        let claim = Claim {
            group: shard.group,
            shard: shard.shard,
            epoch: shard.epoch,
            key: "a".into(),
        };
        assert_eq!(ownership.served(NodeId(1), &claim), Ok(()));
        let mut wrong = [claim.clone(), claim.clone(), claim];
        wrong[0].key = "z".into();
        wrong[1].epoch.range += 1;
        wrong[2].shard = ShardId(77);
        for claim in &wrong {
            let served = ownership.served(NodeId(1), claim);
            assert_eq!(broken(&served), Invariant::S9, "{claim:?}");
        }
        assert_eq!(ownership.holds(NodeId(1), shard.group, b"a"), Ok(()));
        let stray = ownership.holds(NodeId(1), shard.group, b"z");
        assert_eq!(broken(&stray), Invariant::S9);
    }
}
