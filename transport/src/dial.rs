//! Dialling: names to addresses, one TLS configuration per dial, and failures in words.

use std::net::SocketAddr;
use std::sync::Arc;

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
    // The name in the handshake is a formality: the verifier looks at the certificate's own name.
    let server_name = match wanted {
        Wanted::Node(node) => format!("n{node}.{}.pontoon", identity.name().cluster()),
        Wanted::AnyNode => format!("{}.pontoon", identity.name().cluster()),
    };
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
