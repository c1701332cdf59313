//! Why a node does not start, or has to stop.

use super::bootstrap::BootstrapError;
use super::identity::IdentityError;
use pontoon_engine::EngineError;
use pontoon_shard_router::{DescriptorError, ManifestError};
use pontoon_store::StoreError;
use pontoon_transport::{TlsError, TransportError};
use pontoon_types::{ClusterId, NodeId, ShardId};
use pontoon_wal::WalError;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a node does not start, or has to stop. Each is one line that says what, where and what to do.
#[derive(Debug, Error)]
pub enum ServerError {
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The nodes, shards or replication of the settings make no cluster.
    #[error(transparent)]
    Manifest(ManifestError),
    /// The list of peers lacks this node.
    #[error("--peers must list every node of the cluster, and node {id} itself is not in it")]
    NotAPeer {
        /// This node.
        id: NodeId,
    },
    /// The data directory cannot be made.
    #[error("cannot create the data directory {}: {source}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The data directory belongs to another node or cluster.
    #[error(
        "the data directory {} belongs to node {node} of cluster {cluster}, \
         not to node {wanted_node} of cluster {wanted_cluster}", path.display()
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        node: NodeId,
        /// Whose it is.
        cluster: ClusterId,
        /// Who asked for it.
        wanted_node: NodeId,
        /// Who asked for it.
        wanted_cluster: ClusterId,
    },
    /// Nothing that a member of a cluster has is there.
    #[error("{} is not the data directory of a node that was a member of a cluster", path.display())]
    NoMember {
        /// The directory.
        path: PathBuf,
    },
    /// A part of the data directory is gone.
    #[error(
        "{} has a log but no store that belongs to it: a part of the data directory is missing; \
         put it back, or start with an empty directory under a new node id", path.display()
    )]
    LogWithoutStore {
        /// The directory.
        path: PathBuf,
    },
    /// A part of the data directory is gone.
    #[error(
        "{} has a store but no log that belongs to it: a part of the data directory is missing, and \
         with it the node's votes; put it back, or start with an empty directory under a new node id",
        path.display()
    )]
    StoreWithoutLog {
        /// The directory.
        path: PathBuf,
    },
    /// A setting that the store cannot keep.
    #[error("max-key-bytes: {wanted} is over {most}, the longest key that the store can hold")]
    MaxKeyBytes {
        /// What was asked for.
        wanted: usize,
        /// What is possible.
        most: usize,
    },
    /// A blank node must not take part.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The log, the store or a thread failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What a node has noted of itself cannot be read.
    #[error("the node's identity in {} cannot be read: {source}", path.display())]
    Identity {
        /// The data directory.
        path: PathBuf,
        /// What is wrong.
        source: IdentityError,
    },
    /// A replica's descriptor cannot be read.
    #[error("the descriptor of shard {shard} in the store is damaged: {source}")]
    Descriptor {
        /// The shard.
        shard: ShardId,
        /// What is wrong.
        source: DescriptorError,
    },
    /// The transport does not start.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

impl ServerError {
    /// Whether the settings are at fault, by themselves or as they go together.
    #[must_use]
    pub const fn is_of_settings(&self) -> bool {
        matches!(
            self,
            Self::MaxKeyBytes { .. }
                | Self::NotAPeer { .. }
                | Self::Manifest(_)
                | Self::Transport(TransportError::Setting { .. })
                | Self::Engine(
                    EngineError::Config { .. } | EngineError::Wal(WalError::Config { .. })
                )
        )
    }

    /// Why the log or the store of a data directory could not be opened.
    pub(super) fn opening(error: EngineError, data_dir: &Path) -> Self {
        match error {
            EngineError::Wal(WalError::Foreign {
                found, expected, ..
            }) => Self::OtherNode {
                path: data_dir.to_owned(),
                node: found.node,
                cluster: found.cluster,
                wanted_node: expected.node,
                wanted_cluster: expected.cluster,
            },
            error => Self::Engine(error),
        }
    }
}
