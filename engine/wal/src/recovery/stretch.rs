//! Finding batches in bytes of a segment, for whoever reads one: recovery all of it, scrubbing a piece at a time.

use crate::file::LogFile;
use crate::format::batch::{BATCH_HEADER_BYTES, BatchHeader};
use crate::format::checksum::Seed;
use crate::format::record::{RecordView, Records, entry_checksum_holds, holds_an_entry};
use crate::format::{ALIGNMENT, PAGE_BYTES};
use pontoon_types::{Entry, GroupId};

/// Some bytes of a segment.
#[derive(Clone, Copy)]
pub(crate) struct Stretch<'a> {
    pub(crate) bytes: &'a [u8],
    /// Where they begin in the segment.
    pub(crate) start: u32,
    pub(crate) seed: Seed,
}

/// A batch whose header and body verify; its entries' payloads are checked one by one.
pub(crate) struct Whole {
    pub(crate) header: BatchHeader,
    pub(crate) checksum: u32,
    pub(crate) end: u32,
    /// An entry whose own checksum fails, by its offset in the segment.
    pub(crate) rotten: Vec<(u32, GroupId)>,
}

impl<'a> Stretch<'a> {
    /// All of a segment.
    pub(crate) const fn of_segment(bytes: &'a [u8], seed: Seed) -> Self {
        Self {
            bytes,
            start: 0,
            seed,
        }
    }

    /// What there is from `offset` on.
    fn from(&self, offset: u32) -> Option<&'a [u8]> {
        self.bytes.get(offset.checked_sub(self.start)? as usize..)
    }

    /// The offset behind the last byte.
    pub(crate) fn end(&self) -> u32 {
        self.start + self.bytes.len() as u32
    }

    /// The header at `offset` and its checksum, if one is there.
    pub(crate) fn header_at(&self, offset: u32) -> Option<(BatchHeader, u32)> {
        BatchHeader::decode(self.from(offset)?, offset, self.seed)
    }

    /// The whole batch at `offset`, if one is there.
    pub(crate) fn batch_at(&self, offset: u32) -> Option<Whole> {
        let (header, checksum) = self.header_at(offset)?;
        let body = self.from(offset)?.get(BATCH_HEADER_BYTES..)?;
        let body = body.get(..header.body_bytes as usize)?;
        let body_at = offset as usize + BATCH_HEADER_BYTES;
        let mut body_checksum = self.seed.at(offset);
        let (mut records, mut rotten) = (0, Vec::new());
        for record in Records::new(body) {
            let view = record.ok()?;
            body_checksum = crc32c::crc32c_append(body_checksum, view.checked);
            records += 1;
            if holds_an_entry(view.header.kind) && !entry_is_whole(&view) {
                rotten.push(((body_at + view.offset) as u32, view.header.group));
            }
        }
        let end = u32::try_from(body_at + body.len()).ok()?;
        (body_checksum == header.body_checksum && records == header.records).then_some(Whole {
            header,
            checksum,
            end,
            rotten,
        })
    }

    /// Whether the bytes end within a batch at `offset`, so that more of them would tell.
    pub(crate) fn ends_within(&self, offset: u32) -> bool {
        let rest = self.end().saturating_sub(offset) as usize;
        if rest < BATCH_HEADER_BYTES {
            return true;
        }
        self.header_at(offset)
            .is_some_and(|(header, _)| rest - BATCH_HEADER_BYTES < header.body_bytes as usize)
    }

    /// The next header that verifies. Headers start at multiples of 8 and hold a checksum seeded by their
    /// place and their segment's salt, so neither a payload nor an earlier life of the file can pose as one.
    pub(crate) fn find_header(&self, from: u32) -> Option<u32> {
        let mut offset = from;
        while let Some(bytes) = self.from(offset)
            && bytes.len() >= BATCH_HEADER_BYTES
        {
            if BatchHeader::may_start(bytes)
                && BatchHeader::decode(bytes, offset, self.seed).is_some()
            {
                return Some(offset);
            }
            offset += ALIGNMENT as u32;
        }
        None
    }
}

/// The checks of [`Entry::decode`] without a copy.
fn entry_is_whole(view: &RecordView<'_>) -> bool {
    let envelope = view.payload;
    Entry::length_of(envelope).is_ok_and(|length| length == envelope.len())
        && entry_checksum_holds(envelope)
}

/// Fills `piece` from a file. A page that cannot be read is left zero, and so is found as damage.
pub(crate) fn read_piece<F: LogFile>(file: &F, from: u64, piece: &mut [u8]) {
    if file.read_at(from, piece).is_err() {
        for (page, part) in piece.chunks_mut(PAGE_BYTES).enumerate() {
            let offset = from + (page * PAGE_BYTES) as u64;
            if file.read_at(offset, part).is_err() {
                part.fill(0);
            }
        }
    }
}
