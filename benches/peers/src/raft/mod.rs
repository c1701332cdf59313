//! The protocol core beside raft-rs 0.7: what a proposal costs three voters.
//!
//! One cycle is what a worker does for a group: n proposals, one Append to each follower, a persist and an
//! acknowledgement over there, the leader's own persist, and everything committed handed out and applied.
//! Leader and followers are in one process, disk and network take no time, and nothing is encoded for a
//! wire; Pontoon does encode and checksum each entry once, because that is part of its `propose`.

mod instructions;
mod pontoon;
mod raft_rs;
mod report;

use crate::allocations;
use crate::pairs::Pairs;
use clap::{Args, ValueEnum};
use pontoon::Pontoon;
use raft_rs::RaftRs;
use std::time::{Duration, Instant};

/// Proposals per cycle: one by one, and as a worker batches them.
const BATCHES: [u64; 3] = [1, 16, 64];
/// Measured at a time, in turns with the other side.
const WINDOW: Duration = Duration::from_millis(10);
/// Cycles before anything is measured: buffers have grown, old entries are let go of.
const WARM_UP_PROPOSALS: u64 = 20_000;
/// Proposals over which allocations are counted.
const COUNTED_PROPOSALS: u64 = 64_000;

/// The protocol core beside raft-rs 0.7: time, allocations and instructions per proposal, from `propose` to the
/// acknowledged commit of three voters in memory.
#[derive(Debug, Args)]
#[command(after_help = "\
Instructions are counted where valgrind is installed, which takes a few seconds more.
One side alone, for a profiler:
  perf record benches/peers/target/release/pontoon-peers raft --only pontoon --batch 16 --cycles 1000000")]
pub(crate) struct RaftArgs {
    /// Seconds to measure, for all batches together.
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// Bytes of a proposal's payload.
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u64).range(0..=65536))]
    payload: u64,

    /// Print one JSON object as the last line of stdout instead of the table.
    #[arg(long)]
    json: bool,

    /// Do not count instructions per proposal, by running this program under `valgrind --tool=callgrind`.
    #[arg(long)]
    no_instructions: bool,

    /// Run one side for a number of cycles, measure nothing and print nothing.
    #[arg(long, value_name = "SIDE", requires_all = ["batch", "cycles"], conflicts_with_all = ["json", "no_instructions"])]
    only: Option<Side>,

    /// With --only: proposals per cycle.
    #[arg(long, value_name = "N", requires = "only")]
    batch: Option<u64>,

    /// With --only: how many cycles.
    #[arg(long, value_name = "N", requires = "only")]
    cycles: Option<u64>,
}

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Side {
    Pontoon,
    RaftRs,
    /// A cycle's proposals in one message.
    RaftRsGathered,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Pontoon => "pontoon",
            Self::RaftRs => "raft-rs",
            Self::RaftRsGathered => "raft-rs-gathered",
        }
    }

    fn trio(self) -> Box<dyn Trio> {
        match self {
            Self::Pontoon => Box::new(Pontoon::new(&LIMITS)),
            Self::RaftRs => Box::new(RaftRs::new(&LIMITS, false)),
            Self::RaftRsGathered => Box::new(RaftRs::new(&LIMITS, true)),
        }
    }
}

/// What both sides are held to.
pub(crate) struct Limits {
    /// Unanswered Appends per peer.
    pub(crate) inflight_appends: usize,
    /// Entry bytes per Append.
    pub(crate) append_bytes: usize,
    /// Bytes of applied entries kept for peers that lag.
    pub(crate) retained_bytes: usize,
}

const LIMITS: Limits = Limits {
    inflight_appends: 64,
    append_bytes: 1 << 20,
    retained_bytes: 1 << 20,
};

/// Three voters in memory.
pub(crate) trait Trio {
    /// Proposes that many times and carries out all that follows.
    fn cycle(&mut self, proposals: u64, payload: &[u8]);

    /// The leader's commit index.
    fn committed(&self) -> u64;
}

/// What was measured of Pontoon and one peer, with batches of one size.
pub(crate) struct Measured {
    peer: Side,
    batch: u64,
    /// Nanoseconds per proposal.
    times: Pairs,
    /// Per proposal, ours and theirs.
    allocations: [f64; 2],
    instructions: Option<[f64; 2]>,
}

pub(crate) fn run(args: &RaftArgs) -> Result<(), String> {
    let payload = vec![7; args.payload as usize];
    if let (Some(side), Some(batch), Some(cycles)) = (args.only, args.batch, args.cycles) {
        run_one(side, batch, cycles, &payload);
        return Ok(());
    }
    // Gathering one proposal is not another way of doing it.
    let comparisons: Vec<(Side, u64)> = BATCHES
        .iter()
        .flat_map(|&batch| [(Side::RaftRs, batch), (Side::RaftRsGathered, batch)])
        .filter(|&comparison| comparison != (Side::RaftRsGathered, 1))
        .collect();
    let counts_instructions = !args.no_instructions && instructions::can_be_counted();
    if !args.no_instructions && !counts_instructions {
        eprintln!("instructions are not counted: valgrind is not installed or does not run");
    }
    let share = Duration::from_secs(args.seconds) / comparisons.len() as u32;
    let mut measured = Vec::new();
    for (peer, batch) in comparisons {
        let mut one = measure(peer, batch, share, &payload);
        if counts_instructions {
            let count = |side| instructions::count(side, batch, args.payload);
            one.instructions = Some([count(Side::Pontoon)?, count(peer)?]);
        }
        measured.push(one);
    }
    if args.json {
        println!("{}", report::json(&measured, args.payload));
    } else {
        report::print(&measured, args.payload);
    }
    Ok(())
}

/// Moves messages to the mail; without copying them if there is none yet.
fn post<M>(mail: &mut Vec<M>, messages: &mut Vec<M>) {
    if mail.is_empty() {
        std::mem::swap(mail, messages);
    } else {
        mail.append(messages);
    }
}

fn run_one(side: Side, batch: u64, cycles: u64, payload: &[u8]) {
    let mut trio = side.trio();
    for _ in 0..cycles {
        trio.cycle(batch, payload);
    }
}

fn measure(peer: Side, batch: u64, share: Duration, payload: &[u8]) -> Measured {
    let (mut ours, mut theirs) = (Side::Pontoon.trio(), peer.trio());
    let (ours, theirs) = (ours.as_mut(), theirs.as_mut());
    let run = |trio: &mut dyn Trio, cycles: u64| {
        let before = trio.committed();
        for _ in 0..cycles {
            trio.cycle(batch, payload);
        }
        let committed = trio.committed() - before;
        assert_eq!(
            committed,
            cycles * batch,
            "a cycle commits what it proposes"
        );
    };
    run(ours, WARM_UP_PROPOSALS / batch);
    run(theirs, WARM_UP_PROPOSALS / batch);
    let counted = COUNTED_PROPOSALS / batch;
    let per_proposal = |count: u64| count as f64 / (counted * batch) as f64;
    let allocations = [
        per_proposal(allocations::during(|| run(ours, counted))),
        per_proposal(allocations::during(|| run(theirs, counted))),
    ];

    let cycles_of = |trio: &mut dyn Trio| {
        let trial = WARM_UP_PROPOSALS / batch;
        let took = timed(|| run(trio, trial));
        ((trial as f64 * WINDOW.as_secs_f64() / took.as_secs_f64()) as u64).max(1)
    };
    let (our_cycles, their_cycles) = (cycles_of(ours), cycles_of(theirs));
    let mut times = Pairs::default();
    let nanos = |took: Duration, cycles: u64| took.as_nanos() as f64 / (cycles * batch) as f64;
    let began = Instant::now();
    while began.elapsed() < share {
        let our_time = timed(|| run(ours, our_cycles));
        let their_time = timed(|| run(theirs, their_cycles));
        times.push(nanos(our_time, our_cycles), nanos(their_time, their_cycles));
    }
    Measured {
        peer,
        batch,
        times,
        allocations,
        instructions: None,
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_costs_one_allocation_and_an_append_of_several_one_more() {
        let mut trio = Side::Pontoon.trio();
        for (batch, most) in [(1, 1.01), (16, 1.13), (64, 1.04)] {
            for _ in 0..WARM_UP_PROPOSALS / batch {
                trio.cycle(batch, &[7; 128]);
            }
            let cycles = COUNTED_PROPOSALS / batch;
            let count = allocations::during(|| {
                for _ in 0..cycles {
                    trio.cycle(batch, &[7; 128]);
                }
            });
            let per_proposal = count as f64 / (cycles * batch) as f64;
            assert!(
                per_proposal <= most,
                "{per_proposal} with {batch} per cycle"
            );
        }
    }

    #[test]
    fn every_side_commits_what_a_cycle_proposes() {
        for side in Side::value_variants() {
            let mut trio = side.trio();
            let before = trio.committed();
            trio.cycle(1, b"first");
            trio.cycle(64, b"more");
            assert_eq!(trio.committed(), before + 65);
        }
    }
}
