//! Certificates: what operators get wrong, and who is refused.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod common;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::*;
use pontoon_transport::certs::{self, Validity};
use pontoon_transport::{
    Channel, LinkError, PeerName, Side, TlsError, TlsIdentity, Transport, Who,
};
use pontoon_types::{ClusterId, NodeId};

const OTHER: ClusterId = ClusterId(0xbad);

#[test]
fn what_was_written_loads_and_knows_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let certs = dir.path().join("certs");
    certificates().write_to(&certs).unwrap();
    let node = TlsIdentity::load(&certs, Who::Node(TWO)).unwrap();
    assert_eq!(
        node.name(),
        PeerName::Node {
            cluster: CLUSTER,
            node: TWO
        }
    );
    let client = TlsIdentity::load(&certs, Who::Client).unwrap();
    assert_eq!(client.name(), PeerName::Client { cluster: CLUSTER });
    assert!(!format!("{node:?}").contains("PRIVATE"));
}

#[cfg(unix)]
#[test]
fn keys_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    certificates().write_to(dir.path()).unwrap();
    for name in ["ca.key", "node-1.key", "node-3.key", "client.key"] {
        let mode = fs::metadata(dir.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn nothing_is_overwritten_and_nothing_half_written() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("node-2.key"), "precious").unwrap();
    let error = certificates().write_to(dir.path()).unwrap_err();
    assert!(
        matches!(&error, TlsError::Exists { path } if path.ends_with("node-2.key")),
        "{error}"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(
        fs::read(dir.path().join("node-2.key")).unwrap(),
        b"precious"
    );
}

/// Each mistake, and a part of the line that it must give.
#[test]
fn each_mistake_with_the_files_is_named() {
    type Mistake = fn(&std::path::Path);
    fn copy(dir: &std::path::Path, from: &str, to: &str) {
        fs::copy(dir.join(from), dir.join(to)).unwrap();
    }
    let mistakes: [(&str, Mistake, &str); 8] = [
        (
            "a missing certificate",
            |dir| fs::remove_file(dir.join("node-2.pem")).unwrap(),
            "node-2.pem",
        ),
        (
            "a missing key",
            |dir| fs::remove_file(dir.join("node-2.key")).unwrap(),
            "node-2.key",
        ),
        (
            "a missing CA",
            |dir| fs::remove_file(dir.join("ca.pem")).unwrap(),
            "ca.pem",
        ),
        (
            "another node's certificate",
            |dir| copy(dir, "node-1.pem", "node-2.pem"),
            "is the certificate of node 1 of cluster",
        ),
        (
            "another node's key",
            |dir| copy(dir, "node-1.key", "node-2.key"),
            "is not the key of",
        ),
        (
            "no PEM",
            |dir| fs::write(dir.join("node-2.pem"), "hello").unwrap(),
            "holds no certificate",
        ),
        (
            "the CA as the node's certificate",
            |dir| copy(dir, "ca.pem", "node-2.pem"),
            "is not one of Pontoon's",
        ),
        (
            "another cluster's CA",
            |dir| {
                let other = tempfile::tempdir().unwrap();
                certs::generate(CLUSTER, &[TWO])
                    .unwrap()
                    .write_to(other.path())
                    .unwrap();
                fs::copy(other.path().join("ca.pem"), dir.join("ca.pem")).unwrap();
            },
            "the files are of different clusters",
        ),
    ];
    for (mistake, make, line) in mistakes {
        let dir = tempfile::tempdir().unwrap();
        certificates().write_to(dir.path()).unwrap();
        make(dir.path());
        let error = TlsIdentity::load(dir.path(), Who::Node(TWO))
            .unwrap_err()
            .to_string();
        assert!(error.contains(line), "{mistake}: {error}");
    }
}

#[test]
fn a_certificate_out_of_its_time_is_refused_with_the_reason() {
    let now = SystemTime::now();
    let day = Duration::from_secs(86_400);
    let load = |not_before, not_after| {
        let set = certs::generate_valid(
            CLUSTER,
            &[ONE],
            Validity {
                not_before,
                not_after,
            },
        )
        .unwrap();
        set.identity(Who::Node(ONE)).unwrap_err()
    };
    let expired = load(now - 10 * day, now - 3 * day);
    assert!(matches!(expired, TlsError::Expired { .. }), "{expired}");
    assert!(
        expired.to_string().contains("expired 3 days ago"),
        "{expired}"
    );
    let early = load(now + 3 * day, now + 10 * day);
    assert!(matches!(early, TlsError::NotYetValid { .. }), "{early}");
}

/// The CA's name constraints bind it to its cluster, whoever holds its key.
#[test]
fn a_ca_cannot_issue_for_another_cluster() {
    let dir = tempfile::tempdir().unwrap();
    certificates().write_to(dir.path()).unwrap();
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let ca_key = rcgen::KeyPair::from_pem(&read("ca.key")).unwrap();
    let ca = rcgen::Issuer::from_ca_cert_pem(&read("ca.pem"), ca_key).unwrap();
    let name = PeerName::Node {
        cluster: OTHER,
        node: TWO,
    }
    .dns_name();
    let params = rcgen::CertificateParams::new(vec![name]).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let forged = params.signed_by(&key, &ca).unwrap();
    fs::write(dir.path().join("node-2.pem"), forged.pem()).unwrap();
    fs::write(dir.path().join("node-2.key"), key.serialize_pem()).unwrap();
    let error = TlsIdentity::load(dir.path(), Who::Node(TWO)).unwrap_err();
    assert!(matches!(error, TlsError::OtherCa { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_another_cluster_is_refused_with_a_clear_line() {
    let node = lone_node(&certificates(), Arc::new(Echo)).await;
    let other = certs::generate(OTHER, &[]).unwrap();
    let address = node.local_addr().to_string();
    let error = Channel::connect(&address, &identity(&other, Who::Client))
        .await
        .unwrap_err();
    // The client sees the node's certificate first.
    assert!(
        matches!(
            error,
            LinkError::OtherCluster {
                found: CLUSTER,
                ours: OTHER
            }
        ),
        "{error}"
    );
    assert!(
        error.to_string().contains("certificate of another cluster"),
        "{error}"
    );
    eventually("a count", || node.stats().handshakes_failed == 1).await;
}

/// The same cluster id, but made twice: only the CA's key tells them apart.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_the_same_name_but_another_ca_is_another_cluster() {
    let node = lone_node(&certificates(), Arc::new(Echo)).await;
    let twin = certs::generate(CLUSTER, &[ONE]).unwrap();
    let address = node.local_addr().to_string();
    let error = Channel::connect(&address, &identity(&twin, Who::Client))
        .await
        .unwrap_err();
    assert!(
        matches!(error, LinkError::OtherCa { by: Side::Here }),
        "{error}"
    );
    assert!(
        error.to_string().contains("certificate of another cluster"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_two_clusters_do_not_connect_and_both_say_why() {
    let addresses = [(ONE, free_address()), (TWO, free_address())];
    let other = certs::generate(OTHER, &[ONE, TWO]).unwrap();
    let (one, _, _at_one) = start(config(&certificates(), ONE, &addresses)).await;
    let (two, _, _at_two) = start(config(&other, TWO, &addresses)).await;
    for node in [&one, &two] {
        eventually("a reason", || {
            let error = node.stats().peers[0].last_error.clone().unwrap_or_default();
            error.contains("certificate of another cluster")
        })
        .await;
    }
    assert!(!one.is_connected(TWO) && !two.is_connected(ONE));
}

/// The acceptor refuses after the dialler's side of the handshake is done (TLS 1.3), so its reason
/// comes as an alert, which has to be put into words too.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_the_acceptor_is_put_into_words_at_the_dialling_side() {
    let set = certificates();
    let node = lone_node(&set, Arc::new(Echo)).await;
    // A client that trusts the right CA but shows a certificate of another one.
    let dir = tempfile::tempdir().unwrap();
    set.write_to(dir.path()).unwrap();
    let other = tempfile::tempdir().unwrap();
    certs::generate(CLUSTER, &[])
        .unwrap()
        .write_to(other.path())
        .unwrap();
    let error = raw::connect(
        &node,
        raw::Shows {
            ca: dir.path(),
            certificate: other.path(),
            who: Who::Client,
        },
        b"pontoon-client/1",
    )
    .await
    .unwrap_err();
    let quinn::ConnectionError::ConnectionClosed(close) = error else {
        panic!("{error}");
    };
    // Alert 48, unknown CA (RFC 8446 §6.2), as a QUIC error (RFC 9001 §4.8).
    assert!(
        [0x130, 0x133].contains(&u64::from(close.error_code)),
        "{close}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_certificate_never_speaks_as_a_node() {
    let set = certificates();
    let node = lone_node(&set, Arc::new(Echo)).await;
    let dir = tempfile::tempdir().unwrap();
    set.write_to(dir.path()).unwrap();
    let shows = raw::Shows {
        ca: dir.path(),
        certificate: dir.path(),
        who: Who::Client,
    };
    let error = raw::connect(&node, shows, b"pontoon/1").await.unwrap_err();
    assert!(
        error.to_string().contains("client's certificate"),
        "{error}"
    );
}

/// Node 3 listens where node 2 is expected, with a certificate that is genuine.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_at_anothers_address_is_not_taken_for_it() {
    let set = certificates();
    let addresses = [(ONE, free_address()), (TWO, free_address())];
    let (one, _, _at_one) = start(config(&set, ONE, &addresses)).await;
    let third = [(NodeId(3), addresses[1].1), addresses[0]];
    let (_three, _, _at_three) = start(config(&set, NodeId(3), &third)).await;
    eventually("a reason", || {
        let error = one.stats().peers[0].last_error.clone().unwrap_or_default();
        error.contains("the other side is node 3 of cluster") && error.contains("not node 2")
    })
    .await;
    assert!(!one.is_connected(TWO));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_no_peer_is_refused_and_told() {
    let set = certificates();
    let one = lone_node(&set, Arc::new(Echo)).await;
    let addresses = [(ONE, one.local_addr()), (TWO, free_address())];
    let (two, _, _at_two) = start(config(&set, TWO, &addresses)).await;
    eventually("a reason", || {
        let error = two.stats().peers[0].last_error.clone().unwrap_or_default();
        error.contains("not one of this node's peers")
    })
    .await;
    drop::<Transport>(one);
}
