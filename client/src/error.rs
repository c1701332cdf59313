//! Why a request did not succeed, and above all: whether it may still have been done.

use crate::protocol::{ProtocolError, RefusalCode};
use crate::routing::Setback;
use core::fmt;
use core::time::Duration;
use pontoon_shard_router::MapError;
use pontoon_transport::{ChannelError, LinkError};
use pontoon_types::{LimitsError, NodeId, ShardId};
use thiserror::Error;

/// What came of a request that did not succeed.
///
/// Every variant but [`ClientError::UnknownOutcome`] means that the request was **surely not done**.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No endpoint was given.
    #[error("no endpoint was given")]
    NoEndpoints,
    /// No endpoint led to a node of the cluster.
    #[error("cannot connect: {}", Listed(failures))]
    Connect {
        /// What each endpoint came to.
        failures: Vec<EndpointFailure>,
    },
    /// A key, value or command is over a limit, or a key is empty.
    #[error(transparent)]
    TooLarge(#[from] LimitsError),
    /// A request is larger than a node would read.
    #[error("a request of {bytes} bytes is over the {max} that a node reads")]
    RequestTooLarge {
        /// Its length.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// A batch is atomic within one shard, and this one spans two.
    #[error(
        "the batch spans shards {first} and {second}; a batch is atomic within one shard, so split it"
    )]
    BatchSpansShards {
        /// The shard of its first key.
        first: ShardId,
        /// Another shard that owns one of its keys.
        second: ShardId,
    },
    /// The request was sent and may have been done, or may still be done, once; nobody could tell.
    #[error("unknown outcome: {cause} (shard {shard}, node {node}); the write may have been done")]
    UnknownOutcome {
        /// The shard it was sent to.
        shard: ShardId,
        /// The node it was sent to.
        node: NodeId,
        /// Why the outcome is unknown.
        cause: UnknownCause,
    },
    /// No node served the shard until the deadline.
    #[error("{} is unavailable, not done within {waited:.1?}: {last}", ShardName(*shard))]
    Unavailable {
        /// The shard.
        shard: ShardId,
        /// How long was tried.
        waited: Duration,
        /// Why the last try failed.
        last: Setback,
    },
    /// A bound of the cluster held the request back until the deadline.
    #[error("overloaded, not done within {waited:.1?}: {last}; send less at once or wait longer")]
    Overloaded {
        /// How long was tried.
        waited: Duration,
        /// Where.
        last: Setback,
    },
    /// The deadline passed before the request could be sent.
    #[error("the deadline of {waited:.1?} passed before the request could be sent")]
    Deadline {
        /// How long was tried.
        waited: Duration,
    },
    /// A node refused the request as wrong.
    #[error("node {node} refuses the request ({code}): {text}")]
    Refused {
        /// The node.
        node: NodeId,
        /// In what way it is wrong.
        code: RefusalCode,
        /// In the node's words.
        text: String,
    },
    /// A node's answer to a read cannot be read.
    #[error("node {node} gives an answer that cannot be read: {source}")]
    Protocol {
        /// The node.
        node: NodeId,
        /// What is wrong with it.
        source: ProtocolError,
    },
    /// A node answered a read with something else than what was asked.
    #[error("node {node} answers something else than {expected}")]
    UnexpectedAnswer {
        /// The node.
        node: NodeId,
        /// What was asked.
        expected: &'static str,
    },
    /// The map in the meta group makes no sense, or is not written yet.
    #[error("the cluster's map cannot be used: {0}")]
    Map(#[from] MapError),
    /// A node that the cluster does not list.
    #[error("node {node} is not in the cluster")]
    UnknownNode {
        /// The node.
        node: NodeId,
    },
    /// A node cannot be reached, or did not answer.
    #[error("node {node} at {address}: {source}")]
    Node {
        /// The node.
        node: NodeId,
        /// Its address.
        address: String,
        /// What the connection says.
        source: ChannelError,
    },
}

impl ClientError {
    /// Whether the request may have been done, or may still be done. Everything else was surely not.
    #[must_use]
    pub const fn is_unknown_outcome(&self) -> bool {
        matches!(self, Self::UnknownOutcome { .. })
    }

    /// Whether the same request may succeed later without anybody changing anything about it.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::UnknownOutcome { .. }
                | Self::Unavailable { .. }
                | Self::Overloaded { .. }
                | Self::Deadline { .. }
                | Self::Connect { .. }
                | Self::Node { .. }
        )
    }
}

/// Why an outcome is unknown.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum UnknownCause {
    /// No answer came until the deadline.
    NoAnswer,
    /// The connection was lost.
    ConnectionLost(LinkError),
    /// The node dropped the request without an answer.
    Abandoned,
    /// The node proposed the command and could not learn its fate.
    Proposed,
    /// The answer cannot be read.
    Unreadable(ProtocolError),
    /// The answer is none to a command.
    Unexpected,
}

impl fmt::Display for UnknownCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer => f.write_str("no answer came in time"),
            Self::ConnectionLost(error) => write!(f, "the connection was lost ({error})"),
            Self::Abandoned => f.write_str("the node dropped the request"),
            Self::Proposed => f.write_str("the node could not learn the command's fate"),
            Self::Unreadable(error) => write!(f, "the answer cannot be read: {error}"),
            Self::Unexpected => f.write_str("the node answers something else than was asked"),
        }
    }
}

/// What one endpoint came to.
#[derive(Clone, Debug)]
pub struct EndpointFailure {
    /// The endpoint as given.
    pub endpoint: String,
    /// Why it led to no node.
    pub reason: EndpointError,
}

/// Why an endpoint led to no node.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// There is no connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// There was a connection, and it broke.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// No answer came in time.
    #[error("no answer in time")]
    TimedOut,
    /// The answer cannot be read.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The node answered something else than hints.
    #[error("the node answers something else than who holds the meta group")]
    Unexpected,
    /// The node refused or could not answer yet.
    #[error("{text}")]
    NotReady {
        /// The node's words.
        text: String,
    },
}

impl EndpointError {
    /// Whether trying again could help: names, certificates and versions stay what they are.
    pub(crate) const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Link(
                LinkError::OtherCluster { .. }
                    | LinkError::OtherCa { .. }
                    | LinkError::Expired { .. }
                    | LinkError::CertificateRefused { .. }
                    | LinkError::NoCommonProtocol { .. }
                    | LinkError::Resolve { .. }
                    | LinkError::Tls { .. }
            ) | Self::Protocol(_)
                | Self::Unexpected
        )
    }
}

struct Listed<'a>(&'a [EndpointFailure]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, failure) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", failure.endpoint, failure.reason)?;
        }
        Ok(())
    }
}

struct ShardName(ShardId);

impl fmt::Display for ShardName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == ShardId::META {
            f.write_str("the cluster's map")
        } else {
            write!(f, "shard {}", self.0)
        }
    }
}
