//! The apply thread: the only one that writes to the store.

use super::Shared;
use super::mailbox::Inbox;
use super::readers::ReadJob;
use crate::apply::ApplyStage;
use crate::worker::{ApplyBatch, Input};
use crossbeam_channel::Sender;
use pontoon_store::{LsmStore, Store, StoreError};

/// Entry bytes applied at once, at most, so that answers do not wait for a long queue behind them.
const BATCH_BYTES: usize = 1 << 20;

/// Once so many bytes were applied a worker is woken to hear of it; before, it hears of it when it
/// wakes up for something else, which under load it does all the time. Well below what a group may have
/// outstanding, so that nothing ever waits for the news.
const WAKE_BYTES: usize = 64 << 10;

/// Something for the apply thread to do.
#[derive(Debug)]
pub(super) enum ApplyJob {
    /// What a worker handed over.
    Batch { worker: usize, batch: ApplyBatch },
    /// Start a flush, so that the log can be cut.
    Flush,
    /// Everything was handed over: flush, and end.
    Finish,
}

/// Runs until it is told to finish.
///
/// # Errors
/// If the store failed; the node must stop, for what was answered after it could be wrong.
pub(super) fn run(
    mut stage: ApplyStage<LsmStore>,
    inbox: &Inbox<ApplyJob>,
    readers: &Sender<ReadJob>,
    shared: &Shared,
) -> Result<(), StoreError> {
    let mut jobs = Vec::new();
    let mut unheard = vec![0; shared.mailboxes.len()];
    let mut finish = false;
    while !finish {
        // Those who wait for what is applied are the ones who bring more: no courtesies.
        inbox.wait(None, 0, &mut jobs);
        let (mut bytes, mut flush) = (0, false);
        for job in jobs.drain(..) {
            match job {
                ApplyJob::Batch { worker, batch } => {
                    bytes += batch.bytes;
                    stage.gather(worker, batch);
                }
                ApplyJob::Flush => flush = true,
                ApplyJob::Finish => finish = true,
            }
            if bytes >= BATCH_BYTES {
                apply(&mut stage, &mut unheard, readers, shared)?;
                bytes = 0;
            }
        }
        apply(&mut stage, &mut unheard, readers, shared)?;
        if flush {
            stage.machine().store_mut().rotate()?;
        }
    }
    stage.machine().store_mut().flush()
}

fn apply(
    stage: &mut ApplyStage<LsmStore>,
    unheard: &mut [usize],
    readers: &Sender<ReadJob>,
    shared: &Shared,
) -> Result<(), StoreError> {
    for progress in stage.run()? {
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
    if let Some(reads) = stage.take_reads() {
        // The readers end after this thread.
        let _ = readers.send(ReadJob::Serve(reads));
    }
    Ok(())
}
