//! The way to the log's thread: many senders, and one who takes.
//!
//! A channel spins and yields before it sleeps. Where there are few cores, that takes them from those who would bring the next
//! batches, so this one sleeps at once. The engine's mailboxes do so too, but hand over everything at once and refuse what
//! is too much; here each message is taken by itself, between syncs, and the log's own bounds hold.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The sending side; cheap to clone.
pub(super) struct Sender<T>(Arc<Shared<T>>);

/// The one who takes. What still waits when it goes is dropped, and nothing is taken after that.
pub(super) struct Inbox<T>(Arc<Shared<T>>);

struct Shared<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
}

struct State<T> {
    messages: VecDeque<T>,
    owner_sleeps: bool,
    closed: bool,
}

pub(super) fn inbox<T>() -> (Sender<T>, Inbox<T>) {
    let state = State {
        messages: VecDeque::new(),
        owner_sleeps: false,
        closed: false,
    };
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        wake: Condvar::new(),
    });
    (Sender(Arc::clone(&shared)), Inbox(shared))
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Sender<T> {
    /// Hands a message over, unless nobody is left to take it.
    pub(super) fn send(&self, message: T) {
        let mut state = self.0.state.lock();
        if state.closed {
            drop(state);
            drop(message);
            return;
        }
        state.messages.push_back(message);
        let wakes = std::mem::take(&mut state.owner_sleeps);
        drop(state);
        if wakes {
            self.0.wake.notify_one();
        }
    }
}

impl<T> Inbox<T> {
    /// What is there, if anything is.
    pub(super) fn try_recv(&self) -> Option<T> {
        self.0.state.lock().messages.pop_front()
    }

    /// The next message; waits for it, but no longer than `patience`.
    pub(super) fn recv(&self, patience: Option<Duration>) -> Option<T> {
        // What is too far away never comes.
        let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
        let mut state = self.0.state.lock();
        while state.messages.is_empty() {
            state.owner_sleeps = true;
            let is_over = match deadline {
                Some(deadline) => self.0.wake.wait_until(&mut state, deadline).timed_out(),
                None => {
                    self.0.wake.wait(&mut state);
                    false
                }
            };
            state.owner_sleeps = false;
            if is_over {
                break;
            }
        }
        state.messages.pop_front()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.state.lock().messages.is_empty()
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        let messages = std::mem::take(&mut state.messages);
        drop(state);
        // Outside the lock: what is dropped may want to tell somebody.
        drop(messages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_in_their_order_and_to_who_sleeps() {
        let (sender, inbox) = inbox();
        assert_eq!(
            (inbox.try_recv(), inbox.recv(Some(Duration::ZERO))),
            (None, None)
        );
        let other = sender.clone();
        let (echo, echoed) = super::inbox();
        let owner = std::thread::spawn(move || {
            for patience in [None, Some(Duration::MAX), None] {
                echo.send(inbox.recv(patience));
            }
            inbox.recv(Some(Duration::ZERO))
        });
        // One at a time: whoever takes them is asleep, or about to be, whenever one comes.
        for message in 1..=3 {
            other.send(message);
            let answer = echoed.recv(Some(Duration::from_secs(60)));
            assert_eq!(answer, Some(Some(message)));
        }
        assert_eq!(owner.join().unwrap(), None);
    }

    #[test]
    fn nothing_is_kept_for_an_owner_who_is_gone() {
        let (sender, inbox) = inbox();
        let message = Arc::new(());
        sender.send(Arc::clone(&message));
        drop(inbox);
        sender.send(Arc::clone(&message));
        assert_eq!(Arc::strong_count(&message), 1);
    }
}
