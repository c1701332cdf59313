//! `pontoon status`: nodes, shards and leaders.

use crate::cli::ClusterOptions;
use crate::cluster_view::ClusterView;
use crate::error::Error;
use crate::output::{Output, agreeing, counted};
use clap::Args;

/// Show nodes, shards and leaders.
///
/// Asks every node for what it knows about itself. A node that does not answer is shown as such.
/// Of up to 16 shards each has a row: its first key, who leads it in which term, how far it is
/// committed, and how far the replica on each node has applied it. Exits with 1 if a shard has no
/// leader.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pontoon status --endpoints 127.0.0.1:7001,127.0.0.1:7002 --certs certs
  pontoon status --shards               (a row for each shard, however many)
  pontoon status --json | jq '.shards[] | select(.leader == null)'")]
pub struct StatusArgs {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterOptions,
    /// Show a row for each shard also if there are more than 16.
    #[arg(long)]
    pub shards: bool,
    /// Print everything as JSON: every node's own answer, and every shard.
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb.
///
/// # Errors
/// If no node answers, or a shard has no leader.
pub async fn run(args: StatusArgs) -> Result<(), Error> {
    let client = args.cluster.connect().await?;
    let view = ClusterView::look(&client).await;
    let output = Output::new(args.json);
    if args.json {
        output.line(&view.to_json())?;
    } else {
        output.line(&view.to_text(args.shards))?;
    }
    match view.shards_without_leader() {
        0 => Ok(()),
        shards => Err(Error::Unhealthy(format!(
            "{shards} of {} {} no leader",
            counted(view.shards.len() as u64, "shard"),
            agreeing(shards, "has", "have")
        ))),
    }
}
