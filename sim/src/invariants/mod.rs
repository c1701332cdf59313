//! The checkers, a file each, named by the number of the invariant in the design.
//!
//! A checker is told what happened and says whether that may be. None of them asks the code under test
//! what it thinks: they see messages that leave, records that go into a log, entries that are applied,
//! states that recovery found, and what clients were told.

mod s10_applied_once;
mod s11_bounded;
mod s12_hostile_bytes;
mod s1_one_leader;
mod s2_log_matching;
mod s3_leader_completeness;
mod s4_state_machine;
mod s5_own_term;
mod s6_durability;
mod s7_acknowledged;
mod s8_counted;
mod s8_linearizable;
mod s9_range_and_epoch;

pub use s1_one_leader::OneLeaderPerTerm;
pub use s2_log_matching::LogMatching;
pub use s3_leader_completeness::LeaderCompleteness;
pub use s4_state_machine::StateMachineSafety;
pub use s5_own_term::OwnTermCommit;
pub use s6_durability::Promises;
pub use s7_acknowledged::{Acknowledged, Disk};
pub use s8_counted::check_counts;
pub use s8_linearizable::{Action, Call, Linearizability, ValueId, check_key};
pub use s9_range_and_epoch::{Claim, Ownership};
pub use s10_applied_once::{AppliedOnce, CommandId};
pub use s11_bounded::Bounds;
pub use s12_hostile_bytes::{no_effect, refused};

use std::fmt;
use thiserror::Error;

/// What must always hold, by the numbers of the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// At most one leader per term of a group.
    S1,
    /// Equal (index, term) means equal logs up to there.
    S2,
    /// A leader's log holds all that was committed before its term.
    S3,
    /// All replicas apply the same, and are then the same.
    S4,
    /// Only entries of the own term are committed by counting.
    S5,
    /// What promises durability leaves only after the sync.
    S6,
    /// An acknowledged write survives.
    S7,
    /// Clients see one register per key.
    S8,
    /// Nothing outside of range and epoch.
    S9,
    /// Applied once, in order.
    S10,
    /// Memory and log space are bounded.
    S11,
    /// Hostile bytes have no effect.
    S12,
    /// Healed, the cluster works again and its replicas agree.
    Convergence,
    /// No assertion fails and nothing returns an error that it must not.
    NoPanic,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::S1 => "S1 (one leader per term)",
            Self::S2 => "S2 (log matching)",
            Self::S3 => "S3 (leader completeness)",
            Self::S4 => "S4 (state machine safety)",
            Self::S5 => "S5 (commit in the own term)",
            Self::S6 => "S6 (durable before promised)",
            Self::S7 => "S7 (acknowledged writes survive)",
            Self::S8 => "S8 (linearizability)",
            Self::S9 => "S9 (range and epoch)",
            Self::S10 => "S10 (applied once, in order)",
            Self::S11 => "S11 (bounded)",
            Self::S12 => "S12 (hostile bytes)",
            Self::Convergence => "convergence",
            Self::NoPanic => "no panic, no unexpected error",
        };
        f.write_str(name)
    }
}

/// Something happened that must not.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{invariant}: {what}")]
pub struct Violation {
    /// Which invariant it breaks.
    pub invariant: Invariant,
    /// What happened, in words.
    pub what: String,
}

impl Violation {
    /// A violation of `invariant`.
    #[must_use]
    pub const fn new(invariant: Invariant, what: String) -> Self {
        Self { invariant, what }
    }
}

/// Whether an observation is allowed.
pub type Checked = Result<(), Violation>;

#[cfg(test)]
pub(crate) fn broken(checked: &Checked) -> Invariant {
    checked
        .as_ref()
        .expect_err("the checker must object")
        .invariant
}
