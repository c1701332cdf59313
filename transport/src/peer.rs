//! The life of one peer: dial, be dialled, keep one connection, try again.
//!
//! One task per peer decides everything about it, one thing after the other, so that there is no race
//! to reason about within a process. Between the two processes the rule is: if both have said hello at
//! once, the connection that the lower id dialled stays. So the lower id, once it has said hello, lets
//! a connection of the other's wait until its own dial has come to something; until then nobody can
//! have accepted that dial, and it is given up for the connection that is there. The higher id drops
//! its own dial as soon as the other's arrives. A peer that was started anew always replaces its old
//! self.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use pontoon_types::NodeId;
use quinn::Connection;
use rand::RngExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::dial;
use crate::error::{CloseCode, LinkError, SendError};
use crate::frame::{Bodies, Frame, FrameKind};
use crate::handler::{Lane, NodeHandler, PeerEvent};
use crate::hello::{MAX_HELLO_BYTES, MAX_HELLO_FRAME_BYTES, NODE_VERSION, NodeHello};
use crate::link::{Established, Link, LinkContext, open_control, spawn_lanes, task_failed};
use crate::shared::Shared;
use crate::stats::{PeerCounters, PeerStats};
use crate::stream::FrameReader;
use crate::tls::{NODE_ALPN, Wanted};

/// How long the higher id leaves it to the lower one to dial, at the start and after each break.
const GRACE: Duration = Duration::from_millis(100);

/// A session of this length shows that the peer is well, and the backoff begins anew.
const HEALTHY_AFTER: Duration = Duration::from_secs(2);

/// A connection of the peer's, accepted and with its hello read.
pub(crate) struct Candidate {
    pub(crate) connection: Connection,
    pub(crate) control_in: FrameReader,
    pub(crate) hello: NodeHello,
}

/// What others know of a peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    address: String,
    link: RwLock<Option<Arc<Link>>>,
    counters: Arc<PeerCounters>,
    last_error: Mutex<Option<String>>,
    candidates: mpsc::Sender<Candidate>,
}

impl Peer {
    pub(crate) fn new(id: NodeId, address: String) -> (Self, mpsc::Receiver<Candidate>) {
        let (candidates, receiver) = mpsc::channel(4);
        let peer = Self {
            id,
            address,
            link: RwLock::default(),
            counters: Arc::default(),
            last_error: Mutex::default(),
            candidates,
        };
        (peer, receiver)
    }

    pub(crate) fn send(&self, lane: Lane, frame: Frame) -> Result<(), SendError> {
        let link = self.link.read();
        let link = link.as_ref().ok_or(SendError::NotConnected)?;
        link.queue(lane).ok_or(SendError::NoSuchLane)?.push(frame)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.link.read().is_some()
    }

    /// Hands a connection to the peer's task, which keeps or refuses it.
    pub(crate) fn offer(&self, candidate: Candidate) {
        if let Err(
            mpsc::error::TrySendError::Full(candidate)
            | mpsc::error::TrySendError::Closed(candidate),
        ) = self.candidates.try_send(candidate)
        {
            close(&candidate.connection, CloseCode::TooMany, "try again");
        }
    }

    pub(crate) fn stats(&self) -> PeerStats {
        let counters = &self.counters;
        let link = self.link.read().clone();
        let path = link.as_ref().map(|link| link.connection.stats().path);
        let queues = || link.iter().flat_map(|link| link.queues());
        PeerStats {
            node: self.id,
            address: self.address.clone(),
            connected: link.is_some(),
            connections: counters.connections.read(),
            frames_sent: counters.frames_sent.read(),
            bytes_sent: counters.bytes_sent.read(),
            writes: counters.writes.read(),
            frames_received: counters.frames_received.read(),
            bytes_received: counters.bytes_received.read(),
            frames_dropped: counters.frames_dropped.read()
                + queues().map(|queue| queue.dropped()).sum::<u64>(),
            frames_refused: counters.frames_refused.read()
                + queues().map(|queue| queue.refused()).sum::<u64>(),
            queued_bytes: queues().map(|queue| queue.bytes()).sum(),
            rtt: path.map(|path| path.rtt),
            lost_packets: path.map_or(0, |path| path.lost_packets),
            mtu: path.map_or(0, |path| path.current_mtu),
            last_error: self.last_error.lock().clone(),
        }
    }
}

pub(crate) fn close(connection: &Connection, code: CloseCode, reason: &str) {
    connection.close(code.code(), reason.as_bytes());
}

/// The task that owns a peer's connections.
pub(crate) struct PeerTask {
    shared: Arc<Shared>,
    handler: Arc<dyn NodeHandler>,
    peer: Arc<Peer>,
    candidates: mpsc::Receiver<Candidate>,
    stop: watch::Receiver<bool>,
}

/// How a session ended, and the connection that takes its place, if one does.
struct Ended {
    reason: LinkError,
    next: Option<Candidate>,
}

impl PeerTask {
    pub(crate) fn new(
        shared: Arc<Shared>,
        handler: Arc<dyn NodeHandler>,
        peer: Arc<Peer>,
        candidates: mpsc::Receiver<Candidate>,
    ) -> Self {
        let stop = shared.stop.subscribe();
        Self {
            shared,
            handler,
            peer,
            candidates,
            stop,
        }
    }

    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(
            self.shared.limits().backoff_min,
            self.shared.limits().backoff_max,
        );
        let mut wait = self.grace();
        let mut next = None;
        while !*self.stop.borrow() {
            let mut stop = self.stop.clone();
            let obtained = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                obtained = self.obtain(next.take(), wait) => obtained,
            };
            match obtained {
                Ok(established) => {
                    let began = Instant::now();
                    let ended = self.session(established).await;
                    self.note(&ended.reason);
                    if began.elapsed() >= HEALTHY_AFTER {
                        backoff.reset();
                    }
                    next = ended.next;
                    wait = self.grace() + backoff.next();
                }
                Err(error) => {
                    self.note(&error);
                    wait = backoff.next();
                }
            }
        }
    }

    fn grace(&self) -> Duration {
        if self.shared.node < self.peer.id {
            Duration::ZERO
        } else {
            GRACE
        }
    }

    /// Logs a failure once and keeps it for the stats; repetitions of it are not worth a line each.
    fn note(&self, error: &LinkError) {
        let text = error.to_string();
        let mut last = self.peer.last_error.lock();
        let peer = self.peer.id;
        if *self.stop.borrow() {
            return;
        }
        if last.as_ref() == Some(&text) {
            debug!(%peer, address = self.peer.address, "{text}");
        } else {
            warn!(%peer, address = self.peer.address, "no connection: {text}");
            *last = Some(text);
        }
    }

    /// A connection, dialled by either side. Waits before it dials, but not for being dialled.
    async fn obtain(
        &mut self,
        next: Option<Candidate>,
        wait: Duration,
    ) -> Result<Established, LinkError> {
        if let Some(candidate) = next {
            return self.accept(candidate).await;
        }
        tokio::select! {
            Some(candidate) = self.candidates.recv() => return self.accept(candidate).await,
            () = sleep(wait) => {}
        }
        let mut parked: Option<Candidate> = None;
        let said_hello = AtomicBool::new(false);
        let arrived = {
            let (shared, peer) = (self.shared.clone(), self.peer.clone());
            let dialled = dial_peer(&shared, &peer, self.handler.as_ref(), &said_hello);
            tokio::pin!(dialled);
            loop {
                tokio::select! {
                    result = &mut dialled => match (result, parked.take()) {
                        (Ok(established), parked) => {
                            if let Some(parked) = parked {
                                close(&parked.connection, CloseCode::Duplicate, "dialled already");
                            }
                            return Ok(established);
                        }
                        (Err(_), Some(parked)) => break parked,
                        (Err(error), None) => return Err(error),
                    },
                    Some(candidate) = self.candidates.recv() => {
                        if self.peer.id < self.shared.node || !said_hello.load(Ordering::Relaxed) {
                            break candidate;
                        }
                        if let Some(older) = parked.replace(candidate) {
                            close(&older.connection, CloseCode::Duplicate, "dialled again");
                        }
                    }
                }
            }
        };
        self.accept(arrived).await
    }

    /// Answers the hello of a connection that the peer dialled.
    async fn accept(&self, candidate: Candidate) -> Result<Established, LinkError> {
        let hello = own_hello(&self.shared, &self.peer, self.handler.as_ref());
        let limit = self.shared.limits().handshake_timeout;
        let control_out = timeout(limit, open_control(&candidate.connection, &hello))
            .await
            .map_err(|_| LinkError::TimedOut)??;
        Ok(Established {
            connection: candidate.connection,
            hello: candidate.hello,
            dialled_here: false,
            control_out,
            control_in: candidate.control_in,
        })
    }

    async fn session(&mut self, established: Established) -> Ended {
        let Established {
            connection,
            hello,
            dialled_here,
            control_out,
            control_in,
        } = established;
        let peer = self.peer.id;
        let limits = self.shared.limits();
        let link = Arc::new(Link::new(
            connection.clone(),
            self.shared.append_lanes,
            limits,
        ));
        self.peer.counters.connections.add(1);
        *self.peer.last_error.lock() = None;
        *self.peer.link.write() = Some(link.clone());
        info!(%peer, remote = %connection.remote_address(), dialled_here, "connected");
        self.handler.handle_peer(
            peer,
            PeerEvent::Connected {
                incarnation: hello.incarnation,
                hello: hello.host.clone(),
            },
        );

        let context = LinkContext {
            peer,
            handler: self.handler.clone(),
            counters: self.peer.counters.clone(),
            max_frame_bytes: limits.max_frame_bytes,
        };
        let mut tasks = spawn_lanes(&context, &link, control_out, control_in, hello.append_lanes);
        let mut stop = self.stop.clone();
        let ended = loop {
            tokio::select! {
                Some(ended) = tasks.join_next() => {
                    break Ended { reason: ended.unwrap_or_else(task_failed), next: None };
                }
                Some(candidate) = self.candidates.recv() => {
                    if self.keeps(&hello, dialled_here, &candidate) {
                        debug!(%peer, "refused a second connection");
                        close(&candidate.connection, CloseCode::Duplicate, "connected already");
                    } else {
                        break Ended {
                            reason: LinkError::ClosedByPeer {
                                code: CloseCode::Duplicate,
                                reason: "the peer connected anew".to_owned(),
                            },
                            next: Some(candidate),
                        };
                    }
                }
                _ = stop.wait_for(|stop| *stop) => {
                    break Ended { reason: LinkError::ClosedHere, next: None };
                }
            }
        };
        *self.peer.link.write() = None;
        link.close_queues();
        let ended = Ended {
            reason: end_connection(&connection, ended.reason),
            next: ended.next,
        };
        // The lanes' readers end by themselves, each at its next wait: what one hands on just now may come after the
        // event below.
        tasks.shutdown().await;
        for queue in link.queues() {
            self.peer.counters.frames_dropped.add(queue.dropped());
            self.peer.counters.frames_refused.add(queue.refused());
        }
        self.handler.handle_peer(
            peer,
            PeerEvent::Disconnected {
                reason: ended.reason.clone(),
            },
        );
        ended
    }

    /// Whether the present connection stays although the peer dialled another.
    fn keeps(&self, present: &NodeHello, dialled_here: bool, candidate: &Candidate) -> bool {
        // A peer dials only while it has no connection, so its dial means that it lost the present
        // one; except that ours may have crossed with it, and then the lower id's stays.
        dialled_here
            && self.shared.node < self.peer.id
            && present.incarnation == candidate.hello.incarnation
    }
}

/// Closes a connection for `reason`, unless it is over already, and tells why it ended.
fn end_connection(connection: &Connection, reason: LinkError) -> LinkError {
    if let Some(earlier) = connection.close_reason() {
        return LinkError::from_connection(earlier, NODE_ALPN);
    }
    let (code, text) = match &reason {
        LinkError::Protocol(error) => (CloseCode::Protocol, error.to_string()),
        LinkError::ClosedByPeer { code, .. } => (*code, "connected anew".to_owned()),
        _ => (CloseCode::Shutdown, "the node stops".to_owned()),
    };
    close(connection, code, &text);
    reason
}

fn own_hello(shared: &Shared, peer: &Peer, handler: &dyn NodeHandler) -> NodeHello {
    let host = handler.hello(peer.id);
    assert!(
        host.len() <= MAX_HELLO_BYTES,
        "a hello of {} bytes is over {MAX_HELLO_BYTES}",
        host.len()
    );
    NodeHello {
        version: NODE_VERSION,
        features: 0,
        cluster: shared.cluster,
        node: shared.node,
        incarnation: shared.incarnation,
        append_lanes: shared.append_lanes,
        host,
    }
}

async fn dial_peer(
    shared: &Shared,
    peer: &Peer,
    handler: &dyn NodeHandler,
    said_hello: &AtomicBool,
) -> Result<Established, LinkError> {
    let mut last = LinkError::TimedOut;
    for address in dial::resolve(&peer.address).await? {
        let attempt = dial_address(shared, peer, handler, address, said_hello);
        match timeout(shared.limits().handshake_timeout, attempt).await {
            Ok(Ok(established)) => return Ok(established),
            Ok(Err(error)) => last = error,
            Err(_) => last = LinkError::TimedOut,
        }
    }
    Err(last)
}

async fn dial_address(
    shared: &Shared,
    peer: &Peer,
    handler: &dyn NodeHandler,
    address: std::net::SocketAddr,
    said_hello: &AtomicBool,
) -> Result<Established, LinkError> {
    let endpoint = shared.endpoint().ok_or(LinkError::ClosedHere)?;
    let connection = dial::connect(
        &endpoint,
        address,
        &shared.identity,
        Wanted::Node(peer.id),
        NODE_ALPN,
        shared.dial_config.clone(),
    )
    .await?;
    said_hello.store(true, Ordering::Relaxed);
    let control_out = open_control(&connection, &own_hello(shared, peer, handler)).await?;
    let stream = connection
        .accept_uni()
        .await
        .map_err(|error| LinkError::from_connection(error, NODE_ALPN))?;
    let read = read_hello(shared, peer.id, handler, stream).await;
    match read {
        Ok((hello, control_in)) => Ok(Established {
            connection,
            hello,
            dialled_here: true,
            control_out,
            control_in,
        }),
        Err((code, error)) => {
            close(&connection, code, &error.to_string());
            Err(error)
        }
    }
}

/// Reads a peer's hello and compares it with its certificate and with the host's wishes.
pub(crate) async fn read_hello(
    shared: &Shared,
    peer: NodeId,
    handler: &dyn NodeHandler,
    stream: quinn::RecvStream,
) -> Result<(NodeHello, FrameReader), (CloseCode, LinkError)> {
    let mut reader = FrameReader::new(
        stream,
        MAX_HELLO_FRAME_BYTES,
        shared.limits.max_frame_bytes,
        Bodies::Owned,
        NODE_ALPN,
    );
    let body = reader
        .first(FrameKind::Hello)
        .await
        .map_err(|error| (CloseCode::Protocol, error))?;
    let refused = |code, reason: String| (code, LinkError::Hello { reason });
    let hello = NodeHello::decode(&body)
        .map_err(|error| refused(CloseCode::Protocol, error.to_string()))?;
    if hello.version != NODE_VERSION {
        let reason = format!("it speaks version {}, not {NODE_VERSION}", hello.version);
        return Err(refused(CloseCode::Protocol, reason));
    }
    if hello.cluster != shared.cluster || hello.node != peer {
        let reason = format!(
            "it claims to be node {} of cluster {}, its certificate says node {peer} of cluster {}",
            hello.node, hello.cluster, shared.cluster
        );
        return Err(refused(CloseCode::Identity, reason));
    }
    handler
        .check_hello(peer, hello.incarnation, &hello.host)
        .map_err(|reason| refused(CloseCode::Refused, reason))?;
    Ok((hello, reader))
}

/// Waits that double from `min` to `max`, each drawn from its upper half, so that nodes which lost
/// each other at the same moment do not come back at the same moment.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    present: Duration,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            present: min,
        }
    }

    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.present.min(self.max);
        self.present = (self.present * 2).min(self.max);
        wait.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    pub(crate) fn reset(&mut self) {
        self.present = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_up_to_its_bound_and_begins_anew() {
        let millis = Duration::from_millis;
        let mut backoff = Backoff::new(millis(20), millis(1_000));
        for expected in [20, 40, 80, 160, 320, 640, 1_000, 1_000] {
            let wait = backoff.next();
            assert!(
                wait >= millis(expected / 2) && wait <= millis(expected),
                "{wait:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next() <= millis(20));
    }
}
