//! Snapshots: for peers whose entries are gone from the log (Raft §7), and how much of it may go.
//!
//! The state itself never comes near this crate. The shell takes it, carries it and puts it in place; what is
//! decided here is who needs one, what it means for the receiver's log, and when it counts.
//!
//! ```text
//! leader:    Ready::snapshots ─> handle_snapshot_taken ─> data and message travel ─> handle_snapshot_delivered
//!                                     (or _failed)                                       (or _failed)
//! follower:  data staged ─> step(InstallSnapshot) ─> Persist::snapshot ─> handle_durable ─> handle_applied
//! ```
//!
//! A snapshot is acknowledged like entries: once it is durable, with its last index as what matches. A crash
//! before that leaves the old log and the old state, whole.

use crate::error::StepError;
use crate::message::{Message, MessageBody};
use crate::progress::{ProgressMode, SnapshotFlight};
use crate::raft::{Raft, Role};
use crate::ready::{Ready, Snapshot};
use alloc::boxed::Box;
use pontoon_types::{LogIndex, ReplicaId, mutant};

/// Tails of entries that a peer may hold the log back by.
const MAX_TAILS: u64 = 4;
/// Election timeouts for which a peer that has got a snapshot may hold the log back without getting on. A disk
/// that takes its time is to be waited for, and the next snapshot costs more than the log of a few seconds.
const PATIENCE: u32 = 20;

impl Raft {
    /// The shell has taken the snapshot that [`Ready::snapshots`](crate::Ready::snapshots) asked for.
    /// Returns the message that travels with its data: the receiver's shell hands it to
    /// [`Raft::step`] when it has all of it, staged and ready to be put in place.
    ///
    /// What became of it is told by [`Raft::handle_snapshot_delivered`] or
    /// [`Raft::handle_snapshot_failed`]. `None` if nobody needs it any more; then nothing is to be told.
    ///
    /// # Panics
    /// If it is of something that is not applied here, or of another log.
    pub fn handle_snapshot_taken(
        &mut self,
        peer: ReplicaId,
        snapshot: Snapshot,
    ) -> Option<Message> {
        self.settled = false;
        let Snapshot { last, conf_state } = snapshot;
        assert!(
            last.index <= self.log.applied(),
            "a snapshot at {}, applied to {}",
            last.index,
            self.log.applied()
        );
        assert!(
            self.log
                .term_at(last.index)
                .is_none_or(|term| term == last.term),
            "a snapshot at {last:?} of another log"
        );
        assert!(
            conf_state.is_well_formed(),
            "a snapshot of impossible members: {conf_state:?}"
        );
        let (from, term) = (self.config.id, self.term);
        let leads = self.role == Role::Leader && !self.stopped;
        let first = self.first_index();
        let retry = self.clock + self.config.heartbeat_interval;
        let progress = self.peer_mut(peer)?;
        // One that ends before the log begins could not be followed by it.
        let is_wanted = leads
            && progress.mode == ProgressMode::Snapshot
            && progress.flight == SnapshotFlight::Asked
            && last.index.next() >= first
            && last.index > progress.matched;
        if !is_wanted {
            progress.flight = SnapshotFlight::Backoff(retry);
            return None;
        }
        progress.flight = SnapshotFlight::Taken(last.index);
        let conf_state = Box::new(conf_state);
        let body = MessageBody::InstallSnapshot { last, conf_state };
        Some(Message {
            from,
            to: peer,
            term,
            body,
        })
    }

    /// The snapshot for `peer` has reached it, message and all. What it makes of it, it says itself;
    /// should that be lost, it is probed for after the snapshot's last index.
    pub fn handle_snapshot_delivered(&mut self, peer: ReplicaId) {
        self.settled = false;
        let now = self.clock;
        if let Some(peer) = self.peer_mut(peer) {
            peer.snapshot_delivered(now);
        }
    }

    /// The snapshot for `peer` could not be taken, or was broken off. Another is asked for when the peer
    /// has been heard of, not before a heartbeat interval has passed.
    pub fn handle_snapshot_failed(&mut self, peer: ReplicaId) {
        self.settled = false;
        let retry = self.clock + self.config.heartbeat_interval;
        if let Some(peer) = self.peer_mut(peer) {
            peer.flight = SnapshotFlight::Backoff(retry);
        }
    }

    /// Asks for the snapshots that peers need, one at a time each.
    pub(crate) fn ask_for_snapshots(&mut self, ready: &mut Ready) {
        for peer in &mut self.peers {
            let is_idle = match peer.flight {
                SnapshotFlight::Idle | SnapshotFlight::Delivered(..) => true,
                SnapshotFlight::Backoff(until) => {
                    until <= self.clock || mutant!(SnapshotsRetryAtOnce)
                }
                SnapshotFlight::Asked | SnapshotFlight::Taken(_) => mutant!(SnapshotsPileUp),
            };
            // Nobody carries a snapshot to who is not there.
            if peer.mode == ProgressMode::Snapshot && peer.active && is_idle {
                peer.flight = SnapshotFlight::Asked;
                ready.snapshots.push(peer.id);
            }
        }
    }

    /// The follower's half.
    pub(crate) fn handle_install_snapshot(
        &mut self,
        from: ReplicaId,
        snapshot: Snapshot,
    ) -> Result<(), StepError> {
        let last = snapshot.last;
        let ours = self.log.term_at(last.index);
        if last.index <= self.log.commit() && !mutant!(InstallsStaleSnapshots) {
            if let Some(ours) = ours.filter(|ours| *ours != last.term) {
                return Err(self.stop(StepError::CommittedConflict {
                    from,
                    index: last.index,
                    ours,
                    theirs: last.term,
                }));
            }
            // All of it is here already.
            self.acknowledge(from, self.log.commit(), 0);
            return Ok(());
        }
        let replaces = mutant!(SnapshotsReplaceMatching) || mutant!(InstallsStaleSnapshots);
        if ours == Some(last.term) && !replaces {
            // The log has all that the snapshot has, and maybe more (Raft figure 13, step 6).
            self.log.commit_to(last.index);
            self.acknowledge(from, last.index, 0);
            return Ok(());
        }
        self.replace_log(snapshot);
        self.acknowledge(from, last.index, 0);
        Ok(())
    }

    /// The snapshot takes the place of the log and of the state machine's state. Of what is on its way to
    /// the disk only what is committed counts once it gets there; the rest is replaced.
    fn replace_log(&mut self, snapshot: Snapshot) {
        self.durability.clip(self.log.commit());
        self.log.restore(snapshot.last);
        self.apply_fetched.clear();
        self.conf_changes.clear();
        if !mutant!(SnapshotMembersIgnored) {
            self.change_members(snapshot.conf_state.clone());
        }
        self.snapshot = Some(Box::new(snapshot));
    }

    /// How far the log may let go of its front without making anybody need a snapshot who is nearly
    /// there; for [`Raft::compact`].
    ///
    /// Never beyond what is applied. All that every member holds may go. Beyond that the last
    /// `tail_entries` applied ones stay, for followers that lag a little, and on a leader also what
    /// follows on what peers hold that are not further behind than four such tails.
    ///
    /// Who is brought up from a snapshot holds the log back however long that takes, for a snapshot is of no use to
    /// who then finds the log gone: from when it is taken, and once it is delivered for as long as the peer
    /// gets on. What that may take is for the shell to bound: a tail of 0 waits for nobody.
    #[must_use]
    pub fn compactable(&self, tail_entries: u64) -> LogIndex {
        let applied = self.log.applied().min(self.log.durable());
        let before = |entries: u64| LogIndex(applied.0.saturating_sub(entries));
        let limit = before(tail_entries.saturating_mul(MAX_TAILS));
        let first = self.first_index();
        let patience = self.config.election_timeout.saturating_mul(PATIENCE);
        let held_at = self.peers.iter().filter_map(|peer| {
            let at = peer.follows_after()?;
            let is_brought_up = tail_entries > 0
                && peer.is_brought_up(self.clock, patience)
                && !mutant!(LogOutrunsSnapshots);
            // Who finds the log gone already needs another snapshot, and nothing of what is left.
            let finds_log = at.next() >= first;
            let holds = finds_log && (at >= limit || is_brought_up);
            (self.role == Role::Leader && holds).then_some(at)
        });
        let keep_after = held_at
            .min()
            .map_or(before(tail_entries), |at| at.min(before(tail_entries)));
        keep_after.max(self.matched_by_all.min(applied))
    }
}
