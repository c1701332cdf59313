//! `pontoon backup`: a copy of all shards, taken while they serve.

use crate::backup::take::{Options, take};
use crate::cli::ClusterOptions;
use crate::error::Error;
use crate::output::{Output, bytes, counted};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Copy all shards into a directory, while they serve.
///
/// Each shard is copied as it is at one applied index, with all that was acknowledged before the backup began. Its rows are
/// read page by page from a pinned state, of a follower if there is one, within the budget of --snapshot-rate of each node; nobody
/// is held up. A directory may hold many backups: rows are kept in immutable chunks that are named by their SHA-256,
/// and a later backup writes only the chunks that are new. A backup is there only when all of it is durable.
/// `pontoon restore` brings it back.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pontoon backup --to /backups/pontoon --endpoints 127.0.0.1:7001,127.0.0.1:7002 --certs certs
  pontoon backup --to /backups/pontoon --json")]
pub struct BackupArgs {
    /// The directory; made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Give up when no replica of a shard could be read for so long.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
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
/// If a shard could not be read, or the directory not be written.
pub async fn run(args: BackupArgs) -> Result<(), Error> {
    let client = args.cluster.connect().await?;
    let output = Output::new(args.json);
    let bar = output.bar(0, "shards", "backing up");
    let began = Instant::now();
    let options = Options {
        patience: Duration::from_secs(args.patience),
        ..Options::default()
    };
    let taken = take(&client, &args.to, options, |progress| {
        bar.set_length(progress.of);
        bar.set_position(progress.shards);
        bar.set_message(format!(
            "{} read, {} new",
            bytes(progress.bytes as f64),
            bytes(progress.written as f64)
        ));
    })
    .await;
    bar.finish_and_clear();
    let taken = taken?;
    let seconds = began.elapsed().as_secs_f64();
    if args.json {
        return output.json(&json!({
            "id": taken.id,
            "shards": taken.manifest.shards.len(),
            "rows": taken.manifest.rows(),
            "bytes": taken.manifest.bytes(),
            "chunks_written": taken.written.chunks,
            "bytes_written": taken.written.bytes,
            "chunks_reused": taken.reused.chunks,
            "bytes_reused": taken.reused.bytes,
            "seconds": seconds,
        }));
    }
    output.line(&format!(
        "backup {}: {} of {} ({}) in {seconds:.1} s; {} written, {} in {} were there",
        taken.id,
        counted(taken.manifest.rows(), "row"),
        counted(taken.manifest.shards.len() as u64, "shard"),
        bytes(taken.manifest.bytes() as f64),
        bytes(taken.written.bytes as f64),
        bytes(taken.reused.bytes as f64),
        counted(taken.reused.chunks, "chunk"),
    ))
}
