//! What a host chooses, and the defaults.

use std::net::SocketAddr;
use std::time::Duration;

use pontoon_types::NodeId;

use crate::error::TransportError;
use crate::identity::TlsIdentity;

/// The most append lanes between two nodes. With control and snapshots they fill the
/// streams that a node permits.
pub const MAX_APPEND_LANES: u8 = 15;

/// How a node listens and whom it connects to.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// The UDP address for nodes and clients alike.
    pub listen: SocketAddr,
    /// The node's certificate; its cluster and id are taken from it.
    pub identity: TlsIdentity,
    /// The other nodes and their addresses as `host:port`; names are resolved at each dial. An entry
    /// for the node itself is ignored.
    pub peers: Vec<(NodeId, String)>,
    /// Which start of the process this is: different from all earlier ones of this node, so that
    /// peers see a restart. Random by default.
    pub incarnation: u64,
    /// How many append lanes this node sends on; 1 to [`MAX_APPEND_LANES`].
    pub append_lanes: u8,
    /// Bounds and times.
    pub limits: Limits,
}

impl TransportConfig {
    /// A configuration without peers and with default limits.
    #[must_use]
    pub fn new(listen: SocketAddr, identity: TlsIdentity) -> Self {
        Self {
            listen,
            identity,
            peers: Vec::new(),
            incarnation: rand::random(),
            append_lanes: 2,
            limits: Limits::default(),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), TransportError> {
        let check = |setting, value: u64, allowed: std::ops::RangeInclusive<u64>, text| {
            if allowed.contains(&value) {
                Ok(())
            } else {
                Err(TransportError::Setting {
                    setting,
                    value,
                    allowed: text,
                })
            }
        };
        check(
            "append_lanes",
            u64::from(self.append_lanes),
            1..=u64::from(MAX_APPEND_LANES),
            "from 1 to 15",
        )?;
        let limits = &self.limits;
        check(
            "max_frame_bytes",
            limits.max_frame_bytes as u64,
            1_024..=1 << 30,
            "from 1 KiB to 1 GiB",
        )?;
        check(
            "max_request_bytes",
            limits.max_request_bytes as u64,
            1_024..=1 << 30,
            "from 1 KiB to 1 GiB",
        )?;
        check(
            "stream_window_bytes",
            limits.stream_window_bytes,
            64 * 1_024..=1 << 30,
            "from 64 KiB to 1 GiB",
        )?;
        check(
            "max_in_flight",
            limits.max_in_flight as u64,
            1..=1 << 20,
            "from 1 to 1,048,576",
        )
    }
}

/// Bounds on what peers and clients may make a node hold, and how long it waits for them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The longest frame between nodes. Default 32 MiB: a batch with one entry of 16 MiB fits.
    pub max_frame_bytes: usize,
    /// Queued bytes per peer on the control lane; over it the oldest frames are dropped. Default 1 MiB.
    pub control_queue_bytes: usize,
    /// Queued bytes per peer and append lane; over it [`SendError::QueueFull`](crate::SendError) is
    /// returned. A frame always fits into an empty queue. Default 16 MiB.
    pub append_queue_bytes: usize,
    /// Queued bytes per peer on the snapshot lane; over it
    /// [`SendError::QueueFull`](crate::SendError) is returned. Default 4 MiB.
    pub snapshot_queue_bytes: usize,
    /// The longest request of a client, and the longest answer to one. Default 32 MiB.
    pub max_request_bytes: usize,
    /// Requests under way per client connection; then reading from it pauses. Default 1,024.
    pub max_in_flight: usize,
    /// Bytes of requests under way per client connection; then reading pauses. Default 32 MiB.
    pub max_in_flight_bytes: usize,
    /// Bytes of answers waiting for a client to read them, and as many again that are being written; over it only
    /// short answers are given, and the client is told of others that none will come. From an eighth of it on no more
    /// requests are taken. Default 64 MiB.
    pub max_unread_bytes: usize,
    /// A client that reads nothing for this long while answers wait is cut off. Default 30 s.
    pub stall_timeout: Duration,
    /// Client connections in all. Default 4,096.
    pub max_clients: usize,
    /// Client connections per address (IPv6: per /64). Default 1,024.
    pub max_clients_per_address: usize,
    /// Handshakes under way; over half of it, addresses must prove themselves first (QUIC Retry).
    /// Default 256.
    pub max_handshakes: usize,
    /// Handshakes under way per address. Default 64.
    pub max_handshakes_per_address: usize,
    /// From the first packet to the hello. Default 3 s.
    pub handshake_timeout: Duration,
    /// A connection without any packet for this long is dead. Default 6 s.
    pub idle_timeout: Duration,
    /// How often a packet is sent on an idle connection. Default 1 s.
    pub keep_alive: Duration,
    /// How much a stream's sender may be ahead of its reader. Default 2 MiB.
    pub stream_window_bytes: u64,
    /// The first wait before a dial is repeated; doubled each time, with jitter. Default 20 ms.
    pub backoff_min: Duration,
    /// The longest such wait. Default 1 s.
    pub backoff_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_frame_bytes: 32 << 20,
            control_queue_bytes: 1 << 20,
            append_queue_bytes: 16 << 20,
            snapshot_queue_bytes: 4 << 20,
            max_request_bytes: 32 << 20,
            max_in_flight: 1_024,
            max_in_flight_bytes: 32 << 20,
            max_unread_bytes: 64 << 20,
            stall_timeout: Duration::from_secs(30),
            max_clients: 4_096,
            max_clients_per_address: 1_024,
            max_handshakes: 256,
            max_handshakes_per_address: 64,
            handshake_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(6),
            keep_alive: Duration::from_secs(1),
            stream_window_bytes: 2 << 20,
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
        }
    }
}

/// How a client connects.
#[derive(Clone, Debug)]
pub struct ChannelConfig {
    /// For one address: from the first packet to the node's hello. Default 3 s.
    pub connect_timeout: Duration,
    /// A connection without any packet for this long is dead. Default 6 s.
    pub idle_timeout: Duration,
    /// How often a packet is sent on an idle connection. Default 2 s.
    pub keep_alive: Duration,
    /// Requests under way on a channel. Default 4,096.
    pub max_in_flight: usize,
    /// Bytes of requests that wait to be sent. Default 64 MiB.
    pub max_queued_bytes: usize,
    /// The longest answer. Default 32 MiB.
    pub max_response_bytes: usize,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(6),
            keep_alive: Duration::from_secs(2),
            max_in_flight: 4_096,
            max_queued_bytes: 64 << 20,
            max_response_bytes: 32 << 20,
        }
    }
}
