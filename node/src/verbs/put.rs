//! `pontoon put`: write a key.

use crate::cli::{BytesOptions, ClusterOptions};
use crate::error::Error;
use crate::output::Output;
use clap::Args;

/// Write a key.
///
/// Returns when the write is durable on a majority of the shard's replicas and applied. If the
/// connection is lost in between, the outcome is unknown, and the error says so: the write may be
/// done, or be done later. A put can be repeated without harm.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pontoon put greeting hello --endpoints 127.0.0.1:7001 --certs certs
  pontoon put --b64 /wA= aGVsbG8=          (with PONTOON_ENDPOINTS and PONTOON_CERTS set)")]
pub struct PutArgs {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// How keys and values are written.
    #[command(flatten)]
    pub bytes: BytesOptions,
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
/// If the key was not written, or nobody knows.
pub async fn run(args: PutArgs) -> Result<(), Error> {
    let key = args.bytes.read(&args.key)?;
    let value = args.bytes.read(&args.value)?;
    args.cluster.connect().await?.put(&key, &value).await?;
    Output::new(args.json).outcome("written")
}
