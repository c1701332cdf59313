//! The reader threads: whatever may have to wait for the disk and writes nothing.

use super::Shared;
use crate::apply::DueReads;
use crate::worker::{Fetch, Input};
use crossbeam_channel::Receiver;
use pontoon_store::{LsmStore, Store};

/// Something for a reader to do.
pub(super) enum ReadJob {
    /// Serve reads from a view that holds all they had to wait for.
    Serve(DueReads<<LsmStore as Store>::View>),
    /// Read entries for a group from the log.
    Fetch { worker: usize, fetch: Fetch },
    /// End one of the threads.
    Finish,
}

/// Runs until it is told to finish.
pub(super) fn run(jobs: &Receiver<ReadJob>, shared: &Shared) {
    while let Ok(job) = jobs.recv() {
        match job {
            ReadJob::Serve(reads) => {
                reads.serve_noting(|group, pieces| shared.state_damaged(group, pieces));
            }
            ReadJob::Fetch { worker, fetch } => fetch_entries(worker, fetch, shared),
            ReadJob::Finish => return,
        }
    }
}

fn fetch_entries(worker: usize, Fetch { group, fetch }: Fetch, shared: &Shared) {
    match shared
        .wal
        .read(group, fetch.from, fetch.to, fetch.max_bytes)
    {
        Ok(entries) => {
            let purpose = fetch.purpose;
            shared.mailboxes[worker].tell(Input::Fetched {
                group,
                purpose,
                entries,
            });
        }
        // The log was cut or replaced there since, or it is damaged, which the log has taken note of and the keeper sees to:
        // whoever still wants the entries asks again.
        Err(error) => {
            tracing::debug!(%group, from = %fetch.from, %error, "cannot read entries");
            shared.mailboxes[worker].tell(Input::Fetched {
                group,
                purpose: fetch.purpose,
                entries: Vec::new(),
            });
        }
    }
}
