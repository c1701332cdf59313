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

/// More than once at a time, so that what the first leaves behind would be in the way of the last.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ends_its_requests_gets_its_answers_and_leaves_nothing_behind() {
    let set = certificates();
    let dir = tempfile::tempdir().unwrap();
    set.write_to(dir.path()).unwrap();
    let hold = Arc::new(Hold::default());
    let node = lone_node(&set, hold.clone()).await;
    let setup = Setup { node, set, dir };
    for _ in 0..3 {
        let mut raw = setup
            .connect(Who::Client, b"pontoon-client/1")
            .await
            .unwrap();
        let requests = [client_hello(), frame(4, &[7, b'a']), frame(4, &[8, b'b'])];
        raw.send.write_all(&requests.concat()).await.unwrap();
        raw.send.finish().unwrap();
        hold.wait_for(2).await;
        // The node has seen the end of the requests before it gives the first answer.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let held = std::mem::take(&mut *hold.0.lock());
        for (responder, body) in held {
            responder.respond(&body);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut recv = raw.recv.take().unwrap();
        let all = tokio::time::timeout(PATIENCE, recv.read_to_end(1_000)).await;
        let all = all.expect("the node keeps the stream open").unwrap();
        let answers = [frame(5, &[7, b'a']), frame(5, &[8, b'b'])].concat();
        assert!(all.ends_with(&answers), "{all:?}");
        eventually("an end", || setup.node.stats().clients.connections == 0).await;
    }
}

/// A client that has asked for forty-eight answers, of which the node lets 8 MiB wait.
struct Backlog {
    setup: Setup,
    hold: Arc<Hold>,
    raw: raw::Raw,
}

impl Backlog {
    async fn new(stall_timeout: Duration) -> Self {
        let set = certificates();
        let dir = tempfile::tempdir().unwrap();
        set.write_to(dir.path()).unwrap();
        let hold = Arc::new(Hold::default());
        let node = lone_node_with(&set, hold.clone(), |config| {
            config.limits.max_unread_bytes = 8 << 20;
            config.limits.stall_timeout = stall_timeout;
        })
        .await;
        let setup = Setup { node, set, dir };
        let mut raw = setup
            .connect(Who::Client, b"pontoon-client/1")
            .await
            .unwrap();
        let mut bytes = client_hello();
        for _ in 0..48 {
            bytes.extend(frame(4, &[1]));
        }
        raw.send.write_all(&bytes).await.unwrap();
        hold.wait_for(48).await;
        Self { setup, hold, raw }
    }

    fn answer(&self, count: usize, bytes: usize) {
        for (responder, _) in self.hold.0.lock().drain(..count) {
            responder.respond_bytes(bytes::Bytes::from(vec![0; bytes]));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_cut_off() {
    let backlog = Backlog::new(Duration::from_millis(500)).await;
    backlog.answer(48, 1 << 20);
    let node = &backlog.setup.node;
    eventually("a cut", || node.stats().clients.cut_off == 1).await;
    // How it ends for the client is left open: the one packet that says why may be lost in the flood
    // that it did not read.
    let end = tokio::time::timeout(PATIENCE, backlog.raw.connection.closed()).await;
    assert!(end.is_ok(), "the client is still connected");
    eventually("an end", || node.stats().clients.connections == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_gets_what_fits_and_stays() {
    // Far less than reading all of it takes, and far more than lies between two of its reads.
    let mut backlog = Backlog::new(Duration::from_secs(1)).await;
    backlog.answer(48, 1 << 20);
    let mut recv = backlog.raw.recv.take().unwrap();
    let mut kinds = [0; 256];
    let (mut header, mut body) = ([0; FRAME_HEADER_BYTES], vec![0; 64 << 10]);
    while kinds[5] + kinds[6] < 48 {
        recv.read_exact(&mut header).await.unwrap();
        kinds[usize::from(header[4])] += 1;
        let mut left = u32::from_le_bytes(header[..4].try_into().unwrap()) as usize;
        while left > 0 {
            let piece = left.min(body.len());
            recv.read_exact(&mut body[..piece]).await.unwrap();
            left -= piece;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // As much as may wait, and what was being written meanwhile; the rest was given up.
    let (answered, given_up) = (kinds[5], kinds[6]);
    assert!((7..=20).contains(&answered), "{answered}");
    assert_eq!(answered + given_up, 48);
    assert_eq!(backlog.setup.node.stats().clients.cut_off, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn short_answers_fit_however_much_waits() {
    let mut backlog = Backlog::new(PATIENCE).await;
    backlog.answer(20, 1 << 20);
    // Whatever the writer has taken meanwhile, after these not even 2 KiB fit any more.
    for shift in (11..20).rev() {
        backlog.answer(2, 1 << shift);
    }
    backlog.answer(10, 1_000);
    let mut recv = backlog.raw.recv.take().unwrap();
    let mut header = [0; FRAME_HEADER_BYTES];
    let (mut read, mut short) = (0, 0);
    // The hello comes first.
    while read < 49 {
        recv.read_exact(&mut header).await.unwrap();
        let len = u32::from_le_bytes(header[..4].try_into().unwrap()) as usize;
        recv.read_exact(&mut vec![0; len]).await.unwrap();
        read += 1;
        short += usize::from(header[4] == 5 && len < 1_100);
    }
    assert_eq!(short, 10);
}
