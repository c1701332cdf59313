//! What can be wrong with a backup.

use pontoon_client::ClientError;
use std::path::PathBuf;
use thiserror::Error;

/// Why a backup could not be taken or brought back.
#[derive(Debug, Error)]
pub enum BackupError {
    /// A file is not what its name says.
    #[error(
        "{} is damaged: {what} (put the file back from another copy of this directory, or \
         choose another backup)",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In what way.
        what: &'static str,
    },
    /// There is no backup in the directory.
    #[error("there is no backup in {}", dir.display())]
    None {
        /// The directory.
        dir: PathBuf,
    },
    /// There is no such backup.
    #[error("there is no backup {id} in {}; there are: {known}", dir.display())]
    Unknown {
        /// The id that was asked for.
        id: String,
        /// The directory.
        dir: PathBuf,
        /// Those that are there.
        known: String,
    },
    /// No replica of a shard could be read.
    #[error("shard {shard} could not be read, and no backup was made: {source}")]
    Shard {
        /// The shard.
        shard: u64,
        /// What the last replica said.
        source: Box<ClientError>,
    },
    /// The shards are others than when the backup began.
    #[error(
        "shards were split, merged or moved in the key space meanwhile, and no backup was made; take it again"
    )]
    ShardsChanged,
    /// The cluster has rows.
    #[error(
        "the cluster is not empty, and nothing was written (--force writes the rows of the backup over what is there)"
    )]
    NotEmpty,
    /// Rows could not be written.
    #[error("rows could not be written, and the cluster holds a part of the backup: {reason}")]
    Write {
        /// Why.
        reason: String,
    },
    /// What is in the cluster is not what is in the backup.
    #[error(
        "the cluster does not hold what the backup does (does somebody write to it?); first: key {key} {what}"
    )]
    Differs {
        /// The first key, printable.
        key: String,
        /// In what way.
        what: &'static str,
    },
}
