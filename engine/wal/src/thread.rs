//! The shell: one thread that owns the log, one that prepares and retires segments, and the handle.
//!
//! The log's thread takes everything that waits, lays it, syncs once and announces all of it (group
//! commit over groups and workers). Nobody waits on a lock during a sync; a lone batch waits for nothing.

mod run;

use crate::file::{FsDirectory, MappedFile};
use crate::{
    Log, LogIdentity, LogReader, OverQuota, Pressure, Recovered, SealedBatch, WalConfig, WalError,
    WalStats,
};
use crossbeam_channel::{Sender, unbounded};
use parking_lot::Mutex;
use pontoon_types::{Entry, GroupId, LogIndex};
use run::{LogThread, Message};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Names a submitted batch to the one who waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The worker that submitted it.
    pub worker: u32,
    /// Its number among that worker's.
    pub sequence: u64,
}

/// Learns what is durable. Called on the log's thread, so it must hand over and return.
pub trait DurabilityListener: Send + Sync + 'static {
    /// These batches are durable. Those of one worker come in the order in which they were submitted.
    fn durable(&self, tickets: &[Ticket]);

    /// The log has stopped. Nothing that was not announced before is durable, and nothing ever will be.
    fn failed(&self, error: &WalError);
}

/// A running log. Clones are handles on the same one; when the last is dropped it drains and stops.
#[derive(Clone)]
pub struct Wal {
    inner: Arc<Inner>,
}

struct Inner {
    sender: Sender<Message<MappedFile>>,
    reader: LogReader<MappedFile>,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    log: JoinHandle<Result<(), WalError>>,
    preparing: JoinHandle<()>,
}

impl Wal {
    /// Opens the log of a directory, or starts one there, and starts its threads.
    ///
    /// # Errors
    /// If the directory is in use ([`WalError::Locked`]), belongs to another node
    /// ([`WalError::Foreign`]), cannot be used or has no room for a segment.
    pub fn open(
        path: &Path,
        config: WalConfig,
        identity: LogIdentity,
        listener: Arc<dyn DurabilityListener>,
    ) -> Result<(Self, Recovered), WalError> {
        let mark_after_idle = config.mark_after_idle;
        let (log, recovered) = Log::open(FsDirectory::open(path)?, config, identity)?;
        let reader = log.reader();
        let (sender, receiver) = unbounded();
        let (chores, next_chore) = unbounded();
        let done = sender.clone();
        let preparing = spawn("wal-prepare", move || {
            for chore in next_chore {
                let chore: crate::space::Chore<FsDirectory> = chore;
                // If the log is gone nobody needs the result.
                let _ = done.send(Message::ChoreDone(Box::new(chore.run())));
            }
        })?;
        let thread = LogThread::new(log, receiver, chores, listener, mark_after_idle);
        let log = spawn("wal", move || thread.run())?;
        let inner = Inner {
            sender,
            reader,
            threads: Mutex::new(Some(Threads { log, preparing })),
        };
        let wal = Self {
            inner: Arc::new(inner),
        };
        Ok((wal, recovered))
    }

    /// Hands a batch over and returns at once. The listener hears of `ticket` when it is durable.
    pub fn submit(&self, batch: SealedBatch, ticket: Ticket) {
        // After a shutdown nobody listens any more; the batch is then never announced.
        let _ = self.inner.sender.send(Message::Batch(batch, ticket));
    }

    /// Reads entries from any thread, as [`LogReader::read`] does.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub fn read(
        &self,
        group: GroupId,
        from: LogIndex,
        to: LogIndex,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, WalError> {
        self.inner.reader.read(group, from, to, max_bytes)
    }

    /// What was counted since the log was opened.
    #[must_use]
    pub fn stats(&self) -> WalStats {
        self.inner.reader.stats()
    }

    /// Whether there is room for proposals; cheap enough to ask for each.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        self.inner.reader.pressure()
    }

    /// The groups that hold more of the log than
    /// [`WalConfig::group_quota_bytes`](crate::WalConfig::group_quota_bytes), and what of it.
    #[must_use]
    pub fn over_quota(&self) -> Vec<OverQuota> {
        self.inner.reader.over_quota()
    }

    /// Lays and syncs what was submitted before, announces it, writes the durable mark and ends the
    /// threads. Other handles can still read; what they submit is not taken.
    ///
    /// # Errors
    /// The error that stopped the log, if one had; [`WalError::ShutDown`] if it was shut down before.
    pub fn shutdown(self) -> Result<(), WalError> {
        let Some(threads) = self.inner.threads.lock().take() else {
            return Err(WalError::ShutDown);
        };
        let _ = self.inner.sender.send(Message::Shutdown);
        let result = threads.log.join().unwrap_or(Err(WalError::ThreadDied));
        let _ = threads.preparing.join();
        result
    }
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wal").finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The thread is not joined: this may be running on it.
        let _ = self.sender.send(Message::Shutdown);
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, WalError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(WalError::io(crate::Operation::Create, "thread"))
}
