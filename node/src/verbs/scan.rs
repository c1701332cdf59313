//! `pontoon scan`: print rows.

use crate::cli::{BytesOptions, ClusterOptions};
use crate::error::Error;
use crate::formats::Format;
use crate::output::Output;
use crate::rows::{Rows, after_prefix};
use clap::Args;

/// Print rows in key order, over the borders of shards.
///
/// Rows are printed as key, tab and value with \t, \n, \r and \\ escaped, or as JSON, a row a line. Every
/// page of rows is read linearizably; a scan of several pages is not one moment's view.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pontoon scan --limit 10 --endpoints 127.0.0.1:7001 --certs certs
  pontoon scan --from a --to b
  pontoon scan --prefix user/ --json | jq -r .key")]
pub struct ScanArgs {
    /// First key.
    #[arg(long, value_name = "KEY")]
    pub from: Option<String>,
    /// Key to stop before.
    #[arg(long, value_name = "KEY")]
    pub to: Option<String>,
    /// Only keys that begin so.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["from", "to"])]
    pub prefix: Option<String>,
    /// Print at most so many rows.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// How keys and values are written.
    #[command(flatten)]
    pub bytes: BytesOptions,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterOptions,
    /// Print rows as JSON, in the format of `dump`.
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb.
///
/// # Errors
/// If a page could not be read.
pub async fn run(args: ScanArgs) -> Result<(), Error> {
    let (mut from, mut to) = (
        args.bytes
            .read_optional(args.from.as_deref())?
            .unwrap_or_default(),
        args.bytes.read_optional(args.to.as_deref())?,
    );
    if let Some(prefix) = args.bytes.read_optional(args.prefix.as_deref())? {
        to = after_prefix(&prefix);
        from = prefix;
    }
    let client = args.cluster.connect().await?;
    let mut rows = Rows::new(client, from, to, args.limit);
    let output = Output::new(args.json);
    while let Some(page) = rows.next_page().await? {
        let mut text = Vec::new();
        for (key, value) in &page {
            if args.bytes.b64 && !args.json {
                let (key, value) = (args.bytes.show(key), args.bytes.show(value));
                text.extend_from_slice(format!("{key}\t{value}\n").as_bytes());
                continue;
            }
            let format = if args.json {
                Format::Ndjson
            } else {
                Format::Tsv
            };
            format.write(&mut text, key, value).map_err(Error::Stdout)?;
        }
        output.bytes(&text)?;
    }
    Ok(())
}
