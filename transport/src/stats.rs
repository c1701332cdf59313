//! Counters, for people and for metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pontoon_types::NodeId;

/// What a node's transport has done since it was started.
#[derive(Clone, Debug, Default)]
pub struct TransportStats {
    /// One per configured peer, by id.
    pub peers: Vec<PeerStats>,
    /// Clients' side.
    pub clients: ClientStats,
    /// Incoming connections that did not get as far as a hello: garbage, strangers, time-outs.
    pub handshakes_failed: u64,
    /// Incoming connections turned away because there were too many.
    pub connections_refused: u64,
}

/// Traffic with one peer.
#[derive(Clone, Debug)]
pub struct PeerStats {
    /// The peer.
    pub node: NodeId,
    /// Its address as configured.
    pub address: String,
    /// Whether there is a connection now.
    pub connected: bool,
    /// How many connections there have been.
    pub connections: u64,
    /// Frames written to the connection.
    pub frames_sent: u64,
    /// Their bytes with headers.
    pub bytes_sent: u64,
    /// Write calls that these took; frames per write tell how well they batch.
    pub writes: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Their bytes without headers.
    pub bytes_received: u64,
    /// Frames dropped from the control lane because newer ones came.
    pub frames_dropped: u64,
    /// Frames refused because a lane's queue was full.
    pub frames_refused: u64,
    /// Bytes queued now, on all lanes.
    pub queued_bytes: usize,
    /// The estimated round trip of the present connection.
    pub rtt: Option<Duration>,
    /// Packets lost on the present connection.
    pub lost_packets: u64,
    /// The packet size that the present connection has found.
    pub mtu: u16,
    /// Why the last dial failed or the last connection ended.
    pub last_error: Option<String>,
}

/// Traffic with clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientStats {
    /// Connections now.
    pub connections: u64,
    /// Requests received.
    pub requests: u64,
    /// Answers written.
    pub responses: u64,
    /// Write calls that these took.
    pub writes: u64,
    /// Bytes of requests.
    pub bytes_received: u64,
    /// Bytes of answers with headers.
    pub bytes_sent: u64,
    /// Clients that were cut off because they did not read.
    pub cut_off: u64,
}

/// A counter that is only ever added to.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of one peer that outlive its connections.
#[derive(Debug, Default)]
pub(crate) struct PeerCounters {
    pub(crate) connections: Counter,
    pub(crate) frames_sent: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) writes: Counter,
    pub(crate) frames_received: Counter,
    pub(crate) bytes_received: Counter,
    pub(crate) frames_dropped: Counter,
    pub(crate) frames_refused: Counter,
}

/// Counters of all clients together.
#[derive(Debug, Default)]
pub(crate) struct ClientCounters {
    pub(crate) requests: Counter,
    pub(crate) responses: Counter,
    pub(crate) writes: Counter,
    pub(crate) bytes_received: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) cut_off: Counter,
}
