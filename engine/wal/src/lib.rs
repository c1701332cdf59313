//! The shared write-ahead log of a node: one log for all its Raft groups.
#![deny(missing_docs)]

mod batch;
mod config;
mod error;
mod file;
mod format;
mod index;
pub mod inspect;
mod log;
mod lsn;
mod reader;
mod recovery;
mod space;
mod stats;
mod thread;

pub use batch::{BatchBuilder, Record, SealedBatch};
pub use config::{LogIdentity, WalConfig};
pub use error::{Operation, WalError};
pub use file::{Directory, FsDirectory, LogFile, MappedFile, MemoryDisk, MemoryFile};
pub use format::record::RecordKind;
pub use log::Log;
pub use lsn::Lsn;
pub use reader::LogReader;
pub use recovery::{Damage, Recovered, RecoveredGroup, RecoveryReport};
pub use stats::{Pressure, WalStats};
pub use thread::{DurabilityListener, Ticket, Wal};
