//! What the command line understands.

use clap::{Args, Parser, ValueEnum};
use pontoon_sim::{Scale, Theme};
use std::ops::RangeInclusive;

/// Runs whole Pontoon clusters in simulated time, one per seed, under faults, and checks that nothing
/// that must hold is ever broken.
///
/// Every seed is a cluster with its own network, disks, clocks, clients and faults, run by the code of
/// production on one thread. After the simulated time everything heals, and the cluster must serve again
/// and agree. The same seed always does the same; its trace hash shows it.
///
/// The exit code is 1 if an invariant was broken, a seed was not the same twice, or a swarm of full length
/// had too few faults; what was broken, and the command that shows it again, go to stderr.
#[derive(Debug, Parser)]
#[command(
    name = "pontoon-sim",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        cargo run --release -p pontoon-sim -- --seeds 1..200\n  \
        cargo run --release -p pontoon-sim -- --profile disk --seeds 1..200\n  \
        cargo run --release -p pontoon-sim -- --seed 17 --trace | less\n  \
        cargo run --release -p pontoon-sim -- --seeds 1..50 --check-determinism --json\n  \
        cargo run --release -p pontoon-sim --features mutants -- mutants"
)]
pub(crate) struct Cli {
    #[cfg(feature = "mutants")]
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) run: Run,
}

/// Commands that only some builds have.
#[cfg(feature = "mutants")]
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Leaves out one rule of the code after the other, and shows that the checkers notice.
    ///
    /// Each mutant runs through the seeds until one breaks an invariant. The exit code is 1 if none does
    /// within the stated number of seeds, or if the code without a mutant fails.
    Mutants(Mutants),
}

/// Options of `mutants`.
#[cfg(feature = "mutants")]
#[derive(Debug, Args)]
pub(crate) struct Mutants {
    /// Run this one only; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Vec<String>,

    /// The seeds within which a mutant must be caught, beginning with 1.
    #[arg(long, value_name = "N", default_value_t = 400,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) within: u64,

    /// Print the table as one JSON object on stdout.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which worlds to run, and how.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The seeds to run, first and last, both included.
    #[arg(long, value_name = "FIRST..LAST", default_value = "1..100", value_parser = parse_seeds)]
    pub(crate) seeds: RangeInclusive<u64>,

    /// Run this one seed, and print its trace hash.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "jobs"])]
    pub(crate) seed: Option<u64>,

    /// Print everything that happens, a line per event, on stdout.
    #[arg(long, requires = "seed", conflicts_with = "json")]
    pub(crate) trace: bool,

    /// What kind of worlds the seeds draw.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) profile: ProfileName,

    /// Groups besides the meta group; each owns a shard.
    #[arg(long, value_name = "N", default_value_t = Scale::default().groups as u64,
          value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) groups: u64,

    /// Nodes. Groups have three replicas, five with five nodes or more, fewer with fewer than three.
    #[arg(long, value_name = "N", default_value_t = Scale::default().nodes as u64,
          value_parser = clap::value_parser!(u64).range(1..=15))]
    pub(crate) nodes: u64,

    /// Simulated seconds with faults. The healing after them comes on top.
    #[arg(long, value_name = "S", default_value_t = Scale::default().simulated_seconds,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) simulated_seconds: u64,

    /// Run every seed twice and compare the trace hashes.
    #[arg(long)]
    pub(crate) check_determinism: bool,

    /// How many seeds run at the same time, each on one thread. [default: one per core]
    #[arg(long, value_name = "N", default_value_t = cores(), hide_default_value = true,
          value_parser = clap::value_parser!(u64).range(1..=256))]
    pub(crate) jobs: u64,

    /// Print the summary as one JSON object on stdout.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The cores of this machine.
pub(crate) fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64)
}

/// The names of [`Theme`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProfileName {
    /// All kinds of faults, each seed with a mixture of its own.
    #[default]
    Swarm,
    /// Nothing fails; delays and speeds still differ.
    Calm,
    /// Disks and machines fail, the network does not.
    Disk,
    /// The network fails and processes are suspended; disks are well and nothing dies.
    Network,
    /// Members of groups change all the time, while everything else fails.
    Membership,
}

impl From<ProfileName> for Theme {
    fn from(name: ProfileName) -> Self {
        match name {
            ProfileName::Swarm => Self::Swarm,
            ProfileName::Calm => Self::Calm,
            ProfileName::Disk => Self::Disk,
            ProfileName::Network => Self::Network,
            ProfileName::Membership => Self::Membership,
        }
    }
}

impl Run {
    pub(crate) fn theme(&self) -> Theme {
        self.profile.into()
    }

    pub(crate) fn scale(&self) -> Scale {
        Scale {
            nodes: self.nodes as usize,
            groups: self.groups as usize,
            simulated_seconds: self.simulated_seconds,
        }
    }

    /// Whether the run owes a number of faults: a swarm at the usual length.
    pub(crate) fn owes_faults(&self) -> bool {
        self.theme() == Theme::Swarm
            && self.nodes >= Scale::default().nodes as u64
            && self.simulated_seconds >= Scale::default().simulated_seconds
    }

    /// The command that runs one seed just like this.
    pub(crate) fn replay_command(&self, seed: u64) -> String {
        let mut command = format!("cargo run --release -p pontoon-sim -- --seed {seed} --trace");
        if let Some(name) = self.profile.to_possible_value()
            && self.profile != ProfileName::default()
        {
            command += &format!(" --profile {}", name.get_name());
        }
        let (scale, default) = (self.scale(), Scale::default());
        for (flag, value, usual) in [
            ("groups", scale.groups as u64, default.groups as u64),
            ("nodes", scale.nodes as u64, default.nodes as u64),
            (
                "simulated-seconds",
                scale.simulated_seconds,
                default.simulated_seconds,
            ),
        ] {
            if value != usual {
                command += &format!(" --{flag} {value}");
            }
        }
        command
    }
}

fn parse_seeds(text: &str) -> Result<RangeInclusive<u64>, String> {
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|error| format!("{text:?} is not a seed: {error}"))
    };
    let (first, last) = match text.split_once("..") {
        None => (number(text)?, number(text)?),
        Some((first, last)) => (number(first)?, number(last.trim_start_matches('='))?),
    };
    if first > last || last == u64::MAX {
        return Err(format!(
            "{text:?} holds no seed; write FIRST..LAST, as in 1..200"
        ));
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn seeds_are_read_with_both_ends() {
        assert_eq!(parse_seeds("1..200"), Ok(1..=200));
        assert_eq!(parse_seeds("7"), Ok(7..=7));
        for wrong in ["", "..", "3..2", "a..b", "1..18446744073709551615"] {
            assert!(parse_seeds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_replay_command_names_what_is_unusual() {
        let cli = Cli::parse_from(["pontoon-sim", "--nodes", "5", "--profile", "disk"]);
        let command = cli.run.replay_command(9);
        let unusual = "--seed 9 --trace --profile disk --nodes 5";
        assert!(command.ends_with(unusual), "{command}");
    }
}
