//! Which node holds which replica of a group.

use crate::codec::{DecodeError, Reader, put_varint};
use crate::{ConfChange, ConfState, NodeId, ReplicaId};
use alloc::vec::Vec;

/// The replicas of a group with their nodes, and the next replica id that was never used.
///
/// It moves with the group's log, by [`Members::apply`] alone, so it is the same on all replicas that have applied
/// the same; a replica may know a little more for itself, by [`Members::learn`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Members {
    /// Ascending by replica.
    nodes: Vec<(ReplicaId, NodeId)>,
    /// Above every id that any change has named.
    next: ReplicaId,
}

impl Members {
    /// The members that a group begins with. The ids behind the highest are free.
    #[must_use]
    pub fn new(members: impl IntoIterator<Item = (ReplicaId, NodeId)>) -> Self {
        let mut nodes: Vec<_> = members.into_iter().collect();
        nodes.sort_unstable();
        nodes.dedup_by_key(|member| member.0);
        let next = nodes.last().map_or(0, |last| last.0.0).saturating_add(1);
        Self {
            nodes,
            next: ReplicaId(next),
        }
    }

    /// The node of a replica.
    #[must_use]
    pub fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        let at = self
            .nodes
            .binary_search_by_key(&replica, |one| one.0)
            .ok()?;
        Some(self.nodes[at].1)
    }

    /// All replicas with their nodes, ascending by replica.
    pub fn iter(&self) -> impl Iterator<Item = (ReplicaId, NodeId)> + '_ {
        self.nodes.iter().copied()
    }

    /// An id that no replica of the group has ever had.
    #[must_use]
    pub const fn next_replica(&self) -> ReplicaId {
        self.next
    }

    /// Makes room for who a change brings, before it is applied.
    pub fn admit(&mut self, change: &ConfChange) {
        let nodes = change.nodes();
        for (replica, node) in &nodes {
            self.learn(*replica, *node);
        }
        let changed = change.changes.iter().map(|change| change.replica());
        for replica in changed.chain(nodes.iter().map(|(replica, _)| *replica)) {
            self.next = self.next.max(ReplicaId(replica.0.saturating_add(1)));
        }
    }

    /// Makes a change that was applied and after which these are the members. Who is none any more is forgotten,
    /// except those that this very change removed: they are still to hear of it.
    pub fn apply(&mut self, change: &ConfChange, after: &ConfState) {
        self.admit(change);
        let removed = |replica| change.changes.iter().any(|one| one.replica() == replica);
        self.nodes
            .retain(|(replica, _)| after.is_member(*replica) || removed(*replica));
    }

    /// Takes note of where a replica is that was not known; what is known stays.
    pub fn learn(&mut self, replica: ReplicaId, node: NodeId) {
        if let Err(at) = self.nodes.binary_search_by_key(&replica, |one| one.0) {
            self.nodes.insert(at, (replica, node));
        }
    }

    /// Appends the encoding: the next id, a count, and replica and node of each; all varints.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.next.0);
        put_nodes(out, &self.nodes);
    }

    /// Reads what [`Members::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes end early, the replicas are not ascending, or the next one is among those that were used.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let next = ReplicaId(reader.varint()?);
        let nodes = read_nodes(reader)?;
        if nodes.last().is_some_and(|last| last.0 >= next) {
            return Err(DecodeError::Invalid {
                what: "the next replica was used before",
            });
        }
        Ok(Self { nodes, next })
    }
}

pub(crate) fn put_nodes(out: &mut Vec<u8>, nodes: &[(ReplicaId, NodeId)]) {
    put_varint(out, nodes.len() as u64);
    for (replica, node) in nodes {
        put_varint(out, replica.0);
        put_varint(out, node.0);
    }
}

pub(crate) fn read_nodes(reader: &mut Reader<'_>) -> Result<Vec<(ReplicaId, NodeId)>, DecodeError> {
    let count = reader.count(2)?;
    let mut nodes = Vec::with_capacity(count);
    for _ in 0..count {
        let member = (ReplicaId(reader.varint()?), NodeId(reader.varint()?));
        if nodes
            .last()
            .is_some_and(|last: &(ReplicaId, _)| last.0 >= member.0)
        {
            return Err(DecodeError::Invalid {
                what: "replicas out of order",
            });
        }
        nodes.push(member);
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemberChange, Transition};
    use proptest::prelude::*;

    fn three() -> Members {
        Members::new([1, 2, 3].map(|id| (ReplicaId(id), NodeId(10 + id))))
    }

    #[test]
    fn members_move_with_the_changes_and_ids_are_never_used_again() {
        let mut members = three();
        let mut conf = ConfState::of_voters([1, 2, 3].map(ReplicaId));
        assert_eq!(members.next_replica(), ReplicaId(4));
        let swap = [
            MemberChange::AddVoter(ReplicaId(4)),
            MemberChange::Remove(ReplicaId(1)),
        ];
        let change =
            ConfChange::of(swap, Transition::Auto).with_nodes([(ReplicaId(4), NodeId(99))]);
        for change in [change, ConfChange::leave()] {
            conf = conf.apply(&change).unwrap();
            members.apply(&change, &conf);
        }
        let held: Vec<_> = members.iter().map(|(replica, _)| replica.0).collect();
        assert_eq!(held, [2, 3, 4]);
        assert_eq!(members.node_of(ReplicaId(4)), Some(NodeId(99)));
        assert_eq!(members.next_replica(), ReplicaId(5));
        let change = ConfChange::one(MemberChange::Remove(ReplicaId(4)));
        conf = conf.apply(&change).unwrap();
        members.apply(&change, &conf);
        // It has still to be told.
        assert_eq!(members.node_of(ReplicaId(4)), Some(NodeId(99)));
        assert_eq!(members.next_replica(), ReplicaId(5));
    }

    #[test]
    fn an_id_that_was_used_is_never_read_as_the_next_one() {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, 3);
        put_nodes(&mut bytes, &[(ReplicaId(3), NodeId(1))]);
        assert!(Members::decode(&mut Reader::new(&bytes)).is_err());
        // Not even of a change that names more nodes than replicas can its outcome not be read.
        let mut members = three();
        let change = ConfChange::one(MemberChange::AddLearner(ReplicaId(4)))
            .with_nodes([(ReplicaId(4), NodeId(4)), (ReplicaId(8), NodeId(8))]);
        members.admit(&change);
        assert_eq!(members.next_replica(), ReplicaId(9));
    }

    #[test]
    fn what_is_known_is_not_learnt_anew() {
        let mut members = three();
        members.learn(ReplicaId(1), NodeId(77));
        members.learn(ReplicaId(9), NodeId(77));
        assert_eq!(members.node_of(ReplicaId(1)), Some(NodeId(11)));
        assert_eq!(members.node_of(ReplicaId(9)), Some(NodeId(77)));
        assert_eq!(members.next_replica(), ReplicaId(4));
    }

    proptest! {
        #[test]
        fn members_read_back(ids in prop::collection::btree_map(0..u64::MAX, any::<u64>(), 0..8)) {
            let members = Members::new(ids.into_iter().map(|(id, node)| (ReplicaId(id), NodeId(node))));
            let mut bytes = Vec::new();
            members.encode(&mut bytes);
            prop_assert_eq!(Members::decode(&mut Reader::new(&bytes)), Ok(members));
            for cut in 0..bytes.len() {
                prop_assert!(Members::decode(&mut Reader::new(&bytes[..cut])).is_err());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Members::decode(&mut Reader::new(&bytes));
            let change = ConfChange { context: bytes, ..ConfChange::leave() };
            let _ = change.nodes();
        }
    }
}
