//! The thread of a worker: waits for inputs or a deadline, turns the cycle, hands out what it wants.

use super::apply::ApplyJob;
use super::clock;
use super::mailbox::{Inbox, Wait};
use super::readers::ReadJob;
use super::{Host, Shared};
use crate::worker::{LogBatch, Output, Worker};
use crossbeam_channel::Sender;
use pontoon_wal::Ticket;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Inputs that one cycle takes in, at most: enough to fill any batch, few enough that the time is read
/// again soon.
const CYCLE_INPUTS: usize = 1024;

/// Where a worker's outputs go.
pub(super) struct Exits {
    pub(super) shared: Arc<Shared>,
    pub(super) host: Arc<dyn Host>,
    pub(super) apply: Sender<ApplyJob>,
    pub(super) readers: Sender<ReadJob>,
}

/// Runs until the engine halts.
pub(super) fn run(index: usize, mut worker: Worker, inbox: &Inbox, exits: &Exits) {
    let mut out = Output::default();
    while !exits.shared.halting.load(Ordering::Acquire) {
        let mut first = None;
        if !worker.has_work() {
            let timeout = worker
                .next_deadline()
                .map(|deadline| deadline - clock::now());
            match inbox.wait(timeout) {
                Wait::Input(input) => first = Some(input),
                Wait::TimedOut => {}
                Wait::Closed => return,
            }
        }
        let now = clock::now();
        let inputs = first.into_iter().chain(std::iter::from_fn(|| inbox.poll()));
        for input in inputs.take(CYCLE_INPUTS) {
            worker.handle(input, now);
        }
        // Read again after the mailbox was drained: what came in time counts before the timeout that it
        // prevents, also after this thread was held up for long.
        worker.run(clock::now(), &mut out);
        hand_out(index, &mut out, exits);
        exits.shared.drained[index].store(worker.is_drained(), Ordering::Release);
    }
}

/// The log first, since its sync takes longest, then the peers, then what is committed.
fn hand_out(index: usize, out: &mut Output, exits: &Exits) {
    if let Some(LogBatch { batch, sequence }) = out.log.take() {
        exits.shared.wal.submit(
            batch,
            Ticket {
                worker: index as u32,
                sequence,
            },
        );
    }
    for (node, lane, frame) in out.frames.drain(..) {
        exits.host.send(node, index, lane, frame);
    }
    if !out.apply.is_empty() {
        let batch = std::mem::take(&mut out.apply);
        // The apply thread ends after the workers; if it failed, the node is stopping.
        let _ = exits.apply.send(ApplyJob::Batch {
            worker: index,
            batch,
        });
    }
    for fetch in out.fetches.drain(..) {
        let _ = exits.readers.send(ReadJob::Fetch {
            worker: index,
            fetch,
        });
    }
}
