//! The record of forced recoveries in a data directory: `recover.log`, a JSON object a line, only ever appended to.
//!
//! A run is noted before anything is changed and again when all is done. Whether a group of the first note was
//! recovered is seen from its replica's id, which the note has and nobody else ever gets.

use super::plan::Standing;
use crate::backup::stamp;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::SystemTime;

/// The file's name.
pub const FILE: &str = "recover.log";

/// A line of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuditEntry {
    /// When: `20261127T065501Z`.
    pub at: String,
    /// What is noted.
    pub event: Event,
    /// The version of the binary.
    pub version: String,
    /// The cluster's id, 16 hex digits.
    pub cluster: String,
    /// The node whose replicas were made the only voters.
    pub node: u64,
    /// The nodes that were declared lost.
    pub lost: Vec<u64>,
    /// The groups, as they were, and their replica's new id.
    pub groups: Vec<Standing>,
}

/// What is noted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// These groups are going to be recovered.
    #[default]
    Planned,
    /// All of them are.
    Done,
}

impl AuditEntry {
    /// An entry of this moment and this binary that says nothing else.
    #[must_use]
    pub fn now() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            at: stamp(now.map(|since| since.as_secs()).unwrap_or_default()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Self::default()
        }
    }
}

/// Appends an entry; it is durable when this returns.
///
/// # Errors
/// If the file cannot be written.
pub fn append(data_dir: &Path, entry: &AuditEntry) -> Result<(), Error> {
    let path = data_dir.join(FILE);
    append_line(&path, entry).map_err(Error::file("write", &path))?;
    let synced = File::open(data_dir).and_then(|directory| directory.sync_all());
    synced.map_err(Error::file("sync", data_dir))
}

fn append_line(path: &Path, entry: &AuditEntry) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(path)?;
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    // A line that a crash cut short stays what it is.
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            line.insert(0, b'\n');
        }
    }
    file.write_all(&line)?;
    file.sync_all()
}

/// All entries, oldest first; none if there is no file. Lines that cannot be read are passed over with a warning.
///
/// # Errors
/// If the file is there and cannot be read.
pub fn read(data_dir: &Path) -> io::Result<Vec<AuditEntry>> {
    let path = data_dir.join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    let entries = lines.filter(|(_, line)| !line.is_empty());
    let entries = entries.filter_map(|(at, line)| match serde_json::from_slice(line) {
        Ok(entry) => Some(entry),
        Err(error) => {
            let line = at + 1;
            tracing::warn!(path = %path.display(), line, %error, "a line cannot be read");
            None
        }
    });
    Ok(entries.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_read_back_behind_a_line_that_was_cut_short() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), []);
        let entry = AuditEntry {
            node: 1,
            lost: vec![2, 3],
            groups: vec![Standing {
                group: 4,
                new_replica: 1004,
                ..Standing::default()
            }],
            ..AuditEntry::now()
        };
        append(dir.path(), &entry).unwrap();
        let path = dir.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"at\": \"2026");
        fs::write(&path, bytes).unwrap();
        let done = AuditEntry {
            event: Event::Done,
            ..entry.clone()
        };
        append(dir.path(), &done).unwrap();
        assert_eq!(read(dir.path()).unwrap(), [entry, done]);
    }
}
