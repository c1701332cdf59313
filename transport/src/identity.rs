//! A process's own certificate, its key and the cluster's CA, read from files and checked before use.
//!
//! Everything that an operator can get wrong is found here, before a port is opened: a file that is
//! missing, a key of another certificate, a certificate of another CA, one that has expired, and
//! node 1's certificate given to node 2.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pontoon_types::NodeId;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::name::{NameError, PeerName};
use crate::tls;

/// Whose files [`TlsIdentity::load`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// A node's: `node-<ID>.pem` and `node-<ID>.key`.
    Node(NodeId),
    /// The clients': `client.pem` and `client.key`.
    Client,
}

impl Who {
    /// The name of the file that holds the certificate chain.
    #[must_use]
    pub fn certificate_file(&self) -> String {
        format!("{self}.pem")
    }

    /// The name of the file that holds the private key.
    #[must_use]
    pub fn key_file(&self) -> String {
        format!("{self}.key")
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node-{node}"),
            Self::Client => f.write_str("client"),
        }
    }
}

/// The name of the file that holds the CA's certificate.
pub const CA_FILE: &str = "ca.pem";

/// What is wrong with certificates or keys.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that was to be written is there already.
    #[error("{} exists already and is not overwritten; choose an empty directory", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file does not hold what its name promises, in PEM.
    #[error("{} holds no {what} in PEM: {source}", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// What the parser said.
        source: pem::Error,
    },
    /// A certificate has no name that Pontoon knows.
    #[error("{} is not one of Pontoon's certificates: {source}", path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// What is wrong with the name.
        source: NameError,
    },
    /// A certificate names another node, or a client where a node is asked for.
    #[error("{} is the certificate of {found}, not of {expected}", path.display())]
    WrongName {
        /// The file.
        path: PathBuf,
        /// Whose it should be.
        expected: Who,
        /// Whose it is.
        found: PeerName,
    },
    /// A certificate and a private key are not a pair.
    #[error("{} is not the key of the certificate in {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A certificate's time is over.
    #[error("the certificate in {} expired {} ago; make new ones", path.display(), days(*.since))]
    Expired {
        /// The file.
        path: PathBuf,
        /// For how long.
        since: Duration,
    },
    /// A certificate's time has not come; mostly the clock of this machine is wrong.
    #[error(
        "the certificate in {} becomes valid only in {}; is this machine's clock right?",
        path.display(),
        days(*.wait)
    )]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// How long it takes.
        wait: Duration,
    },
    /// The certificate was not issued by the CA beside it: the files are of two clusters.
    #[error(
        "{} was not issued by the CA in {}: the files are of different clusters ({source})",
        certificate.display(),
        ca.display()
    )]
    OtherCa {
        /// The certificate's file.
        certificate: PathBuf,
        /// The CA's file.
        ca: PathBuf,
        /// What verification said.
        source: rustls::Error,
    },
    /// The TLS library refuses the material.
    #[error("the TLS library refuses the certificates in {}: {source}", path.display())]
    Refused {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: rustls::Error,
    },
    /// Certificates could not be made.
    #[error("cannot make the certificate of {name}: {source}")]
    Generate {
        /// Whose.
        name: String,
        /// What the library said.
        source: rcgen::Error,
    },
}

fn days(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// Certificate chain, private key and CA of one process, checked against each other. Cheap to clone.
#[derive(Clone)]
pub struct TlsIdentity {
    inner: Arc<Inner>,
}

struct Inner {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    ca: CertificateDer<'static>,
    name: PeerName,
}

/// PEM texts and what to call them in an error.
pub(crate) struct PemFiles<'a> {
    pub(crate) ca: (PathBuf, &'a [u8]),
    pub(crate) certificate: (PathBuf, &'a [u8]),
    pub(crate) key: (PathBuf, &'a [u8]),
}

impl TlsIdentity {
    /// Reads `ca.pem`, and the certificate and key of `who`, from `dir`.
    ///
    /// # Errors
    /// If a file is missing or not what it should be, if the certificate names somebody else than
    /// `who`, has expired or is not of this CA, or if the key is of another certificate.
    pub fn load(dir: &Path, who: Who) -> Result<Self, TlsError> {
        let read = |name: String| {
            let path = dir.join(name);
            match std::fs::read(&path) {
                Ok(text) => Ok((path, text)),
                Err(source) => Err(TlsError::Unreadable { path, source }),
            }
        };
        let (ca_path, ca) = read(CA_FILE.to_owned())?;
        let (certificate_path, certificate) = read(who.certificate_file())?;
        let (key_path, key) = read(who.key_file())?;
        Self::from_pem(
            who,
            PemFiles {
                ca: (ca_path, &ca),
                certificate: (certificate_path, &certificate),
                key: (key_path, &key),
            },
            SystemTime::now(),
        )
    }

    /// The same from texts in memory; `files` names them for errors.
    pub(crate) fn from_pem(
        who: Who,
        files: PemFiles<'_>,
        now: SystemTime,
    ) -> Result<Self, TlsError> {
        let (ca_path, ca_text) = files.ca;
        let (path, chain_text) = files.certificate;
        let (key_path, key_text) = files.key;
        let not_pem = |path: &Path, what| {
            let path = path.to_owned();
            move |source| TlsError::NotPem { path, what, source }
        };

        let ca =
            CertificateDer::from_pem_slice(ca_text).map_err(not_pem(&ca_path, "certificate"))?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain_text)
            .collect::<Result<_, _>>()
            .map_err(not_pem(&path, "certificate"))?;
        let Some(leaf) = chain.first() else {
            return Err(not_pem(&path, "certificate")(pem::Error::NoItemsFound));
        };
        let key =
            PrivateKeyDer::from_pem_slice(key_text).map_err(not_pem(&key_path, "private key"))?;

        let name = PeerName::from_certificate(leaf).map_err(|source| TlsError::Name {
            path: path.clone(),
            source,
        })?;
        let expected_node = match who {
            Who::Node(node) => Some(node),
            Who::Client => None,
        };
        if name.node() != expected_node {
            return Err(TlsError::WrongName {
                path,
                expected: who,
                found: name,
            });
        }
        check_validity(&ca_path, &ca, now)?;
        check_validity(&path, leaf, now)?;
        check_issuer(&path, &chain, &ca_path, &ca, now)?;
        check_key(&path, &chain, &key_path, &key)?;
        Ok(Self {
            inner: Arc::new(Inner {
                chain,
                key,
                ca,
                name,
            }),
        })
    }

    /// Who this is, as the certificate says.
    #[must_use]
    pub fn name(&self) -> PeerName {
        self.inner.name
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.inner.chain.clone()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.inner.key.clone_key()
    }

    pub(crate) fn ca(&self) -> &CertificateDer<'static> {
        &self.inner.ca
    }
}

impl fmt::Debug for TlsIdentity {
    /// Never shows the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity")
            .field("name", &self.inner.name)
            .finish_non_exhaustive()
    }
}

fn check_validity(path: &Path, der: &[u8], now: SystemTime) -> Result<(), TlsError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| TlsError::Name {
        path: path.to_owned(),
        source: NameError::NotACertificate,
    })?;
    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    let seconds = |from: i64, to: i64| Duration::from_secs(from.abs_diff(to));
    if now > validity.not_after.timestamp() {
        return Err(TlsError::Expired {
            path: path.to_owned(),
            since: seconds(validity.not_after.timestamp(), now),
        });
    }
    if now < validity.not_before.timestamp() {
        return Err(TlsError::NotYetValid {
            path: path.to_owned(),
            wait: seconds(now, validity.not_before.timestamp()),
        });
    }
    Ok(())
}

fn check_issuer(
    path: &Path,
    chain: &[CertificateDer<'static>],
    ca_path: &Path,
    ca: &CertificateDer<'static>,
    now: SystemTime,
) -> Result<(), TlsError> {
    let refused = |source| TlsError::Refused {
        path: ca_path.to_owned(),
        source,
    };
    // Nodes and clients alike may act as TLS clients, so this one check fits both.
    let verifier = tls::client_verifier(ca).map_err(refused)?;
    let since_epoch = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    verifier
        .verify_client_cert(
            &chain[0],
            &chain[1..],
            UnixTime::since_unix_epoch(since_epoch),
        )
        .map_err(|source| TlsError::OtherCa {
            certificate: path.to_owned(),
            ca: ca_path.to_owned(),
            source,
        })?;
    Ok(())
}

fn check_key(
    path: &Path,
    chain: &[CertificateDer<'static>],
    key_path: &Path,
    key: &PrivateKeyDer<'static>,
) -> Result<(), TlsError> {
    let signing_key = tls::provider()
        .key_provider
        .load_private_key(key.clone_key())
        .map_err(|source| TlsError::Refused {
            path: key_path.to_owned(),
            source,
        })?;
    CertifiedKey::new(chain.to_vec(), signing_key)
        .keys_match()
        .map_err(|_| TlsError::KeyMismatch {
            certificate: path.to_owned(),
            key: key_path.to_owned(),
        })
}
