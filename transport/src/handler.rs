//! What a host gives to the transport: who deals with frames and requests.
//!
//! All of it is called on the runtime's threads and must return at once: put it into a mailbox, never
//! wait for a lock that is held during I/O.

use bytes::Bytes;
use pontoon_types::NodeId;

use crate::error::LinkError;
use crate::server::Responder;

/// One of the ordered ways between two nodes. Frames on one lane arrive in order or, when the
/// connection breaks, not at all; between lanes there is no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Lane {
    /// Liveness and votes: goes first, and when its queue is full the oldest frame is dropped.
    Control,
    /// Appends, and answers to them, of one worker.
    Append(u8),
    /// State on its way to a replica that needs all of it: takes what the others leave.
    Snapshot,
}

/// What happened to the connection with a peer.
#[derive(Clone, Debug)]
pub enum PeerEvent {
    /// There is a connection, and whatever was sent before is lost: state that spans frames begins
    /// anew. Comes before the first frame of the connection.
    Connected {
        /// Which start of the peer's process this is.
        incarnation: u64,
        /// What [`NodeHandler::hello`] gave on its side.
        hello: Bytes,
    },
    /// The connection is gone. Frames that had been read by then may still come after this.
    Disconnected {
        /// Why.
        reason: LinkError,
    },
}

/// Deals with other nodes.
pub trait NodeHandler: Send + Sync + 'static {
    /// A frame of `from`, which its certificate names.
    fn handle_frame(&self, from: NodeId, lane: Lane, frame: Bytes);

    /// A connection came or went.
    fn handle_peer(&self, peer: NodeId, event: PeerEvent);

    /// Bytes for the other side to know at each connection, at most
    /// [`MAX_HELLO_BYTES`](crate::MAX_HELLO_BYTES).
    fn hello(&self, to: NodeId) -> Bytes {
        let _ = to;
        Bytes::new()
    }

    /// Whether to have a connection with a peer that says `hello`.
    ///
    /// # Errors
    /// The reason for refusing, in words for people; the other side is told.
    fn check_hello(&self, from: NodeId, incarnation: u64, hello: &Bytes) -> Result<(), String> {
        let _ = (from, incarnation, hello);
        Ok(())
    }
}

/// Deals with clients.
pub trait ClientHandler: Send + Sync + 'static {
    /// A request. The answer may be given at once or later, from any thread.
    fn handle_request(&self, responder: Responder, body: Bytes);

    /// All requests that one wake-up brought; worth overriding if many can be handed on in one go.
    fn handle_requests(&self, requests: &mut Vec<(Responder, Bytes)>) {
        for (responder, body) in requests.drain(..) {
            self.handle_request(responder, body);
        }
    }
}
