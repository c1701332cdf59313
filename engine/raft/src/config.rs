//! What a replica is told at its start: its settings, and what recovery found on its disk.

use crate::log::Log;
use alloc::vec::Vec;
use core::time::Duration;
use pontoon_types::{
    ConfState, ENTRY_HEADER_BYTES, GroupId, HardState, LogIndex, LogPosition, MAX_ENTRY_BYTES,
    ReplicaId, Term, mutant,
};
use thiserror::Error;

/// The settings of one replica.
///
/// Sizes count whole entry envelopes, header included, because that is what memory and frames hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The group that this replica is a member of. Entries of any other group are refused.
    pub group: GroupId,
    /// This replica. Not 0; never used again once it was removed from the group.
    pub id: ReplicaId,
    /// The least time without a leader after which a voter campaigns; each wait is drawn anew from
    /// `[election_timeout, 2 * election_timeout)` (Raft §5.2). It is also how long stickiness lasts
    /// and how often a leader checks that it still reaches a quorum.
    pub election_timeout: Duration,
    /// How often a leader speaks to its peers when it has nothing else to say. Less than
    /// `election_timeout`.
    pub heartbeat_interval: Duration,
    /// Whether a campaign first asks if it could win, without raising any term (thesis §9.6).
    pub pre_vote: bool,
    /// Whether a leader that has not heard a quorum for `election_timeout` steps down, and whether
    /// voters that have just heard their leader refuse others (thesis §6.2 and §4.2.3).
    pub check_quorum: bool,
    /// Whether a leader serves reads under a lease instead of asking a quorum each time (thesis §6.4.1). Needs
    /// `check_quorum`. It must be the same on all members, as must be `election_timeout`; what it rests on
    /// is in the module `lease`.
    pub lease: bool,
    /// By how much the clocks of members may drift: while one moves on by some time, each other moves on by
    /// at least so much less. Below 100. Whoever understates it gets stale reads under a lease; overstating
    /// it only shortens leases.
    pub max_clock_drift_percent: u8,
    /// How willing this replica is to lead: 0 is the most, and every step waits one `election_timeout`
    /// more for a leader before it campaigns. So the preferred one asks first, if it lives. Whether it
    /// wins its log decides, as ever; if it does not, the next one's turn comes.
    pub election_rank: u32,
    /// A number that no two lives of this replica share, a random one for instance: answers to what an
    /// earlier one has asked are told apart by it.
    pub incarnation: u64,
    /// Appends that may be unanswered per peer in pipeline mode.
    pub max_inflight_appends: usize,
    /// Entry bytes that may be unanswered per peer, beyond which no further Append leaves.
    pub max_inflight_bytes: usize,
    /// Entry bytes per Append. A single larger entry still goes, alone.
    pub max_append_bytes: usize,
    /// Bytes of uncommitted entries above which a leader refuses proposals. The first proposal over
    /// an empty tail is always taken, whatever its size.
    pub max_uncommitted_bytes: usize,
    /// Entry bytes per [`Ready::committed`](crate::Ready::committed), at least one entry; at most twice
    /// as many are handed out and not yet acknowledged.
    pub max_apply_bytes: usize,
    /// Bytes of entries that a leader keeps in memory although they are durable and applied, to feed peers that lag a little
    /// without a [`Fetch`](crate::Fetch).
    pub max_cached_bytes: usize,
    /// The seed of the election timeouts. Group and id are mixed in, so that one seed per node is enough.
    pub seed: u64,
}

/// What recovery found: the durable state that a replica starts from (Raft figure 2).
///
/// All of it counts as durable. Recovery has rewritten and synced what lay above the log's durable
/// mark before it calls this restored, because the page cache of a killed process is not the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Term, vote, and a commit index that may lag behind.
    pub hard_state: HardState,
    /// The members as of `applied`. None if this replica has yet to learn them: then it takes part in
    /// nothing but votes, until a leader brings it a snapshot.
    pub conf_state: ConfState,
    /// The last position that is no longer in the log; [`LogPosition::ZERO`] if all of it is there.
    pub compacted: LogPosition,
    /// First index and term of every run of entries of one term, ascending in both, covering the log
    /// after `compacted` up to `last`.
    pub terms: Vec<(LogIndex, Term)>,
    /// The index of the last entry; equal to `compacted.index` if there is none.
    pub last: LogIndex,
    /// What the state machine has durably applied. Implies that it was committed.
    pub applied: LogIndex,
}

/// Why a replica cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A setting that must be positive is zero.
    #[error("setting {setting} is zero")]
    Zero {
        /// Its name in [`Config`].
        setting: &'static str,
    },
    /// Followers would campaign between two heartbeats.
    #[error("heartbeat interval {heartbeat:?} is not below the election timeout {election:?}")]
    HeartbeatTooSlow {
        /// The heartbeat interval.
        heartbeat: Duration,
        /// The election timeout.
        election: Duration,
    },
    /// No time would be left of a lease.
    #[error("a clock drift of {percent} % leaves nothing of a lease; it must be below 100 %")]
    ClockDrift {
        /// The stated drift.
        percent: u8,
    },
    /// A lease rests on the promises that voters make to a leader that checks its quorum.
    #[error("leases need check_quorum")]
    LeaseWithoutCheckQuorum,
    /// The restored runs of terms do not describe a log.
    #[error("the log's terms are inconsistent at index {index}, term {term}")]
    Terms {
        /// Where the run that does not fit begins.
        index: LogIndex,
        /// Its term.
        term: Term,
    },
    /// The restored members cannot be those of a group.
    #[error("the stored members are inconsistent")]
    Members,
    /// The log holds an entry of a term that the hard state has not reached.
    #[error("the log ends in term {log}, after the stored term {stored}")]
    TermBehindLog {
        /// The stored term.
        stored: Term,
        /// The term of the last entry.
        log: Term,
    },
    /// The hard state's commit index is past the log's end: entries that were durable are gone.
    #[error("the stored commit index {commit} is past the log's end {last}")]
    CommitPastLog {
        /// The stored commit index.
        commit: LogIndex,
        /// The log's last index.
        last: LogIndex,
    },
    /// The applied index is outside what the log can have given the state machine.
    #[error("the applied index {applied} is outside {compacted}..={last}")]
    Applied {
        /// The applied index.
        applied: LogIndex,
        /// The last compacted index; replay cannot start before it.
        compacted: LogIndex,
        /// The log's last index.
        last: LogIndex,
    },
}

/// The largest payload that fits into an entry.
pub(crate) const MAX_PAYLOAD_BYTES: usize = MAX_ENTRY_BYTES - ENTRY_HEADER_BYTES;

impl Config {
    /// Settings for tests and first steps: one second elections, 100 ms heartbeats, both protections on.
    #[must_use]
    pub fn new(group: GroupId, id: ReplicaId) -> Self {
        Self {
            group,
            id,
            election_timeout: Duration::from_millis(1000),
            heartbeat_interval: Duration::from_millis(100),
            pre_vote: true,
            check_quorum: true,
            lease: false,
            max_clock_drift_percent: 10,
            election_rank: 0,
            incarnation: 0,
            max_inflight_appends: 64,
            max_inflight_bytes: 16 << 20,
            max_append_bytes: 1 << 20,
            max_uncommitted_bytes: 16 << 20,
            max_apply_bytes: 4 << 20,
            max_cached_bytes: 4 << 20,
            seed: 0,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let positive = [
            ("id", self.id.0 != 0),
            ("election_timeout", !self.election_timeout.is_zero()),
            ("heartbeat_interval", !self.heartbeat_interval.is_zero()),
            ("max_inflight_appends", self.max_inflight_appends != 0),
            ("max_inflight_bytes", self.max_inflight_bytes != 0),
            ("max_append_bytes", self.max_append_bytes != 0),
            ("max_uncommitted_bytes", self.max_uncommitted_bytes != 0),
            ("max_apply_bytes", self.max_apply_bytes != 0),
        ];
        if let Some((setting, _)) = positive.into_iter().find(|(_, holds)| !holds) {
            return Err(ConfigError::Zero { setting });
        }
        if self.heartbeat_interval >= self.election_timeout {
            return Err(ConfigError::HeartbeatTooSlow {
                heartbeat: self.heartbeat_interval,
                election: self.election_timeout,
            });
        }
        if self.max_clock_drift_percent >= 100 {
            let percent = self.max_clock_drift_percent;
            return Err(ConfigError::ClockDrift { percent });
        }
        if self.lease && !self.check_quorum {
            return Err(ConfigError::LeaseWithoutCheckQuorum);
        }
        Ok(())
    }
}

impl Restored {
    /// The state of a replica that has never written anything, in a group of these members.
    #[must_use]
    pub fn blank(conf_state: ConfState) -> Self {
        Self {
            conf_state,
            ..Self::default()
        }
    }

    /// Checks everything that the protocol relies on, and makes the log.
    pub(crate) fn log(&self) -> Result<Log, ConfigError> {
        let Self {
            hard_state,
            compacted,
            last,
            applied,
            ..
        } = *self;
        if self.conf_state != ConfState::default() && !self.conf_state.is_well_formed() {
            return Err(ConfigError::Members);
        }
        let mut previous = compacted;
        for (at, &(index, term)) in self.terms.iter().enumerate() {
            let begins_right = if at == 0 {
                previous.index.0.checked_add(1) == Some(index.0) && previous.term <= term
            } else {
                previous.index < index && previous.term < term
            };
            if !begins_right || term == Term::ZERO || index > last {
                return Err(ConfigError::Terms { index, term });
            }
            previous = LogPosition { term, index };
        }
        if last < compacted.index || (self.terms.is_empty() && last != compacted.index) {
            return Err(ConfigError::Terms {
                index: last,
                term: previous.term,
            });
        }
        if previous.term > hard_state.term {
            return Err(ConfigError::TermBehindLog {
                stored: hard_state.term,
                log: previous.term,
            });
        }
        if hard_state.commit > last {
            return Err(ConfigError::CommitPastLog {
                commit: hard_state.commit,
                last,
            });
        }
        if applied < compacted.index || applied > last {
            return Err(ConfigError::Applied {
                applied,
                compacted: compacted.index,
                last,
            });
        }
        Ok(Log::new(
            compacted,
            &self.terms,
            last,
            hard_state.commit,
            if mutant!(AppliesTwice) {
                LogIndex(applied.0.saturating_sub(1)).max(compacted.index)
            } else {
                applied
            },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restored(terms: &[(u64, u64)], last: u64) -> Restored {
        Restored {
            hard_state: HardState {
                term: Term(9),
                ..HardState::default()
            },
            terms: terms
                .iter()
                .map(|&(index, term)| (LogIndex(index), Term(term)))
                .collect(),
            last: LogIndex(last),
            ..Restored::default()
        }
    }

    #[test]
    fn a_log_with_gaps_falling_terms_or_an_early_end_is_refused() {
        assert!(restored(&[(1, 1), (5, 3)], 6).log().is_ok());
        for (terms, last) in [
            (&[(2, 1)][..], 6),
            (&[(1, 3), (5, 2)], 6),
            (&[(1, 3), (5, 3)], 6),
            (&[(1, 1), (7, 2)], 6),
            (&[(1, 0)], 6),
            (&[], 6),
        ] {
            let found = restored(terms, last).log();
            assert!(matches!(found, Err(ConfigError::Terms { .. })), "{terms:?}");
        }
    }

    #[test]
    fn what_was_committed_or_applied_must_be_in_the_log() {
        let mut short = restored(&[(1, 1)], 6);
        short.hard_state.commit = LogIndex(7);
        assert!(matches!(
            short.log(),
            Err(ConfigError::CommitPastLog { .. })
        ));
        let mut ahead = restored(&[(1, 1)], 6);
        ahead.applied = LogIndex(7);
        assert!(matches!(ahead.log(), Err(ConfigError::Applied { .. })));
        let mut newer = restored(&[(1, 10)], 6);
        newer.hard_state.term = Term(9);
        assert!(matches!(
            newer.log(),
            Err(ConfigError::TermBehindLog { .. })
        ));
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let good = Config::new(GroupId(1), ReplicaId(1));
        assert_eq!(good.validate(), Ok(()));
        let mut bad = good.clone();
        bad.max_append_bytes = 0;
        let setting = "max_append_bytes";
        assert_eq!(bad.validate(), Err(ConfigError::Zero { setting }));
        let mut bad = good.clone();
        bad.heartbeat_interval = bad.election_timeout;
        assert!(matches!(
            bad.validate(),
            Err(ConfigError::HeartbeatTooSlow { .. })
        ));
        let mut bad = good.clone();
        bad.max_clock_drift_percent = 100;
        assert_eq!(
            bad.validate(),
            Err(ConfigError::ClockDrift { percent: 100 })
        );
        let mut leased = good;
        leased.lease = true;
        assert_eq!(leased.validate(), Ok(()));
        leased.check_quorum = false;
        assert_eq!(leased.validate(), Err(ConfigError::LeaseWithoutCheckQuorum));
    }
}
