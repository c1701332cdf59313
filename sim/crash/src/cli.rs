//! What the command line understands.

use clap::{Args, Parser};
use pontoon::config::ByteSize;
use std::path::PathBuf;

/// Kills and suspends the nodes of a real cluster while clients use it, and checks what these saw.
///
/// The nodes are processes with directories of their own. At random points one of them, two or all are
/// killed with SIGKILL and started again some time later, or one is suspended with SIGSTOP for a while. All
/// along clients read, write, remove and swap values of few keys. In the end all nodes are killed and
/// started once more, a fresh client reads every key, and of each key's history it is checked that one
/// register can have shown it: nothing acknowledged was lost, nothing was applied twice, no read was stale.
/// Calls whose outcome their client never learnt count as unknown: they may have been done at any time or
/// never.
///
/// The exit code is 1 if there is a key that no register explains, if a node ended by itself, or if the
/// cluster did not serve again in time; what happened, and where everything is kept, go to stderr.
#[derive(Debug, Parser)]
#[command(
    name = "pontoon-crash",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        cargo run --release -p pontoon-crash\n  \
        cargo run --release -p pontoon-crash -- --kills 1000 --seed 7\n  \
        cargo run --release -p pontoon-crash -- --lease-reads --json\n  \
        cargo run --release -p pontoon-crash -- restart --bytes 10GiB --shards 1000\n  \
        cargo run --release -p pontoon-crash -- beside --at-most 1.5\n  \
        cargo run -p pontoon-crash --features mutants -- mutants"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) run: Run,
}

/// What else there is.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Loads much data, kills the nodes, and sees how long it is until every shard is served again.
    ///
    /// On the way there all of it is read at random and scanned, with 64 clients each, by nodes that may use 512 MiB
    /// of memory for it: 128 MiB for writes, 384 MiB for the store's cache. At the end every row is
    /// compared with what was written. The values are random bytes, which cannot be compressed.
    ///
    /// The exit code is 1 if all shards were served later than --max-start-seconds, if a node had more memory than
    /// --max-resident, or if something failed.
    Restart(Restart),
    /// Brings a replica up beside a load, and sees what the writes feel of it.
    ///
    /// Of four nodes three have the big shard, whose values are random bytes, which cannot be compressed. The other
    /// shards are written to at a part of what the cluster takes at most, which is measured before with 64 clients
    /// in a closed loop. The load itself is open: writes begin when they are due, in a burst every millisecond, however
    /// many are under way, and their latency counts from then. Two windows long it only warms up. In each pair of windows there is one without anything
    /// else, and one in which the fourth node gets a learner, until it has caught up; then it goes again. The
    /// figure is the median of the pairs' ratios of p99, with the bounds that the sign test gives it.
    ///
    /// The exit code is 1 if that is above --at-most, if the replicas came more slowly than --rate-at-least, or if something
    /// failed.
    Beside(Beside),
    /// Leaves out one rule after the other, and sees whether that is noticed.
    #[cfg(feature = "mutants")]
    Mutants(Mutants),
}

/// How much to load, and where.
#[derive(Clone, Debug, Args)]
pub(crate) struct Restart {
    /// Keys and values to load; each node holds all of it.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub(crate) bytes: ByteSize,

    /// Shards.
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) shards: u64,

    /// Nodes, all of which are killed.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=9))]
    pub(crate) nodes: u64,

    /// Size of a value.
    #[arg(long, value_name = "N", default_value_t = 4096,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) value_bytes: u64,

    /// How long to read, and how long to scan.
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,

    /// Fail if it is longer from the start of the processes until all shards are served.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    pub(crate) max_start_seconds: f64,

    /// Fail if a node ever has more resident memory, the mapped log and all.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub(crate) max_resident: ByteSize,

    /// Where the nodes' directories go; must be empty or not there yet, and is kept.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Print one JSON object on stdout.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How much to bring up, and beside what.
#[derive(Clone, Debug, Args)]
pub(crate) struct Beside {
    /// Keys and values of the shard that is brought up.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub(crate) bytes: ByteSize,

    /// Pairs of windows.
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) pairs: u64,

    /// The part of the most writes a second that is written.
    #[arg(long, value_name = "PART", default_value_t = 0.5, value_parser = part)]
    pub(crate) load: f64,

    /// Writes a second to the shard that is brought up, from before the first window to the last one's end.
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub(crate) big_writes: u32,

    /// How long a window without a replica is, and how long the most writes a second are looked for.
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,

    /// The nodes' --snapshot-rate. [default: the nodes' own]
    #[arg(long, value_name = "SIZE")]
    pub(crate) snapshot_rate: Option<ByteSize>,

    /// Fail if p99 beside is more than so many times p99 alone, in the median.
    #[arg(long, value_name = "RATIO")]
    pub(crate) at_most: Option<f64>,

    /// Fail if the replica comes at fewer bytes a second beside the load, in the median.
    #[arg(long, value_name = "SIZE")]
    pub(crate) rate_at_least: Option<ByteSize>,

    /// Where the nodes' directories go; must be empty or not there yet, and is kept.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Print one JSON object on stdout.
    #[arg(long)]
    pub(crate) json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if seconds > 0.0 => Ok(seconds),
        _ => Err("not a number above 0".to_owned()),
    }
}

fn part(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(part) if part > 0.0 && part <= 1.0 => Ok(part),
        _ => Err("not a number above 0 and up to 1".to_owned()),
    }
}

/// Which mutants to run, and for how long.
#[cfg(feature = "mutants")]
#[derive(Debug, Args)]
pub(crate) struct Mutants {
    /// Run this one only, whichever it is; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Vec<String>,

    /// The kills within which a mutant must be noticed.
    #[arg(long, value_name = "N", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) kills: u64,
}

/// What to do to whom.
#[derive(Clone, Debug, Args)]
pub(crate) struct Run {
    /// Processes to kill.
    #[arg(long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) kills: u64,

    /// Decides the faults and the calls. [default: random; it is printed]
    #[arg(long, value_name = "SEED")]
    pub(crate) seed: Option<u64>,

    /// Keys in use at the same time. Each is replaced by a new one after some hundred calls.
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) keys: u64,

    /// Clients per key, each with one call under way.
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(1..=8))]
    pub(crate) clients: u64,

    /// Shards.
    #[arg(long, value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) shards: u64,

    /// Have the nodes serve reads under leases, which suspended nodes must not outlive.
    #[arg(long)]
    pub(crate) lease_reads: bool,

    /// Where the nodes' directories go; must be empty or not there yet, and is kept. Without it, a
    /// temporary directory is used, and kept only if something was found.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Print the summary as one JSON object on stdout.
    #[arg(long)]
    pub(crate) json: bool,
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
