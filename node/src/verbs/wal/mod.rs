//! `pontoon wal`: examine the log of a stopped node.

mod dump;

use crate::error::Error;
use crate::output::{Output, bytes, count, counted, table};
use clap::{Args, Subcommand};
use pontoon_wal::inspect::{self, Report};
use pontoon_wal::{Damage, WalError};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Examine the log of a stopped node. Nothing is changed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pontoon wal verify n1
  pontoon wal stat n1 --json
  pontoon wal dump n1 --group 5 --limit 20")]
pub struct WalArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with the log.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Read every record and check it. Exits with 1 if anything is damaged.
    Verify(LogArgs),
    /// Show segments, records and groups. Exits with 1 if anything is damaged.
    Stat(LogArgs),
    /// Show the records themselves, in the order of the log. Exits with 1 if anything is damaged.
    Dump(dump::DumpArgs),
}

/// Which log.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// The node's data directory, or its log directory.
    pub dir: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb.
///
/// # Errors
/// If there is no log, its node is running, or something in it is damaged.
pub fn run(args: &WalArgs) -> Result<(), Error> {
    let (log, verify) = match &args.action {
        Action::Verify(log) => (log, true),
        Action::Stat(log) => (log, false),
        Action::Dump(args) => return dump::run(args),
    };
    let dir = log_directory(&log.dir);
    let report = if verify {
        inspect::verify(&dir)
    } else {
        inspect::stat(&dir)
    }
    .map_err(failed(&dir))?;

    let output = Output::new(log.json);
    if log.json {
        output.line(&to_json(&report).to_string())?;
    } else if verify {
        output.line(&format!(
            "{}, {}, {} of records checked",
            counted(report.segments.len() as u64, "segment"),
            counted(report.batches, "batch"),
            bytes(report.bytes as f64),
        ))?;
        if let Some(text) = torn_tail(&report) {
            output.line(&text)?;
        }
    } else {
        output.line(&stat_text(&report))?;
    }
    check(&dir, &report)
}

fn failed(dir: &Path) -> impl FnOnce(WalError) -> Error {
    let path = dir.to_owned();
    move |source| Error::Log { path, source }
}

fn torn_tail(report: &Report) -> Option<String> {
    (report.torn_bytes > 0).then(|| {
        format!(
            "a torn tail of {} bytes, never acknowledged; the next start cuts it",
            report.torn_bytes
        )
    })
}

/// An error that names the damage, if there is any.
fn check(dir: &Path, report: &Report) -> Result<(), Error> {
    if report.is_sound() {
        return Ok(());
    }
    let mut affected = counted(report.damaged_groups.len() as u64, "affected group");
    let groups = report.damaged_groups.iter().map(ToString::to_string);
    let groups = some_of(groups.collect(), ", ");
    if !groups.is_empty() {
        affected += &format!(" ({groups})");
    }
    // Whose records stood there is told only by what is left of them.
    if report.damage.iter().any(|damage| damage.group.is_none()) {
        affected += " known, others may be";
    }
    Err(Error::Unhealthy(format!(
        "the log in {} is damaged, {affected}: {}",
        dir.display(),
        some_of(places_of(report), "; ")
    )))
}

/// The first three, and how many there are beside them.
fn some_of(mut names: Vec<String>, between: &str) -> String {
    const NAMED: usize = 3;
    if let Some(more @ 1..) = names.len().checked_sub(NAMED) {
        names.truncate(NAMED);
        names.push(format!("and {more} more"));
    }
    names.join(between)
}

/// Segments that are missing, and what cannot be read in those that are there.
fn places_of(report: &Report) -> Vec<String> {
    let missing = report.missing_segments.iter();
    let missing = missing.map(|file| format!("{file} is missing"));
    missing
        .chain(report.damage_within().map(place_of))
        .collect()
}

/// A node keeps its log in `log` below its data directory.
fn log_directory(given: &Path) -> PathBuf {
    let below = given.join("log");
    if below.is_dir() {
        below
    } else {
        given.to_owned()
    }
}

fn place_of(damage: &Damage) -> String {
    let group = match damage.group {
        Some(group) => format!(", group {group}"),
        None => String::new(),
    };
    format!(
        "{} from {} to {}{group}",
        damage.file, damage.start, damage.end
    )
}

fn stat_text(report: &Report) -> String {
    let mut lines = Vec::new();
    if let Some(identity) = &report.identity {
        lines.push(format!(
            "node {} of cluster {}",
            identity.node, identity.cluster
        ));
    }
    let mut rows = Vec::new();
    for segment in &report.segments {
        rows.push(vec![
            segment.file.clone(),
            bytes(segment.used_bytes as f64),
            bytes(segment.bytes as f64),
            if segment.needed { "needed" } else { "free" }.to_owned(),
        ]);
    }
    lines.push(table(&["segment", "used", "size", "state"], rows));
    let row = |what: String, number: u64| vec![what, count(number as f64)];
    let mut rows = vec![row("batches".to_owned(), report.batches)];
    for (kind, records) in &report.records {
        rows.push(row(format!("records: {}", kind.name()), *records));
    }
    let entries = report.groups.values().map(|group| group.entries).sum();
    rows.push(row("groups".to_owned(), report.groups.len() as u64));
    rows.push(row("entries held".to_owned(), entries));
    lines.push(String::new());
    lines.push(table(&[], rows));
    lines.push(format!(
        "durable up to {}, ends at {}",
        report.durable, report.end
    ));
    lines.join("\n")
}

fn to_json(report: &Report) -> serde_json::Value {
    let segments = report.segments.iter().map(|segment| {
        json!({
            "file": segment.file,
            "generation": segment.generation,
            "bytes": segment.bytes,
            "used_bytes": segment.used_bytes,
            "needed": segment.needed,
        })
    });
    let groups = report.groups.iter().map(|(id, group)| {
        json!({
            "group": id.0,
            "first": group.first.0,
            "last": group.last.0,
            "term": group.term.0,
            "entries": group.entries,
            "installed": group.installed.map(|index| index.0),
            "removed_replica": group.removed.map(|replica| replica.0),
            "damaged": report.damaged_groups.contains(id),
        })
    });
    let records = report.records.iter();
    let damage = places_of(report);
    json!({
        "cluster": report.identity.as_ref().map(|identity| identity.cluster.to_string()),
        "node": report.identity.as_ref().map(|identity| identity.node.0),
        "sound": report.is_sound(),
        "segments": segments.collect::<Vec<_>>(),
        "batches": report.batches,
        "records": records
            .map(|(kind, count)| (kind.name().to_owned(), json!(count)))
            .collect::<serde_json::Map<_, _>>(),
        "groups": groups.collect::<Vec<_>>(),
        "bytes": report.bytes,
        "live_bytes": report.live_bytes,
        "torn_bytes": report.torn_bytes,
        "damage": damage,
    })
}
