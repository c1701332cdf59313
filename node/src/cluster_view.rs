//! A cluster as its own nodes see it, put together from the map and from every node's answer.
//!
//! The map says which nodes and shards there are; a node's answer says what its replicas do. A
//! shard's leader is the replica that says of itself that it leads, in the highest term: what
//! others believe about it may be out of date.

mod text;

use crate::status::{GroupStatus, KeyRange, NodeStatus, Role};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use pontoon_client::{Client, ClientError};
use pontoon_shard_router::{ClusterMap, NodeDescriptor, ShardDescriptor};
use pontoon_types::{ClusterId, GroupId};
use serde::Serialize;
use std::collections::BTreeMap;

/// A cluster at about one moment.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterView {
    /// The cluster's id.
    pub cluster: String,
    /// The version of the map; none if the meta group could not be read.
    pub map_version: Option<u64>,
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
    /// Its epoch, `range.membership`; none if the map could not be read.
    pub epoch: Option<String>,
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
    /// How many voters it has, by the word of the replica that has applied most.
    pub voters: usize,
    /// How many of them are on nodes that answered and take part.
    pub voters_up: usize,
    /// When it was recovered by force, if it was.
    pub forced: Option<String>,
}

impl ClusterView {
    /// Asks every node, and reads the map. Without a quorum of the meta group the map cannot be
    /// read; then the nodes' own words must do.
    pub async fn look(client: &Client) -> Self {
        let (answers, map) = tokio::join!(client.statuses(), client.map());
        Self::from_answers(client, map.ok().as_ref(), answers)
    }

    /// Asks every node about what a map says.
    pub async fn of_map(client: &Client, map: &ClusterMap) -> Self {
        Self::from_answers(client, Some(map), client.statuses().await)
    }

    fn from_answers(
        client: &Client,
        map: Option<&ClusterMap>,
        answers: Vec<(NodeDescriptor, Result<Bytes, ClientError>)>,
    ) -> Self {
        let answers = answers
            .into_iter()
            .map(|(node, answer)| {
                let answer = answer.map_err(|error| error.to_string());
                let status = answer.and_then(|answer| {
                    serde_json::from_slice(&answer)
                        .map_err(|error| format!("its answer cannot be read: {error}"))
                });
                (node, status)
            })
            .collect();
        Self::new(client.cluster(), map, answers)
    }

    /// Puts a map, if there is one, and answers together.
    #[must_use]
    pub fn new(
        cluster: ClusterId,
        map: Option<&ClusterMap>,
        answers: Vec<(NodeDescriptor, Result<NodeStatus, String>)>,
    ) -> Self {
        let nodes: Vec<NodeView> = answers
            .into_iter()
            .map(|(node, answer)| {
                let (status, error) = match answer {
                    Ok(status) => (Some(status), None),
                    Err(error) => (None, Some(error)),
                };
                NodeView {
                    node: node.node.0,
                    address: node.address,
                    status,
                    error,
                }
            })
            .collect();
        let shards = match map {
            Some(map) => std::iter::once(map.meta())
                .chain(map.shards())
                .map(|shard| ShardView::of_map(shard, &nodes))
                .collect(),
            None => {
                let replicas = nodes.iter().filter_map(|node| node.status.as_ref());
                let groups: BTreeMap<u64, &GroupStatus> = replicas
                    .flat_map(|status| &status.groups)
                    .map(|group| (group.group, group))
                    .collect();
                let groups = groups.into_values();
                groups
                    .map(|group| ShardView::of_group(group, &nodes))
                    .collect()
            }
        };
        Self {
            cluster: cluster.to_string(),
            map_version: map.map(ClusterMap::version),
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
        self.shards
            .iter()
            .filter(|shard| shard.leader.is_none())
            .count()
    }

    /// Shards of users' keys.
    #[must_use]
    pub fn user_shards(&self) -> usize {
        self.shards.iter().filter(|shard| !shard.meta).count()
    }

    /// Shards that a node leads.
    #[must_use]
    pub fn led_by(&self, node: u64) -> usize {
        self.shards
            .iter()
            .filter(|shard| shard.leader == Some(node))
            .count()
    }

    /// One JSON object, on one line.
    ///
    /// # Panics
    /// Never: numbers and text can always be written.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and text can always be written")
    }
}

impl ShardView {
    /// A shard as the map has it.
    fn of_map(descriptor: &ShardDescriptor, nodes: &[NodeView]) -> Self {
        let group = GroupStatus {
            group: descriptor.group.0,
            shard: descriptor.shard.0,
            range: KeyRange {
                start_b64: BASE64_STANDARD.encode(&descriptor.start),
                end_b64: descriptor
                    .end
                    .as_ref()
                    .map(|end| BASE64_STANDARD.encode(end)),
            },
            ..GroupStatus::default()
        };
        let replicas = descriptor.replicas.iter();
        let told = Self::of_group(&group, nodes);
        // The map says who the members were at first; the leader says who they are.
        let members = told.members_by(nodes);
        Self {
            epoch: Some(descriptor.epoch.to_string()),
            replicas: members.unwrap_or_else(|| replicas.map(|replica| replica.node.0).collect()),
            ..told
        }
    }

    /// Whether no majority of its voters answers; false if nobody says who votes.
    const fn lacks_quorum(&self) -> bool {
        self.voters > 0 && self.voters_up <= self.voters / 2
    }

    /// The nodes of the members, by the leader's word.
    fn members_by(&self, nodes: &[NodeView]) -> Option<Vec<u64>> {
        let leader = nodes.iter().find(|node| Some(node.node) == self.leader)?;
        let mut groups = leader.status.as_ref()?.groups.iter();
        let members = &groups.find(|group| group.group == self.group)?.members;
        let mut nodes: Vec<u64> = members.iter().filter_map(|member| member.node).collect();
        nodes.sort_unstable();
        (!nodes.is_empty()).then_some(nodes)
    }

    /// A shard as its replicas tell.
    fn of_group(group: &GroupStatus, nodes: &[NodeView]) -> Self {
        let replicas: Vec<(u64, &GroupStatus)> = nodes
            .iter()
            .filter_map(|node| node.status.as_ref())
            .flat_map(|status| status.groups.iter().map(move |group| (status.node, group)))
            .filter(|(_, replica)| replica.group == group.group)
            .collect();
        let leader = replicas
            .iter()
            .filter(|(_, replica)| replica.role == Role::Leader)
            .max_by_key(|(_, replica)| replica.term);
        let told = || replicas.iter().map(|(_, replica)| replica);
        let knows_most = told().max_by_key(|replica| replica.applied);
        let voters = || {
            let members = knows_most.iter().flat_map(|replica| &replica.members);
            members.filter(|member| member.voter)
        };
        let takes_part =
            |id: u64| told().any(|replica| replica.replica == id && replica.role != Role::Stopped);
        Self {
            shard: group.shard,
            group: group.group,
            meta: group.group == GroupId::META.0,
            range: group.range.clone(),
            epoch: None,
            replicas: replicas.iter().map(|(node, _)| *node).collect(),
            leader: leader.map(|(node, _)| *node),
            term: told().map(|replica| replica.term).max().unwrap_or(0),
            commit: told().map(|replica| replica.commit).max().unwrap_or(0),
            applied: told().map(|replica| replica.applied).min().unwrap_or(0),
            voters: voters().count(),
            voters_up: voters().filter(|voter| takes_part(voter.replica)).count(),
            forced: told().find_map(|replica| replica.forced.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{DamagedLog, MemberStatus};
    use pontoon_shard_router::Manifest;
    use pontoon_types::NodeId;

    const CLUSTER: ClusterId = ClusterId(7);

    fn node(id: u64) -> NodeDescriptor {
        NodeDescriptor {
            node: NodeId(id),
            address: format!("host{id}:7000"),
        }
    }

    fn map() -> ClusterMap {
        let nodes = (1..=3).map(|id| (NodeId(id), node(id).address));
        let split_keys = vec![::bytes::Bytes::from_static(b"m")];
        Manifest::new(CLUSTER, nodes, split_keys, None)
            .unwrap()
            .initial_map()
    }

    fn answer(map: &ClusterMap, node: u64, leads: bool, term: u64) -> NodeStatus {
        let groups = std::iter::once(map.meta()).chain(map.shards());
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
            (node(1), Ok(answer(&map, 1, true, 3))),
            (node(2), Ok(answer(&map, 2, true, 4))),
            (node(3), Ok(answer(&map, 3, false, 4))),
        ];
        let view = ClusterView::new(CLUSTER, Some(&map), answers);
        assert_eq!(view.user_shards(), 2);
        assert_eq!(view.shards.len(), 3);
        assert!(view.shards[0].meta);
        assert!(view.shards.iter().all(|shard| shard.leader == Some(2)));
        assert_eq!((view.shards[0].commit, view.shards[0].applied), (30, 9));
        assert_eq!(view.led_by(2), 3);
        assert_eq!(view.shards_without_leader(), 0);
    }

    #[test]
    fn damage_in_a_log_is_shown_with_its_place_and_groups() {
        let map = map();
        let mut status = answer(&map, 1, true, 3);
        status.log.damaged = vec![DamagedLog {
            file: "0000000003.seg".to_owned(),
            offset: 4_711,
            bytes: 1,
            groups: vec![2, 3],
        }];
        let view = ClusterView::new(CLUSTER, Some(&map), vec![(node(1), Ok(status))]);
        let text = view.to_text(false);
        let line =
            "node 1: log/0000000003.seg is damaged at byte 4711, with records of groups 2, 3;";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn a_node_that_is_away_is_shown_as_such() {
        let map = map();
        let answers = vec![
            (node(1), Err("no answer in time".to_owned())),
            (node(2), Ok(answer(&map, 2, false, 4))),
        ];
        let view = ClusterView::new(CLUSTER, Some(&map), answers);
        assert_eq!(view.shards_without_leader(), 3);
        let text = view.to_text(false);
        assert!(text.contains("unreachable"), "{text}");
        assert!(
            text.contains("node 1 does not answer: no answer in time"),
            "{text}"
        );
        assert!(text.contains("without a leader: shards"), "{text}");
        assert!(text.lines().count() < 20, "{text}");
        assert!(!view.to_json().contains('\n'));
    }

    /// The words of a shard's row, if it has one.
    fn row_of(text: &str, shard: u64) -> Option<Vec<&str>> {
        let table = text.lines().skip_while(|line| !line.starts_with("shard "));
        let mut rows = table.map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.find(|row| row.first().is_some_and(|first| *first == shard.to_string()))
    }

    #[test]
    fn a_few_shards_have_a_row_each_and_more_have_if_that_is_asked_for() {
        let nodes = || (1..=3).map(|id| (NodeId(id), node(id).address));
        let view = |split_keys: Vec<::bytes::Bytes>| {
            let manifest = Manifest::new(CLUSTER, nodes(), split_keys, None).unwrap();
            let map = manifest.initial_map();
            let mut broken = answer(&map, 2, false, 4);
            broken.groups[2].role = Role::Stopped;
            let answers = vec![
                (node(1), Ok(answer(&map, 1, true, 4))),
                (node(2), Ok(broken)),
                (node(3), Err("away".to_owned())),
            ];
            ClusterView::new(CLUSTER, Some(&map), answers)
        };
        let few = view(vec![::bytes::Bytes::from_static(b"m")]);
        let (shard, text) = (few.shards[2].shard, few.to_text(false));
        let row = row_of(&text, shard).unwrap();
        assert_eq!(row[2..6], ["\"m\"", "1", "4", "20"], "{text}");
        assert_eq!(row[6..].join(" "), "1: 9, 2: stopped, 3: -", "{text}");

        let many = (1..40).map(|key| ::bytes::Bytes::from(vec![key]));
        let many = view(many.collect());
        let shard = many.shards[2].shard;
        assert!(row_of(&many.to_text(false), shard).is_none());
        assert!(row_of(&many.to_text(true), shard).is_some());
    }

    #[test]
    fn a_shard_without_a_quorum_is_told_apart_from_one_that_elects() {
        let map = map();
        let status = |node: u64| {
            let mut status = answer(&map, node, false, 4);
            for group in &mut status.groups {
                group.replica = node;
                group.members = (1..=3)
                    .map(|id| MemberStatus {
                        replica: id,
                        node: Some(id),
                        voter: true,
                    })
                    .collect();
                group.forced = Some("20261127T065501Z".to_owned());
            }
            status
        };
        let away = |id| (node(id), Err("away".to_owned()));
        let one = vec![(node(1), Ok(status(1))), away(2), away(3)];
        let text = ClusterView::new(CLUSTER, Some(&map), one).to_text(false);
        assert!(text.contains("no quorum: 3 of them"), "{text}");
        assert!(
            text.contains("recovered by force: shards 1, 2, 3;"),
            "{text}"
        );
        let two = vec![(node(1), Ok(status(1))), (node(2), Ok(status(2))), away(3)];
        let text = ClusterView::new(CLUSTER, Some(&map), two).to_text(false);
        assert!(!text.contains("no quorum"), "{text}");
    }

    #[test]
    fn without_a_map_the_replicas_tell_which_shards_there_are() {
        let map = map();
        let answers = vec![
            (node(1), Ok(answer(&map, 1, true, 3))),
            (node(2), Err("away".to_owned())),
        ];
        let view = ClusterView::new(CLUSTER, None, answers);
        assert_eq!((view.user_shards(), view.shards.len()), (2, 3));
        assert_eq!(view.led_by(1), 3);
        assert!(view.to_text(false).contains("cannot be read"));
    }
}
