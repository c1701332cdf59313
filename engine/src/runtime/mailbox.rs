//! The mailbox of a thread: many senders, one owner who takes everything that waits at once.
//!
//! A channel hands over item by item and spins before it sleeps. On few cores with many threads both cost
//! more than the work that they bring, so this is a list under a lock that is held for a push or a
//! swap, and a wake-up only for an owner who sleeps.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Duration;

/// The sending side; cheap to clone.
pub(super) struct Mailbox<T> {
    shared: Arc<Shared<T>>,
}

/// The owner's side.
pub(super) struct Inbox<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
    limit: usize,
    limit_bytes: usize,
}

struct State<T> {
    items: Vec<T>,
    /// Bytes in what clients want.
    request_bytes: usize,
    frames: Waiting,
    owner_sleeps: bool,
    /// The owner is gone: nothing is taken any more.
    closed: bool,
}

/// What peers have sent.
#[derive(Default)]
struct Waiting {
    items: usize,
    bytes: usize,
}

/// Who puts something in.
#[derive(Clone, Copy)]
enum Origin {
    Engine,
    Client { bytes: usize },
    Peer { bytes: usize },
}

/// A mailbox; over `limit` waiting items or `limit_bytes` in them it refuses what is only offered. Frames of peers are counted by
/// themselves, with the same limits.
pub(super) fn mailbox<T>(limit: usize, limit_bytes: usize) -> (Mailbox<T>, Inbox<T>) {
    let state = State {
        items: Vec::new(),
        request_bytes: 0,
        frames: Waiting::default(),
        owner_sleeps: false,
        closed: false,
    };
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        wake: Condvar::new(),
        limit,
        limit_bytes,
    });
    (
        Mailbox {
            shared: shared.clone(),
        },
        Inbox { shared },
    )
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<T> Mailbox<T> {
    /// For the engine's own news, which always gets in: it is bounded by what was asked for.
    pub(super) fn tell(&self, item: T) {
        let _ = self.push(item, Origin::Engine, true);
    }

    /// The same for news that can wait until the owner wakes up for something else.
    pub(super) fn tell_later(&self, item: T) {
        let _ = self.push(item, Origin::Engine, false);
    }

    /// For what clients want: given back if too much waits already (invariant S11), or if the
    /// owner is gone. `bytes` is what it holds; an empty mailbox takes an item of any size.
    pub(super) fn offer(&self, item: T, bytes: usize) -> Option<T> {
        self.push(item, Origin::Client { bytes }, true)
    }

    /// The same for a frame of a peer. Heartbeats and votes are among them, which must not be kept out by however much clients want.
    pub(super) fn offer_frame(&self, frame: T, bytes: usize) -> Option<T> {
        self.push(frame, Origin::Peer { bytes }, true)
    }

    fn push(&self, item: T, from: Origin, wake: bool) -> Option<T> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return Some(item);
        }
        let (limit, limit_bytes) = (self.shared.limit, self.shared.limit_bytes);
        let is_over = |items, held: usize, bytes| {
            items >= limit || held > 0 && held.saturating_add(bytes) > limit_bytes
        };
        let others = state.items.len() - state.frames.items;
        match from {
            Origin::Client { bytes } => {
                if is_over(others, state.request_bytes, bytes) {
                    return Some(item);
                }
                state.request_bytes += bytes;
            }
            Origin::Peer { bytes } => {
                if is_over(state.frames.items, state.frames.bytes, bytes) {
                    return Some(item);
                }
                state.frames.items += 1;
                state.frames.bytes += bytes;
            }
            Origin::Engine => {}
        }
        state.items.push(item);
        let wakes = wake && std::mem::take(&mut state.owner_sleeps);
        drop(state);
        if wakes {
            self.shared.wake.notify_one();
        }
        None
    }
}

impl<T> Inbox<T> {
    /// Appends everything that waits to `items`, and returns at once.
    pub(super) fn take(&self, items: &mut Vec<T>) {
        let mut state = self.shared.state.lock();
        Self::hand_over(&mut state, items);
    }

    /// Waits until something is there, but not longer than `patience`, and appends everything that
    /// waits to `items`.
    ///
    /// An owner that had to sleep lets other threads have the core, up to `courtesies` times, as long as
    /// they bring more. On an idle machine that costs nothing; on a busy one, those who have news deliver
    /// it first, and the batches grow just when that is worth most.
    pub(super) fn wait(&self, patience: Option<Duration>, courtesies: usize, items: &mut Vec<T>) {
        let mut state = self.shared.state.lock();
        if state.items.is_empty() {
            state.owner_sleeps = true;
            match patience {
                Some(patience) => {
                    let sleeps = |state: &mut State<T>| state.owner_sleeps;
                    self.shared
                        .wake
                        .wait_while_for(&mut state, sleeps, patience);
                }
                None => self
                    .shared
                    .wake
                    .wait_while(&mut state, |state| state.owner_sleeps),
            }
            state.owner_sleeps = false;
            for _ in 0..courtesies {
                let seen = state.items.len();
                MutexGuard::unlocked(&mut state, std::thread::yield_now);
                if state.items.len() == seen {
                    break;
                }
            }
        }
        Self::hand_over(&mut state, items);
    }

    fn hand_over(state: &mut State<T>, items: &mut Vec<T>) {
        state.request_bytes = 0;
        state.frames = Waiting::default();
        if items.is_empty() {
            std::mem::swap(&mut state.items, items);
        } else {
            items.append(&mut state.items);
        }
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        let items = std::mem::take(&mut state.items);
        drop(state);
        // Outside the lock: what is dropped may want to answer somebody.
        drop(items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_turned_away_over_the_bound_and_the_engine_is_not() {
        let (mailbox, inbox) = mailbox(2, 100);
        assert_eq!(mailbox.offer(1, 0), None);
        mailbox.tell(2);
        assert_eq!(mailbox.offer(3, 0), Some(3));
        mailbox.tell(4);
        let mut items = Vec::new();
        inbox.take(&mut items);
        assert_eq!(items, [1, 2, 4]);
        assert_eq!(mailbox.offer(5, 0), None);
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_too() {
        let (mailbox, inbox) = mailbox(10, 100);
        assert_eq!(mailbox.offer(1, 1_000), None, "an empty one takes any size");
        assert_eq!(mailbox.offer(2, 1), Some(2));
        let mut items = Vec::new();
        inbox.take(&mut items);
        assert_eq!(mailbox.offer(3, 60), None);
        assert_eq!(mailbox.offer(4, 60), Some(4));
        assert_eq!(mailbox.offer(5, 40), None);
    }

    #[test]
    fn frames_of_peers_get_in_beside_whatever_clients_want_up_to_a_bound_of_their_own() {
        let (by_items, by_items_inbox) = mailbox(2, 100);
        let (by_bytes, by_bytes_inbox) = mailbox(10, 100);
        for item in [1, 2] {
            assert_eq!(by_items.offer(item, 0), None);
            assert_eq!(by_bytes.offer(item, 50), None);
        }
        assert_eq!(by_items.offer(3, 0), Some(3));
        assert_eq!(by_bytes.offer(3, 1), Some(3));
        let mut items = Vec::new();
        for _ in 0..2 {
            for frame in [4, 5] {
                assert_eq!(by_items.offer_frame(frame, 0), None);
                assert_eq!(by_bytes.offer_frame(frame, 50), None);
            }
            assert_eq!(by_items.offer_frame(6, 0), Some(6));
            assert_eq!(by_bytes.offer_frame(6, 1), Some(6));
            // Nor do frames keep clients out.
            by_items_inbox.take(&mut items);
            by_bytes_inbox.take(&mut items);
        }
        for frame in [7, 8] {
            assert_eq!(by_items.offer_frame(frame, 0), None);
        }
        assert_eq!(by_items.offer(9, 0), None);
    }

    #[test]
    fn waiting_ends_with_news_or_with_patience() {
        let (mailbox, inbox) = mailbox(2, 100);
        let mut items = Vec::new();
        inbox.wait(Some(Duration::ZERO), 2, &mut items);
        assert!(items.is_empty());
        let sender = std::thread::spawn(move || mailbox.tell(7));
        inbox.wait(None, 2, &mut items);
        assert_eq!(items, [7]);
        sender.join().unwrap();
    }

    #[test]
    fn what_can_wait_is_there_with_the_next_news() {
        let (mailbox, inbox) = mailbox(10, 100);
        let owner = std::thread::spawn(move || {
            let mut items = Vec::new();
            while !items.contains(&2) {
                inbox.wait(None, 2, &mut items);
            }
            items
        });
        mailbox.tell_later(1);
        mailbox.tell(2);
        assert_eq!(owner.join().unwrap(), [1, 2]);
    }

    #[test]
    fn nothing_is_taken_for_an_owner_who_is_gone() {
        let (mailbox, inbox) = mailbox(10, 100);
        let item = Arc::new(());
        mailbox.tell(item.clone());
        drop(inbox);
        assert_eq!(Arc::strong_count(&item), 1, "what waited was dropped");
        assert!(mailbox.offer(item, 0).is_some());
    }
}
