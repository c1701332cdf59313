//! QUIC's settings and the UDP socket. Where a number is not obvious, the reason stands beside it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{
    AckFrequencyConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::{debug, warn};

/// The largest UDP payload. quinn sends up to ten packets in one system call and the kernel takes at
/// most 65,507 bytes there; ten larger packets would be dropped without an error (quinn pull request
/// 2199).
const MAX_UDP_PAYLOAD_BYTES: u16 = 6_550;

/// The kernel's default of about 200 KB loses packets in bursts.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// QUIC's default of 12,000 bytes would hold back the first batch after each quiet time.
const INITIAL_WINDOW_BYTES: u64 = 512 << 10;

/// The default of 333 ms would make the first repetition of a lost handshake packet wait a second.
const INITIAL_RTT: Duration = Duration::from_millis(10);

/// How long the other side may hold back an acknowledgement; decides how fast a loss is noticed.
const MAX_ACK_DELAY: Duration = Duration::from_millis(2);

/// How many packets the other side may leave unacknowledged for `MAX_ACK_DELAY`, instead of every second
/// one (RFC 9000 §13.2.2). An acknowledgement is a packet too, and costs the kernel and the ciphers as much
/// as a small one with data. What comes out of order is acknowledged as early as before.
const PACKETS_PER_ACK: u32 = 10;

/// How many of what a connection may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionBounds {
    pub(crate) uni_streams: u32,
    pub(crate) stream_window_bytes: u64,
    pub(crate) receive_window_bytes: u64,
    pub(crate) send_window_bytes: u64,
    pub(crate) idle_timeout: Duration,
    /// `None` if the other side keeps the connection alive.
    pub(crate) keep_alive: Option<Duration>,
}

fn varint(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}

pub(crate) fn transport_config(bounds: ConnectionBounds) -> Arc<TransportConfig> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MAX_UDP_PAYLOAD_BYTES);
    let mut acks = AckFrequencyConfig::default();
    acks.max_ack_delay(Some(MAX_ACK_DELAY))
        .ack_eliciting_threshold(VarInt::from_u32(PACKETS_PER_ACK));
    let mut cubic = CubicConfig::default();
    cubic.initial_window(INITIAL_WINDOW_BYTES);
    let idle = u64::try_from(bounds.idle_timeout.as_millis()).unwrap_or(u64::MAX);

    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(bounds.uni_streams))
        .stream_receive_window(varint(bounds.stream_window_bytes))
        .receive_window(varint(bounds.receive_window_bytes))
        .send_window(bounds.send_window_bytes)
        .max_idle_timeout(Some(IdleTimeout::from(varint(idle))))
        .keep_alive_interval(bounds.keep_alive)
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::new(cubic))
        .datagram_receive_buffer_size(None);
    Arc::new(config)
}

pub(crate) fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    let set = config.max_udp_payload_size(MAX_UDP_PAYLOAD_BYTES).is_ok();
    assert!(set, "{MAX_UDP_PAYLOAD_BYTES} is within what QUIC allows");
    config
}

/// Who opens a socket: a node is told of small buffers once, loudly; a client quietly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketFor {
    Node,
    Client,
}

pub(crate) fn open_socket(
    address: SocketAddr,
    purpose: SocketFor,
) -> std::io::Result<std::net::UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        // So that `[::]` serves IPv4 too. Some systems forbid it, and then it serves IPv6 alone.
        if let Err(error) = socket.set_only_v6(false) {
            debug!(%error, "the socket is for IPv6 only");
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    enlarge(&socket, purpose)?;
    Ok(socket.into())
}

fn enlarge(socket: &Socket, purpose: SocketFor) -> std::io::Result<()> {
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    // Linux reports twice what it grants, so a grant at the bound is never reported as less than it.
    let receive = socket.recv_buffer_size()?;
    let send = socket.send_buffer_size()?;
    if receive >= SOCKET_BUFFER_BYTES && send >= SOCKET_BUFFER_BYTES {
        return Ok(());
    }
    match purpose {
        SocketFor::Node => warn!(
            receive,
            send,
            asked = SOCKET_BUFFER_BYTES,
            "the system granted smaller UDP buffers than asked for and may lose packets in bursts; \
             raise net.core.rmem_max and net.core.wmem_max"
        ),
        SocketFor::Client => debug!(receive, send, "smaller UDP buffers than asked for"),
    }
    Ok(())
}
