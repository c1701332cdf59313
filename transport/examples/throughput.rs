//! How many messages a second the transport carries over loopback, and what each costs.
//!
//!     cargo run --release -p pontoon-transport --example throughput
//!
//! Both ends run in this one process, so the CPU time per message is that of both together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pontoon_transport::{
    Channel, ClientHandler, Frame, Lane, NodeHandler, PeerEvent, Responder, SendError, Transport,
    TransportConfig, Who, certs,
};
use pontoon_types::{ClusterId, NodeId};

const CALLERS: usize = 64;
const REQUEST_BYTES: usize = 170;
const ANSWER_BYTES: usize = 40;
/// A batch of entries, and a chunk of a snapshot.
const FRAMES: [(Lane, usize); 2] = [(Lane::Append(0), 4 << 10), (Lane::Snapshot, 256 << 10)];
const DURATION: Duration = Duration::from_secs(3);

type Failure = Box<dyn std::error::Error>;

#[derive(Default)]
struct Count(AtomicU64);

impl NodeHandler for Count {
    fn handle_frame(&self, _: NodeId, _: Lane, _: Bytes) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn handle_peer(&self, _: NodeId, _: PeerEvent) {}
}

struct Answer;

impl ClientHandler for Answer {
    fn handle_request(&self, responder: Responder, _: Bytes) {
        responder.respond(&[7; ANSWER_BYTES]);
    }
}

/// Answers as an engine does: from a thread of its own, all that have gathered at a time.
struct AnswerElsewhere(std::sync::mpsc::Sender<Responder>);

impl ClientHandler for AnswerElsewhere {
    fn handle_request(&self, responder: Responder, _: Bytes) {
        let _ = self.0.send(responder);
    }
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |index: usize| -> u64 {
        let field = after_name.split_whitespace().nth(index);
        field.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    // User and system time in ticks of 10 ms (proc(5): fields 14 and 15).
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

fn report(what: &str, count: u64, took: Duration, cpu: Duration) {
    let rate = count as f64 / took.as_secs_f64();
    let each = cpu.as_secs_f64() * 1e6 / count.max(1) as f64;
    println!("{what}: {rate:.0}/s, {each:.2} µs of CPU each");
}

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let set = certs::generate(ClusterId(1), &[NodeId(1), NodeId(2)])?;
        let identity = |who| set.identity(who).map(|found| found.ok_or("no certificate"));
        let any = "127.0.0.1:0".parse()?;

        let config = TransportConfig::new(any, identity(Who::Node(NodeId(2)))??);
        let two = Transport::listen(config)?;
        let mut config = TransportConfig::new(any, identity(Who::Node(NodeId(1)))??);
        config.peers = vec![(NodeId(2), two.local_addr().to_string())];
        let (sender, receiver) = std::sync::mpsc::channel::<Responder>();
        std::thread::spawn(move || {
            while let Ok(first) = receiver.recv() {
                for responder in std::iter::once(first).chain(receiver.try_iter()) {
                    responder.respond(&[7; ANSWER_BYTES]);
                }
            }
        });
        let nodes = Arc::new(Count::default());
        let one = Transport::bind(config, nodes.clone(), Arc::new(Answer)).await?;
        drop(two);

        let mut config = TransportConfig::new(any, identity(Who::Node(NodeId(2)))??);
        config.peers = vec![(NodeId(1), one.local_addr().to_string())];
        let received = Arc::new(Count::default());
        let elsewhere = Arc::new(AnswerElsewhere(sender));
        let two = Transport::bind(config, received.clone(), elsewhere).await?;

        let client = identity(Who::Client)??;
        for (node, how) in [(&one, "at once"), (&two, "by another thread")] {
            let channel = Channel::connect(&node.local_addr().to_string(), &client).await?;
            let (count, took, used) = requests(&channel).await?;
            let what = format!(
                "{CALLERS} callers, {REQUEST_BYTES} bytes to {ANSWER_BYTES}, answered {how}"
            );
            report(&what, count, took, used);
            let stats = node.stats().clients;
            println!(
                "  {:.1} answers per write",
                stats.responses as f64 / stats.writes as f64
            );
        }

        while !one.is_connected(NodeId(2)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let one = Arc::new(one);
        for (lane, bytes) in FRAMES {
            let (began, used) = (Instant::now(), cpu());
            let before = received.0.load(Ordering::Relaxed);
            let sending = {
                let one = one.clone();
                std::thread::spawn(move || send_frames(&one, lane, bytes))
            };
            while !sending.is_finished() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let (count, took) = (received.0.load(Ordering::Relaxed) - before, began.elapsed());
            let what = format!("frames of {bytes} bytes from node to node");
            report(&what, count, took, cpu() - used);
            let rate = (count * bytes as u64) as f64 / took.as_secs_f64() / (1 << 20) as f64;
            println!("  {rate:.0} MiB/s");
        }
        let stats = &one.stats().peers[0];
        println!(
            "  {:.1} frames per write, packets of {} bytes, {} lost",
            stats.frames_sent as f64 / stats.writes as f64,
            stats.mtu,
            stats.lost_packets
        );
        Ok(())
    })
}

async fn requests(channel: &Channel) -> Result<(u64, Duration, Duration), Failure> {
    let (began, used) = (Instant::now(), cpu());
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move {
                let body = Bytes::from(vec![1; REQUEST_BYTES]);
                let mut count = 0u64;
                while began.elapsed() < DURATION {
                    channel.request(body.clone()).await?;
                    count += 1;
                }
                Ok::<_, pontoon_transport::ChannelError>(count)
            })
        })
        .collect();
    let mut count = 0;
    for caller in callers {
        count += caller.await??;
    }
    Ok((count, began.elapsed(), cpu() - used))
}

/// A worker that never waits for the network and never runs far ahead of it.
fn send_frames(one: &Transport, lane: Lane, bytes: usize) {
    let began = Instant::now();
    let body = Bytes::from(vec![9; bytes]);
    while began.elapsed() < DURATION {
        match one.send(NodeId(2), lane, Frame::from(body.clone())) {
            Ok(()) => {}
            Err(SendError::QueueFull) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => {
                eprintln!("{error}");
                return;
            }
        }
    }
}
