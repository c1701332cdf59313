//! The bounded queue of one lane to one peer.
//!
//! Plain threads push, one writer task pops all that there is, up to a batch. The writer is woken only
//! if it said that it is idle, so a burst costs one wake-up; while it is busy writing, the next batch
//! grows here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::SendError;
use crate::frame::{FRAME_HEADER_BYTES, Frame};

/// What a full queue does with one more frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// Refuses it: the sender has to slow down.
    Refuse,
    /// Drops the oldest ones: only the newest state of things is of interest.
    DropOldest,
}

#[derive(Debug)]
pub(crate) struct LaneQueue {
    state: Mutex<State>,
    wake: Notify,
    max_bytes: usize,
    when_full: WhenFull,
    dropped: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Frame>,
    bytes: usize,
    writer_idle: bool,
    closed: bool,
}

impl LaneQueue {
    pub(crate) fn new(max_bytes: usize, when_full: WhenFull) -> Self {
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
            max_bytes,
            when_full,
            dropped: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Queues a frame without waiting. A frame always fits into an empty queue.
    pub(crate) fn push(&self, frame: Frame) -> Result<(), SendError> {
        let len = cost(&frame);
        let wake = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(SendError::NotConnected);
            }
            while state.bytes + len > self.max_bytes && !state.frames.is_empty() {
                match self.when_full {
                    WhenFull::Refuse => {
                        self.refused.fetch_add(1, Ordering::Relaxed);
                        return Err(SendError::QueueFull);
                    }
                    WhenFull::DropOldest => {
                        if let Some(oldest) = state.frames.pop_front() {
                            state.bytes -= cost(&oldest);
                            self.dropped.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            }
            state.bytes += len;
            state.frames.push_back(frame);
            std::mem::take(&mut state.writer_idle)
        };
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Waits until something is queued. `false` once the queue is closed.
    pub(crate) async fn ready(&self) -> bool {
        loop {
            {
                let mut state = self.state.lock();
                if state.closed {
                    return false;
                }
                if !state.frames.is_empty() {
                    return true;
                }
                state.writer_idle = true;
            }
            self.wake.notified().await;
        }
    }

    /// Moves frames to `batch` until it holds `max_bytes` or the queue is empty; at least one if there
    /// is one.
    pub(crate) fn pop_batch(&self, batch: &mut Vec<Frame>, max_bytes: usize) {
        let mut state = self.state.lock();
        let mut taken = 0;
        while taken < max_bytes {
            let Some(frame) = state.frames.pop_front() else {
                break;
            };
            let len = cost(&frame);
            state.bytes -= len;
            taken += len;
            batch.push(frame);
        }
    }

    /// Drops what is queued and refuses what comes.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.bytes = 0;
        state.frames = VecDeque::new();
        drop(state);
        self.wake.notify_one();
    }

    pub(crate) fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// What a frame counts for: also an empty one takes room.
fn cost(frame: &Frame) -> usize {
    frame.len() + FRAME_HEADER_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn frame(byte: u8, len: usize) -> Frame {
        Frame::from(vec![byte; len])
    }

    fn popped(queue: &LaneQueue) -> Vec<u8> {
        let mut batch = Vec::new();
        queue.pop_batch(&mut batch, usize::MAX);
        let first = |frame: Frame| frame.into_chunks().next().map(|chunk: Bytes| chunk[0]);
        batch.into_iter().filter_map(first).collect()
    }

    #[test]
    fn an_append_queue_at_its_bound_refuses() {
        let queue = LaneQueue::new(250, WhenFull::Refuse);
        assert_eq!(queue.push(frame(1, 100)), Ok(()));
        assert_eq!(queue.push(frame(2, 100)), Ok(()));
        assert_eq!(queue.push(frame(3, 100)), Err(SendError::QueueFull));
        assert_eq!((queue.refused(), queue.dropped()), (1, 0));
        assert_eq!(popped(&queue), [1, 2]);
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn a_control_queue_at_its_bound_drops_its_oldest() {
        let queue = LaneQueue::new(250, WhenFull::DropOldest);
        for byte in 1..=4 {
            assert_eq!(queue.push(frame(byte, 100)), Ok(()));
        }
        assert_eq!((queue.refused(), queue.dropped()), (0, 2));
        assert_eq!(popped(&queue), [3, 4]);
    }

    #[test]
    fn a_frame_over_the_bound_fits_into_an_empty_queue() {
        let queue = LaneQueue::new(250, WhenFull::Refuse);
        assert_eq!(queue.push(frame(1, 1_000)), Ok(()));
        assert_eq!(queue.push(frame(2, 1)), Err(SendError::QueueFull));
        assert_eq!(popped(&queue), [1]);
    }

    #[test]
    fn a_batch_ends_at_its_bound() {
        let queue = LaneQueue::new(10_000, WhenFull::Refuse);
        for byte in 1..=4 {
            assert_eq!(queue.push(frame(byte, 100)), Ok(()));
        }
        let mut batch = Vec::new();
        queue.pop_batch(&mut batch, 150);
        assert_eq!(batch.len(), 2);
        assert_eq!(queue.bytes(), 2 * 108);
    }

    #[test]
    fn a_closed_queue_is_empty_and_refuses() {
        let queue = LaneQueue::new(250, WhenFull::Refuse);
        assert_eq!(queue.push(frame(1, 100)), Ok(()));
        queue.close();
        assert_eq!(queue.push(frame(2, 1)), Err(SendError::NotConnected));
        assert!(popped(&queue).is_empty());
    }
}
