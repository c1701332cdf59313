//! The async half of the client: sends what the router decides, waits, and tells it what came of it.
//!
//! A request costs no task and no timer beyond its own deadline: it runs in the caller's future, takes
//! the one lock twice for a moment and never across an await.

use crate::clock::Clock;
use crate::link::{Link, LinkFailure};
use crate::protocol::{Hints, ProtocolError, Response};
use crate::request::Ask;
use crate::routing::{Access, Attempt, ChannelFailure, Router, Setback, Target, Verdict};
use crate::{ClientConfig, ClientError, UnknownCause};
use bytes::Bytes;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use parking_lot::Mutex;
use pontoon_shard_router::{ClusterMap, NodeDescriptor, ShardDescriptor};
use pontoon_transport::{Channel, ChannelConfig, ChannelError, ClientTransport, LinkError};
use pontoon_types::{ClusterId, Instant, NodeId, Sequence, SessionId, ShardId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What all clones of a client share.
#[derive(Debug)]
pub(crate) struct Shell {
    pub(crate) config: ClientConfig,
    pub(crate) cluster: ClusterId,
    pub(crate) session: SessionId,
    pub(crate) clock: Clock,
    pub(crate) transport: ClientTransport,
    next_sequence: AtomicU64,
    pub(crate) shared: Mutex<Shared>,
    /// Held by whoever reads the map, so that others wait for that reading.
    pub(crate) refreshing: tokio::sync::Mutex<()>,
}

/// What the lock guards. Never held across an await.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) router: Router,
    links: HashMap<NodeId, Arc<Link>>,
    pub(crate) addresses: BTreeMap<NodeId, String>,
    /// Counts readings of the map, and of the hints that lead to it.
    pub(crate) refreshes: u64,
}

/// An answer that is an outcome, and who gave it in whose name.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response,
    pub(crate) node: NodeId,
    pub(crate) shard: Arc<ShardDescriptor>,
}

impl Answer {
    pub(crate) fn unexpected(&self, expected: &'static str) -> ClientError {
        ClientError::UnexpectedAnswer {
            node: self.node,
            expected,
        }
    }

    /// The same of a command, which may have been done all the same.
    pub(crate) fn unknown(&self) -> ClientError {
        ClientError::UnknownOutcome {
            shard: self.shard.shard,
            node: self.node,
            cause: UnknownCause::Unexpected,
        }
    }
}

impl Shell {
    /// A shell that knows one node, and from it the meta shard and the other nodes.
    pub(crate) fn new(
        config: ClientConfig,
        transport: ClientTransport,
        channel: Channel,
        hints: &Hints,
    ) -> Self {
        let link = Link::up(hints.node, channel);
        let mut shared = Shared {
            router: Router::new(hints.meta.clone()),
            links: HashMap::from([(hints.node, Arc::new(link))]),
            addresses: BTreeMap::new(),
            refreshes: 0,
        };
        shared.handle_hints(hints);
        Self {
            config,
            transport,
            cluster: hints.cluster,
            // Zero would mean "no session".
            session: SessionId(rand::random::<u64>().max(1)),
            clock: Clock::start(),
            next_sequence: AtomicU64::new(1),
            shared: Mutex::new(shared),
            refreshing: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn next_sequence(&self) -> Sequence {
        Sequence(self.next_sequence.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends `ask` until it is answered, refused for good, or `timeout` has passed.
    pub(crate) async fn execute(
        self: &Arc<Self>,
        ask: &mut Ask<'_>,
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        let started = self.clock.now();
        let mut attempt = Attempt::new(ask.access(), started + timeout);
        loop {
            let now = self.clock.now();
            if now >= attempt.deadline {
                return Err(not_done(&attempt, timeout));
            }
            let (target, seen) = self.target(ask, &mut attempt, now);
            let (link, shard) = match target {
                Directed::Send(link, shard) => (link, shard),
                Directed::RefreshMap => {
                    let Verdict::Retry { after } = attempt.handle_no_map(now, rand::random())
                    else {
                        return Err(not_done(&attempt, timeout));
                    };
                    self.pause(after).await;
                    self.refresh(ask, seen, attempt.deadline).await?;
                    continue;
                }
                Directed::Spans { first, second } => {
                    return Err(ClientError::BatchSpansShards { first, second });
                }
            };
            let node = link.node();
            let until = match attempt.access {
                Access::Write => attempt.deadline,
                Access::Read => attempt.deadline.min(now + self.config.read_try_timeout),
            };
            let body = ask.encode(&shard);
            let result = self.send(&link, body, until).await;
            let (verdict, ending) = self.judge(&mut attempt, result);
            match verdict {
                Verdict::Done => {
                    if let Ending::Answered(response) = ending {
                        return Ok(Answer {
                            response,
                            node,
                            shard,
                        });
                    }
                    unreachable!("only an answer ends a request well");
                }
                Verdict::Retry { after } => self.pause(after).await,
                Verdict::RefreshMap { after } => {
                    self.pause(after).await;
                    self.refresh(ask, seen, attempt.deadline).await?;
                }
                Verdict::Deadline => return Err(not_done(&attempt, timeout)),
                Verdict::Fail => return Err(ending.into_failure(node)),
                Verdict::Unknown => {
                    return Err(ClientError::UnknownOutcome {
                        shard: shard.shard,
                        node,
                        cause: ending.into_cause(),
                    });
                }
            }
        }
    }

    /// The link to send over, if there is one, and the number of map readings known by then.
    fn target(
        self: &Arc<Self>,
        ask: &Ask<'_>,
        attempt: &mut Attempt,
        now: Instant,
    ) -> (Directed, u64) {
        let mut shared = self.shared.lock();
        let seen = shared.refreshes;
        // Each turn marks another node as stalled, so this ends; two are enough to find one that is not.
        for turn in 0..3 {
            match shared.router.target(ask.place(), attempt, now) {
                Target::RefreshMap => return (Directed::RefreshMap, seen),
                Target::Spans { first, second } => {
                    return (Directed::Spans { first, second }, seen);
                }
                // A descriptor may name a node that joined after the map was read.
                Target::Send { node, .. } if !shared.addresses.contains_key(&node) => {
                    return (Directed::RefreshMap, seen);
                }
                Target::Send { node, shard } => {
                    let link = self.link(&mut shared, node);
                    if turn < 2 && link.is_passed_over(now, self.config.stall_timeout) {
                        let until = now + self.config.stall_timeout;
                        shared.router.handle_stalled(node, until);
                        continue;
                    }
                    return (Directed::Send(link, shard), seen);
                }
            }
        }
        unreachable!("the last turn takes any link");
    }

    /// Sends once. A connection that turns out to be broken is made anew in the background.
    pub(crate) async fn send(
        self: &Arc<Self>,
        link: &Arc<Link>,
        body: Bytes,
        until: Instant,
    ) -> Result<Bytes, LinkFailure> {
        // Another node may well be there while this one does not come up.
        let up_by = until.min(self.clock.now() + self.config.stall_timeout);
        let channel = link.channel(up_by, self.clock).await?;
        let result = link.request(&channel, body, until, self.clock).await;
        if let Err(LinkFailure::Channel(
            ChannelError::NotSent(reason) | ChannelError::MayHaveBeenSent(reason),
        )) = &result
            && link.handle_broken(reason)
        {
            self.reconnect(link.clone());
        }
        result
    }

    /// Asks the router what a result means.
    fn judge(
        &self,
        attempt: &mut Attempt,
        result: Result<Bytes, LinkFailure>,
    ) -> (Verdict, Ending) {
        let ending = Ending::of(result);
        let now = self.clock.now();
        // Drawn only when there is something to jitter.
        let random = match &ending {
            Ending::Answered(response) if response.is_outcome() => 0,
            _ => rand::random(),
        };
        let mut shared = self.shared.lock();
        let router = &mut shared.router;
        let verdict = match &ending {
            Ending::Answered(response) => router.handle_response(attempt, response, now, random),
            Ending::Unanswered(failure) => {
                router.handle_failure(attempt, failure.kind(), now, random)
            }
            Ending::Unreadable(_) => {
                router.handle_failure(attempt, ChannelFailure::Unreadable, now, random)
            }
        };
        (verdict, ending)
    }

    pub(crate) async fn pause(&self, after: Duration) {
        if !after.is_zero() {
            tokio::time::sleep(after).await;
        }
    }

    /// The link to `node`, which begins to connect if it is new.
    pub(crate) fn link(self: &Arc<Self>, shared: &mut Shared, node: NodeId) -> Arc<Link> {
        if let Some(link) = shared.links.get(&node) {
            return link.clone();
        }
        let link = Arc::new(Link::connecting(node));
        shared.links.insert(node, link.clone());
        self.reconnect(link.clone());
        link
    }

    /// Connects `link` in the background until it is up, its node has left the map, or the client is gone.
    fn reconnect(self: &Arc<Self>, link: Arc<Link>) {
        const FIRST_PAUSE: Duration = Duration::from_millis(50);
        const LONGEST_PAUSE: Duration = Duration::from_secs(1);
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            let node = link.node();
            let mut pause = FIRST_PAUSE;
            loop {
                let Some(shell) = weak.upgrade() else { return };
                let Some(address) = shell.address(node) else {
                    shell.shared.lock().links.remove(&node);
                    link.handle_down(LinkError::Resolve {
                        address: format!("node {node}"),
                        reason: "the cluster's map does not list it".to_owned(),
                    });
                    return;
                };
                let transport = shell.transport.clone();
                // Not held while connecting: a client that was dropped must not live on in here.
                drop(shell);
                let result = connect_to(&transport, &address, node).await;
                let Some(shell) = weak.upgrade() else { return };
                match result {
                    Ok(channel) => {
                        link.handle_connected(channel);
                        shell.shared.lock().router.handle_up(node);
                        return;
                    }
                    Err(error) => {
                        tracing::debug!(%node, address, %error, "cannot connect");
                        link.handle_down(error);
                        shell.shared.lock().router.handle_down(node);
                    }
                }
                drop(shell);
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    pub(crate) fn address(&self, node: NodeId) -> Option<String> {
        self.shared.lock().addresses.get(&node).cloned()
    }
}

impl Shared {
    /// Takes in what a node knows of the meta group and the nodes.
    pub(crate) fn handle_hints(&mut self, hints: &Hints) {
        self.router.handle_meta(&hints.meta);
        self.handle_nodes(&hints.nodes);
        self.refreshes += 1;
    }

    /// Takes in a map that was read from the meta group.
    pub(crate) fn handle_map(&mut self, map: ClusterMap) {
        self.addresses.clear();
        self.handle_nodes(map.nodes());
        self.router.handle_map(map);
        self.refreshes += 1;
    }

    fn handle_nodes<'a>(&mut self, nodes: impl IntoIterator<Item = &'a NodeDescriptor>) {
        for node in nodes {
            self.addresses.insert(node.node, node.address.clone());
        }
    }
}

/// Connects to `address` and makes sure that it is `node` who answers there.
async fn connect_to(
    transport: &ClientTransport,
    address: &str,
    node: NodeId,
) -> Result<Channel, LinkError> {
    let channel = transport.connect(address).await?;
    if channel.node() == node {
        return Ok(channel);
    }
    Err(LinkError::Hello {
        reason: format!("it is node {}, not node {node}", channel.node()),
    })
}

pub(crate) fn channel_config(config: &ClientConfig) -> ChannelConfig {
    ChannelConfig {
        // A node that is up answers a handshake in a few round trips.
        connect_timeout: config.dead_timeout,
        idle_timeout: config.dead_timeout,
        keep_alive: config.dead_timeout / 4,
        ..ChannelConfig::default()
    }
}

enum Directed {
    Send(Arc<Link>, Arc<ShardDescriptor>),
    RefreshMap,
    Spans { first: ShardId, second: ShardId },
}

/// How a try ended.
pub(crate) enum Ending {
    Answered(Response),
    Unreadable(ProtocolError),
    Unanswered(LinkFailure),
}

impl Ending {
    pub(crate) fn of(result: Result<Bytes, LinkFailure>) -> Self {
        match result.map(|answer| Response::decode(&answer)) {
            Ok(Ok(response)) => Self::Answered(response),
            Ok(Err(error)) => Self::Unreadable(error),
            Err(failure) => Self::Unanswered(failure),
        }
    }

    pub(crate) fn into_cause(self) -> UnknownCause {
        match self {
            Self::Answered(_) => UnknownCause::Proposed,
            Self::Unreadable(error) => UnknownCause::Unreadable(error),
            Self::Unanswered(LinkFailure::Channel(ChannelError::MayHaveBeenSent(error))) => {
                UnknownCause::ConnectionLost(error)
            }
            Self::Unanswered(LinkFailure::Channel(ChannelError::Abandoned)) => {
                UnknownCause::Abandoned
            }
            Self::Unanswered(failure) if failure.is_surely_not_sent() => {
                unreachable!("what was not sent has no unknown outcome: {failure:?}")
            }
            Self::Unanswered(_) => UnknownCause::NoAnswer,
        }
    }

    fn into_failure(self, node: NodeId) -> ClientError {
        match self {
            Self::Answered(Response::Refused { code, text }) => {
                ClientError::Refused { node, code, text }
            }
            Self::Unreadable(source) => ClientError::Protocol { node, source },
            Self::Unanswered(LinkFailure::Channel(ChannelError::TooLarge { len, max })) => {
                ClientError::RequestTooLarge { bytes: len, max }
            }
            Self::Answered(_) | Self::Unanswered(_) => {
                unreachable!("nothing else ends a request for good without its being done")
            }
        }
    }
}

/// The deadline passed and nothing was done; the last setback tells the cause.
pub(crate) fn not_done(attempt: &Attempt, waited: Duration) -> ClientError {
    let shard = attempt.asked.map_or(ShardId::META, |(shard, _)| shard);
    match attempt.last_setback.clone() {
        None => ClientError::Deadline { waited },
        Some(last @ Setback::Overloaded { .. }) => ClientError::Overloaded { waited, last },
        Some(last) => ClientError::Unavailable {
            shard,
            waited,
            last,
        },
    }
}
