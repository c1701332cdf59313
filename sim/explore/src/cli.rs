//! What the command line understands.

use crate::space::Bounds;
use clap::{Args, Parser};

/// Takes three replicas of the real protocol core through every order of events within bounds, and checks
/// after each that nothing is broken that must hold.
///
/// Any message may be lost or overtaken, any replica may campaign or crash at any moment, and what was not
/// acknowledged by its disk may be lost with it. Without bounds, the spaces of the gate are explored
/// one after the other; with some, the one space that they describe.
///
/// The exit code is 1 if something was broken, or if a space turned out so small that what should happen in
/// it never does; a short way to what was broken is printed, the shortest with one thread.
#[derive(Debug, Parser)]
#[command(
    name = "pontoon-explore",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        cargo run --release -p pontoon-explore\n  \
        cargo run --release -p pontoon-explore -- --crashes 2 --in-flight 2\n  \
        cargo run --release -p pontoon-explore -- --terms 3 --in-flight 2 --crashes 0\n  \
        cargo run --release -p pontoon-explore --features mutants -- mutants"
)]
pub(crate) struct Cli {
    #[cfg(feature = "mutants")]
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) reach: Reach,

    /// Threads to explore with.
    #[arg(long, value_name = "N", default_value_t = 2, global = true,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: u16,

    /// Print one JSON object as the last line of stdout.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// Commands that only some builds have.
#[cfg(feature = "mutants")]
#[derive(Clone, Copy, Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Leaves out one rule of the core after the other, and shows that the exploration finds what that breaks.
    Mutants,
}

/// The bounds of one space; memory and time grow steeply with each.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// The last term in which anybody campaigns [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=9))]
    terms: Option<u64>,

    /// Messages in flight at a time [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=9))]
    in_flight: Option<u8>,

    /// Proposals, beside the entry that each leader appends [default: 0]
    #[arg(long, value_name = "N")]
    proposals: Option<u8>,

    /// Crashes [default: 0]
    #[arg(long, value_name = "N")]
    crashes: Option<u8>,

    /// Messages that come twice [default: 0]
    #[arg(long, value_name = "N")]
    repeats: Option<u8>,

    /// Heartbeats of leaders [default: 0]
    #[arg(long, value_name = "N")]
    heartbeats: Option<u8>,
}

impl Reach {
    /// The space that was asked for, if one was.
    pub(crate) fn bounds(&self) -> Option<Bounds> {
        let Self {
            terms,
            in_flight,
            proposals,
            crashes,
            repeats,
            heartbeats,
        } = *self;
        let counts = [in_flight, proposals, crashes, repeats, heartbeats];
        if terms.is_none() && counts.iter().all(Option::is_none) {
            return None;
        }
        Some(Bounds {
            terms: terms.unwrap_or(2),
            in_flight: in_flight.unwrap_or(2).into(),
            proposals: proposals.unwrap_or(0),
            crashes: crashes.unwrap_or(0),
            repeats: repeats.unwrap_or(0),
            heartbeats: heartbeats.unwrap_or(0),
        })
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
