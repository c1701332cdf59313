//! The shell: one thread that owns the log, one that prepares and retires segments, one that notices when these hang, and
//! the handle.
//!
//! The log's thread takes everything that waits, lays it, syncs once and announces all of it (group
//! commit over groups and workers). Nobody waits on a lock during a sync; a lone batch waits for nothing.

mod inbox;
mod run;
mod watch;

use crate::file::{FsDirectory, MappedFile};
use crate::{
    Log, LogDamage, LogIdentity, LogReader, LogScrubber, LogWaits, Lsn, OverQuota, Pressure,
    Recovered, SealedBatch, SyncMode, WalConfig, WalError, WalStats,
};
use crossbeam_channel::{bounded, unbounded};
use inbox::{Sender, inbox};
use parking_lot::Mutex;
use pontoon_types::{Entry, GroupId, LogIndex};
use run::{LogThread, Message, Notice, Timing, Told};
use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use watch::{Wait, Watch};

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

    /// Something has not returned for so long, more than [`WalConfig::hung_after`]: what is submitted waits for it. Said
    /// once for each, from a thread of its own; [`WalStats::hanging`] tells when it is over.
    fn hung(&self, what: &'static str, waited: Duration) {
        let _ = (what, waited);
    }
}

/// For a log of which everybody waits for their own batches, by [`Wal::append`].
impl DurabilityListener for () {
    fn durable(&self, _: &[Ticket]) {}

    fn failed(&self, _: &WalError) {}
}

/// A batch that is on its way to the disk. Wait for it in a thread, or await it; dropping it does not take the batch back.
#[must_use = "the batch is durable only when this says so"]
#[derive(Debug)]
pub struct Durable(oneshot::Receiver<Result<Lsn, WalError>>);

impl Durable {
    /// Waits until the batch is durable. Returns the position below which everything is.
    ///
    /// # Errors
    /// What stopped the log; the batch may be on the disk or not.
    pub fn wait(self) -> Result<Lsn, WalError> {
        self.0.recv().unwrap_or(Err(WalError::ShutDown))
    }
}

impl IntoFuture for Durable {
    type Output = Result<Lsn, WalError>;
    type IntoFuture = AwaitDurable;

    fn into_future(self) -> AwaitDurable {
        AwaitDurable(self.0.into_future())
    }
}

/// A [`Durable`] that is awaited.
#[derive(Debug)]
pub struct AwaitDurable(oneshot::AsyncReceiver<Result<Lsn, WalError>>);

impl Future for AwaitDurable {
    type Output = Result<Lsn, WalError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.get_mut().0).poll(context);
        answer.map(|answer| answer.unwrap_or(Err(WalError::ShutDown)))
    }
}

/// A running log. Clones are handles on the same one; when the last is dropped it drains and stops.
#[derive(Clone)]
pub struct Wal {
    inner: Arc<Inner>,
}

struct Inner {
    sender: Sender<Message<MappedFile>>,
    reader: LogReader<MappedFile>,
    watch: Arc<Watch>,
    sync: SyncMode,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    log: JoinHandle<Result<(), WalError>>,
    preparing: JoinHandle<()>,
    watching: JoinHandle<()>,
    /// Ends the watching when it is dropped.
    stop_watching: crossbeam_channel::Sender<()>,
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
        let watch = Arc::new(Watch::new(config.hung_after));
        let timing = Timing::of(&config);
        let (log, recovered) = Log::open(FsDirectory::open(path)?, config, identity)?;
        let reader = log.reader();
        let (sender, inbox) = inbox();
        let (chores, next_chore) = unbounded();
        let (done, watched) = (sender.clone(), Arc::clone(&watch));
        let preparing = spawn("wal-prepare", move || {
            let _tells = TellsOfPanic(done.clone());
            for chore in next_chore {
                let chore: crate::space::Chore<FsDirectory> = chore;
                let chore = watched.over(Wait::Preparation, || chore.run());
                // If the log is gone nobody needs the result.
                done.send(Message::ChoreDone(Box::new(chore)));
            }
        })?;
        let (stop_watching, stop) = bounded(0);
        let (watched, heard) = (Arc::clone(&watch), Arc::clone(&listener));
        let watching = spawn("wal-watch", move || watched.run(&heard, &stop))?;
        let watched = Arc::clone(&watch);
        let thread = LogThread::new(log, inbox, chores, listener, watched, timing);
        let log = spawn("wal", move || thread.run())?;
        let threads = Threads {
            log,
            preparing,
            watching,
            stop_watching,
        };
        let inner = Inner {
            sender,
            reader,
            watch,
            sync: timing.sync,
            threads: Mutex::new(Some(threads)),
        };
        let wal = Self {
            inner: Arc::new(inner),
        };
        Ok((wal, recovered))
    }

    /// Hands a batch over and returns at once. The listener hears of `ticket` when it is durable.
    pub fn submit(&self, batch: SealedBatch, ticket: Ticket) {
        // After a shutdown nobody listens any more; the batch is then never announced.
        self.send(batch, Told::Listener(ticket));
    }

    /// Hands a batch over, for one who wants to wait until it is durable.
    pub fn append(&self, batch: SealedBatch) -> Durable {
        let (waiter, durable) = oneshot::channel();
        // After a shutdown the waiter is dropped here, and says so.
        self.send(batch, Told::Waiter(waiter));
        Durable(durable)
    }

    fn send(&self, batch: SealedBatch, told: Told) {
        let notice = Notice {
            submitted_at: Instant::now(),
            told,
        };
        self.inner.reader.count_submitted();
        self.inner.sender.send(Message::Batch(batch, notice));
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
        WalStats {
            hangs: self.inner.watch.hangs(),
            hanging: self.inner.watch.hanging(),
            ..self.inner.reader.stats()
        }
    }

    /// How long batches wait.
    #[must_use]
    pub fn waits(&self) -> LogWaits {
        self.inner.reader.waits()
    }

    /// When it syncs.
    #[must_use]
    pub fn sync_mode(&self) -> SyncMode {
        self.inner.sync
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

    /// Reads what is durable and checks it, from any thread.
    #[must_use]
    pub fn scrubber(&self) -> LogScrubber<MappedFile> {
        LogScrubber::new(Arc::clone(self.inner.reader.shared()))
    }

    /// Has a damaged segment go, as [`Log::condemn`] does.
    pub fn condemn(&self, segment: u32) {
        self.inner.sender.send(Message::Condemned(segment));
    }

    /// The damage that was found since the log was opened, in segments that are still there.
    #[must_use]
    pub fn damage(&self) -> Vec<LogDamage> {
        self.inner.reader.shared().damage()
    }

    /// The entries that cannot be read and that their groups have still in the log.
    #[must_use]
    pub fn unreadable(&self) -> BTreeMap<GroupId, Vec<LogIndex>> {
        self.inner.reader.shared().unreadable()
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
        self.inner.sender.send(Message::Shutdown);
        let result = threads.log.join().unwrap_or(Err(WalError::ThreadDied));
        let _ = threads.preparing.join();
        drop(threads.stop_watching);
        let _ = threads.watching.join();
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
        self.sender.send(Message::Shutdown);
    }
}

/// Has the log's thread know if the one that does its chores dies of a bug: nothing that waits for a segment
/// would ever get one.
struct TellsOfPanic<F>(Sender<Message<F>>);

impl<F> Drop for TellsOfPanic<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.send(Message::NoMoreChores);
        }
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
