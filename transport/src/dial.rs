//! Dialling: names to addresses, one TLS configuration per dial, and failures in words.

use std::net::SocketAddr;
use std::sync::Arc;

use pontoon_types::ClusterId;
use quinn::{Connection, Endpoint, TransportConfig};

use crate::error::{LinkError, wanted_text};
use crate::identity::TlsIdentity;
use crate::tls::{self, Wanted};

/// The addresses behind `host:port`.
pub(crate) async fn resolve(address: &str) -> Result<Vec<SocketAddr>, LinkError> {
    let failed = |reason: String| LinkError::Resolve {
        address: address.to_owned(),
        reason,
    };
    let found: Vec<_> = tokio::net::lookup_host(address)
        .await
        .map_err(|error| failed(error.to_string()))?
        .collect();
    if found.is_empty() {
        return Err(failed("the name has no address".to_owned()));
    }
    Ok(found)
}

/// The name in the handshake. It decides nothing, for the verifier looks at the certificate's own name; but the
/// acceptor learns from it who was looked for.
fn server_name(wanted: Wanted, cluster: ClusterId) -> String {
    match wanted {
        Wanted::Node(node) => format!("n{node}.{cluster}.pontoon"),
        Wanted::AnyNode => format!("{cluster}.pontoon"),
    }
}

/// The cluster in such a name.
pub(crate) fn cluster_in(server_name: &str) -> Option<ClusterId> {
    let labels = server_name.strip_suffix(".pontoon")?;
    labels.rsplit('.').next()?.parse().ok()
}

/// Opens a connection to whom `wanted` says, or tells why not. It waits as long as QUIC does: callers
/// put a bound on it.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    address: SocketAddr,
    identity: &TlsIdentity,
    wanted: Wanted,
    alpn: &'static [u8],
    transport: Arc<TransportConfig>,
) -> Result<Connection, LinkError> {
    let (crypto, verdict) =
        tls::client_config(identity, wanted, alpn).map_err(|error| LinkError::Tls {
            reason: error.to_string(),
        })?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport);
    let server_name = server_name(wanted, identity.name().cluster());
    let connecting = endpoint
        .connect_with(config, address, &server_name)
        .map_err(|error| LinkError::Socket {
            address: address.to_string(),
            reason: error.to_string(),
        })?;
    connecting.await.map_err(|error| {
        if let Some(verdict) = verdict.lock().take() {
            let expected = wanted_text(match wanted {
                Wanted::Node(node) => Some(node),
                Wanted::AnyNode => None,
            });
            return LinkError::from_verdict(verdict, identity.name().cluster(), expected);
        }
        LinkError::from_connection(error, alpn)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_types::NodeId;

    #[test]
    fn the_name_in_the_handshake_tells_the_cluster() {
        let cluster = ClusterId(0x00ab_cdef_0123_4567);
        for wanted in [Wanted::AnyNode, Wanted::Node(NodeId(7))] {
            assert_eq!(cluster_in(&server_name(wanted, cluster)), Some(cluster));
        }
        for other in ["", "pontoon", ".pontoon", "example.org", "x.pontoon"] {
            assert_eq!(cluster_in(other), None, "{other}");
        }
    }
}
