//! Every order of events in a small group, under the model checker stateright.
//!
//! Nothing here is a model of Raft: what is explored are three values of the real [`pontoon_raft::Raft`], which
//! is pure and can be cloned. Only what surrounds them is modelled, and as unkindly as it may be: a network
//! that loses, overtakes and repeats, disks whose writes take as long as they like, crashes that lose
//! whatever of them was not acknowledged, and clocks that strike whenever they please.
//!
//! - `node` is one replica with its disk, `history` what binds everybody once it has happened, `state` a moment
//!   of the whole group, and `space` the steps from each moment to the next.
//! - The invariants are judged as steps are taken, by S1 to S7 and S10 of the design; a step that breaks one ends
//!   its way. That the space is not empty of meaning is shown by what must *sometimes* happen in it.
//! - States are told apart by 64-bit hashes of what decides the future; see [`pontoon_raft::Raft::fingerprint`].
//!   With n states the chance that two share one, and a state is missed, is about n² / 2⁶⁵: one in a million
//!   for six million.
//! - Two replicas that have done nothing yet are exchangeable, so only the first of them goes first.
//!
//! Time is left out: `pre_vote`, `check_quorum` and leases, which rest on it, are off. The simulator has those.

mod broken;
mod cli;
mod explore;
mod history;
#[cfg(feature = "mutants")]
mod mutants;
mod node;
mod space;
mod state;

use clap::Parser;
use cli::Cli;
use explore::explore;
use serde_json::json;
use space::Bounds;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the gate explores: more at a time under way without crashes, and a crash with less.
const SPACES: [Bounds; 3] = [
    Bounds {
        terms: 2,
        in_flight: 3,
        proposals: 0,
        crashes: 0,
        repeats: 0,
        heartbeats: 0,
    },
    Bounds {
        terms: 2,
        in_flight: 2,
        proposals: 0,
        crashes: 1,
        repeats: 0,
        heartbeats: 0,
    },
    Bounds {
        terms: 2,
        in_flight: 2,
        proposals: 0,
        crashes: 0,
        repeats: 1,
        heartbeats: 0,
    },
];

fn main() -> ExitCode {
    let cli = Cli::parse();
    silence_explorers();
    #[cfg(feature = "mutants")]
    if let Some(cli::Command::Mutants) = cli.command {
        return mutants::run(cli.threads, cli.json);
    }
    let asked = cli.reach.bounds().map(|bounds| vec![bounds]);
    let mut explored = Vec::new();
    for bounds in asked.unwrap_or_else(|| SPACES.to_vec()) {
        let one = explore(bounds, cli.threads);
        if !cli.json {
            println!("{one}");
        }
        explored.push(one);
    }
    if cli.json {
        let spaces: Vec<_> = explored.iter().map(explore::Explored::json).collect();
        println!("{}", json!({ "spaces": spaces }));
    }
    match explored.iter().all(explore::Explored::is_good) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// An assertion of the core that fails is a finding and told with its way; it need not be told twice.
fn silence_explorers() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        if !thread
            .name()
            .is_some_and(|name| name.starts_with("checker"))
        {
            tell(panic);
        }
    }));
}
