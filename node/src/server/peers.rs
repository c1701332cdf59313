//! The peers of a node that starts: the wait for all of them at the first start, and where settings and the cluster's
//! map disagree on them.

use super::bootstrap::{Bootstrap, Hello, Nonce};
use super::config::ServerConfig;
use super::error::ServerError;
use super::identity::Identity;
use super::links::Heard;
use super::requests::Reception;
use pontoon_shard_router::{Manifest, NodeDescriptor};
use pontoon_transport::{PeerStats, Transport};
use pontoon_types::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;

/// How often a node that waits for its peers looks how that goes.
const WAIT_LOOK: Duration = Duration::from_secs(1);

/// When it first says so, and how long the pause between two lines, which doubles, gets to be.
const FIRST_NOTICE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// So many nodes are named in a line.
const NAMED: usize = 8;

/// All that a blank node knows of the world.
pub(super) struct Others<'a> {
    pub(super) transport: &'a Transport,
    pub(super) clients: &'a Reception,
    pub(super) hellos: &'a mut UnboundedReceiver<Heard>,
}

impl Others<'_> {
    /// Waits until every listed peer has been heard, and returns their nonces.
    pub(super) async fn wait_for(
        self,
        config: &ServerConfig,
        manifest: &Manifest,
        identity: &Identity,
    ) -> Result<BTreeMap<NodeId, Nonce>, ServerError> {
        let nodes = manifest.nodes().iter().map(|node| node.node);
        let peers = nodes.filter(|node| *node != config.id);
        let mut bootstrap = Bootstrap::new(config.id, manifest.hash(), identity.nonce, peers);
        let (mut notice, mut pause) = (Instant::now() + FIRST_NOTICE, FIRST_NOTICE);
        loop {
            if let Some(members) = bootstrap.complete() {
                return Ok(members);
            }
            let missing = bootstrap.missing().collect();
            let missing = waited_for(&missing, &self.transport.stats().peers);
            let now = Instant::now();
            if now >= notice {
                tracing::info!("the first start needs every node; waiting for {missing}");
                pause = (pause * 2).min(LONGEST_PAUSE);
                // From now on: after a suspension there is nothing to catch up with.
                notice = now + pause;
            }
            self.clients.waits_for(&missing);
            match tokio::time::timeout(WAIT_LOOK, self.hellos.recv()).await {
                Ok(Some(Heard { peer, hello })) => match Hello::decode(&hello) {
                    Ok(hello) => bootstrap.hear(peer, &hello)?,
                    Err(error) => tracing::warn!(%peer, %error, "a peer's hello cannot be read"),
                },
                Ok(None) => std::future::pending().await,
                Err(_) => {}
            }
        }
    }
}

/// The peers that are waited for, each with why there is no connection, if that is known.
fn waited_for(missing: &BTreeSet<NodeId>, peers: &[PeerStats]) -> String {
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
