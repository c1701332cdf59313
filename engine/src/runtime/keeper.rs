//! The thread that keeps the log's room and has damage healed.

use super::apply::ApplyJob;
use super::mailbox::Mailbox;
use super::{Shared, clock, worker_of};
use crate::worker::Input;
use pontoon_store::{Durability, LsmMonitor};
use pontoon_types::{GroupId, LogIndex};
use pontoon_wal::Pressure;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long after a flush that was to cover damage in the log the next one is asked for. An entry that is not committed is
/// covered by none.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LAST_PAUSE: Duration = Duration::from_secs(600);

/// Looks after damage, and the log's space: tells the workers what the store has made durable, and asks for a
/// flush when the log is nearly full, a group takes more than its quota of it, or the last flush was long ago.
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) apply: Mailbox<ApplyJob>,
    pub(super) durability: Durability,
    pub(super) store: LsmMonitor,
    pub(super) interval: Duration,
    pub(super) flush_interval: Option<Duration>,
}

impl Keeper {
    pub(super) fn run(&self) {
        let mut seen = self.durability.generation();
        let mut was_full = false;
        let mut flushed_at = clock::now();
        // Groups over their quota that a flush was asked for, and from where their logs are kept.
        let mut crowded = Vec::new();
        // When a flush is asked for next so that groups can do without entries that cannot be read, and how long after that.
        let (mut flush_at, mut pause) = (clock::now(), FIRST_PAUSE);
        while !self.shared.halting.load(Ordering::Acquire) {
            let gone = self.shared.held.lock().let_go(clock::now());
            drop(gone); // And not before the lock.
            let full = self.shared.wal.pressure() == Pressure::Full;
            let over_quota = self.shared.wal.over_quota();
            let crowd: Vec<_> = over_quota
                .iter()
                .map(|over| (over.group, over.first))
                .collect();
            let mut cramped: BTreeSet<_> = over_quota.iter().map(|over| over.group).collect();
            let generation = self.durability.generation();
            // One that a flush has not helped is not helped by another: it is damaged, or has just been cut.
            let crowds = crowd.iter().any(|over| !crowded.contains(over));
            crowded = crowd;
            let now = clock::now();
            if generation != seen {
                flushed_at = now;
            }
            let is_due = |interval| now - flushed_at >= interval;
            // Damage in the log: their logs are cut beyond it as soon as that is possible.
            let unreadable = self.shared.wal.unreadable();
            let is_damaged = !unreadable.is_empty();
            cramped.extend(unreadable.keys());
            let uncovered = is_damaged && self.tell_unreadable(unreadable);
            if !uncovered {
                (flush_at, pause) = (now, FIRST_PAUSE);
            }
            let covers = uncovered && flush_at <= now;
            if covers {
                (flush_at, pause) = (now + pause, (2 * pause).min(LAST_PAUSE));
            }
            // Asked for again while the log is full, but not on top of what is being flushed: memory is bounded, too.
            let helps = || self.store.stats().sealed_memtables == 0;
            let wants_room = full || self.flush_interval.is_some_and(is_due);
            if crowds || covers || wants_room && helps() {
                flushed_at = now;
                self.apply.tell(ApplyJob::Flush);
            }
            if full != was_full {
                was_full = full;
                tracing::warn!(
                    full,
                    "the log's room has changed; full: proposals are refused"
                );
                for mailbox in &self.shared.mailboxes {
                    mailbox.tell(Input::LogPressure { full });
                }
            }
            if generation != seen || full || crowds || is_damaged {
                seen = generation;
                self.cut(&cramped.into_iter().collect::<Vec<_>>());
            }
            self.heal();
            std::thread::park_timeout(self.interval);
        }
    }

    /// Tells the workers which entries cannot be read, again and again: what is in memory now may not be later. Returns whether
    /// there is one that the store does not hold durably.
    fn tell_unreadable(&self, unreadable: BTreeMap<GroupId, Vec<LogIndex>>) -> bool {
        let (durable, mailboxes) = (self.durability.all(), &self.shared.mailboxes);
        let mut uncovered = false;
        for (group, indexes) in unreadable {
            let covered = durable.get(&group).copied().unwrap_or_default();
            uncovered |= indexes.last().is_some_and(|last| *last > covered);
            let mailbox = &mailboxes[worker_of(group, mailboxes.len())];
            mailbox.tell(Input::LogUnreadable { group, indexes });
        }
        uncovered
    }

    /// Has the replicas rebuilt that have lost rows with a table, and then gets rid of the table. Both are asked for again and
    /// again: a replica may not be spared now.
    fn heal(&self) {
        let damaged = self.store.damaged_tables();
        if damaged.is_empty() {
            return;
        }
        for record in self.shared.replicas.lock().values() {
            if damaged.iter().any(|table| table.has_lost(&record.pieces)) {
                self.shared.state_damaged(record.group, &record.pieces);
            }
        }
        self.apply.tell(ApplyJob::Shed);
    }

    fn cut(&self, without_tail: &[GroupId]) {
        let mailboxes = &self.shared.mailboxes;
        let mut shares = vec![Vec::new(); mailboxes.len()];
        for (group, applied) in self.durability.all().iter() {
            shares[worker_of(*group, mailboxes.len())].push((*group, *applied));
        }
        for (mailbox, applied) in mailboxes.iter().zip(shares) {
            let without_tail = without_tail.to_vec();
            mailbox.tell(Input::Compact {
                applied,
                without_tail,
            });
        }
    }
}
