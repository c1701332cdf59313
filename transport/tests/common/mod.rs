//! A cluster on loopback, and handlers that keep what they are given.
#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

pub(crate) mod raw;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use pontoon_transport::certs::{self, CertificateSet};
use pontoon_transport::{
    ClientHandler, Lane, LinkError, NodeHandler, PeerEvent, Responder, TlsIdentity, Transport,
    TransportConfig, Who,
};
use pontoon_types::{ClusterId, NodeId};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub(crate) const CLUSTER: ClusterId = ClusterId(0x00c0_ffee_0000_0001);
pub(crate) const ONE: NodeId = NodeId(1);
pub(crate) const TWO: NodeId = NodeId(2);

/// Longer than anything that is waited for; a test that reaches it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn certificates() -> CertificateSet {
    certs::generate(CLUSTER, &[ONE, TWO, NodeId(3)]).unwrap()
}

pub(crate) fn identity(set: &CertificateSet, who: Who) -> TlsIdentity {
    set.identity(who).unwrap().unwrap()
}

/// A port that nobody has at the moment.
pub(crate) fn free_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

pub(crate) fn config(
    set: &CertificateSet,
    node: NodeId,
    addresses: &[(NodeId, SocketAddr)],
) -> TransportConfig {
    let listen = addresses.iter().find(|(id, _)| *id == node).unwrap().1;
    let mut config = TransportConfig::new(listen, identity(set, Who::Node(node)));
    config.peers = addresses
        .iter()
        .map(|(id, address)| (*id, address.to_string()))
        .collect();
    config
}

#[derive(Debug)]
pub(crate) enum Seen {
    Frame(NodeId, Lane, Bytes),
    Connected(NodeId, u64, Bytes),
    Disconnected(NodeId, LinkError),
}

/// A handler of nodes that hands everything to the test.
pub(crate) struct Recorder {
    seen: mpsc::UnboundedSender<Seen>,
    pub(crate) hello: Mutex<Bytes>,
    pub(crate) refusal: Mutex<Option<String>>,
}

pub(crate) struct Recorded(mpsc::UnboundedReceiver<Seen>);

impl Recorder {
    pub(crate) fn new() -> (Arc<Self>, Recorded) {
        let (seen, receiver) = mpsc::unbounded_channel();
        let recorder = Self {
            seen,
            hello: Mutex::default(),
            refusal: Mutex::default(),
        };
        (Arc::new(recorder), Recorded(receiver))
    }
}

impl NodeHandler for Recorder {
    fn handle_frame(&self, from: NodeId, lane: Lane, frame: Bytes) {
        let _ = self.seen.send(Seen::Frame(from, lane, frame));
    }

    fn handle_peer(&self, peer: NodeId, event: PeerEvent) {
        let _ = self.seen.send(match event {
            PeerEvent::Connected { incarnation, hello } => {
                Seen::Connected(peer, incarnation, hello)
            }
            PeerEvent::Disconnected { reason } => Seen::Disconnected(peer, reason),
        });
    }

    fn hello(&self, _to: NodeId) -> Bytes {
        self.hello.lock().clone()
    }

    fn check_hello(&self, _from: NodeId, _incarnation: u64, _hello: &Bytes) -> Result<(), String> {
        self.refusal.lock().clone().map_or(Ok(()), Err)
    }
}

impl Recorded {
    pub(crate) async fn next(&mut self) -> Seen {
        timeout(PATIENCE, self.0.recv())
            .await
            .expect("nothing came in time")
            .unwrap()
    }

    /// The next frame, whatever comes before it.
    pub(crate) async fn frame(&mut self) -> (NodeId, Lane, Bytes) {
        loop {
            if let Seen::Frame(from, lane, frame) = self.next().await {
                return (from, lane, frame);
            }
        }
    }

    pub(crate) async fn connected(&mut self) -> (NodeId, u64, Bytes) {
        loop {
            if let Seen::Connected(peer, incarnation, hello) = self.next().await {
                return (peer, incarnation, hello);
            }
        }
    }

    pub(crate) async fn disconnected(&mut self) -> LinkError {
        loop {
            if let Seen::Disconnected(_, reason) = self.next().await {
                return reason;
            }
        }
    }

    /// What has come already.
    pub(crate) fn drain(&mut self) -> Vec<Seen> {
        std::iter::from_fn(|| self.0.try_recv().ok()).collect()
    }
}

/// Answers each request with itself.
pub(crate) struct Echo;

impl ClientHandler for Echo {
    fn handle_request(&self, responder: Responder, body: Bytes) {
        responder.respond(&body);
    }
}

/// Keeps requests until the test deals with them.
#[derive(Default)]
pub(crate) struct Hold(pub(crate) Mutex<Vec<(Responder, Bytes)>>);

impl ClientHandler for Hold {
    fn handle_request(&self, responder: Responder, body: Bytes) {
        self.0.lock().push((responder, body));
    }
}

impl Hold {
    pub(crate) async fn wait_for(&self, count: usize) {
        eventually("requests", || self.0.lock().len() >= count).await;
    }
}

/// Waits until `holds` does.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}: not in time");
}

pub(crate) async fn start(config: TransportConfig) -> (Transport, Arc<Recorder>, Recorded) {
    let (recorder, recorded) = Recorder::new();
    let transport = Transport::bind(config, recorder.clone(), Arc::new(Echo))
        .await
        .unwrap();
    (transport, recorder, recorded)
}

/// A node alone, for tests of clients.
pub(crate) async fn lone_node(set: &CertificateSet, clients: Arc<dyn ClientHandler>) -> Transport {
    lone_node_with(set, clients, |_| {}).await
}

pub(crate) async fn lone_node_with(
    set: &CertificateSet,
    clients: Arc<dyn ClientHandler>,
    adjust: impl FnOnce(&mut TransportConfig),
) -> Transport {
    let any = "127.0.0.1:0".parse().unwrap();
    let mut config = TransportConfig::new(any, identity(set, Who::Node(ONE)));
    adjust(&mut config);
    Transport::bind(config, Recorder::new().0, clients)
        .await
        .unwrap()
}
