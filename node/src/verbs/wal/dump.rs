//! `pontoon wal dump`: the records of a log, one after the other.

use crate::error::Error;
use crate::output::Output;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use clap::Args;
use pontoon_types::{Entry, EntryKind, GroupId, HardState, LogPosition};
use pontoon_wal::inspect::{self, Content, LoggedRecord};
use pontoon_wal::{InstalledSnapshot, Lsn};
use serde_json::{Value, json};
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Show the records of a stopped node's log, oldest first. Nothing is changed.
///
/// A line is a record: its position (segment and offset in its file), its group, what it is and what it says.
/// Shown is what the next start would believe: neither a torn tail, which was never acknowledged, nor what
/// damage has taken; a record whose header alone can be read is shown as unreadable. Damage is named at the
/// end, on stderr, and makes the exit status 1; after a --limit that ended the output it was not looked for.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pontoon wal dump n1 | less
  pontoon wal dump n1 --group 5 --limit 20
  pontoon wal dump n1 --from 3:0x1040
  pontoon wal dump n1 --json --payloads | jq 'select(.kind == \"entry\")'")]
pub struct DumpArgs {
    /// The node's data directory, or its log directory.
    pub dir: PathBuf,
    /// Only records of this group; those of the log as a whole have group 0.
    #[arg(long, value_name = "ID")]
    pub group: Option<u64>,
    /// Only records from this position on: SEGMENT, or SEGMENT:OFFSET as the output and `wal verify` name it.
    #[arg(long, value_name = "POSITION")]
    pub from: Option<Lsn>,
    /// At most so many records.
    #[arg(long, value_name = "RECORDS")]
    pub limit: Option<u64>,
    /// Print each record as a JSON object on a line of its own.
    #[arg(long)]
    pub json: bool,
    /// With --json, also print payloads, as base64.
    #[arg(long, requires = "json")]
    pub payloads: bool,
}

pub(super) fn run(args: &DumpArgs) -> Result<(), Error> {
    let dir = super::log_directory(&args.dir);
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut written = Ok(());
    let report = inspect::dump(&dir, |record| {
        // Only when one more would be shown is it known that the limit has left something out.
        if !args.wants(record) {
            return ControlFlow::Continue(());
        }
        if left == 0 {
            return ControlFlow::Break(());
        }
        left -= 1;
        written = if args.json {
            writeln!(out, "{}", to_json(record, args.payloads))
        } else {
            writeln!(out, "{}", to_text(record))
        };
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })
    .map_err(super::failed(&dir))?;
    written.and_then(|()| out.flush()).map_err(Error::Stdout)?;
    let Some(report) = report else {
        return Ok(());
    };
    if let Some(text) = super::torn_tail(&report) {
        Output::new(args.json).note(&text);
    }
    super::check(&dir, &report)
}

impl DumpArgs {
    fn wants(&self, record: &LoggedRecord) -> bool {
        self.group
            .is_none_or(|group| record.group == GroupId(group))
            && self.from.is_none_or(|from| record.at >= from)
    }
}

fn to_text(record: &LoggedRecord) -> String {
    let group = match record.content {
        Some(Content::Segments(_)) => "-".to_owned(),
        _ => record.group.to_string(),
    };
    let says = match &record.content {
        None => "unreadable".to_owned(),
        Some(content) => content_text(content),
    };
    let at = record.at.to_string();
    let kind = record.kind.name();
    format!("{at:<14} group {group:<6} {kind:<21} {says}")
}

fn content_text(content: &Content) -> String {
    match content {
        Content::Entry(entry) => format!(
            "{} {}, {} bytes",
            position_text(entry.position()),
            entry_kind(entry),
            entry.payload().len()
        ),
        Content::HardState(state) => state_text(state),
        Content::Compact {
            compacted, last, ..
        } => extent_text(*compacted, *last),
        Content::Checkpoint {
            hard_state,
            compacted,
            last,
            damaged,
            removed,
            installed,
        } => {
            let mut text = format!(
                "{}, {}",
                state_text(hard_state),
                extent_text(*compacted, *last)
            );
            if *damaged {
                text += ", damaged";
            }
            if let Some(replica) = removed {
                text += &format!(", replica {replica} is gone");
            }
            if let Some(snapshot) = installed {
                text += &format!(", snapshot {}", snapshot_text(snapshot));
            }
            text
        }
        Content::SnapshotInstall(snapshot) => snapshot_text(snapshot),
        Content::Tombstone(replica) => format!("replica {replica} is gone"),
        Content::Segments(generations) => format!("{generations:?}"),
    }
}

fn position_text(position: LogPosition) -> String {
    format!("term {} index {}", position.term, position.index)
}

fn extent_text(compacted: LogPosition, last: LogPosition) -> String {
    format!(
        "compacted up to {}, last {}",
        position_text(compacted),
        position_text(last)
    )
}

fn state_text(state: &HardState) -> String {
    let vote = match state.vote {
        Some(replica) => format!("vote {replica}"),
        None => "no vote".to_owned(),
    };
    format!("term {}, {vote}, commit {}", state.term, state.commit)
}

fn snapshot_text(snapshot: &InstalledSnapshot) -> String {
    let bytes = snapshot.payload.len();
    format!("{}, {bytes} bytes", position_text(snapshot.last))
}

fn entry_kind(entry: &Entry) -> &'static str {
    match entry.kind() {
        EntryKind::Empty => "empty",
        EntryKind::Command => "command",
        EntryKind::ConfChange => "conf change",
        EntryKind::Mark => "mark",
    }
}

fn to_json(record: &LoggedRecord, payloads: bool) -> Value {
    let mut object = json!({
        "position": record.at.to_string(),
        "segment": record.at.generation(),
        "offset": record.at.offset(),
        "batch": record.batch.to_string(),
        "bytes": record.bytes,
        "group": record.group.0,
        "kind": record.kind.name(),
        "readable": record.content.is_some(),
    });
    if let (Some(content), Some(object)) = (&record.content, object.as_object_mut()) {
        let fields = content_json(content, payloads);
        object.extend(fields.as_object().cloned().unwrap_or_default());
    }
    object
}

fn content_json(content: &Content, payloads: bool) -> Value {
    match content {
        Content::Entry(entry) => with_payload(
            json!({
                "term": entry.term().0,
                "index": entry.index().0,
                "entry_kind": entry_kind(entry),
                "payload_bytes": entry.payload().len(),
            }),
            payloads.then(|| entry.payload()),
        ),
        Content::HardState(state) => json!({ "hard_state": state_json(state) }),
        Content::Compact {
            compacted,
            last,
            keeps_installed,
        } => json!({
            "compacted": position_json(*compacted),
            "last": position_json(*last),
            "keeps_installed": keeps_installed,
        }),
        Content::Checkpoint {
            hard_state,
            compacted,
            last,
            damaged,
            removed,
            installed,
        } => json!({
            "hard_state": state_json(hard_state),
            "compacted": position_json(*compacted),
            "last": position_json(*last),
            "damaged": damaged,
            "removed_replica": removed.map(|replica| replica.0),
            "installed": installed.as_ref().map(|snapshot| snapshot_json(snapshot, payloads)),
        }),
        Content::SnapshotInstall(snapshot) => {
            json!({ "installed": snapshot_json(snapshot, payloads) })
        }
        Content::Tombstone(replica) => json!({ "removed_replica": replica.0 }),
        Content::Segments(generations) => json!({ "segments": generations }),
    }
}

fn state_json(state: &HardState) -> Value {
    json!({
        "term": state.term.0,
        "vote": state.vote.map(|replica| replica.0),
        "commit": state.commit.0,
    })
}

fn position_json(position: LogPosition) -> Value {
    json!({ "term": position.term.0, "index": position.index.0 })
}

fn snapshot_json(snapshot: &InstalledSnapshot, payloads: bool) -> Value {
    with_payload(
        json!({
            "last": position_json(snapshot.last),
            "payload_bytes": snapshot.payload.len(),
        }),
        payloads.then_some(&snapshot.payload[..]),
    )
}

fn with_payload(mut object: Value, payload: Option<&[u8]>) -> Value {
    if let Some(payload) = payload {
        object["payload"] = BASE64_STANDARD.encode(payload).into();
    }
    object
}
