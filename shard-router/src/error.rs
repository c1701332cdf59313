//! What can be wrong with a descriptor, a manifest or a map.

use bytes::Bytes;
use pontoon_types::codec::DecodeError;
use pontoon_types::{ClusterId, GroupId, NodeId, ReplicaId, ShardId};
use thiserror::Error;

/// Why bytes or fields are not a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DescriptorError {
    /// The bytes end early, run on, or hold a value outside its range.
    #[error("not a descriptor: {0}")]
    Encoding(#[from] DecodeError),
    /// A version that this build does not know.
    #[error("descriptor version {version} is unknown to this build")]
    UnknownVersion {
        /// The version found.
        version: u8,
    },
    /// An id, or half of an epoch, is zero; all of them start at 1.
    #[error("{what} is zero")]
    Zero {
        /// Which.
        what: &'static str,
    },
    /// The range holds no key.
    #[error("shard {shard} ends at or before its start")]
    EmptyRange {
        /// The shard.
        shard: ShardId,
    },
    /// No replica.
    #[error("shard {shard} has no replica")]
    NoReplica {
        /// The shard.
        shard: ShardId,
    },
    /// Two replicas with one id.
    #[error("shard {shard} lists replica {replica} twice")]
    ReplicaTwice {
        /// The shard.
        shard: ShardId,
        /// The repeated id.
        replica: ReplicaId,
    },
    /// Two replicas on one node.
    #[error("shard {shard} has two replicas on node {node}")]
    NodeTwice {
        /// The shard.
        shard: ShardId,
        /// The node.
        node: NodeId,
    },
    /// An address that is empty, over the limit or not UTF-8.
    #[error("the address of node {node} is empty, too long or not UTF-8")]
    Address {
        /// The node.
        node: NodeId,
    },
}

/// Why a manifest is refused. The texts name what the operator wrote.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// The bytes end early, run on, or hold a value outside its range.
    #[error("not a manifest: {0}")]
    Encoding(#[from] DecodeError),
    /// A version that this build does not know.
    #[error("manifest version {version} is unknown to this build")]
    UnknownVersion {
        /// The version found.
        version: u8,
    },
    /// No node is listed.
    #[error("no node is listed")]
    NoNodes,
    /// A node that no map could hold.
    #[error("a listed node is refused: {0}")]
    Node(#[from] DescriptorError),
    /// A node is listed twice.
    #[error("node {node} is listed twice")]
    NodeTwice {
        /// The node.
        node: NodeId,
    },
    /// Two nodes with one address.
    #[error("nodes {first} and {second} are listed with the same address {address}")]
    AddressTwice {
        /// The lower id.
        first: NodeId,
        /// The higher id.
        second: NodeId,
        /// What both are listed with.
        address: String,
    },
    /// More or fewer replicas than nodes could hold.
    #[error("a replication of {replication} is not possible on {nodes} nodes")]
    Replication {
        /// The replicas asked for.
        replication: usize,
        /// The nodes listed.
        nodes: usize,
    },
    /// A split key that is empty, or not above the one before it.
    #[error("split key number {position} is empty or not above the one before it")]
    SplitKeys {
        /// Its place in the list, from 0.
        position: usize,
    },
}

/// Why rows are not a map, or a map is not whole.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// The row that says that the map was written is not there: the cluster is not bootstrapped yet, or
    /// these are not the rows of a map.
    #[error("the map has no version row; the cluster may still be starting")]
    NoVersion,
    /// A key with the prefix of a node or shard and no id behind it.
    #[error("a row of the map has the key {key:?}, which holds no id")]
    Key {
        /// The key.
        key: Bytes,
    },
    /// A row's value cannot be read.
    #[error("the row {key:?} of the map cannot be read: {source}")]
    Row {
        /// The key.
        key: Bytes,
        /// Why.
        source: DescriptorError,
    },
    /// The map of another cluster.
    #[error("the map is of cluster {found}, not of cluster {expected}")]
    OtherCluster {
        /// The cluster that was asked for.
        expected: ClusterId,
        /// The cluster found.
        found: ClusterId,
    },
    /// The meta shard is not in the map, or not group 1.
    #[error("the map does not list the meta shard as shard 1 of group 1")]
    NoMeta,
    /// A key has no shard, or two.
    #[error("the ranges of the map do not meet: {}", match after {
        Some(shard) => format!("what follows shard {shard} does not begin where it ends"),
        None => "the first shard does not begin at the first key".to_owned(),
    })]
    Ranges {
        /// The shard before the gap or overlap; none if it is at the very beginning.
        after: Option<ShardId>,
    },
    /// Two rows for one shard.
    #[error("shard {shard} is in the map twice")]
    ShardTwice {
        /// The shard.
        shard: ShardId,
    },
    /// Two shards with one group.
    #[error("group {group} owns two shards")]
    GroupTwice {
        /// The group.
        group: GroupId,
    },
    /// A replica on a node that is not in the map.
    #[error("shard {shard} has a replica on node {node}, which is not in the map")]
    UnknownNode {
        /// The shard.
        shard: ShardId,
        /// The node.
        node: NodeId,
    },
}
