//! Pontoon's parts beside other engines' on the same work, in the same run.
//!
//! This is a workspace of its own, so that the product's lock file never holds a peer. A subcommand
//! is a room: `raft` sets the protocol core beside raft-rs, `log` the log beside its floor and raft-engine, `store` a node with much data beside
//! fjall. All of them follow the same rules:
//!
//! - Both sides do the same work with the same sizes, limits and allocator, each in its best
//!   configuration, and are measured **in turns**, a short window of each at a time. What counts is
//!   the median of the pairs' ratios: times swing with the machine, a pair meets the same machine.
//! - The table is for people. With `--json` the last line on stdout is one JSON object instead.

mod allocations;
mod clock;
mod log;
mod pairs;
mod raft;
mod store;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Whatever kept a measurement from being taken: there is nothing to do but to say so.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// Sets Pontoon's parts beside other engines', on the same work and in the same run.
#[derive(Debug, Parser)]
#[command(name = "pontoon-peers", version)]
struct Cli {
    #[command(subcommand)]
    peer: Peer,
}

// A comment on a variant would take the place of the subcommand's own help, so there is none.
#[derive(Debug, Subcommand)]
enum Peer {
    Raft(raft::RaftArgs),
    Log(log::LogArgs),
    Store(store::StoreArgs),
}

fn main() -> ExitCode {
    // The node that stands beside fjall is a process of this binary.
    if std::env::args().nth(1).as_deref() == Some("node") {
        return pontoon::run();
    }
    let Cli { peer } = Cli::parse();
    let done = match peer {
        Peer::Raft(args) => raft::run(&args),
        Peer::Log(args) => log::run(&args),
        Peer::Store(args) => store::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
