//! What a node says about itself: the body of its answer to a status request.
//!
//! The node fills these records and the client's verbs read them, so they are the one place where
//! the two agree. They travel as JSON: the message is rare, and an operator may want to read it as
//! it is (`pontoon status --json`). Fields are only ever added. A reader takes the default for
//! what an older node did not send, and passes over what it does not know.

use crate::output::{bytes, counted};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// A node, as it sees itself and its replicas.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// The cluster's id, 16 hex digits.
    pub cluster: String,
    /// The node's id.
    pub node: u64,
    /// The address under which the others reach it.
    pub address: String,
    /// The version of the binary.
    pub version: String,
    /// Seconds since it was ready.
    pub uptime_s: u64,
    /// CPU time that its process used so far, in microseconds.
    pub cpu_us: u64,
    /// Resident memory of its process, in bytes; 0 if the system does not tell.
    pub resident_bytes: u64,
    /// Its replicas, the meta group's among them.
    pub groups: Vec<GroupStatus>,
    /// Those of them that were lost to damage.
    pub lost_replicas: LostReplicas,
    /// Its log.
    pub log: LogStatus,
    /// Its store.
    #[serde(default)]
    pub store: StoreStatus,
    /// What it has carried in snapshots.
    #[serde(default)]
    pub snapshots: SnapshotStatus,
    /// The states that it holds to be compared and copied.
    pub held: HeldStatus,
    /// Its connections to other nodes.
    pub transport: TransportStatus,
}

/// A replica's part in its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks whether it could win an election.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
    /// Takes no part any more, because of damage.
    Stopped,
}

/// One replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupStatus {
    /// The group.
    pub group: u64,
    /// The shard that the group owns.
    pub shard: u64,
    /// The replica's id.
    pub replica: u64,
    /// What it does.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// The node whose replica leads, as far as this one knows.
    pub leader: Option<u64>,
    /// The members of the group, as far as this replica knows.
    pub members: Vec<MemberStatus>,
    /// The commit index.
    pub commit: u64,
    /// The applied index.
    pub applied: u64,
    /// The index of the last entry in its log.
    pub last: u64,
    /// The key range.
    pub range: KeyRange,
    /// When this replica was made its group's only voter by force, if it was: `20261127T065501Z`.
    pub forced: Option<String>,
}

/// A member of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberStatus {
    /// The replica's id.
    pub replica: u64,
    /// Its node, if that is known.
    pub node: Option<u64>,
    /// Whether it votes.
    pub voter: bool,
}

/// Replicas that a node has lost since it started, and those that were replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LostReplicas {
    /// Lost because what the log holds of them is damaged.
    pub by_log: u64,
    /// Lost because rows of theirs were in a damaged table.
    pub by_table: u64,
    /// Stopped for another reason: contradicted by a peer, or unable to read what a newer Pontoon has written.
    pub otherwise: u64,
    /// Of all these, those that have left their groups since, nearly always for a new replica on the same node.
    pub replaced: u64,
}

impl LostReplicas {
    /// What happened, in a line; `None` if nothing did.
    #[must_use]
    pub fn to_text(&self) -> Option<String> {
        let Self {
            by_log,
            by_table,
            otherwise,
            replaced,
        } = self;
        let lost = by_log + by_table + otherwise;
        let parts = [
            (by_log, "by its log"),
            (by_table, "by its tables"),
            (otherwise, "otherwise"),
        ];
        let parts = parts.into_iter().filter(|(count, _)| **count > 0);
        let parts: Vec<_> = parts.map(|(count, how)| format!("{count} {how}")).collect();
        (lost > 0).then(|| {
            format!(
                "{} lost since it started ({}), {replaced} replaced",
                counted(lost, "replica"),
                parts.join(", ")
            )
        })
    }
}

/// States that a node holds to be compared and copied (`pontoon verify`, `pontoon backup`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeldStatus {
    /// States held.
    pub states: u64,
    /// Bytes of memtables that were flushed, and stay in memory only for these.
    pub kept_bytes: u64,
    /// States that were given up because they kept too many, since the node started.
    pub given_up: u64,
}

impl HeldStatus {
    /// What somebody should know, in a line; `None` if all is well.
    #[must_use]
    pub fn to_text(&self) -> Option<String> {
        (self.given_up > 0).then(|| {
            format!(
                "{} given up since it started, for the memory that they kept; those of now keep {}",
                counted(self.given_up, "held state"),
                bytes(self.kept_bytes as f64)
            )
        })
    }
}

/// Snapshots that a node has sent and received since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotStatus {
    /// Snapshots that arrived whole at another node.
    pub sent: u64,
    /// Snapshots that arrived whole here.
    pub received: u64,
    /// Bytes of rows sent, repeated ones included.
    pub sent_bytes: u64,
    /// Bytes of rows received.
    pub received_bytes: u64,
    /// Transfers that were given up.
    pub given_up: u64,
    /// How much of the rate is used at present, in bytes a second: 64 MiB at first, more while writes do not suffer, and less
    /// while they do.
    pub present_rate: u64,
    /// Those on their way.
    pub under_way: Vec<SnapshotUnderWay>,
}

/// A snapshot on its way from or to a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotUnderWay {
    /// The group.
    pub group: u64,
    /// The node at the other end.
    pub node: u64,
    /// Whether it comes in; otherwise it is sent.
    pub incoming: bool,
    /// Bytes of rows so far.
    pub bytes: u64,
    /// For how long it has been on its way, in milliseconds.
    pub ms: u64,
}

impl SnapshotUnderWay {
    /// What is on its way, in a line.
    #[must_use]
    pub fn to_text(&self) -> String {
        let (verb, way) = if self.incoming {
            ("receives", "from")
        } else {
            ("sends", "to")
        };
        let seconds = self.ms as f64 / 1000.0;
        format!(
            "{verb} a snapshot of group {} {way} node {}: {} in {seconds:.1} s, {}/s",
            self.group,
            self.node,
            bytes(self.bytes as f64),
            bytes(self.bytes as f64 / seconds.max(0.001))
        )
    }
}

/// `[start, end)`, both in base64, because keys are bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyRange {
    /// The first key; empty: from the beginning.
    pub start_b64: String,
    /// The first key behind the range; none: to the end.
    pub end_b64: Option<String>,
}

/// A node's log, counted since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogStatus {
    /// Syncs.
    pub syncs: u64,
    /// Entries laid down.
    pub entries: u64,
    /// Bytes laid down, headers included.
    pub bytes: u64,
    /// Sealed batches.
    pub batches: u64,
    /// Segments that hold something still needed.
    pub segments: u64,
    /// Segments that wait to be used again.
    pub segments_recycled: u64,
    /// Bytes in the live segments.
    pub live_bytes: u64,
    /// Whether it takes no more proposals, because its bound is reached or the disk is full.
    pub full: bool,
    /// When it syncs: "always", or else an interval or "os", with which an acknowledged write may not survive a power cut.
    pub sync: String,
    /// Writes, syncs and preparations of segments that took longer than the setting.
    pub hangs: u64,
    /// For how long one has not returned now, if that is longer than the setting.
    pub hanging_ms: Option<u64>,
    /// Groups that take more of it than their quota.
    pub groups_over_quota: u64,
    /// Entries written again so that their old segment could go.
    pub entries_rewritten: u64,
    /// How often all of it was read and held against its checksums.
    pub scrubs: u64,
    /// Bytes read for that.
    pub scrubbed_bytes: u64,
    /// When it was last read to the end, also before it was opened, in seconds since 1970.
    pub scrubbed_at_s: Option<u64>,
    /// Damaged places that were found, also by readers.
    pub damaged_found: u64,
    /// Those that are still there.
    pub damaged: Vec<DamagedLog>,
}

impl LogStatus {
    /// What somebody should know of it, in a few words; empty if all is well.
    #[must_use]
    pub fn warnings(&self) -> String {
        let mut words = String::new();
        if self.full {
            words.push_str(" FULL");
        }
        if let Some(ms) = self.hanging_ms {
            let _ = write!(words, " HANGS {}s", ms / 1000);
        }
        if !matches!(self.sync.as_str(), "" | "always") {
            let _ = write!(words, " sync {}", self.sync);
        }
        words
    }
}

/// A place in the log that does not hold what was written there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DamagedLog {
    /// Its file, in the log's directory.
    pub file: String,
    /// Where it begins in the file.
    pub offset: u64,
    /// How long it is, at most.
    pub bytes: u64,
    /// The groups that have something there.
    pub groups: Vec<u64>,
}

impl DamagedLog {
    /// Whom it concerns.
    #[must_use]
    pub fn fate(&self) -> String {
        match &self.groups[..] {
            [] => "where nothing is needed; its file is about to go".to_owned(),
            groups => {
                let groups: Vec<_> = groups.iter().take(8).map(u64::to_string).collect();
                format!(
                    "with records of groups {}; its file goes when they can do without",
                    groups.join(", ")
                )
            }
        }
    }
}

/// A node's store, counted since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreStatus {
    /// Tables on the disk.
    pub tables: u64,
    /// Bytes of those tables.
    pub disk_bytes: u64,
    /// Flushes finished.
    pub flushes: u64,
    /// Compactions finished.
    pub compactions: u64,
    /// Compactions that have failed.
    pub failed_compactions: u64,
    /// What the last flush or compaction met, if it failed.
    pub trouble: Option<String>,
    /// How often all tables were read and held against their checksums.
    pub scrubs: u64,
    /// Bytes read for that.
    pub scrubbed_bytes: u64,
    /// When they were last read to the end, also before it was opened, in seconds since 1970.
    pub scrubbed_at_s: Option<u64>,
    /// Damaged tables that were found, also by reads.
    pub damaged_found: u64,
    /// Those that are still there.
    pub damaged: Vec<DamagedTable>,
}

/// A table that does not hold what was written to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DamagedTable {
    /// Its file.
    pub path: String,
    /// Where the first block that cannot be read begins in it, if it is a block with rows.
    pub offset: Option<u64>,
    /// The shards whose replicas here have lost rows with it, and have not been rebuilt yet.
    pub lost_shards: Vec<u64>,
    /// Whether rows of the node's own are lost, which no peer has.
    pub lost_local: bool,
    /// Whether all attempts to get rid of it have failed.
    pub stuck: bool,
}

impl DamagedTable {
    /// What becomes of it.
    #[must_use]
    pub fn fate(&self) -> String {
        if self.lost_local {
            return "with rows of the node's own; replace the node".to_owned();
        }
        if self.stuck {
            return "and cannot be got rid of; restart the node, or replace it".to_owned();
        }
        match &self.lost_shards[..] {
            [] => "and is about to go, its shards are whole".to_owned(),
            shards => {
                let shards: Vec<_> = shards.iter().take(8).map(u64::to_string).collect();
                format!(
                    "and shards {} have lost rows here; they are rebuilt if their groups can spare a replica",
                    shards.join(", ")
                )
            }
        }
    }
}

/// A node's traffic with other nodes, counted since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransportStatus {
    /// Nodes that it is connected with.
    pub connected: Vec<u64>,
    /// Frames sent.
    pub frames_sent: u64,
    /// Bytes sent in frames.
    pub bytes_sent: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Bytes received in frames.
    pub bytes_received: u64,
    /// Frames dropped because a peer's queue was full or the peer was away.
    pub frames_dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_were_lost_are_a_line_and_none_is_no_line() {
        assert_eq!(LostReplicas::default().to_text(), None);
        let lost = LostReplicas {
            by_log: 2,
            by_table: 1,
            otherwise: 0,
            replaced: 2,
        };
        let line = "3 replicas lost since it started (2 by its log, 1 by its tables), 2 replaced";
        assert_eq!(lost.to_text().as_deref(), Some(line));
    }

    #[test]
    fn a_snapshot_on_its_way_is_a_line() {
        let mut snapshot = SnapshotUnderWay {
            group: 7,
            node: 2,
            incoming: true,
            bytes: 64 << 20,
            ms: 2_000,
        };
        let line = "receives a snapshot of group 7 from node 2: 64.0 MiB in 2.0 s, 32.0 MiB/s";
        assert_eq!(snapshot.to_text(), line);
        (snapshot.incoming, snapshot.ms) = (false, 0);
        let begun = snapshot.to_text();
        assert!(
            begun.starts_with("sends a snapshot of group 7 to node 2"),
            "{begun}"
        );
    }

    #[test]
    fn states_that_were_given_up_are_a_line_and_none_is_no_line() {
        let mut held = HeldStatus {
            states: 3,
            kept_bytes: 64 << 20,
            given_up: 0,
        };
        assert_eq!(held.to_text(), None);
        held.given_up = 1;
        let line = "1 held state given up since it started, for the memory that they kept; those of now keep 64.0 MiB";
        assert_eq!(held.to_text().as_deref(), Some(line));
    }

    #[test]
    fn what_a_newer_or_older_node_sends_can_be_read() {
        let text = r#"{"node": 3, "later": {"x": 1}, "groups": [{"group": 7, "role": "leader"}]}"#;
        let status: NodeStatus = serde_json::from_str(text).unwrap();
        assert_eq!(status.node, 3);
        assert_eq!(status.groups[0].role, Role::Leader);
        assert_eq!(status.groups[0].leader, None);
        assert_eq!(status.log, LogStatus::default());
    }
}
