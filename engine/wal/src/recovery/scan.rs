//! The walk over all segments.

use super::ahead::{Ahead, Prepared, read_whole};
use super::lanes::Lanes;
use super::replay::{Groups, Step};
use super::stretch::{Stretch, Whole};
use super::{Damage, RecoveryReport};
use crate::error::{Operation, WalError};
use crate::file::{Directory, LogFile};
use crate::format::batch::{BATCH_HEADER_BYTES, FOLLOWS_DAMAGE};
use crate::format::mark::{MARK_FILE_BYTES, Mark};
use crate::format::record::{RecordKind, RecordView, Records, decode_segments};
use crate::format::segment::{FORMAT_VERSION, HeaderError, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::format::{ALIGNMENT, PAGE_BYTES};
use crate::index::Pins;
use crate::space::{MARK_FILE, segment_name, segment_of};
use crate::{LogIdentity, Lsn};
use pontoon_types::{GroupId, mutant};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// A segment file that was found.
pub(crate) struct Scanned<F> {
    pub(crate) generation: u32,
    pub(crate) file: F,
    /// `None` if neither copy of the header could be read.
    pub(crate) header: Option<SegmentHeader>,
    /// The length of the file.
    pub(crate) bytes: u64,
    /// Where its last whole batch ends.
    pub(crate) end: u32,
}

/// What a directory holds.
pub(crate) struct Scan<F> {
    pub(crate) identity: Option<LogIdentity>,
    pub(crate) groups: Groups,
    pub(crate) pins: Pins,
    pub(crate) segments: Vec<Scanned<F>>,
    /// How many of `segments`, from the front, are part of the log. What comes after is above a cut.
    pub(crate) kept: usize,
    /// Generations of segments that should be there and are not.
    pub(crate) lost: Vec<u32>,
    /// The last whole batch and its header's checksum, for the chain.
    pub(crate) last_batch: (Lsn, u32),
    /// Whether the end of the log is damage, so that nothing may be appended there.
    pub(crate) sealed: bool,
    pub(crate) mark: Option<Mark>,
    /// Whether there is a file for the mark, readable or not.
    pub(crate) mark_exists: bool,
    pub(crate) report: RecoveryReport,
}

/// How often a long recovery says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Reads everything and changes nothing. With `identity`, files of others are refused. For `threads` see
/// [`WalConfig::recovery_threads`](crate::WalConfig::recovery_threads).
pub(crate) fn scan<D: Directory>(
    directory: &D,
    identity: Option<LogIdentity>,
    threads: usize,
) -> Result<Scan<D::File>, WalError> {
    scan_records(directory, identity, threads, |_| ControlFlow::Continue(()))
}

/// A record that is part of the log.
pub(crate) struct RecordSeen<'a> {
    /// Where it starts.
    pub(crate) at: Lsn,
    /// Where its batch starts.
    pub(crate) batch: Lsn,
    pub(crate) view: RecordView<'a>,
    /// Whether it is an entry whose own checksum fails, so that only the header can be believed.
    pub(crate) rotten: bool,
}

/// As [`scan`], and shows every record that is part of the log, in order. After a `Break` nothing more is
/// read, and what is returned describes no more than what was.
pub(crate) fn scan_records<D: Directory>(
    directory: &D,
    identity: Option<LogIdentity>,
    threads: usize,
    visit: impl FnMut(&RecordSeen<'_>) -> ControlFlow<()>,
) -> Result<Scan<D::File>, WalError> {
    let started = Instant::now();
    let names = directory
        .list()
        .map_err(WalError::io(Operation::List, "."))?;
    let mut generations: Vec<u32> = names.iter().filter_map(|name| segment_of(name)).collect();
    generations.sort_unstable();
    let mut segments = Vec::with_capacity(generations.len());
    let mut owner = identity;
    for generation in generations {
        segments.push(open_segment(directory, generation, &mut owner)?);
    }
    let mark_exists = names.iter().any(|name| name == MARK_FILE);
    let mark = if mark_exists {
        read_mark(directory, &mut owner)?
    } else {
        None
    };
    let (walked, ends) = std::thread::scope(|scope| {
        let mut walk = Walk {
            lanes: Lanes::new(scope, threads),
            listed: Vec::new(),
            records: [0; RecordKind::ALL.len()],
            report: RecoveryReport {
                mark_found: mark.is_some(),
                ..RecoveryReport::default()
            },
            durable: mark.map_or(Lsn::ZERO, |mark| mark.durable),
            durable_is_final: false,
            last_batch: (Lsn::ZERO, 0),
            end: Lsn::ZERO,
            ends: vec![SEGMENT_HEADER_BYTES as u32; segments.len()],
            hole: None,
            visit,
        };
        let ahead = Ahead::new(scope, &segments, threads.div_ceil(2));
        walk.all(&segments, ahead, started)?;
        let ends = std::mem::take(&mut walk.ends);
        Ok((walk.finish(&segments), ends))
    })?;
    for (segment, end) in segments.iter_mut().zip(ends) {
        segment.end = end;
    }
    let last = walked.report.end.generation();
    let mut scan = Scan {
        identity: owner,
        kept: segments.partition_point(|segment| segment.generation <= last),
        groups: walked.groups,
        pins: walked.pins,
        segments,
        last_batch: walked.last_batch,
        lost: walked.lost,
        sealed: walked.sealed,
        mark,
        mark_exists,
        report: walked.report,
    };
    scan.report.segments = scan.kept;
    scan.report.duration = started.elapsed();
    Ok(scan)
}

fn open_segment<D: Directory>(
    directory: &D,
    generation: u32,
    owner: &mut Option<LogIdentity>,
) -> Result<Scanned<D::File>, WalError> {
    let name = segment_name(generation);
    let file = directory
        .open(&name)
        .map_err(WalError::io(Operation::Open, &name))?;
    let bytes = file.bytes().map_err(WalError::io(Operation::Read, &name))?;
    let mut header = None;
    let mut page = [0; PAGE_BYTES];
    // A page that cannot be read is damage like any other.
    if bytes >= PAGE_BYTES as u64 && file.read_at(0, &mut page).is_ok() {
        header = match SegmentHeader::decode(&page) {
            Ok(header) => Some(header),
            Err(HeaderError::UnknownVersion(version)) => {
                return Err(WalError::UnknownVersion {
                    file: name,
                    version,
                    known: FORMAT_VERSION,
                });
            }
            Err(HeaderError::Damaged) => None,
        };
    }
    if let Some(found) = header {
        check_owner(&name, found.identity, owner)?;
    }
    Ok(Scanned {
        generation,
        file,
        // A file under another generation's name is not this segment, whole as it may be.
        header: header.filter(|header| header.generation == generation),
        bytes,
        end: SEGMENT_HEADER_BYTES as u32,
    })
}

fn check_owner(
    file: &str,
    found: LogIdentity,
    owner: &mut Option<LogIdentity>,
) -> Result<(), WalError> {
    let expected = *owner.get_or_insert(found);
    if found == expected {
        return Ok(());
    }
    Err(WalError::Foreign {
        file: file.to_owned(),
        found,
        expected,
    })
}

fn read_mark<D: Directory>(
    directory: &D,
    owner: &mut Option<LogIdentity>,
) -> Result<Option<Mark>, WalError> {
    let file = directory
        .open(MARK_FILE)
        .map_err(WalError::io(Operation::Open, MARK_FILE))?;
    let mut newest: Option<Mark> = None;
    for offset in (0..MARK_FILE_BYTES).step_by(PAGE_BYTES) {
        let mut page = [0; PAGE_BYTES];
        if file.read_at(offset, &mut page).is_err() {
            continue;
        }
        if let Some(mark) = Mark::decode(&page) {
            check_owner(MARK_FILE, mark.identity, owner)?;
            if newest.is_none_or(|newest| newest.sequence < mark.sequence) {
                newest = Some(mark);
            }
        }
    }
    Ok(newest)
}

struct Walk<'scope, V> {
    lanes: Lanes<'scope>,
    /// What the log consists of, by the last record that says so.
    listed: Vec<u32>,
    /// How many there are of each kind.
    records: [u64; RecordKind::ALL.len()],
    report: RecoveryReport,
    /// The highest durable mark known so far; all there are if `durable_is_final`.
    durable: Lsn,
    durable_is_final: bool,
    last_batch: (Lsn, u32),
    end: Lsn,
    /// Where each segment's last whole batch ends.
    ends: Vec<u32>,
    /// Where an unreadable stretch began whose end is not found yet.
    hole: Option<(Lsn, String)>,
    visit: V,
}

/// What a walk has found.
struct Walked {
    groups: Groups,
    pins: Pins,
    lost: Vec<u32>,
    last_batch: (Lsn, u32),
    sealed: bool,
    report: RecoveryReport,
}

impl<V: FnMut(&RecordSeen<'_>) -> ControlFlow<()>> Walk<'_, V> {
    /// Walks over all segments, up to a cut.
    fn all<F: LogFile>(
        &mut self,
        segments: &[Scanned<F>],
        mut ahead: Ahead<'_, F>,
        mut told: Instant,
    ) -> Result<(), WalError> {
        for at in 0..segments.len() {
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                tracing::info!(segment = at, of = segments.len(), "reading the log back");
            }
            let mut prepared = ahead.take(at);
            if at == 0 && self.end == Lsn::ZERO {
                self.end = Lsn::new(segments[0].generation, SEGMENT_HEADER_BYTES as u32);
            }
            if self.segment(&mut prepared, segments, at)? == Flow::End {
                break;
            }
            ahead.give_back(prepared.bytes);
        }
        Ok(())
    }

    fn segment<F: LogFile>(
        &mut self,
        prepared: &mut Prepared,
        segments: &[Scanned<F>],
        at: usize,
    ) -> Result<Flow, WalError> {
        let name = segment_name(segments[at].generation);
        let generation = segments[at].generation;
        let Some(header) = segments[at].header else {
            self.open_hole(Lsn::new(generation, 0), &name);
            return Ok(Flow::On);
        };
        let mut offset = SEGMENT_HEADER_BYTES as u32;
        loop {
            let here = Lsn::new(generation, offset);
            let whole = prepared.batch_at(offset, &segments[at]);
            let bytes = prepared.bytes.as_slice();
            let Some(whole) = whole else {
                // The end of the segment, or a hole in it: what follows tells.
                let stretch = Stretch::of_segment(bytes, header.seed());
                let next = stretch.find_header(offset + ALIGNMENT as u32);
                let torn = stretch.header_at(offset).is_some();
                if next.is_some() || torn {
                    self.open_hole(here, &name);
                }
                let Some(next) = next else {
                    if torn {
                        self.report.torn_bytes += torn_length(bytes, offset, &header);
                    }
                    return Ok(Flow::On);
                };
                offset = next;
                continue;
            };
            if self.hole.is_none() && !self.follows(&whole, segments, at) {
                let (end, file) = (self.end, segment_name(self.end.generation()));
                self.open_hole(end, &file);
            }
            if let Some((start, _)) = &self.hole {
                let start = *start;
                let is_torn = start >= self.durable_mark(segments, at, bytes, offset);
                if (is_torn || mutant!(DamageEndsLog)) && !mutant!(TornTailStays) {
                    return Ok(self.cut(start, bytes, offset, &header));
                }
                self.close_hole(here);
            }
            if !whole.rotten.is_empty() && here >= self.durable_mark(segments, at, bytes, offset) {
                return Ok(self.cut(here, bytes, offset, &header));
            }
            if self.batch(bytes, offset, &whole, &name)? == Flow::End {
                return Ok(Flow::End);
            }
            offset = whole.end;
            self.ends[at] = offset;
        }
    }

    /// Whether a batch is the one after the last that was read. The segment of the last one may be gone
    /// because nothing in it was needed.
    fn follows<F>(&self, whole: &Whole, segments: &[Scanned<F>], at: usize) -> bool {
        let previous = whole.header.previous;
        if previous == FOLLOWS_DAMAGE {
            return false;
        }
        let first_of_segment = whole.header.position.offset() == SEGMENT_HEADER_BYTES as u32;
        (previous, whole.header.chain) == self.last_batch
            || mutant!(StaleRecordsVerify)
            || first_of_segment
                && previous > self.last_batch.0
                && !segments[..=at]
                    .iter()
                    .any(|segment| segment.generation == previous.generation())
            || first_of_segment && at == 0
    }

    fn batch(
        &mut self,
        bytes: &[u8],
        offset: u32,
        whole: &Whole,
        file: &str,
    ) -> Result<Flow, WalError> {
        let header = &whole.header;
        self.durable = self.durable.max(header.durable);
        let body_at = offset + BATCH_HEADER_BYTES as u32;
        for record in Records::new(&bytes[body_at as usize..whole.end as usize]) {
            let Ok(view) = record else { break };
            let record_at = body_at + view.offset as u32;
            let at = Lsn::new(header.position.generation(), record_at);
            let rotten = whole.rotten.iter().any(|(rotten, _)| *rotten == record_at);
            let seen = RecordSeen {
                at,
                batch: header.position,
                view,
                rotten,
            };
            if (self.visit)(&seen).is_break() {
                return Ok(Flow::End);
            }
            let kinds = &RecordKind::ALL;
            let known = |kind: &RecordKind| *kind as u8 == view.header.kind;
            let Some(kind) = kinds.iter().position(known) else {
                return Err(WalError::UnsupportedRecord {
                    file: file.to_owned(),
                    offset: record_at,
                    kind: view.header.kind,
                });
            };
            self.records[kind] += 1;
            if !self.record(kinds[kind], &view, at, rotten) {
                self.damaged_record(file, at, view.header.group);
            }
        }
        for (at, group) in &whole.rotten {
            let at = Lsn::new(header.position.generation(), *at);
            self.damaged_record(file, at, *group);
        }
        self.report.batches += 1;
        self.report.bytes += u64::from(whole.end - offset);
        self.last_batch = (header.position, whole.checksum);
        self.end = Lsn::new(header.position.generation(), whole.end);
        Ok(Flow::On)
    }

    /// Takes in a record; returns whether its payload is what its kind asks for.
    #[inline]
    fn record(&mut self, kind: RecordKind, view: &RecordView<'_>, at: Lsn, rotten: bool) -> bool {
        if kind != RecordKind::Segments {
            let (step, is_sound) = Step::decode(kind, view, at, rotten);
            self.lanes.take(step);
            return is_sound;
        }
        let Ok(listed) = decode_segments(view.payload) else {
            return false;
        };
        self.listed = listed;
        true
    }

    fn damaged_record(&mut self, file: &str, at: Lsn, group: GroupId) {
        self.report.damage.push(Damage {
            file: file.to_owned(),
            start: at,
            end: Lsn(at.0 + 1),
            group: Some(group),
        });
    }

    fn open_hole(&mut self, start: Lsn, file: &str) {
        if self.hole.is_none() {
            self.hole = Some((start, file.to_owned()));
        }
    }

    fn close_hole(&mut self, end: Lsn) {
        if let Some((start, file)) = self.hole.take() {
            self.report.damage.push(Damage {
                file,
                start,
                end,
                group: None,
            });
        }
    }

    /// Everything from `start` on was never acknowledged, so the log ends with the last whole batch
    /// before it. Whoever opens the log overwrites what comes after.
    fn cut(&mut self, start: Lsn, bytes: &[u8], offset: u32, header: &SegmentHeader) -> Flow {
        self.hole = None;
        let from = if start.generation() == header.generation {
            start.offset()
        } else {
            offset
        };
        self.report.torn_bytes += torn_length(bytes, from, header);
        Flow::End
    }

    /// The highest position that anything says was durable. The batches behind a hole are asked too, by
    /// their headers alone.
    fn durable_mark<F: LogFile>(
        &mut self,
        segments: &[Scanned<F>],
        at: usize,
        bytes: &[u8],
        offset: u32,
    ) -> Lsn {
        if !self.durable_is_final {
            self.durable_is_final = true;
            if let Some(header) = &segments[at].header {
                self.durable = self.durable.max(highest_mark(bytes, offset, header));
            }
            for later in &segments[at + 1..] {
                if let Some(header) = &later.header {
                    let bytes = read_whole(later, Vec::new());
                    let mark = highest_mark(&bytes, SEGMENT_HEADER_BYTES as u32, header);
                    self.durable = self.durable.max(mark);
                }
            }
        }
        self.durable
    }

    /// Segments that the log says it has, and that are not in the directory.
    fn missing<F>(&mut self, segments: &[Scanned<F>]) -> Vec<u32> {
        let present = |generation: &u32| {
            segments
                .binary_search_by_key(generation, |segment| segment.generation)
                .is_ok()
        };
        let mut lost = std::mem::take(&mut self.listed);
        lost.retain(|generation| !present(generation));
        for generation in &lost {
            self.report.damage.push(Damage {
                file: segment_name(*generation),
                start: Lsn::new(*generation, 0),
                end: Lsn::new(generation.saturating_add(1), 0),
                group: None,
            });
        }
        lost
    }

    /// What it all comes to.
    fn finish<F>(mut self, segments: &[Scanned<F>]) -> Walked {
        let sealed = self.settle_end();
        let lost = self.missing(segments);
        let mut report = self.report;
        let counts = RecordKind::ALL.into_iter().zip(self.records);
        report.records = counts.filter(|(_, count)| *count > 0).collect();
        let (groups, pins) = self.lanes.finish(&report.damage);
        report.durable = self.durable;
        report.end = self.end;
        report.unattributed = report.damage.iter().any(|damage| damage.group.is_none());
        Walked {
            groups,
            pins,
            lost,
            last_batch: self.last_batch,
            sealed,
            report,
        }
    }

    /// What is left at the end; returns whether the log ends in damage.
    fn settle_end(&mut self) -> bool {
        if let Some((start, _)) = &self.hole
            && (*start >= self.durable || mutant!(DamageEndsLog))
            && !mutant!(TornTailStays)
        {
            self.hole = None;
        }
        // A new segment without a batch may lie above the mark, when the power went while a log was opened
        // that had lost everything.
        let all_is_lost = self.last_batch.0 == Lsn::ZERO && self.durable > Lsn::ZERO;
        let ends_early = self.end < self.durable || all_is_lost;
        if self.hole.is_none() && ends_early && !mutant!(DamageEndsLog) {
            let file = segment_name(self.end.generation().max(1));
            self.hole = Some((self.end, file));
        }
        let sealed = self.hole.is_some();
        let end = Lsn(self.durable.0.max(self.end.0 + 1));
        self.close_hole(end);
        sealed
    }
}

#[derive(PartialEq, Eq)]
enum Flow {
    On,
    /// The log ends here, or nobody wants to see more of it.
    End,
}

fn highest_mark(bytes: &[u8], from: u32, segment: &SegmentHeader) -> Lsn {
    let stretch = Stretch::of_segment(bytes, segment.seed());
    let (mut highest, mut next) = (Lsn::ZERO, from);
    while let Some(offset) = stretch.find_header(next) {
        if let Some((header, _)) = stretch.header_at(offset) {
            highest = highest.max(header.durable);
        }
        next = offset + BATCH_HEADER_BYTES as u32;
    }
    highest
}

/// From `offset` to the end of the last batch whose header verifies.
fn torn_length(bytes: &[u8], offset: u32, segment: &SegmentHeader) -> u64 {
    let stretch = Stretch::of_segment(bytes, segment.seed());
    let (mut end, mut next) = (offset as usize, offset);
    while let Some(found) = stretch.find_header(next) {
        if let Some((header, _)) = stretch.header_at(found) {
            end = found as usize + BATCH_HEADER_BYTES + header.body_bytes as usize;
        }
        next = found + BATCH_HEADER_BYTES as u32;
    }
    (end.min(bytes.len()) - offset as usize) as u64
}

#[cfg(test)]
mod tests {
    use crate::format::batch::{BatchHeader, BatchKind};
    use crate::format::checksum::Seed;
    use crate::format::record::RecordHeader;
    use crate::format::segment::SegmentHeader;
    use crate::{Directory, Log, LogFile, LogIdentity, Lsn, MemoryDisk, WalConfig, WalError};
    use pontoon_types::{ClusterId, GroupId, NodeId};

    /// A whole batch with one record of a kind that nobody writes yet, as a newer version would.
    fn newer_batch(seed: Seed, kind: u8) -> Vec<u8> {
        let record = RecordHeader {
            length: 0,
            kind,
            flags: 0,
            group: GroupId(9),
            previous: Lsn::ZERO,
        };
        let body = record.encode();
        let header = BatchHeader {
            position: Lsn::new(seed.generation, 4096),
            durable: Lsn::ZERO,
            previous: Lsn::ZERO,
            chain: 0,
            body_checksum: crc32c::crc32c_append(seed.at(4096), &body),
            body_bytes: body.len() as u32,
            records: 1,
            kind: BatchKind::Records,
        };
        [&header.encode(seed).0[..], &body].concat()
    }

    #[test]
    fn a_record_that_cannot_be_interpreted_is_named_and_not_skipped() {
        let identity = LogIdentity {
            cluster: ClusterId(1),
            node: NodeId(1),
        };
        for kind in [5, 77] {
            let disk = MemoryDisk::new();
            let header = SegmentHeader {
                identity,
                generation: 1,
                salt: 3,
                bytes: 16_384,
            };
            let file = disk.create("0000000001.seg").unwrap();
            file.allocate(header.bytes).unwrap();
            file.write_at(0, &header.encode()).unwrap();
            file.write_at(4096, &newer_batch(header.seed(), kind))
                .unwrap();
            let config = WalConfig {
                segment_bytes: 16_384,
                ..WalConfig::default()
            };
            let error = Log::open(disk, config, identity).map(|_| ()).unwrap_err();
            assert!(
                matches!(error, WalError::UnsupportedRecord { offset: 4160, kind: named, .. } if named == kind),
                "{error}"
            );
        }
    }
}
