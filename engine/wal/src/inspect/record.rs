//! A record as people look at it.

use crate::Lsn;
use crate::format::record::{
    Malformed, RecordKind, decode_extent, decode_hard_state, decode_segments, record_bytes,
};
use crate::format::state::{FLAG_INSTALLED, GroupState, InstalledSnapshot, decode_tombstone};
use crate::recovery::RecordSeen;
use bytes::Bytes;
use pontoon_types::{Entry, GroupId, HardState, LogPosition, ReplicaId};

/// A record that is part of a log, and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedRecord {
    /// Where it starts.
    pub at: Lsn,
    /// Where the batch starts that it came in.
    pub batch: Lsn,
    /// Its kind.
    pub kind: RecordKind,
    /// The group that it belongs to; 0 for what concerns the log as a whole.
    pub group: GroupId,
    /// The group's record before this one, checkpoints aside; zero if there was none.
    pub previous: Lsn,
    /// Bytes that it takes in the log.
    pub bytes: u64,
    /// What it says; `None` if it cannot be read, although its header can.
    pub content: Option<Content>,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// An entry, also one that was written again.
    Entry(Entry),
    /// A group's hard state.
    HardState(HardState),
    /// The group's entries up to `compacted` are no longer needed, and its log ends at `last`.
    Compact {
        /// The last entry that is not needed.
        compacted: LogPosition,
        /// The last entry there is.
        last: LogPosition,
        /// Whether the payload of an installed snapshot is still needed.
        keeps_installed: bool,
    },
    /// All of a group's state except its entries.
    Checkpoint {
        /// Its hard state.
        hard_state: HardState,
        /// The last entry that is not needed.
        compacted: LogPosition,
        /// The last entry there is.
        last: LogPosition,
        /// Whether the group had lost something.
        damaged: bool,
        /// The highest of its replicas that is gone for good.
        removed: Option<ReplicaId>,
        /// The installed snapshot whose payload is still needed.
        installed: Option<InstalledSnapshot>,
    },
    /// A snapshot took the place of the group's log.
    SnapshotInstall(InstalledSnapshot),
    /// A replica is gone for good.
    Tombstone(ReplicaId),
    /// The generations of the segments that the log consists of.
    Segments(Vec<u32>),
}

impl LoggedRecord {
    /// `None` if its kind is one of a newer version.
    pub(crate) fn of(seen: &RecordSeen<'_>) -> Option<Self> {
        let header = &seen.view.header;
        let kind = RecordKind::ALL
            .into_iter()
            .find(|kind| *kind as u8 == header.kind)?;
        let content =
            (!seen.rotten).then(|| Content::decode(kind, header.flags, seen.view.payload));
        Some(Self {
            at: seen.at,
            batch: seen.batch,
            kind,
            group: header.group,
            previous: header.previous,
            bytes: record_bytes(seen.view.payload.len()) as u64,
            content: content.and_then(Result::ok),
        })
    }
}

impl Content {
    fn decode(kind: RecordKind, flags: u8, payload: &[u8]) -> Result<Self, Malformed> {
        Ok(match kind {
            RecordKind::Entry | RecordKind::Rewrite => {
                // The scan has verified it.
                let bytes = Bytes::copy_from_slice(payload);
                Self::Entry(Entry::decode_unverified(bytes).map_err(|_| Malformed)?)
            }
            RecordKind::HardState => Self::HardState(decode_hard_state(payload)?),
            RecordKind::Compact => {
                let extent = decode_extent(payload)?;
                Self::Compact {
                    compacted: extent.compacted,
                    last: extent.last,
                    keeps_installed: flags & FLAG_INSTALLED != 0,
                }
            }
            RecordKind::Checkpoint => {
                let state = GroupState::decode(flags, payload)?;
                Self::Checkpoint {
                    hard_state: state.hard_state,
                    compacted: state.extent.compacted,
                    last: state.extent.last,
                    damaged: state.damaged,
                    removed: state.removed.map(|removal| removal.replica),
                    installed: state.installed,
                }
            }
            RecordKind::SnapshotInstall => {
                Self::SnapshotInstall(InstalledSnapshot::decode(payload)?)
            }
            RecordKind::Tombstone => Self::Tombstone(decode_tombstone(payload)?),
            RecordKind::Segments => Self::Segments(decode_segments(payload)?),
        })
    }
}
