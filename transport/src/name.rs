//! Who a certificate speaks for.
//!
//! The one name in a certificate's subject alternative names carries everything that the transport
//! believes about a peer: `n17.00abcdef01234567.pontoon` is node 17 of that cluster, and
//! `client.00abcdef01234567.pontoon` is a client of it. What a peer says later is compared with it.

use std::fmt;

use pontoon_types::{ClusterId, NodeId};
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const SUFFIX: &str = ".pontoon";
const CLIENT_LABEL: &str = "client";

/// The name in a certificate: a node of a cluster, or a client of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerName {
    /// A node. It may speak to other nodes, and it may also act as a client.
    Node {
        /// The cluster it belongs to.
        cluster: ClusterId,
        /// Its id there.
        node: NodeId,
    },
    /// A client. All clients of a cluster share one name.
    Client {
        /// The cluster it may ask.
        cluster: ClusterId,
    },
}

/// Why a certificate has no name that Pontoon knows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// The bytes are not an X.509 certificate.
    #[error("it is not an X.509 certificate")]
    NotACertificate,
    /// The certificate does not have exactly one DNS name.
    #[error("it has {found} DNS names where Pontoon's certificates have exactly one")]
    NotOneName {
        /// How many it has.
        found: usize,
    },
    /// Its DNS name is not of the form that Pontoon gives out.
    #[error("its name {name:?} is neither n<ID>.<CLUSTER>.pontoon nor client.<CLUSTER>.pontoon")]
    Unknown {
        /// The name, cut to a bounded length.
        name: String,
    },
}

impl PeerName {
    /// The cluster that the name is of.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        match self {
            Self::Node { cluster, .. } | Self::Client { cluster } => *cluster,
        }
    }

    /// The node's id, or `None` for a client.
    #[must_use]
    pub const fn node(&self) -> Option<NodeId> {
        match self {
            Self::Node { node, .. } => Some(*node),
            Self::Client { .. } => None,
        }
    }

    /// The DNS name that carries this in a certificate.
    #[must_use]
    pub fn dns_name(&self) -> String {
        match self {
            Self::Node { cluster, node } => format!("n{node}.{cluster}{SUFFIX}"),
            Self::Client { cluster } => format!("{CLIENT_LABEL}.{cluster}{SUFFIX}"),
        }
    }

    /// Reads a DNS name as [`PeerName::dns_name`] writes it; any other spelling is refused.
    ///
    /// # Errors
    /// If it is of another form.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        Self::parse_exact(text).ok_or_else(|| NameError::Unknown {
            name: text.chars().take(80).collect(),
        })
    }

    fn parse_exact(text: &str) -> Option<Self> {
        let (who, cluster) = text.strip_suffix(SUFFIX)?.split_once('.')?;
        let cluster: ClusterId = cluster.parse().ok()?;
        let name = if who == CLIENT_LABEL {
            Self::Client { cluster }
        } else {
            let node: NodeId = who.strip_prefix('n')?.parse().ok()?;
            Self::Node { cluster, node }
        };
        // One spelling per name: no upper case, no leading zeros, no sign.
        (name.dns_name() == text).then_some(name)
    }

    /// Reads the name out of a certificate in DER. It says nothing of whether the certificate is to
    /// be trusted.
    ///
    /// # Errors
    /// If it is not a certificate, or has no such name.
    pub fn from_certificate(der: &[u8]) -> Result<Self, NameError> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|_| NameError::NotACertificate)?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| NameError::NotACertificate)?
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        match names {
            [GeneralName::DNSName(name)] => Self::parse(name),
            _ => Err(NameError::NotOneName { found: names.len() }),
        }
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { cluster, node } => write!(f, "node {node} of cluster {cluster}"),
            Self::Client { cluster } => write!(f, "a client of cluster {cluster}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLUSTER: ClusterId = ClusterId(0x00ab_cdef_0123_4567);

    #[test]
    fn a_name_has_one_spelling() {
        let node = PeerName::Node {
            cluster: CLUSTER,
            node: NodeId(17),
        };
        assert_eq!(node.dns_name(), "n17.00abcdef01234567.pontoon");
        assert_eq!(PeerName::parse("n17.00abcdef01234567.pontoon"), Ok(node));
        for other in [
            "N17.00abcdef01234567.pontoon",
            "n017.00abcdef01234567.pontoon",
            "n+17.00abcdef01234567.pontoon",
            "n17.00ABCDEF01234567.pontoon",
            "n17.abcdef01234567.pontoon",
            "n17.00abcdef01234567.pontoon.example",
            "x.n17.00abcdef01234567.pontoon",
            "n17.00abcdef01234567",
            "server.00abcdef01234567.pontoon",
            "",
        ] {
            assert!(PeerName::parse(other).is_err(), "{other:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn every_name_reads_back(cluster: u64, node: Option<u64>) {
            let cluster = ClusterId(cluster);
            let name = match node {
                Some(node) => PeerName::Node { cluster, node: NodeId(node) },
                None => PeerName::Client { cluster },
            };
            prop_assert_eq!(PeerName::parse(&name.dns_name()), Ok(name));
        }

        #[test]
        fn arbitrary_bytes_are_no_certificate(bytes: Vec<u8>) {
            prop_assert!(PeerName::from_certificate(&bytes).is_err());
        }
    }
}
