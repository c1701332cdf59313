//! The view of a cluster for people.

use super::{ClusterView, NodeView, ShardView};
use crate::output::{agreeing, bytes, count, counted, printable, table};
use crate::status::{HeldStatus, LostReplicas, Role};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use std::collections::BTreeSet;

/// So many shards are named in a line.
const NAMED: usize = 8;
/// So many shards have a row each even if nobody asks for that.
const FEW: usize = 16;

impl ClusterView {
    /// What fits on a screen, however many shards there are; with a row for each if they are few, or with
    /// `all_shards`.
    #[must_use]
    pub fn to_text(&self, all_shards: bool) -> String {
        let header = [
            "node", "address", "state", "replicas", "leads", "log", "syncs", "memory", "version",
        ];
        let rows = self.nodes.iter().map(|node| self.node_row(node)).collect();
        let mut lines = vec![
            match self.map_version {
                Some(version) => format!("cluster {}, map version {version}", self.cluster),
                None => format!("cluster {}; its map cannot be read now", self.cluster),
            },
            String::new(),
            table(&header, rows),
            String::new(),
        ];
        if all_shards || self.user_shards() <= FEW {
            lines.extend([self.shard_table(), String::new()]);
        }
        lines.push(self.shard_summary());
        let leaderless = self.named(|shard| shard.leader.is_none());
        lines.extend(leaderless.map(|shards| format!("without a leader: {shards}")));
        lines.extend(self.without_quorum());
        // This must not be forgotten.
        let forced = self.named(|shard| shard.forced.is_some());
        lines.extend(forced.map(|shards| {
            format!("recovered by force: {shards}; acknowledged writes may be missing")
        }));
        for node in &self.nodes {
            if let Some(error) = &node.error {
                lines.push(format!("node {} does not answer: {error}", node.node));
            }
            let lost = node.status.iter().map(|status| &status.lost_replicas);
            let lost = lost.filter_map(LostReplicas::to_text);
            lines.extend(lost.map(|lost| format!("node {}: {lost}", node.node)));
            let held = node.status.iter().map(|status| &status.held);
            let held = held.filter_map(HeldStatus::to_text);
            lines.extend(held.map(|held| format!("node {}: {held}", node.node)));
            let under_way = node
                .status
                .iter()
                .flat_map(|status| &status.snapshots.under_way);
            let incoming = under_way.filter(|snapshot| snapshot.incoming);
            lines.extend(incoming.map(|one| format!("node {} {}", node.node, one.to_text())));
            let log = node.status.iter().map(|status| &status.log);
            for place in log.flat_map(|log| &log.damaged) {
                lines.push(format!(
                    "node {}: log/{} is damaged at byte {}, {}",
                    node.node,
                    place.file,
                    place.offset,
                    place.fate()
                ));
            }
            let store = node.status.iter().map(|status| &status.store);
            for table in store.flat_map(|store| &store.damaged) {
                let (path, fate) = (&table.path, table.fate());
                let offset = table.offset.map(|offset| format!(" at byte {offset}"));
                let offset = offset.unwrap_or_default();
                lines.push(format!(
                    "node {}: {path} is damaged{offset}, {fate}",
                    node.node
                ));
            }
        }
        lines.join("\n")
    }

    /// Why nobody leads, where that can be told.
    fn without_quorum(&self) -> Option<String> {
        let short = |shard: &&ShardView| shard.leader.is_none() && shard.lacks_quorum();
        let shards = self.shards.iter().filter(short).count();
        (shards > 0).then(|| {
            format!(
                "no quorum: {shards} of them {} no majority of voters up; bring the nodes back, or see \
                 `pontoon recover --help` if they are lost for good",
                agreeing(shards, "has", "have")
            )
        })
    }

    /// Some shards, by name if they are few.
    fn named(&self, which: impl Fn(&ShardView) -> bool) -> Option<String> {
        let shards: Vec<_> = self.shards.iter().filter(|shard| which(shard)).collect();
        let names: Vec<_> = shards.iter().map(|shard| shard.shard.to_string()).collect();
        match names.len() {
            0 => None,
            1 => Some(format!("shard {}", names[0])),
            2..=NAMED => Some(format!("shards {}", names.join(", "))),
            count => {
                let some = names[..NAMED].join(", ");
                Some(format!("{count} shards, among them {some}"))
            }
        }
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
                bytes(status.log.live_bytes as f64) + &status.log.warnings(),
                count(status.log.syncs as f64),
                bytes(status.resident_bytes as f64),
                status.version.clone(),
            ]),
        }
        row
    }

    fn shard_table(&self) -> String {
        let header = [
            "shard", "group", "from", "leader", "term", "commit", "applied",
        ];
        let row = |shard: &ShardView| {
            let leader = shard.leader.map(|node| node.to_string());
            let nodes: BTreeSet<_> = shard.replicas.iter().collect();
            let applied: Vec<_> = nodes
                .into_iter()
                .map(|node| format!("{node}: {}", self.applied_on(*node, shard.group)))
                .collect();
            vec![
                shard.shard.to_string(),
                shard.group.to_string(),
                shard.first_key(),
                leader.unwrap_or_else(|| "-".to_owned()),
                shard.term.to_string(),
                shard.commit.to_string(),
                applied.join(", "),
            ]
        };
        table(&header, self.shards.iter().map(row).collect())
    }

    /// How far a node has applied a group, in a word.
    fn applied_on(&self, node: u64, group: u64) -> String {
        let mut told = self.statuses().filter(|status| status.node == node);
        let groups = told.next().map(|status| status.groups.as_slice());
        match groups
            .unwrap_or_default()
            .iter()
            .find(|one| one.group == group)
        {
            None => "-".to_owned(),
            Some(replica) if replica.role == Role::Stopped => "stopped".to_owned(),
            Some(replica) => replica.applied.to_string(),
        }
    }

    fn shard_summary(&self) -> String {
        let terms = self.shards.iter().map(|shard| shard.term);
        let (least, most) = (terms.clone().min().unwrap_or(0), terms.max().unwrap_or(0));
        let lag = self
            .shards
            .iter()
            .map(|shard| shard.commit.saturating_sub(shard.applied));
        format!(
            "{} and the meta shard; terms {least} to {most}; commit indexes sum up to {}; \
             slowest replica applies {} behind",
            counted(self.user_shards() as u64, "shard"),
            count(self.shards.iter().map(|shard| shard.commit).sum::<u64>() as f64),
            counted(lag.max().unwrap_or(0), "entry"),
        )
    }
}

impl ShardView {
    /// Where its keys begin, for people.
    fn first_key(&self) -> String {
        if self.meta {
            return "the map".to_owned();
        }
        let start = BASE64_STANDARD.decode(&self.range.start_b64);
        start.map_or_else(|_| "?".to_owned(), |start| printable(&start))
    }
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

    #[test]
    fn durations_say_what_matters() {
        assert_eq!(duration(59), "59s");
        assert_eq!(duration(61), "1m 1s");
        assert_eq!(duration(7200), "2h 0m");
        assert_eq!(duration(90_000), "1d 1h");
    }
}
