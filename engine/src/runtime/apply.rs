//! The apply thread: the only one that writes to the store.

use super::Shared;
use super::readers::ReadJob;
use crate::apply::ApplyStage;
use crate::worker::{ApplyBatch, Input};
use crossbeam_channel::{Receiver, Sender};
use pontoon_store::{LsmStore, Store, StoreError};

/// Entry bytes applied at once, at most, so that answers do not wait for a long queue behind them.
const BATCH_BYTES: usize = 4 << 20;

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

/// Runs until it is told to finish or the last worker is gone.
///
/// # Errors
/// If the store failed; the node must stop, for what was answered after it could be wrong.
pub(super) fn run(
    mut stage: ApplyStage<LsmStore>,
    jobs: &Receiver<ApplyJob>,
    readers: &Sender<ReadJob>,
    shared: &Shared,
) -> Result<(), StoreError> {
    while let Ok(first) = jobs.recv() {
        let (mut bytes, mut flush, mut finish) = (0, false, false);
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                ApplyJob::Batch { worker, batch } => {
                    bytes += batch.bytes;
                    stage.gather(worker, batch);
                }
                ApplyJob::Flush => flush = true,
                ApplyJob::Finish => finish = true,
            }
            next = if bytes < BATCH_BYTES && !finish {
                jobs.try_recv().ok()
            } else {
                None
            };
        }
        for progress in stage.run()? {
            let news = Input::Applied {
                indexes: progress.indexes,
                bytes: progress.bytes,
            };
            shared.mailboxes[progress.worker].tell(news);
        }
        if let Some(reads) = stage.take_reads() {
            // The readers end after this thread.
            let _ = readers.send(ReadJob::Serve(reads));
        }
        if flush {
            stage.machine().store_mut().rotate()?;
        }
        if finish {
            break;
        }
    }
    stage.machine().store_mut().flush()
}
