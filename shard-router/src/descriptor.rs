//! The facts of the map: nodes and shards, and the bytes in which they travel and rest.
//!
//! ```text
//! shard descriptor                      node descriptor
//! version      u8  1                    version  u8  1
//! shard        varint                   node     varint
//! group        varint                   address  length-prefixed UTF-8
//! range epoch  varint
//! member epoch varint
//! start        length-prefixed, empty: from the first key
//! end          u8 0 | u8 1, length-prefixed; 0: without end
//! replicas     count, then per replica: replica id varint, node id varint
//! ```
//!
//! Both are self-delimiting, so that several can follow each other in one message. A new field is a new
//! version; a reader refuses versions that it does not know rather than guess.

use crate::DescriptorError;
use bytes::Bytes;
use pontoon_types::codec::{Reader, put_bytes, put_varint};
use pontoon_types::{ConfState, Epoch, GroupId, NodeId, ReplicaId, ShardId, TabletId};

const VERSION: u8 = 1;
/// The longest address of a node in bytes: a DNS name (RFC 1035 §2.3.4: 255) with a port, and room.
const MAX_ADDRESS_BYTES: usize = 300;

/// A member of a group and the node it lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Replica {
    /// The member's id, unique in its group for all time.
    pub replica: ReplicaId,
    /// The node that holds it.
    pub node: NodeId,
}

/// A key range, the group that owns it, and where that group's replicas are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardDescriptor {
    /// The shard.
    pub shard: ShardId,
    /// The group that owns it.
    pub group: GroupId,
    /// Its first key; empty: from the first key there is.
    pub start: Bytes,
    /// The key before which it ends; `None`: it has no end.
    pub end: Option<Bytes>,
    /// Counts changes of the range and of the members.
    pub epoch: Epoch,
    /// The voters. The first is the preferred leader.
    pub replicas: Vec<Replica>,
}

impl ShardDescriptor {
    /// Whether the range holds `key`.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start[..] <= *key && self.end.as_ref().is_none_or(|end| *key < end[..])
    }

    /// Whether some key is in both ranges.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let below = |start: &Bytes, end: &Option<Bytes>| end.as_ref().is_none_or(|end| start < end);
        below(&self.start, &other.end) && below(&other.start, &self.end)
    }

    /// Whether this descriptor replaces `other`, which is of the same shard or overlaps it.
    #[must_use]
    pub fn is_newer_than(&self, other: &Self) -> bool {
        if self.shard == other.shard {
            self.epoch > other.epoch
        } else {
            self.epoch.range > other.epoch.range
        }
    }

    /// The replica that should lead while nothing speaks against it.
    #[must_use]
    pub fn preferred_leader(&self) -> Option<Replica> {
        self.replicas.first().copied()
    }

    /// The replica on `node`.
    #[must_use]
    pub fn replica_on(&self, node: NodeId) -> Option<Replica> {
        self.replicas.iter().find(|r| r.node == node).copied()
    }

    /// The group's configuration: every replica votes.
    #[must_use]
    pub fn conf_state(&self) -> ConfState {
        ConfState::of_voters(self.replicas.iter().map(|r| r.replica))
    }

    /// The tablet in which a node keeps the shard when the cluster begins: the one with the shard's
    /// number. Tablet 0 is the node's own, and no shard is 0. A later incarnation of the range on a
    /// node (an installed snapshot) gets a tablet of its own, which only that node knows.
    #[must_use]
    pub const fn initial_tablet(&self) -> TabletId {
        TabletId(self.shard.0)
    }

    /// Checks what every descriptor must hold by itself.
    ///
    /// # Errors
    /// If an id or an epoch is zero, the range is empty, there is no replica, or two of them share an
    /// id or a node.
    pub fn validate(&self) -> Result<(), DescriptorError> {
        for (number, what) in [
            (self.shard.0, "a shard id"),
            (self.group.0, "a group id"),
            (self.epoch.range, "a range epoch"),
            (self.epoch.membership, "a membership epoch"),
        ] {
            non_zero(number, what)?;
        }
        let shard = self.shard;
        if self.end.as_ref().is_some_and(|end| *end <= self.start) {
            return Err(DescriptorError::EmptyRange { shard });
        }
        if self.replicas.is_empty() {
            return Err(DescriptorError::NoReplica { shard });
        }
        let mut sorted = self.replicas.clone();
        sorted.sort_unstable();
        for replica in &sorted {
            non_zero(replica.replica.0, "a replica id")?;
            non_zero(replica.node.0, "a node id")?;
        }
        if let Some(pair) = sorted.windows(2).find(|p| p[0].replica == p[1].replica) {
            let replica = pair[0].replica;
            return Err(DescriptorError::ReplicaTwice { shard, replica });
        }
        sorted.sort_unstable_by_key(|r| r.node);
        if let Some(pair) = sorted.windows(2).find(|p| p[0].node == p[1].node) {
            let node = pair[0].node;
            return Err(DescriptorError::NodeTwice { shard, node });
        }
        Ok(())
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        for number in [
            self.shard.0,
            self.group.0,
            self.epoch.range,
            self.epoch.membership,
        ] {
            put_varint(out, number);
        }
        put_bytes(out, &self.start);
        out.push(u8::from(self.end.is_some()));
        if let Some(end) = &self.end {
            put_bytes(out, end);
        }
        put_varint(out, self.replicas.len() as u64);
        for replica in &self.replicas {
            put_varint(out, replica.replica.0);
            put_varint(out, replica.node.0);
        }
    }

    /// Reads one descriptor and leaves what follows it.
    ///
    /// # Errors
    /// If the bytes are not a valid descriptor of a known version.
    pub fn decode_from(reader: &mut Reader<'_>) -> Result<Self, DescriptorError> {
        check_version(reader)?;
        let shard = ShardId(reader.varint()?);
        let group = GroupId(reader.varint()?);
        let epoch = Epoch {
            range: reader.varint()?,
            membership: reader.varint()?,
        };
        let start = Bytes::copy_from_slice(reader.bytes()?);
        let end = match reader.flag()? {
            true => Some(Bytes::copy_from_slice(reader.bytes()?)),
            false => None,
        };
        let count = reader.count(2)?;
        let mut replicas = Vec::with_capacity(count);
        for _ in 0..count {
            replicas.push(Replica {
                replica: ReplicaId(reader.varint()?),
                node: NodeId(reader.varint()?),
            });
        }
        let descriptor = Self {
            shard,
            group,
            start,
            end,
            epoch,
            replicas,
        };
        descriptor.validate()?;
        Ok(descriptor)
    }

    /// Reads exactly one descriptor.
    ///
    /// # Errors
    /// If the bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, DescriptorError> {
        whole(bytes, Self::decode_from)
    }
}

/// A node and where to reach it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeDescriptor {
    /// The node.
    pub node: NodeId,
    /// `host:port`, as it was written by the operator; resolved by whoever dials it.
    pub address: String,
}

impl NodeDescriptor {
    /// Checks the id and the address.
    ///
    /// # Errors
    /// If the id is zero, or the address is empty or over 300 bytes.
    pub fn validate(&self) -> Result<(), DescriptorError> {
        non_zero(self.node.0, "a node id")?;
        if self.address.is_empty() || self.address.len() > MAX_ADDRESS_BYTES {
            return Err(DescriptorError::Address { node: self.node });
        }
        Ok(())
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_varint(out, self.node.0);
        put_bytes(out, self.address.as_bytes());
    }

    /// Reads one descriptor and leaves what follows it.
    ///
    /// # Errors
    /// If the bytes are not a valid descriptor of a known version.
    pub fn decode_from(reader: &mut Reader<'_>) -> Result<Self, DescriptorError> {
        check_version(reader)?;
        let node = NodeId(reader.varint()?);
        let address = match core::str::from_utf8(reader.bytes()?) {
            Ok(address) => address.to_owned(),
            Err(_) => return Err(DescriptorError::Address { node }),
        };
        let descriptor = Self { node, address };
        descriptor.validate()?;
        Ok(descriptor)
    }

    /// Reads exactly one descriptor.
    ///
    /// # Errors
    /// If the bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, DescriptorError> {
        whole(bytes, Self::decode_from)
    }
}

fn non_zero(number: u64, what: &'static str) -> Result<(), DescriptorError> {
    if number == 0 {
        return Err(DescriptorError::Zero { what });
    }
    Ok(())
}

fn check_version(reader: &mut Reader<'_>) -> Result<(), DescriptorError> {
    match reader.u8()? {
        VERSION => Ok(()),
        version => Err(DescriptorError::UnknownVersion { version }),
    }
}

fn whole<T>(
    bytes: &[u8],
    decode: impl FnOnce(&mut Reader<'_>) -> Result<T, DescriptorError>,
) -> Result<T, DescriptorError> {
    let mut reader = Reader::new(bytes);
    let value = decode(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A valid descriptor of the range `[start, end)` with replicas 1, 2, ... on `nodes`.
    pub(crate) fn shard(id: u64, start: &[u8], end: Option<&[u8]>, range: u64) -> ShardDescriptor {
        let replica = |n| Replica {
            replica: ReplicaId(n),
            node: NodeId(n),
        };
        ShardDescriptor {
            shard: ShardId(id),
            group: GroupId(id),
            start: Bytes::copy_from_slice(start),
            end: end.map(Bytes::copy_from_slice),
            epoch: Epoch {
                range,
                membership: 1,
            },
            replicas: (1..=3).map(replica).collect(),
        }
    }

    prop_compose! {
        fn any_shard()(
            ids in (1u64.., 1u64..), epoch in (1u64.., 1u64..), start: Vec<u8>,
            beyond: Option<Vec<u8>>,
            replicas in prop::collection::btree_map(1u64.., 1u64.., 1..6),
        ) -> ShardDescriptor {
            let end = beyond.map(|tail| [&start[..], &[0], &tail[..]].concat().into());
            let mut nodes = std::collections::BTreeSet::new();
            let replicas = replicas.into_iter().filter(|(_, node)| nodes.insert(*node));
            ShardDescriptor {
                shard: ShardId(ids.0),
                group: GroupId(ids.1),
                start: start.into(),
                end,
                epoch: Epoch { range: epoch.0, membership: epoch.1 },
                replicas: replicas
                    .map(|(replica, node)| Replica { replica: ReplicaId(replica), node: NodeId(node) })
                    .collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn a_shard_reads_back_and_leaves_what_follows(shard in any_shard(), tail: Vec<u8>) {
            let mut bytes = Vec::new();
            shard.encode(&mut bytes);
            prop_assert_eq!(ShardDescriptor::decode(&bytes), Ok(shard.clone()));
            bytes.extend_from_slice(&tail);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(ShardDescriptor::decode_from(&mut reader), Ok(shard));
            prop_assert_eq!(reader.rest(), &tail[..]);
        }

        #[test]
        fn a_cut_shard_is_refused(shard in any_shard(), at: prop::sample::Index) {
            let mut bytes = Vec::new();
            shard.encode(&mut bytes);
            bytes.truncate(at.index(bytes.len()));
            prop_assert!(ShardDescriptor::decode(&bytes).is_err());
        }

        #[test]
        fn a_node_reads_back(node in 1u64.., address in "[a-z0-9.:-]{1,300}") {
            let node = NodeDescriptor { node: NodeId(node), address };
            let mut bytes = Vec::new();
            node.encode(&mut bytes);
            prop_assert_eq!(NodeDescriptor::decode(&bytes), Ok(node));
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>) {
            let _ = ShardDescriptor::decode(&bytes);
            let _ = NodeDescriptor::decode(&bytes);
            bytes.insert(0, VERSION);
            let _ = ShardDescriptor::decode(&bytes);
            let _ = NodeDescriptor::decode(&bytes);
        }

        #[test]
        fn what_decodes_is_valid_and_encodes_to_the_same(
            shard in any_shard(), at: prop::sample::Index, byte: u8,
        ) {
            let mut bytes = Vec::new();
            shard.encode(&mut bytes);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(back) = ShardDescriptor::decode(&bytes) {
                prop_assert_eq!(back.validate(), Ok(()));
                let mut again = Vec::new();
                back.encode(&mut again);
                prop_assert_eq!(ShardDescriptor::decode(&again), Ok(back));
            }
        }
    }

    #[test]
    fn descriptors_that_no_cluster_can_mean_are_refused() {
        let good = shard(2, b"a", Some(b"m"), 1);
        assert_eq!(good.validate(), Ok(()));
        let refused = |change: fn(&mut ShardDescriptor)| {
            let mut bad = good.clone();
            change(&mut bad);
            let mut bytes = Vec::new();
            bad.encode(&mut bytes);
            let error = bad.validate().unwrap_err();
            assert_eq!(ShardDescriptor::decode(&bytes), Err(error.clone()));
            error
        };
        let shard = ShardId(2);
        assert_eq!(
            refused(|d| d.end = Some(Bytes::from_static(b"a"))),
            DescriptorError::EmptyRange { shard }
        );
        assert_eq!(
            refused(|d| d.replicas.clear()),
            DescriptorError::NoReplica { shard }
        );
        assert_eq!(
            refused(|d| d.replicas[2].replica = ReplicaId(1)),
            DescriptorError::ReplicaTwice {
                shard,
                replica: ReplicaId(1)
            }
        );
        assert_eq!(
            refused(|d| d.replicas[2].node = NodeId(1)),
            DescriptorError::NodeTwice {
                shard,
                node: NodeId(1)
            }
        );
        for change in [
            (|d| d.epoch.range = 0) as fn(&mut ShardDescriptor),
            |d| d.epoch.membership = 0,
            |d| d.group = GroupId(0),
            |d| d.replicas[0].node = NodeId(0),
        ] {
            assert!(matches!(refused(change), DescriptorError::Zero { .. }));
        }
    }

    #[test]
    fn an_unknown_version_is_named() {
        let mut bytes = Vec::new();
        shard(2, b"", None, 1).encode(&mut bytes);
        bytes[0] = 9;
        let error = DescriptorError::UnknownVersion { version: 9 };
        assert_eq!(ShardDescriptor::decode(&bytes), Err(error));
    }

    #[test]
    fn ranges_hold_their_start_and_not_their_end() {
        let d = shard(2, b"b", Some(b"d"), 1);
        assert!(!d.contains(b"a") && d.contains(b"b") && d.contains(b"c\xff"));
        assert!(!d.contains(b"d"));
        let touching = shard(3, b"d", None, 1);
        assert!(!d.overlaps(&touching) && !touching.overlaps(&d));
        let inside = shard(3, b"c", Some(b"ca"), 1);
        assert!(d.overlaps(&inside) && inside.overlaps(&d));
    }
}
