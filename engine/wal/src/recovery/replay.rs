//! The groups' state, rebuilt record by record.

use super::Damage;
use crate::Lsn;
use crate::format::record::{
    FLAG_DAMAGED, Malformed, RecordKind, RecordView, decode_checkpoint, decode_extent,
    decode_hard_state,
};
use crate::index::{GroupHasher, GroupLog, Pins};
use pontoon_types::{ENTRY_HEADER_BYTES, GroupId, LogIndex, LogPosition, Term};
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;

/// Why a record of a verified batch could not be used.
pub(super) enum RecordError {
    /// A kind from a newer version.
    Unsupported,
    /// Its payload is not what its kind asks for, although its checksum holds.
    Malformed,
}

impl From<Malformed> for RecordError {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

/// All groups, as of the records seen so far.
#[derive(Default)]
pub(super) struct Replay {
    pub(super) groups: HashMap<GroupId, GroupLog, BuildHasherDefault<GroupHasher>>,
    pub(super) pins: Pins,
    pub(super) records: BTreeMap<RecordKind, u64>,
}

impl Replay {
    /// Takes in one record that lies at `at`. `damage` are the stretches found before it. Of a
    /// `rotten` entry only the record's header can be believed.
    pub(super) fn apply(
        &mut self,
        view: &RecordView<'_>,
        at: Lsn,
        rotten: bool,
        damage: &[Damage],
    ) -> Result<(), RecordError> {
        let header = &view.header;
        let kind = RecordKind::ALL
            .into_iter()
            .find(|kind| *kind as u8 == header.kind)
            .ok_or(RecordError::Unsupported)?;
        let group = self
            .groups
            .entry(header.group)
            .or_insert_with(GroupLog::new);
        let pins = &mut self.pins;
        if header.previous != group.link {
            let lost = |hole: &Damage| {
                hole.group.is_none() && hole.start <= header.previous && header.previous < hole.end
            };
            group.damaged |= damage.iter().any(lost);
        }
        group.damaged |= header.flags & FLAG_DAMAGED != 0;
        match kind {
            RecordKind::Entry if rotten => {}
            RecordKind::Entry => {
                let (owner, position) = entry_position(view.payload).ok_or(Malformed)?;
                if owner != header.group
                    || position.index == LogIndex::ZERO
                    || position.index == LogIndex(u64::MAX)
                {
                    return Err(RecordError::Malformed);
                }
                group.recover_entry(position, at, pins);
            }
            RecordKind::HardState => group.hard_state = decode_hard_state(view.payload)?,
            RecordKind::Compact => group.recover_extent(&decode_extent(view.payload)?, pins),
            RecordKind::Checkpoint => {
                let (state, extent) = decode_checkpoint(view.payload)?;
                group.hard_state = state;
                group.recover_extent(&extent, pins);
            }
            RecordKind::ConfChange
            | RecordKind::SnapshotInstall
            | RecordKind::Rewrite
            | RecordKind::Tombstone => return Err(RecordError::Unsupported),
        }
        group.link = at;
        *self.records.entry(kind).or_default() += 1;
        Ok(())
    }

    /// Marks every group that is not proven whole.
    pub(super) fn finish(&mut self, damage: &[Damage]) {
        for (id, group) in &mut self.groups {
            let hit = |hole: &Damage| match hole.group {
                Some(hit) => hit == *id,
                None => group.link < hole.end,
            };
            group.damaged |= group.has_gap() || damage.iter().any(hit);
        }
    }
}

/// Whose an entry is and where it belongs, from its envelope.
pub(super) fn entry_position(envelope: &[u8]) -> Option<(GroupId, LogPosition)> {
    let header: &[u8; ENTRY_HEADER_BYTES] = envelope.first_chunk()?;
    let number = |at| crate::format::u64_at(header, at);
    let position = LogPosition {
        term: Term(number(16)),
        index: LogIndex(number(24)),
    };
    Some((GroupId(number(8)), position))
}
