//! `pontoon verify`: whether the replicas of each shard are the same.

use crate::cli::ClusterOptions;
use crate::comparison::Comparison;
use crate::error::Error;
use crate::output::Output;
use clap::Args;
use std::time::Duration;

/// Compare the replicas of all shards, row by row, while they serve.
///
/// Each shard gets a mark in its log, an entry that changes nothing. Every replica pins its state as of exactly there, which
/// copies nothing, hashes it in the background within the budget of --snapshot-rate, and the hashes are compared.
/// Nobody is held up. Exits with 1 if replicas differ, and names them; and also if one could not be compared,
/// because its node does not answer or it has not come to the mark in time.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pontoon verify --endpoints 127.0.0.1:7001,127.0.0.1:7002 --certs certs
  pontoon verify --json | jq '.shards[].replicas[] | select(.finding != \"same\")'")]
pub struct VerifyArgs {
    /// How long to wait for a replica that has not come to the mark.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub patience: u64,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterOptions,
    /// Print everything as JSON: every shard, every replica, every hash.
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb.
///
/// # Errors
/// If no node answers, replicas differ, or some could not be compared.
pub async fn run(args: VerifyArgs) -> Result<(), Error> {
    let client = args.cluster.connect().await?;
    let output = Output::new(args.json);
    let bar = output.bar(0, "shards", "comparing");
    let patience = Duration::from_secs(args.patience);
    let comparison = Comparison::of(&client, patience, |done, of| {
        bar.set_length(of);
        bar.set_position(done);
    })
    .await;
    bar.finish_and_clear();
    if args.json {
        output.json(&comparison)?;
    } else {
        output.line(&comparison.to_text())?;
    }
    comparison
        .fault()
        .map_or(Ok(()), |fault| Err(Error::Unhealthy(fault)))
}
