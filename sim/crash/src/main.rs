//! A cluster of real processes that are killed and suspended while clients use it, and the proof that they
//! saw one register per key all the same.
//!
//! This binary is its own nodes: `pontoon-crash node …` is `pontoon node …`. So what is killed is the code
//! of production on a real disk, a real network and real threads. The [simulator](pontoon_sim) sees more
//! kinds of faults and can do them again; this sees what the simulator has no model of.
//!
//! - `chaos` decides who is killed or suspended when, from a seed;
//! - `load` has the clients: reads, writes, removals and swaps on few keys;
//! - `history` keeps what they saw. Each key's history is checked with the simulator's search for an order
//!   that explains it, which a lost write, a stale read and a command applied twice leave none;
//! - `run` puts these together, and has a fresh client read every key when all is over;
//! - `restart` asks how soon a node with much data serves again;
//! - `beside` asks what writes feel of a replica that is brought up beside them.
//!
//! A seed decides the faults and the calls, but not how they meet: that is up to the machine.

mod beside;
mod chaos;
mod cli;
mod history;
mod load;
#[cfg(feature = "mutants")]
mod mutants;
mod report;
mod restart;
mod run;

use clap::Parser;
use cli::Cli;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    #[cfg(feature = "mutants")]
    mutants::choose_as_told();
    if std::env::args().nth(1).as_deref() == Some("node") {
        return pontoon::run();
    }
    let cli = Cli::parse();
    match &cli.command {
        None => run::run(&cli.run),
        Some(cli::Command::Restart(options)) => restart::run(options),
        Some(cli::Command::Beside(options)) => beside::run(options),
        #[cfg(feature = "mutants")]
        Some(cli::Command::Mutants(options)) => mutants::run(options),
    }
}
