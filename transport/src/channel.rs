//! The client's end: many requests under way on one connection.
//!
//! A request is encoded into the channel's outgoing buffer by whoever makes it, and one task writes
//! what has gathered with one call. Another reads answers and completes whoever waits. When the
//! connection ends, each request that waits is told whether it has surely not been sent or may have
//! taken effect; connecting again is the caller's decision.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;
use pontoon_types::NodeId;
use pontoon_types::codec::Reader;
use quinn::{Connection, Endpoint, SendStream, TransportConfig};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::config::ChannelConfig;
use crate::dial;
use crate::error::{ChannelError, CloseCode, LinkError, TransportError};
use crate::frame::{Bodies, FRAME_HEADER_BYTES, FrameError, FrameKind, MAX_VARINT_BYTES};
use crate::gather::Gather;
use crate::hello::{CLIENT_VERSION, ClientHello, ServerHello};
use crate::identity::TlsIdentity;
use crate::outbox::{Outbox, OutboxError};
use crate::peer::close;
use crate::stream::{FrameReader, write_error};
use crate::tls::{CLIENT_ALPN, Wanted};
use crate::wire::{self, ConnectionBounds, SocketFor};

/// How much a node may be ahead of a client that reads.
const STREAM_WINDOW_BYTES: u64 = 4 << 20;

/// The longest first frame of a node.
const MAX_SERVER_HELLO_BYTES: usize = 256;

/// Where channels come from: an identity and the UDP sockets that its channels share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClientTransport {
    inner: Arc<ClientTransportInner>,
}

#[derive(Debug)]
struct ClientTransportInner {
    identity: TlsIdentity,
    config: ChannelConfig,
    transport: Arc<TransportConfig>,
    /// For IPv4 and IPv6, opened when first needed.
    endpoints: Mutex<[Option<Endpoint>; 2]>,
}

impl ClientTransport {
    /// A place to connect from. Opens nothing yet.
    #[must_use]
    pub fn new(identity: TlsIdentity, config: ChannelConfig) -> Self {
        let transport = wire::transport_config(ConnectionBounds {
            uni_streams: 0,
            stream_window_bytes: STREAM_WINDOW_BYTES,
            receive_window_bytes: STREAM_WINDOW_BYTES * 2,
            send_window_bytes: STREAM_WINDOW_BYTES * 2,
            idle_timeout: config.idle_timeout,
            keep_alive: Some(config.keep_alive),
        });
        Self {
            inner: Arc::new(ClientTransportInner {
                identity,
                config,
                transport,
                endpoints: Mutex::default(),
            }),
        }
    }

    /// Connects to the node at `address` (`host:port`), whichever node of the cluster it is.
    ///
    /// # Errors
    /// If nobody answers there, or somebody who is not a node of the cluster, or one that refuses us.
    pub async fn connect(&self, address: &str) -> Result<Channel, LinkError> {
        let mut last = LinkError::TimedOut;
        for address in dial::resolve(address).await? {
            let limit = self.inner.config.connect_timeout;
            match timeout(limit, self.connect_to(address)).await {
                Ok(Ok(channel)) => return Ok(channel),
                Ok(Err(error)) => last = error,
                Err(_) => last = LinkError::TimedOut,
            }
        }
        Err(last)
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<Channel, LinkError> {
        let inner = &self.inner;
        let connection = dial::connect(
            &inner.endpoint_for(address)?,
            address,
            &inner.identity,
            Wanted::AnyNode,
            CLIENT_ALPN,
            inner.transport.clone(),
        )
        .await?;
        match Channel::open(connection.clone(), inner).await {
            Ok(channel) => Ok(channel),
            Err(error) => {
                close(&connection, CloseCode::Protocol, &error.to_string());
                Err(error)
            }
        }
    }
}

impl ClientTransportInner {
    fn endpoint_for(&self, address: SocketAddr) -> Result<Endpoint, LinkError> {
        let (index, any): (_, SocketAddr) = match address {
            SocketAddr::V4(_) => (0, ([0u8; 4], 0).into()),
            SocketAddr::V6(_) => (1, ([0u16; 8], 0).into()),
        };
        let mut endpoints = self.endpoints.lock();
        if let Some(endpoint) = &endpoints[index] {
            return Ok(endpoint.clone());
        }
        let endpoint =
            open_endpoint(any, None, SocketFor::Client).map_err(|error| LinkError::Socket {
                address: address.to_string(),
                reason: error.to_string(),
            })?;
        endpoints[index] = Some(endpoint.clone());
        Ok(endpoint)
    }
}

/// Opens a UDP socket with a QUIC endpoint on it. Must be called within a tokio runtime.
pub(crate) fn open_endpoint(
    address: SocketAddr,
    server: Option<quinn::ServerConfig>,
    purpose: SocketFor,
) -> Result<Endpoint, TransportError> {
    let bind = |source| TransportError::Bind { address, source };
    let socket = wire::open_socket(address, purpose).map_err(bind)?;
    let runtime = Arc::new(quinn::TokioRuntime);
    Endpoint::new(wire::endpoint_config(), server, socket, runtime).map_err(bind)
}

/// A connection to one node that carries numbered requests. Cheap to clone; closed when the last clone
/// is dropped.
#[derive(Clone, Debug)]
pub struct Channel {
    handle: Arc<Handle>,
}

/// Closes the channel when dropped; the channel's own tasks hold only what is inside.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        close(
            &self.shared.connection,
            CloseCode::Shutdown,
            "channel dropped",
        );
        self.shared.fail(&LinkError::ClosedHere);
    }
}

#[derive(Debug)]
struct Shared {
    connection: Connection,
    node: NodeId,
    max_request_bytes: usize,
    max_in_flight: usize,
    max_queued_bytes: usize,
    outbox: Outbox,
    waiting: Mutex<Waiting>,
    ended: OnceLock<LinkError>,
}

/// An answer, or why there is none.
type Answer = Result<Bytes, ChannelError>;

/// Requests that wait for their answers, found by number. Numbers name a place and how often it was
/// used, so that an answer that comes twice meets nobody.
#[derive(Debug, Default)]
struct Waiting {
    places: Vec<WaitingPlace>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct WaitingPlace {
    uses: u32,
    taken: Option<(oneshot::Sender<Answer>, u64)>,
}

impl Waiting {
    fn count(&self) -> usize {
        self.places.len() - self.free.len()
    }

    fn insert(&mut self, answer: oneshot::Sender<Answer>, ordinal: u64) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(WaitingPlace {
                uses: 0,
                taken: None,
            });
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        });
        let place = &mut self.places[index as usize];
        place.taken = Some((answer, ordinal));
        u64::from(place.uses) << PLACE_BITS | u64::from(index)
    }

    fn remove(&mut self, id: u64) -> Option<oneshot::Sender<Answer>> {
        let index = u32::try_from(id & ((1 << PLACE_BITS) - 1)).ok()?;
        let place = self.places.get_mut(index as usize)?;
        if u64::from(place.uses) != id >> PLACE_BITS {
            return None;
        }
        let (answer, _) = place.taken.take()?;
        place.uses = place.uses.wrapping_add(1);
        self.free.push(index);
        Some(answer)
    }
}

/// More requests than 2^20 are never under way on a channel.
const PLACE_BITS: u32 = 20;

impl Channel {
    /// Connects from a socket of its own with default settings; for more than one channel take a
    /// [`ClientTransport`].
    ///
    /// # Errors
    /// As [`ClientTransport::connect`].
    pub async fn connect(address: &str, identity: &TlsIdentity) -> Result<Self, LinkError> {
        ClientTransport::new(identity.clone(), ChannelConfig::default())
            .connect(address)
            .await
    }

    async fn open(
        connection: Connection,
        transport: &ClientTransportInner,
    ) -> Result<Self, LinkError> {
        let config = &transport.config;
        let lost = |error| LinkError::from_connection(error, CLIENT_ALPN);
        let (mut send, recv) = connection.open_bi().await.map_err(lost)?;
        let cluster = transport.identity.name().cluster();
        let mut gather = Gather::default();
        let hello = ClientHello {
            version: CLIENT_VERSION,
            features: 0,
            cluster,
        };
        gather.put_plain(FrameKind::Hello, &hello.encode());
        send.write_all_chunks(gather.finish())
            .await
            .map_err(|error| write_error(error, CLIENT_ALPN))?;
        let mut reader = FrameReader::new(
            recv,
            MAX_SERVER_HELLO_BYTES,
            config.max_response_bytes + MAX_VARINT_BYTES,
            Bodies::Owned,
            CLIENT_ALPN,
        );
        let body = reader.first(FrameKind::Hello).await?;
        let hello = ServerHello::decode(&body).map_err(|error| LinkError::Hello {
            reason: error.to_string(),
        })?;
        if hello.version != CLIENT_VERSION || hello.cluster != cluster {
            let reason = format!(
                "it is cluster {} and speaks version {}",
                hello.cluster, hello.version
            );
            return Err(LinkError::Hello { reason });
        }
        let shared = Arc::new(Shared {
            connection,
            node: hello.node,
            max_request_bytes: usize::try_from(hello.max_request_bytes).unwrap_or(usize::MAX),
            max_in_flight: config.max_in_flight.min(1 << PLACE_BITS),
            max_queued_bytes: config.max_queued_bytes,
            outbox: Outbox::new(),
            waiting: Mutex::default(),
            ended: OnceLock::new(),
        });
        tokio::spawn(run(shared.clone(), send, reader));
        Ok(Self {
            handle: Arc::new(Handle { shared }),
        })
    }

    /// The node at the other end.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.handle.shared.node
    }

    /// Why the channel is of no use any more, or `None` while it works.
    #[must_use]
    pub fn ended(&self) -> Option<&LinkError> {
        self.handle.shared.ended.get()
    }

    /// The estimated round trip to the node.
    #[must_use]
    pub fn rtt(&self) -> std::time::Duration {
        self.handle.shared.connection.rtt()
    }

    /// Queues a request at once and returns its answer to be waited for. Dropping that does not recall
    /// the request.
    pub fn request(&self, body: Bytes) -> PendingAnswer {
        let shared = &self.handle.shared;
        let (sender, receiver) = oneshot::channel();
        let refused = |error| PendingAnswer {
            state: Err(Some(error)),
            shared: shared.clone(),
        };
        if body.len() > shared.max_request_bytes {
            return refused(ChannelError::TooLarge {
                len: body.len(),
                max: shared.max_request_bytes,
            });
        }
        if shared.waiting.lock().count() >= shared.max_in_flight {
            return refused(ChannelError::QueueFull);
        }
        let most = shared
            .max_queued_bytes
            .saturating_sub(body.len() + FRAME_HEADER_BYTES);
        let pushed = shared.outbox.push(most, |gather, ordinal| {
            let id = shared.waiting.lock().insert(sender, ordinal);
            gather.put_message(FrameKind::Request, id, body);
        });
        match pushed {
            Ok(()) => PendingAnswer {
                state: Ok(receiver),
                shared: shared.clone(),
            },
            Err(OutboxError::Full) => refused(ChannelError::QueueFull),
            Err(OutboxError::Closed) => refused(ChannelError::NotSent(shared.cause())),
        }
    }
}

/// An answer that is on its way.
#[derive(Debug)]
#[must_use = "a request whose answer nobody waits for has an unknown outcome"]
pub struct PendingAnswer {
    state: Result<oneshot::Receiver<Answer>, Option<ChannelError>>,
    shared: Arc<Shared>,
}

impl Future for PendingAnswer {
    type Output = Result<Bytes, ChannelError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match &mut this.state {
            Ok(receiver) => Pin::new(receiver).poll(cx).map(|answer| {
                // Each request is completed before its sender is dropped.
                answer.unwrap_or_else(|_| Err(ChannelError::MayHaveBeenSent(this.shared.cause())))
            }),
            Err(error) => Poll::Ready(Err(error
                .take()
                .unwrap_or_else(|| ChannelError::NotSent(this.shared.cause())))),
        }
    }
}

impl Shared {
    fn cause(&self) -> LinkError {
        self.ended.get().cloned().unwrap_or(LinkError::ClosedHere)
    }

    /// Ends the channel and tells all who wait.
    fn fail(&self, cause: &LinkError) {
        let cause = self.ended.get_or_init(|| cause.clone());
        let first_unsent = self.outbox.discard();
        let waiting = std::mem::take(&mut *self.waiting.lock());
        let waiting = waiting.places.into_iter().filter_map(|place| place.taken);
        for (answer, ordinal) in waiting {
            let error = if ordinal >= first_unsent {
                ChannelError::NotSent(cause.clone())
            } else {
                ChannelError::MayHaveBeenSent(cause.clone())
            };
            let _ = answer.send(Err(error));
        }
    }
}

async fn run(shared: Arc<Shared>, send: SendStream, reader: FrameReader) {
    let (stop, mut stopped) = mpsc::channel::<()>(1);
    let writer = {
        let shared = shared.clone();
        tokio::spawn(async move {
            // Dropped at the end, which wakes the other side of this pair.
            let _stop = stop;
            write_requests(&shared, send).await;
        })
    };
    let reason = tokio::select! {
        reason = read_answers(&shared, reader) => reason,
        _ = stopped.recv() => LinkError::ClosedHere,
    };
    let reason = match shared.connection.close_reason() {
        Some(earlier) => LinkError::from_connection(earlier, CLIENT_ALPN),
        None => {
            close(&shared.connection, CloseCode::Protocol, &reason.to_string());
            reason
        }
    };
    shared.fail(&reason);
    let _ = writer.await;
}

async fn write_requests(shared: &Shared, mut send: SendStream) {
    let mut gather = Gather::default();
    while shared.outbox.ready().await {
        // The first turn goes to whoever is ready to run and may add a request to the same packet. Then
        // the runtime has looked at the network, and the second goes to those whose answers were there.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        shared.outbox.take(&mut gather);
        if send.write_all_chunks(gather.finish()).await.is_err() {
            return;
        }
        gather.clear();
    }
}

async fn read_answers(shared: &Shared, mut reader: FrameReader) -> LinkError {
    let mut answers = Vec::new();
    loop {
        {
            let mut waiting = shared.waiting.lock();
            for (kind, frame) in reader.frames.drain(..) {
                match answer(kind, frame) {
                    Ok((id, answer)) => {
                        answers.extend(waiting.remove(id).map(|waiter| (waiter, answer)));
                    }
                    Err(error) => return error.into(),
                }
            }
        }
        for (waiter, answer) in answers.drain(..) {
            let _ = waiter.send(answer);
        }
        match reader.fill().await {
            Ok(true) => {}
            Ok(false) => {
                return FrameError::Unexpected {
                    what: "the node ended the stream of answers",
                }
                .into();
            }
            Err(error) => return error,
        }
    }
}

fn answer(kind: FrameKind, mut frame: Bytes) -> Result<(u64, Answer), FrameError> {
    let mut numbers = Reader::new(&frame);
    let id = numbers.varint().map_err(|_| FrameError::Unexpected {
        what: "an answer without a number",
    })?;
    let at = numbers.position();
    match kind {
        FrameKind::Response => Ok((id, Ok(frame.split_off(at)))),
        FrameKind::Abandoned => Ok((id, Err(ChannelError::Abandoned))),
        _ => Err(FrameError::Unexpected {
            what: "a node's frame that is no answer",
        }),
    }
}
