//! QUIC between the nodes of a cluster and from its clients, always with mutual TLS.
//!
//! This crate owns ports, certificates, connections, frames and queues. It carries opaque bytes: what
//! is in a frame or a request is the host's business, and it knows nothing of Raft.
//!
//! # Who is who
//!
//! Every process has a certificate of its cluster's own CA with exactly one name in it, a
//! [`PeerName`]. Both sides verify it during the handshake, the cluster included; whatever a peer says
//! about itself afterwards only repeats it. [`certs`] makes the files, [`TlsIdentity`] reads them.
//!
//! # Between nodes
//!
//! A pair of nodes has one connection. Both may dial; if both succeed, the one that the lower id
//! dialled stays. On it, each side has a one-way stream per [`Lane`]: control, which goes first, a
//! few append lanes, and snapshots, which go last. [`Transport::send`] puts a [`Frame`] into the lane's bounded queue and returns at
//! once; the lane's one writer takes all that is queued and writes it in one call, and while it is
//! blocked the next batch grows. No timer ever holds a message back to make a batch of it.
//!
//! Frames are lost with their connection and never sent again: Raft repairs loss, and a queue that
//! outlives a connection would only deliver what is out of date.
//!
//! # From clients
//!
//! A client opens a [`Channel`] to a node and sends numbered requests on one long-lived stream, as
//! many at a time as it likes. The node's [`ClientHandler`] gets each with a [`Responder`] and answers
//! from any thread, in any order.
//!
//! Nodes and clients share one UDP port; the protocol's name in the TLS handshake (`pontoon/1`,
//! `pontoon-client/1`) tells them apart. One address is all that an operator has to open and to
//! publish.
//!
//! # Hostile input
//!
//! Nobody without a certificate of the cluster gets as far as opening a stream. With one, everything
//! that can be made to grow has a bound in [`Limits`]; lengths are checked before memory is taken for
//! them, and no bytes can make this crate panic (invariants S11 and S12).

mod accept;
pub mod certs;
mod channel;
mod complaints;
mod config;
mod dial;
mod error;
mod frame;
mod gate;
mod gather;
mod handler;
mod hello;
mod identity;
mod link;
mod name;
mod outbox;
mod peer;
mod queue;
mod server;
mod shared;
mod stats;
mod stream;
mod tls;
mod transport;
mod wire;

pub use channel::{Channel, ClientTransport, PendingAnswer};
pub use config::{ChannelConfig, Limits, MAX_APPEND_LANES, TransportConfig};
pub use error::{ChannelError, CloseCode, LinkError, SendError, Side, TransportError};
pub use frame::{FRAME_HEADER_BYTES, Frame, FrameError};
pub use handler::{ClientHandler, Lane, NodeHandler, PeerEvent};
pub use hello::MAX_HELLO_BYTES;
pub use identity::{CA_FILE, TlsError, TlsIdentity, Who};
pub use name::{NameError, PeerName};
pub use server::{ClientConnection, Responder};
pub use stats::{ClientStats, PeerStats, TransportStats};
pub use tls::{CLIENT_ALPN, NODE_ALPN, TlsSetupError};
pub use transport::Transport;
