//! The shared write-ahead log of a node: one log, and one sync, for all its Raft groups.
//!
//! A worker gathers what one cycle produced for all its groups in a [`BatchBuilder`], seals it and
//! [submits](Wal::submit) it with a [`Ticket`]. The log's thread takes every batch that waits, copies their
//! records into a mapped segment, syncs once and tells the [`DurabilityListener`] which tickets are
//! durable. Who would rather wait for a batch [appends](Wal::append) it and gets something to wait for, in a thread or
//! in async code. Entries are read back by any thread ([`Wal::read`]), the recent ones in place.
//!
//! `examples/append_and_read.rs` is all of that in thirty lines.
//!
//! # What it promises
//!
//! - An announced ticket survives a power cut, whole (in [`SyncMode::Always`]); a batch that was not announced may survive,
//!   whole, or not. Nothing that was never submitted appears.
//! - What was durable and cannot be read is reported with its place and the groups that it hit, and
//!   only those are [quarantined](Recovered::is_quarantined). It is never taken for the end of the log.
//! - The same holds while it runs, if somebody [scrubs](LogScrubber) it: then a damaged segment [goes](Wal::condemn), with all
//!   that can be read of it written again.
//! - After a failed sync nothing is accepted and nothing is tried again; every waiter is told. One that does not
//!   return is [reported](DurabilityListener::hung).
//! - A full disk is found when a segment is prepared, one ahead, and reported as [`Pressure::Full`]. It is
//!   never a signal in the middle of a write, and passes by itself.
//! - A log belongs to one node and one process: the segments name the node, a lock file keeps the
//!   others out.
//!
//! # How it is made
//!
//! [`Log`] is the core: one owner, no threads, no clock, over any [`Directory`]. The simulator drives it
//! on a [`MemoryDisk`], which loses and tears what was not synced; [`Wal`] puts threads around the same
//! code on a [`FsDirectory`] with mapped files. `format` holds the bytes, which `docs/wal-format.md`
//! describes one by one; `index` where every entry is; `space` the coming and going of segments;
//! `recovery` the reading back; `scrub` the same of a log that runs; [`inspect`] the same for people, on a stopped node.
//!
//! It knows nothing of Raft beyond this: an entry cuts its group's log from its index on, a compaction
//! forgets what is below, a hard state replaces the one before, an installed snapshot replaces the log, and a
//! tombstone ends everything but its own memory.
#![deny(missing_docs)]

mod batch;
mod config;
mod error;
mod file;
mod format;
mod gather;
mod index;
pub mod inspect;
mod log;
mod lsn;
mod queue;
mod quota;
mod reader;
mod recovery;
mod scrub;
mod space;
mod stats;
mod thread;

pub use batch::{BatchBuilder, Record, SealedBatch};
pub use config::{LogIdentity, SyncMode, WalConfig};
pub use error::{Operation, WalError};
pub use file::{Directory, FsDirectory, LogFile, MappedFile, MemoryDisk, MemoryFile};
pub use format::record::RecordKind;
pub use format::state::{InstalledSnapshot, MAX_INSTALL_BYTES};
pub use log::Log;
pub use lsn::{Lsn, LsnError};
pub use queue::LogQueue;
pub use quota::OverQuota;
pub use reader::LogReader;
pub use recovery::{Damage, Recovered, RecoveredGroup, RecoveryReport};
pub use scrub::{LogDamage, LogScrubCounters, LogScrubber, ScrubStep};
pub use stats::{LogWaits, Pressure, WalStats};
pub use thread::{AwaitDurable, DurabilityListener, Durable, Ticket, Wal};
