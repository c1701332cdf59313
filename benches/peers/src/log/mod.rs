//! The log beside what its disk and memory could do at best, and beside raft-engine 0.4.2.
//!
//! Everything is measured in turns: a short window of the floor, of the log and of the peer, again and again, each
//! time beginning with another one. Batches go through the log's core and through `Engine::write` on the caller's
//! thread; writers that wait go through the log's own threads and through the peer's write barrier. Where the peer
//! stands beside it, both begin with a payload in memory: Pontoon encodes and checksums the entry there, which
//! in a node the proposal has paid for before it reaches the log.

mod floor;
mod measure;
mod peer;
mod pontoon;
mod report;
mod writers;

use crate::Failure;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use peer::RaftEngine;
use pontoon::PontoonLog;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The size of a file of either log: what is usual in a node.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Logs are cut when so much was laid, between windows, so that none of them ever waits for a file.
const TIDY_BYTES: u64 = 24 << 20;
/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of `linux/magic.h`.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// The log beside its floor (fdatasync, memcpy + CRC32C) and beside raft-engine 0.4.2 on recycled files: throughput,
/// latency, CPU per record and recovery, in interleaved windows of one run.
#[derive(Debug, Args)]
#[command(after_help = "\
Short, to see that it works (the figures of so short a run mean little):
  cargo run --release --manifest-path benches/peers/Cargo.toml -- log --seconds 2 --recovery-mib 32
One side alone, for a profiler (without --synced nothing is synced):
  perf record benches/peers/target/release/pontoon-peers log --only pontoon --groups 64 --batches 100000")]
pub(crate) struct LogArgs {
    /// Seconds to measure, for everything but the recovery. Each comparison takes at least 20 pairs of windows.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// Where the files go, in a directory of its own that is removed at the end: 1 GiB and twice what is
    /// recovered. Not in memory.
    #[arg(long, value_name = "PATH", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,

    /// MiB of log to recover.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=8192))]
    recovery_mib: u64,

    /// Print one JSON object as the last line of stdout instead of the table.
    #[arg(long)]
    json: bool,

    /// Let one side lay a number of batches, measure nothing and print nothing.
    #[arg(long, value_name = "SIDE", requires_all = ["groups", "batches"], conflicts_with = "json")]
    only: Option<Side>,

    /// With --only: groups in a batch, with a record of 128 B each.
    #[arg(long, value_name = "N", requires = "only", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    groups: Option<u64>,

    /// With --only: how many batches.
    #[arg(long, value_name = "N", requires = "only")]
    batches: Option<u64>,

    /// With --only: sync each batch.
    #[arg(long, requires = "only")]
    synced: bool,
}

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Side {
    Pontoon,
    RaftEngine,
}

/// What a batch is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// How many records.
    records: u64,
    /// Over how many groups they go, round about.
    groups: u64,
    /// The payload of each.
    payload_bytes: usize,
}

impl Shape {
    /// A record of 128 B for each group.
    const fn of_groups(groups: u64) -> Self {
        Self {
            records: groups,
            groups,
            payload_bytes: 128,
        }
    }

    fn payload(self) -> Bytes {
        // Nothing that a disk or a checksum could find easier than other bytes.
        let bytes =
            (0..self.payload_bytes as u32).map(|at| (at.wrapping_mul(0x9e37_79b1) >> 24) as u8);
        bytes.collect()
    }

    fn payload_total(self) -> u64 {
        self.records * self.payload_bytes as u64
    }
}

/// A log that one thread writes to, batch by batch, each begun with payloads in memory.
trait Batches {
    /// Makes the next batch, lays it, and perhaps waits until it is durable.
    fn batch(&mut self, sync: bool) -> Result<(), Failure>;

    /// Lets the log forget everything and take back its files.
    fn tidy(&mut self) -> Result<(), Failure>;
}

/// Whose turn it is: the groups one after the other, each with its next index.
#[derive(Clone, Debug)]
struct Turns {
    lasts: Vec<u64>,
    turn: usize,
}

impl Turns {
    fn new(groups: u64) -> Self {
        Self {
            lasts: vec![0; groups as usize],
            turn: 0,
        }
    }

    /// A group, from 1, and the index of its next entry.
    fn next(&mut self) -> (u64, u64) {
        let at = self.turn;
        self.turn = if at + 1 == self.lasts.len() {
            0
        } else {
            at + 1
        };
        self.lasts[at] += 1;
        (at as u64 + 1, self.lasts[at])
    }

    /// Each group that has an entry, and the index of its last.
    fn lasts(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let groups = (1..).zip(self.lasts.iter().copied());
        groups.filter(|&(_, last)| last > 0)
    }
}

pub(crate) fn run(args: &LogArgs) -> Result<(), String> {
    attempt(args).map_err(|error| error.to_string())
}

fn attempt(args: &LogArgs) -> Result<(), Failure> {
    let directory = scratch(&args.dir)?;
    if let (Some(side), Some(groups), Some(batches)) = (args.only, args.groups, args.batches) {
        return run_one(
            directory.path(),
            side,
            Shape::of_groups(groups),
            batches,
            args.synced,
        );
    }
    let rows = measure::all(directory.path(), args.seconds, args.recovery_mib)?;
    if args.json {
        println!("{}", report::json(&rows, args.recovery_mib));
    } else {
        report::print(&rows);
    }
    Ok(())
}

/// A directory of our own, on a file system that has a disk below it.
pub(crate) fn scratch(parent: &Path) -> Result<TempDir, Failure> {
    let name = parent.display();
    let refused = |error| format!("--dir {name}: {error}");
    let directory = TempDir::with_prefix_in("pontoon-peers-", parent).map_err(refused)?;
    let system = rustix::fs::statfs(directory.path())?;
    if IN_MEMORY.contains(&(system.f_type as u64)) {
        return Err(format!(
            "{name} is in memory, where a sync costs nothing and says nothing; give --dir on a local disk"
        )
        .into());
    }
    Ok(directory)
}

fn run_one(
    directory: &Path,
    side: Side,
    shape: Shape,
    batches: u64,
    synced: bool,
) -> Result<(), Failure> {
    let directory = directory.join("only");
    let mut log: Box<dyn Batches> = match side {
        Side::Pontoon => Box::new(PontoonLog::open(&directory, shape)?),
        Side::RaftEngine => Box::new(RaftEngine::open(&directory, shape)?),
    };
    let tidy_after = (TIDY_BYTES / (shape.payload_total() * 2)).max(1);
    for number in 1..=batches {
        log.batch(synced)?;
        if number % tidy_after == 0 {
            log.tidy()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_take_turns_and_count_their_entries() {
        let mut turns = Turns::new(3);
        let first: Vec<_> = std::iter::repeat_with(|| turns.next()).take(4).collect();
        assert_eq!(first, [(1, 1), (2, 1), (3, 1), (1, 2)]);
        assert_eq!(turns.lasts().collect::<Vec<_>>(), [(1, 2), (2, 1), (3, 1)]);
        assert_eq!(Turns::new(2).lasts().count(), 0);
    }

    #[test]
    fn both_sides_recover_all_that_was_laid() {
        let directory = TempDir::new().unwrap();
        let (ours, theirs) = (
            directory.path().join("ours"),
            directory.path().join("theirs"),
        );
        let shape = Shape::of_groups(5);
        let mut log = PontoonLog::open(&ours, shape).unwrap();
        let mut peer = RaftEngine::open_keeping(&theirs, shape).unwrap();
        for _ in 0..3 {
            log.batch(true).unwrap();
            peer.batch(true).unwrap();
        }
        log.close().unwrap();
        peer.close().unwrap();
        assert_eq!(PontoonLog::recover(&ours).unwrap().entries(), 15);
        assert_eq!(RaftEngine::recover(&theirs).unwrap().entries(), 15);
    }
}
