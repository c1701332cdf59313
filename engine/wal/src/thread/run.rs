//! The log's thread.

use super::inbox::Inbox;
use super::watch::{Wait, Watch};
use super::{DurabilityListener, Ticket};
use crate::file::Directory;
use crate::space::{Chore, Done};
use crate::{Log, LogQueue, Lsn, Pressure, SealedBatch, SyncMode, WalConfig, WalError};
use crossbeam_channel::Sender;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One round lays at most so much before it syncs, so that a flood cannot keep the first one waiting.
const ROUND_BYTES: usize = 64 << 20;
/// How often the thread lets others go first before it syncs, at most.
const COURTESIES: usize = 2;
/// How long until something that could not be done for want of room is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How often segments are looked at that wait for their last reader.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is to be said of a batch, and since when it waits.
pub(super) struct Notice {
    pub(super) submitted_at: Instant,
    pub(super) told: Told,
}

/// Who is told.
pub(super) enum Told {
    Listener(Ticket),
    Waiter(oneshot::Sender<Result<Lsn, WalError>>),
}

impl Notice {
    /// Tells a waiter; who has a ticket is told with others. One who waits no more is not missed.
    fn tell(self, result: Result<Lsn, WalError>) -> Option<Ticket> {
        match self.told {
            Told::Listener(ticket) => return Some(ticket),
            Told::Waiter(waiter) => drop(waiter.send(result)),
        }
        None
    }
}

/// The settings that are about time.
#[derive(Clone, Copy)]
pub(super) struct Timing {
    pub(super) sync: SyncMode,
    mark_after_idle: Duration,
}

impl Timing {
    pub(super) const fn of(config: &WalConfig) -> Self {
        Self {
            sync: config.sync,
            mark_after_idle: config.mark_after_idle,
        }
    }
}

pub(super) enum Message<F> {
    Batch(SealedBatch, Notice),
    ChoreDone(Box<Done<F>>),
    /// A segment is damaged.
    Condemned(u32),
    /// The thread that does them has died.
    NoMoreChores,
    Shutdown,
}

pub(super) struct LogThread<D: Directory> {
    log: Log<D>,
    inbox: Inbox<Message<D::File>>,
    chores: Sender<Chore<D>>,
    listener: Arc<dyn DurabilityListener>,
    watch: Arc<Watch>,
    timing: Timing,
    /// When the last sync began, where that matters.
    synced_at: Instant,
    queue: LogQueue<Notice>,
    /// Where tickets are gathered to be announced; kept for its memory.
    tickets: Vec<Ticket>,
    laid_bytes: usize,
    stopping: bool,
    failed: Option<WalError>,
}

impl<D: Directory> LogThread<D> {
    pub(super) fn new(
        log: Log<D>,
        inbox: Inbox<Message<D::File>>,
        chores: Sender<Chore<D>>,
        listener: Arc<dyn DurabilityListener>,
        watch: Arc<Watch>,
        timing: Timing,
    ) -> Self {
        Self {
            log,
            inbox,
            chores,
            listener,
            watch,
            timing,
            synced_at: Instant::now(),
            queue: LogQueue::default(),
            tickets: Vec::new(),
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
        match self.inbox.recv(self.patience()) {
            Some(message) => {
                self.handle(message);
                // On a busy machine those who have more to write get the core first, as long as they
                // bring more, and share the sync; on an idle one this costs nothing.
                for _ in 0..COURTESIES {
                    std::thread::yield_now();
                    if !self.take_waiting() {
                        break;
                    }
                }
                self.finish_round();
            }
            None => self.idle(),
        }
        self.start_chores();
    }

    /// Takes what has been submitted meanwhile; `false` if that is nothing.
    fn take_waiting(&mut self) -> bool {
        let mut any = false;
        while self.laid_bytes < ROUND_BYTES
            && let Some(message) = self.inbox.try_recv()
        {
            self.handle(message);
            any = true;
        }
        any
    }

    /// How long to wait for a message before there is something else to do; for ever on an idle node.
    fn patience(&self) -> Option<Duration> {
        if self.failed.is_some() {
            return None;
        }
        // After a sync there may be a record left that lets segments go.
        let sync = match self.timing.sync {
            SyncMode::Interval(_) | SyncMode::Os if self.wants_room() => Some(RETRY_AFTER),
            SyncMode::Always => Some(RETRY_AFTER),
            SyncMode::Interval(interval) => Some(interval.saturating_sub(self.synced_at.elapsed())),
            SyncMode::Os => None,
        };
        let retry = self.log.spare_failed() || self.queue.has_waiting();
        [
            retry.then_some(RETRY_AFTER),
            sync.filter(|_| self.log.is_dirty()),
            self.log
                .mark_is_stale()
                .then_some(self.timing.mark_after_idle),
            self.log.has_unneeded().then_some(LOOK_AGAIN_AFTER),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn idle(&mut self) {
        self.write_mark();
        self.log.retry_chores();
        self.lay_waiting();
        self.finish_round();
    }

    fn handle(&mut self, message: Message<D::File>) {
        match message {
            Message::Batch(batch, notice) => {
                if let Some(error) = &self.failed {
                    if notice.tell(Err(error.clone())).is_some() {
                        self.listener.failed(error);
                    }
                    return;
                }
                let (log, laid_bytes) = (&mut self.log, &mut self.laid_bytes);
                let submit = || {
                    let lay = |batch: &SealedBatch| lay(log, batch, laid_bytes);
                    self.queue.submit(batch, notice, lay)
                };
                let submitted = self.watch.over(Wait::Write, submit);
                submitted.unwrap_or_else(|error| self.fail(error));
            }
            Message::ChoreDone(done) => {
                match self.log.handle_chore(*done) {
                    Ok(()) => {}
                    Err(error @ WalError::NoSpace { .. }) => tracing::warn!(%error, "log space"),
                    Err(error @ WalError::Poisoned { .. }) => self.fail_once(error),
                    Err(error) => tracing::error!(%error, "preparing a segment"),
                }
                self.lay_waiting();
            }
            Message::Condemned(segment) => {
                self.log.condemn(segment);
                self.lay_waiting();
            }
            Message::NoMoreChores => self.fail_once(WalError::ThreadDied),
            Message::Shutdown => self.stopping = true,
        }
    }

    fn lay_waiting(&mut self) {
        if self.failed.is_some() {
            return;
        }
        let (log, laid_bytes) = (&mut self.log, &mut self.laid_bytes);
        let queue = &mut self.queue;
        let lay_all = || {
            queue.lay_waiting(|batch| lay(log, batch, laid_bytes))?;
            log.lay_rewritten()
        };
        let laid = self.watch.over(Wait::Write, lay_all);
        laid.unwrap_or_else(|error| self.fail(error));
    }

    /// Syncs, if it is time to, and announces what was laid.
    fn finish_round(&mut self) {
        let is_due = match self.timing.sync {
            SyncMode::Always => true,
            SyncMode::Interval(interval) => {
                self.synced_at.elapsed() >= interval || self.wants_room()
            }
            SyncMode::Os => self.log.has_left_a_segment() || self.wants_room(),
        };
        if is_due {
            self.sync();
        }
        self.laid_bytes = 0;
        self.announce();
    }

    /// Whether there is no room for something: only a sync lets segments go, in any mode.
    fn wants_room(&self) -> bool {
        self.log.spare_failed() || self.queue.has_waiting() || self.log.pressure() == Pressure::Full
    }

    fn sync(&mut self) {
        if self.failed.is_some() {
            return;
        }
        if let SyncMode::Interval(_) = self.timing.sync {
            self.synced_at = Instant::now();
        }
        let log = &mut self.log;
        if let Err(error) = self.watch.over(Wait::Sync, || log.sync()) {
            self.fail(error);
        }
    }

    fn announce(&mut self) {
        let notices = self.queue.take_laid();
        if notices.len() == 0 {
            return;
        }
        let (end, now) = (self.log.durable(), Instant::now());
        let (mut batches, mut waited_us) = (0, 0);
        let told = notices.filter_map(|notice| {
            batches += 1;
            waited_us += now.duration_since(notice.submitted_at).as_micros() as u64;
            notice.tell(Ok(end))
        });
        self.tickets.extend(told);
        self.log.count_waits(batches, waited_us);
        if !self.tickets.is_empty() {
            self.listener.durable(&self.tickets);
            self.tickets.clear();
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
        while let Some(message) = self.inbox.try_recv() {
            self.handle(message);
        }
        self.start_chores();
        while self.queue.has_waiting()
            && self.log.spare_is_coming()
            && let Some(message) = self.inbox.recv(None)
        {
            self.handle(message);
            self.start_chores();
        }
        self.sync();
        self.announce();
        if self.failed.is_none() && self.queue.has_waiting() {
            // Accepted and not laid, for want of room: its submitters must not think it durable.
            self.give_up(&WalError::ShutDown);
        }
        self.write_mark();
    }

    fn write_mark(&mut self) {
        if self.failed.is_some() || !self.log.mark_is_stale() {
            return;
        }
        let log = &mut self.log;
        if let Err(error) = self.watch.over(Wait::Sync, || log.write_mark()) {
            self.fail(error);
        }
    }

    /// Tells everyone, once here and again for each batch that still comes.
    fn fail(&mut self, error: WalError) {
        self.give_up(&error);
        self.failed = Some(error);
    }

    fn fail_once(&mut self, error: WalError) {
        if self.failed.is_none() {
            self.fail(error);
        }
    }

    fn give_up(&mut self, error: &WalError) {
        for notice in self.queue.give_up() {
            notice.tell(Err(error.clone()));
        }
        self.listener.failed(error);
    }
}

/// Lays a batch if there is a segment for it; returns whether.
fn lay<D: Directory>(
    log: &mut Log<D>,
    batch: &SealedBatch,
    laid_bytes: &mut usize,
) -> Result<bool, WalError> {
    let is_laid = log.try_append(batch)?;
    *laid_bytes += if is_laid { batch.bytes() } else { 0 };
    Ok(is_laid)
}

/// Tells the waiters if the thread dies of a bug.
struct PanicGuard(Arc<dyn DurabilityListener>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        self.0.failed(&WalError::ThreadDied);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::thread::inbox::{self, inbox};
    use crate::{BatchBuilder, LogIdentity, MemoryDisk, WalConfig};
    use crossbeam_channel::{Receiver, unbounded};
    use parking_lot::Mutex;
    use pontoon_types::{ClusterId, Entry, EntryKind, GroupId, LogIndex, NodeId, Term};

    const SEGMENT: u64 = 64 << 10;

    #[derive(Default)]
    struct Heard {
        durable: Mutex<Vec<u64>>,
        failures: Mutex<Vec<WalError>>,
    }

    impl DurabilityListener for Heard {
        fn durable(&self, tickets: &[Ticket]) {
            let numbers = tickets.iter().map(|ticket| ticket.sequence);
            self.durable.lock().extend(numbers);
        }

        fn failed(&self, error: &WalError) {
            self.failures.lock().push(error.clone());
        }
    }

    /// The thread without a thread: the test takes its turns, and its chores.
    struct Stepped {
        thread: LogThread<MemoryDisk>,
        sender: inbox::Sender<Message<crate::MemoryFile>>,
        chores: Receiver<Chore<MemoryDisk>>,
        heard: Arc<Heard>,
        next: u64,
    }

    fn notice(told: Told) -> Notice {
        Notice {
            submitted_at: Instant::now(),
            told,
        }
    }

    impl Stepped {
        fn new(disk: &MemoryDisk) -> Self {
            Self::syncing(disk, SyncMode::Always)
        }

        fn syncing(disk: &MemoryDisk, sync: SyncMode) -> Self {
            let config = WalConfig {
                segment_bytes: SEGMENT,
                mark_after_idle: Duration::ZERO,
                ..WalConfig::default()
            };
            let identity = LogIdentity {
                cluster: ClusterId(1),
                node: NodeId(1),
            };
            let (log, _) = Log::open(disk.clone(), config, identity).unwrap();
            let (sender, inbox) = inbox();
            let (chore_sender, chores) = unbounded();
            let heard = Arc::new(Heard::default());
            let listener: Arc<dyn DurabilityListener> = heard.clone();
            let watch = Arc::new(Watch::new(Duration::from_secs(1)));
            let timing = Timing {
                sync,
                mark_after_idle: Duration::ZERO,
            };
            let thread = LogThread::new(log, inbox, chore_sender, listener, watch, timing);
            let mut stepped = Self {
                thread,
                sender,
                chores,
                heard,
                next: 1,
            };
            stepped.thread.start_chores();
            stepped
        }

        fn submit(&mut self, bytes: usize) {
            let entry = Entry::encode(
                GroupId(1),
                Term(1),
                LogIndex(self.next),
                EntryKind::Command,
                &vec![1; bytes],
            );
            let mut batch = BatchBuilder::new();
            batch.append(&entry);
            self.send(batch.seal(), self.next);
            self.next += 1;
        }

        fn send(&mut self, batch: SealedBatch, sequence: u64) {
            let told = Told::Listener(Ticket {
                worker: 0,
                sequence,
            });
            let notice = notice(told);
            self.sender.send(Message::Batch(batch, notice));
        }

        fn do_chores(&mut self) {
            while let Ok(chore) = self.chores.try_recv() {
                self.sender.send(Message::ChoreDone(Box::new(chore.run())));
                self.thread.round();
            }
        }

        fn announced(&self) -> usize {
            self.heard.durable.lock().len()
        }
    }

    #[test]
    fn everything_that_waits_shares_one_sync() {
        let mut stepped = Stepped::new(&MemoryDisk::new());
        let before = stepped.thread.log.stats().syncs;
        for _ in 0..100 {
            stepped.submit(100);
        }
        stepped.thread.round();
        assert_eq!(stepped.announced(), 100);
        assert_eq!(stepped.thread.log.stats().syncs, before + 1);
    }

    #[test]
    fn nothing_is_announced_before_its_sync_or_after_one_failed() {
        let disk = MemoryDisk::new();
        let mut stepped = Stepped::new(&disk);
        disk.fail_sync_after(0);
        stepped.submit(100);
        stepped.submit(100);
        stepped.thread.round();
        assert_eq!(stepped.announced(), 0);
        assert!(matches!(
            stepped.heard.failures.lock()[..],
            [WalError::Poisoned { .. }]
        ));
        // Later ones hear it too, although the disk says again that it syncs.
        stepped.submit(100);
        stepped.thread.round();
        assert_eq!(
            (stepped.announced(), stepped.heard.failures.lock().len()),
            (0, 2)
        );
    }

    #[test]
    fn who_waits_for_a_segment_hears_that_nobody_makes_any_more() {
        let mut stepped = Stepped::new(&MemoryDisk::new());
        for _ in 0..20 {
            stepped.submit(9_000);
        }
        stepped.thread.round();
        assert!(stepped.announced() < 20, "some wait");
        let sender = stepped.sender.clone();
        let dying = std::thread::spawn(move || {
            let _tells = crate::thread::TellsOfPanic(sender);
            std::panic::resume_unwind(Box::new("a bug"));
        });
        assert!(dying.join().is_err());
        stepped.thread.round();
        assert!(!stepped.thread.queue.has_waiting());
        assert!(matches!(
            stepped.heard.failures.lock()[..],
            [WalError::ThreadDied]
        ));
    }

    #[test]
    fn who_does_not_wait_for_syncs_gets_them_at_an_interval_or_with_a_segment() {
        let hour = SyncMode::Interval(Duration::from_secs(3600));
        for (sync, are_synced) in [
            (SyncMode::Always, true),
            (hour, false),
            (SyncMode::Os, false),
        ] {
            let disk = MemoryDisk::new();
            let mut stepped = Stepped::syncing(&disk, sync);
            stepped.do_chores();
            let before = stepped.thread.log.stats().syncs;
            stepped.submit(9_000);
            stepped.thread.round();
            assert_eq!(stepped.announced(), 1);
            let syncs = stepped.thread.log.stats().syncs;
            assert_eq!(syncs > before, are_synced, "{sync:?}");
            assert_eq!(stepped.thread.log.is_dirty(), !are_synced);
            for _ in 0..7 {
                stepped.submit(9_000);
                stepped.thread.round();
                stepped.do_chores();
            }
            assert_eq!(stepped.announced(), 8);
            let syncs = stepped.thread.log.stats().syncs;
            assert_eq!(syncs > before, sync != hour, "{sync:?}: a segment was left");
            // At the end everything is.
            stepped.thread.drain();
            assert!(!stepped.thread.log.is_dirty() && stepped.thread.failed.is_none());
        }
        let mut stepped = Stepped::syncing(&MemoryDisk::new(), SyncMode::Interval(Duration::ZERO));
        stepped.submit(100);
        stepped.thread.round();
        assert!(!stepped.thread.log.is_dirty(), "the interval is over");
    }

    #[test]
    fn who_waits_for_a_batch_is_told_when_it_is_durable_or_that_it_will_not_be() {
        let disk = MemoryDisk::new();
        let mut stepped = Stepped::new(&disk);
        let wait = |stepped: &mut Stepped| {
            let (waiter, waiting) = oneshot::channel();
            let notice = notice(Told::Waiter(waiter));
            let sealed = BatchBuilder::new().seal();
            stepped.sender.send(Message::Batch(sealed, notice));
            super::super::Durable(waiting)
        };
        stepped.submit(100);
        let durable = wait(&mut stepped);
        stepped.thread.round();
        assert_eq!(durable.wait().unwrap(), stepped.thread.log.durable());
        disk.fail_sync_after(0);
        stepped.submit(100);
        let durable = wait(&mut stepped);
        stepped.thread.round();
        let late = wait(&mut stepped);
        stepped.thread.round();
        for durable in [durable, late] {
            assert!(matches!(durable.wait(), Err(WalError::Poisoned { .. })));
        }
        let durable = wait(&mut stepped);
        drop(stepped);
        assert!(matches!(durable.wait(), Err(WalError::ShutDown)));
    }

    #[test]
    fn who_waits_for_a_segment_that_the_disk_fails_to_give_is_told() {
        let disk = MemoryDisk::new();
        let mut stepped = Stepped::new(&disk);
        for _ in 0..8 {
            stepped.submit(9_000);
            stepped.thread.round();
        }
        let announced = stepped.announced();
        assert!(stepped.thread.queue.has_waiting() && announced > 0);
        disk.fail_sync_after(0);
        stepped.do_chores();
        assert_eq!(stepped.announced(), announced);
        assert!(matches!(
            stepped.heard.failures.lock()[..],
            [WalError::Poisoned { .. }]
        ));
        assert!(!stepped.thread.queue.has_waiting());
    }

    #[test]
    fn batches_without_room_wait_and_a_compaction_that_makes_room_overtakes_them() {
        // Also where nobody waits for syncs: room comes of one all the same.
        let hour = Duration::from_secs(3600);
        for sync in [SyncMode::Always, SyncMode::Interval(hour), SyncMode::Os] {
            batches_wait_for_room(sync);
        }
    }

    fn batches_wait_for_room(sync: SyncMode) {
        let disk = MemoryDisk::new();
        let mut stepped = Stepped::syncing(&disk, sync);
        stepped.do_chores();
        disk.limit(Some(3 * SEGMENT));
        for _ in 0..14 {
            stepped.submit(9_000);
            stepped.thread.round();
            stepped.do_chores();
        }
        let waiting = stepped.thread.queue.waiting();
        assert!(waiting > 0 && stepped.announced() == 14 - waiting);
        assert_eq!(stepped.thread.log.pressure(), Pressure::Full);
        assert!(
            stepped.heard.failures.lock().is_empty(),
            "a full disk is no failure"
        );
        let mut batch = BatchBuilder::new();
        let laid = LogIndex(stepped.announced() as u64);
        batch.compact(
            GroupId(1),
            pontoon_types::LogPosition {
                term: Term(1),
                index: laid,
            },
        );
        stepped.send(batch.seal(), 1_000);
        let laid = stepped.thread.log.stats().batches;
        stepped.thread.round();
        assert_eq!(
            stepped.thread.log.stats().batches,
            laid + 1,
            "it did not wait"
        );
        assert!(
            !stepped.heard.durable.lock().contains(&1_000),
            "who hears of it believes that what waits is durable too"
        );
        // Then the thread needs no more than time and its chores.
        while stepped.thread.patience().is_some() || !stepped.thread.inbox.is_empty() {
            stepped.thread.round();
            stepped.do_chores();
        }
        let in_order: Vec<u64> = (1..=14).chain([1_000]).collect();
        assert_eq!(*stepped.heard.durable.lock(), in_order);
        assert_eq!(stepped.thread.log.pressure(), Pressure::Ok);
    }

    #[test]
    fn the_mark_follows_when_the_log_is_idle_and_then_nothing_wakes_the_thread() {
        let mut stepped = Stepped::new(&MemoryDisk::new());
        stepped.do_chores();
        stepped.submit(100);
        stepped.thread.round();
        assert!(stepped.thread.log.mark_is_stale());
        stepped.thread.round();
        assert!(!stepped.thread.log.mark_is_stale());
        assert_eq!(stepped.thread.patience(), None);
    }
}
