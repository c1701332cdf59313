//! The way to one node: its connection, and whether the node still answers.
//!
//! A link connects when it is first needed and, once it broke, in the background, with backoff, for as
//! long as the client lives; meanwhile requests to the node fail at once and go elsewhere.
//!
//! Two measures tell a dead node from a slow one. A node that has been asked, and has answered nothing at all for
//! `stall_timeout` since, is passed over by new requests, but for one in each such time, which finds out whether it
//! was only the request that is slow; what the node owes is waited for. Only when not even the
//! acknowledgements of QUIC arrive, for `dead_timeout`, is the connection given up, because from then on
//! an answer is not to be hoped for.

use crate::clock::Clock;
use crate::routing::ChannelFailure;
use bytes::Bytes;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use pontoon_transport::{Channel, ChannelError, LinkError};
use pontoon_types::{Instant, NodeId};
use tokio::sync::watch;
use tokio::time::timeout_at;

#[derive(Debug)]
pub(crate) struct Link {
    node: NodeId,
    state: watch::Sender<State>,
    /// Requests that were sent and neither answered nor given up.
    owed: AtomicUsize,
    /// When the first request since the last answer was sent, in nanoseconds of the client's clock; 0 if none was.
    asked_at_nanos: AtomicU64,
    /// When a request last passed the node over, or tried it all the same; likewise.
    passed_over_at_nanos: AtomicU64,
}

#[derive(Clone, Debug)]
enum State {
    /// The first connection is being made; worth waiting for.
    Connecting,
    Up(Channel),
    /// Connecting failed, or the connection broke; it is tried again in the background.
    Down(LinkError),
}

/// Why a request got no answer over a link.
#[derive(Clone, Debug)]
pub(crate) enum LinkFailure {
    /// The time ran out: before it was sent, or after.
    TimedOut { sent: bool },
    /// There is no connection.
    Down(LinkError),
    /// The connection says why.
    Channel(ChannelError),
}

impl LinkFailure {
    /// What the router must know of it.
    pub(crate) const fn kind(&self) -> ChannelFailure {
        match self {
            Self::TimedOut { sent: true } | Self::Channel(ChannelError::Abandoned) => {
                ChannelFailure::TimedOut
            }
            Self::Channel(ChannelError::QueueFull) => ChannelFailure::QueueFull,
            Self::Channel(ChannelError::TooLarge { .. }) => ChannelFailure::TooLarge,
            Self::Channel(ChannelError::MayHaveBeenSent(_)) => ChannelFailure::MayHaveBeenSent,
            Self::TimedOut { sent: false }
            | Self::Down(_)
            | Self::Channel(ChannelError::NotSent(_)) => ChannelFailure::NotSent,
        }
    }

    /// Whether the request cannot have been done.
    pub(crate) const fn is_surely_not_sent(&self) -> bool {
        match self {
            Self::TimedOut { sent } => !*sent,
            Self::Down(_) => true,
            Self::Channel(error) => error.surely_not_sent(),
        }
    }
}

impl Link {
    /// A link whose first connection is about to be made by [`Link::handle_connected`] or
    /// [`Link::handle_down`].
    pub(crate) fn connecting(node: NodeId) -> Self {
        Self::with_state(node, State::Connecting)
    }

    /// A link over a connection that stands.
    pub(crate) fn up(node: NodeId, channel: Channel) -> Self {
        Self::with_state(node, State::Up(channel))
    }

    fn with_state(node: NodeId, state: State) -> Self {
        Self {
            node,
            state: watch::Sender::new(state),
            owed: AtomicUsize::new(0),
            asked_at_nanos: AtomicU64::new(0),
            passed_over_at_nanos: AtomicU64::new(0),
        }
    }

    pub(crate) const fn node(&self) -> NodeId {
        self.node
    }

    pub(crate) fn handle_connected(&self, channel: Channel) {
        self.state.send_replace(State::Up(channel));
    }

    pub(crate) fn handle_down(&self, reason: LinkError) {
        self.state.send_replace(State::Down(reason));
    }

    /// Takes note that a request found its connection ended. Returns whether it is the first to do so, and
    /// so the one that must have it made anew.
    pub(crate) fn handle_broken(&self, reason: &LinkError) -> bool {
        self.state.send_if_modified(|state| {
            // A late finder must not tear down the connection that replaced the one it used.
            let is_broken = matches!(state, State::Up(channel) if channel.ended().is_some());
            if is_broken {
                *state = State::Down(reason.clone());
            }
            is_broken
        })
    }

    /// Whether a new request should go elsewhere, because the node has answered nothing for `stall_timeout`. Of
    /// those that ask, one after the other, one is let through in each further `stall_timeout`.
    pub(crate) fn is_passed_over(&self, now: Instant, stall_timeout: Duration) -> bool {
        let asked_at = self.asked_at_nanos.load(Ordering::Relaxed);
        let is_stalled = self.owed.load(Ordering::Relaxed) > 0
            && asked_at > 0
            && now - Instant::from_nanos(asked_at) >= stall_timeout;
        if !is_stalled {
            return false;
        }
        let last = self.passed_over_at_nanos.load(Ordering::Relaxed);
        let is_first = last < asked_at;
        if !is_first && now - Instant::from_nanos(last) < stall_timeout {
            return true;
        }
        self.passed_over_at_nanos
            .store(now.as_nanos(), Ordering::Relaxed);
        is_first
    }

    /// The connection; if the first one is being made, waits for it until `until`.
    pub(crate) async fn channel(
        &self,
        until: Instant,
        clock: Clock,
    ) -> Result<Channel, LinkFailure> {
        let ready = |state: &State| match state {
            State::Connecting => None,
            State::Up(channel) => Some(Ok(channel.clone())),
            State::Down(reason) => Some(Err(LinkFailure::Down(reason.clone()))),
        };
        if let Some(result) = ready(&self.state.borrow()) {
            return result;
        }
        let mut changes = self.state.subscribe();
        let settled = changes.wait_for(|state| !matches!(state, State::Connecting));
        match timeout_at(clock.to_runtime(until), settled).await {
            Ok(Ok(state)) => ready(&state).unwrap_or(Err(LinkFailure::TimedOut { sent: false })),
            Ok(Err(_)) | Err(_) => Err(LinkFailure::TimedOut { sent: false }),
        }
    }

    /// Sends `body` over `channel` and waits for the answer until `until`.
    pub(crate) async fn request(
        &self,
        channel: &Channel,
        body: Bytes,
        until: Instant,
        clock: Clock,
    ) -> Result<Bytes, LinkFailure> {
        let _owed = Owed::begin(self, clock);
        let answer = timeout_at(clock.to_runtime(until), channel.request(body));
        match answer.await {
            Ok(Ok(answer)) => {
                self.asked_at_nanos.store(0, Ordering::Relaxed);
                Ok(answer)
            }
            Ok(Err(error)) => Err(LinkFailure::Channel(error)),
            Err(_) => Err(LinkFailure::TimedOut { sent: true }),
        }
    }
}

/// Counts a request as owed until it is answered or given up, even if its future is dropped.
struct Owed<'a>(&'a AtomicUsize);

impl<'a> Owed<'a> {
    fn begin(link: &'a Link, clock: Clock) -> Self {
        let is_first = link.owed.fetch_add(1, Ordering::Relaxed) == 0;
        if is_first || link.asked_at_nanos.load(Ordering::Relaxed) == 0 {
            let now_nanos = clock.now().as_nanos();
            link.asked_at_nanos.store(now_nanos, Ordering::Relaxed);
        }
        Self(&link.owed)
    }
}

impl Drop for Owed<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
