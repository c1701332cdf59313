//! The data directory of a stopped node, opened as a start would, to be worked on and not to be served.

use super::ServerError;
use super::identity::Identity;
use pontoon_engine::{EngineConfig, Opened};
use pontoon_store::LsmSettings;
use pontoon_types::{ClusterId, NodeId};
use pontoon_wal::{WalConfig, WalError, inspect};
use std::collections::BTreeSet;
use std::path::Path;

/// A stopped node. While this lives the node's lock is held, so that the node cannot be started.
pub struct StoppedNode {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The nodes that the cluster was begun with, this one included.
    pub nodes: BTreeSet<NodeId>,
    /// Its log and its store.
    pub opened: Opened,
}

/// Opens the data directory of a stopped node that is a member of a cluster.
///
/// # Errors
/// If it is none, is in use, or cannot be read.
pub fn open_stopped(data_dir: &Path) -> Result<StoppedNode, ServerError> {
    let no_member = || ServerError::NoMember {
        path: data_dir.to_owned(),
    };
    let log_dir = data_dir.join("log");
    if !log_dir.is_dir() {
        return Err(no_member());
    }
    let wal = |error: WalError| ServerError::Engine(error.into());
    let report = inspect::stat(&log_dir).map_err(wal)?;
    let owner = report.identity.ok_or_else(no_member)?;
    let default = WalConfig::default();
    // The next segment is to be like those that are there, as far as these are whole.
    let sizes = report.segments.iter().map(|segment| segment.bytes);
    let smallest = sizes.filter(|bytes| bytes.is_multiple_of(1 << 20)).min();
    let config = EngineConfig {
        wal: WalConfig {
            segment_bytes: smallest
                .filter(|bytes| *bytes > 0)
                .unwrap_or(default.segment_bytes),
            ..default
        },
        ..EngineConfig::default()
    };
    let (cluster, node) = (owner.cluster, owner.node);
    let mut opened = Opened::open(data_dir, cluster, node, config, LsmSettings::default())
        .map_err(|error| ServerError::opening(error, data_dir))?;
    let identity = Identity::load(opened.machine(), cluster, node, data_dir)?;
    let identity = identity.ok_or_else(no_member)?;
    identity.check_log(&opened, data_dir)?;
    let (manifest, _) = identity.members.ok_or_else(no_member)?;
    let nodes = manifest.nodes().iter().map(|node| node.node).collect();
    Ok(StoppedNode {
        cluster,
        node,
        nodes,
        opened,
    })
}
