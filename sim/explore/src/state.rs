//! A moment of the whole group: replicas, messages in flight, and what happened that must not be forgotten.

use crate::broken::{Broken, Checked, Invariant};
use crate::history::History;
use crate::node::{Done, Node};
use pontoon_raft::{Message, Role};
use pontoon_types::{LogIndex, ReplicaId};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// The group's size.
pub(crate) const VOTERS: usize = 3;

/// A message in flight. Its digest is computed once.
#[derive(Debug)]
pub(crate) struct Envelope {
    pub(crate) message: Message,
    digest: u64,
}

/// How often happened what may happen only so often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Spent {
    pub(crate) proposals: u8,
    pub(crate) crashes: u8,
    pub(crate) repeats: u8,
    pub(crate) heartbeats: u8,
}

/// One state. Steps share what they do not change.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) nodes: [Arc<Node>; VOTERS],
    /// A multiset, by digest: any may come next, or never.
    pub(crate) network: Vec<Arc<Envelope>>,
    pub(crate) history: History,
    pub(crate) spent: Spent,
    /// A step broke something. Nothing follows.
    pub(crate) broken: Option<Arc<Broken>>,
}

impl Envelope {
    fn new(message: Message) -> Self {
        let mut hasher = DefaultHasher::new();
        message.hash(&mut hasher);
        let digest = hasher.finish();
        Self { message, digest }
    }
}

impl State {
    /// Blank replicas that have said nothing.
    pub(crate) fn blank() -> Self {
        let voters: [ReplicaId; VOTERS] = std::array::from_fn(id_of);
        Self {
            nodes: voters.map(|id| Arc::new(Node::blank(id, &voters))),
            network: Vec::new(),
            history: History::default(),
            spent: Spent::default(),
            broken: None,
        }
    }

    /// The state after a step of one replica.
    pub(crate) fn step(&mut self, at: usize, step: impl FnOnce(&mut Node) -> Checked<Done>) {
        let before = Arc::clone(&self.nodes[at]);
        let mut node = Node::clone(&before);
        match step(&mut node) {
            Ok(done) => {
                self.nodes[at] = Arc::new(node);
                if let Err(broken) = self.take(at, &before, done) {
                    self.broken = Some(Arc::new(broken));
                }
            }
            Err(broken) => self.broken = Some(Arc::new(broken)),
        }
    }

    /// Sends what a replica has said, and looks at what it has done.
    fn take(&mut self, at: usize, before: &Node, done: Done) -> Checked {
        for message in done.messages {
            self.check_acknowledged(&message)?;
            let envelope = Envelope::new(message);
            let place = self
                .network
                .partition_point(|other| other.digest < envelope.digest);
            self.network.insert(place, Arc::new(envelope));
        }
        self.history.observe(at, before, &self.nodes)?;
        self.history.applied(&done.applied)?;
        self.check_logs(at)
    }

    /// S6: what is acknowledged to a leader is the leader's log.
    fn check_acknowledged(&self, message: &Message) -> Checked {
        let pontoon_raft::MessageBody::AppendResponse { matched, .. } = message.body else {
            return Ok(());
        };
        let (disk, leader) = (
            &self.nodes[place_of(message.from)].disk,
            &self.nodes[place_of(message.to)].raft,
        );
        let of_now = leader.role() == Role::Leader
            && leader.term() == message.term
            && disk.hard_state.term == message.term;
        if of_now && matched > LogIndex::ZERO && disk.term_at(matched) != leader.term_at(matched) {
            let how = format!("{message:?} of another log");
            return Err(Broken::new(Invariant::S6, how));
        }
        Ok(())
    }

    /// S2: logs that agree at an index agree up to there.
    fn check_logs(&self, at: usize) -> Checked {
        let one = &self.nodes[at].raft;
        for (_, other) in self.nodes.iter().enumerate().filter(|(is, _)| *is != at) {
            let last = one
                .last_position()
                .index
                .min(other.raft.last_position().index);
            let mut agree = false;
            for index in (1..=last.0).rev().map(LogIndex) {
                let same = one.term_at(index) == other.raft.term_at(index);
                if agree && !same {
                    let (one, other) = (one.id(), other.raft.id());
                    let how = format!("{one} and {other} agree after {index} and differ there");
                    return Err(Broken::new(Invariant::S2, how));
                }
                agree |= same;
            }
        }
        Ok(())
    }

    /// Whether two messages in flight are the same.
    pub(crate) fn is_repeated(&self, place: usize) -> bool {
        place > 0 && self.network[place].digest == self.network[place - 1].digest
    }

    /// Whether exchanging two blank replicas would change nothing.
    ///
    /// Nobody has heard of a blank replica: what it says carries a term that it has stored. So nobody else's
    /// state tells the two apart, and what is in flight to them decides.
    pub(crate) fn is_symmetric(&self, one: usize, other: usize) -> bool {
        let digests_to = |at: usize, renamed: usize| {
            let to_it = self
                .network
                .iter()
                .filter(move |envelope| envelope.message.to == id_of(at));
            let mut digests: Vec<u64> = to_it
                .map(|envelope| {
                    let mut message = envelope.message.clone();
                    message.to = id_of(renamed);
                    Envelope::new(message).digest
                })
                .collect();
            digests.sort_unstable();
            digests
        };
        digests_to(one, other) == digests_to(other, other)
    }

    fn identity(&self) -> impl Hash + PartialEq + '_ {
        (
            self.nodes.each_ref().map(|node| node.digest),
            self.network
                .iter()
                .map(|envelope| envelope.digest)
                .collect::<smallvec::SmallVec<[u64; 8]>>(),
            &self.history,
            self.spent,
            self.broken.as_ref().map(|broken| broken.invariant),
        )
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.identity().hash(hasher);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

pub(crate) fn id_of(at: usize) -> ReplicaId {
    ReplicaId(at as u64 + 1)
}

pub(crate) fn place_of(id: ReplicaId) -> usize {
    id.0 as usize - 1
}
