//! The log of a Pontoon node: its core, driven batch by batch, and the whole of it, with its threads.

use super::writers::WriteDurably;
use super::{Batches, Failure, SEGMENT_BYTES, Shape, Turns};
use bytes::Bytes;
use pontoon_types::{ClusterId, Entry, EntryKind, GroupId, LogIndex, LogPosition, NodeId, Term};
use pontoon_wal::{
    BatchBuilder, DurabilityListener, FsDirectory, Log, LogIdentity, Recovered, SealedBatch,
    Ticket, Wal, WalConfig, WalError,
};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

const IDENTITY: LogIdentity = LogIdentity {
    cluster: ClusterId(0xbe9c),
    node: NodeId(1),
};

fn config() -> WalConfig {
    WalConfig {
        segment_bytes: SEGMENT_BYTES,
        // No chore comes in between: what is needed is the same on both sides, and cut on both at once.
        recovery_bytes: 64 << 30,
        max_bytes: 64 << 30,
        ..WalConfig::default()
    }
}

fn entry(group: u64, index: u64, payload: &[u8]) -> Entry {
    let (group, index) = (GroupId(group), LogIndex(index));
    Entry::encode(group, Term(1), index, EntryKind::Command, payload)
}

fn position(index: u64) -> LogPosition {
    LogPosition {
        term: Term(1),
        index: LogIndex(index),
    }
}

/// The log's core on real files.
pub(crate) struct PontoonLog {
    log: Log<FsDirectory>,
    turns: Turns,
    payload: Bytes,
    records: u64,
}

impl PontoonLog {
    /// The log in `directory`, for batches of a shape.
    pub(crate) fn open(directory: &Path, shape: Shape) -> Result<Self, Failure> {
        let (mut log, _) = Log::open(FsDirectory::open(directory)?, config(), IDENTITY)?;
        log.maintain()?;
        Ok(Self {
            log,
            turns: Turns::new(shape.groups),
            payload: shape.payload(),
            records: shape.records,
        })
    }

    /// The batch that comes next.
    pub(crate) fn seal_next(&mut self) -> SealedBatch {
        let mut batch = BatchBuilder::with_capacity(self.records as usize);
        for _ in 0..self.records {
            let (group, index) = self.turns.next();
            batch.append(&entry(group, index, &self.payload));
        }
        batch.seal()
    }

    /// Lays a batch.
    pub(crate) fn lay(&mut self, batch: &SealedBatch) -> Result<(), Failure> {
        self.log.append(batch)?;
        Ok(())
    }

    /// Makes durable what was laid.
    pub(crate) fn sync(&mut self) -> Result<(), Failure> {
        self.log.sync()?;
        Ok(())
    }

    /// How many bytes a batch takes.
    pub(crate) fn batch_bytes(&self) -> usize {
        let mut batch = BatchBuilder::new();
        (0..self.records).for_each(|_| batch.append(&entry(1, 1, &self.payload)));
        batch.bytes()
    }

    /// Makes the next segment ready.
    pub(crate) fn maintain(&mut self) -> Result<(), Failure> {
        self.log.maintain()?;
        Ok(())
    }

    /// Opens a log that is there, with all that a node waits for before it speaks.
    pub(crate) fn recover(directory: &Path) -> Result<RecoveredLog, Failure> {
        let (log, recovered) = Log::open(FsDirectory::open(directory)?, config(), IDENTITY)?;
        Ok(RecoveredLog {
            _log: log,
            recovered,
        })
    }

    /// Leaves the log as a node does that stops.
    pub(crate) fn close(mut self) -> Result<(), Failure> {
        self.log.sync()?;
        self.log.write_mark()?;
        Ok(())
    }
}

/// A log that was there, open.
pub(crate) struct RecoveredLog {
    _log: Log<FsDirectory>,
    recovered: Recovered,
}

impl RecoveredLog {
    pub(crate) fn entries(&self) -> u64 {
        let groups = self.recovered.groups.values();
        groups
            .map(|group| group.last.0 - group.compacted.index.0)
            .sum()
    }
}

impl Batches for PontoonLog {
    fn batch(&mut self, sync: bool) -> Result<(), Failure> {
        let batch = self.seal_next();
        self.lay(&batch)?;
        if sync {
            self.sync()?;
        }
        Ok(())
    }

    fn tidy(&mut self) -> Result<(), Failure> {
        let mut batch = BatchBuilder::new();
        for (group, last) in self.turns.lasts() {
            batch.compact(GroupId(group), position(last));
        }
        self.lay(&batch.seal())?;
        // The second sync makes durable that the log is without the segments which the first let go.
        self.sync()?;
        self.sync()?;
        self.log.maintain()?;
        Ok(())
    }
}

/// The log with its threads, for writers that wait.
pub(crate) struct PontoonWal {
    wal: Wal,
    waiting: Arc<Waiting>,
    payload: Bytes,
}

/// A place per writer, where it finds what is durable.
struct Waiting(Vec<Place>);

#[derive(Default)]
struct Place {
    thread: OnceLock<Thread>,
    durable: AtomicU64,
}

impl DurabilityListener for Waiting {
    fn durable(&self, tickets: &[Ticket]) {
        for ticket in tickets {
            let place = &self.0[ticket.worker as usize];
            place.durable.store(ticket.sequence, Ordering::Release);
            if let Some(thread) = place.thread.get() {
                thread.unpark();
            }
        }
    }

    fn failed(&self, error: &WalError) {
        eprintln!("error: the log failed: {error}");
        // The writers would wait for ever.
        std::process::exit(1);
    }
}

impl PontoonWal {
    pub(crate) fn open(directory: &Path, writers: usize, payload: Bytes) -> Result<Self, Failure> {
        let waiting = Arc::new(Waiting((0..writers).map(|_| Place::default()).collect()));
        let listener = Arc::clone(&waiting) as Arc<dyn DurabilityListener>;
        let (wal, _) = Wal::open(directory, config(), IDENTITY, listener)?;
        Ok(Self {
            wal,
            waiting,
            payload,
        })
    }

    /// How many bytes a batch of one record takes.
    pub(crate) fn batch_bytes(&self) -> usize {
        let mut batch = BatchBuilder::new();
        batch.append(&entry(1, 1, &self.payload));
        batch.bytes()
    }
}

impl WriteDurably for PontoonWal {
    fn write(&self, writer: u32, index: u64, compact_to: Option<u64>) -> Result<(), Failure> {
        let place = &self.waiting.0[writer as usize];
        place.thread.get_or_init(std::thread::current);
        let group = u64::from(writer) + 1;
        let mut batch = BatchBuilder::new();
        if let Some(last) = compact_to {
            batch.compact(GroupId(group), position(last));
        }
        batch.append(&entry(group, index, &self.payload));
        let sequence = index;
        let ticket = Ticket {
            worker: writer,
            sequence,
        };
        self.wal.submit(batch.seal(), ticket);
        while place.durable.load(Ordering::Acquire) < sequence {
            std::thread::park();
        }
        Ok(())
    }

    fn tidy(&self) -> Result<(), Failure> {
        // The log's own threads do.
        Ok(())
    }
}
