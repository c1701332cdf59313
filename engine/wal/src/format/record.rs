//! Records: their headers, kinds and the small payloads that are not entries.

use super::{aligned, put, u32_at, u64_at};
use crate::Lsn;
use pontoon_types::{GroupId, HardState, LogIndex, LogPosition, ReplicaId, Term};

/// Bytes of a record header.
pub(crate) const RECORD_HEADER_BYTES: usize = 24;
/// The part of an entry's envelope that the batch's checksum covers: its length and its own checksum.
pub(crate) const ENTRY_CHECKED_BYTES: usize = 8;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// A Raft entry, in the envelope that its leader made. It cuts its group's log above it.
    Entry = 1,
    /// A group's hard state.
    HardState = 2,
    /// The entries of a group up to a position are no longer needed.
    Compact = 3,
    /// All of a group's state except its entries.
    Checkpoint = 4,
    /// A snapshot took the place of a group's log, at this very point.
    SnapshotInstall = 6,
    /// An entry written again so that its old segment can go. It never cuts a log.
    Rewrite = 7,
    /// A replica is gone for good, with all that the log held of its group.
    Tombstone = 8,
    /// The segments that the log consists of; one that is missing from them is a loss.
    Segments = 9,
}

impl RecordKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Entry,
        Self::HardState,
        Self::Compact,
        Self::Checkpoint,
        Self::SnapshotInstall,
        Self::Rewrite,
        Self::Tombstone,
        Self::Segments,
    ];

    /// The kind's name, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::HardState => "hard state",
            Self::Compact => "compaction",
            Self::Checkpoint => "checkpoint",
            Self::SnapshotInstall => "snapshot installation",
            Self::Rewrite => "rewritten entry",
            Self::Tombstone => "tombstone",
            Self::Segments => "list of segments",
        }
    }
}

/// A record header. The kind stays a number, because a newer version may have written it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    /// Bytes behind the header, without what fills up to the next multiple of 8.
    pub(crate) length: u32,
    pub(crate) kind: u8,
    /// What else is to be known of the group, by the bits that [`super::state`] names.
    pub(crate) flags: u8,
    pub(crate) group: GroupId,
    /// The group's record before this one, checkpoints aside.
    pub(crate) previous: Lsn,
}

impl RecordHeader {
    pub(crate) fn encode(&self) -> [u8; RECORD_HEADER_BYTES] {
        let mut out = [0; RECORD_HEADER_BYTES];
        put(&mut out, 0, &self.length.to_le_bytes());
        out[4] = self.kind;
        out[5] = self.flags;
        put(&mut out, 8, &self.group.0.to_le_bytes());
        put(&mut out, 16, &self.previous.0.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; RECORD_HEADER_BYTES]) -> Self {
        Self {
            length: u32_at(bytes, 0),
            kind: bytes[4],
            flags: bytes[5],
            group: GroupId(u64_at(bytes, 8)),
            previous: Lsn(u64_at(bytes, 16)),
        }
    }

    /// How many bytes from the record's start the batch's checksum covers. `payload` is its length.
    pub(crate) fn checked_bytes(kind: u8, payload: usize) -> usize {
        RECORD_HEADER_BYTES
            + if holds_an_entry(kind) {
                payload.min(ENTRY_CHECKED_BYTES)
            } else {
                payload
            }
    }
}

/// Whether a record of this kind is the envelope of an entry.
pub(crate) const fn holds_an_entry(kind: u8) -> bool {
    kind == RecordKind::Entry as u8 || kind == RecordKind::Rewrite as u8
}

/// The room that a record takes.
pub(crate) const fn record_bytes(payload: usize) -> usize {
    RECORD_HEADER_BYTES + aligned(payload)
}

/// A record in the body of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordView<'a> {
    /// Where it starts in the body.
    pub(crate) offset: usize,
    pub(crate) header: RecordHeader,
    pub(crate) payload: &'a [u8],
    /// What the batch's checksum covers of it.
    pub(crate) checked: &'a [u8],
}

/// Walks over the records of a body; ends with `Err` where a record does not fit.
pub(crate) struct Records<'a> {
    body: &'a [u8],
    offset: usize,
}

impl<'a> Records<'a> {
    pub(crate) const fn new(body: &'a [u8]) -> Self {
        Self { body, offset: 0 }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self
            .body
            .get(self.offset..)
            .filter(|rest| !rest.is_empty())?;
        let offset = self.offset;
        let read = || {
            let header = RecordHeader::decode(rest.first_chunk().ok_or(Malformed)?);
            let length = header.length as usize;
            let payload = rest[RECORD_HEADER_BYTES..].get(..length).ok_or(Malformed)?;
            let checked = &rest[..RecordHeader::checked_bytes(header.kind, length)];
            Ok(RecordView {
                offset,
                header,
                payload,
                checked,
            })
        };
        let result = read();
        self.offset = match &result {
            Ok(view) => offset + record_bytes(view.payload.len()),
            Err(Malformed) => self.body.len(),
        };
        Some(result)
    }
}

/// Whether an entry's own checksum holds: over all of its envelope behind the checksum.
pub(crate) fn entry_checksum_holds(envelope: &[u8]) -> bool {
    match (envelope.get(4..8), envelope.get(8..)) {
        (Some(found), Some(covered)) => found == crc32c::crc32c(covered).to_le_bytes(),
        _ => false,
    }
}

/// Bytes are not what their place asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Bytes of an encoded hard state.
pub(crate) const HARD_STATE_BYTES: usize = 32;
/// Bytes of the payload of [`RecordKind::Compact`].
pub(crate) const COMPACT_BYTES: usize = 32;

pub(crate) fn encode_hard_state(state: &HardState) -> [u8; HARD_STATE_BYTES] {
    let mut out = [0; HARD_STATE_BYTES];
    put(&mut out, 0, &state.term.0.to_le_bytes());
    put(&mut out, 8, &state.commit.0.to_le_bytes());
    if let Some(vote) = state.vote {
        put(&mut out, 16, &vote.0.to_le_bytes());
        out[24] = 1;
    }
    out
}

pub(crate) fn decode_hard_state(bytes: &[u8]) -> Result<HardState, Malformed> {
    let bytes: &[u8; HARD_STATE_BYTES] = bytes.try_into().map_err(|_| Malformed)?;
    let vote = match bytes[24] {
        0 => None,
        1 => Some(ReplicaId(u64_at(bytes, 16))),
        _ => return Err(Malformed),
    };
    Ok(HardState {
        term: Term(u64_at(bytes, 0)),
        vote,
        commit: LogIndex(u64_at(bytes, 8)),
    })
}

/// Where a group's log starts and ends. The end is there because a segment that held a cut of the log
/// may be gone while one with the entries that were cut away is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) compacted: LogPosition,
    pub(crate) last: LogPosition,
}

pub(crate) fn encode_extent(extent: &Extent) -> [u8; COMPACT_BYTES] {
    let mut out = [0; COMPACT_BYTES];
    put(&mut out, 0, &extent.compacted.term.0.to_le_bytes());
    put(&mut out, 8, &extent.compacted.index.0.to_le_bytes());
    put(&mut out, 16, &extent.last.term.0.to_le_bytes());
    put(&mut out, 24, &extent.last.index.0.to_le_bytes());
    out
}

pub(crate) fn decode_extent(bytes: &[u8]) -> Result<Extent, Malformed> {
    let bytes: &[u8; COMPACT_BYTES] = bytes.try_into().map_err(|_| Malformed)?;
    let position = |at| LogPosition {
        term: Term(u64_at(bytes, at)),
        index: LogIndex(u64_at(bytes, at + 8)),
    };
    let extent = Extent {
        compacted: position(0),
        last: position(16),
    };
    if extent.last.index < extent.compacted.index || extent.last.index == LogIndex(u64::MAX) {
        return Err(Malformed);
    }
    Ok(extent)
}

/// The generations of the log's segments, ascending.
pub(crate) fn encode_segments(generations: &[u32]) -> Vec<u8> {
    let bytes = generations.iter().flat_map(|one| one.to_le_bytes());
    bytes.collect()
}

pub(crate) fn decode_segments(bytes: &[u8]) -> Result<Vec<u32>, Malformed> {
    let (generations, []) = bytes.as_chunks::<4>() else {
        return Err(Malformed);
    };
    Ok(generations
        .iter()
        .map(|one| u32::from_le_bytes(*one))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_hard_state_reads_back(term: u64, commit: u64, vote: Option<u64>) {
            let state = HardState { term: Term(term), vote: vote.map(ReplicaId), commit: LogIndex(commit) };
            prop_assert_eq!(decode_hard_state(&encode_hard_state(&state)), Ok(state));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode_hard_state(&bytes);
            let _ = decode_extent(&bytes);
            if let Ok(generations) = decode_segments(&bytes) {
                prop_assert_eq!(encode_segments(&generations), bytes.clone());
            }
            for view in Records::new(&bytes).flatten() {
                prop_assert!(view.payload.len() <= bytes.len());
            }
        }
    }

    #[test]
    fn kinds_have_the_numbers_of_the_format() {
        let numbers: Vec<u8> = RecordKind::ALL.iter().map(|kind| *kind as u8).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 6, 7, 8, 9]);
    }
}
