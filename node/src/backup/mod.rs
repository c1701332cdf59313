//! Backups: copies of all shards in a directory, taken while they serve, and brought back to any cluster.
//!
//! ```text
//! DIR/chunks/ab/abcd…      rows, behind each other in key order; named by the SHA-256 of what is in it
//! DIR/backups/ID.json      which chunks a backup is made of, by shard; written last, by rename
//! ```
//!
//! A chunk is never changed. Where one ends follows from the rows alone, not from when or how it was read, so a later backup
//! finds most of its chunks there already and writes only the others. `ID` is the time and a part of the SHA-256 of
//! the manifest: nothing in a backup is taken for true that its name does not prove.
//!
//! Each shard is read from a state that a mark has pinned, so it is consistent at one applied index, and what was
//! acknowledged before the backup began is in it. Other shards are of other moments.
//!
//! - [`take`]: from a cluster into a directory. [`restore`]: back.
//! - `chunks`: cutting, encoding, the files. [`manifest`]: what a backup is made of.

mod chunks;
mod error;
pub mod manifest;
pub mod restore;
pub mod take;

pub use error::BackupError;
pub(crate) use manifest::stamp;
