//! `pontoon delete`: remove a key.

use crate::cli::{BytesOptions, ClusterOptions};
use crate::error::Error;
use crate::output::Output;
use clap::Args;

/// Remove a key.
///
/// Succeeds also if there is no such key; afterwards there is none. As with `put`, the outcome can
/// be unknown, and removing a key again does no harm.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pontoon delete greeting --endpoints 127.0.0.1:7001 --certs certs")]
pub struct DeleteArgs {
    /// The key.
    pub key: String,
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
/// If the key was not removed, or nobody knows.
pub async fn run(args: DeleteArgs) -> Result<(), Error> {
    let key = args.bytes.read(&args.key)?;
    args.cluster.connect().await?.delete(&key).await?;
    Output::new(args.json).outcome("deleted")
}
