//! A node's transport as its host sees it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pontoon_types::NodeId;
use quinn::Endpoint;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::accept::{self, NODE_STREAMS};
use crate::channel::open_endpoint;
use crate::config::TransportConfig;
use crate::error::{CloseCode, SendError, TransportError};
use crate::frame::Frame;
use crate::gate::Gate;
use crate::handler::{ClientHandler, Lane, NodeHandler};
use crate::name::PeerName;
use crate::peer::{Candidate, Peer, PeerTask};
use crate::shared::Shared;
use crate::stats::{ClientStats, TransportStats};
use crate::tls;
use crate::wire::{self, ConnectionBounds, SocketFor};

/// How long a stopping transport waits for its tasks.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// How often it looks whether they are done.
const POLL: Duration = Duration::from_millis(5);

/// What is kept of a connection that nobody has accepted yet, and of all of them: while a node recovers these may be
/// anybody's. A handshake's first flight is a few packets. QUIC's defaults are 10 MiB and 100 MiB.
const INCOMING_BYTES: u64 = 64 << 10;
const INCOMING_TOTAL_BYTES: u64 = 4 << 20;

/// A node's UDP port with its connections to other nodes and from clients. Dropping it closes them
/// all without waiting; [`Transport::shutdown`] lets answers that have been given arrive first.
#[derive(Debug)]
pub struct Transport {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    /// What the tasks of the peers will receive from, until they are started.
    waiting: Mutex<Option<Vec<PeerInbox>>>,
    tasks: Mutex<JoinSet<()>>,
}

type PeerInbox = (Arc<Peer>, mpsc::Receiver<Candidate>);

impl Transport {
    /// Opens the port and starts: [`Transport::listen`] and [`Transport::start`] in one.
    ///
    /// # Errors
    /// As [`Transport::listen`].
    pub async fn bind(
        config: TransportConfig,
        nodes: Arc<dyn NodeHandler>,
        clients: Arc<dyn ClientHandler>,
    ) -> Result<Self, TransportError> {
        let transport = Self::listen(config)?;
        transport.start(nodes, clients)?;
        Ok(transport)
    }

    /// Opens the port, so that the address is taken and known, but lets nobody in and dials nobody
    /// yet. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the address is taken, the identity is not a node's, or a setting is out of its bounds.
    pub fn listen(config: TransportConfig) -> Result<Self, TransportError> {
        config.validate()?;
        let TransportConfig {
            listen,
            identity,
            peers,
            incarnation,
            append_lanes,
            limits,
        } = config;
        let PeerName::Node { cluster, node } = identity.name() else {
            return Err(TransportError::NotANode {
                found: identity.name(),
            });
        };

        // A lane's sender is bounded by its own stream's window; the connection's windows hold all
        // lanes at once, so that no lane's backlog ever holds back control.
        let window = limits.stream_window_bytes * u64::from(NODE_STREAMS);
        let bounds = ConnectionBounds {
            uni_streams: NODE_STREAMS,
            stream_window_bytes: limits.stream_window_bytes,
            receive_window_bytes: window,
            send_window_bytes: window,
            idle_timeout: limits.idle_timeout,
            keep_alive: Some(limits.keep_alive),
        };
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls::server_config(&identity)?));
        server
            .transport_config(wire::transport_config(ConnectionBounds {
                uni_streams: 0,
                keep_alive: None,
                ..bounds
            }))
            .migration(false)
            .max_incoming(limits.max_handshakes)
            .incoming_buffer_size(INCOMING_BYTES)
            .incoming_buffer_size_total(INCOMING_TOTAL_BYTES);
        let endpoint = open_endpoint(listen, Some(server), SocketFor::Node)?;
        let local_addr = endpoint
            .local_addr()
            .map_err(|source| TransportError::Bind {
                address: listen,
                source,
            })?;

        let inboxes: Vec<PeerInbox> = peers
            .into_iter()
            .filter(|(id, _)| *id != node)
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .map(|(id, address)| {
                let (peer, inbox) = Peer::new(id, address);
                (Arc::new(peer), inbox)
            })
            .collect();
        let shared = Arc::new(Shared {
            cluster,
            node,
            incarnation,
            append_lanes,
            identity,
            endpoint: Mutex::new(Some(endpoint)),
            dial_config: wire::transport_config(bounds),
            peers: inboxes
                .iter()
                .map(|(peer, _)| (peer.id, peer.clone()))
                .collect(),
            gate: Arc::new(Gate::new(
                (limits.max_handshakes, limits.max_handshakes_per_address),
                (limits.max_clients, limits.max_clients_per_address),
            )),
            limits,
            stop: watch::Sender::new(false),
            client_counters: Arc::default(),
            handshakes_failed: Default::default(),
            connections_refused: Default::default(),
        });
        Ok(Self {
            shared,
            local_addr,
            waiting: Mutex::new(Some(inboxes)),
            tasks: Mutex::default(),
        })
    }

    /// Lets nodes and clients in and dials the peers. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If it was called before.
    pub fn start(
        &self,
        nodes: Arc<dyn NodeHandler>,
        clients: Arc<dyn ClientHandler>,
    ) -> Result<(), TransportError> {
        let inboxes = self.waiting.lock().take().ok_or(TransportError::Started)?;
        let mut tasks = self.tasks.lock();
        for (peer, inbox) in inboxes {
            let task = PeerTask::new(self.shared.clone(), nodes.clone(), peer, inbox);
            tasks.spawn(task.run());
        }
        tasks.spawn(accept::run(self.shared.clone(), nodes, clients));
        Ok(())
    }

    /// Queues a frame for a peer without waiting; callable from any thread.
    ///
    /// # Errors
    /// If the frame was not queued. A queued frame may still be lost with its connection.
    pub fn send(&self, to: NodeId, lane: Lane, frame: Frame) -> Result<(), SendError> {
        if frame.len() > self.shared.limits.max_frame_bytes {
            return Err(SendError::TooLarge {
                len: frame.len(),
                max: self.shared.limits.max_frame_bytes,
            });
        }
        let peer = self.shared.peers.get(&to).ok_or(SendError::NotConnected)?;
        peer.send(lane, frame)
    }

    /// Whether there is a connection with `peer` now.
    #[must_use]
    pub fn is_connected(&self, peer: NodeId) -> bool {
        let peer = self.shared.peers.get(&peer);
        peer.is_some_and(|peer| peer.is_connected())
    }

    /// This node, as its certificate says.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared.node
    }

    /// The address that was opened; with the real port if port 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> TransportStats {
        let shared = &self.shared;
        let counters = &shared.client_counters;
        TransportStats {
            peers: shared.peers.values().map(|peer| peer.stats()).collect(),
            clients: ClientStats {
                connections: shared.gate.clients() as u64,
                requests: counters.requests.read(),
                responses: counters.responses.read(),
                writes: counters.writes.read(),
                bytes_received: counters.bytes_received.read(),
                bytes_sent: counters.bytes_sent.read(),
                cut_off: counters.cut_off.read(),
            },
            handshakes_failed: shared.handshakes_failed.read(),
            connections_refused: shared.connections_refused.read(),
        }
    }

    /// Stops: takes no more requests, lets answers that have been given reach their clients, closes all
    /// connections and frees the port. Bounded in time; the port stays taken for longer only if the
    /// host still holds [`Responder`](crate::Responder)s.
    pub async fn shutdown(&self) {
        self.shared.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        let _ = timeout(SHUTDOWN_TIMEOUT, async {
            while self.shared.gate.clients() > 0 {
                sleep(POLL).await;
            }
        })
        .await;
        let Some(endpoint) = self.close() else {
            return;
        };
        let _ = timeout(SHUTDOWN_TIMEOUT, async {
            while tasks.join_next().await.is_some() {}
            endpoint.wait_idle().await;
            drop(endpoint);
            // The socket is dropped by a task of quinn's own, which nobody can wait for.
            while std::net::UdpSocket::bind(self.local_addr).is_err() {
                sleep(POLL).await;
            }
        })
        .await;
    }

    fn close(&self) -> Option<Endpoint> {
        self.shared.stop.send_replace(true);
        let endpoint = self.shared.endpoint.lock().take()?;
        endpoint.close(CloseCode::Shutdown.code(), b"the node stops");
        Some(endpoint)
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.close();
    }
}
