//! Laying batches: one pass over the records, and one write for all of them.

use super::rewrite::Rewriting;
use super::{Log, Spare};
use crate::batch::{Record, SealedBatch};
use crate::error::{Operation, WalError};
use crate::file::{Directory, LogFile};
use crate::format::batch::{BATCH_HEADER_BYTES, BatchHeader, BatchKind};
use crate::format::record::{
    ENTRY_CHECKED_BYTES, RECORD_HEADER_BYTES, RecordHeader, RecordKind, encode_extent,
    encode_hard_state, encode_segments, record_bytes,
};
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::format::state::{FLAG_INSTALLED, InstalledSnapshot, encode_tombstone};
use crate::format::{ALIGNMENT, PAGE_BYTES, aligned};
use crate::index::{GroupLog, Pins, Sequenced};
use crate::space::{Segment, segment_name};
use crate::{Lsn, WalConfig};
use pontoon_types::{GroupId, LogPosition, mutant};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};

/// A buffer that has grown beyond this for one large batch is not kept.
const MAX_SCRATCH_BYTES: usize = 1 << 20;
/// So many records, and bytes of them, are laid under one lock: readers wait no longer than that takes.
const LOCKED_RECORDS: usize = 64;
const LOCKED_BYTES: usize = 64 << 10;
/// Where the body's checksum is taken over what was gathered for it: the longer, the more at once.
const CHECKED_AT_ONCE: usize = 4 << 10;

impl<D: Directory> Log<D> {
    /// Lays a batch and returns the log's end. It is durable when [`Log::sync`] has returned a position
    /// that is not below that.
    ///
    /// # Errors
    /// [`WalError::NoSpace`] and [`WalError::BatchTooLarge`] if nothing was laid, and it may be tried again;
    /// [`WalError::Poisoned`] if the log has stopped, also because an entry does not follow its
    /// group's log.
    pub fn append(&mut self, batch: &SealedBatch) -> Result<Lsn, WalError> {
        self.check()?;
        if batch.is_empty() {
            return Ok(self.end());
        }
        self.make_room(batch.bytes() as u64)?;
        let laid = self.lay_records(batch);
        laid.map_err(|error| self.poison(error))?;
        let counters = &self.shared.counters;
        counters.batches.fetch_add(1, Relaxed);
        counters.entries.fetch_add(batch.entries as u64, Relaxed);
        let records = batch.records.len() as u64;
        counters.records.fetch_add(records, Relaxed);
        counters.bytes.fetch_add(batch.bytes() as u64, Relaxed);
        Ok(self.end())
    }

    /// Lays a batch unless it must wait for a segment: that is being made, or there is no room for it now.
    /// Returns whether it was laid.
    ///
    /// # Errors
    /// As [`Log::append`], but for the want of room.
    pub fn try_append(&mut self, batch: &SealedBatch) -> Result<bool, WalError> {
        if self.must_wait(batch.bytes() as u64) {
            return Ok(false);
        }
        match self.append(batch) {
            Ok(_) => Ok(true),
            Err(WalError::NoSpace { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether `bytes` need a new segment, and that will be ready without the owner waiting for it.
    pub(super) fn must_wait(&self, bytes: u64) -> bool {
        u64::from(self.cursor) + bytes > self.active.bytes
            && !self.has_spare()
            && self.poisoned.is_none()
    }

    pub(super) const fn has_spare(&self) -> bool {
        matches!(self.spare, Spare::Ready(_))
    }

    fn lay_records(&mut self, batch: &SealedBatch) -> Result<(), WalError> {
        let segment = Arc::clone(&self.active);
        let shared = Arc::clone(&self.shared);
        let mut lay = Laying::new(&segment, self.cursor, std::mem::take(&mut self.scratch));
        lay.body.reserve(batch.bytes());
        let mut rest = &batch.records[..];
        while !rest.is_empty() {
            let (few, more) = rest.split_at(locked_at_once(rest));
            rest = more;
            let mut groups = shared.index.lock();
            groups.locate(few.iter().map(Record::group), &mut self.places);
            for (record, place) in few.iter().zip(&self.places) {
                let group = record.group();
                let state = groups.at(*place);
                lay.record(record, group, state, &mut self.pins)?;
                shared.quota.check(group, state);
            }
        }
        self.finish_batch(lay, BatchKind::Records)
    }

    /// Puts the header before what was laid, and writes all of it at once.
    pub(super) fn finish_batch(
        &mut self,
        mut lay: Laying<'_, D::File>,
        kind: BatchKind,
    ) -> Result<(), WalError> {
        let position = Lsn::new(self.active.generation, lay.start);
        let header = BatchHeader {
            position,
            durable: if mutant!(MarkRunsAhead) {
                Lsn::new(self.active.generation, lay.cursor)
            } else {
                self.durable
            },
            previous: self.last_batch.0,
            chain: self.last_batch.1,
            body_checksum: lay.body_checksum(),
            body_bytes: lay.cursor - lay.start - BATCH_HEADER_BYTES as u32,
            records: lay.records,
            kind,
        };
        let (bytes, checksum) = header.encode(self.active.seed);
        lay.body[..BATCH_HEADER_BYTES].copy_from_slice(&bytes);
        lay.write()?;
        self.cursor = lay.cursor;
        self.shared.written.store(self.end().0, Release);
        self.last_batch = (position, checksum);
        if lay.body.capacity() <= MAX_SCRATCH_BYTES {
            self.scratch = Scratch {
                body: lay.body,
                checked: lay.checked,
            };
        }
        Ok(())
    }

    /// Lays every group's state except its entries, so that no older segment is needed for it.
    pub(super) fn lay_checkpoint(&mut self) -> Result<(), WalError> {
        let bytes = self.checkpoint_bytes();
        if u64::from(self.cursor) + bytes > self.active.bytes {
            return self.roll(0);
        }
        let laid = self.lay_checkpoint_here();
        laid.map_err(|error| self.poison(error))
    }

    fn lay_checkpoint_here(&mut self) -> Result<(), WalError> {
        let segment = Arc::clone(&self.active);
        let mut lay = Laying::new(&segment, self.cursor, std::mem::take(&mut self.scratch));
        lay.segments(&self.generations());
        let groups = self
            .shared
            .index
            .map_all(|group| (group.link, group.state()));
        let mut payload = Vec::new();
        for (id, (link, state)) in groups {
            payload.clear();
            state.encode(&mut payload);
            lay.small(RecordKind::Checkpoint, state.flags(), id, link, &payload);
        }
        self.finish_batch(lay, BatchKind::Checkpoint)?;
        self.unlisted_from = Some(self.end());
        Ok(())
    }

    /// Lays what the log consists of, so that segments taken out of it may go when that is durable. Without
    /// room for it they go after the next checkpoint.
    pub(super) fn lay_segments(&mut self) -> Result<(), WalError> {
        let generations = self.generations();
        let bytes = BATCH_HEADER_BYTES + record_bytes(4 * generations.len());
        if u64::from(self.cursor) + bytes as u64 > self.active.bytes {
            self.unlisted_from = None;
            return Ok(());
        }
        let segment = Arc::clone(&self.active);
        let mut lay = Laying::new(&segment, self.cursor, std::mem::take(&mut self.scratch));
        lay.segments(&generations);
        let laid = self.finish_batch(lay, BatchKind::Checkpoint);
        laid.map_err(|error| self.poison(error))?;
        self.unlisted_from = Some(self.end());
        Ok(())
    }

    fn generations(&self) -> Vec<u32> {
        let segments = self.shared.segments.read();
        let mut generations: Vec<u32> = segments.keys().chain(&self.lost).copied().collect();
        generations.sort_unstable();
        generations
    }

    pub(super) fn checkpoint_bytes(&self) -> u64 {
        // One more segment than there are now: the checkpoint may be the first thing in it.
        let segments = self.shared.segments.read().len() + self.lost.len() + 1;
        let groups = |group: &GroupLog| record_bytes(group.state_bytes());
        let records = record_bytes(4 * segments) + self.shared.index.sum(groups);
        (BATCH_HEADER_BYTES + records) as u64
    }

    /// Sees to it that `bytes` fit behind the cursor, if need be in a new segment.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), WalError> {
        if u64::from(self.cursor) + bytes <= self.active.bytes {
            return Ok(());
        }
        self.roll(bytes)
    }

    /// Goes on in a new segment that has room for `bytes` behind its checkpoint.
    pub(super) fn roll(&mut self, bytes: u64) -> Result<(), WalError> {
        let needed = SEGMENT_HEADER_BYTES as u64 + self.checkpoint_bytes() + bytes;
        if needed > WalConfig::MAX_SEGMENT_BYTES {
            return Err(WalError::BatchTooLarge { bytes });
        }
        let next = self.next_segment(needed)?;
        let previous = std::mem::replace(&mut self.active, Arc::clone(&next));
        previous.end.store(self.cursor, Release);
        if !mutant!(LeavesUnsynced) {
            self.left.push(previous);
        }
        self.cursor = SEGMENT_HEADER_BYTES as u32;
        self.shared.segments.write().insert(next.generation, next);
        if let Rewriting::Resting = self.rewriting {
            self.rewriting = Rewriting::Due(None);
        }
        self.update_pressure();
        let laid = self.lay_checkpoint_here();
        laid.map_err(|error| self.poison(error))
    }

    fn next_segment(&mut self, needed: u64) -> Result<Arc<Segment<D::File>>, WalError> {
        if let Spare::Ready(segment) = &self.spare
            && segment.bytes >= needed
        {
            let segment = Arc::clone(segment);
            self.spare = Spare::Wanted;
            return Ok(segment);
        }
        // Nothing is ready, or it is too small: the owner waits for this one.
        let bytes = needed
            .next_multiple_of(PAGE_BYTES as u64)
            .max(self.config.segment_bytes);
        let coming = self.spare_is_coming();
        let before = std::mem::replace(&mut self.spare, Spare::Wanted);
        let chore = self.prepare_chore(bytes)?;
        if let Err(error) = self.handle_chore(chore.run()) {
            if let Spare::Ready(_) = before {
                self.spare = before;
            }
            if matches!(error, WalError::NoSpace { .. }) {
                return Err(error);
            }
            return Err(self.poison(error));
        }
        if let Spare::Ready(small) = before {
            self.unneeded.push_back(small);
        }
        let after = if coming { Spare::Coming } else { Spare::Wanted };
        match std::mem::replace(&mut self.spare, after) {
            Spare::Ready(segment) => Ok(segment),
            _ => Err(WalError::NoSpace {
                file: segment_name(self.next_generation),
            }),
        }
    }
}

/// Memory for putting batches together, kept from one to the next.
#[derive(Default)]
pub(super) struct Scratch {
    body: Vec<u8>,
    checked: Vec<u8>,
}

/// How many of the next records are laid under one lock.
fn locked_at_once(records: &[Record]) -> usize {
    let mut bytes = 0;
    let fits = |record: &&Record| {
        let fits = bytes < LOCKED_BYTES;
        if let Record::Entry(entry) = record {
            bytes += entry.encoded_len();
        }
        fits
    };
    records.iter().take(LOCKED_RECORDS).take_while(fits).count()
}

/// A batch on its way into a segment: put together in memory, as it will lie there, and written by one
/// call.
pub(super) struct Laying<'a, F> {
    segment: &'a Segment<F>,
    /// The batch, its header included.
    body: Vec<u8>,
    /// What the body's checksum covers and was not run over yet.
    checked: Vec<u8>,
    start: u32,
    cursor: u32,
    checksum: u32,
    records: u32,
}

impl<'a, F: LogFile> Laying<'a, F> {
    pub(super) fn new(segment: &'a Segment<F>, start: u32, scratch: Scratch) -> Self {
        let Scratch {
            mut body,
            mut checked,
        } = scratch;
        body.clear();
        body.resize(BATCH_HEADER_BYTES, 0);
        checked.clear();
        Self {
            segment,
            body,
            checked,
            start,
            cursor: start + BATCH_HEADER_BYTES as u32,
            checksum: segment.seed.at(start),
            records: 0,
        }
    }

    #[inline]
    fn record(
        &mut self,
        record: &Record,
        group: GroupId,
        state: &mut GroupLog,
        pins: &mut Pins,
    ) -> Result<(), WalError> {
        let link = state.link;
        state.link = match record {
            Record::Entry(entry) => {
                let at = self.entry(RecordKind::Entry, group, link, entry.as_bytes());
                let bytes = record_bytes(entry.encoded_len()) as u64;
                if state.append(entry.position(), at, bytes, pins) == Sequenced::No {
                    return Err(out_of_order(group, entry.position(), state));
                }
                at
            }
            Record::HardState(_, hard_state) => {
                state.hard_state = *hard_state;
                let payload = encode_hard_state(hard_state);
                self.small(RecordKind::HardState, 0, group, link, &payload)
            }
            Record::Compact(_, up_to) => {
                state.compact(*up_to, pins);
                let flags = state.installed.as_ref().map_or(0, |_| FLAG_INSTALLED);
                let payload = encode_extent(&state.extent());
                self.small(RecordKind::Compact, flags, group, link, &payload)
            }
            Record::SnapshotInstall(_, last, payload) => {
                let snapshot = InstalledSnapshot {
                    last: *last,
                    payload: payload.clone(),
                };
                let mut bytes = Vec::with_capacity(snapshot.encoded_len());
                snapshot.encode(&mut bytes);
                state.install(snapshot, pins);
                self.small(RecordKind::SnapshotInstall, 0, group, link, &bytes)
            }
            Record::Tombstone(_, replica) => {
                let payload = encode_tombstone(*replica);
                let at = self.small(RecordKind::Tombstone, 0, group, link, &payload);
                state.remove(*replica, at, pins);
                at
            }
        };
        Ok(())
    }

    #[inline]
    pub(super) fn entry(
        &mut self,
        kind: RecordKind,
        group: GroupId,
        previous: Lsn,
        envelope: &[u8],
    ) -> Lsn {
        let header = RecordHeader {
            length: envelope.len() as u32,
            kind: kind as u8,
            flags: 0,
            group,
            previous,
        };
        // Of the envelope the checksum covers its length and its own checksum.
        let mut checked = [0; RECORD_HEADER_BYTES + ENTRY_CHECKED_BYTES];
        checked[..RECORD_HEADER_BYTES].copy_from_slice(&header.encode());
        checked[RECORD_HEADER_BYTES..].copy_from_slice(&envelope[..ENTRY_CHECKED_BYTES]);
        self.check(&checked);
        self.body.extend_from_slice(&checked[..RECORD_HEADER_BYTES]);
        self.body.extend_from_slice(envelope);
        self.advance(envelope.len())
    }

    /// Adds bytes to those that the body's checksum covers. They lie here and there, and it is quicker over all at once.
    #[inline]
    fn check(&mut self, bytes: &[u8]) {
        self.checked.extend_from_slice(bytes);
        if self.checked.len() >= CHECKED_AT_ONCE {
            self.body_checksum();
        }
    }

    fn body_checksum(&mut self) -> u32 {
        self.checksum = crc32c::crc32c_append(self.checksum, &self.checked);
        self.checked.clear();
        self.checksum
    }

    fn segments(&mut self, generations: &[u32]) {
        let payload = encode_segments(generations);
        self.small(RecordKind::Segments, 0, GroupId(0), Lsn::ZERO, &payload);
    }

    pub(super) fn small(
        &mut self,
        kind: RecordKind,
        flags: u8,
        group: GroupId,
        previous: Lsn,
        payload: &[u8],
    ) -> Lsn {
        let header = RecordHeader {
            length: payload.len() as u32,
            kind: kind as u8,
            flags,
            group,
            previous,
        }
        .encode();
        self.check(&header);
        self.check(payload);
        self.body.extend_from_slice(&header);
        self.body.extend_from_slice(payload);
        self.advance(payload.len())
    }

    /// Where the next record goes.
    pub(super) fn position(&self) -> Lsn {
        Lsn::new(self.segment.generation, self.cursor)
    }

    fn advance(&mut self, payload: usize) -> Lsn {
        let at = self.position();
        self.cursor += record_bytes(payload) as u32;
        let padding = aligned(payload) - payload;
        self.body.extend_from_slice(&[0; ALIGNMENT][..padding]);
        self.records += 1;
        at
    }

    fn write(&self) -> Result<(), WalError> {
        let written = self
            .segment
            .file
            .write_at(u64::from(self.start), &self.body);
        written.map_err(|error| self.failed(error))
    }

    #[cold]
    fn failed(&self, error: io::Error) -> WalError {
        WalError::io(Operation::Write, &segment_name(self.segment.generation))(error)
    }
}

#[cold]
fn out_of_order(group: GroupId, position: LogPosition, state: &GroupLog) -> WalError {
    WalError::OutOfOrder {
        group,
        index: position.index,
        first: state.first(),
        last: state.last.index,
    }
}
