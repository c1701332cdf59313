//! TLS 1.3 both ways, with names checked during the handshake.
//!
//! Each side verifies the other's certificate against the cluster's CA and reads its [`PeerName`]. The
//! dialling side knows whom it wants (one node, or any node of the cluster) and keeps what it found
//! wrong, so that the caller is told in words and not in an alert's number.
//!
//! AES-128 comes first because it was the fastest where it was measured; sessions are never resumed, so
//! that every connection has had its certificate checked.

use std::sync::Arc;

use parking_lot::Mutex;
use pontoon_types::{ClusterId, NodeId};
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::crypto::{CryptoProvider, ring::cipher_suite as suite};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};

use crate::identity::TlsIdentity;
use crate::name::PeerName;

/// The protocol between nodes; its number is the version.
pub const NODE_ALPN: &[u8] = b"pontoon/1";
/// The protocol of clients.
pub const CLIENT_ALPN: &[u8] = b"pontoon-client/1";

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..ring::default_provider()
    })
}

fn roots(ca: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone())?;
    Ok(Arc::new(roots))
}

/// Verifies that a certificate was issued by `ca` for dialling.
pub(crate) fn client_verifier(
    ca: &CertificateDer<'static>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider())
        .build()
        .map_err(|error| Error::General(error.to_string()))
}

/// Whom the dialling side wants to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Node(NodeId),
    AnyNode,
}

/// What the dialling side found wrong with the certificate that it was shown.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    OtherCluster(ClusterId),
    OtherPeer(PeerName),
    Nameless,
    NotVerified(Error),
}

/// Where a dial's verifier leaves its verdict.
pub(crate) type VerdictSlot = Arc<Mutex<Option<Verdict>>>;

pub(crate) fn server_config(identity: &TlsIdentity) -> Result<QuicServerConfig, TlsSetupError> {
    let verifier = Arc::new(AcceptorVerifier {
        inner: client_verifier(identity.ca())?,
        cluster: identity.name().cluster(),
    });
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain(), identity.key())?;
    config.alpn_protocols = vec![NODE_ALPN.to_vec(), CLIENT_ALPN.to_vec()];
    config.ignore_client_order = true;
    config.send_tls13_tickets = 0;
    Ok(config.try_into()?)
}

pub(crate) fn client_config(
    identity: &TlsIdentity,
    wanted: Wanted,
    alpn: &[u8],
) -> Result<(QuicClientConfig, VerdictSlot), TlsSetupError> {
    let slot = VerdictSlot::default();
    let verifier = Arc::new(DialVerifier {
        inner: WebPkiServerVerifier::builder_with_provider(roots(identity.ca())?, provider())
            .build()
            .map_err(|error| Error::General(error.to_string()))?,
        cluster: identity.name().cluster(),
        wanted,
        verdict: slot.clone(),
    });
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(identity.chain(), identity.key())?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok((config.try_into()?, slot))
}

/// Why no TLS configuration could be made of an identity.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// The TLS library refuses the material.
    #[error(transparent)]
    Tls(#[from] Error),
    /// QUIC cannot start without AES-128.
    #[error(transparent)]
    Quic(#[from] NoInitialCipherSuite),
}

/// The acceptor's side: the CA and the cluster must be right; node or client is told apart later, when
/// the protocol is known.
#[derive(Debug)]
struct AcceptorVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    cluster: ClusterId,
}

impl ClientCertVerifier for AcceptorVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .inner
            .verify_client_cert(end_entity, intermediates, now)?;
        match PeerName::from_certificate(end_entity) {
            Ok(name) if name.cluster() == self.cluster => Ok(verified),
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The dialling side. It exists because a client may want *any* node of its cluster, which the usual
/// check of one fixed name cannot say; chain, validity, purpose and signatures are the library's.
#[derive(Debug)]
struct DialVerifier {
    inner: Arc<WebPkiServerVerifier>,
    cluster: ClusterId,
    wanted: Wanted,
    verdict: VerdictSlot,
}

impl DialVerifier {
    fn check_name(&self, end_entity: &CertificateDer<'_>) -> Result<PeerName, Verdict> {
        let name = PeerName::from_certificate(end_entity).map_err(|_| Verdict::Nameless)?;
        if name.cluster() != self.cluster {
            return Err(Verdict::OtherCluster(name.cluster()));
        }
        match (name, self.wanted) {
            (PeerName::Node { .. }, Wanted::AnyNode) => Ok(name),
            (PeerName::Node { node, .. }, Wanted::Node(wanted)) if node == wanted => Ok(name),
            _ => Err(Verdict::OtherPeer(name)),
        }
    }
}

impl ServerCertVerifier for DialVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let name = self.check_name(end_entity).map_err(|verdict| {
            *self.verdict.lock() = Some(verdict);
            Error::from(CertificateError::ApplicationVerificationFailure)
        })?;
        let dns_name = ServerName::try_from(name.dns_name())
            .map_err(|_| Error::from(CertificateError::ApplicationVerificationFailure))?;
        self.inner
            .verify_server_cert(end_entity, intermediates, &dns_name, ocsp_response, now)
            .inspect_err(|error| *self.verdict.lock() = Some(Verdict::NotVerified(error.clone())))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
