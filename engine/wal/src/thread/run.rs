//! The log's thread.

use super::{DurabilityListener, Ticket};
use crate::file::{FsDirectory, MappedFile};
use crate::space::{Chore, Done};
use crate::{Log, SealedBatch, WalError};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// One round lays at most so much before it syncs, so that a flood cannot keep the first one waiting.
const ROUND_BYTES: usize = 64 << 20;
/// How long until something that could not be done for want of room is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How often segments are looked at that wait for their last reader.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

pub(super) enum Message {
    Batch(SealedBatch, Ticket),
    ChoreDone(Box<Done<MappedFile>>),
    Shutdown,
}

pub(super) struct LogThread {
    log: Log<FsDirectory>,
    receiver: Receiver<Message>,
    chores: Sender<Chore<FsDirectory>>,
    listener: Arc<dyn DurabilityListener>,
    mark_after_idle: Duration,
    /// Laid, and announced after the next sync.
    tickets: Vec<Ticket>,
    /// For these there is no segment yet. Everything but compactions queues behind them.
    waiting: VecDeque<(SealedBatch, Ticket)>,
    laid_bytes: usize,
    stopping: bool,
    failed: Option<WalError>,
}

impl LogThread {
    pub(super) fn new(
        log: Log<FsDirectory>,
        receiver: Receiver<Message>,
        chores: Sender<Chore<FsDirectory>>,
        listener: Arc<dyn DurabilityListener>,
        mark_after_idle: Duration,
    ) -> Self {
        Self {
            log,
            receiver,
            chores,
            listener,
            mark_after_idle,
            tickets: Vec::new(),
            waiting: VecDeque::new(),
            laid_bytes: 0,
            stopping: false,
            failed: None,
        }
    }

    pub(super) fn run(mut self) -> Result<(), WalError> {
        let guard = PanicGuard(Arc::clone(&self.listener));
        self.start_chores();
        while !self.stopping {
            self.round();
        }
        self.drain();
        std::mem::forget(guard);
        match self.failed {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    fn round(&mut self) {
        let message = match self.patience() {
            None => self
                .receiver
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
            Some(patience) => self.receiver.recv_timeout(patience),
        };
        match message {
            Ok(message) => {
                self.handle(message);
                while self.laid_bytes < ROUND_BYTES
                    && let Ok(message) = self.receiver.try_recv()
                {
                    self.handle(message);
                }
                self.sync();
            }
            Err(RecvTimeoutError::Timeout) => self.idle(),
            Err(RecvTimeoutError::Disconnected) => self.stopping = true,
        }
        self.start_chores();
    }

    /// How long to wait for a message before there is something else to do; for ever on an idle node.
    fn patience(&self) -> Option<Duration> {
        if self.failed.is_some() {
            return None;
        }
        // After a sync there may be a record left that lets segments go.
        let retry = self.log.spare_failed() || !self.waiting.is_empty() || self.log.is_dirty();
        [
            retry.then_some(RETRY_AFTER),
            self.log.mark_is_stale().then_some(self.mark_after_idle),
            self.log.has_unneeded().then_some(LOOK_AGAIN_AFTER),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn idle(&mut self) {
        if self.log.mark_is_stale()
            && let Err(error) = self.log.write_mark()
        {
            self.fail(error);
        }
        self.log.retry_chores();
        self.lay_waiting();
        self.sync();
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Batch(batch, ticket) => {
                if let Some(error) = &self.failed {
                    self.listener.failed(error);
                } else if self.waiting.is_empty() || batch.only_compacts() {
                    if let Some(batch) = self.lay(batch, ticket) {
                        self.waiting.push_back((batch, ticket));
                    }
                } else {
                    self.waiting.push_back((batch, ticket));
                }
            }
            Message::ChoreDone(done) => {
                match self.log.handle_chore(*done) {
                    Ok(()) => {}
                    Err(error @ WalError::NoSpace { .. }) => tracing::warn!(%error, "log space"),
                    Err(error) => tracing::error!(%error, "preparing a segment"),
                }
                self.lay_waiting();
            }
            Message::Shutdown => self.stopping = true,
        }
    }

    fn lay_waiting(&mut self) {
        while self.failed.is_none()
            && let Some((batch, ticket)) = self.waiting.pop_front()
        {
            if let Some(batch) = self.lay(batch, ticket) {
                self.waiting.push_front((batch, ticket));
                return;
            }
        }
    }

    /// Lays a batch, or gives it back if there is no segment for it yet.
    fn lay(&mut self, batch: SealedBatch, ticket: Ticket) -> Option<SealedBatch> {
        if self.log.must_wait(&batch) {
            return Some(batch);
        }
        match self.log.append(&batch) {
            Ok(_) => {
                self.laid_bytes += batch.bytes();
                self.tickets.push(ticket);
                None
            }
            Err(WalError::NoSpace { .. }) => Some(batch),
            Err(error) => {
                self.fail(error);
                None
            }
        }
    }

    fn sync(&mut self) {
        self.laid_bytes = 0;
        if self.failed.is_some() {
            return;
        }
        match self.log.sync() {
            Ok(_) => {
                if !self.tickets.is_empty() {
                    self.listener.durable(&self.tickets);
                    self.tickets.clear();
                }
            }
            Err(error) => self.fail(error),
        }
    }

    fn start_chores(&mut self) {
        while let Some(chore) = self.log.poll_chore() {
            if self.chores.send(chore).is_err() {
                return;
            }
        }
    }

    /// What was submitted before the shutdown is still laid, if there is room.
    fn drain(&mut self) {
        while let Ok(message) = self.receiver.try_recv() {
            self.handle(message);
        }
        self.start_chores();
        while !self.waiting.is_empty()
            && self.log.spare_is_coming()
            && let Ok(message) = self.receiver.recv()
        {
            self.handle(message);
        }
        self.sync();
        if self.failed.is_none() && !self.waiting.is_empty() {
            // Accepted and not laid, for want of room: its submitters must not think it durable.
            self.listener.failed(&WalError::ShutDown);
        }
        if self.failed.is_none()
            && self.log.mark_is_stale()
            && let Err(error) = self.log.write_mark()
        {
            self.fail(error);
        }
    }

    /// Tells everyone, once here and again for each batch that still comes.
    fn fail(&mut self, error: WalError) {
        self.tickets.clear();
        self.waiting.clear();
        self.listener.failed(&error);
        self.failed = Some(error);
    }
}

/// Tells the waiters if the thread dies of a bug.
struct PanicGuard(Arc<dyn DurabilityListener>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        self.0.failed(&WalError::ShutDown);
    }
}
