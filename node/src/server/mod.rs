//! The server: wires log, store, engine, transport and map into one running node.
//!
//! - [`bootstrap`]: how a blank node becomes a member, decided purely.
//! - `identity`: what a node notes about itself in its store.
//! - `links`: engine and transport, joined.
//! - `requests`: what clients ask.
//! - `first_map`: the map's way into the meta group.
//! - `forced`: what was forced on its groups while it was stopped.
//! - `peers`: the wait for the other nodes, and what there is to say of them.
//! - `offline`: the directory of a node that does not run.

pub mod bootstrap;
mod config;
mod error;
mod first_map;
mod forced;
mod identity;
mod links;
mod offline;
mod peers;
mod process;
mod requests;
mod state;
mod statuses;

pub use config::ServerConfig;
pub use error::ServerError;
pub use identity::IdentityError;
pub use offline::{StoppedNode, open_stopped};

use crate::status::NodeStatus;
use bytes::Bytes;
use forced::Forced;
use identity::Identity;
use links::{NodeLinks, Outlet};
use parking_lot::RwLock;
use peers::Others;
use pontoon_engine::{EngineError, Opened};
use pontoon_shard_router::{Manifest, ShardDescriptor, cut_evenly};
use pontoon_store::ReplicaRecord;
use pontoon_store::keys::MAX_STORED_KEY_BYTES;
use pontoon_transport::{TlsIdentity, Transport, TransportConfig, TransportError, Who};
use pontoon_types::{Members, NodeId};
use requests::{ClientRequests, Reception, Replica};
use state::Node;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;

/// How long requests under way may take to end when the node stops.
const DRAIN_PATIENCE: Duration = Duration::from_secs(3);

/// A running node.
pub struct Server {
    node: Arc<Node>,
    clients: Arc<Reception>,
    transport: Arc<Transport>,
    failures: Mutex<UnboundedReceiver<EngineError>>,
    tasks: Vec<JoinHandle<()>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("node", &self.node.id)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Opens the data directory, recovers, and joins the others. A blank node waits here until every
    /// listed peer has been heard. A directory that was blank stays so if the settings, the certificates or the port
    /// cannot be used.
    ///
    /// # Errors
    /// If anything it needs is missing, damaged or another's.
    pub async fn start(config: ServerConfig) -> Result<Self, ServerError> {
        let (wanted, most) = (config.limits.max_key_bytes, MAX_STORED_KEY_BYTES);
        if wanted > most {
            return Err(ServerError::MaxKeyBytes { wanted, most });
        }
        let tls = TlsIdentity::load(&config.certs, Who::Node(config.id))?;
        let cluster = tls.name().cluster();
        config.engine().validate()?;
        let is_blank = is_blank(&config.data_dir);
        if is_blank {
            manifest_of(&config, cluster)?;
        }
        // The port first; but whoever starts a node twice is to be told of the directory and not of the port.
        let transport = match listen(&config, tls) {
            Err(error) if is_blank => return Err(error.into()),
            transport => transport,
        };
        std::fs::create_dir_all(&config.data_dir).map_err(|source| ServerError::DataDir {
            path: config.data_dir.clone(),
            source,
        })?;
        let (data_dir, id) = (config.data_dir.clone(), config.id);
        let (engine_config, store) = (config.engine(), config.store());
        let mut opened = blocking(move || {
            Opened::open(&data_dir, cluster, id, engine_config, store)
                .map_err(|error| ServerError::opening(error, &data_dir))
        })
        .await?;
        let transport = Arc::new(transport?);
        let data_dir = &config.data_dir;
        let identity = Identity::load_or_create(opened.machine(), cluster, config.id, data_dir)?;
        identity.check_log(&opened, &config.data_dir)?;
        // A member goes by what the cluster was begun with, whatever the flags say now.
        let manifest = match &identity.members {
            Some((manifest, _)) => {
                warn_of_disagreements(&config, manifest);
                manifest.clone()
            }
            None => manifest_of(&config, cluster)?,
        };

        let (heard, mut hellos) = unbounded_channel();
        let hello = identity.hello(manifest.hash());
        let links = Arc::new(NodeLinks {
            hello: RwLock::new(hello.encode().into()),
            heard,
            node: OnceLock::new(),
        });
        let clients = Arc::new(Reception::default());
        transport.start(links.clone(), clients.clone())?;
        if identity.members.is_none() {
            let others = Others {
                transport: &transport,
                clients: &clients,
                hellos: &mut hellos,
            };
            let members = others.wait_for(&config, &manifest, &identity).await?;
            clients.starts();
            let identity = Identity {
                members: Some((manifest.clone(), members)),
                ..identity
            };
            bootstrap_replicas(&mut opened, &identity, &manifest)?;
            *links.hello.write() = identity.hello(manifest.hash()).encode().into();
        }
        drop(hellos);

        let (failures, failed) = unbounded_channel();
        let outlet = Arc::new(Outlet {
            transport: transport.clone(),
            failures,
            links: links.clone(),
        });
        let forced = Forced::read(data_dir, opened.machine().replicas());
        let replicas = replicas_of(&mut opened)?;
        let engine = opened.start(outlet)?;
        let node = Arc::new(Node::new(
            &config,
            &manifest,
            engine,
            replicas,
            forced,
            transport.clone(),
        ));
        let _ = links.node.set(Arc::downgrade(&node));
        // What changed before anybody listened.
        for record in node.engine().replicas() {
            node.replica_changed(record.group, Some(&record));
        }
        clients.open(ClientRequests { node: node.clone() });
        node.campaign_where_preferred();
        let tasks = vec![tokio::spawn(first_map::write(node.clone(), manifest))];
        Ok(Self {
            node,
            clients,
            transport,
            failures: Mutex::new(failed),
            tasks,
        })
    }

    /// The address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.transport.local_addr()
    }

    /// How many shards of users it has a replica of.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.node.user_shards()
    }

    /// What the node says of itself, as it would answer a client. Waits for the workers, so not to be
    /// called where waiting is forbidden.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.node.status()
    }

    /// Resolves when the node must stop, because its log or its store failed.
    pub async fn failed(&self) -> ServerError {
        match self.failures.lock().await.recv().await {
            Some(error) => ServerError::Engine(error),
            None => std::future::pending().await,
        }
    }

    /// Drains and stops: requests under way are answered, the store is flushed, the log is closed.
    ///
    /// # Errors
    /// If the log or the store had failed before.
    pub async fn shutdown(self) -> Result<(), ServerError> {
        for task in &self.tasks {
            task.abort();
        }
        // First, so that clients turn to other nodes while this one drains and flushes.
        self.clients.close();
        let node = self.node.clone();
        let drained = tokio::task::spawn_blocking(move || node.engine().shutdown(DRAIN_PATIENCE));
        if let Err(error) = drained.await {
            tracing::error!(%error, "the engine did not stop as it should");
        }
        self.transport.shutdown().await;
        match self.failures.lock().await.try_recv() {
            Ok(error) => Err(ServerError::Engine(error)),
            Err(_) => Ok(()),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServerError> + Send + 'static,
) -> Result<T, ServerError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn manifest_of(
    config: &ServerConfig,
    cluster: pontoon_types::ClusterId,
) -> Result<Manifest, ServerError> {
    if !config.peers.iter().any(|(peer, _)| *peer == config.id) {
        return Err(ServerError::NotAPeer { id: config.id });
    }
    let split_keys = match &config.split_keys {
        Some(keys) => keys.clone(),
        None => cut_evenly(config.shards),
    };
    let nodes = config.peers.iter().cloned();
    Manifest::new(cluster, nodes, split_keys, config.replication).map_err(ServerError::Manifest)
}

/// Whether nothing is in a directory, or there is none.
fn is_blank(directory: &Path) -> bool {
    std::fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

/// Opens the port, and lets nobody in yet.
fn listen(config: &ServerConfig, identity: TlsIdentity) -> Result<Transport, TransportError> {
    let mut transport = TransportConfig::new(config.listen, identity);
    transport.peers = config.peers.clone();
    transport.append_lanes = u8::try_from(config.workers).unwrap_or(u8::MAX);
    Transport::listen(transport)
}

/// The members of a cluster go by their own settings, and its clients by the map.
fn warn_of_disagreements(config: &ServerConfig, manifest: &Manifest) {
    if let Some(found) = peers::disagreements(&config.peers, manifest.nodes()) {
        tracing::warn!("--peers is not as the cluster's map, which clients may go by: {found}");
    }
}

/// Makes this node's replicas of the first map known, durably, in one step with its membership.
fn bootstrap_replicas(
    opened: &mut Opened,
    identity: &Identity,
    manifest: &Manifest,
) -> Result<(), ServerError> {
    let map = manifest.initial_map();
    let shards = std::iter::once(map.meta()).chain(map.shards());
    let records: Vec<_> = shards
        .filter_map(|shard| record_of(shard, identity.node))
        .collect();
    let row = identity.encode();
    opened
        .machine()
        .bootstrap(&records, &[(Identity::ROW, &row)])?;
    Ok(())
}

fn record_of(shard: &ShardDescriptor, node: NodeId) -> Option<ReplicaRecord> {
    let mut descriptor = Vec::new();
    shard.encode(&mut descriptor);
    Some(ReplicaRecord {
        group: shard.group,
        shard: shard.shard,
        replica: shard.replica_on(node)?.replica,
        start: shard.start.clone(),
        end: shard.end.clone().unwrap_or_default(),
        epoch: shard.epoch,
        pieces: shard.initial_tablet().into(),
        conf_state: shard.conf_state(),
        members: Members::new(shard.replicas.iter().map(|one| (one.replica, one.node))),
        descriptor: Bytes::from(descriptor),
    })
}

/// The replicas that the store has records of, with their descriptors.
fn replicas_of(
    opened: &mut Opened,
) -> Result<BTreeMap<pontoon_types::ShardId, Arc<Replica>>, ServerError> {
    let records = opened.machine().replicas();
    records
        .map(|record| {
            let replica = Replica::new(record).map_err(|source| ServerError::Descriptor {
                shard: record.shard,
                source,
            })?;
            Ok((record.shard, Arc::new(replica)))
        })
        .collect()
}
