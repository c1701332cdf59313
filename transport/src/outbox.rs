//! The outgoing side of a stream of requests or answers: anyone appends encoded messages under a short
//! lock, one writer task takes all of it in one go and writes it with one call.

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::gather::Gather;

/// Messages that wait to be written, already encoded.
#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    gather: Gather,
    /// Messages pushed and taken since the start.
    pushed: u64,
    taken: u64,
    writer_idle: bool,
    closed: bool,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutboxError {
    Closed,
    Full,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Appends what `encode` writes; it is given the message's ordinal, counted from 0. Refused if more
    /// than `max_bytes` wait already.
    pub(crate) fn push(
        &self,
        max_bytes: usize,
        encode: impl FnOnce(&mut Gather, u64),
    ) -> Result<(), OutboxError> {
        let wake = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(OutboxError::Closed);
            }
            if state.gather.len() > max_bytes {
                return Err(OutboxError::Full);
            }
            let ordinal = state.pushed;
            state.pushed += 1;
            encode(&mut state.gather, ordinal);
            std::mem::take(&mut state.writer_idle)
        };
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Waits until something is there. `false` once the outbox is closed and empty.
    pub(crate) async fn ready(&self) -> bool {
        loop {
            {
                let mut state = self.state.lock();
                if !state.gather.is_empty() {
                    return true;
                }
                if state.closed {
                    return false;
                }
                state.writer_idle = true;
            }
            self.wake.notified().await;
        }
    }

    /// Swaps everything that waits into `spare`, which must be empty, and tells how many messages it
    /// is.
    pub(crate) fn take(&self, spare: &mut Gather) -> u64 {
        assert!(
            spare.is_empty(),
            "the writer still holds {} bytes",
            spare.len()
        );
        let mut state = self.state.lock();
        std::mem::swap(&mut state.gather, spare);
        let messages = state.pushed - state.taken;
        state.taken = state.pushed;
        messages
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().gather.len()
    }

    /// Closes and drops what waits. The ordinal of the first message that was never taken.
    pub(crate) fn discard(&self) -> u64 {
        let mut state = self.state.lock();
        state.closed = true;
        state.gather = Gather::default();
        let taken = state.taken;
        drop(state);
        self.wake.notify_one();
        taken
    }

    /// Refuses what comes from now on; what waits may still be taken.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }
}
