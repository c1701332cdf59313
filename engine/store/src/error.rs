//! What can go wrong in the store, and what to do about it.

use pontoon_types::codec::DecodeError;
use pontoon_types::{EntryError, GroupId, LogIndex};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// What the system says of a sector that the disk cannot read.
pub(crate) const EIO: i32 = 5;

/// An error of the store or of the state machine on it.
///
/// When a call that writes returns one, it has changed nothing.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system refused an operation.
    #[error("the store at {} could not {operation}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The table's file, if it could not be read; else the store's directory.
        path: PathBuf,
        /// Why it failed.
        source: Arc<io::Error>,
    },
    /// A table or manifest does not hold what was written to it. The groups with rows in it must be
    /// rebuilt from their peers.
    #[error("{} is damaged, found when the store was to {operation}: {source}", path.display())]
    Damaged {
        /// What was tried.
        operation: &'static str,
        /// The table's file; or the store's directory, if it could not be told which of its files it is.
        path: PathBuf,
        /// What the tables' reader says.
        source: Arc<lsm_tree::Error>,
    },
    /// A file that the store cannot be opened without is not what was written.
    #[error("the store's file {} is damaged: {what}", path.display())]
    DamagedFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The store was written by a build whose rows had other names.
    #[error("the store at {} was written by an earlier build, in a format that this one cannot read; dump its rows with that build and load them into a new cluster", path.display())]
    OldFormat {
        /// The store's directory.
        path: PathBuf,
    },
    /// A row of the node's own does not read back.
    #[error("the store's row for {row} does not read back: {source}")]
    DamagedRow {
        /// Which row.
        row: String,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// An entry handed to the state machine was changed since its leader encoded it. Its group must
    /// be quarantined; the others can be applied without it.
    #[error("entry {index} of group {group} was damaged before it was applied: {source}")]
    DamagedEntry {
        /// The entry's group.
        group: GroupId,
        /// Its index.
        index: LogIndex,
        /// What is wrong with it.
        source: EntryError,
    },
    /// An entry had to read a row that cannot be read. Its group must be rebuilt from its peers; the
    /// others can be applied without it.
    #[error("entry {index} of group {group} could not be executed: {source}")]
    Execute {
        /// The entry's group.
        group: GroupId,
        /// Its index.
        index: LogIndex,
        /// Why the row could not be read.
        source: Box<StoreError>,
    },
    /// Memory for writes is full, and the flush that would free some has not finished in time. The
    /// same call may be repeated.
    #[error("the store took no write for {} s: {sealed} memtables wait for the disk (is it full?)", waited.as_secs())]
    Stalled {
        /// How long the call has waited.
        waited: Duration,
        /// How many memtables wait.
        sealed: usize,
    },
    /// A background thread has ended by a bug of its own. Only a restart helps.
    #[error("the store's {thread} thread has died; restart the node")]
    ThreadDied {
        /// Which one.
        thread: &'static str,
    },
    /// No record of a replica of this group is in the store.
    #[error("group {group} has no replica on this node")]
    UnknownGroup {
        /// The group.
        group: GroupId,
    },
    /// A replica of the group is already here, with another record.
    #[error("group {group} already has a replica on this node")]
    ReplicaExists {
        /// The group.
        group: GroupId,
    },
    /// A record that no replica can have.
    #[error("the record of a replica of group {group} is refused: {what}")]
    InvalidRecord {
        /// The record's group.
        group: GroupId,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl StoreError {
    /// The one group that the error is about, if it is about one: others can go on without it.
    #[must_use]
    pub fn group(&self) -> Option<GroupId> {
        match self {
            Self::DamagedEntry { group, .. }
            | Self::Execute { group, .. }
            | Self::UnknownGroup { group }
            | Self::ReplicaExists { group }
            | Self::InvalidRecord { group, .. } => Some(*group),
            Self::Io { .. }
            | Self::Damaged { .. }
            | Self::DamagedFile { .. }
            | Self::OldFormat { .. }
            | Self::DamagedRow { .. }
            | Self::Stalled { .. }
            | Self::ThreadDied { .. } => None,
        }
    }

    /// Whether what was read is not what was written, or cannot be read any more: the disk or the memory is at fault, and
    /// whoever needs it is rebuilt from its peers.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. }
            | Self::DamagedFile { .. }
            | Self::DamagedRow { .. }
            | Self::DamagedEntry { .. } => true,
            Self::Io { source, .. } => source.raw_os_error() == Some(EIO),
            Self::Execute { source, .. } => source.is_damage(),
            _ => false,
        }
    }

    /// Whether the disk is full: nothing is wrong, and the call may succeed once there is room.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull
            || source.kind() == io::ErrorKind::QuotaExceeded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_disk_is_a_full_disk() {
        let io = |kind: io::ErrorKind| StoreError::Io {
            operation: "flush a memtable",
            path: "store".into(),
            source: Arc::new(kind.into()),
        };
        assert!(io(io::ErrorKind::StorageFull).is_disk_full());
        assert!(io(io::ErrorKind::QuotaExceeded).is_disk_full());
        assert!(!io(io::ErrorKind::PermissionDenied).is_disk_full());
        assert!(!StoreError::ThreadDied { thread: "flush" }.is_disk_full());
    }
}
