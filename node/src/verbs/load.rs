//! `pontoon load`: the rows of a file.

use crate::cli::ClusterOptions;
use crate::error::Error;
use crate::formats::Format;
use crate::load::{self, Event, Options};
use crate::output::{Output, bytes, count, counted};
use crate::sample;
use clap::{Args, ValueEnum};
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Write the rows of a file, or of standard input.
///
/// A row that is there already gets its new value; of several rows with one key, the last one
/// stays. Rows travel in batches, many at a time, and the load goes on while a node is down. A batch
/// whose outcome is unknown is written again, which is safe, because it holds only puts.
#[derive(Debug, Args)]
#[command(after_help = "\
Formats:
  tsv      key<TAB>value, with \\t, \\n, \\r and \\\\ escaped
  ndjson   {\"key\": \"…\", \"value\": \"…\"} a line; key_b64 and value_b64 for other bytes than UTF-8

Examples:
  pontoon load packages.ndjson --endpoints 127.0.0.1:7001 --certs certs
  pontoon load rows.txt --format tsv --on-error skip
  zcat rows.tsv.gz | pontoon load - --format tsv")]
pub struct LoadArgs {
    /// The file; `-` is standard input.
    pub file: PathBuf,
    /// Its format; by its ending if not given.
    #[arg(long)]
    pub format: Option<Format>,
    /// What to do at a line that is bad or refused.
    #[arg(long, value_enum, default_value_t = OnError::Stop)]
    pub on_error: OnError,
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

/// What to do at a bad line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnError {
    /// Write what stands before it, and stop.
    Stop,
    /// Name it, and go on.
    Skip,
}

/// Bad lines that are named one by one; the rest is counted.
const MAX_NAMED: u64 = 20;

/// Runs the verb.
///
/// # Errors
/// If not all lines were written, unless bad ones were to be skipped.
pub async fn run(mut args: LoadArgs) -> Result<(), Error> {
    let output = Output::new(args.json);
    let is_stdin = args.file.as_os_str() == "-";
    let reader = if is_stdin {
        args.file = "stdin".into();
        sample::open_stdin(args.format)?
    } else {
        sample::open(&args.file, args.format)?
    };
    let client = args.cluster.connect().await?;
    let options = Options {
        skip_errors: args.on_error == OnError::Skip,
        patience: Duration::from_secs(args.patience),
    };

    let began = Instant::now();
    let bar = if is_stdin {
        output.spinner("loading")
    } else {
        let length = std::fs::metadata(&args.file).map_or(0, |file| file.len());
        output.bar(length, "B", "loading")
    };
    let (mut rows, mut named) = (0, 0);
    let summary = load::load(&client, reader, options, |event| match event {
        Event::Read(position) => bar.set_position(position),
        Event::Written(more) => {
            rows += more;
            bar.set_message(counted(rows, "row"));
        }
        Event::Skipped(problem) => {
            named += 1;
            if named <= MAX_NAMED {
                bar.suspend(|| eprintln_quietly(&format!("{}: {problem}", args.file.display())));
            }
        }
    })
    .await;
    bar.finish_and_clear();
    if named > MAX_NAMED {
        let more = counted(named - MAX_NAMED, "more line");
        eprintln_quietly(&format!("… and {more}"));
    }

    let seconds = began.elapsed().as_secs_f64();
    let rows_per_s = summary.rows as f64 / seconds.max(1e-9);
    if args.json {
        let object = json!({
            "rows": summary.rows,
            "bytes": summary.bytes,
            "seconds": seconds,
            "rows_per_s": rows_per_s,
            "bad_lines": summary.bad_lines,
            "repeated_batches": summary.repeated,
            // Whether every row of the file is there now; lines that were passed over are not.
            "complete": summary.stopped.is_none() && summary.bad_lines == 0,
        });
        output.line(&object.to_string())?;
    } else {
        output.line(&format!(
            "{} ({}) in {seconds:.1} s, {} rows/s; {}; {} of unknown outcome written again",
            counted(summary.rows, "row"),
            bytes(summary.bytes as f64),
            count(rows_per_s),
            counted(summary.bad_lines, "bad line"),
            counted(summary.repeated, "batch"),
        ))?;
    }
    summary
        .stopped
        .map_or(Ok(()), |stopped| Err(stopped.about(&args.file)))
}

/// A line on stderr, which may be closed.
fn eprintln_quietly(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{text}");
}
