//! The engine's errors.

use pontoon_store::StoreError;
use pontoon_types::codec::DecodeError;
use pontoon_types::{EntryError, GroupId, LogIndex};
use pontoon_wal::WalError;
use thiserror::Error;

/// Why a frame from a peer could not be read.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The frame is of a newer protocol.
    #[error("frame version {version} is not known")]
    UnknownVersion {
        /// The version byte.
        version: u8,
    },
    /// A message of a kind that this version does not know.
    #[error("message kind {kind} is not known")]
    UnknownKind {
        /// The kind byte.
        kind: u8,
    },
    /// An entry is damaged.
    #[error("an entry in the frame is damaged: {0}")]
    Entry(#[from] EntryError),
    /// An entry whose envelope names another group than the message that brought it.
    #[error("a message of group {group} brought an entry of group {entry}")]
    ForeignEntry {
        /// The message's group.
        group: GroupId,
        /// The entry's group.
        entry: GroupId,
    },
    /// The bytes are not a frame.
    #[error("the frame is malformed: {0}")]
    Decode(#[from] DecodeError),
}

/// Why the engine cannot start, or has to stop.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The log failed.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store holds what the log never held: the directory was put together from two.
    #[error(
        "group {group}: the store has applied up to {applied} but the log ends at {last}; \
         the log and the store of this data directory do not belong together"
    )]
    LogBehindStore {
        /// The group.
        group: GroupId,
        /// What the store has applied.
        applied: LogIndex,
        /// Where the log ends.
        last: LogIndex,
    },
    /// A setting that cannot work.
    #[error("{setting}: {problem}")]
    Config {
        /// The setting.
        setting: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A sync of the log failed while the node ran.
    #[error("{message}")]
    LogFailed {
        /// The log's error, which every waiter has been told.
        message: String,
    },
    /// What was found of a replica cannot be its state.
    #[error("group {group}: {message}")]
    Restore {
        /// The group.
        group: GroupId,
        /// What is wrong.
        message: String,
    },
    /// A thread ended by a bug.
    #[error("the {thread} thread died of a bug; what it said before is in the output above")]
    ThreadDied {
        /// Which one.
        thread: String,
    },
    /// A thread could not be started.
    #[error("cannot start the {thread} thread: {source}")]
    Thread {
        /// Which one.
        thread: String,
        /// Why.
        source: std::io::Error,
    },
}
