//! Reading and checking segments ahead of the walk, on threads of their own.
//!
//! What is found does not depend on it: a batch that was not checked ahead is checked when the walk comes to it.

use super::scan::Scanned;
use super::stretch::{Stretch, Whole, read_piece};
use crate::file::LogFile;
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::collections::VecDeque;
use std::thread::Scope;

/// So much is read at once.
const PIECE_BYTES: usize = 256 << 10;

/// A segment in memory.
#[derive(Default)]
pub(super) struct Prepared {
    pub(super) bytes: Vec<u8>,
    /// The whole batches from its first on, one after the other.
    wholes: VecDeque<Whole>,
}

impl Prepared {
    /// The whole batch at an offset, if one is there.
    pub(super) fn batch_at<F>(&mut self, offset: u32, segment: &Scanned<F>) -> Option<Whole> {
        match self.wholes.front() {
            Some(whole) if whole.header.position.offset() == offset => self.wholes.pop_front(),
            _ => {
                let seed = segment.header.as_ref()?.seed();
                Stretch::of_segment(&self.bytes, seed).batch_at(offset)
            }
        }
    }
}

/// Hands out the segments one after the other.
pub(super) enum Ahead<'a, F> {
    /// Reads each when it is asked for.
    Here(&'a [Scanned<F>], Vec<u8>),
    /// Each thread has every so-many-th segment, and waits with it until it is asked for. Memory goes back to whichever
    /// needs some next.
    Threads(Vec<Receiver<Prepared>>, Sender<Vec<u8>>),
}

impl<'a, F: LogFile> Ahead<'a, F> {
    pub(super) fn new<'scope>(
        scope: &'scope Scope<'scope, 'a>,
        segments: &'a [Scanned<F>],
        threads: usize,
    ) -> Self {
        let threads = threads.min(segments.len().saturating_sub(1));
        if threads == 0 {
            return Self::Here(segments, Vec::new());
        }
        let (used, spares) = unbounded();
        let readers = (0..threads).map(|first| {
            let (sender, prepared) = bounded(0);
            let spares: Receiver<Vec<u8>> = spares.clone();
            scope.spawn(move || {
                for segment in segments.iter().skip(first).step_by(threads) {
                    let memory = spares.try_recv().unwrap_or_default();
                    if sender.send(prepare(segment, memory)).is_err() {
                        return; // Nobody wants to see more.
                    }
                }
            });
            prepared
        });
        Self::Threads(readers.collect(), used)
    }

    /// The segment with that number; each is asked for once, in order.
    pub(super) fn take(&mut self, number: usize) -> Prepared {
        match self {
            Self::Here(segments, memory) => Prepared {
                bytes: read_whole(&segments[number], std::mem::take(memory)),
                wholes: VecDeque::new(),
            },
            Self::Threads(readers, _) => {
                let prepared = readers[number % readers.len()].recv();
                prepared.expect("a reader ends only when it has handed out all that it has")
            }
        }
    }

    /// Gives the memory of a segment back.
    pub(super) fn give_back(&mut self, bytes: Vec<u8>) {
        match self {
            Self::Here(_, memory) => *memory = bytes,
            // They may have nothing more to read.
            Self::Threads(_, used) => drop(used.send(bytes)),
        }
    }
}

/// Reads a segment and checks its batches, a piece after the other, each while it is in the processor's cache.
fn prepare<F: LogFile>(segment: &Scanned<F>, memory: Vec<u8>) -> Prepared {
    let mut wholes = VecDeque::new();
    let mut offset = SEGMENT_HEADER_BYTES as u32;
    let mut seed = segment.header.as_ref().map(SegmentHeader::seed);
    let bytes = read_in_pieces(segment, memory, |read| {
        while let Some(of_segment) = seed {
            let read = Stretch::of_segment(read, of_segment);
            if let Some(whole) = read.batch_at(offset) {
                offset = whole.end;
                wholes.push_back(whole);
                continue;
            }
            if !read.ends_within(offset) {
                // Nothing behind it follows, and nobody has to look at it again with each piece.
                seed = None;
            }
            return;
        }
    });
    Prepared { bytes, wholes }
}

/// All that can be read of a segment. A part that cannot is left zero, and so is found as damage.
pub(super) fn read_whole<F: LogFile>(segment: &Scanned<F>, bytes: Vec<u8>) -> Vec<u8> {
    read_in_pieces(segment, bytes, |_| {})
}

/// The same, and shows what has been read so far after every piece.
fn read_in_pieces<F: LogFile>(
    segment: &Scanned<F>,
    mut bytes: Vec<u8>,
    mut show: impl FnMut(&[u8]),
) -> Vec<u8> {
    let limit = crate::WalConfig::MAX_SEGMENT_BYTES.min(segment.bytes) as usize;
    bytes.resize(limit, 0);
    for from in (0..limit).step_by(PIECE_BYTES) {
        let end = limit.min(from + PIECE_BYTES);
        read_piece(&segment.file, from as u64, &mut bytes[from..end]);
        show(&bytes[..end]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::PAGE_BYTES;
    use crate::{BatchBuilder, Directory, Log, LogIdentity, MemoryDisk, WalConfig};
    use pontoon_types::{ClusterId, Entry, EntryKind, GroupId, LogIndex, NodeId, Term};

    const SEGMENT: u64 = 4 * PIECE_BYTES as u64;

    /// A segment whose batches lie across the borders of pieces, of which nothing is read from `end` on and the byte at
    /// `flipped` is another.
    fn segment(end: usize, flipped: Option<usize>) -> (MemoryDisk, String) {
        let identity = LogIdentity {
            cluster: ClusterId(7),
            node: NodeId(1),
        };
        let config = WalConfig {
            segment_bytes: SEGMENT,
            max_bytes: 4 * SEGMENT,
            ..WalConfig::default()
        };
        let disk = MemoryDisk::new();
        let (mut log, _) = Log::open(disk.clone(), config, identity).unwrap();
        for index in 1..=9 {
            let payload = [index as u8; 100_001];
            let (group, index) = (GroupId(2), LogIndex(index));
            let mut batch = BatchBuilder::new();
            batch.append(&Entry::encode(
                group,
                Term(1),
                index,
                EntryKind::Command,
                &payload,
            ));
            log.append(&batch.seal()).unwrap();
        }
        log.sync().unwrap();
        let name = crate::space::segment_name(1);
        let file = disk.open(&name).unwrap();
        file.write_at(end as u64, &vec![0; SEGMENT as usize - end])
            .unwrap();
        if let Some(at) = flipped {
            let mut byte = [0];
            file.read_at(at as u64, &mut byte).unwrap();
            file.write_at(at as u64, &[!byte[0]]).unwrap();
        }
        (disk, name)
    }

    #[test]
    fn piece_by_piece_the_same_batches_are_found_as_in_one() {
        let whole = SEGMENT as usize;
        for (end, flipped, batches) in [
            // Nine, behind the one with which every log begins.
            (whole, None, 10),
            // In a header, so that nothing follows, and where a piece ends.
            (whole, Some(SEGMENT_HEADER_BYTES + 3), 0),
            // The last one's payload is cut, which is its entry's own checksum to tell.
            (PIECE_BYTES, None, 4),
            (2 * PIECE_BYTES + 17, None, 7),
        ] {
            let (disk, name) = segment(end, flipped);
            let file = disk.open(&name).unwrap();
            let mut page = [0; PAGE_BYTES];
            file.read_at(0, &mut page).unwrap();
            let scanned = Scanned {
                generation: 1,
                header: SegmentHeader::decode(&page).ok(),
                bytes: file.bytes().unwrap(),
                file,
                end: 0,
            };
            let prepared = prepare(&scanned, Vec::new());
            let ends: Vec<u32> = prepared.wholes.iter().map(|whole| whole.end).collect();
            let seed = scanned.header.as_ref().unwrap().seed();
            let whole_segment = Stretch::of_segment(&prepared.bytes, seed);
            let (mut offset, mut expected) = (SEGMENT_HEADER_BYTES as u32, Vec::new());
            while let Some(whole) = whole_segment.batch_at(offset) {
                offset = whole.end;
                expected.push(whole.end);
            }
            assert_eq!(ends, expected);
            assert_eq!(ends.len(), batches, "up to {end}");
        }
    }
}
