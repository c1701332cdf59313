//! The door: incoming connections until it is known who they are and what they speak.
//!
//! Until the certificate has been verified a stranger may open no stream, so nothing but a bounded
//! handshake is held for it. Then protocol and name decide: a node's certificate and `pontoon/1`
//! lead to the peer's task, `pontoon-client/1` to the clients' side, and a client's certificate with
//! `pontoon/1` out again.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use pontoon_types::ClusterId;
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, ConnectionError, Incoming, TransportErrorCode, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::complaints::{Complaints, Subject};
use crate::config::MAX_APPEND_LANES;
use crate::dial;
use crate::error::{CloseCode, LinkError};
use crate::gate::{Admission, Place};
use crate::handler::{ClientHandler, NodeHandler};
use crate::name::PeerName;
use crate::peer::{Candidate, close, read_hello};
use crate::server;
use crate::shared::Shared;
use crate::tls::{CLIENT_ALPN, NODE_ALPN};

/// Streams that a node may open: its append lanes, control and snapshots.
pub(crate) const NODE_STREAMS: u32 = MAX_APPEND_LANES as u32 + 2;

/// So many windows of a stream may be under way on a client's connection each way.
const CLIENT_WINDOWS: u64 = 2;

/// Takes connections until the transport stops.
pub(crate) async fn run(
    shared: Arc<Shared>,
    nodes: Arc<dyn NodeHandler>,
    clients: Arc<dyn ClientHandler>,
) {
    let complaints = Arc::new(Mutex::default());
    let Some(endpoint) = shared.endpoint() else {
        return;
    };
    while let Some(incoming) = endpoint.accept().await {
        let address = incoming.remote_address().ip();
        let proven = incoming.remote_address_validated();
        match shared.gate.admit(address, proven) {
            Admission::Enter(place) => {
                let door = Door {
                    shared: shared.clone(),
                    nodes: nodes.clone(),
                    clients: clients.clone(),
                    complaints: complaints.clone(),
                };
                tokio::spawn(door.enter(incoming, place));
            }
            Admission::Prove => {
                if let Err(error) = incoming.retry() {
                    error.into_incoming().refuse();
                }
            }
            Admission::Refuse => {
                shared.connections_refused.add(1);
                incoming.refuse();
            }
        }
    }
}

struct Door {
    shared: Arc<Shared>,
    nodes: Arc<dyn NodeHandler>,
    clients: Arc<dyn ClientHandler>,
    complaints: Arc<Mutex<Complaints>>,
}

impl Door {
    async fn enter(self, incoming: Incoming, place: Place) {
        let remote = incoming.remote_address();
        let limit = self.shared.limits().handshake_timeout;
        let mut asked_for = None;
        let handshake = async {
            let mut connecting = incoming.accept()?;
            let data = connecting.handshake_data().await?;
            asked_for = cluster_asked_for(data);
            connecting.await
        };
        let failed = match timeout(limit, handshake).await {
            Ok(Ok(connection)) => match introduced(&connection) {
                Ok((name, protocol)) => {
                    return self.lead_on(connection, name, &protocol, place).await;
                }
                Err(error) => {
                    close(&connection, CloseCode::Identity, &error.to_string());
                    error
                }
            },
            // One that dials several nodes and takes the first to answer leaves the others so.
            Ok(Err(error)) if is_given_up(&error) => {
                return debug!("{remote} gave up its connection while it was being made");
            }
            Ok(Err(error)) => {
                debug!("the handshake of {remote} failed: {error}");
                LinkError::from_connection(error, NODE_ALPN)
                    .at_the_door(asked_for, self.shared.cluster)
            }
            Err(_) => LinkError::TimedOut,
        };
        self.shared.handshakes_failed.add(1);
        self.complain(
            Subject::of_stranger(&failed),
            &format!("refused a connection from {remote}: {failed}"),
        );
    }

    fn complain(&self, subject: Subject, line: &str) {
        let told = self.complaints.lock().handle(subject, line, Instant::now());
        match told {
            Some(line) => warn!("{line}"),
            None => debug!("{line}"),
        }
    }

    async fn lead_on(self, connection: Connection, name: PeerName, protocol: &[u8], place: Place) {
        let remote = connection.remote_address();
        if protocol == CLIENT_ALPN {
            let Some(client) = self.shared.gate.admit_client(remote.ip()) else {
                self.shared.connections_refused.add(1);
                let line = format!("refused a client at {remote}: there are too many");
                self.complain(Subject::TooMany, &line);
                close(&connection, CloseCode::TooMany, "too many clients");
                return;
            };
            let limits = self.shared.limits();
            let window = limits.stream_window_bytes * CLIENT_WINDOWS;
            connection.set_receive_window(VarInt::from_u64(window).unwrap_or(VarInt::MAX));
            connection.set_send_window(window);
            connection.set_max_concurrent_bi_streams(VarInt::from_u32(1));
            drop(place);
            server::serve(self.shared, self.clients, connection, name, client).await;
            return;
        }
        if let Err((code, reason)) = self.lead_node_on(&connection, name).await {
            self.shared.handshakes_failed.add(1);
            let subject = Subject::of_member(&reason, name);
            self.complain(subject, &format!("refused {name} at {remote}: {reason}"));
            close(&connection, code, &reason.to_string());
        }
    }

    async fn lead_node_on(
        &self,
        connection: &Connection,
        name: PeerName,
    ) -> Result<(), (CloseCode, LinkError)> {
        let refused = |code, reason: &str| {
            let reason = reason.to_owned();
            (code, LinkError::Hello { reason })
        };
        let PeerName::Node { node, .. } = name else {
            return Err(refused(
                CloseCode::Identity,
                "a client's certificate does not permit speaking as a node",
            ));
        };
        if node == self.shared.node {
            return Err(refused(
                CloseCode::Identity,
                "its certificate is this node's own",
            ));
        }
        let Some(peer) = self.shared.peers.get(&node) else {
            return Err(refused(
                CloseCode::UnknownNode,
                "it is not one of this node's peers",
            ));
        };
        connection.set_max_concurrent_uni_streams(VarInt::from_u32(NODE_STREAMS));
        let hello = async {
            let stream = connection
                .accept_uni()
                .await
                .map_err(|error| LinkError::from_connection(error, NODE_ALPN))
                .map_err(|error| (CloseCode::Protocol, error))?;
            read_hello(&self.shared, node, self.nodes.as_ref(), stream).await
        };
        let (hello, control_in) = timeout(self.shared.limits().handshake_timeout, hello)
            .await
            .unwrap_or(Err((CloseCode::HandshakeTimeout, LinkError::TimedOut)))?;
        peer.offer(Candidate {
            connection: connection.clone(),
            control_in,
            hello,
        });
        Ok(())
    }
}

/// Whether the other side has closed a connection of its own before it stood. QUIC hides an application's
/// reasons until then.
fn is_given_up(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::ConnectionClosed(close)
        if close.error_code == TransportErrorCode::APPLICATION_ERROR)
}

/// The cluster that the other side looks for, by the name in its handshake.
fn cluster_asked_for(data: Box<dyn Any>) -> Option<ClusterId> {
    let data = data.downcast::<HandshakeData>().ok()?;
    dial::cluster_in(data.server_name.as_deref()?)
}

/// Who is at the other end, by its verified certificate, and what it speaks.
fn introduced(connection: &Connection) -> Result<(PeerName, Vec<u8>), LinkError> {
    let refused = |reason: &str| LinkError::CertificateRefused {
        by: crate::error::Side::Here,
        reason: reason.to_owned(),
    };
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .ok_or_else(|| refused("there is none"))?;
    let leaf = chain.first().ok_or_else(|| refused("there is none"))?;
    let name = PeerName::from_certificate(leaf).map_err(|error| refused(&error.to_string()))?;
    let protocol = connection
        .handshake_data()
        .and_then(|data| data.downcast::<HandshakeData>().ok())
        .and_then(|data| data.protocol)
        .ok_or(LinkError::NoCommonProtocol { ours: "pontoon/1" })?;
    Ok((name, protocol))
}
