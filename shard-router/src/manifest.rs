//! What a cluster is started from, and the map that follows from it.
//!
//! Every node of a new cluster is given the same manifest and derives the same map, so that groups can
//! elect and replicate before anyone has asked anyone. From then on the meta group's rows are the truth
//! and the manifest is only history; its hash stays, so that a node that was started with another one is
//! found out.
//!
//! ```text
//! version      u8  1
//! cluster      u64
//! replication  varint
//! nodes        count, then node descriptors, ascending by id
//! split keys   count, then length-prefixed, ascending
//! ```

use crate::{ClusterMap, DescriptorError, ManifestError, NodeDescriptor, Replica, ShardDescriptor};
use bytes::Bytes;
use core::fmt;
use pontoon_types::codec::{Reader, put_bytes, put_varint};
use pontoon_types::{ClusterId, Epoch, GroupId, NodeId, ReplicaId, ShardId};

const VERSION: u8 = 1;

/// Replicas per group if nobody asks for another number (and there are as many nodes).
pub const DEFAULT_REPLICATION: usize = 3;

/// The first shard and group that belong to users; those before it are the meta group's.
const FIRST_USER_ID: u64 = 2;

/// The nodes, the borders and the replication that a cluster begins with. Valid once made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    cluster: ClusterId,
    nodes: Vec<NodeDescriptor>,
    split_keys: Vec<Bytes>,
    replication: usize,
}

/// 128 bits that two nodes compare to know that they were started from the same manifest.
///
/// FNV-1a over the manifest's encoding (offset basis and prime of 128 bits as in RFC 9923, "The FNV
/// Non-Cryptographic Hash Algorithm"). It guards against mistakes, not against forgery: whoever can
/// speak to a node at all holds a certificate of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManifestHash(pub u128);

impl fmt::Display for ManifestHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ManifestHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ManifestHash({self})")
    }
}

impl Manifest {
    /// A manifest of these nodes, in any order, and these borders, ascending. Without `replication` each
    /// group gets [`DEFAULT_REPLICATION`] replicas, or as many as there are nodes.
    ///
    /// # Errors
    /// If no cluster can be started from it; the error names what is wrong with which part.
    pub fn new(
        cluster: ClusterId,
        nodes: impl IntoIterator<Item = (NodeId, String)>,
        split_keys: Vec<Bytes>,
        replication: Option<usize>,
    ) -> Result<Self, ManifestError> {
        let mut nodes: Vec<NodeDescriptor> = nodes
            .into_iter()
            .map(|(node, address)| NodeDescriptor { node, address })
            .collect();
        nodes.sort_unstable();
        let replication = replication.unwrap_or(DEFAULT_REPLICATION.min(nodes.len()));
        let manifest = Self {
            cluster,
            nodes,
            split_keys,
            replication,
        };
        manifest.validate()?;
        Ok(manifest)
    }

    fn validate(&self) -> Result<(), ManifestError> {
        if self.nodes.is_empty() {
            return Err(ManifestError::NoNodes);
        }
        for node in &self.nodes {
            node.validate()?;
        }
        if let Some(pair) = self.nodes.windows(2).find(|p| p[0].node >= p[1].node) {
            return Err(ManifestError::NodeTwice { node: pair[1].node });
        }
        let mut by_address: Vec<_> = self.nodes.iter().collect();
        by_address.sort_by_key(|node| &node.address);
        if let Some(pair) = by_address.windows(2).find(|p| p[0].address == p[1].address) {
            return Err(ManifestError::AddressTwice {
                first: pair[0].node,
                second: pair[1].node,
                address: pair[0].address.clone(),
            });
        }
        if !(1..=self.nodes.len()).contains(&self.replication) {
            return Err(ManifestError::Replication {
                replication: self.replication,
                nodes: self.nodes.len(),
            });
        }
        let mut below: &[u8] = &[];
        for (position, key) in self.split_keys.iter().enumerate() {
            if key[..] <= *below {
                return Err(ManifestError::SplitKeys { position });
            }
            below = key;
        }
        Ok(())
    }

    /// The cluster.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The nodes, ascending by id.
    #[must_use]
    pub fn nodes(&self) -> &[NodeDescriptor] {
        &self.nodes
    }

    /// The borders between user shards, ascending.
    #[must_use]
    pub fn split_keys(&self) -> &[Bytes] {
        &self.split_keys
    }

    /// Replicas per group.
    #[must_use]
    pub const fn replication(&self) -> usize {
        self.replication
    }

    /// How many user shards the cluster begins with.
    #[must_use]
    pub const fn user_shards(&self) -> usize {
        self.split_keys.len() + 1
    }

    /// The map that the cluster begins with, the same on every node.
    ///
    /// The meta shard is shard 1 of group 1, on the nodes with the lowest ids. User shards and their
    /// groups are numbered from 2 in key order. The replicas of the i-th are on the `replication` nodes
    /// from the i-th on, around the ring of nodes; the first is the preferred leader, so every node
    /// leads as many groups as any other, give or take one. Replicas are numbered from 1 in each group.
    #[must_use]
    pub fn initial_map(&self) -> ClusterMap {
        let describe = |id: u64, start: Bytes, end: Option<Bytes>, first_node: usize| {
            let nodes = self.nodes.iter().cycle().skip(first_node);
            let replicas = (1..).zip(nodes.take(self.replication));
            ShardDescriptor {
                shard: ShardId(id),
                group: GroupId(id),
                start,
                end,
                epoch: Epoch {
                    range: 1,
                    membership: 1,
                },
                replicas: replicas
                    .map(|(replica, node)| Replica {
                        replica: ReplicaId(replica),
                        node: node.node,
                    })
                    .collect(),
            }
        };
        let meta = describe(ShardId::META.0, Bytes::new(), None, 0);
        let starts = core::iter::once(Bytes::new()).chain(self.split_keys.iter().cloned());
        let ends = self.split_keys.iter().cloned().map(Some).chain([None]);
        let users = starts.zip(ends).enumerate().map(|(i, (start, end))| {
            let id = FIRST_USER_ID + i as u64;
            describe(id, start, end, i % self.nodes.len())
        });
        let map = ClusterMap::new(
            self.cluster,
            1,
            self.nodes.iter().cloned(),
            core::iter::once(meta).chain(users),
        );
        match map {
            Ok(map) => map,
            Err(error) => unreachable!("a valid manifest makes a valid map: {error}"),
        }
    }

    /// What two nodes compare before they bootstrap. It covers the cluster's id, all nodes with their
    /// addresses as written, the borders and the replication.
    #[must_use]
    pub fn hash(&self) -> ManifestHash {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        ManifestHash(fnv1a_128(&bytes))
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(&self.cluster.0.to_le_bytes());
        put_varint(out, self.replication as u64);
        put_varint(out, self.nodes.len() as u64);
        for node in &self.nodes {
            node.encode(out);
        }
        put_varint(out, self.split_keys.len() as u64);
        for key in &self.split_keys {
            put_bytes(out, key);
        }
    }

    /// Reads exactly one manifest.
    ///
    /// # Errors
    /// If the bytes are anything else, or a manifest from which no cluster can be started.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            VERSION => {}
            version => return Err(ManifestError::UnknownVersion { version }),
        }
        let cluster = ClusterId(reader.u64()?);
        let replication = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
        let count = reader.count(3)?;
        let nodes = (0..count).map(|_| NodeDescriptor::decode_from(&mut reader));
        let nodes = nodes.collect::<Result<Vec<_>, DescriptorError>>()?;
        let count = reader.count(1)?;
        let mut split_keys = Vec::with_capacity(count);
        for _ in 0..count {
            split_keys.push(Bytes::copy_from_slice(reader.bytes()?));
        }
        reader.finish()?;
        let manifest = Self {
            cluster,
            nodes,
            split_keys,
            replication,
        };
        manifest.validate()?;
        Ok(manifest)
    }
}

fn fnv1a_128(bytes: &[u8]) -> u128 {
    const OFFSET_BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = (1 << 88) + 0x13b;
    bytes.iter().fold(OFFSET_BASIS, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cut_evenly;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn nodes(count: u64) -> Vec<(NodeId, String)> {
        (1..=count)
            .map(|n| (NodeId(n), format!("10.0.0.{n}:7700")))
            .collect()
    }

    fn manifest(node_count: u64, shards: usize, replication: Option<usize>) -> Manifest {
        let splits = cut_evenly(shards);
        Manifest::new(ClusterId(7), nodes(node_count), splits, replication).unwrap()
    }

    proptest! {
        #[test]
        fn leaders_and_replicas_are_spread_evenly(node_count in 1u64..12, shards in 1usize..200) {
            let map = manifest(node_count, shards, None).initial_map();
            prop_assert_eq!(map.len(), shards);
            let mut leaders: BTreeMap<NodeId, usize> = nodes(node_count).into_iter().map(|(n, _)| (n, 0)).collect();
            let mut replicas = leaders.clone();
            for shard in map.shards() {
                prop_assert_eq!(shard.replicas.len() as u64, node_count.min(3));
                *leaders.get_mut(&shard.preferred_leader().unwrap().node).unwrap() += 1;
                for replica in &shard.replicas {
                    *replicas.get_mut(&replica.node).unwrap() += 1;
                }
            }
            let spread = |counts: &BTreeMap<NodeId, usize>| {
                counts.values().max().unwrap() - counts.values().min().unwrap()
            };
            prop_assert!(spread(&leaders) <= 1, "{:?}", leaders);
            prop_assert!(spread(&replicas) <= 3, "{:?}", replicas);
        }

        #[test]
        fn a_manifest_reads_back_with_its_hash(
            node_count in 1u64..9, shards in 1usize..70, cluster: u64,
        ) {
            let one = Manifest::new(ClusterId(cluster), nodes(node_count), cut_evenly(shards), None).unwrap();
            let mut bytes = Vec::new();
            one.encode(&mut bytes);
            let back = Manifest::decode(&bytes).unwrap();
            prop_assert_eq!(back.hash(), one.hash());
            prop_assert_eq!(back, one);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>) {
            let _ = Manifest::decode(&bytes);
            bytes.insert(0, VERSION);
            let _ = Manifest::decode(&bytes);
        }
    }

    #[test]
    fn the_meta_shard_is_shard_1_on_the_lowest_nodes() {
        let map = manifest(5, 4, None).initial_map();
        let meta = map.meta();
        assert_eq!((meta.shard, meta.group), (ShardId::META, GroupId::META));
        let on: Vec<_> = meta
            .replicas
            .iter()
            .map(|r| (r.replica.0, r.node.0))
            .collect();
        assert_eq!(on, [(1, 1), (2, 2), (3, 3)]);
        let ids: Vec<_> = map.shards().map(|s| (s.shard.0, s.group.0)).collect();
        assert_eq!(ids, [(2, 2), (3, 3), (4, 4), (5, 5)]);
        let last: Vec<_> = map.shards().last().unwrap().replicas.clone();
        assert_eq!(last.iter().map(|r| r.node.0).collect::<Vec<_>>(), [4, 5, 1]);
    }

    #[test]
    fn the_order_of_the_list_does_not_matter_and_everything_else_does() {
        let hash = |nodes: Vec<(NodeId, String)>, cluster, shards, replication| {
            let cluster = ClusterId(cluster);
            Manifest::new(cluster, nodes, cut_evenly(shards), Some(replication))
                .unwrap()
                .hash()
        };
        let base = hash(nodes(3), 1, 8, 3);
        let mut turned = nodes(3);
        turned.reverse();
        assert_eq!(hash(turned, 1, 8, 3), base);
        let mut moved = nodes(3);
        moved[1].1 = "10.0.0.9:7700".into();
        let others = [
            hash(moved, 1, 8, 3),
            hash(nodes(4), 1, 8, 3),
            hash(nodes(3), 2, 8, 3),
            hash(nodes(3), 1, 9, 3),
            hash(nodes(3), 1, 8, 1),
        ];
        assert!(others.iter().all(|other| *other != base), "{others:?}");
    }

    #[test]
    fn the_hash_function_is_fnv_1a_of_128_bits() {
        assert_eq!(
            fnv1a_128(b"foobar"),
            0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18
        );
    }

    #[test]
    fn the_hash_never_changes_between_builds() {
        // Nodes of different builds compare it, so this value is part of the format.
        let hash = manifest(3, 4, None).hash();
        assert_eq!(hash.to_string(), "f72ffd2764142f14146cdf23e1639854");
    }

    #[test]
    fn a_manifest_that_cannot_start_is_refused_with_its_reason() {
        let new = |nodes, splits: &[&'static [u8]], replication| {
            let splits = splits.iter().copied().map(Bytes::from_static).collect();
            Manifest::new(ClusterId(1), nodes, splits, replication).unwrap_err()
        };
        assert_eq!(new(vec![], &[], None), ManifestError::NoNodes);
        let mut twice = nodes(2);
        twice.push((NodeId(2), "elsewhere:1".into()));
        let node = NodeId(2);
        assert_eq!(new(twice, &[], None), ManifestError::NodeTwice { node });
        let mut same = nodes(2);
        same[0].1 = same[1].1.clone();
        let error = new(same, &[], None);
        assert!(
            matches!(error, ManifestError::AddressTwice { .. }),
            "{error}"
        );
        for replication in [0, 4] {
            let error = new(nodes(3), &[], Some(replication));
            assert_eq!(
                error,
                ManifestError::Replication {
                    replication,
                    nodes: 3
                }
            );
        }
        for (splits, position) in [(&[&b""[..]][..], 0), (&[b"b", b"a"], 1), (&[b"b", b"b"], 1)] {
            let error = new(nodes(3), splits, None);
            assert_eq!(error, ManifestError::SplitKeys { position });
        }
    }
}
