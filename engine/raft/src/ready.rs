//! What a replica asks its shell to do.

use crate::message::Message;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use pontoon_types::{ConfState, Entry, HardState, LogIndex, LogPosition, ReplicaId, Term};

/// The number of a [`Persist`] within one life of a [`Raft`](crate::Raft), from 1 on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppendSequence(pub u64);

impl fmt::Display for AppendSequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Everything that came out of the calls since the last [`Raft::poll_ready`](crate::Raft::poll_ready).
///
/// The shell keeps one and lends it to every group in turn, so that its buffers are reused. Each part
/// may be carried out independently of the others, except where it says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Ready {
    /// May leave at once, also before `persist` is written: a leader's own sync is not waited for
    /// (thesis §10.2.1), and nothing here speaks of state that is not durable.
    pub messages: Vec<Message>,
    /// Must reach the log, after those handed out earlier. Acknowledged with
    /// [`Raft::handle_durable`](crate::Raft::handle_durable).
    pub persist: Option<Persist>,
    /// Leave only when `persist`, or if that is `None` the last [`Persist`] handed out before, is
    /// durable: they promise what it holds. Losing them is allowed, sending them early is not.
    pub messages_after_durable: Vec<Message>,
    /// Entries for the state machine: committed *and* durable here, in order, each exactly once.
    /// Acknowledged with [`Raft::handle_applied`](crate::Raft::handle_applied).
    pub committed: Vec<Entry>,
    /// The members, if they changed: as of what was reported as applied. Messages to who is not among
    /// them are still sent, as far as they were said before. A replica that is not among them any more
    /// may be given up once the others can do without its vote.
    pub conf_state: Option<ConfState>,
    /// Reads that may be served as soon as their index is applied.
    pub reads: Vec<ReadReady>,
    /// The contexts of reads that will not be answered because leadership was lost. They may be
    /// asked again, of the new leader.
    pub reads_refused: Vec<u64>,
    /// Peers that cannot be fed from the log and need a snapshot, taken at any applied index that the
    /// log still follows on. Each is answered, with
    /// [`Raft::handle_snapshot_taken`](crate::Raft::handle_snapshot_taken) or
    /// [`Raft::handle_snapshot_failed`](crate::Raft::handle_snapshot_failed); until then, and while one is
    /// under way, no other is asked for.
    pub snapshots: Vec<ReplicaId>,
    /// Entries wanted from the log. Each is answered with
    /// [`Raft::handle_fetched`](crate::Raft::handle_fetched), with nothing if it cannot be read.
    pub fetches: Vec<Fetch>,
    /// The buffer of the last `persist`, for the next one.
    pub(crate) spare: Vec<Entry>,
}

/// A step of the log: written, in the order of the sequence, as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// Its number; the acknowledgement repeats it.
    pub sequence: AppendSequence,
    /// The replica's term when it was handed out; the acknowledgement repeats it.
    pub term: Term,
    /// The hard state to store, if it changed.
    pub hard_state: Option<HardState>,
    /// A snapshot, whose data the shell has staged, to be put in place: with this step, and in one with it,
    /// the log becomes empty and ends at the snapshot's last position, and its state that of the state
    /// machine. `entries` follow it. Once the step is durable and the state machine has that
    /// state, [`Raft::handle_applied`](crate::Raft::handle_applied) says so, with the
    /// snapshot's last index; what is handed out later is applied to it. Staged data for which this does
    /// not come is not needed.
    pub snapshot: Option<Box<Snapshot>>,
    /// Consecutive entries. What the log holds at and after the first one's index is replaced.
    pub entries: Vec<Entry>,
    /// `false` if only the commit hint moved: then it may wait for whatever is synced next.
    pub must_sync: bool,
}

/// What a snapshot is of. Its data is the shell's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// The last entry that its state has applied.
    pub last: LogPosition,
    /// The members as of that entry.
    pub conf_state: ConfState,
}

/// A read that a quorum has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadReady {
    /// What the asker called it.
    pub context: u64,
    /// The state machine must have applied up to here before it answers.
    pub index: LogIndex,
}

/// What fetched entries are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FetchPurpose {
    /// To be sent to a peer that lags behind the cache.
    Send(ReplicaId),
    /// To be applied.
    Apply,
}

/// Asks for entries that are durable but no longer in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// What for. At most one fetch per purpose is outstanding.
    pub purpose: FetchPurpose,
    /// The first index wanted; an answer begins exactly here.
    pub from: LogIndex,
    /// The last index wanted; an answer may end earlier.
    pub to: LogIndex,
    /// Entry bytes wanted at most, but at least one entry.
    pub max_bytes: usize,
}

impl Ready {
    /// Empties all of it and keeps the buffers.
    pub fn clear(&mut self) {
        if self.is_empty() {
            return; // Shells take most of it out, and half of all polls bring nothing.
        }
        self.messages.clear();
        if let Some(persist) = self.persist.take() {
            self.spare = persist.entries;
            self.spare.clear();
        }
        self.messages_after_durable.clear();
        self.committed.clear();
        self.conf_state = None;
        self.reads.clear();
        self.reads_refused.clear();
        self.snapshots.clear();
        self.fetches.clear();
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.persist.is_none()
            && self.messages_after_durable.is_empty()
            && self.committed.is_empty()
            && self.conf_state.is_none()
            && self.reads.is_empty()
            && self.reads_refused.is_empty()
            && self.snapshots.is_empty()
            && self.fetches.is_empty()
    }
}
