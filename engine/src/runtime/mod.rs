//! The shell around the workers: their threads, the log's, the apply thread and the readers.
//!
//! ```text
//!  clients, peers ──> mailbox ──> worker ──┬──> log thread ───> (durable) ──┐
//!                        ^                 ├──> host: one frame per peer    │
//!                        │                 └──> apply thread ──> readers    │
//!                        └────────── applied ─────────┴─────────────────────┘
//! ```
//!
//! A worker never waits for a sync, a flush or a read: it hands them on, and hears of them by its
//! mailbox. Starting takes two steps, so that a node can settle who it is in between:
//! [`Opened`] has the log and the store and serves nothing, [`Engine`] runs.

mod apply;
pub mod clock;
mod held;
mod keeper;
mod mailbox;
mod open;
mod readers;
mod recover;
mod scrub;
mod snapshots;
mod work;

use crate::error::EngineError;
use crate::frame::{Frame, Lane, Origin};
use crate::held::{DigestState, HeldStates, HeldStats};
use crate::reply::{Places, Reply, Waiter};
use crate::snapshot::{CarrierInput, SnapshotCounters, SnapshotUnderWay};
use crate::status::{GroupStatus, LostReplicas};
use crate::worker::{Input, MemberStep, Read, STOPPING};
use apply::ApplyJob;
use bytes::Bytes;
use crossbeam_channel::Sender;
use held::HeldJob;
use mailbox::Mailbox;
pub use open::Opened;
use parking_lot::Mutex;
use pontoon_store::{LsmMonitor, LsmView, Pieces, ReplicaRecord, ScrubSchedule};
use pontoon_types::{GroupId, LogIndex, NodeId};
use pontoon_wal::{LogDamage, Pressure, SyncMode, Wal, WalStats};
use readers::ReadJob;
pub use recover::ReplicaSurvey;
use snapshots::CarrierJob;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// What the engine needs of the process it runs in. Called from worker threads: nothing may block.
pub trait Host: Send + Sync + 'static {
    /// Sends a frame to a node. It may be lost: Raft repairs that. `worker` says which one it comes
    /// from; the frames of one worker to one node on one lane should arrive in order.
    fn send(&self, to: NodeId, worker: usize, lane: Lane, frame: Frame);

    /// A replica has come, has left (`None`), or is of other members: this is its record from now on. Called on the
    /// apply thread, in the order of what is applied.
    fn replica_changed(&self, group: GroupId, record: Option<&ReplicaRecord>) {
        let _ = (group, record);
    }

    /// The engine cannot go on, and the node must stop: a sync or the store failed, and nothing that it
    /// says can be trusted any more.
    fn failed(&self, error: EngineError);
}

fn worker_of(group: GroupId, workers: usize) -> usize {
    (group.0 % workers as u64) as usize
}

/// Tells the host if a thread dies of a bug: its part of the node would be dead, and nobody would know.
struct PanicGuard {
    thread: String,
    host: Arc<dyn Host>,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.host.failed(EngineError::ThreadDied {
                thread: std::mem::take(&mut self.thread),
            });
        }
    }
}

fn spawn(
    name: String,
    host: &Arc<dyn Host>,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, EngineError> {
    let guard = PanicGuard {
        thread: name.clone(),
        host: host.clone(),
    };
    std::thread::Builder::new()
        .name(name.clone())
        .spawn(move || {
            let _guard = guard;
            body();
        })
        .map_err(|source| EngineError::Thread {
            thread: name,
            source,
        })
}

/// What the threads share.
struct Shared {
    mailboxes: Vec<Mailbox<Input>>,
    wal: Wal,
    /// Per worker: whether nobody waits for it and it waits for nobody.
    drained: Vec<AtomicBool>,
    /// Per worker: the replicas that it has lost.
    lost: Vec<Mutex<LostReplicas>>,
    halting: AtomicBool,
    /// The log is to be read now.
    scrub_is_wanted: AtomicBool,
    /// The records of the replicas, as the apply thread has them.
    replicas: Mutex<BTreeMap<GroupId, ReplicaRecord>>,
    /// The states that marks have pinned.
    held: Mutex<HeldStates<LsmView>>,
}

impl Shared {
    /// Some of a replica's rows cannot be read: it is to be rebuilt.
    fn state_damaged(&self, group: GroupId, pieces: &Pieces) {
        self.mailboxes[worker_of(group, self.mailboxes.len())].tell(Input::StateDamaged {
            group,
            pieces: pieces.clone(),
            is_stuck: false,
        });
    }
}

#[derive(Default)]
struct Threads {
    workers: Vec<JoinHandle<()>>,
    apply: Vec<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
    carrier: Vec<JoinHandle<()>>,
    held: Vec<JoinHandle<()>>,
    keeper: Vec<JoinHandle<()>>,
    scrub: Vec<JoinHandle<()>>,
}

/// A running engine.
pub struct Engine {
    shared: Arc<Shared>,
    apply: Mailbox<ApplyJob>,
    readers: Sender<ReadJob>,
    /// For reads, until they are answered: they wait for rounds, for entries to be applied, for the disk.
    reads: Arc<Places>,
    carrier: Mailbox<CarrierJob>,
    held: Mailbox<HeldJob>,
    carried: Arc<Mutex<snapshots::Told>>,
    store: LsmMonitor,
    log_schedule: ScrubSchedule,
    threads: Mutex<Threads>,
}

impl Engine {
    /// The replicas that this node runs.
    #[must_use]
    pub fn replicas(&self) -> Vec<ReplicaRecord> {
        self.shared.replicas.lock().values().cloned().collect()
    }

    fn mailbox(&self, group: GroupId) -> &Mailbox<Input> {
        let mailboxes = &self.shared.mailboxes;
        &mailboxes[worker_of(group, mailboxes.len())]
    }

    /// Proposes an encoded command to a group. The waiter is answered when it has been applied, or when
    /// it is sure that it never will be.
    pub fn propose(&self, group: GroupId, command: Bytes, waiter: Waiter) {
        let bytes = command.len();
        let input = Input::Propose {
            group,
            command,
            waiter,
        };
        if let Some(Input::Propose { waiter, .. }) = self.mailbox(group).offer(input, bytes) {
            waiter.reply(self.no_room());
        }
    }

    /// Reads from a group, linearizably.
    pub fn read(&self, group: GroupId, mut read: Read) {
        if !read.waiter.take_place(&self.reads) {
            return read.waiter.reply(Reply::Overloaded {
                reason: "too many reads wait",
            });
        }
        if let Some(Input::Read { read, .. }) =
            self.mailbox(group).offer(Input::Read { group, read }, 0)
        {
            read.waiter.reply(self.no_room());
        }
    }

    /// Why a mailbox has not taken something in.
    fn no_room(&self) -> Reply {
        if self.shared.halting.load(Ordering::Acquire) {
            return STOPPING;
        }
        Reply::Overloaded {
            reason: "too many requests wait",
        }
    }

    /// Takes in a frame that a worker of another node sent. Over the bound it is dropped.
    pub fn receive(&self, from: NodeId, frame: Bytes) {
        let (mailboxes, bytes) = (&self.shared.mailboxes, frame.len());
        match Origin::of(&frame) {
            Ok(Origin { worker, workers })
                if usize::from(workers) == mailboxes.len() && worker < workers =>
            {
                let _ =
                    mailboxes[usize::from(worker)].offer_frame(Input::Frame { from, frame }, bytes);
            }
            // The peer shares its groups out differently: each worker picks out its own.
            Ok(_) => {
                for mailbox in mailboxes {
                    let frame = frame.clone();
                    let _ = mailbox.offer_frame(Input::Frame { from, frame }, bytes);
                }
            }
            Err(error) => tracing::warn!(%from, %error, "dropped a frame"),
        }
    }

    /// Takes in a frame about a snapshot that the carrier of another node sent. Over the bound it is dropped.
    pub fn receive_snapshot(&self, from: NodeId, frame: Bytes) {
        let bytes = frame.len();
        let input = CarrierInput::Frame { from, frame };
        let _ = self.carrier.offer(CarrierJob::Input(input), bytes);
    }

    /// Changes the members of a group that is led here, in one step. The waiter is answered when the change is
    /// applied.
    pub fn change_members(&self, group: GroupId, steps: Vec<MemberStep>, waiter: Waiter) {
        let input = Input::ChangeMembers {
            group,
            steps,
            waiter,
        };
        if let Some(Input::ChangeMembers { waiter, .. }) = self.mailbox(group).offer(input, 0) {
            waiter.reply(self.no_room());
        }
    }

    /// Puts a mark into the log of a group that is led here. The waiter is answered with its index when it has been
    /// applied; every replica that applies it holds its state as of there for a while.
    pub fn mark(&self, group: GroupId, waiter: Waiter) {
        let input = Input::Mark { group, waiter };
        if let Some(Input::Mark { waiter, .. }) = self.mailbox(group).offer(input, 0) {
            waiter.reply(self.no_room());
        }
    }

    /// What the state that a replica here holds at an index comes to. If nobody has asked before, that is computed from
    /// now on: ask again.
    #[must_use]
    pub fn digest(&self, group: GroupId, index: LogIndex) -> DigestState {
        let (digest, wanted) = self.shared.held.lock().digest(group, index, clock::now());
        if let Some(work) = wanted {
            self.held.tell(HeldJob::Digest(Box::new(work)));
        }
        digest
    }

    /// Reads the user's rows behind a key, or from the first on, of the state that a replica here holds at an index.
    pub fn page(
        &self,
        group: GroupId,
        index: LogIndex,
        after: Option<Bytes>,
        max_bytes: usize,
        waiter: Waiter,
    ) {
        let state = self.shared.held.lock().state(group, index, clock::now());
        if let Err(reason) = state {
            return waiter.reply(Reply::Unavailable { reason });
        }
        let job = HeldJob::Page {
            group,
            index,
            after,
            max_bytes,
            waiter,
        };
        if let Some(HeldJob::Page { waiter, .. }) = self.held.offer(job, 0) {
            waiter.reply(self.no_room());
        }
    }

    /// What states are held, and what they keep.
    #[must_use]
    pub fn held_states(&self) -> HeldStats {
        self.shared.held.lock().stats()
    }

    /// What was carried in snapshots.
    #[must_use]
    pub fn snapshot_counters(&self) -> SnapshotCounters {
        self.carried.lock().counters
    }

    /// The snapshots on their way from and to this node, and for how long each has been.
    #[must_use]
    pub fn snapshots_under_way(&self) -> Vec<(SnapshotUnderWay, Duration)> {
        let now = clock::now();
        let under_way = self.carried.lock().under_way.clone();
        let under_way = under_way.into_iter();
        under_way.map(|one| (one, now - one.began_at)).collect()
    }

    /// What the store holds and has done, and which of its tables are damaged.
    #[must_use]
    pub const fn store(&self) -> &LsmMonitor {
        &self.store
    }

    /// The connection to a node broke.
    pub fn peer_lost(&self, node: NodeId) {
        for mailbox in &self.shared.mailboxes {
            mailbox.tell(Input::PeerLost { node });
        }
    }

    /// Lets this replica of a group stand for election now.
    pub fn campaign(&self, group: GroupId) {
        self.mailbox(group).tell(Input::Campaign { group });
    }

    /// Hands the leadership of a group that is led here over to the replica on another node, if that can be.
    /// [`Engine::status`] tells what came of it.
    pub fn transfer_leadership(&self, group: GroupId, to: NodeId) {
        let input = Input::TransferLeadership { group, to };
        self.mailbox(group).tell(input);
    }

    /// The state of every replica, in the order of their groups. Waits for the workers: not to be called
    /// from one.
    #[must_use]
    pub fn status(&self) -> Vec<GroupStatus> {
        let (sender, receiver) = crossbeam_channel::unbounded();
        for mailbox in &self.shared.mailboxes {
            let sender = sender.clone();
            let reply = Box::new(move |status| {
                let _ = sender.send(status);
            });
            mailbox.tell(Input::Status { reply });
        }
        drop(sender);
        let mut groups: Vec<GroupStatus> = receiver.iter().flatten().collect();
        groups.sort_unstable_by_key(|status| status.group);
        groups
    }

    /// How many replicas here were lost, and how many of them replaced.
    #[must_use]
    pub fn lost_replicas(&self) -> LostReplicas {
        let mut sum = LostReplicas::default();
        for lost in &self.shared.lost {
            sum += *lost.lock();
        }
        sum
    }

    /// The log's counters.
    #[must_use]
    pub fn log_stats(&self) -> WalStats {
        self.shared.wal.stats()
    }

    /// The damage of the log that was found since it was opened and is still there.
    #[must_use]
    pub fn log_damage(&self) -> Vec<LogDamage> {
        self.shared.wal.damage()
    }

    /// When the log was last read to the end, also before it was opened.
    #[must_use]
    pub fn log_scrubbed_at(&self) -> Option<SystemTime> {
        self.log_schedule.last()
    }

    /// Has the log read, beginning now, or as soon as the pass that is under way has ended.
    pub fn scrub_log(&self) {
        self.shared.scrub_is_wanted.store(true, Ordering::Release);
        for thread in &self.threads.lock().scrub {
            thread.thread().unpark();
        }
    }

    /// When the log syncs.
    #[must_use]
    pub fn sync_mode(&self) -> SyncMode {
        self.shared.wal.sync_mode()
    }

    /// Whether proposals are refused because the log has no room.
    #[must_use]
    pub fn log_is_full(&self) -> bool {
        self.shared.wal.pressure() == Pressure::Full
    }

    /// Stops: takes no new proposals, hands over what is led here and gives what is under way up to
    /// `patience` to be answered, then ends every thread, flushes the store and closes the log.
    pub fn shutdown(&self, patience: Duration) {
        let mut threads = std::mem::take(&mut *self.threads.lock());
        if threads.workers.is_empty() {
            return;
        }
        self.stop_workers();
        let deadline = Instant::now() + patience;
        let is_drained = || {
            self.shared
                .drained
                .iter()
                .all(|drained| drained.load(Ordering::Acquire))
        };
        // Two looks apart: the first one may have been before the stop was heard.
        let mut drained_looks = 0;
        while drained_looks < 2 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            // A worker looks at news that could wait only when it is woken.
            self.stop_workers();
            drained_looks = if is_drained() { drained_looks + 1 } else { 0 };
        }
        self.halt(&mut threads);
    }

    fn stop_workers(&self) {
        for mailbox in &self.shared.mailboxes {
            mailbox.tell(Input::Stop);
        }
    }

    fn halt(&self, threads: &mut Threads) {
        self.shared.halting.store(true, Ordering::Release);
        self.stop_workers();
        for thread in threads.keeper.iter().chain(&threads.scrub) {
            thread.thread().unpark();
        }
        join(&mut threads.keeper);
        join(&mut threads.scrub);
        join(&mut threads.workers);
        self.carrier.tell(CarrierJob::Finish);
        join(&mut threads.carrier);
        self.held.tell(HeldJob::Finish);
        join(&mut threads.held);
        self.apply.tell(ApplyJob::Finish);
        join(&mut threads.apply);
        for _ in &threads.readers {
            let _ = self.readers.send(ReadJob::Finish);
        }
        join(&mut threads.readers);
        if let Err(error) = self.shared.wal.clone().shutdown() {
            tracing::error!(%error, "the log did not close as it should");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let mut threads = std::mem::take(&mut *self.threads.lock());
        if !threads.workers.is_empty() {
            self.halt(&mut threads);
        }
    }
}

fn join(threads: &mut Vec<JoinHandle<()>>) {
    for thread in threads.drain(..) {
        if thread.join().is_err() {
            tracing::error!("a thread of the engine had panicked");
        }
    }
}
