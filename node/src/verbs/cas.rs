//! `pontoon cas`: compare and swap.

use crate::cli::{BytesOptions, ClusterOptions};
use crate::error::Error;
use crate::output::{Output, printable};
use clap::Args;
use pontoon_client::CasOutcome;

/// Write a key if it has the value that is expected.
///
/// Without --expect the key must not be there; without --set it is removed. Exits with 1 and shows
/// what is there if it is something else. If the outcome is unknown, read the key before you try
/// again: a repetition may meet its own first attempt.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pontoon cas counter --expect 41 --set 42 --endpoints 127.0.0.1:7001 --certs certs
  pontoon cas lock --set me                (only if nobody holds it)
  pontoon cas lock --expect me             (give it back)")]
pub struct CasArgs {
    /// The key.
    pub key: String,
    /// The value that must be there; if not given, none may be.
    #[arg(long, value_name = "VALUE")]
    pub expect: Option<String>,
    /// The new value; if not given, the key is removed.
    #[arg(long, value_name = "VALUE")]
    pub set: Option<String>,
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
/// If another value was there, the key could not be written, or nobody knows.
pub async fn run(args: CasArgs) -> Result<(), Error> {
    let key = args.bytes.read(&args.key)?;
    let expect = args.bytes.read_optional(args.expect.as_deref())?;
    let set = args.bytes.read_optional(args.set.as_deref())?;
    if expect.is_none() && set.is_none() {
        let problem = "neither --expect nor --set is given: there is nothing to do";
        return Err(Error::Usage(problem.to_owned()));
    }
    let client = args.cluster.connect().await?;
    let swap = client
        .compare_and_swap(&key, expect.as_deref(), set.as_deref())
        .await?;
    match swap {
        CasOutcome::Swapped => Output::new(args.json).outcome("swapped"),
        CasOutcome::NotSwapped { actual } => Err(Error::NotSwapped {
            actual: match actual {
                Some(value) => format!("the value is {}", printable(&value)),
                None => "there is no such key".to_owned(),
            },
        }),
    }
}
