//! What a leader knows about each of its peers, and what that allows it to send.

use crate::config::Config;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;
use pontoon_types::{Entry, Instant, LogIndex, ReplicaId, mutant};

/// How a leader feeds a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProgressMode {
    /// It is not known where the logs agree: one Append at a time, until one is accepted.
    Probe,
    /// The logs agree up to `matched`: Appends follow each other without waiting, up to a limit.
    Pipeline,
    /// What the peer needs has been compacted away here, or it does not know the members yet: only
    /// Heartbeats go to it, until it has caught up from a snapshot.
    Snapshot,
}

/// What an observer may know of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressView {
    /// The last index that the peer holds durably, as far as the leader knows.
    pub matched: LogIndex,
    /// How it is fed.
    pub mode: ProgressMode,
    /// Appends that are unanswered in pipeline mode.
    pub inflight: usize,
    /// Entry bytes in them.
    pub inflight_bytes: usize,
}

/// A read of cold entries for one purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FetchState {
    /// None is wanted or asked for.
    Idle,
    /// Asked for.
    Outstanding,
    /// The last one brought nothing; not before this moment again.
    Backoff(Instant),
}

/// Where a snapshot for a peer is. It may outlast the mode, and the leadership, that asked for it; the
/// next one waits for its end, so that at most one is on its way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SnapshotFlight {
    /// None is under way.
    Idle,
    /// The shell was asked for one.
    Asked,
    /// One that ends here was taken and is on its way.
    Taken(LogIndex),
    /// One that ends here has reached the peer, which then does not hold all that is committed yet; the moment
    /// is when it last was known to hold more than before.
    Delivered(LogIndex, Instant),
    /// The last one failed; not before this moment again.
    Backoff(Instant),
}

/// Invariants: `matched < next`; in pipeline mode everything between is in flight or was lost.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Progress {
    pub(crate) id: ReplicaId,
    pub(crate) mode: ProgressMode,
    pub(crate) matched: LogIndex,
    /// The first entry to send next.
    pub(crate) next: LogIndex,
    /// In probe mode: an Append is out and unanswered.
    paused: bool,
    /// An Append is wanted even if it is empty, to find out what became of earlier ones.
    pub(crate) probe_due: bool,
    /// The last index and the entry bytes of each unanswered Append in pipeline mode.
    inflight: VecDeque<(LogIndex, usize)>,
    /// The sum of these bytes.
    inflight_bytes: usize,
    /// Whether it was heard of since the leader last checked its quorum.
    pub(crate) active: bool,
    /// The latest round of reads that it has answered.
    pub(crate) read_round: u64,
    pub(crate) fetch: FetchState,
    /// Fetched entries that begin at `next`, or none.
    pub(crate) fetched: Vec<Entry>,
    pub(crate) flight: SnapshotFlight,
}

impl Progress {
    pub(crate) fn new(id: ReplicaId) -> Self {
        Self {
            id,
            mode: ProgressMode::Probe,
            matched: LogIndex::ZERO,
            next: LogIndex(1),
            paused: false,
            probe_due: false,
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            active: false,
            read_round: 0,
            fetch: FetchState::Idle,
            fetched: Vec::new(),
            flight: SnapshotFlight::Idle,
        }
    }

    /// A member that has just become one. It counts as heard of until the next check of the quorum, so
    /// that nobody is deposed for adding it, and is asked at once where its log agrees.
    pub(crate) fn added(id: ReplicaId, next: LogIndex) -> Self {
        Self {
            next,
            active: true,
            probe_due: true,
            ..Self::new(id)
        }
    }

    /// The start of a leadership: nothing is known of the peer, so it is tried at the log's end.
    pub(crate) fn reset(&mut self, next: LogIndex) {
        self.matched = LogIndex::ZERO;
        self.active = false;
        self.read_round = 0;
        self.fetch = FetchState::Idle;
        self.probe_at(next);
    }

    fn probe_at(&mut self, next: LogIndex) {
        self.mode = ProgressMode::Probe;
        self.paused = false;
        self.probe_due = false;
        self.forget_inflight();
        self.move_next(next);
    }

    fn forget_inflight(&mut self) {
        self.inflight.clear();
        self.inflight_bytes = 0;
    }

    fn move_next(&mut self, next: LogIndex) {
        if self.next != next {
            self.next = next;
            self.fetched.clear();
        }
    }

    /// Whether entries may be sent now. The last Append may take the bytes over their bound, so that any
    /// entry can go.
    pub(crate) fn may_send(&self, limits: &Config) -> bool {
        match self.mode {
            ProgressMode::Probe => !self.paused,
            ProgressMode::Pipeline => {
                self.inflight.len() < limits.max_inflight_appends
                    && self.inflight_bytes < limits.max_inflight_bytes
            }
            ProgressMode::Snapshot => false,
        }
    }

    /// An Append with entries of so many bytes up to `last` left; `None` if it had none.
    pub(crate) fn sent(&mut self, last: Option<LogIndex>, bytes: usize) {
        self.probe_due = false;
        match (self.mode, last) {
            (ProgressMode::Probe, _) => self.paused = true,
            (ProgressMode::Pipeline, Some(last)) => {
                self.inflight.push_back((last, bytes));
                self.inflight_bytes += bytes;
                self.move_next(last.next());
            }
            (ProgressMode::Pipeline | ProgressMode::Snapshot, _) => {}
        }
    }

    /// The peer holds everything up to `matched`. `first` is where the log begins.
    pub(crate) fn accepted(&mut self, matched: LogIndex, first: LogIndex) {
        if matched < self.matched {
            return; // Overtaken by a later answer.
        }
        self.matched = matched;
        if self.mode == ProgressMode::Snapshot && matched.next() < first {
            return; // Still nothing that the log could follow on.
        }
        if self.mode == ProgressMode::Pipeline {
            self.move_next(self.next.max(matched.next()));
        } else {
            self.probe_at(matched.next());
            self.mode = ProgressMode::Pipeline;
        }
        while let Some(&(last, bytes)) = self.inflight.front()
            && last <= matched
        {
            self.inflight.pop_front();
            self.inflight_bytes -= bytes;
        }
    }

    /// The peer refused an Append after `rejected`; if that is news, the next one goes after `agree`, the
    /// last position where the logs can agree. In pipeline mode `matched` is known to be one.
    pub(crate) fn rejected(&mut self, rejected: LogIndex, agree: LogIndex) {
        match self.mode {
            // Whatever it refused came before something that it accepted later.
            ProgressMode::Pipeline if rejected <= self.matched => {}
            ProgressMode::Pipeline => self.probe_at(self.matched.next()),
            // Nobody refuses what comes before the first entry, except who waits for a snapshot.
            ProgressMode::Probe if rejected == LogIndex::ZERO && self.matched == LogIndex::ZERO => {
                self.needs_snapshot();
            }
            // An answer to an earlier probe.
            ProgressMode::Probe if self.next.previous() != Some(rejected) => {}
            ProgressMode::Probe => {
                let lower = rejected.min(LogIndex(agree.0.saturating_add(1)));
                self.probe_at(lower.max(self.matched.next()));
            }
            ProgressMode::Snapshot => {}
        }
    }

    /// The peer answered a Heartbeat: it is there, so whatever is unanswered may have been lost.
    pub(crate) fn answered(&mut self, last: LogIndex) {
        self.paused = false;
        self.probe_due |= self.matched < last;
        if matches!(self.fetch, FetchState::Backoff(_)) {
            self.fetch = FetchState::Idle;
        }
    }

    /// What was sent to the peer is lost.
    pub(crate) fn unreachable(&mut self) {
        if self.mode == ProgressMode::Pipeline {
            self.probe_at(self.matched.next());
        }
    }

    /// The log no longer holds what the peer needs.
    pub(crate) fn needs_snapshot(&mut self) {
        self.mode = ProgressMode::Snapshot;
        self.probe_due = false;
        self.forget_inflight();
        self.fetched.clear();
    }

    /// The peer has got its snapshot. It is probed for what follows, once it has been heard of.
    pub(crate) fn snapshot_delivered(&mut self, now: Instant) {
        let SnapshotFlight::Taken(last) = self.flight else {
            self.flight = SnapshotFlight::Idle;
            return;
        };
        self.flight = SnapshotFlight::Delivered(last, now);
        if self.mode == ProgressMode::Snapshot {
            self.probe_at(last.max(self.matched).next());
            self.paused = true;
        }
    }

    /// The peer was found to hold more than before. Who holds all that is committed is not brought up any more.
    pub(crate) fn got_on(&mut self, commit: LogIndex, now: Instant) {
        if let SnapshotFlight::Delivered(_, got_on_at) = &mut self.flight {
            *got_on_at = now;
            if self.matched >= commit {
                self.flight = SnapshotFlight::Idle;
            }
        }
    }

    /// After which index the log has to go on for the peer to follow it, now or when it has got its snapshot;
    /// `None` if it needs one that has yet to be taken.
    pub(crate) fn follows_after(&self) -> Option<LogIndex> {
        match (self.mode, self.flight) {
            (ProgressMode::Snapshot, SnapshotFlight::Taken(last)) => Some(last),
            (ProgressMode::Snapshot, _) => None,
            // It has yet to say that it has the snapshot.
            (ProgressMode::Probe, SnapshotFlight::Delivered(last, _)) => {
                Some(last.max(self.matched))
            }
            (ProgressMode::Probe | ProgressMode::Pipeline, _) => Some(self.matched),
        }
    }

    /// Whether a snapshot is on its way to the peer, or has reached it and the peer has got on within
    /// `patience`. Who carries the one on its way gives it up when that does not get on.
    pub(crate) fn is_brought_up(&self, now: Instant, patience: Duration) -> bool {
        match self.flight {
            SnapshotFlight::Taken(_) => true,
            SnapshotFlight::Delivered(_, got_on_at) => {
                now < got_on_at + patience || mutant!(StuckPeersHoldLog)
            }
            SnapshotFlight::Idle | SnapshotFlight::Asked | SnapshotFlight::Backoff(_) => false,
        }
    }

    pub(crate) fn view(&self) -> ProgressView {
        ProgressView {
            matched: self.matched,
            mode: self.mode,
            inflight: self.inflight.len(),
            inflight_bytes: self.inflight_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_types::GroupId;

    fn limits() -> Config {
        let mut config = Config::new(GroupId(1), ReplicaId(1));
        (config.max_inflight_appends, config.max_inflight_bytes) = (3, 100);
        config
    }

    #[test]
    fn an_accepted_probe_opens_the_pipeline_and_a_rejection_closes_it() {
        let mut peer = Progress::new(ReplicaId(2));
        peer.reset(LogIndex(11));
        assert!(peer.may_send(&limits()));
        peer.sent(Some(LogIndex(11)), 1);
        assert!(!peer.may_send(&limits()));
        peer.accepted(LogIndex(11), LogIndex(1));
        for last in [12, 13, 14] {
            assert!(peer.may_send(&limits()));
            peer.sent(Some(LogIndex(last)), 1);
        }
        assert!(!peer.may_send(&limits()));
        peer.accepted(LogIndex(13), LogIndex(1));
        assert_eq!((peer.view().inflight, peer.view().inflight_bytes), (1, 1));
        peer.rejected(LogIndex(12), LogIndex(0));
        assert_eq!(peer.mode, ProgressMode::Pipeline, "a stale rejection");
        peer.rejected(LogIndex(14), LogIndex(0));
        assert_eq!((peer.mode, peer.next), (ProgressMode::Probe, LogIndex(14)));
        assert_eq!((peer.view().inflight, peer.view().inflight_bytes), (0, 0));
    }

    #[test]
    fn bytes_under_way_are_bounded_and_any_one_append_may_go() {
        let mut peer = Progress::new(ReplicaId(2));
        peer.reset(LogIndex(1));
        peer.accepted(LogIndex(0), LogIndex(1));
        assert!(peer.may_send(&limits()));
        peer.sent(Some(LogIndex(1)), 1000);
        assert!(!peer.may_send(&limits()), "1000 of 100 bytes");
        peer.accepted(LogIndex(1), LogIndex(1));
        peer.sent(Some(LogIndex(2)), 99);
        assert!(peer.may_send(&limits()));
        peer.sent(Some(LogIndex(3)), 1);
        assert!(!peer.may_send(&limits()), "100 of 100 bytes");
    }

    #[test]
    fn only_an_answer_that_the_log_can_follow_on_ends_the_wait_for_a_snapshot() {
        let mut peer = Progress::new(ReplicaId(2));
        peer.reset(LogIndex(21));
        peer.needs_snapshot();
        peer.accepted(LogIndex(5), LogIndex(10));
        assert_eq!(
            (peer.mode, peer.matched),
            (ProgressMode::Snapshot, LogIndex(5))
        );
        peer.accepted(LogIndex(9), LogIndex(10));
        assert_eq!(
            (peer.mode, peer.next),
            (ProgressMode::Pipeline, LogIndex(10))
        );
    }

    #[test]
    fn late_answers_neither_lower_what_is_known_nor_move_a_probe() {
        let mut peer = Progress::new(ReplicaId(2));
        peer.reset(LogIndex(21));
        peer.sent(None, 0);
        peer.rejected(LogIndex(20), LogIndex(7));
        assert_eq!(peer.next, LogIndex(8));
        peer.rejected(LogIndex(20), LogIndex(3));
        assert_eq!(peer.next, LogIndex(8));
        peer.accepted(LogIndex(7), LogIndex(1));
        peer.accepted(LogIndex(5), LogIndex(1));
        assert_eq!(peer.matched, LogIndex(7));
    }
}
