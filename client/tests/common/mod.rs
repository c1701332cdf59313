//! A cluster that is real towards clients, with ports, certificates and protocol, and behind them one
//! shared table in the place of Raft groups. Tests move its leaders, split its shards, silence and kill
//! its nodes.

use bytes::Bytes;
use parking_lot::Mutex;
use pontoon_client::ClientConfig;
use pontoon_client::protocol::{DigestState, Hints, RefusalCode, Request, Response};
use pontoon_shard_router::{ClusterMap, Manifest, ShardDescriptor, rows};
use pontoon_transport::certs::{self, CertificateSet};
use pontoon_transport::{
    ClientHandler, Lane, NodeHandler, PeerEvent, Responder, Transport, TransportConfig, Who,
};
use pontoon_types::{ClusterId, Command, Epoch, LogIndex, Mutation, NodeId, Operation, ShardId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Runtime;

pub(crate) const CLUSTER: ClusterId = ClusterId(0x00c0_ffee);

/// What all nodes share: the truth.
pub(crate) struct World {
    pub(crate) map: ClusterMap,
    /// Who leads; a shard without an entry has no leader.
    pub(crate) leaders: HashMap<ShardId, NodeId>,
    /// Nodes that say of every shard that another leads it, and which one.
    pub(crate) deny: HashMap<NodeId, NodeId>,
    pub(crate) data: BTreeMap<Bytes, Bytes>,
    /// Nodes that take requests and answer nothing.
    pub(crate) mute: HashSet<NodeId>,
    /// Requests that were taken and are never answered.
    pub(crate) held: Vec<Responder>,
    /// Take this many requests and answer them when the test does.
    pub(crate) hold: u32,
    /// Answer this many requests with "overloaded" first.
    pub(crate) overloads: u32,
    /// So many marks and changes of members come to nothing that is known.
    pub(crate) unknown: u32,
    /// How often each (session, sequence) was applied.
    pub(crate) applied: HashMap<(u64, u64), u32>,
}

struct FakeNode {
    node: NodeId,
    world: Arc<Mutex<World>>,
    requests: Arc<AtomicU64>,
}

/// Nodes, each with a runtime of its own, so that one can die without a word.
pub(crate) struct Cluster {
    pub(crate) certificates: CertificateSet,
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) requests: Arc<AtomicU64>,
    addresses: Vec<SocketAddr>,
    nodes: Vec<Option<(Runtime, Transport)>>,
}

impl Cluster {
    /// Three nodes, whose user shards are cut at `splits`.
    pub(crate) fn start(splits: &[&'static [u8]]) -> Self {
        let ids = [NodeId(1), NodeId(2), NodeId(3)];
        let certificates = certs::generate(CLUSTER, &ids).unwrap();
        let listening: Vec<_> = ids
            .iter()
            .map(|id| listen(&certificates, *id, ([127, 0, 0, 1], 0).into()))
            .collect();
        let addresses: Vec<_> = listening.iter().map(|(_, t)| t.local_addr()).collect();
        let listed = ids
            .iter()
            .zip(&addresses)
            .map(|(id, a)| (*id, a.to_string()));
        let splits = splits.iter().copied().map(Bytes::from_static).collect();
        let map = Manifest::new(CLUSTER, listed, splits, None)
            .unwrap()
            .initial_map();
        let all = std::iter::once(map.meta()).chain(map.shards());
        let leaders = all
            .map(|s| (s.shard, s.preferred_leader().unwrap().node))
            .collect();
        let world = Arc::new(Mutex::new(World {
            map,
            leaders,
            deny: HashMap::new(),
            data: BTreeMap::new(),
            mute: HashSet::new(),
            held: Vec::new(),
            hold: 0,
            overloads: 0,
            unknown: 0,
            applied: HashMap::new(),
        }));
        let mut cluster = Self {
            certificates,
            requests: Arc::default(),
            nodes: ids.map(|_| None).into(),
            world,
            addresses,
        };
        for (id, (runtime, transport)) in ids.into_iter().zip(listening) {
            cluster.serve(id, runtime, transport);
        }
        cluster
    }

    fn serve(&mut self, node: NodeId, runtime: Runtime, transport: Transport) {
        let fake = FakeNode {
            node,
            world: self.world.clone(),
            requests: self.requests.clone(),
        };
        let guard = runtime.enter();
        transport.start(Arc::new(NoPeers), Arc::new(fake)).unwrap();
        drop(guard);
        self.nodes[index_of(node)] = Some((runtime, transport));
    }

    pub(crate) fn config(&self) -> ClientConfig {
        let identity = self.certificates.identity(Who::Client).unwrap().unwrap();
        ClientConfig::new(self.addresses.iter().map(ToString::to_string), identity)
    }

    /// Ends a node as a power cut would: nothing is sent any more, not even a farewell.
    pub(crate) fn kill(&mut self, node: NodeId) {
        if let Some((runtime, transport)) = self.nodes[index_of(node)].take() {
            runtime.shutdown_background();
            drop(transport);
        }
    }

    /// Starts a killed node at its old address.
    pub(crate) fn restart(&mut self, node: NodeId) {
        let address = self.addresses[index_of(node)];
        let (runtime, transport) = listen(&self.certificates, node, address);
        self.serve(node, runtime, transport);
    }
}

fn index_of(node: NodeId) -> usize {
    usize::try_from(node.0).unwrap() - 1
}

fn listen(
    certificates: &CertificateSet,
    node: NodeId,
    address: SocketAddr,
) -> (Runtime, Transport) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().unwrap();
    let identity = certificates.identity(Who::Node(node)).unwrap().unwrap();
    let guard = runtime.enter();
    let transport = Transport::listen(TransportConfig::new(address, identity)).unwrap();
    drop(guard);
    (runtime, transport)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (1..=3).for_each(|n| self.kill(NodeId(n)));
    }
}

struct NoPeers;

impl NodeHandler for NoPeers {
    fn handle_frame(&self, _: NodeId, _: Lane, _: Bytes) {}
    fn handle_peer(&self, _: NodeId, _: PeerEvent) {}
}

impl ClientHandler for FakeNode {
    fn handle_request(&self, responder: Responder, body: Bytes) {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let mut world = self.world.lock();
        if world.mute.contains(&self.node) || world.hold > 0 {
            world.hold = world.hold.saturating_sub(1);
            world.held.push(responder);
            return;
        }
        let response = match Request::decode(&body) {
            Ok(request) => self.answer(&mut world, request),
            Err(error) => Response::Refused {
                code: RefusalCode::Malformed,
                text: error.to_string(),
            },
        };
        let mut bytes = Vec::new();
        response.encode(&mut bytes);
        responder.respond(&bytes);
    }
}

impl FakeNode {
    fn answer(&self, world: &mut World, request: Request) -> Response {
        match request {
            Request::Hints => Response::Hints(Hints {
                cluster: CLUSTER,
                node: self.node,
                meta: ShardDescriptor::clone(world.map.meta()),
                nodes: world.map.nodes().cloned().collect(),
            }),
            Request::Status => Response::Status(format!("{{\"node\":{}}}", self.node).into()),
            Request::Members { .. } | Request::Mark { .. } if world.unknown > 0 => {
                world.unknown -= 1;
                Response::UnknownOutcome
            }
            Request::Members { shard, steps } => {
                let leader = self.leader(world, shard);
                if leader != Some(self.node) {
                    return Response::NotLeader { leader };
                }
                if steps.len() > 1 {
                    let text = "one at a time".to_owned();
                    let code = RefusalCode::Members;
                    return Response::Refused { code, text };
                }
                Response::Written
            }
            Request::Mark { shard } => match self.leader(world, shard) {
                Some(leader) if leader == self.node => Response::Marked(LogIndex(90)),
                leader => Response::NotLeader { leader },
            },
            Request::Digest { .. } => Response::Digest(DigestState::Underway),
            Request::Page { .. } => {
                let text = "no state is held at that index".to_owned();
                Response::Unavailable { text }
            }
            Request::Command(bytes) => {
                let command = Command::decode(&bytes).unwrap();
                let request = command.request;
                let refusal = self.refusal(world, request.shard, request.epoch);
                refusal.unwrap_or_else(|| apply(world, &command))
            }
            Request::Get { shard, epoch, key } => {
                let refusal = self.refusal(world, shard, epoch);
                refusal.unwrap_or_else(|| Response::Value(world.data.get(&key).cloned()))
            }
            Request::Scan {
                shard,
                epoch,
                range,
            } => {
                if let Some(refusal) = self.refusal(world, shard, epoch) {
                    return refusal;
                }
                let meta: BTreeMap<Bytes, Bytes>;
                let (table, end) = if shard == ShardId::META {
                    meta = rows::rows_of(&world.map).collect();
                    (&meta, None)
                } else {
                    (&world.data, world.map.shard(shard).unwrap().end.clone())
                };
                let to = range.to.or(end.clone());
                assert!(end.is_none_or(|end| to.as_ref().is_some_and(|to| *to <= end)));
                let inside = |key: &Bytes| to.as_ref().is_none_or(|to| key < to);
                let found = table.range(range.from..).take_while(|(key, _)| inside(key));
                let mut rows: Vec<_> = found
                    .take(range.max_rows as usize + 1)
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                let more = rows.len() > range.max_rows as usize;
                rows.truncate(range.max_rows as usize);
                Response::Rows { rows, more }
            }
        }
    }

    /// Who leads a shard, by this node's words.
    fn leader(&self, world: &World, shard: ShardId) -> Option<NodeId> {
        let denied = world.deny.get(&self.node);
        denied.or_else(|| world.leaders.get(&shard)).copied()
    }

    fn refusal(&self, world: &mut World, shard: ShardId, epoch: Epoch) -> Option<Response> {
        let leader = self.leader(world, shard);
        if leader != Some(self.node) {
            return Some(Response::NotLeader { leader });
        }
        if world.overloads > 0 {
            world.overloads -= 1;
            let retry_after = std::time::Duration::from_millis(5);
            return Some(Response::Overloaded { retry_after });
        }
        if world.map.shard(shard).unwrap().epoch != epoch {
            let all = world.map.shards().map(|s| ShardDescriptor::clone(s));
            let descriptors = all.collect();
            return Some(Response::StaleEpoch { descriptors });
        }
        None
    }
}

fn apply(world: &mut World, command: &Command<'_>) -> Response {
    let request = command.request;
    let shard = world.map.shard(request.shard).unwrap();
    assert!(command.operation.keys().all(|key| shard.contains(key)));
    let once = (request.session.0, request.sequence.0);
    *world.applied.entry(once).or_default() += 1;
    let data = &mut world.data;
    let mut set = |key: &[u8], value: Option<&[u8]>| match value {
        Some(value) => data.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)),
        None => data.remove(key),
    };
    match &command.operation {
        Operation::Write(mutations) => {
            for mutation in mutations {
                match mutation {
                    Mutation::Put { key, value } => set(key, Some(value)),
                    Mutation::Delete { key } => set(key, None),
                };
            }
            Response::Written
        }
        Operation::CompareAndSwap {
            key,
            expect,
            set: new,
        } => {
            let actual = world.data.get(*key).cloned();
            if actual.as_deref() != *expect {
                return Response::NotSwapped { actual };
            }
            match new {
                Some(value) => {
                    let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                    world.data.insert(key, value);
                }
                None => {
                    world.data.remove(*key);
                }
            }
            Response::Swapped
        }
    }
}
