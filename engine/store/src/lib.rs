//! The ordered state of a node: multi-version, and without a log of its own.
//!
//! The Raft log is the only log. What this crate holds is what the groups' committed entries have
//! made of it so far, in two layers:
//!
//! - A [`Store`]: an ordered map of bytes that takes a batch of rows together with the applied index
//!   of every group in it, and keeps both together, in memory and on disk. A crash loses what no
//!   flush had finished with, but never a part of a batch; so after opening, [`Store::applied`] says
//!   exactly which entry of each group comes next, and replaying the log from there gives the state
//!   that was lost. [`Durability`] says, from any thread, below which index a group's log may be cut.
//!   [`LsmStore`] is on disk, [`ModelStore`] in memory for the simulator and for tests.
//! - A [`Machine`]: executes the commands of many groups in one batch, keeps the durable records of the replicas on this
//!   node, splits and merges them without moving rows, and takes and installs snapshots of them. What a command does is a [`StateMachine`]'s to say: that of
//!   [`KvMachine`] executes [`Command`](pontoon_types::Command)s. [`KvReader`] reads a pinned version.
//!
//! # How rows are named
//!
//! `tablet (1 to 9 bytes) | space (1 byte) | key`, see [`keys`]. Tablet 0 is the node's own and has the
//! applied indexes, replica records and named rows; every other tablet has users' rows. A replica has [`Pieces`] of
//! tablets: normally one, all of it.
//!
//! # Threads
//!
//! A store and the machine on it belong to one apply thread. Views, readers and [`Durability`] may go
//! anywhere. [`LsmStore`] flushes and compacts on threads of its own; [`ModelStore`] has none.
//!
//! # What is left to others
//!
//! Which entries are committed (`pontoon-raft`), where they come from after a restart (`pontoon-wal`),
//! and who may have the directory (the node's lock file).

mod batch;
mod durability;
mod error;
pub mod keys;
mod kv;
mod lsm;
mod model;
mod pieces;
mod store;

pub use batch::WriteBatch;
pub use durability::{AppliedIndexes, Durability};
pub use error::StoreError;
pub use kv::{
    KeyValue, KvMachine, KvReader, KvSnapshot, Machine, Outcome, ReadError, ReplicaRecord,
    ScanLimits, ScanPage, Stager, State, StateHash, StateMachine,
};
pub use lsm::{
    Compression, DamagedTable, LsmMonitor, LsmSettings, LsmStager, LsmStats, LsmStore, LsmView,
    ScrubBudget, ScrubCounters, ScrubSchedule, Shed,
};
pub use model::{ModelStager, ModelStore, ModelView};
pub use pieces::{Piece, Pieces};
pub use store::{Row, Store, View};
