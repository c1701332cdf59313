//! A running node, as its requests and its status see it.

use super::config::ServerConfig;
use super::forced::Forced;
use super::process;
use super::requests::Replica;
use super::statuses::Statuses;
use crate::config::SyncWhen;
use crate::status::{
    DamagedLog, DamagedTable, GroupStatus, HeldStatus, KeyRange, LogStatus, LostReplicas,
    MemberStatus, NodeStatus, Role, SnapshotStatus, SnapshotUnderWay, StoreStatus, TransportStatus,
};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use parking_lot::RwLock;
use pontoon_client::protocol::Hints;
use pontoon_engine::{Engine, RoleName};
use pontoon_shard_router::{Manifest, NodeDescriptor, ShardDescriptor};
use pontoon_store::ReplicaRecord;
use pontoon_transport::Transport;
use pontoon_types::{ClusterId, GroupId, Limits, NodeId, ShardId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A running node.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) limits: Limits,
    cluster: ClusterId,
    address: String,
    engine: Engine,
    transport: Arc<Transport>,
    replicas: RwLock<BTreeMap<ShardId, Arc<Replica>>>,
    /// The meta shard and all nodes as they were at the first start: where to ask for the map.
    meta: ShardDescriptor,
    nodes: Vec<NodeDescriptor>,
    pub(super) forced: Forced,
    pub(super) statuses: Statuses,
    started: Instant,
}

impl Node {
    pub(super) fn new(
        config: &ServerConfig,
        manifest: &Manifest,
        engine: Engine,
        replicas: BTreeMap<ShardId, Arc<Replica>>,
        forced: Forced,
        transport: Arc<Transport>,
    ) -> Self {
        let map = manifest.initial_map();
        let own = config.peers.iter().find(|(peer, _)| *peer == config.id);
        Self {
            id: config.id,
            limits: config.limits,
            cluster: manifest.cluster(),
            address: own.map(|(_, address)| address.clone()).unwrap_or_default(),
            engine,
            transport,
            replicas: RwLock::new(replicas),
            meta: (**map.meta()).clone(),
            // Where the nodes are reached today is what this node was started with.
            nodes: (config.peers.iter())
                .map(|(node, address)| NodeDescriptor {
                    node: *node,
                    address: address.clone(),
                })
                .collect(),
            forced,
            statuses: Statuses::default(),
            started: Instant::now(),
        }
    }

    pub(super) const fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn replica(&self, shard: ShardId) -> Option<Arc<Replica>> {
        self.replicas.read().get(&shard).cloned()
    }

    /// A replica has come, has left, or is of other members.
    pub(super) fn replica_changed(&self, group: GroupId, record: Option<&ReplicaRecord>) {
        let mut replicas = self.replicas.write();
        match record.map(Replica::new) {
            Some(Ok(replica)) => {
                let age = |replica: &Replica| (replica.record.replica, replica.record.epoch);
                let known = replicas.get(&replica.record.shard);
                if known.is_some_and(|known| age(known) >= age(&replica)) {
                    return; // What was read at the start, after something newer was heard.
                }
                replicas.insert(replica.record.shard, Arc::new(replica));
            }
            Some(Err(error)) => {
                tracing::error!(%group, %error, "a replica came with an unreadable descriptor");
            }
            None => replicas.retain(|_, replica| replica.record.group != group),
        }
    }

    pub(super) fn user_shards(&self) -> usize {
        let replicas = self.replicas.read();
        let shards = replicas.keys();
        shards.filter(|shard| **shard != ShardId::META).count()
    }

    /// Lets the groups whose preferred leader is here stand for election. Where there is a leader
    /// already, its followers refuse, and nothing changes.
    pub(super) fn campaign_where_preferred(&self) {
        for replica in self.replicas.read().values() {
            if replica
                .descriptor
                .preferred_leader()
                .is_some_and(|first| first.node == self.id)
            {
                self.engine.campaign(replica.record.group);
            }
        }
    }

    /// Where a client finds the map.
    pub(super) fn hints(&self) -> Hints {
        let meta = self.replica(ShardId::META);
        Hints {
            cluster: self.cluster,
            node: self.id,
            meta: meta.map_or_else(|| self.meta.clone(), |meta| meta.descriptor.clone()),
            nodes: self.nodes.clone(),
        }
    }

    /// All that this node knows of itself. Waits for the workers.
    pub(super) fn status(&self) -> NodeStatus {
        let groups = self.engine.status();
        NodeStatus {
            cluster: self.cluster.to_string(),
            node: self.id.0,
            address: self.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            cpu_us: process::cpu_us(),
            resident_bytes: process::resident_bytes(),
            groups: groups
                .iter()
                .map(|group| self.group_status(group))
                .collect(),
            lost_replicas: self.lost_replicas(),
            log: self.log_status(),
            store: self.store_status(),
            snapshots: self.snapshot_status(),
            held: self.held_status(),
            transport: self.transport_status(),
        }
    }

    fn group_status(&self, group: &pontoon_engine::GroupStatus) -> GroupStatus {
        let range = self.replica(group.shard).map(|replica| KeyRange {
            start_b64: BASE64_STANDARD.encode(&replica.record.start),
            end_b64: (!replica.record.end.is_empty())
                .then(|| BASE64_STANDARD.encode(&replica.record.end)),
        });
        GroupStatus {
            group: group.group.0,
            shard: group.shard.0,
            replica: group.replica.0,
            role: role(group.role),
            term: group.term.0,
            leader: group.leader.map(|node| node.0),
            members: (group.members.iter())
                .map(|member| MemberStatus {
                    replica: member.replica.0,
                    node: member.node.map(|node| node.0),
                    voter: member.is_voter,
                })
                .collect(),
            commit: group.commit.0,
            applied: group.applied.0,
            last: group.last.0,
            range: range.unwrap_or_default(),
            forced: (self.forced.since(group.group, group.replica)).map(str::to_owned),
        }
    }

    fn lost_replicas(&self) -> LostReplicas {
        let lost = self.engine.lost_replicas();
        LostReplicas {
            by_log: lost.by_log,
            by_table: lost.by_table,
            otherwise: lost.otherwise,
            replaced: lost.replaced,
        }
    }

    fn log_status(&self) -> LogStatus {
        let log = self.engine.log_stats();
        LogStatus {
            syncs: log.syncs,
            entries: log.entries,
            bytes: log.bytes,
            batches: log.batches,
            segments: log.segments_live,
            segments_recycled: log.segments_recycled,
            live_bytes: log.live_bytes,
            full: self.engine.log_is_full(),
            sync: SyncWhen(self.engine.sync_mode()).to_string(),
            hangs: log.hangs,
            hanging_ms: log.hanging.map(|waited| waited.as_millis() as u64),
            groups_over_quota: log.groups_over_quota,
            entries_rewritten: log.entries_rewritten,
            scrubs: log.scrub.passes,
            scrubbed_bytes: log.scrub.bytes,
            scrubbed_at_s: seconds(self.engine.log_scrubbed_at()),
            damaged_found: log.scrub.damaged,
            damaged: (self.engine.log_damage().into_iter())
                .map(|damage| DamagedLog {
                    file: damage.file,
                    offset: damage.start.offset().into(),
                    bytes: damage.end.0 - damage.start.0,
                    groups: damage.groups.iter().map(|group| group.0).collect(),
                })
                .collect(),
        }
    }

    fn store_status(&self) -> StoreStatus {
        let store = self.engine.store();
        let stats = store.stats();
        let damaged = store.damaged_tables();
        let replicas = if damaged.is_empty() {
            Vec::new()
        } else {
            self.engine.replicas()
        };
        let table = |table: &pontoon_store::DamagedTable| DamagedTable {
            path: table.path.display().to_string(),
            offset: table.offset,
            lost_shards: (replicas.iter())
                .filter(|record| table.has_lost(&record.pieces))
                .map(|record| record.shard.0)
                .collect(),
            lost_local: table.has_lost_local_rows(),
            stuck: table.is_stuck,
        };
        StoreStatus {
            tables: stats.tables as u64,
            disk_bytes: stats.disk_bytes,
            flushes: stats.flushes,
            compactions: stats.compactions,
            failed_compactions: stats.failed_compactions,
            trouble: stats.trouble.map(|error| error.to_string()),
            scrubs: stats.scrub.passes,
            scrubbed_bytes: stats.scrub.bytes,
            scrubbed_at_s: seconds(stats.scrub.last),
            damaged_found: stats.scrub.damaged,
            damaged: damaged.iter().map(table).collect(),
        }
    }

    fn snapshot_status(&self) -> SnapshotStatus {
        let counters = self.engine.snapshot_counters();
        SnapshotStatus {
            sent: counters.sent,
            received: counters.received,
            sent_bytes: counters.sent_bytes,
            received_bytes: counters.received_bytes,
            given_up: counters.given_up,
            present_rate: counters.present_rate,
            under_way: self.snapshots_under_way(),
        }
    }

    fn snapshots_under_way(&self) -> Vec<SnapshotUnderWay> {
        let under_way = self.engine.snapshots_under_way().into_iter();
        let told = under_way.map(|(one, age)| SnapshotUnderWay {
            group: one.group.0,
            node: one.node.0,
            incoming: one.is_incoming,
            bytes: one.bytes,
            ms: age.as_millis() as u64,
        });
        told.collect()
    }

    fn held_status(&self) -> HeldStatus {
        let held = self.engine.held_states();
        HeldStatus {
            states: held.states as u64,
            kept_bytes: held.kept_bytes,
            given_up: held.given_up,
        }
    }

    fn transport_status(&self) -> TransportStatus {
        let mut status = TransportStatus::default();
        for peer in self.transport.stats().peers {
            if peer.connected {
                status.connected.push(peer.node.0);
            }
            status.frames_sent += peer.frames_sent;
            status.bytes_sent += peer.bytes_sent;
            status.frames_received += peer.frames_received;
            status.bytes_received += peer.bytes_received;
            status.frames_dropped += peer.frames_dropped;
        }
        status
    }
}

fn seconds(time: Option<SystemTime>) -> Option<u64> {
    let since = time?.duration_since(UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

const fn role(role: RoleName) -> Role {
    match role {
        RoleName::Follower => Role::Follower,
        RoleName::PreCandidate => Role::PreCandidate,
        RoleName::Candidate => Role::Candidate,
        RoleName::Leader => Role::Leader,
        RoleName::Stopped => Role::Stopped,
    }
}
