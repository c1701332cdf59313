//! The thread of the carrier: snapshots on their way from and to this node.

use super::apply::ApplyJob;
use super::clock;
use super::mailbox::{Inbox, Mailbox};
use super::{Host, Shared, worker_of};
use crate::frame::Lane;
use crate::snapshot::{Carrier, CarrierInput, Errand, SnapshotCounters, SnapshotUnderWay};
use parking_lot::Mutex;
use pontoon_store::LsmStore;
use pontoon_wal::LogWaits;
use std::sync::Arc;
use std::time::Duration;

/// Something for the carrier's thread to do.
pub(super) enum CarrierJob {
    /// Take in something.
    Input(CarrierInput<LsmStore>),
    /// End.
    Finish,
}

/// Where the carrier's errands go.
pub(super) struct Exits {
    pub(super) shared: Arc<Shared>,
    pub(super) host: Arc<dyn Host>,
    pub(super) apply: Mailbox<ApplyJob>,
    pub(super) told: Arc<Mutex<Told>>,
}

/// What the carrier tells about itself.
pub(super) struct Told {
    pub(super) counters: SnapshotCounters,
    pub(super) under_way: Vec<SnapshotUnderWay>,
}

impl Told {
    pub(super) fn of(carrier: &Carrier<LsmStore>) -> Self {
        Self {
            counters: carrier.counters(),
            under_way: carrier.under_way(),
        }
    }
}

/// How often the carrier hears how the log does, while there is something to carry.
pub(super) const LISTEN_EVERY: Duration = Duration::from_millis(100);

/// Runs until it is told to finish.
pub(super) fn run(mut carrier: Carrier<LsmStore>, inbox: &Inbox<CarrierJob>, exits: &Exits) {
    let mut jobs = Vec::new();
    let (mut heard, mut heard_at) = (LogWaits::default(), clock::now());
    loop {
        let now = clock::now();
        if now - heard_at >= LISTEN_EVERY {
            let before = std::mem::replace(&mut heard, exits.shared.wal.waits());
            heard_at = now;
            carrier.handle(CarrierInput::LogWaits(heard.since(&before)), now);
        }
        let patience = carrier.next_deadline(now).map(|deadline| deadline - now);
        inbox.wait(patience, 0, &mut jobs);
        for job in jobs.drain(..) {
            match job {
                CarrierJob::Input(input) => carrier.handle(input, clock::now()),
                CarrierJob::Finish => return,
            }
        }
        carrier.handle_timeout(clock::now());
        for errand in carrier.errands() {
            run_errand(errand, exits);
        }
        *exits.told.lock() = Told::of(&carrier);
    }
}

fn run_errand(errand: Errand, exits: &Exits) {
    match errand {
        Errand::Pin { group, transfer } => exits.apply.tell(ApplyJob::Pin { group, transfer }),
        Errand::Open { group } => exits.apply.tell(ApplyJob::Open { group }),
        Errand::Discard { tablet } => exits.apply.tell(ApplyJob::Discard { tablet }),
        Errand::Tell { group, input } => {
            let mailboxes = &exits.shared.mailboxes;
            mailboxes[worker_of(group, mailboxes.len())].tell(input);
        }
        Errand::Send { to, frame } => exits.host.send(to, 0, Lane::Snapshot, frame),
    }
}
