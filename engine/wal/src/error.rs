//! Everything that can go wrong with a log, with the file and what to do about it.

use crate::{LogIdentity, Lsn};
use pontoon_types::{GroupId, LogIndex};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

/// What was being done to a file when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum Operation {
    #[error("create")]
    Create,
    #[error("open")]
    Open,
    #[error("list")]
    List,
    #[error("lock")]
    Lock,
    #[error("rename")]
    Rename,
    #[error("remove")]
    Remove,
    #[error("allocate")]
    Allocate,
    #[error("map")]
    Map,
    #[error("read")]
    Read,
    #[error("write")]
    Write,
    #[error("sync")]
    Sync,
}

/// Why the log could not do something. Cheap to clone, because every waiter gets it.
#[derive(Clone, Debug, Error)]
pub enum WalError {
    /// A setting is out of its bounds.
    #[error("setting {setting} is {value}, but must be {allowed}")]
    Config {
        /// Its name.
        setting: &'static str,
        /// What it was set to.
        value: u64,
        /// What it may be.
        allowed: &'static str,
    },
    /// A file operation failed.
    #[error("cannot {operation} {file}: {source}")]
    Io {
        /// What was tried.
        operation: Operation,
        /// The file's name in the log's directory, or the directory.
        file: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The disk has no room for another segment. Nothing was written; it can be tried again.
    #[error("no room on the disk for segment {file}; free space, the log goes on by itself")]
    NoSpace {
        /// The segment that could not be made.
        file: String,
    },
    /// Another process has the directory.
    #[error("{} is in use by {}", directory.display(), Holder(*holder))]
    Locked {
        /// The log's directory.
        directory: PathBuf,
        /// The process that holds it, if it left its id.
        holder: Option<u32>,
    },
    /// A file system whose pages can change or vanish under the map.
    #[error("{} is on a network file system (type {kind:#x}); use a local disk", directory.display())]
    NetworkFileSystem {
        /// The log's directory.
        directory: PathBuf,
        /// The type that statfs gave.
        kind: u64,
    },
    /// There is no log in the directory.
    #[error("{} holds no log", directory.display())]
    NotALog {
        /// The directory.
        directory: PathBuf,
    },
    /// A file belongs to another node's log.
    #[error(
        "{file} belongs to node {} of cluster {}, not to node {} of cluster {}",
        found.node, found.cluster, expected.node, expected.cluster
    )]
    Foreign {
        /// The file's name.
        file: String,
        /// Whose it is.
        found: LogIdentity,
        /// Whose log was opened.
        expected: LogIdentity,
    },
    /// A file was written by a newer version.
    #[error("{file} has format version {version}, this program knows up to {known}")]
    UnknownVersion {
        /// The file's name.
        file: String,
        /// Its version.
        version: u32,
        /// The newest version known here.
        known: u32,
    },
    /// A whole, undamaged record of a kind that this version cannot interpret. Going on without it
    /// could lose what it says.
    #[error(
        "{file} holds at offset {offset} a record of kind {kind}, which this program cannot interpret; use a newer one"
    )]
    UnsupportedRecord {
        /// The file's name.
        file: String,
        /// Where the record starts.
        offset: u32,
        /// Its kind.
        kind: u8,
    },
    /// Bytes that were durable cannot be read back.
    #[error(
        "{file} is damaged at offset {offset} (groups {groups:?}); these replicas must be rebuilt from their peers"
    )]
    Damaged {
        /// The file's name.
        file: String,
        /// Where the damage starts.
        offset: u32,
        /// The groups that it hit; empty if that cannot be told.
        groups: Vec<GroupId>,
    },
    /// The entries asked for were compacted.
    #[error("group {group}: entries below {first} are compacted")]
    Compacted {
        /// The group.
        group: GroupId,
        /// Its first index.
        first: LogIndex,
    },
    /// The entries asked for are not in the log, or still being written.
    #[error("group {group}: the log ends at {last}")]
    Unavailable {
        /// The group.
        group: GroupId,
        /// Behind this there is nothing to read.
        last: LogIndex,
    },
    /// A batch had an entry that does not follow its group's log: a bug of the caller. The log stops.
    #[error("group {group}: entry {index} does not follow a log of {first}..={last}")]
    OutOfOrder {
        /// The group.
        group: GroupId,
        /// The entry's index.
        index: LogIndex,
        /// The first index that the log holds or could hold.
        first: LogIndex,
        /// The last index of the log.
        last: LogIndex,
    },
    /// A batch of more bytes than any segment can hold. Nothing was written.
    #[error("a batch of {bytes} bytes is larger than any segment")]
    BatchTooLarge {
        /// Its size.
        bytes: u64,
    },
    /// A write or sync has failed before. Nothing that came after can be trusted to be on the disk,
    /// so nothing is accepted; the process must stop.
    #[error("the log is stopped since position {durable}: {cause}")]
    Poisoned {
        /// The position up to which everything is durable.
        durable: Lsn,
        /// The failure.
        #[source]
        cause: Arc<WalError>,
    },
    /// The log's thread ended by a panic: a bug. Nothing that was not announced is durable.
    #[error("the log's thread has died of a bug; the process must stop")]
    ThreadDied,
    /// The log was shut down.
    #[error("the log is shut down")]
    ShutDown,
    /// More segments than positions have room for, after 2^32 of them.
    #[error("segment numbers have run out")]
    OutOfSegments,
}

impl WalError {
    /// Whether what failed may succeed later by itself: there was no room, or too much was open.
    pub(crate) fn may_pass(&self) -> bool {
        use rustix::io::Errno;
        match self {
            Self::NoSpace { .. } => true,
            Self::Io { source, .. } => {
                let passing = [
                    Errno::NOSPC,
                    Errno::DQUOT,
                    Errno::NOMEM,
                    Errno::MFILE,
                    Errno::NFILE,
                ];
                let errno = source.raw_os_error();
                passing.iter().any(|one| errno == Some(one.raw_os_error()))
            }
            _ => false,
        }
    }

    pub(crate) fn io(operation: Operation, file: &str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| {
            if matches!(operation, Operation::Allocate | Operation::Create)
                && source.kind() == io::ErrorKind::StorageFull
            {
                return Self::NoSpace { file };
            }
            Self::Io {
                operation,
                file,
                source: Arc::new(source),
            }
        }
    }
}

struct Holder(Option<u32>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}
