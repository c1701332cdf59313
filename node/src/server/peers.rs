//! What a node has to say of its peers: whom its first start waits for.

use pontoon_transport::PeerStats;
use pontoon_types::NodeId;
use std::collections::BTreeSet;

/// So many nodes are named in a line.
const NAMED: usize = 8;

/// The peers that are waited for, each with why there is no connection, if that is known.
pub(super) fn waited_for(missing: &BTreeSet<NodeId>, peers: &[PeerStats]) -> String {
    let missing = peers.iter().filter(|peer| missing.contains(&peer.node));
    let named = missing.map(|peer| {
        let error = peer.last_error.iter().map(|error| format!(": {error}"));
        let error: String = error.collect();
        format!("node {} at {}{error}", peer.node, peer.address)
    });
    joined(named.collect())
}

fn joined(mut parts: Vec<String>) -> String {
    if let Some(more @ 1..) = parts.len().checked_sub(NAMED) {
        parts.truncate(NAMED);
        parts.push(format!("and {more} more"));
    }
    parts.join("; ")
}
