//! The clients' side of a node: requests in, answers out, many at a time.
//!
//! A client opens one long-lived stream and sends numbered requests on it. The reader decodes all
//! requests that a wake-up brought and hands them to the host in one go; the writer takes all answers
//! that have been gathered and writes them with one call. The host answers through a [`Responder`], from
//! any thread, by encoding into the client's outgoing buffer.
//!
//! Everything that a client can make a node hold is bounded: requests under way by count and bytes
//! (reading pauses), answers that wait for it by bytes (long ones are given up, and a client that reads
//! nothing at all is cut off).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use pontoon_types::codec::Reader;
use quinn::{Connection, SendStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

use crate::config::Limits;
use crate::error::{CloseCode, LinkError};
use crate::frame::{Bodies, FrameError, FrameKind, MAX_VARINT_BYTES};
use crate::gate::Place;
use crate::gather::Gather;
use crate::handler::ClientHandler;
use crate::hello::{CLIENT_VERSION, ClientHello, ServerHello};
use crate::link::task_failed;
use crate::name::PeerName;
use crate::outbox::Outbox;
use crate::peer::close;
use crate::shared::Shared;
use crate::stats::ClientCounters;
use crate::stream::{FrameReader, write_error};
use crate::tls::CLIENT_ALPN;

/// Answers up to this length are given however much waits for the client: those to writes, which cannot be asked
/// again, but for a long value that kept a swap from being made. The requests under way bound how many there can be.
const SHORT_ANSWER_BYTES: usize = 1024;

/// The longest first frame of a client.
const MAX_CLIENT_HELLO_BYTES: usize = 256;

/// A client's connection, and the one stream on it.
#[derive(Debug)]
pub struct ClientConnection {
    connection: Connection,
    name: PeerName,
    limits: Limits,
    counters: Arc<ClientCounters>,
    outbox: Outbox,
    requests: AtomicUsize,
    request_bytes: AtomicUsize,
    /// Tells the reader that there may be room again.
    resume: Notify,
}

impl ClientConnection {
    /// Who the client is, by its certificate: a client, or a node that acts as one.
    #[must_use]
    pub fn name(&self) -> PeerName {
        self.name
    }

    /// Where it is.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    fn is_over_bounds(&self) -> bool {
        self.requests.load(Ordering::SeqCst) >= self.limits.max_in_flight
            || self.request_bytes.load(Ordering::SeqCst) >= self.limits.max_in_flight_bytes
            || self.outbox.len() > self.limits.max_unread_bytes / 8
    }

    fn take_place(&self, bytes: usize) {
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.request_bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    fn leave_place(&self, bytes: usize) {
        self.requests.fetch_sub(1, Ordering::SeqCst);
        self.request_bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.resume.notify_one();
    }

    /// Waits until the client has room for more requests.
    async fn room(&self) {
        while self.is_over_bounds() {
            self.resume.notified().await;
        }
    }

    /// Waits until all requests are answered.
    async fn idle(&self) {
        while self.requests.load(Ordering::SeqCst) > 0 {
            self.resume.notified().await;
        }
    }

    fn cut_off(&self) {
        if self.connection.close_reason().is_none() {
            self.counters.cut_off.add(1);
            let remote = self.connection.remote_address();
            debug!(%remote, "cut off a client that does not read its answers");
            close(
                &self.connection,
                CloseCode::SlowReader,
                "answers are not being read",
            );
        }
    }
}

/// The way to answer one request, once, from any thread, without waiting. Dropped without an answer,
/// it tells the client that none will come.
#[derive(Debug)]
pub struct Responder {
    client: Arc<ClientConnection>,
    id: u64,
    request_bytes: usize,
    answered: bool,
}

impl Responder {
    /// The connection that the request came on.
    #[must_use]
    pub fn connection(&self) -> &Arc<ClientConnection> {
        &self.client
    }

    /// Answers with a copy of `body`.
    pub fn respond(self, body: &[u8]) {
        self.respond_bytes(Bytes::copy_from_slice(body));
    }

    /// Answers with `body`; if it is long it is not copied. If it is over what an answer may have, or long and more
    /// waits for the client already than it may leave unread, the client is told that none will come.
    pub fn respond_bytes(mut self, body: Bytes) {
        let limits = &self.client.limits;
        let most = if body.len() <= SHORT_ANSWER_BYTES {
            usize::MAX
        } else {
            limits.max_unread_bytes.saturating_sub(body.len())
        };
        if body.len() <= limits.max_request_bytes {
            self.answered = self.push(most, FrameKind::Response, body);
        }
    }

    /// Whether it was taken: not if more than `most` bytes wait already, or the client is gone.
    fn push(&self, most: usize, kind: FrameKind, body: Bytes) -> bool {
        let put = |gather: &mut Gather, _| gather.put_message(kind, self.id, body);
        self.client.outbox.push(most, put).is_ok()
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.answered {
            self.push(usize::MAX, FrameKind::Abandoned, Bytes::new());
        }
        self.client.leave_place(self.request_bytes);
    }
}

/// Serves a client until it goes or the transport stops.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    handler: Arc<dyn ClientHandler>,
    connection: Connection,
    name: PeerName,
    _place: Place,
) {
    let remote = connection.remote_address();
    debug!(%remote, %name, "a client connected");
    let client = Arc::new(ClientConnection {
        connection: connection.clone(),
        name,
        limits: shared.limits.clone(),
        counters: shared.client_counters.clone(),
        outbox: Outbox::new(),
        requests: AtomicUsize::new(0),
        request_bytes: AtomicUsize::new(0),
        resume: Notify::new(),
    });
    let mut stop = shared.stop.subscribe();
    let mut stream = JoinSet::new();
    stream.spawn(serve_stream(shared, handler, client.clone()));
    let ended = tokio::select! {
        Some(ended) = stream.join_next() => Some(ended.unwrap_or_else(|e| Err(task_failed(e)))),
        lost = connection.closed() => Some(Err(LinkError::from_connection(lost, CLIENT_ALPN))),
        _ = stop.wait_for(|stop| *stop) => None,
    };
    if ended.is_none() {
        client.outbox.close();
        // What has been answered should still arrive.
        let _ = timeout(FLUSH_TIMEOUT, stream.join_next()).await;
    }
    let reason = ended.and_then(Result::err).unwrap_or(LinkError::ClosedHere);
    let code = match &reason {
        LinkError::Protocol(_) | LinkError::Hello { .. } => CloseCode::Protocol,
        LinkError::TimedOut => CloseCode::HandshakeTimeout,
        _ => CloseCode::Shutdown,
    };
    close(&connection, code, &reason.to_string());
    stream.shutdown().await;
    client.outbox.discard();
    debug!(%remote, %reason, "a client is gone");
}

/// How long a stopping node waits for answers to be read.
const FLUSH_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(500);

async fn serve_stream(
    shared: Arc<Shared>,
    handler: Arc<dyn ClientHandler>,
    client: Arc<ClientConnection>,
) -> Result<(), LinkError> {
    let first = async {
        let accepted = client.connection.accept_bi().await;
        let (send, recv) =
            accepted.map_err(|error| LinkError::from_connection(error, CLIENT_ALPN))?;
        // A request's frame also holds its number.
        let max_len = shared.limits.max_request_bytes + MAX_VARINT_BYTES;
        let (first_max_len, bodies) = (MAX_CLIENT_HELLO_BYTES, Bodies::Slices);
        let mut reader = FrameReader::new(recv, first_max_len, max_len, bodies, CLIENT_ALPN);
        let hello = reader.first(FrameKind::Hello).await?;
        Ok::<_, LinkError>((send, reader, hello))
    };
    let (send, reader, hello) = timeout(shared.limits.handshake_timeout, first)
        .await
        .map_err(|_| LinkError::TimedOut)??;
    check_hello(&shared, &hello)?;
    let answer = ServerHello {
        version: CLIENT_VERSION,
        features: 0,
        cluster: shared.cluster,
        node: shared.node,
        max_request_bytes: shared.limits.max_request_bytes as u64,
    };
    let _ = client.outbox.push(usize::MAX, |gather, _| {
        gather.put_plain(FrameKind::Hello, &answer.encode());
    });
    let mut writer = std::pin::pin!(write_answers(&client, send));
    tokio::select! {
        read = read_requests(&client, handler.as_ref(), reader) => {
            read?;
            writer.await
        }
        written = &mut writer => written,
    }
}

fn check_hello(shared: &Shared, body: &[u8]) -> Result<(), LinkError> {
    let refused = |reason: String| LinkError::Hello { reason };
    let hello = ClientHello::decode(body).map_err(|error| refused(error.to_string()))?;
    if hello.version != CLIENT_VERSION {
        let reason = format!("it speaks version {}, not {CLIENT_VERSION}", hello.version);
        return Err(refused(reason));
    }
    if hello.cluster != shared.cluster {
        let reason = format!(
            "it asks for cluster {}, this is {}",
            hello.cluster, shared.cluster
        );
        return Err(refused(reason));
    }
    Ok(())
}

/// Hands on requests until the client sends no more, and all that it sent are answered.
async fn read_requests(
    client: &Arc<ClientConnection>,
    handler: &dyn ClientHandler,
    mut reader: FrameReader,
) -> Result<(), LinkError> {
    let mut requests = Vec::new();
    loop {
        let (mut count, mut bytes) = (0, 0);
        for (kind, frame) in reader.frames.drain(..) {
            let (id, body) = request(kind, frame)?;
            client.take_place(body.len());
            (count, bytes) = (count + 1, bytes + body.len() as u64);
            let responder = Responder {
                client: client.clone(),
                id,
                request_bytes: body.len(),
                answered: false,
            };
            requests.push((responder, body));
        }
        if count > 0 {
            client.counters.requests.add(count);
            client.counters.bytes_received.add(bytes);
            handler.handle_requests(&mut requests);
            requests.clear();
        }
        client.room().await;
        if !reader.fill().await? {
            client.idle().await;
            client.outbox.close();
            return Ok(());
        }
    }
}

fn request(kind: FrameKind, mut frame: Bytes) -> Result<(u64, Bytes), LinkError> {
    let unexpected = |what| LinkError::Protocol(FrameError::Unexpected { what });
    if kind != FrameKind::Request {
        return Err(unexpected("a client's frame that is no request"));
    }
    let mut numbers = Reader::new(&frame);
    let id = numbers
        .varint()
        .map_err(|_| unexpected("a request without a number"))?;
    let at = numbers.position();
    Ok((id, frame.split_off(at)))
}

async fn write_answers(client: &ClientConnection, mut send: SendStream) -> Result<(), LinkError> {
    let mut gather = Gather::default();
    while client.outbox.ready().await {
        // Everything else that is ready to run goes first: it may have more to answer, and then one
        // write and one packet carry all of it.
        tokio::task::yield_now().await;
        let answers = client.outbox.take(&mut gather);
        let bytes = gather.len() as u64;
        let (chunks, mut at) = (gather.finish(), 0);
        while at < chunks.len() {
            // Returns as soon as anything was taken, so the time-out is one of progress.
            let written = send.write_chunks(&mut chunks[at..]);
            match timeout(client.limits.stall_timeout, written).await {
                Ok(Ok(written)) => at += written.chunks,
                Ok(Err(error)) => return Err(write_error(error, CLIENT_ALPN)),
                Err(_) => {
                    client.cut_off();
                    return Err(LinkError::ClosedHere);
                }
            }
        }
        gather.clear();
        client.counters.responses.add(answers);
        client.counters.writes.add(1);
        client.counters.bytes_sent.add(bytes);
        client.resume.notify_one();
    }
    // Closed by us or by the client's end of requests: what was written should still arrive.
    if send.finish().is_ok() {
        let _ = send.stopped().await;
    }
    Ok(())
}
