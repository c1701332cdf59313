//! The thread of a worker: waits for inputs or a deadline, turns the cycle, hands out what it wants.

use super::apply::ApplyJob;
use super::clock;
use super::mailbox::{Inbox, Mailbox};
use super::readers::ReadJob;
use super::snapshots::CarrierJob;
use super::{Host, Shared};
use crate::worker::{Input, LogBatch, Output, Worker};
use crossbeam_channel::Sender;
use pontoon_wal::Ticket;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Inputs that one cycle takes in, at most: enough to fill any batch, few enough that the time is read
/// again soon.
const CYCLE_INPUTS: usize = 1024;

/// How often a worker that had to sleep lets others go first, at most.
const COURTESIES: usize = 2;

/// Where a worker's outputs go.
pub(super) struct Exits {
    pub(super) shared: Arc<Shared>,
    pub(super) host: Arc<dyn Host>,
    pub(super) apply: Mailbox<ApplyJob>,
    pub(super) readers: Sender<ReadJob>,
    pub(super) carrier: Mailbox<CarrierJob>,
}

/// Runs until the engine halts.
pub(super) fn run(index: usize, mut worker: Worker, inbox: &Inbox<Input>, exits: &Exits) {
    let mut out = Output::default();
    let mut inputs = Vec::new();
    while !exits.shared.halting.load(Ordering::Acquire) {
        if worker.has_work() {
            inbox.take(&mut inputs);
        } else {
            let patience = worker
                .next_deadline()
                .map(|deadline| deadline - clock::now());
            inbox.wait(patience, COURTESIES, &mut inputs);
        }
        let mut waiting = inputs.drain(..).peekable();
        loop {
            let now = clock::now();
            for input in waiting.by_ref().take(CYCLE_INPUTS) {
                worker.handle(input, now);
            }
            // Read again after the mailbox was drained: what came in time counts before the timeout
            // that it prevents, also after this thread was held up for long.
            worker.run(clock::now(), &mut out);
            hand_out(index, &mut out, exits);
            if waiting.peek().is_none() {
                break;
            }
        }
        drop(waiting);
        *exits.shared.lost[index].lock() = worker.counters().lost;
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
        exits.apply.tell(ApplyJob::Batch {
            worker: index,
            batch,
        });
    }
    for order in out.snapshots.drain(..) {
        exits.carrier.tell(CarrierJob::Input(order.into()));
    }
    for fetch in out.fetches.drain(..) {
        let _ = exits.readers.send(ReadJob::Fetch {
            worker: index,
            fetch,
        });
    }
}
