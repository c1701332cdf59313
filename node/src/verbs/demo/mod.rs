//! `pontoon demo`: a whole cluster, loaded, restarted and proved.

mod run;

use crate::error::Error;
use clap::Args;
use std::path::PathBuf;

/// Run a whole cluster here, load it, restart it and prove that nothing was lost.
///
/// The nodes have directories and certificates of their own, talk QUIC over loopback and sync to
/// disk, as they would on machines of their own. Clients write for a while; then all nodes are
/// stopped and started again, and a fresh client reads everything and holds it against the record of
/// what was acknowledged. Exits with 1 if anything is missing or wrong, or if
/// nothing was acknowledged at all.
///
/// Before the load and after it the disk is probed: how often a second can three files each be synced, at the same
/// time? That is what a log would do that syncs every write alone.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pontoon demo
  pontoon demo --kill                   nodes are processes; one is killed in the middle
  pontoon demo --load packages.ndjson   real rows instead of generated ones
  pontoon demo --seconds 5 --json | tail -1 | jq .writes_per_s")]
pub struct DemoArgs {
    /// Nodes.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=99))]
    pub nodes: u64,
    /// Shards that the key space is cut into, where the keys are; no more than there are keys.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub shards: u32,
    /// Threads of each node that run groups. [default: as a node's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=15))]
    pub workers: Option<u8>,
    /// Clients that write at the same time.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub clients: u32,
    /// How long they write, unless they write a file.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    /// Size of the generated values; keys have 16 bytes.
    #[arg(long, value_name = "B", default_value_t = 128)]
    pub value_bytes: usize,
    /// Rows that the generated keys are drawn from, uniformly.
    #[arg(long, value_name = "K", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Write the rows of this file (.tsv or .ndjson) instead.
    #[arg(long, value_name = "FILE")]
    pub load: Option<PathBuf>,
    /// Where the nodes' directories go; must be empty or not there yet, and is kept. Without it, a
    /// temporary directory is used and removed.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Run the nodes as processes, kill one that leads (SIGKILL) in the middle and start it again; at
    /// the end kill them all before the proof.
    #[arg(long)]
    pub kill: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb.
///
/// # Errors
/// If the cluster did not start, or the proof failed.
pub async fn run(args: DemoArgs) -> Result<(), Error> {
    run::Demo::prepare(args).await?.run().await
}
