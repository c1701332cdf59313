//! What a node has to say of its peers: whom its first start waits for, and where its settings and the cluster's map
//! disagree.

use pontoon_shard_router::NodeDescriptor;
use pontoon_transport::PeerStats;
use pontoon_types::NodeId;
use std::collections::{BTreeMap, BTreeSet};

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

/// Where `--peers` and the nodes of the map disagree.
pub(super) fn disagreements(peers: &[(NodeId, String)], map: &[NodeDescriptor]) -> Option<String> {
    let mut mapped: BTreeMap<_, _> = map.iter().map(|node| (node.node, &node.address)).collect();
    let mut found = Vec::new();
    for (node, given) in peers {
        match mapped.remove(node) {
            Some(mapped) if mapped == given => {}
            Some(mapped) => found.push(format!(
                "node {node} is at {given} there and at {mapped} in the map"
            )),
            None => found.push(format!("node {node} at {given} is not in the map")),
        }
    }
    let missing = mapped.into_iter();
    found.extend(
        missing.map(|(node, mapped)| format!("node {node} is missing, at {mapped} in the map")),
    );
    (!found.is_empty()).then(|| joined(found))
}

fn joined(mut parts: Vec<String>) -> String {
    if let Some(more @ 1..) = parts.len().checked_sub(NAMED) {
        parts.truncate(NAMED);
        parts.push(format!("and {more} more"));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(node: u64) -> String {
        format!("h{node}:1")
    }

    fn given(nodes: &[u64]) -> Vec<(NodeId, String)> {
        let nodes = nodes.iter();
        nodes.map(|node| (NodeId(*node), address(*node))).collect()
    }

    fn map(nodes: &[u64]) -> Vec<NodeDescriptor> {
        let nodes = given(nodes).into_iter();
        nodes
            .map(|(node, address)| NodeDescriptor { node, address })
            .collect()
    }

    #[test]
    fn settings_that_are_as_the_map_are_not_worth_a_word() {
        assert_eq!(disagreements(&given(&[1, 2]), &map(&[2, 1])), None);
    }

    #[test]
    fn each_difference_names_the_node_and_its_addresses() {
        let mut moved = given(&[1, 2, 4]);
        moved[1].1 = "elsewhere:9".to_owned();
        assert_eq!(
            disagreements(&moved, &map(&[1, 2, 3])).unwrap(),
            "node 2 is at elsewhere:9 there and at h2:1 in the map; \
             node 4 at h4:1 is not in the map; node 3 is missing, at h3:1 in the map"
        );
    }

    #[test]
    fn a_line_names_only_so_many() {
        let nodes: Vec<u64> = (1..=20).collect();
        let line = disagreements(&given(&[1]), &map(&nodes)).unwrap();
        assert!(
            line.ends_with("node 9 is missing, at h9:1 in the map; and 11 more"),
            "{line}"
        );
    }
}
