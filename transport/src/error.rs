//! What can go wrong between two processes, in words that say what to do.

use std::fmt;
use std::net::SocketAddr;

use pontoon_types::{ClusterId, NodeId};
use quinn::{ConnectionError, VarInt};
use thiserror::Error;

use crate::frame::FrameError;
use crate::name::PeerName;
use crate::tls::{TlsSetupError, Verdict};

/// Why the transport could not start.
#[derive(Debug, Error)]
pub enum TransportError {
    /// The UDP port could not be opened; mostly another process has it.
    #[error("cannot listen on UDP {address}: {source}")]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The identity is a client's, and only nodes listen.
    #[error("a node needs a node's certificate, and this is the one of {found}")]
    NotANode {
        /// Whose certificate it is.
        found: PeerName,
    },
    /// A setting is outside what the protocol allows.
    #[error("{setting} is {value}; it must be {allowed}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// Its value.
        value: u64,
        /// What is allowed.
        allowed: &'static str,
    },
    /// TLS could not be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] TlsSetupError),
    /// The transport was started twice.
    #[error("the transport has been started already")]
    Started,
}

/// Why a frame was not queued. The frame is lost; Raft repairs that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// There is no connection to the node.
    #[error("not connected")]
    NotConnected,
    /// The lane's queue is at its bound.
    #[error("the queue is full")]
    QueueFull,
    /// The frame is over the bound that the receiver enforces.
    #[error("a frame of {len} bytes is over the bound of {max}")]
    TooLarge {
        /// The frame's length.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// The lane does not exist.
    #[error("there is no such lane")]
    NoSuchLane,
}

/// Why a connection was closed on purpose, as it crosses the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum CloseCode {
    /// The process stops, or the channel was dropped.
    Shutdown = 0,
    /// Another connection between the two nodes takes its place.
    Duplicate = 1,
    /// The certificate does not permit what was asked for, or a claim contradicts it.
    Identity = 2,
    /// The node is not one of the peers.
    UnknownNode = 3,
    /// Bytes that the protocol does not allow.
    Protocol = 4,
    /// The other side does not read what it asked for.
    SlowReader = 5,
    /// There are too many connections.
    TooMany = 6,
    /// The host refused the other side's hello.
    Refused = 7,
    /// The hello did not come in time.
    HandshakeTimeout = 8,
}

impl CloseCode {
    pub(crate) const fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    pub(crate) fn from_code(code: VarInt) -> Option<Self> {
        Some(match code.into_inner() {
            0 => Self::Shutdown,
            1 => Self::Duplicate,
            2 => Self::Identity,
            3 => Self::UnknownNode,
            4 => Self::Protocol,
            5 => Self::SlowReader,
            6 => Self::TooMany,
            7 => Self::Refused,
            8 => Self::HandshakeTimeout,
            _ => return None,
        })
    }
}

/// Which side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// This process.
    Here,
    /// The other one.
    There,
}

/// Why there is no connection, or no longer one.
#[derive(Clone, Debug, Error)]
pub enum LinkError {
    /// The address does not resolve.
    #[error("cannot resolve {address:?}: {reason}")]
    Resolve {
        /// The address as configured.
        address: String,
        /// What the resolver said.
        reason: String,
    },
    /// Nobody answered in time.
    #[error("no answer in time")]
    TimedOut,
    /// The other side shows a certificate of another cluster.
    #[error("the other side shows a certificate of another cluster ({found}, ours is {ours})")]
    OtherCluster {
        /// Its cluster.
        found: ClusterId,
        /// Our cluster.
        ours: ClusterId,
    },
    /// The other side wants another cluster, by the name in its handshake, and none of our certificates. Its own was
    /// not seen.
    #[error(
        "the other side refuses our certificate; it looks for cluster {wanted}, ours is {ours}"
    )]
    OtherClusterWanted {
        /// The cluster that it looks for.
        wanted: ClusterId,
        /// Our cluster.
        ours: ClusterId,
    },
    /// The other side is somebody else than expected.
    #[error("the other side is {found}, not {expected}")]
    OtherPeer {
        /// Who it is.
        found: PeerName,
        /// Who was expected.
        expected: String,
    },
    /// A certificate was refused because it was not issued by the cluster's CA.
    #[error("{}", match by {
        Side::Here => "the other side's certificate was not issued by this cluster's CA: it is a certificate of another cluster",
        Side::There => "the other side refuses our certificate: it is a certificate of another cluster",
    })]
    OtherCa {
        /// Who refused.
        by: Side,
    },
    /// A certificate's time is over or has not come.
    #[error("{} certificate has expired or is not valid yet", match by {
        Side::Here => "the other side's",
        Side::There => "our",
    })]
    Expired {
        /// Who refused.
        by: Side,
    },
    /// A certificate was refused for another reason.
    #[error("{} certificate was refused: {reason}", match by {
        Side::Here => "the other side's",
        Side::There => "our",
    })]
    CertificateRefused {
        /// Who refused.
        by: Side,
        /// Why.
        reason: String,
    },
    /// Bytes that begin no connection of ours.
    #[error("what came is {found}, and no handshake of Pontoon's")]
    NotPontoon {
        /// What it looks like.
        found: &'static str,
    },
    /// The two sides speak different versions of the protocol.
    #[error("the other side does not speak our protocol version ({ours})")]
    NoCommonProtocol {
        /// What we speak.
        ours: &'static str,
    },
    /// The hello contradicts the certificate or our own settings.
    #[error("the other side's hello was refused: {reason}")]
    Hello {
        /// What is wrong with it.
        reason: String,
    },
    /// Bytes that the protocol does not allow.
    #[error("the other side breaks the protocol: {0}")]
    Protocol(#[from] FrameError),
    /// The other side closed the connection and said why.
    #[error("closed by the other side ({code:?}){}", Reason(reason))]
    ClosedByPeer {
        /// Why.
        code: CloseCode,
        /// Its words, cut to a bounded length.
        reason: String,
    },
    /// Closed on purpose on this side.
    #[error("closed here")]
    ClosedHere,
    /// TLS could not be set up.
    #[error("cannot set up TLS: {reason}")]
    Tls {
        /// Why.
        reason: String,
    },
    /// The socket could not be opened, or the address cannot be reached from it.
    #[error("cannot reach {address}: {reason}")]
    Socket {
        /// The address.
        address: String,
        /// Why.
        reason: String,
    },
    /// Any other end of a connection.
    #[error("the connection ended: {0}")]
    Connection(ConnectionError),
}

/// What a request over a [`Channel`](crate::Channel) came to if not to an answer.
#[derive(Clone, Debug, Error)]
pub enum ChannelError {
    /// It has surely not left this process: it may be tried again elsewhere.
    #[error("not sent: {0}")]
    NotSent(LinkError),
    /// It may have reached the node and may take effect: its outcome is unknown.
    #[error("sent, but no answer came: {0}")]
    MayHaveBeenSent(LinkError),
    /// The node dropped it without an answer; its outcome is unknown.
    #[error("the node gave no answer")]
    Abandoned,
    /// Too much is waiting on this channel; it was not sent.
    #[error("too many requests are waiting on this channel")]
    QueueFull,
    /// It is larger than the node accepts; it was not sent.
    #[error("a request of {len} bytes is over the bound of {max}")]
    TooLarge {
        /// The request's length.
        len: usize,
        /// The bound.
        max: usize,
    },
}

impl ChannelError {
    /// Whether the request has surely not been sent.
    #[must_use]
    pub const fn surely_not_sent(&self) -> bool {
        match self {
            Self::NotSent(_) | Self::QueueFull | Self::TooLarge { .. } => true,
            Self::MayHaveBeenSent(_) | Self::Abandoned => false,
        }
    }
}

// TLS alerts (RFC 8446 §6) that say something about certificates or protocols.
const ALERT_HANDSHAKE_FAILURE: u8 = 40;
const ALERT_BAD_CERTIFICATE: u8 = 42;
const ALERT_UNSUPPORTED_CERTIFICATE: u8 = 43;
const ALERT_CERTIFICATE_REVOKED: u8 = 44;
const ALERT_CERTIFICATE_EXPIRED: u8 = 45;
const ALERT_CERTIFICATE_UNKNOWN: u8 = 46;
const ALERT_UNKNOWN_CA: u8 = 48;
const ALERT_ACCESS_DENIED: u8 = 49;
const ALERT_DECRYPT_ERROR: u8 = 51;
const ALERT_CERTIFICATE_REQUIRED: u8 = 116;
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

/// What a peer says is shown to people: short, and without control characters.
pub(crate) fn readable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect()
}

/// The words that go with a code, if there are any.
struct Reason<'a>(&'a str);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.0)
    }
}

impl LinkError {
    /// Puts the end of a connection into words; `alpn` is what this side speaks on it.
    pub(crate) fn from_connection(error: ConnectionError, alpn: &'static [u8]) -> Self {
        let ours = std::str::from_utf8(alpn).unwrap_or("?");
        match error {
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::LocallyClosed => Self::ClosedHere,
            ConnectionError::VersionMismatch => Self::NoCommonProtocol { ours },
            ConnectionError::ApplicationClosed(ref close) => {
                match CloseCode::from_code(close.error_code) {
                    Some(code) => Self::ClosedByPeer {
                        code,
                        reason: readable(&close.reason),
                    },
                    None => Self::Connection(error),
                }
            }
            ConnectionError::ConnectionClosed(ref close) => {
                match alert(u64::from(close.error_code)) {
                    Some(alert) => {
                        Self::from_alert(alert, Side::There, ours, readable(&close.reason))
                    }
                    None => Self::Connection(error),
                }
            }
            ConnectionError::TransportError(ref transport) => {
                match alert(u64::from(transport.code)) {
                    Some(alert) => {
                        Self::from_alert(alert, Side::Here, ours, transport.reason.clone())
                    }
                    None => Self::Connection(error),
                }
            }
            other => Self::Connection(other),
        }
    }

    /// What a handshake came to that this side accepted, in words that need no knowledge of QUIC. `asked_for` is the
    /// cluster that the other side looked for.
    pub(crate) fn at_the_door(self, asked_for: Option<ClusterId>, ours: ClusterId) -> Self {
        match (self, asked_for) {
            // An alert has no room for ids.
            (Self::OtherCa { by: Side::There }, Some(wanted)) if wanted != ours => {
                Self::OtherClusterWanted { wanted, ours }
            }
            (Self::Connection(ConnectionError::TransportError(_)), _) => Self::NotPontoon {
                found: "not QUIC, or damaged",
            },
            (Self::Tls { .. }, _) => Self::NotPontoon {
                found: "QUIC with another handshake",
            },
            (other, _) => other,
        }
    }

    pub(crate) fn from_verdict(verdict: Verdict, ours: ClusterId, expected: String) -> Self {
        match verdict {
            Verdict::OtherCluster(found) => Self::OtherCluster { found, ours },
            Verdict::OtherPeer(found) => Self::OtherPeer { found, expected },
            Verdict::Nameless => Self::CertificateRefused {
                by: Side::Here,
                reason: "it is not one of Pontoon's certificates".to_owned(),
            },
            Verdict::NotVerified(rustls::Error::InvalidCertificate(
                rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature,
            )) => Self::OtherCa { by: Side::Here },
            Verdict::NotVerified(error) => Self::CertificateRefused {
                by: Side::Here,
                reason: error.to_string(),
            },
        }
    }

    fn from_alert(alert: u8, by: Side, ours: &'static str, reason: String) -> Self {
        match alert {
            ALERT_UNKNOWN_CA | ALERT_ACCESS_DENIED | ALERT_DECRYPT_ERROR => Self::OtherCa { by },
            ALERT_CERTIFICATE_EXPIRED => Self::Expired { by },
            ALERT_NO_APPLICATION_PROTOCOL => Self::NoCommonProtocol { ours },
            // Here it is raised over a first packet that asks for nothing we have: no certificate was seen.
            ALERT_HANDSHAKE_FAILURE if by == Side::Here => Self::Tls { reason },
            ALERT_HANDSHAKE_FAILURE
            | ALERT_BAD_CERTIFICATE
            | ALERT_UNSUPPORTED_CERTIFICATE
            | ALERT_CERTIFICATE_REVOKED
            | ALERT_CERTIFICATE_UNKNOWN => Self::CertificateRefused { by, reason },
            ALERT_CERTIFICATE_REQUIRED => Self::CertificateRefused {
                by,
                reason: "there is none".to_owned(),
            },
            other => Self::Tls {
                reason: format!("alert {other}: {reason}"),
            },
        }
    }
}

/// The TLS alert in a QUIC error code, if it is one (RFC 9001 §4.8).
fn alert(code: u64) -> Option<u8> {
    match code {
        0x100..=0x1ff => u8::try_from(code & 0xff).ok(),
        _ => None,
    }
}

/// Formats whom a dial wanted.
pub(crate) fn wanted_text(node: Option<NodeId>) -> String {
    match node {
        Some(node) => format!("node {node}"),
        None => "a node".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: ClusterId = ClusterId(1);
    const OTHER: ClusterId = ClusterId(2);

    #[test]
    fn a_refusal_of_who_looked_for_another_cluster_names_both() {
        let refused = || LinkError::OtherCa { by: Side::There };
        let line = refused().at_the_door(Some(OTHER), OURS).to_string();
        assert!(line.contains(&OTHER.to_string()), "{line}");
        assert!(line.contains(&OURS.to_string()), "{line}");
        let twin = refused().at_the_door(Some(OURS), OURS);
        assert!(matches!(twin, LinkError::OtherCa { .. }), "{twin}");
    }

    #[test]
    fn bytes_that_are_no_handshake_are_told_in_our_words() {
        let garbage = quinn::TransportErrorCode::PROTOCOL_VIOLATION;
        let no_tls = quinn::TransportErrorCode::crypto(50);
        let no_cipher = quinn::TransportErrorCode::crypto(ALERT_HANDSHAKE_FAILURE);
        for (code, found) in [
            (garbage, "not QUIC"),
            (no_tls, "another handshake"),
            (no_cipher, "another handshake"),
        ] {
            let error = ConnectionError::TransportError(code.into());
            let theirs = error.to_string();
            let line = LinkError::from_connection(error, b"pontoon/1").at_the_door(None, OURS);
            let line = line.to_string();
            assert!(line.contains(found) && !line.contains(&theirs), "{line}");
        }
    }
}
