//! One request's way through refusals to its end.

use core::fmt;
use core::time::Duration;
use pontoon_types::{Instant, NodeId, ShardId};

/// The first pause after a refusal; it doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_millis(8);
/// The longest pause. Well below an election, so that a new leader is found soon after it won.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// How often in a row good news (a leader's name, a newer range) is followed without a pause. Two nodes
/// that name each other must not be asked in a tight loop.
const MAX_HASTY: u32 = 3;

/// Whether a request changes anything; decides what no answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It changes nothing and may be repeated.
    Read,
    /// It may change something.
    Write,
}

/// What to do next with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Hand the answer to the caller.
    Done,
    /// Wait this long, then ask for a target again.
    Retry {
        /// How long.
        after: Duration,
    },
    /// Wait this long and read the map again, then ask for a target again.
    RefreshMap {
        /// How long.
        after: Duration,
    },
    /// Nothing was done and the deadline does not allow another try.
    Deadline,
    /// Nothing was done and trying again would not help; the answer says why.
    Fail,
    /// A write was sent and its fate is unknown.
    Unknown,
}

/// Why an attempt did not do, without harm.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Setback {
    /// The node does not lead the shard's group.
    NotLeader {
        /// Who said so.
        node: NodeId,
        /// Who leads, in its opinion.
        leader: Option<NodeId>,
    },
    /// The shard has moved on since the map was read.
    StaleEpoch {
        /// Who said so.
        node: NodeId,
    },
    /// A bound was reached, in the node or on the way to it.
    Overloaded {
        /// Where.
        node: NodeId,
    },
    /// The node has no replica of the shard.
    NotHere {
        /// Who said so.
        node: NodeId,
    },
    /// The node cannot serve now.
    Unavailable {
        /// Who said so.
        node: NodeId,
        /// Its words.
        text: String,
    },
    /// There is no connection to the node.
    Unreachable {
        /// The node.
        node: NodeId,
    },
    /// The node gave no answer to a read.
    NoAnswer {
        /// The node.
        node: NodeId,
    },
    /// The map could not be read, so nobody knows whom to ask.
    NoMap,
}

impl fmt::Display for Setback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { node, leader: None } => {
                write!(f, "node {node} knows of no leader (is a majority up?)")
            }
            Self::NotLeader {
                node,
                leader: Some(leader),
            } => write!(f, "node {node} says that node {leader} leads"),
            Self::StaleEpoch { node } => write!(f, "node {node} says that the shard has moved on"),
            Self::Overloaded { node } => write!(f, "node {node} is overloaded"),
            Self::NotHere { node } => write!(f, "node {node} has no replica of the shard"),
            Self::Unavailable { node, text } => write!(f, "node {node} cannot serve now: {text}"),
            Self::Unreachable { node } => write!(f, "node {node} cannot be reached"),
            Self::NoAnswer { node } => write!(f, "node {node} gave no answer"),
            Self::NoMap => write!(f, "the cluster's map could not be read"),
        }
    }
}

/// The state of one request between its tries.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub(crate) access: Access,
    /// No try begins after it.
    pub(crate) deadline: Instant,
    /// The shard and node of the try under way.
    pub(crate) asked: Option<(ShardId, NodeId)>,
    /// The node that refused last.
    pub(crate) avoid: Option<NodeId>,
    /// Which replica is next in turn when no leader is known.
    pub(crate) turn: u32,
    /// How many of the last tries were followed up without a pause.
    hasty: u32,
    /// How many pauses there were: the exponent of the next.
    pauses: u32,
    /// Why the last try came to nothing.
    pub(crate) last_setback: Option<Setback>,
}

impl Attempt {
    /// A request that begins now and does not begin a try after `deadline`.
    #[must_use]
    pub const fn new(access: Access, deadline: Instant) -> Self {
        Self {
            access,
            deadline,
            asked: None,
            avoid: None,
            turn: 0,
            hasty: 0,
            pauses: 0,
            last_setback: None,
        }
    }

    pub(crate) const fn sent_to(&mut self, shard: ShardId, node: NodeId) {
        self.asked = Some((shard, node));
    }

    /// Leaves out `node` in the next try, and begins with the next replica if nobody is known to lead.
    pub(crate) const fn pass_over(&mut self, node: NodeId) {
        self.avoid = Some(node);
        self.turn = self.turn.wrapping_add(1);
    }

    /// Again after a pause that grows.
    pub(crate) fn again(&mut self, setback: Setback, now: Instant, random: u64) -> Verdict {
        self.again_after(Duration::ZERO, setback, now, random)
    }

    /// The same, and after `at_least` as a node asked for.
    pub(crate) fn again_after(
        &mut self,
        at_least: Duration,
        setback: Setback,
        now: Instant,
        random: u64,
    ) -> Verdict {
        self.hasty = 0;
        let after = at_least.saturating_add(self.pause(random));
        self.retry(after, setback, now)
    }

    /// Again with a map that knows more: soon at first, then with pauses, for the meta group may not have
    /// heard yet of what is missing.
    pub fn handle_no_map(&mut self, now: Instant, random: u64) -> Verdict {
        self.again_soon(Setback::NoMap, now, random)
    }

    /// Again at once, because something was learnt; but not endlessly so.
    pub(crate) fn again_soon(&mut self, setback: Setback, now: Instant, random: u64) -> Verdict {
        if self.hasty >= MAX_HASTY {
            return self.again(setback, now, random);
        }
        self.hasty += 1;
        self.retry(Duration::ZERO, setback, now)
    }

    /// Again after a pause and with a fresh map.
    pub(crate) fn again_with_map(
        &mut self,
        setback: Setback,
        now: Instant,
        random: u64,
    ) -> Verdict {
        match self.again(setback, now, random) {
            Verdict::Retry { after } => Verdict::RefreshMap { after },
            verdict => verdict,
        }
    }

    fn retry(&mut self, after: Duration, setback: Setback, now: Instant) -> Verdict {
        self.last_setback = Some(setback);
        if now + after >= self.deadline {
            Verdict::Deadline
        } else {
            Verdict::Retry { after }
        }
    }

    /// Between half of the full pause and all of it, so that those who were refused together do not come
    /// back together.
    fn pause(&mut self, random: u64) -> Duration {
        let full = FIRST_PAUSE * (1 << self.pauses.min(8));
        self.pauses = self.pauses.saturating_add(1);
        let full_nanos = full.min(LONGEST_PAUSE).as_nanos() as u64;
        Duration::from_nanos(full_nanos / 2 + random % (full_nanos / 2 + 1))
    }
}
