//! raft-engine 0.4.2 in its best setting: recycled files that exist before they are written, no compression.
//!
//! It fills the files that it recycles by itself in pieces that leave the largest folios in the page cache, over which small
//! writes and syncs then have to go. So they are given to it ready, filled as Pontoon fills its own; and
//! before anything is measured it is past its first file, which it does not take from those.

use super::floor::zeroed_file;
use super::writers::WriteDurably;
use super::{Batches, Failure, SEGMENT_BYTES, Shape, Turns};
use bytes::Bytes;
use raft::eraftpb::Entry;
use raft_engine::{Command, Config, Engine, LogBatch, MessageExt, ReadableSize};
use std::path::Path;

/// A group of which nothing is measured.
const FILLER_GROUP: u64 = u64::MAX;

struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

fn entry(index: u64, payload: &Bytes) -> Entry {
    let mut entry = Entry::new();
    entry.index = index;
    entry.term = 1;
    entry.data = payload.clone();
    entry
}

fn config(directory: &Path) -> Result<Config, Failure> {
    let dir = directory
        .to_str()
        .ok_or("raft-engine takes only directories whose name is UTF-8")?;
    Ok(Config {
        dir: dir.to_owned(),
        target_file_size: ReadableSize(SEGMENT_BYTES),
        batch_compression_threshold: ReadableSize(0),
        enable_log_recycle: true,
        ..Config::default()
    })
}

fn open_recycling(directory: &Path) -> Result<Engine, Failure> {
    let kept = ReadableSize(2 * SEGMENT_BYTES);
    let config = Config {
        purge_threshold: kept,
        prefill_for_recycle: true,
        prefill_limit: Some(kept),
        ..config(directory)?
    };
    std::fs::create_dir_all(directory)?;
    // As many as those limits let it keep: half as many again as it is told.
    for number in 1..=3 {
        let name = format!("{number:016}.raftlog.reserved");
        zeroed_file(&directory.join(name), SEGMENT_BYTES)?;
    }
    let engine = Engine::open(config)?;
    leave_first_file(&engine)?;
    Ok(engine)
}

fn leave_first_file(engine: &Engine) -> Result<(), Failure> {
    let payload = Bytes::from(vec![7; 3 << 10]);
    let count = SEGMENT_BYTES / payload.len() as u64 + 2;
    let mut batch = LogBatch::default();
    for index in 1..=count {
        batch.add_entries::<Entries>(FILLER_GROUP, &[entry(index, &payload)])?;
        engine.write(&mut batch, index == count)?;
    }
    let index = count + 1;
    batch.add_command(FILLER_GROUP, Command::Compact { index });
    engine.write(&mut batch, true)?;
    engine.purge_expired_files()?;
    Ok(())
}

/// An engine that one thread writes to, batch by batch.
pub(crate) struct RaftEngine {
    engine: Engine,
    batch: LogBatch,
    turns: Turns,
    payload: Bytes,
    records: u64,
}

impl RaftEngine {
    /// A new one in `directory`, for batches of a shape.
    pub(crate) fn open(directory: &Path, shape: Shape) -> Result<Self, Failure> {
        Ok(Self::new(open_recycling(directory)?, shape))
    }

    /// The same without files to recycle, whose content is kept.
    pub(crate) fn open_keeping(directory: &Path, shape: Shape) -> Result<Self, Failure> {
        Ok(Self::new(Engine::open(config(directory)?)?, shape))
    }

    fn new(engine: Engine, shape: Shape) -> Self {
        Self {
            engine,
            batch: LogBatch::with_capacity(shape.records as usize),
            turns: Turns::new(shape.groups),
            payload: shape.payload(),
            records: shape.records,
        }
    }

    /// Opens an engine that is there.
    pub(crate) fn recover(directory: &Path) -> Result<RecoveredEngine, Failure> {
        Ok(RecoveredEngine(Engine::open(config(directory)?)?))
    }

    /// Makes durable what was written.
    pub(crate) fn close(self) -> Result<(), Failure> {
        self.engine.sync()?;
        Ok(())
    }
}

/// An engine that was there, open.
pub(crate) struct RecoveredEngine(Engine);

impl RecoveredEngine {
    pub(crate) fn entries(&self) -> u64 {
        let groups = self.0.raft_groups().into_iter();
        let ends = groups.map(|group| (self.0.first_index(group), self.0.last_index(group)));
        ends.map(|ends| match ends {
            (Some(first), Some(last)) => last + 1 - first,
            _ => 0,
        })
        .sum()
    }
}

impl Batches for RaftEngine {
    fn batch(&mut self, sync: bool) -> Result<(), Failure> {
        for _ in 0..self.records {
            let (group, index) = self.turns.next();
            let entry = entry(index, &self.payload);
            self.batch
                .add_entries::<Entries>(group, std::slice::from_ref(&entry))?;
        }
        self.engine.write(&mut self.batch, sync)?;
        Ok(())
    }

    fn tidy(&mut self) -> Result<(), Failure> {
        for (group, last) in self.turns.lasts() {
            let index = last + 1;
            self.batch.add_command(group, Command::Compact { index });
        }
        self.engine.write(&mut self.batch, true)?;
        self.engine.purge_expired_files()?;
        Ok(())
    }
}

/// An engine for writers that wait.
pub(crate) struct SharedEngine {
    engine: Engine,
    payload: Bytes,
}

impl SharedEngine {
    pub(crate) fn open(directory: &Path, payload: Bytes) -> Result<Self, Failure> {
        let engine = open_recycling(directory)?;
        Ok(Self { engine, payload })
    }
}

impl WriteDurably for SharedEngine {
    fn write(&self, writer: u32, index: u64, compact_to: Option<u64>) -> Result<(), Failure> {
        let group = u64::from(writer) + 1;
        let mut batch = LogBatch::with_capacity(2);
        if let Some(last) = compact_to {
            let index = last + 1;
            batch.add_command(group, Command::Compact { index });
        }
        batch.add_entries::<Entries>(group, &[entry(index, &self.payload)])?;
        self.engine.write(&mut batch, true)?;
        Ok(())
    }

    fn tidy(&self) -> Result<(), Failure> {
        self.engine.purge_expired_files()?;
        Ok(())
    }
}
