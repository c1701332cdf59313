//! Reading and checking segments ahead of the walk, on threads of their own.
//!
//! What is found does not depend on it: a batch that was not checked ahead is checked when the walk comes to it.

use super::scan::{Scanned, Whole, read_batch};
use crate::file::LogFile;
use crate::format::PAGE_BYTES;
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::collections::VecDeque;
use std::thread::Scope;

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
            _ => read_batch(&self.bytes, offset, segment.header.as_ref()?),
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

fn prepare<F: LogFile>(segment: &Scanned<F>, memory: Vec<u8>) -> Prepared {
    let mut prepared = Prepared {
        bytes: read_whole(segment, memory),
        wholes: VecDeque::new(),
    };
    let Some(header) = &segment.header else {
        return prepared;
    };
    let mut offset = SEGMENT_HEADER_BYTES as u32;
    while let Some(whole) = read_batch(&prepared.bytes, offset, header) {
        offset = whole.end;
        prepared.wholes.push_back(whole);
    }
    prepared
}

/// All that can be read of a segment. A part that cannot is left zero, and so is found as damage.
pub(super) fn read_whole<F: LogFile>(segment: &Scanned<F>, mut bytes: Vec<u8>) -> Vec<u8> {
    const CHUNK: usize = 1 << 20;
    let limit = crate::WalConfig::MAX_SEGMENT_BYTES.min(segment.bytes);
    bytes.resize(limit as usize, 0);
    for (number, chunk) in bytes.chunks_mut(CHUNK).enumerate() {
        let offset = (number * CHUNK) as u64;
        if segment.file.read_at(offset, chunk).is_err() {
            for (page, part) in chunk.chunks_mut(PAGE_BYTES).enumerate() {
                let offset = offset + (page * PAGE_BYTES) as u64;
                if segment.file.read_at(offset, part).is_err() {
                    part.fill(0);
                }
            }
        }
    }
    bytes
}
