//! A worker's mailbox.

use crate::worker::Input;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The sending side. What the engine tells its own workers always gets in, for it is bounded by what the
/// workers asked for; what comes from clients and peers is turned away over the bound (invariant S11).
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    sender: Sender<Input>,
    waiting: Arc<AtomicUsize>,
    limit: usize,
}

/// The receiving side, on the worker's thread.
#[derive(Debug)]
pub(crate) struct Inbox {
    receiver: Receiver<Input>,
    waiting: Arc<AtomicUsize>,
}

/// What came of waiting for an input.
#[derive(Debug)]
pub(crate) enum Wait {
    Input(Input),
    TimedOut,
    /// Every sender is gone.
    Closed,
}

pub(crate) fn mailbox(limit: usize) -> (Mailbox, Inbox) {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let waiting = Arc::new(AtomicUsize::new(0));
    (
        Mailbox {
            sender,
            waiting: waiting.clone(),
            limit,
        },
        Inbox { receiver, waiting },
    )
}

impl Mailbox {
    /// For the engine's own news.
    pub(crate) fn tell(&self, input: Input) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // A worker that has ended needs no news.
        let _ = self.sender.send(input);
    }

    /// For what clients and peers want; given back if too much waits already.
    pub(crate) fn offer(&self, input: Input) -> Result<(), Input> {
        if self.waiting.load(Ordering::Relaxed) >= self.limit {
            return Err(input);
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.sender.send(input).map_err(|refused| refused.0)
    }
}

impl Inbox {
    /// Waits for an input, at most for `timeout`.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Wait {
        let received = match timeout {
            Some(timeout) => self.receiver.recv_timeout(timeout),
            None => self
                .receiver
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(input) => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                Wait::Input(input)
            }
            Err(RecvTimeoutError::Timeout) => Wait::TimedOut,
            Err(RecvTimeoutError::Disconnected) => Wait::Closed,
        }
    }

    /// An input, if one waits.
    pub(crate) fn poll(&self) -> Option<Input> {
        match self.receiver.try_recv() {
            Ok(input) => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                Some(input)
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_turned_away_over_the_bound_and_the_engine_is_not() {
        let (mailbox, inbox) = mailbox(2);
        assert!(mailbox.offer(Input::Stop).is_ok());
        mailbox.tell(Input::Stop);
        assert!(mailbox.offer(Input::Stop).is_err());
        mailbox.tell(Input::Stop);
        assert_eq!(std::iter::from_fn(|| inbox.poll()).count(), 3);
        assert!(mailbox.offer(Input::Stop).is_ok());
    }

    #[test]
    fn waiting_ends_with_the_timeout_or_the_last_sender() {
        let (mailbox, inbox) = mailbox(2);
        assert!(matches!(inbox.wait(Some(Duration::ZERO)), Wait::TimedOut));
        drop(mailbox);
        assert!(matches!(inbox.wait(None), Wait::Closed));
    }
}
