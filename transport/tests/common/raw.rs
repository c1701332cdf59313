//! A QUIC client without Pontoon's manners, for what an honest one never does.

use std::path::Path;
use std::sync::Arc;

use pontoon_transport::{Transport, Who};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Whose certificate the client shows, and which CA it trusts.
pub(crate) struct Shows<'a> {
    pub(crate) ca: &'a Path,
    pub(crate) certificate: &'a Path,
    pub(crate) who: Who,
}

/// A connection that the node has accepted, and the first stream on it.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) connection: quinn::Connection,
    pub(crate) send: quinn::SendStream,
    pub(crate) recv: Option<quinn::RecvStream>,
    _endpoint: quinn::Endpoint,
}

/// Connects to node 1, or tells how that ended.
pub(crate) async fn connect(
    node: &Transport,
    shows: Shows<'_>,
    alpn: &[u8],
) -> Result<Raw, quinn::ConnectionError> {
    let certificate =
        |dir: &Path, name: &str| CertificateDer::from_pem_file(dir.join(name)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate(shows.ca, "ca.pem")).unwrap();
    let chain = vec![certificate(
        shows.certificate,
        &shows.who.certificate_file(),
    )];
    let key = PrivateKeyDer::from_pem_file(shows.certificate.join(shows.who.key_file())).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let name = format!("n1.{}.pontoon", super::CLUSTER);
    let connection = endpoint
        .connect_with(config, node.local_addr(), &name)
        .unwrap()
        .await?;
    // With TLS 1.3 a dialler believes itself connected before the acceptor has looked at its
    // certificate. Permission to open a stream comes only after that.
    let (send, recv) = if alpn == b"pontoon/1" {
        (connection.open_uni().await?, None)
    } else {
        let (send, recv) = connection.open_bi().await?;
        (send, Some(recv))
    };
    // A refusal for another reason may still be on its way.
    match tokio::time::timeout(std::time::Duration::from_millis(300), connection.closed()).await {
        Ok(ended) => Err(ended),
        Err(_) => Ok(Raw {
            connection,
            send,
            recv,
            _endpoint: endpoint,
        }),
    }
}
