//! Makes the certificates of a cluster: one CA, one certificate per node, one for all clients.
//!
//! The CA is made for one cluster and can issue for nothing else: its name constraints permit only
//! names below `<CLUSTER>.pontoon`, and its path length forbids further CAs. Node certificates may
//! serve and dial, the clients' certificate may only dial. Keys are ECDSA on P-256. Everything is
//! valid for ten years from a day before it was made (clocks differ): a cluster that stops because
//! nobody renewed a file is the likelier accident than a key stolen from a disk that holds the data.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use pontoon_types::{ClusterId, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};

use crate::identity::{CA_FILE, PemFiles, TlsError, TlsIdentity, Who};
use crate::name::PeerName;

/// The name of the file that holds the CA's private key. Nodes do not need it; whoever has it can
/// add nodes, so it belongs somewhere safe.
pub const CA_KEY_FILE: &str = "ca.key";

const DAY: Duration = Duration::from_secs(86_400);

/// From when until when certificates hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: SystemTime,
    /// The last moment.
    pub not_after: SystemTime,
}

impl Validity {
    /// Ten years, counted from a day before `now`.
    #[must_use]
    pub fn ten_years_from(now: SystemTime) -> Self {
        let not_before = now - DAY;
        Self {
            not_before,
            not_after: not_before + 3_653 * DAY,
        }
    }
}

/// One certificate and its key, in PEM.
#[derive(Clone)]
struct Issued {
    who: Who,
    certificate_pem: String,
    key_pem: String,
}

/// The certificates and keys of one cluster, in memory.
#[derive(Clone)]
pub struct CertificateSet {
    cluster: ClusterId,
    ca_pem: String,
    ca_key_pem: String,
    issued: Vec<Issued>,
}

impl std::fmt::Debug for CertificateSet {
    /// Never shows the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateSet")
            .field("cluster", &self.cluster)
            .field(
                "issued",
                &self.issued.iter().map(|one| one.who).collect::<Vec<_>>(),
            )
            .finish_non_exhaustive()
    }
}

/// Makes a CA for `cluster`, a certificate for each of `nodes`, and one for its clients.
///
/// # Errors
/// If the crypto library fails.
pub fn generate(cluster: ClusterId, nodes: &[NodeId]) -> Result<CertificateSet, TlsError> {
    generate_valid(cluster, nodes, Validity::ten_years_from(SystemTime::now()))
}

/// The same with a validity of the caller's choice.
///
/// # Errors
/// If the crypto library fails.
pub fn generate_valid(
    cluster: ClusterId,
    nodes: &[NodeId],
    validity: Validity,
) -> Result<CertificateSet, TlsError> {
    let ca = issue_ca(cluster, validity).map_err(|source| TlsError::Generate {
        name: format!("the CA of cluster {cluster}"),
        source,
    })?;
    let names = nodes
        .iter()
        .map(|node| {
            (
                Who::Node(*node),
                PeerName::Node {
                    cluster,
                    node: *node,
                },
            )
        })
        .chain([(Who::Client, PeerName::Client { cluster })]);
    let issued = names
        .map(|(who, name)| {
            issue(&ca, who, name, validity).map_err(|source| TlsError::Generate {
                name: name.to_string(),
                source,
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(CertificateSet {
        cluster,
        ca_pem: ca.pem(),
        ca_key_pem: ca.key().serialize_pem(),
        issued,
    })
}

fn issue_ca(
    cluster: ClusterId,
    validity: Validity,
) -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut params = base_params(format!("Pontoon CA of cluster {cluster}"), validity);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(format!("{cluster}.pontoon"))],
        excluded_subtrees: Vec::new(),
    });
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

fn issue(
    ca: &CertifiedIssuer<'static, KeyPair>,
    who: Who,
    name: PeerName,
    validity: Validity,
) -> Result<Issued, rcgen::Error> {
    let mut params = base_params(name.dns_name(), validity);
    params.subject_alt_names = vec![SanType::DnsName(name.dns_name().try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match name {
        PeerName::Node { .. } => vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ],
        PeerName::Client { .. } => vec![ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, ca)?;
    Ok(Issued {
        who,
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    })
}

fn base_params(common_name: String, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
    };
    params.not_before = epoch + since_epoch(validity.not_before);
    params.not_after = epoch + since_epoch(validity.not_after);
    params
}

impl CertificateSet {
    /// The cluster that these are of.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The identity of `who` without going through files, or `None` if no certificate was made for it.
    ///
    /// # Errors
    /// As [`TlsIdentity::load`].
    pub fn identity(&self, who: Who) -> Result<Option<TlsIdentity>, TlsError> {
        let Some(issued) = self.issued.iter().find(|one| one.who == who) else {
            return Ok(None);
        };
        TlsIdentity::from_pem(
            who,
            PemFiles {
                ca: (CA_FILE.into(), self.ca_pem.as_bytes()),
                certificate: (
                    who.certificate_file().into(),
                    issued.certificate_pem.as_bytes(),
                ),
                key: (who.key_file().into(), issued.key_pem.as_bytes()),
            },
            SystemTime::now(),
        )
        .map(Some)
    }

    /// Writes all of it to `dir`, which is created if it is missing: `ca.pem`, `ca.key`,
    /// `node-<ID>.pem`, `node-<ID>.key`, `client.pem` and `client.key`. Keys can be read by their
    /// owner only. Nothing is written if one of the files exists.
    ///
    /// # Errors
    /// If a file exists or cannot be written.
    pub fn write_to(&self, dir: &Path) -> Result<(), TlsError> {
        fs::create_dir_all(dir).map_err(|source| TlsError::Unwritable {
            path: dir.to_owned(),
            source,
        })?;
        let mut files = vec![
            (CA_FILE.to_owned(), &self.ca_pem, 0o644),
            (CA_KEY_FILE.to_owned(), &self.ca_key_pem, 0o600),
        ];
        for issued in &self.issued {
            files.push((
                issued.who.certificate_file(),
                &issued.certificate_pem,
                0o644,
            ));
            files.push((issued.who.key_file(), &issued.key_pem, 0o600));
        }
        for (name, ..) in &files {
            let path = dir.join(name);
            if path.symlink_metadata().is_ok() {
                return Err(TlsError::Exists { path });
            }
        }
        for (name, text, mode) in files {
            write_new(&dir.join(name), text, mode)?;
        }
        Ok(())
    }
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    // The mode is given at creation, so that a key is never readable for others, not even briefly.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let written = options.open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => TlsError::Exists {
            path: path.to_owned(),
        },
        _ => TlsError::Unwritable {
            path: path.to_owned(),
            source,
        },
    })
}
