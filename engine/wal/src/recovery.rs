//! Reading a log back: what is whole, what is torn, and what is damaged.
//!
//! The scan goes over all segments in order and changes nothing, so the inspection uses it too. Where a
//! batch cannot be read it searches for the next header that verifies, and then decides by the **durable
//! mark**, the highest position that anything in the directory says was durable:
//!
//! - At or above the mark nothing was acknowledged. Pages reach a disk in any order, so whole batches
//!   may lie behind a torn one; all of it is cut.
//! - Below the mark it was acknowledged, so it is **damage**. The scan goes on behind it. Every record
//!   names its group's record before it: a group whose first record behind the damage names one in front
//!   of it has lost nothing. All others are quarantined, and so is a group of which nothing comes after.
//!
//! Reading and checking segments, and replaying the groups' records, may each be done by threads beside the walk. What is found
//! is the same.
//!
//! The cut and the rewriting of what lies above the mark are in [`crate::Log::open`].

mod ahead;
mod lanes;
mod replay;
mod scan;
mod stretch;

pub(crate) use scan::{RecordSeen, Scan, Scanned, scan, scan_records};
pub(crate) use stretch::{Stretch, read_piece};

use crate::Lsn;
use crate::format::record::RecordKind;
use crate::format::state::InstalledSnapshot;
use pontoon_types::{GroupId, HardState, LogIndex, LogPosition, ReplicaId, Term};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a log held when it was opened.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Every group that has a record.
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// Groups that have lost something durable, or may have. They must not campaign, vote or
    /// acknowledge until they are rebuilt from their peers.
    pub damaged: BTreeSet<GroupId>,
    /// What was found on the way.
    pub report: RecoveryReport,
}

impl Recovered {
    /// Whether a group must not be trusted. That also holds for one the log does not know at all, if
    /// something is damaged: its only records may have been there.
    #[must_use]
    pub fn is_quarantined(&self, group: GroupId) -> bool {
        self.damaged.contains(&group)
            || (self.report.unattributed && !self.groups.contains_key(&group))
    }
}

/// One group's part of [`Recovered`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// Its latest hard state.
    pub hard_state: HardState,
    /// The position up to which its log is compacted.
    pub compacted: LogPosition,
    /// Where runs of one term start, ascending; from the entry after `compacted` to `last`.
    pub terms: Vec<(LogIndex, Term)>,
    /// Its last index.
    pub last: LogIndex,
    /// The last installed snapshot, if no compaction has said since that its payload is not needed: then the
    /// store may not have switched over to it, or may have lost the switch.
    pub installed: Option<InstalledSnapshot>,
    /// The highest of the group's replicas that is gone for good.
    pub removed: Option<ReplicaId>,
    /// Whether it must not be trusted, as in [`Recovered::damaged`].
    pub damaged: bool,
}

/// A stretch of the log that was durable and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file in which it starts.
    pub file: String,
    /// Where it starts.
    pub start: Lsn,
    /// The next position that can be read again.
    pub end: Lsn,
    /// The group that it hit, if it is one entry; else it is found by what the groups' records say.
    pub group: Option<GroupId>,
}

/// What recovery or an inspection found.
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    /// Segments with batches in them, or with a place for them.
    pub segments: usize,
    /// Whole batches.
    pub batches: u64,
    /// Records in them, by kind.
    pub records: BTreeMap<RecordKind, u64>,
    /// Bytes of batches.
    pub bytes: u64,
    /// Bytes above the durable mark that were cut because a batch was torn. Zeros and leftovers of an
    /// earlier life of the file do not count.
    pub torn_bytes: u64,
    /// The highest position that anything said was durable.
    pub durable: Lsn,
    /// Where the log ends.
    pub end: Lsn,
    /// Whether the second place of the durable mark could be read.
    pub mark_found: bool,
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// Whether damage may have hit groups of which the log holds nothing else.
    pub unattributed: bool,
    /// How long it took.
    pub duration: Duration,
}
