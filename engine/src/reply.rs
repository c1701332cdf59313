//! How an answer finds its way back to whoever asked.

use bytes::Bytes;
use pontoon_store::{Outcome, ScanPage};
use pontoon_types::{GroupId, NodeId};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The right to one answer.
///
/// Exactly one [`Reply`] comes of every waiter. If one is dropped without an answer, because its worker
/// stopped, it answers [`Reply::Unknown`] by itself: the caller can then never wait for ever, and is
/// never told more than is known.
pub struct Waiter {
    answer: Option<Box<dyn FnOnce(Reply) + Send>>,
    /// Given back with the answer.
    place: Option<Place>,
}

impl Waiter {
    /// A waiter that takes its answer with `answer`, which is called on a worker's, the apply stage's or
    /// a reader's thread and must not block.
    #[must_use]
    pub fn new(answer: impl FnOnce(Reply) + Send + 'static) -> Self {
        Self {
            answer: Some(Box::new(answer)),
            place: None,
        }
    }

    /// Takes one of `places` until the answer, if one is free.
    pub(crate) fn take_place(&mut self, places: &Arc<Places>) -> bool {
        self.place = places.take();
        self.place.is_some()
    }

    /// Gives the answer.
    pub fn reply(mut self, reply: Reply) {
        self.answer(reply);
    }

    fn answer(&mut self, reply: Reply) {
        if let Some(answer) = self.answer.take() {
            answer(reply);
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.answer(Reply::Unknown);
    }
}

/// How many may wait for an answer at the same time, wherever on their way they are.
pub(crate) struct Places {
    free: AtomicUsize,
}

/// One of [`Places`], until it is dropped.
struct Place(Arc<Places>);

impl Places {
    pub(crate) const fn new(places: usize) -> Self {
        Self {
            free: AtomicUsize::new(places),
        }
    }

    fn take(self: &Arc<Self>) -> Option<Place> {
        let one_less = |free: usize| free.checked_sub(1);
        self.free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .ok()?;
        Some(Place(Arc::clone(self)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiter")
    }
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The command was committed and applied, with this result.
    Applied(Outcome),
    /// The value that a read found.
    Value(Option<Bytes>),
    /// The rows that a scan found.
    Rows(ScanPage),
    /// A read came to a replica whose shard has another epoch or range by now.
    StaleRead,
    /// Not done: this replica does not lead. The leader's node, if it is known.
    NotLeader {
        /// Where to ask instead.
        leader: Option<NodeId>,
    },
    /// Not done: a bound was reached (invariant S11).
    Overloaded {
        /// Which bound, in words for a person.
        reason: &'static str,
    },
    /// Not done: this node has no replica of the group.
    NoReplica {
        /// The group.
        group: GroupId,
    },
    /// Not done: the node is stopping, or the replica is quarantined or has failed.
    Unavailable {
        /// Why, in words for a person.
        reason: &'static str,
    },
    /// Not done: what was asked makes no sense for the group as it is.
    Refused {
        /// Why, in words for a person.
        reason: String,
    },
    /// A command that may or may not be done one day. Only a write ends like this; a read that ends so
    /// has simply not been served.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_waiter_is_answered_once_even_if_it_is_forgotten() {
        let (sender, receiver) = mpsc::channel();
        let waiter = |sender: &mpsc::Sender<Reply>| {
            let sender = sender.clone();
            Waiter::new(move |reply| sender.send(reply).unwrap())
        };
        waiter(&sender).reply(Reply::StaleRead);
        drop(waiter(&sender));
        drop(sender);
        assert_eq!(
            receiver.iter().collect::<Vec<_>>(),
            [Reply::StaleRead, Reply::Unknown]
        );
    }
}
