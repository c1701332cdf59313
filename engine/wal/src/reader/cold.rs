//! Reading entries from the disk, by calls that report a bad block as an error.

use super::{check_entry, damaged};
use crate::Lsn;
use crate::error::{Operation, WalError};
use crate::file::LogFile;
use crate::format::record::{RECORD_HEADER_BYTES, RecordHeader};
use crate::space::{Segment, segment_name};
use bytes::Bytes;
use pontoon_types::{Entry, GroupId, LogIndex, MAX_ENTRY_BYTES};
use std::sync::Arc;

/// The least that a cold read takes from the disk at once.
const COLD_READ_BYTES: usize = 64 << 10;

/// Reads from the disk, a stretch at a time.
pub(crate) struct Cold<F> {
    segment: Option<Arc<Segment<F>>>,
    offset: u64,
    bytes: Vec<u8>,
}

impl<F> Default for Cold<F> {
    fn default() -> Self {
        Self {
            segment: None,
            offset: 0,
            bytes: Vec::new(),
        }
    }
}

impl<F: LogFile> Cold<F> {
    pub(crate) fn entry(
        &mut self,
        group: GroupId,
        index: LogIndex,
        at: Lsn,
        segment: Arc<Segment<F>>,
    ) -> Result<Entry, WalError> {
        let offset = u64::from(at.offset());
        let header = self.range(&segment, offset, RECORD_HEADER_BYTES)?;
        let mut header_bytes = [0; RECORD_HEADER_BYTES];
        header_bytes.copy_from_slice(header);
        let length = RecordHeader::decode(&header_bytes).length as usize;
        if length > MAX_ENTRY_BYTES {
            return Err(damaged(group, at));
        }
        let payload = self.range(&segment, offset + RECORD_HEADER_BYTES as u64, length)?;
        let bytes = Bytes::copy_from_slice(payload);
        check_entry(bytes, group, index, at)
    }

    /// `length` bytes at `offset`, from what was read before if they are there.
    fn range(
        &mut self,
        segment: &Arc<Segment<F>>,
        offset: u64,
        length: usize,
    ) -> Result<&[u8], WalError> {
        let held = self
            .segment
            .as_ref()
            .is_some_and(|held| Arc::ptr_eq(held, segment))
            && offset >= self.offset
            && offset + length as u64 <= self.offset + self.bytes.len() as u64;
        if !held {
            let most = segment.bytes.saturating_sub(offset);
            let wanted = (length.max(COLD_READ_BYTES) as u64).min(most) as usize;
            self.segment = None;
            self.bytes.resize(wanted, 0);
            let mut read = segment.file.read_at(offset, &mut self.bytes);
            if read.is_err() && length < wanted {
                // What cannot be read may lie behind what is wanted.
                self.bytes.truncate(length);
                read = segment.file.read_at(offset, &mut self.bytes);
            }
            read.map_err(WalError::io(
                Operation::Read,
                &segment_name(segment.generation),
            ))?;
            self.segment = Some(Arc::clone(segment));
            self.offset = offset;
        }
        let start = (offset - self.offset) as usize;
        let range = self.bytes.get(start..start + length);
        range.ok_or_else(|| {
            damaged(
                GroupId::default(),
                Lsn::new(segment.generation, offset as u32),
            )
        })
    }
}
