//! What the command line understands.

use crate::scenario::Scenario;
use clap::{Parser, Subcommand};

/// Holds Pontoon to faults of a real kernel, on file systems that it makes for itself. Most are about the log: 64 groups
/// are written to through its thread until the fault comes, and what is there afterwards is compared, byte for byte, with
/// what was acknowledged. `flush`, `install` and `backup` are about whole nodes, three processes whose disks become
/// too small.
///
/// It needs root, to mount; what it mounts nobody else sees, and it is gone with the process. The images are in
/// TMPDIR. The moments at which faults come are a function of the seed, what the threads have done by then is not.
///
/// The exit code is 1 if a promise was broken; the files then stay for a look at them. It is 77 if something
/// could not be tried.
#[derive(Debug, Parser)]
#[command(
    name = "pontoon-faults",
    version,
    after_help = "Examples:\n  \
        cargo run --release -p pontoon-faults\n  \
        cargo run --release -p pontoon-faults -- power --cycles 200\n  \
        cargo run --release -p pontoon-faults -- all --cycles 5 --json"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    /// Where the dice begin.
    #[arg(long, value_name = "N", default_value_t = 1, global = true)]
    pub(crate) seed: u64,

    /// Print one JSON array, of an object per scenario, as the last line of stdout.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

const CYCLES: u32 = 20;

#[derive(Clone, Copy, Debug, Subcommand)]
enum Command {
    /// The power goes: ext4 keeps what was synced, and of the rest what it pleases.
    Power {
        /// How often it goes.
        #[arg(long, value_name = "N", default_value_t = CYCLES, value_parser = clap::value_parser!(u32).range(1..))]
        cycles: u32,
    },
    /// The disk, a tmpfs and an ext4, has no room left, and has some again.
    Full,
    /// A sync or a write fails with EIO. Needs libfiu (Debian: fiu-utils).
    Eio,
    /// The disk hangs, and goes on.
    Frozen,
    /// The kernel finds an error in the ext4 and makes it read-only.
    Readonly,
    /// Disks of nodes have no room for what the store flushes and merges, nor for the log, and have some again.
    Flush,
    /// A node's disk has no room for a snapshot, and has some again.
    Install,
    /// A backup's disk has no room, and has some again.
    Backup,
    /// All of these, one after the other; so it is without a command, too.
    All {
        /// How often the power goes.
        #[arg(long, value_name = "N", default_value_t = CYCLES, value_parser = clap::value_parser!(u32).range(1..))]
        cycles: u32,
    },
}

impl Cli {
    /// What was asked for.
    pub(crate) fn scenarios(&self) -> Vec<Scenario> {
        match self.command.unwrap_or(Command::All { cycles: CYCLES }) {
            Command::Power { cycles } => vec![Scenario::Power { cycles }],
            Command::Full => vec![Scenario::Full],
            Command::Eio => vec![Scenario::Eio],
            Command::Frozen => vec![Scenario::Frozen],
            Command::Readonly => vec![Scenario::Readonly],
            Command::Flush => vec![Scenario::Flush],
            Command::Install => vec![Scenario::Install],
            Command::Backup => vec![Scenario::Backup],
            Command::All { cycles } => vec![
                Scenario::Power { cycles },
                Scenario::Full,
                Scenario::Eio,
                Scenario::Frozen,
                Scenario::Readonly,
                Scenario::Flush,
                Scenario::Install,
                Scenario::Backup,
            ],
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
