//! Reading what is durable of a log that runs, so that damage is found while the other replicas are whole.
//!
//! A scrubber goes over the segments, a piece at a time, by the calls that report a bad block as an error, and checks what
//! recovery checks, with the same code. It knows more than recovery does: where a segment's last batch ends. So all below is
//! either whole or damage, and nothing has to be guessed.
//!
//! It holds a segment only while it reads a piece. One that goes meanwhile is not missed: nothing in it was needed.
//!
//! What becomes of a damaged segment is its owner's matter ([`Log::condemn`](crate::Log::condemn)).

mod found;

pub(crate) use found::Scrubs;
pub use found::{LogDamage, LogScrubCounters};

use crate::Lsn;
use crate::file::LogFile;
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::format::{ALIGNMENT, PAGE_BYTES};
use crate::reader::Shared;
use crate::recovery::{Stretch, read_piece};
use crate::space::Segment;
use pontoon_types::GroupId;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

/// So much is read at once.
const PIECE_BYTES: u32 = 256 << 10;
/// Behind what was searched in vain, a header may begin that is not all there yet.
const HEADER_MAY_BEGIN: u32 = 56;

/// What a step has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScrubStep {
    /// Nothing was to be done.
    Idle,
    /// A piece was read.
    Read {
        /// So many bytes.
        bytes: u64,
        /// Damage that was not known before.
        found: Vec<LogDamage>,
    },
    /// Everything that was durable when the pass began has been read.
    Finished,
}

/// Reads a running log, from any thread. It does nothing by itself: a pass [begins](LogScrubber::begin) when its owner says
/// so, and goes on [step](LogScrubber::step) by step.
pub struct LogScrubber<F> {
    shared: Arc<Shared<F>>,
    /// What was durable when the pass began, if one is under way.
    until: Option<Lsn>,
    /// The last segment that the pass is through with.
    passed: u32,
    reading: Option<Reading>,
}

/// A segment that is being read.
struct Reading {
    generation: u32,
    is_suspect: bool,
    /// What was read and not drained, from `start` on.
    bytes: Vec<u8>,
    start: u32,
    /// Where the next batch begins.
    at: u32,
    /// The last whole batch and its header's checksum, if nothing lies between it and `at`.
    last: Option<(Lsn, u32)>,
    /// Where an unreadable place began whose end is not found yet.
    hole: Option<u32>,
}

/// A place in a segment that is not what was written there, and whose it is if that is known.
type Place = (u32, u32, Option<GroupId>);

impl<F: LogFile> LogScrubber<F> {
    pub(crate) const fn new(shared: Arc<Shared<F>>) -> Self {
        Self {
            shared,
            until: None,
            passed: 0,
            reading: None,
        }
    }

    /// Begins a pass over everything that is durable now, unless one is under way; returns whether it does.
    pub fn begin(&mut self) -> bool {
        if self.until.is_some() {
            return false;
        }
        self.until = Some(Lsn(self.shared.durable.load(Acquire)));
        self.passed = 0;
        true
    }

    /// Reads the next piece: of a segment in which a reader has met damage, or else of the pass.
    pub fn step(&mut self) -> ScrubStep {
        let Some(mut reading) = self.reading.take().or_else(|| self.next()) else {
            if self.until.take().is_none() {
                return ScrubStep::Idle;
            }
            self.shared.scrubs.counters.passes.fetch_add(1, Relaxed);
            return ScrubStep::Finished;
        };
        let segment = self
            .shared
            .segments
            .read()
            .get(&reading.generation)
            .cloned();
        let (mut bytes, mut places) = (0, Vec::new());
        let mut goes_on = false;
        if let Some(segment) = segment {
            let limit = self.limit(&segment, reading.is_suspect);
            bytes = reading.read(&segment, limit);
            goes_on = reading.check(&segment, limit, &mut places);
        }
        let generation = reading.generation;
        if goes_on {
            self.reading = Some(reading);
        } else if !reading.is_suspect {
            self.passed = generation;
        }
        self.shared.scrubs.counters.bytes.fetch_add(bytes, Relaxed);
        let note = |(from, to, group): Place| {
            let (start, end) = (Lsn::new(generation, from), Lsn::new(generation, to));
            self.shared
                .scrubs
                .note(&self.shared.index, start, end, group)
        };
        let found = places.into_iter().filter_map(note).collect();
        ScrubStep::Read { bytes, found }
    }

    fn next(&self) -> Option<Reading> {
        if let Some(generation) = self.shared.scrubs.pop_suspect() {
            return Some(Reading::of(generation, true));
        }
        let until = self.until?;
        let segments = self.shared.segments.read();
        let (next, _) = segments.range(self.passed.checked_add(1)?..).next()?;
        (*next <= until.generation()).then(|| Reading::of(*next, false))
    }

    /// Up to where a segment holds batches that are durable, and not laid since the pass began.
    fn limit(&self, segment: &Segment<F>, is_suspect: bool) -> u32 {
        let durable = Lsn(self.shared.durable.load(Acquire));
        let until = self.until.filter(|_| !is_suspect).unwrap_or(durable);
        let until = until.min(durable);
        if segment.generation == until.generation() {
            until.offset()
        } else if segment.generation < until.generation() {
            segment.end.load(Relaxed)
        } else {
            0
        }
    }
}

impl Reading {
    const fn of(generation: u32, is_suspect: bool) -> Self {
        Self {
            generation,
            is_suspect,
            bytes: Vec::new(),
            start: 0,
            at: 0,
            last: None,
            hole: None,
        }
    }

    /// Reads on; returns how much.
    fn read<F: LogFile>(&mut self, segment: &Segment<F>, limit: u32) -> u64 {
        self.bytes.drain(..(self.at - self.start) as usize);
        self.start = self.at;
        let held = self.bytes.len();
        let from = self.start + held as u32;
        let more = limit.saturating_sub(from).min(PIECE_BYTES);
        self.bytes.resize(held + more as usize, 0);
        read_piece(&*segment.file, u64::from(from), &mut self.bytes[held..]);
        u64::from(more)
    }

    /// Checks what was read; returns whether there is more of the segment.
    fn check<F>(&mut self, segment: &Segment<F>, limit: u32, places: &mut Vec<Place>) -> bool {
        let bytes = std::mem::take(&mut self.bytes);
        let stretch = Stretch {
            bytes: &bytes,
            start: self.start,
            seed: segment.seed,
        };
        if self.at == 0 && limit > 0 {
            self.at = SEGMENT_HEADER_BYTES as u32;
            let page = bytes.first_chunk::<PAGE_BYTES>();
            let header = page.and_then(|page| SegmentHeader::decode(page).ok());
            if header.is_none_or(|header| header.seed() != segment.seed) {
                places.push((0, self.at, None));
            }
        }
        while self.at < limit {
            let at = self.at;
            if let Some(whole) = stretch.batch_at(at) {
                if let Some(hole) = self.hole.take() {
                    places.push((hole, at, None));
                }
                let header = &whole.header;
                if self
                    .last
                    .is_some_and(|last| last != (header.previous, header.chain))
                {
                    places.push((at, whole.end, None));
                }
                let rotten = whole.rotten.iter();
                places.extend(rotten.map(|(at, group)| (*at, at + 1, Some(*group))));
                self.last = Some((header.position, whole.checksum));
                self.at = whole.end;
            } else if stretch.end() < limit && stretch.ends_within(at) {
                break;
            } else {
                self.hole.get_or_insert(at);
                self.last = None;
                let behind = at + ALIGNMENT as u32;
                self.at = stretch.find_header(behind).unwrap_or_else(|| {
                    let searched = stretch.end().saturating_sub(HEADER_MAY_BEGIN);
                    let searched = searched.next_multiple_of(ALIGNMENT as u32).max(behind);
                    if stretch.end() < limit {
                        searched
                    } else {
                        limit
                    }
                });
            }
        }
        if self.at < limit {
            self.bytes = bytes;
            return true;
        }
        if let Some(hole) = self.hole {
            places.push((hole, limit, None));
        }
        false
    }
}
