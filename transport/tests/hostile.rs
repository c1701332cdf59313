//! Bytes that no honest peer sends.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod common;

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use pontoon_transport::{Channel, FRAME_HEADER_BYTES, Transport, Who};
use pontoon_types::codec::put_varint;
use quinn::ConnectionError;
use rand::Rng;

/// A frame as it lies on the wire.
fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&[kind, 0, 0, 0]);
    bytes.extend_from_slice(body);
    bytes
}

fn client_hello() -> Vec<u8> {
    let mut body = vec![1, 0];
    body.extend_from_slice(&CLUSTER.0.to_le_bytes());
    frame(1, &body)
}

fn node_hello(node: u64) -> Vec<u8> {
    let mut body = vec![1, 0];
    body.extend_from_slice(&CLUSTER.0.to_le_bytes());
    put_varint(&mut body, node);
    body.extend_from_slice(&7u64.to_le_bytes());
    body.extend_from_slice(&[1, 0]);
    frame(1, &body)
}

struct Setup {
    node: Transport,
    set: pontoon_transport::certs::CertificateSet,
    dir: tempfile::TempDir,
}

impl Setup {
    async fn new() -> Self {
        let set = certificates();
        let dir = tempfile::tempdir().unwrap();
        set.write_to(dir.path()).unwrap();
        let node = lone_node_with(&set, Arc::new(Echo), |config| {
            config.peers = vec![(TWO, "127.0.0.1:9".to_owned())];
            config.limits.max_request_bytes = 100_000;
        })
        .await;
        Self { node, set, dir }
    }

    async fn connect(&self, who: Who, alpn: &[u8]) -> Result<raw::Raw, ConnectionError> {
        let shows = raw::Shows {
            ca: self.dir.path(),
            certificate: self.dir.path(),
            who,
        };
        raw::connect(&self.node, shows, alpn).await
    }

    /// Whatever was done to the node, it serves honest clients.
    async fn assert_well(&self) {
        let address = self.node.local_addr().to_string();
        let client = identity(&self.set, Who::Client);
        let channel = Channel::connect(&address, &client).await.unwrap();
        let answer = channel
            .request(bytes::Bytes::from_static(b"well?"))
            .await
            .unwrap();
        assert_eq!(answer, b"well?"[..]);
    }

    /// Sends `bytes` on a stream of the clients' protocol and returns how the node ends it.
    async fn end_of_client(&self, bytes: &[u8]) -> String {
        let raw = self
            .connect(Who::Client, b"pontoon-client/1")
            .await
            .unwrap();
        let (connection, mut send) = (raw.connection.clone(), raw.send);
        send.write_all(bytes).await.unwrap();
        let end = tokio::time::timeout(PATIENCE, connection.closed()).await;
        end.expect("the node kept the connection").to_string()
    }

    async fn end_of_node(&self, streams: &[Vec<u8>]) -> String {
        let raw = self.connect(Who::Node(TWO), b"pontoon/1").await.unwrap();
        let connection = raw.connection.clone();
        let mut open = vec![raw.send];
        for (index, bytes) in streams.iter().enumerate() {
            if index > 0 {
                // The node may already have had enough of the streams before.
                let Ok(stream) = connection.open_uni().await else {
                    break;
                };
                open.push(stream);
            }
            let _ = open[index].write_all(bytes).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let end = tokio::time::timeout(PATIENCE, connection.closed()).await;
        end.expect("the node kept the connection").to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_datagrams_disturb_nobody() {
    let setup = Setup::new().await;
    let address = setup.node.local_addr().to_string();
    let client = identity(&setup.set, Who::Client);
    let channel = Channel::connect(&address, &client).await.unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut random = rand::rng();
    for round in 0..2_000 {
        let mut datagram = vec![0; [0, 1, 20, 1_200, 1_452, 9_000][round % 6]];
        random.fill_bytes(&mut datagram);
        if round % 2 == 0 && datagram.len() > 5 {
            // The look of a first packet of QUIC version 1.
            datagram[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
        }
        socket.send_to(&datagram, setup.node.local_addr()).unwrap();
        if round % 100 == 0 {
            channel
                .request(bytes::Bytes::from_static(b"still?"))
                .await
                .unwrap();
        }
    }
    setup.assert_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_protocol_version_is_refused_by_name() {
    let setup = Setup::new().await;
    let error = setup
        .connect(Who::Client, b"pontoon-client/9")
        .await
        .unwrap_err();
    let ConnectionError::ConnectionClosed(close) = error else {
        panic!("{error}")
    };
    // Alert 120, no_application_protocol (RFC 7301 §3.2).
    assert_eq!(u64::from(close.error_code), 0x100 + 120);
    setup.assert_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_clients_protocol_ends_the_connection_with_the_reason() {
    let setup = Setup::new().await;
    let after_hello = |bytes: Vec<u8>| [client_hello(), bytes].concat();
    let huge = [&u32::MAX.to_le_bytes()[..], &[4, 0, 0, 0]].concat();
    assert_eq!(huge.len(), FRAME_HEADER_BYTES);
    let cases = [
        (
            "a frame over the bound",
            after_hello(huge.clone()),
            "over the bound of 100010",
        ),
        ("no hello", frame(4, &[1, 2, 3]), "first frame"),
        (
            "a huge hello",
            [&300u32.to_le_bytes()[..], &[1, 0, 0, 0]].concat(),
            "over the bound of 256",
        ),
        (
            "a hello that is none",
            frame(1, &[0xff; 30]),
            "hello was refused",
        ),
        (
            "an unknown kind",
            after_hello(frame(99, b"")),
            "unknown kind 99",
        ),
        (
            "a frame of nodes",
            after_hello(frame(3, b"x")),
            "no request",
        ),
        (
            "a request without a number",
            after_hello(frame(4, b"")),
            "without a number",
        ),
        (
            "a number that never ends",
            after_hello(frame(4, &[0xff; 20])),
            "without a number",
        ),
    ];
    for (case, bytes, reason) in cases {
        let end = setup.end_of_client(&bytes).await;
        assert!(end.contains(reason), "{case}: {end}");
    }
    setup.assert_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_nodes_protocol_ends_the_connection_with_the_reason() {
    let setup = Setup::new().await;
    let huge = [&u32::MAX.to_le_bytes()[..], &[3, 0, 0, 0]].concat();
    let cases = [
        (
            "another node's id",
            vec![node_hello(3)],
            "claims to be node 3",
        ),
        ("no hello", vec![frame(3, b"x")], "first frame"),
        (
            "a frame over the bound",
            vec![[node_hello(2), huge].concat()],
            "over the bound",
        ),
        (
            "a client's frame",
            vec![[node_hello(2), frame(4, b"x")].concat()],
            "no message",
        ),
        (
            "a lane that was not announced",
            vec![node_hello(2), frame(2, &[2])],
            "not announced",
        ),
        (
            "no such lane",
            vec![node_hello(2), frame(2, &[0])],
            "names no lane",
        ),
        (
            "the snapshot lane twice",
            vec![node_hello(2), frame(2, &[255]), frame(2, &[255])],
            "open already",
        ),
        (
            "a lane twice",
            vec![node_hello(2), frame(2, &[1]), frame(2, &[1])],
            "open already",
        ),
    ];
    for (case, streams, reason) in cases {
        let end = setup.end_of_node(&streams).await;
        assert!(end.contains(reason), "{case}: {end}");
    }
    setup.assert_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_says_hello_is_not_waited_for() {
    let set = certificates();
    let dir = tempfile::tempdir().unwrap();
    set.write_to(dir.path()).unwrap();
    let node = lone_node_with(&set, Arc::new(Echo), |config| {
        config.limits.handshake_timeout = Duration::from_millis(500);
    })
    .await;
    let setup = Setup { node, set, dir };
    let end = setup.end_of_client(&client_hello()[..5]).await;
    assert!(end.contains("no answer in time"), "{end}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_cut_off() {
    let set = certificates();
    let dir = tempfile::tempdir().unwrap();
    set.write_to(dir.path()).unwrap();
    let hold = Arc::new(Hold::default());
    let node = lone_node_with(&set, hold.clone(), |config| {
        config.limits.max_unread_bytes = 4 << 20;
    })
    .await;
    let setup = Setup { node, set, dir };
    let raw = setup
        .connect(Who::Client, b"pontoon-client/1")
        .await
        .unwrap();
    let (connection, mut send) = (raw.connection.clone(), raw.send);
    let mut bytes = client_hello();
    for _ in 0..40 {
        bytes.extend(frame(4, &[1]));
    }
    send.write_all(&bytes).await.unwrap();
    hold.wait_for(40).await;
    for (responder, _) in std::mem::take(&mut *hold.0.lock()) {
        responder.respond_bytes(bytes::Bytes::from(vec![0; 1 << 20]));
    }
    eventually("a cut", || setup.node.stats().clients.cut_off == 1).await;
    // How it ends for the client is left open: the one packet that says why may be lost in the flood
    // that it did not read.
    let end = tokio::time::timeout(PATIENCE, connection.closed()).await;
    assert!(end.is_ok(), "the client is still connected");
    eventually("an end", || setup.node.stats().clients.connections == 0).await;
}
