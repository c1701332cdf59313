//! One connection between two nodes while it lives: a writer and a reader per lane.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use pontoon_types::NodeId;
use quinn::{Connection, RecvStream, SendStream};
use tokio::task::JoinSet;

use crate::config::{Limits, MAX_APPEND_LANES};
use crate::error::LinkError;
use crate::frame::{Bodies, FrameError, FrameKind, header};
use crate::gather::Gather;
use crate::handler::{Lane, NodeHandler};
use crate::hello::NodeHello;
use crate::queue::{LaneQueue, WhenFull};
use crate::stats::PeerCounters;
use crate::stream::{FrameReader, write_error};
use crate::tls::NODE_ALPN;

/// What a lane's writer takes from its queue for one write.
const MAX_BATCH_BYTES: usize = 256 * 1024;

/// Liveness and votes go before everything else that waits in the connection.
const CONTROL_PRIORITY: i32 = 10;

/// Snapshots take what the other lanes leave.
const SNAPSHOT_PRIORITY: i32 = -10;

/// What the stream of the snapshot lane calls itself; append lanes count from 1.
const SNAPSHOT_NUMBER: u8 = u8::MAX;

/// The queues of a connection. They end with it: nothing queued for one is sent on the next.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    queues: Vec<Arc<LaneQueue>>,
}

/// A connection on which both sides have said hello.
pub(crate) struct Established {
    pub(crate) connection: Connection,
    pub(crate) hello: NodeHello,
    pub(crate) dialled_here: bool,
    pub(crate) control_out: SendStream,
    pub(crate) control_in: FrameReader,
}

impl Link {
    pub(crate) fn new(connection: Connection, append_lanes: u8, limits: &Limits) -> Self {
        let control = LaneQueue::new(limits.control_queue_bytes, WhenFull::DropOldest);
        let appends =
            (0..append_lanes).map(|_| LaneQueue::new(limits.append_queue_bytes, WhenFull::Refuse));
        let snapshots = LaneQueue::new(limits.snapshot_queue_bytes, WhenFull::Refuse);
        Self {
            connection,
            queues: std::iter::once(control)
                .chain(appends)
                .chain(std::iter::once(snapshots))
                .map(Arc::new)
                .collect(),
        }
    }

    pub(crate) fn queue(&self, lane: Lane) -> Option<&LaneQueue> {
        let last = self.queues.len() - 1;
        let index = match lane {
            Lane::Control => 0,
            Lane::Append(lane) => Some(usize::from(lane) + 1).filter(|index| *index < last)?,
            Lane::Snapshot => last,
        };
        self.queues.get(index).map(Arc::as_ref)
    }

    pub(crate) fn queues(&self) -> &[Arc<LaneQueue>] {
        &self.queues
    }

    pub(crate) fn close_queues(&self) {
        for queue in &self.queues {
            queue.close();
        }
    }
}

/// Opens a stream and says hello on it.
pub(crate) async fn open_control(
    connection: &Connection,
    hello: &NodeHello,
) -> Result<SendStream, LinkError> {
    let mut stream = open_uni(connection).await?;
    let _ = stream.set_priority(CONTROL_PRIORITY);
    write_first(&mut stream, FrameKind::Hello, hello.encode()).await?;
    Ok(stream)
}

async fn open_uni(connection: &Connection) -> Result<SendStream, LinkError> {
    connection
        .open_uni()
        .await
        .map_err(|error| LinkError::from_connection(error, NODE_ALPN))
}

async fn write_first(
    stream: &mut SendStream,
    kind: FrameKind,
    body: Vec<u8>,
) -> Result<(), LinkError> {
    let head = Bytes::copy_from_slice(&header(kind, body.len()));
    stream
        .write_all_chunks(&mut [head, body.into()])
        .await
        .map_err(|error| write_error(error, NODE_ALPN))
}

/// What the tasks of a connection need.
#[derive(Clone)]
pub(crate) struct LinkContext {
    pub(crate) peer: NodeId,
    pub(crate) handler: Arc<dyn NodeHandler>,
    pub(crate) counters: Arc<PeerCounters>,
    pub(crate) max_frame_bytes: usize,
}

/// Starts the tasks that write and read all lanes; the first that ends tells why the connection is
/// over.
pub(crate) fn spawn_lanes(
    context: &LinkContext,
    link: &Link,
    control_out: SendStream,
    control_in: FrameReader,
    peer_lanes: u8,
) -> JoinSet<LinkError> {
    let mut tasks = JoinSet::new();
    let mut control_out = Some(control_out);
    let last = link.queues.len() - 1;
    for (index, queue) in link.queues.iter().enumerate() {
        let number = if index == last {
            SNAPSHOT_NUMBER
        } else {
            u8::try_from(index).unwrap_or(SNAPSHOT_NUMBER)
        };
        let (queue, counters) = (queue.clone(), context.counters.clone());
        let (connection, control) = (link.connection.clone(), control_out.take());
        tasks.spawn(async move {
            let stream = match control {
                Some(stream) => Ok(stream),
                None => open_numbered(&connection, number).await,
            };
            match stream {
                Ok(stream) => write_lane(&queue, stream, &counters).await,
                Err(error) => error,
            }
        });
    }
    let reader = context.clone();
    tasks.spawn(async move { read_lane(&reader, Lane::Control, control_in).await });
    let (reader, connection) = (context.clone(), link.connection.clone());
    tasks.spawn(async move { accept_lanes(reader, connection, peer_lanes).await });
    tasks
}

async fn open_numbered(connection: &Connection, number: u8) -> Result<SendStream, LinkError> {
    let mut stream = open_uni(connection).await?;
    if number == SNAPSHOT_NUMBER {
        let _ = stream.set_priority(SNAPSHOT_PRIORITY);
    }
    write_first(&mut stream, FrameKind::Lane, vec![number]).await?;
    Ok(stream)
}

async fn write_lane(
    queue: &LaneQueue,
    mut stream: SendStream,
    counters: &PeerCounters,
) -> LinkError {
    let mut batch = Vec::new();
    let mut gather = Gather::default();
    while queue.ready().await {
        queue.pop_batch(&mut batch, MAX_BATCH_BYTES);
        let frames = batch.len() as u64;
        for frame in batch.drain(..) {
            gather.put_frame(frame);
        }
        if let Err(error) = stream.write_all_chunks(gather.finish()).await {
            return write_error(error, NODE_ALPN);
        }
        counters.frames_sent.add(frames);
        counters.bytes_sent.add(gather.len() as u64);
        counters.writes.add(1);
        gather.clear();
        // A lane under load never waits, and the runtime's own fairness does not see it: without
        // this it would keep its thread for itself.
        tokio::task::yield_now().await;
    }
    LinkError::ClosedHere
}

async fn accept_lanes(context: LinkContext, connection: Connection, peer_lanes: u8) -> LinkError {
    let mut readers = JoinSet::new();
    let mut seen = BTreeSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_uni() => match stream {
                Ok(stream) => {
                    let lane = match open_lane(&context, stream).await {
                        Ok(lane) => lane,
                        Err(error) => return error,
                    };
                    let (lane, reader) = lane;
                    let is_announced = match lane {
                        Lane::Append(number) => number < peer_lanes,
                        Lane::Snapshot | Lane::Control => true,
                    };
                    if !is_announced || !seen.insert(lane) {
                        return FrameError::Unexpected {
                            what: "a lane that was not announced, or is open already",
                        }.into();
                    }
                    let context = context.clone();
                    readers.spawn(async move { read_lane(&context, lane, reader).await });
                }
                Err(error) => return LinkError::from_connection(error, NODE_ALPN),
            },
            Some(ended) = readers.join_next() => return ended.unwrap_or_else(task_failed),
        }
    }
}

/// Reads which lane a stream is. QUIC delivers a stream only with its first bytes, so the few
/// bytes that this waits for are mostly there.
async fn open_lane(
    context: &LinkContext,
    stream: RecvStream,
) -> Result<(Lane, FrameReader), LinkError> {
    let mut reader = FrameReader::new(stream, 1, context.max_frame_bytes, Bodies::Owned, NODE_ALPN);
    let body = reader.first(FrameKind::Lane).await?;
    match *body {
        [number @ 1..=MAX_APPEND_LANES] => Ok((Lane::Append(number - 1), reader)),
        [SNAPSHOT_NUMBER] => Ok((Lane::Snapshot, reader)),
        _ => Err(FrameError::Unexpected {
            what: "a lane's first frame names no lane",
        }
        .into()),
    }
}

async fn read_lane(context: &LinkContext, lane: Lane, mut reader: FrameReader) -> LinkError {
    loop {
        for (kind, body) in reader.frames.drain(..) {
            if kind != FrameKind::Data {
                return FrameError::Unexpected {
                    what: "a frame between nodes that is no message",
                }
                .into();
            }
            context.counters.frames_received.add(1);
            context.counters.bytes_received.add(body.len() as u64);
            context.handler.handle_frame(context.peer, lane, body);
        }
        match reader.fill().await {
            Ok(true) => {}
            Ok(false) => {
                return FrameError::Unexpected {
                    what: "a lane ended while its connection lives",
                }
                .into();
            }
            Err(error) => return error,
        }
    }
}

/// A task that did not end by itself: aborted with the connection, or a handler panicked.
pub(crate) fn task_failed(error: tokio::task::JoinError) -> LinkError {
    if error.is_panic() {
        tracing::error!(%error, "a handler of the transport panicked; the connection is closed");
    }
    LinkError::ClosedHere
}
