//! `pontoon restore`: a backup, brought to a cluster.

use crate::backup::manifest::Manifest;
use crate::backup::restore::{Step, restore};
use crate::cli::ClusterOptions;
use crate::error::Error;
use crate::output::{Output, bytes, counted};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Bring a backup to a cluster, which may have other nodes and other shards.
///
/// First every chunk is held against its SHA-256: if one is missing or damaged, nothing is written. Then the rows are written,
/// and in the end the cluster is compared with the backup, row by row. A cluster that has rows already is refused, unless
/// --force is given: then the rows of the backup take the place of those with the same keys, and the others stay.
/// Nobody should write to the cluster meanwhile.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pontoon restore --from /backups/pontoon --endpoints 127.0.0.1:7001 --certs certs
  pontoon restore --from /backups/pontoon --backup 20261127T065501Z-0123456789abcdef")]
pub struct RestoreArgs {
    /// The directory that `pontoon backup` wrote.
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// Which of its backups; the latest if not given.
    #[arg(long, value_name = "ID")]
    pub backup: Option<String>,
    /// Write over what is in the cluster.
    #[arg(long)]
    pub force: bool,
    /// Give up when a batch could not be written for so long.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub patience: u64,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterOptions,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb.
///
/// # Errors
/// If the backup is damaged, the cluster is not empty, or it does not hold the backup in the end.
pub async fn run(args: RestoreArgs) -> Result<(), Error> {
    let (id, manifest) = Manifest::read(&args.from, args.backup.as_deref())?;
    let client = args.cluster.connect().await?;
    let output = Output::new(args.json);
    let bar = output.bar(manifest.bytes(), "B", "checking");
    let began = Instant::now();
    let patience = Duration::from_secs(args.patience);
    let tell = |step, position| {
        bar.set_message(match step {
            Step::Checking => "checking",
            Step::Writing => "writing",
            Step::Comparing => "comparing",
        });
        bar.set_position(position);
    };
    let restored = restore(&client, &args.from, &manifest, args.force, patience, tell).await;
    bar.finish_and_clear();
    restored?;
    let seconds = began.elapsed().as_secs_f64();
    if args.json {
        return output.json(&json!({
            "id": id,
            "rows": manifest.rows(),
            "bytes": manifest.bytes(),
            "seconds": seconds,
            "compared": true,
        }));
    }
    output.line(&format!(
        "restored backup {id}: {} ({}) in {seconds:.1} s, and compared them with the cluster",
        counted(manifest.rows(), "row"),
        bytes(manifest.bytes() as f64),
    ))
}
