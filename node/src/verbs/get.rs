//! `pontoon get`: read a key.

use crate::cli::{BytesOptions, ClusterOptions};
use crate::error::Error;
use crate::formats::{Format, ndjson};
use crate::output::{Output, printable};
use clap::Args;

/// Read a key.
///
/// The read is linearizable: it sees every write that was acknowledged before it began. Prints the
/// value and a line feed. Exits with 1 if there is no such key.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pontoon get greeting --endpoints 127.0.0.1:7001,127.0.0.1:7002 --certs certs
  pontoon get greeting --json")]
pub struct GetArgs {
    /// The key.
    pub key: String,
    /// How keys and values are written.
    #[command(flatten)]
    pub bytes: BytesOptions,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterOptions,
    /// Print key and value as JSON, in the format of `dump`; the value is null if there is no such key.
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb.
///
/// # Errors
/// If there is no such key, or it could not be read.
pub async fn run(args: GetArgs) -> Result<(), Error> {
    let key = args.bytes.read(&args.key)?;
    let value = args.cluster.connect().await?.get(&key).await?;
    let output = Output::new(args.json);
    let mut line = Vec::new();
    let Some(value) = value else {
        if args.json {
            ndjson::write_absent(&mut line, &key).map_err(Error::Stdout)?;
            output.bytes(&line)?;
        }
        let key = printable(&key);
        return Err(Error::NoSuchKey { key });
    };
    if args.json {
        Format::Ndjson
            .write(&mut line, &key, &value)
            .map_err(Error::Stdout)?;
    } else if args.bytes.b64 {
        line = (args.bytes.show(&value) + "\n").into_bytes();
    } else {
        line.extend_from_slice(&value);
        line.push(b'\n');
    }
    output.bytes(&line)
}
