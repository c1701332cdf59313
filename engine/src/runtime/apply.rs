//! The apply thread: the only one that writes to the store.

use super::clock;
use super::mailbox::{Inbox, Mailbox};
use super::readers::ReadJob;
use super::snapshots::CarrierJob;
use super::{Host, Shared, worker_of};
use crate::apply::ApplyStage;
use crate::snapshot::CarrierInput;
use crate::worker::{ApplyBatch, Input};
use crossbeam_channel::Sender;
use pontoon_store::{LsmStore, Shed, StateMachine, Store, StoreError};
use pontoon_types::{GroupId, TabletId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Entry bytes applied at once, at most, so that answers do not wait for a long queue behind them.
const BATCH_BYTES: usize = 1 << 20;

/// Once so many bytes were applied a worker is woken to hear of it; before, it hears of it when it
/// wakes up for something else, which under load it does all the time. Well below what a group may have
/// outstanding, so that nothing ever waits for the news.
const WAKE_BYTES: usize = 64 << 10;

/// How long the thread has nothing to do before it removes rows that nobody needs, and how many at once.
const IDLE: Duration = Duration::from_millis(5);
const RECLAIM_ROWS: usize = 256;
/// A thread that always has something to do does it all the same, once in so many turns.
const RECLAIM_TURNS: u64 = 64;

/// Something for the apply thread to do.
#[derive(Debug)]
pub(super) enum ApplyJob {
    /// What a worker handed over.
    Batch { worker: usize, batch: ApplyBatch },
    /// Pin the state of a group for the carrier.
    Pin { group: GroupId, transfer: u64 },
    /// Make a tablet for a snapshot that is to come in.
    Open { group: GroupId },
    /// A staged snapshot is not needed.
    Discard { tablet: TabletId },
    /// Start a flush, so that the log can be cut.
    Flush,
    /// Get rid of a damaged table, if one can go.
    Shed,
    /// Everything was handed over: flush, and end.
    Finish,
}

/// Where the thread's news go.
pub(super) struct Exits {
    pub(super) readers: Sender<ReadJob>,
    pub(super) carrier: Mailbox<CarrierJob>,
    pub(super) shared: Arc<Shared>,
    pub(super) host: Arc<dyn Host>,
}

/// Runs until it is told to finish.
///
/// # Errors
/// If the store failed; the node must stop, for what was answered after it could be wrong.
pub(super) fn run<M: StateMachine>(
    mut stage: ApplyStage<LsmStore, M>,
    inbox: &Inbox<ApplyJob>,
    exits: &Exits,
) -> Result<(), StoreError> {
    let Exits {
        carrier, shared, ..
    } = exits;
    let mut jobs = Vec::new();
    let mut unheard = vec![0; shared.mailboxes.len()];
    let mut finish = false;
    let (mut has_garbage, mut sheds) = (true, false);
    let mut turns = 0_u64;
    while !finish {
        // Those who wait for what is applied are the ones who bring more: no courtesies.
        inbox.wait((has_garbage || sheds).then_some(IDLE), 0, &mut jobs);
        turns += 1;
        if jobs.is_empty() || turns.is_multiple_of(RECLAIM_TURNS) {
            if has_garbage {
                has_garbage = patiently(shared, || stage.machine().reclaim(RECLAIM_ROWS))?;
            }
            if sheds {
                let shed = patiently(shared, || stage.machine().shed(false))?;
                sheds = shed == Shed::Underway;
                has_garbage |= shed == Shed::Done;
            }
        }
        let (mut bytes, mut flush) = (0, false);
        for job in jobs.drain(..) {
            match job {
                ApplyJob::Batch { worker, batch } => {
                    has_garbage |= !batch.switches.is_empty();
                    bytes += batch.bytes;
                    stage.gather(worker, batch);
                }
                ApplyJob::Pin { group, transfer } => {
                    // The worker hears what is applied before it hears of the snapshot.
                    apply(&mut stage, &mut unheard, exits)?;
                    bytes = 0;
                    let snapshot = stage.pin(group);
                    carrier.tell(CarrierJob::Input(CarrierInput::Pinned {
                        transfer,
                        snapshot,
                    }));
                }
                ApplyJob::Open { group } => {
                    let opened = stage.machine().begin_install();
                    carrier.tell(CarrierJob::Input(CarrierInput::Opened { group, opened }));
                }
                ApplyJob::Discard { tablet } => {
                    stage.machine().discard(tablet);
                    has_garbage = true;
                }
                ApplyJob::Flush => flush = true,
                ApplyJob::Shed => {
                    let shed = patiently(shared, || stage.machine().shed(true))?;
                    sheds |= shed == Shed::Underway;
                    has_garbage |= shed == Shed::Done;
                }
                ApplyJob::Finish => finish = true,
            }
            if bytes >= BATCH_BYTES {
                apply(&mut stage, &mut unheard, exits)?;
                bytes = 0;
            }
        }
        apply(&mut stage, &mut unheard, exits)?;
        if flush {
            stage.machine().store_mut().rotate()?;
        }
    }
    stage.machine().store_mut().flush()
}

/// Does something again and again as long as the disk has no room for it. What waits for it grows up to its bounds
/// meanwhile, and then proposals are refused; nothing is lost, and it goes on by itself.
fn patiently<T>(
    shared: &Shared,
    mut attempt: impl FnMut() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    loop {
        match attempt() {
            Err(error @ StoreError::Stalled { .. }) if !shared.halting.load(Ordering::Acquire) => {
                tracing::warn!(%error, "the store waits for the disk");
            }
            result => return result,
        }
    }
}

fn apply<M: StateMachine>(
    stage: &mut ApplyStage<LsmStore, M>,
    unheard: &mut [usize],
    exits: &Exits,
) -> Result<(), StoreError> {
    let Exits {
        readers,
        shared,
        host,
        ..
    } = exits;
    patiently(shared, || stage.run())?;
    for snapshot in stage.take_marked() {
        shared.held.lock().hold(snapshot, clock::now());
    }
    for (group, pieces) in stage.take_lost() {
        let worker = worker_of(group, shared.mailboxes.len());
        shared.mailboxes[worker].tell(Input::StateDamaged {
            group,
            pieces,
            is_stuck: true,
        });
    }
    for progress in stage.progress() {
        let mailbox = &shared.mailboxes[progress.worker];
        let unheard = &mut unheard[progress.worker];
        *unheard += progress.bytes;
        let news = Input::Applied {
            indexes: progress.indexes,
            bytes: progress.bytes,
        };
        if *unheard >= WAKE_BYTES {
            *unheard = 0;
            mailbox.tell(news);
        } else {
            mailbox.tell_later(news);
        }
    }
    for group in stage.changed() {
        let record = stage.machine().replica(group);
        match record {
            Some(record) => shared.replicas.lock().insert(group, record.clone()),
            None => shared.replicas.lock().remove(&group),
        };
        host.replica_changed(group, record);
    }
    if let Some(reads) = stage.take_reads() {
        // The readers end after this thread.
        let _ = readers.send(ReadJob::Serve(reads));
    }
    Ok(())
}
