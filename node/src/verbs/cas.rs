//! `pontoon cas`: compare and swap.

use crate::cli::{BytesOptions, ClusterOptions};
use crate::error::Error;
use crate::output::{Output, printable};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use clap::Args;
use pontoon_client::CasOutcome;
use serde_json::json;

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
    /// Print the result as JSON; if nothing was swapped, with what is there.
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
    let output = Output::new(args.json);
    let CasOutcome::NotSwapped { actual } = swap else {
        return output.outcome("swapped");
    };
    if args.json {
        output.json(&not_swapped(actual.as_deref()))?;
    }
    Err(Error::NotSwapped {
        actual: match actual {
            Some(value) => format!("the value is {}", printable(&value)),
            None => "there is no such key".to_owned(),
        },
    })
}

/// What is there, with the names that a row has in NDJSON.
fn not_swapped(actual: Option<&[u8]>) -> serde_json::Value {
    const OUTCOME: &str = "not swapped";
    match actual.map(|value| (std::str::from_utf8(value), value)) {
        None => json!({ "outcome": OUTCOME, "actual": null }),
        Some((Ok(text), _)) => json!({ "outcome": OUTCOME, "actual": text }),
        Some((Err(_), bytes)) => {
            json!({ "outcome": OUTCOME, "actual_b64": BASE64_STANDARD.encode(bytes) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_text_or_base64_or_null() {
        assert_eq!(not_swapped(None)["actual"], serde_json::Value::Null);
        assert_eq!(not_swapped(Some(b"hi"))["actual"], "hi");
        assert_eq!(not_swapped(Some(b"\xff\0"))["actual_b64"], "/wA=");
    }
}
