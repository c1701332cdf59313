//! What the log keeps of a group besides its entries, and the records that tell it.

use super::record::{
    COMPACT_BYTES, Extent, HARD_STATE_BYTES, Malformed, decode_extent, decode_hard_state,
    encode_extent, encode_hard_state,
};
use crate::Lsn;
use bytes::Bytes;
use pontoon_types::{HardState, LogIndex, LogPosition, ReplicaId, Term};

/// The most that an installed snapshot may say of itself: where its data went, not the data.
pub const MAX_INSTALL_BYTES: usize = 1 << 20;

/// Flag of a record: the group has lost something and must not be trusted.
pub(crate) const FLAG_DAMAGED: u8 = 1;
/// Flag of a checkpoint: it goes on with the replica that is gone.
pub(crate) const FLAG_REMOVED: u8 = 2;
/// Flag of a checkpoint: it ends with the installed snapshot. Of a compaction: the last one is still needed.
pub(crate) const FLAG_INSTALLED: u8 = 4;

const POSITION_BYTES: usize = 16;
const REMOVAL_BYTES: usize = 16;

/// A snapshot that took the place of a group's log, as [`crate::BatchBuilder::install_snapshot`] took it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledSnapshot {
    /// The last entry that it covers.
    pub last: LogPosition,
    /// What the store needs to switch over to it. It means nothing to the log.
    pub payload: Bytes,
}

impl InstalledSnapshot {
    pub(crate) fn encoded_len(&self) -> usize {
        install_bytes(self.payload.len())
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.last.term.0.to_le_bytes());
        out.extend_from_slice(&self.last.index.0.to_le_bytes());
        out.extend_from_slice(&self.payload);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (position, payload) = bytes.split_first_chunk().ok_or(Malformed)?;
        let position: &[u8; POSITION_BYTES] = position;
        let last = LogPosition {
            term: Term(super::u64_at(position, 0)),
            index: LogIndex(super::u64_at(position, 8)),
        };
        if last.index == LogIndex(u64::MAX) || payload.len() > MAX_INSTALL_BYTES {
            return Err(Malformed);
        }
        let payload = Bytes::copy_from_slice(payload);
        Ok(Self { last, payload })
    }
}

/// Bytes of the payload of [`super::record::RecordKind::SnapshotInstall`].
pub(crate) const fn install_bytes(payload: usize) -> usize {
    POSITION_BYTES + payload
}

/// The highest replica of a group that is gone for good, and where the log says so of the last one. What was
/// lost before that was lost with the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Removal {
    pub(crate) replica: ReplicaId,
    pub(crate) at: Lsn,
}

impl Removal {
    /// What is known of a group's removed replicas after one more, `before` being what was.
    pub(crate) fn of(before: Option<Self>, replica: ReplicaId, at: Lsn) -> Self {
        let replica = before.map_or(replica, |before| before.replica.max(replica));
        Self { replica, at }
    }
}

/// Bytes of the payload of [`super::record::RecordKind::Tombstone`].
pub(crate) const TOMBSTONE_BYTES: usize = 8;

pub(crate) const fn encode_tombstone(replica: ReplicaId) -> [u8; TOMBSTONE_BYTES] {
    replica.0.to_le_bytes()
}

pub(crate) fn decode_tombstone(bytes: &[u8]) -> Result<ReplicaId, Malformed> {
    let bytes = bytes.try_into().map_err(|_| Malformed)?;
    Ok(ReplicaId(u64::from_le_bytes(bytes)))
}

/// All that a checkpoint says of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupState {
    pub(crate) hard_state: HardState,
    pub(crate) extent: Extent,
    pub(crate) damaged: bool,
    pub(crate) removed: Option<Removal>,
    pub(crate) installed: Option<InstalledSnapshot>,
}

impl GroupState {
    pub(crate) const fn flags(&self) -> u8 {
        let mut flags = if self.damaged { FLAG_DAMAGED } else { 0 };
        if self.removed.is_some() {
            flags |= FLAG_REMOVED;
        }
        if self.installed.is_some() {
            flags |= FLAG_INSTALLED;
        }
        flags
    }

    pub(crate) fn encoded_len(
        removed: Option<&Removal>,
        installed: Option<&InstalledSnapshot>,
    ) -> usize {
        HARD_STATE_BYTES
            + COMPACT_BYTES
            + removed.map_or(0, |_| REMOVAL_BYTES)
            + installed.map_or(0, InstalledSnapshot::encoded_len)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&encode_hard_state(&self.hard_state));
        out.extend_from_slice(&encode_extent(&self.extent));
        if let Some(removed) = &self.removed {
            out.extend_from_slice(&removed.replica.0.to_le_bytes());
            out.extend_from_slice(&removed.at.0.to_le_bytes());
        }
        if let Some(installed) = &self.installed {
            installed.encode(out);
        }
    }

    pub(crate) fn decode(flags: u8, bytes: &[u8]) -> Result<Self, Malformed> {
        let (hard_state, rest) = bytes.split_at_checked(HARD_STATE_BYTES).ok_or(Malformed)?;
        let (extent, mut rest) = rest.split_at_checked(COMPACT_BYTES).ok_or(Malformed)?;
        let mut removed = None;
        if flags & FLAG_REMOVED != 0 {
            let (removal, after) = rest.split_first_chunk().ok_or(Malformed)?;
            let removal: &[u8; REMOVAL_BYTES] = removal;
            removed = Some(Removal {
                replica: ReplicaId(super::u64_at(removal, 0)),
                at: Lsn(super::u64_at(removal, 8)),
            });
            rest = after;
        }
        let mut installed = None;
        if flags & FLAG_INSTALLED != 0 {
            installed = Some(InstalledSnapshot::decode(rest)?);
            rest = &[];
        }
        if !rest.is_empty() {
            return Err(Malformed);
        }
        Ok(Self {
            hard_state: decode_hard_state(hard_state)?,
            extent: decode_extent(extent)?,
            damaged: flags & FLAG_DAMAGED != 0,
            removed,
            installed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_checkpoint_reads_back(
            index in 0..u64::MAX,
            damaged: bool,
            removed: Option<(u64, u64)>,
            installed in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
        ) {
            let position = LogPosition { term: Term(4), index: LogIndex(index) };
            let state = GroupState {
                hard_state: HardState { term: Term(7), vote: None, commit: LogIndex(3) },
                extent: Extent { compacted: position, last: position },
                damaged,
                removed: removed.map(|(replica, at)| Removal { replica: ReplicaId(replica), at: Lsn(at) }),
                installed: installed.map(|payload| InstalledSnapshot { last: position, payload: payload.into() }),
            };
            let mut bytes = Vec::new();
            state.encode(&mut bytes);
            let length = GroupState::encoded_len(state.removed.as_ref(), state.installed.as_ref());
            prop_assert_eq!(bytes.len(), length);
            prop_assert_eq!(GroupState::decode(state.flags(), &bytes), Ok(state));
        }

        #[test]
        fn arbitrary_bytes_never_panic(flags: u8, bytes: Vec<u8>) {
            let _ = GroupState::decode(flags, &bytes);
            let _ = InstalledSnapshot::decode(&bytes);
            let _ = decode_tombstone(&bytes);
        }
    }
}
