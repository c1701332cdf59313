//! A cluster as its own nodes see it, put together from the map and from every node's answer.
//!
//! The map says which nodes and shards there are; a node's answer says what its replicas do. A
//! shard's leader is the replica that says of itself that it leads, in the highest term: what
//! others believe about it may be out of date.

use crate::error::Error;
use crate::output::{bytes, count, table};
use crate::status::{GroupStatus, KeyRange, NodeStatus, Role};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use pontoon_client::Client;
use pontoon_shard_router::{ClusterMap, ShardDescriptor};
use pontoon_types::NodeId;
use serde::Serialize;
use tokio::task::JoinSet;

/// A cluster at about one moment.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterView {
    /// The cluster's id.
    pub cluster: String,
    /// The version of the map.
    pub map_version: u64,
    /// All nodes, by id.
    pub nodes: Vec<NodeView>,
    /// All shards, the meta shard first, then in the order of keys.
    pub shards: Vec<ShardView>,
}

/// A node, with its answer or the reason why there is none.
#[derive(Clone, Debug, Serialize)]
pub struct NodeView {
    /// The node.
    pub node: u64,
    /// Where the map says it is.
    pub address: String,
    /// Its answer.
    pub status: Option<NodeStatus>,
    /// Why there is none.
    pub error: Option<String>,
}

/// A shard.
#[derive(Clone, Debug, Serialize)]
pub struct ShardView {
    /// The shard.
    pub shard: u64,
    /// Its group.
    pub group: u64,
    /// Whether it holds the map.
    pub meta: bool,
    /// Its keys.
    pub range: KeyRange,
    /// Its epoch, `range.membership`.
    pub epoch: String,
    /// Nodes that hold a replica.
    pub replicas: Vec<u64>,
    /// The node that leads it.
    pub leader: Option<u64>,
    /// The highest term that any replica tells.
    pub term: u64,
    /// The highest commit index that any replica tells.
    pub commit: u64,
    /// The lowest applied index of the replicas that answered.
    pub applied: u64,
}

impl ClusterView {
    /// Asks every node.
    ///
    /// # Errors
    /// If the map cannot be read. A node that does not answer is part of the view.
    pub async fn look(client: &Client) -> Result<Self, Error> {
        let map = client.map().await?;
        let mut asking = JoinSet::new();
        for node in map.nodes() {
            let (client, node) = (client.clone(), node.node);
            asking.spawn(async move { (node, ask(&client, node).await) });
        }
        let mut answers = Vec::new();
        while let Some(answer) = asking.join_next().await {
            answers.push(answer.expect("asking a node does not panic"));
        }
        Ok(Self::new(&map, answers))
    }

    /// Puts a map and answers together.
    #[must_use]
    pub fn new(map: &ClusterMap, answers: Vec<(NodeId, Result<NodeStatus, String>)>) -> Self {
        let nodes: Vec<NodeView> = map
            .nodes()
            .map(|node| {
                let answer = answers.iter().find(|(id, _)| *id == node.node);
                let answer = answer.map(|(_, answer)| answer);
                NodeView {
                    node: node.node.0,
                    address: node.address.clone(),
                    status: answer.and_then(|answer| answer.clone().ok()),
                    error: answer.and_then(|answer| answer.clone().err()),
                }
            })
            .collect();
        let shards = std::iter::once(map.meta())
            .chain(map.shards().map(AsRef::as_ref))
            .map(|shard| ShardView::new(shard, shard.group == map.meta().group, &nodes))
            .collect();
        Self {
            cluster: map.cluster().to_string(),
            map_version: map.version(),
            nodes,
            shards,
        }
    }

    /// Answers of the nodes that answered.
    pub fn statuses(&self) -> impl Iterator<Item = &NodeStatus> {
        self.nodes.iter().filter_map(|node| node.status.as_ref())
    }

    /// Shards, the meta shard among them, that nobody leads.
    #[must_use]
    pub fn shards_without_leader(&self) -> usize {
        self.shards.iter().filter(|shard| shard.leader.is_none()).count()
    }

    /// Shards of users' keys.
    #[must_use]
    pub fn user_shards(&self) -> usize {
        self.shards.iter().filter(|shard| !shard.meta).count()
    }

    /// Shards that a node leads.
    #[must_use]
    pub fn led_by(&self, node: u64) -> usize {
        self.shards.iter().filter(|shard| shard.leader == Some(node)).count()
    }

    /// One JSON object, on one line.
    ///
    /// # Panics
    /// Never: numbers and text can always be written.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and text can always be written")
    }

    /// What fits on a screen, however many shards there are.
    #[must_use]
    pub fn to_text(&self) -> String {
        let header = [
            "node", "address", "state", "replicas", "leads", "log", "syncs", "memory", "version",
        ];
        let rows = self.nodes.iter().map(|node| self.node_row(node)).collect();
        let mut lines = vec![
            format!("cluster {}, map version {}", self.cluster, self.map_version),
            String::new(),
            table(&header, rows),
            String::new(),
        ];
        lines.push(self.shard_summary());
        let leaderless = self.shards.iter().filter(|shard| shard.leader.is_none());
        let named: Vec<String> = leaderless.take(8).map(|shard| shard.shard.to_string()).collect();
        match self.shards_without_leader() {
            0 => {}
            shards if shards > named.len() => lines.push(format!(
                "without a leader: {shards} shards, among them {}",
                named.join(", ")
            )),
            _ => lines.push(format!("without a leader: shards {}", named.join(", "))),
        }
        for node in &self.nodes {
            if let Some(error) = &node.error {
                lines.push(format!("node {} does not answer: {error}", node.node));
            }
        }
        lines.join("\n")
    }

    fn node_row(&self, node: &NodeView) -> Vec<String> {
        let mut row = vec![node.node.to_string(), node.address.clone()];
        let leads = self.led_by(node.node).to_string();
        match &node.status {
            None => {
                row.push("unreachable".to_owned());
                row.extend(["-", "-", "-", "-", "-", "-"].map(str::to_owned));
            }
            Some(status) => row.extend([
                format!("up {}", duration(status.uptime_s)),
                status.groups.len().to_string(),
                leads,
                bytes(status.log.live_bytes as f64) + if status.log.full { " FULL" } else { "" },
                count(status.log.syncs as f64),
                bytes(status.resident_bytes as f64),
                status.version.clone(),
            ]),
        }
        row
    }

    fn shard_summary(&self) -> String {
        let terms = self.shards.iter().map(|shard| shard.term);
        let (least, most) = (terms.clone().min().unwrap_or(0), terms.max().unwrap_or(0));
        let lag = self.shards.iter().map(|shard| shard.commit.saturating_sub(shard.applied));
        format!(
            "{} shards and the meta shard; terms {least} to {most}; commit indexes sum up to {}; \
             slowest replica applies {} entries behind",
            self.user_shards(),
            count(self.shards.iter().map(|shard| shard.commit).sum::<u64>() as f64),
            lag.max().unwrap_or(0),
        )
    }
}

impl ShardView {
    fn new(descriptor: &ShardDescriptor, meta: bool, nodes: &[NodeView]) -> Self {
        let replicas: Vec<(u64, &GroupStatus)> = nodes
            .iter()
            .filter_map(|node| node.status.as_ref())
            .flat_map(|status| status.groups.iter().map(move |group| (status.node, group)))
            .filter(|(_, group)| group.group == descriptor.group.0)
            .collect();
        let leader = replicas
            .iter()
            .filter(|(_, group)| group.role == Role::Leader)
            .max_by_key(|(_, group)| group.term);
        Self {
            shard: descriptor.shard.0,
            group: descriptor.group.0,
            meta,
            range: KeyRange {
                start_b64: BASE64_STANDARD.encode(&descriptor.start),
                end_b64: descriptor.end.as_ref().map(|end| BASE64_STANDARD.encode(end)),
            },
            epoch: descriptor.epoch.to_string(),
            replicas: descriptor.replicas.iter().map(|replica| replica.node.0).collect(),
            leader: leader.map(|(node, _)| *node),
            term: replicas.iter().map(|(_, group)| group.term).max().unwrap_or(0),
            commit: replicas.iter().map(|(_, group)| group.commit).max().unwrap_or(0),
            applied: replicas.iter().map(|(_, group)| group.applied).min().unwrap_or(0),
        }
    }
}

async fn ask(client: &Client, node: NodeId) -> Result<NodeStatus, String> {
    let answer = client.status(node).await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&answer).map_err(|error| format!("its answer cannot be read: {error}"))
}

/// Seconds in the two units that say most.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days}d {}h", hours % 24)
    } else if hours > 0 {
        format!("{hours}h {}m", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes}m {}s", seconds % 60)
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_shard_router::{Manifest, NodeDescriptor};
    use pontoon_types::ClusterId;

    fn map() -> ClusterMap {
        let nodes = (1..=3).map(|id| NodeDescriptor {
            node: NodeId(id),
            address: format!("host{id}:7000"),
        });
        Manifest::new(ClusterId(7), nodes.collect(), vec![::bytes::Bytes::from_static(b"m")], 3)
            .unwrap()
            .initial_map()
    }

    fn answer(map: &ClusterMap, node: u64, leads: bool, term: u64) -> NodeStatus {
        let groups = std::iter::once(map.meta()).chain(map.shards().map(AsRef::as_ref));
        NodeStatus {
            node,
            groups: groups
                .map(|shard| GroupStatus {
                    group: shard.group.0,
                    role: if leads { Role::Leader } else { Role::Follower },
                    term,
                    commit: 10 * node,
                    applied: 9 * node,
                    ..GroupStatus::default()
                })
                .collect(),
            ..NodeStatus::default()
        }
    }

    #[test]
    fn the_leader_is_who_leads_in_the_highest_term() {
        let map = map();
        let answers = vec![
            (NodeId(1), Ok(answer(&map, 1, true, 3))),
            (NodeId(2), Ok(answer(&map, 2, true, 4))),
            (NodeId(3), Ok(answer(&map, 3, false, 4))),
        ];
        let view = ClusterView::new(&map, answers);
        assert_eq!(view.user_shards(), 2);
        assert_eq!(view.shards.len(), 3);
        assert!(view.shards[0].meta);
        assert!(view.shards.iter().all(|shard| shard.leader == Some(2)));
        assert_eq!((view.shards[0].commit, view.shards[0].applied), (30, 9));
        assert_eq!(view.led_by(2), 3);
        assert_eq!(view.shards_without_leader(), 0);
    }

    #[test]
    fn a_node_that_is_away_is_shown_as_such() {
        let map = map();
        let answers = vec![
            (NodeId(1), Err("no answer in time".to_owned())),
            (NodeId(2), Ok(answer(&map, 2, false, 4))),
        ];
        let view = ClusterView::new(&map, answers);
        assert_eq!(view.shards_without_leader(), 3);
        let text = view.to_text();
        assert!(text.contains("unreachable"), "{text}");
        assert!(text.contains("node 1 does not answer: no answer in time"), "{text}");
        assert!(text.contains("without a leader: shards"), "{text}");
        assert!(text.lines().count() < 20, "{text}");
        assert!(!view.to_json().contains('\n'));
    }

    #[test]
    fn durations_say_what_matters() {
        assert_eq!(duration(59), "59s");
        assert_eq!(duration(61), "1m 1s");
        assert_eq!(duration(7200), "2h 0m");
        assert_eq!(duration(90_000), "1d 1h");
    }
}
