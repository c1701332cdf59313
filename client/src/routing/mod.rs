//! The deciding half of the client: where a request goes, and what an answer means for it.
//!
//! Pure: no task, no socket, no clock, so that the simulator drives it as the shell does. Moments and random numbers are arguments. The async shell asks
//! [`Router::target`] for a node, sends, and tells [`Router::handle_response`] or
//! [`Router::handle_failure`] what came of it; the [`Verdict`] says what to do next. What one request
//! learns (a leader, a newer range, a node that is down) helps all others at once, because they share the
//! router; what concerns one request only is in its [`Attempt`].
//!
//! # What may be tried again
//!
//! 1. What was **surely refused before it was proposed**: not leader, stale epoch, overloaded, not here,
//!    unavailable, or never sent. Reads and writes alike are tried again, with jittered backoff, until the
//!    deadline; the deadline then says that the request was surely not done.
//! 2. A **write that may have been proposed** and got no answer ends as [`Verdict::Unknown`], at once and
//!    for good. To send it again could apply it twice.
//! 3. A **read** that got no answer is simply tried again.
//!
//! # Finding a leader
//!
//! The router remembers per shard who last answered as its leader. A replica that denies leadership is
//! believed about itself, and about another only if that other can be reached: followers go on naming a
//! dead leader until they elect a new one. Without a hint it asks the replicas in the descriptor's order,
//! passing over nodes that are down and the one that just refused. A late denial never displaces a hint
//! that has moved on to another node meanwhile.

mod attempt;
#[cfg(test)]
mod tests;

pub use attempt::{Access, Attempt, Setback, Verdict};

use crate::protocol::Response;
use core::time::Duration;
use pontoon_shard_router::{Applied, ClusterMap, ShardDescriptor};
use pontoon_types::{Instant, Mutation, NodeId, ShardId, mutant};
use std::collections::HashMap;
use std::sync::Arc;

/// How long a node is passed over because one request found its connection gone. Only for a while, because
/// such news may come late, when the connection was made anew already; whoever makes connections says
/// [`Router::handle_down`] and [`Router::handle_up`] in order.
const LOST_FOR: Duration = Duration::from_secs(1);

/// What a request is about, and so where it belongs.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// The user shard that owns a key.
    Key(&'a [u8]),
    /// The one user shard that owns all keys of a batch.
    Batch(&'a [Mutation<'a>]),
    /// The meta shard.
    Meta,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To this node, in the name of this descriptor.
    Send {
        /// The node.
        node: NodeId,
        /// The shard as the router knows it; the request names its epoch.
        shard: Arc<ShardDescriptor>,
    },
    /// Nowhere yet: the map does not know. Read it, then ask again.
    RefreshMap,
    /// Nowhere: two keys of the batch have different owners.
    Spans {
        /// The owner of the first key.
        first: ShardId,
        /// The owner of another.
        second: ShardId,
    },
}

/// Why a request got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelFailure {
    /// The node cannot be reached; the request was surely not sent.
    NotSent,
    /// The request is larger than the node reads; it was not sent.
    TooLarge,
    /// Too much waits on the connection already; the request was surely not sent.
    QueueFull,
    /// The connection broke after the request may have been sent.
    MayHaveBeenSent,
    /// The request was sent and its time ran out; the connection stands.
    TimedOut,
    /// An answer came that cannot be read.
    Unreadable,
}

/// The map, the leaders and the nodes that are down, as far as this client knows.
#[derive(Debug)]
pub struct Router {
    meta: Arc<ShardDescriptor>,
    map: Option<ClusterMap>,
    leaders: HashMap<ShardId, NodeId>,
    /// Nodes to pass over, and until when.
    down: HashMap<NodeId, Instant>,
}

impl Router {
    /// A router that knows the meta shard only.
    #[must_use]
    pub fn new(meta: ShardDescriptor) -> Self {
        Self {
            meta: Arc::new(meta),
            map: None,
            leaders: HashMap::new(),
            down: HashMap::new(),
        }
    }

    /// The map, if it was read already.
    #[cfg(test)]
    pub(crate) const fn map(&self) -> Option<&ClusterMap> {
        self.map.as_ref()
    }

    /// Takes in a map that was read from the meta group.
    pub fn handle_map(&mut self, read: ClusterMap) {
        self.handle_meta(read.meta());
        match &mut self.map {
            Some(map) => map.refresh(read),
            None => self.map = Some(read),
        }
    }

    /// Takes in what a node says of the meta shard.
    pub fn handle_meta(&mut self, meta: &ShardDescriptor) {
        if meta.shard == ShardId::META && meta.is_newer_than(&self.meta) {
            self.meta = Arc::new(meta.clone());
        }
    }

    /// The node cannot be reached: pass over it until it is up.
    pub fn handle_down(&mut self, node: NodeId) {
        self.down.insert(node, Instant::FAR_FUTURE);
    }

    /// The node can be reached but owes answers for too long: pass over it until it gives one, or until
    /// it is worth another try.
    pub fn handle_stalled(&mut self, node: NodeId, until: Instant) {
        let known = self.down.entry(node).or_insert(until);
        *known = until.max(*known);
    }

    /// The node can be reached.
    pub fn handle_up(&mut self, node: NodeId) {
        self.down.remove(&node);
    }

    fn is_down(&self, node: NodeId, now: Instant) -> bool {
        self.down.get(&node).is_some_and(|until| now < *until)
    }

    /// Where a request about `place` goes now.
    pub fn target(&self, place: Place<'_>, attempt: &mut Attempt, now: Instant) -> Target {
        let shard = match place {
            Place::Meta => Some(&self.meta),
            Place::Key(key) => self.route(key),
            Place::Batch(mutations) => match self.route_batch(mutations) {
                Ok(shard) => shard,
                Err((first, second)) => return Target::Spans { first, second },
            },
        };
        let Some(shard) = shard else {
            return Target::RefreshMap;
        };
        let Some(node) = self.choose(shard, attempt, now) else {
            return Target::RefreshMap;
        };
        attempt.sent_to(shard.shard, node);
        Target::Send {
            node,
            shard: shard.clone(),
        }
    }

    fn route(&self, key: &[u8]) -> Option<&Arc<ShardDescriptor>> {
        self.map.as_ref()?.route(key)
    }

    /// The one shard of all keys; none if the map does not know it, and two shards if there are two.
    fn route_batch(
        &self,
        mutations: &[Mutation<'_>],
    ) -> Result<Option<&Arc<ShardDescriptor>>, (ShardId, ShardId)> {
        let Some(shard) = mutations.first().and_then(|m| self.route(m.key())) else {
            return Ok(None);
        };
        let mut keys = mutations.iter().map(Mutation::key);
        match keys.find(|key| !shard.contains(key)) {
            None => Ok(Some(shard)),
            Some(stray) => match self.route(stray) {
                None => Ok(None),
                Some(second) => Err((shard.shard, second.shard)),
            },
        }
    }

    /// The leader if one is known, can be reached and has not just refused; else the next replica for
    /// which that holds; else, so that nobody waits for a hint that cannot come, the next replica.
    ///
    /// A group may have moved since the map was written. So a leader is believed to be on any node of the map; and once all
    /// replicas that the map names have been asked, the other nodes are asked in their turn as well.
    fn choose(&self, shard: &ShardDescriptor, attempt: &Attempt, now: Instant) -> Option<NodeId> {
        let usable = |node: &NodeId| !self.is_down(*node, now) && attempt.avoid != Some(*node);
        let is_named = |node: NodeId| shard.replica_on(node).is_some();
        let is_known = |node: &NodeId| {
            let map = self.map.as_ref();
            is_named(*node) || map.is_some_and(|map| map.node(*node).is_some())
        };
        let hinted = self.leaders.get(&shard.shard).copied();
        if let Some(leader) = hinted.filter(usable).filter(is_known) {
            return Some(leader);
        }
        let mut nodes: Vec<NodeId> = shard.replicas.iter().map(|replica| replica.node).collect();
        let turn = attempt.turn as usize;
        if turn >= nodes.len() {
            let all = self.map.iter().flat_map(|map| map.nodes());
            nodes.extend(all.map(|other| other.node).filter(|node| !is_named(*node)));
        }
        let first = turn % nodes.len().max(1);
        let in_turn = || nodes.iter().cycle().skip(first).take(nodes.len()).copied();
        in_turn().find(usable).or_else(|| in_turn().next())
    }

    /// What an answer means. `random` is a fresh random number for the jitter.
    pub fn handle_response(
        &mut self,
        attempt: &mut Attempt,
        response: &Response,
        now: Instant,
        random: u64,
    ) -> Verdict {
        let Some((shard, node)) = attempt.asked else {
            unreachable!("an answer to an attempt that has no target");
        };
        if !self.down.is_empty() {
            self.down.remove(&node);
        }
        match response {
            Response::Written
            | Response::Swapped
            | Response::NotSwapped { .. }
            | Response::Value(_)
            | Response::Rows { .. }
            | Response::Hints(_)
            | Response::Status(_)
            | Response::Marked(_)
            | Response::Digest(_) => {
                if self.leaders.get(&shard) != Some(&node) {
                    self.leaders.insert(shard, node);
                }
                Verdict::Done
            }
            Response::NotLeader { leader } => self.denied(attempt, *leader, now, random),
            Response::StaleEpoch { descriptors } => {
                let mut learnt = false;
                for descriptor in descriptors {
                    learnt |= self.learn(descriptor);
                }
                if learnt {
                    attempt.again_soon(Setback::StaleEpoch { node }, now, random)
                } else {
                    // The node does not know better than we do: either it lags behind, or the range
                    // went to a shard that it has no replica of.
                    attempt.again_with_map(Setback::StaleEpoch { node }, now, random)
                }
            }
            Response::Overloaded { retry_after } => {
                let setback = Setback::Overloaded { node };
                attempt.again_after(*retry_after, setback, now, random)
            }
            Response::NotHere => {
                self.forget_leader(shard, node);
                attempt.pass_over(node);
                attempt.again_with_map(Setback::NotHere { node }, now, random)
            }
            Response::Unavailable { text } => {
                self.forget_leader(shard, node);
                attempt.pass_over(node);
                let text = text.clone();
                attempt.again(Setback::Unavailable { node, text }, now, random)
            }
            Response::Refused { .. } => Verdict::Fail,
            Response::UnknownOutcome => self.unanswered(attempt, now, random),
        }
    }

    /// What it means that no answer came. `random` is a fresh random number for the jitter.
    pub fn handle_failure(
        &mut self,
        attempt: &mut Attempt,
        failure: ChannelFailure,
        now: Instant,
        random: u64,
    ) -> Verdict {
        let Some((shard, node)) = attempt.asked else {
            unreachable!("a failure of an attempt that has no target");
        };
        match failure {
            ChannelFailure::NotSent => {
                self.handle_stalled(node, now + LOST_FOR);
                attempt.pass_over(node);
                let setback = Setback::Unreachable { node };
                // If none of the meta group's nodes is there, it may have moved while we were away.
                if shard == ShardId::META && attempt.turn as usize > self.meta.replicas.len() {
                    return attempt.again_with_map(setback, now, random);
                }
                attempt.again_soon(setback, now, random)
            }
            ChannelFailure::TooLarge => Verdict::Fail,
            ChannelFailure::QueueFull => {
                let setback = Setback::Overloaded { node };
                attempt.again_after(Duration::ZERO, setback, now, random)
            }
            ChannelFailure::MayHaveBeenSent => {
                self.handle_stalled(node, now + LOST_FOR);
                self.unanswered(attempt, now, random)
            }
            ChannelFailure::TimedOut => self.unanswered(attempt, now, random),
            ChannelFailure::Unreadable => match attempt.access {
                Access::Write => Verdict::Unknown,
                Access::Read => Verdict::Fail,
            },
        }
    }

    fn unanswered(&mut self, attempt: &mut Attempt, now: Instant, random: u64) -> Verdict {
        let Some((_, node)) = attempt.asked else {
            unreachable!("an attempt without a target was left unanswered");
        };
        match attempt.access {
            Access::Write if !mutant!(RepeatsUnknown) => Verdict::Unknown,
            Access::Read | Access::Write => {
                attempt.pass_over(node);
                attempt.again_soon(Setback::NoAnswer { node }, now, random)
            }
        }
    }

    fn denied(
        &mut self,
        attempt: &mut Attempt,
        leader: Option<NodeId>,
        now: Instant,
        random: u64,
    ) -> Verdict {
        let Some((shard, node)) = attempt.asked else {
            unreachable!("a denial to an attempt that has no target");
        };
        self.forget_leader(shard, node);
        attempt.pass_over(node);
        let credible = leader.filter(|leader| *leader != node && !self.is_down(*leader, now));
        if let Some(leader) = credible {
            // If the hint has moved on while this request was under way, whoever moved it knew later.
            self.leaders.entry(shard).or_insert(leader);
        }
        let setback = Setback::NotLeader { node, leader };
        if self.leaders.contains_key(&shard) {
            attempt.again_soon(setback, now, random)
        } else {
            attempt.again(setback, now, random)
        }
    }

    fn forget_leader(&mut self, shard: ShardId, node: NodeId) {
        if self.leaders.get(&shard) == Some(&node) {
            self.leaders.remove(&shard);
        }
    }

    fn learn(&mut self, descriptor: &ShardDescriptor) -> bool {
        if descriptor.shard == ShardId::META {
            let newer = descriptor.is_newer_than(&self.meta);
            self.handle_meta(descriptor);
            return newer;
        }
        let map = self.map.as_mut();
        map.is_some_and(|map| map.apply(descriptor.clone()) == Applied::Newer)
    }
}
