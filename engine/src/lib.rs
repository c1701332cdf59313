//! Runs many Raft groups in one process.
//!
//! A node has a few **workers**, and each group belongs to one of them. A worker turns **cycles**: it
//! takes in what has come, steps the groups that were touched, and hands out one batch for the log, one
//! frame per peer and one batch to apply, whatever the number of groups behind them. So the cost per
//! write falls as the load rises, and hardly depends on how many groups share it.
//!
//! - [`worker`]: the cycle. Pure: no thread, clock, socket or file. The simulator turns it, too.
//! - [`apply`]: executes what is committed across groups, and answers. Pure as well.
//! - [`frame`]: what nodes say to each other, with entries in the bytes of the leader that made them.
//! - [`held`]: states pinned at one index on all replicas, to be compared and copied.
//! - [`runtime`]: threads, mailboxes, the clock; the only part that touches the machine.
//!
//! The engine knows nothing of QUIC, certificates, shard maps or clients. Frames leave through the
//! [`Host`], requests come in with a [`Waiter`] that is answered exactly once.

pub mod apply;
mod config;
mod error;
pub mod frame;
pub mod held;
mod reply;
mod restore;
pub mod runtime;
pub mod snapshot;
mod status;
pub mod worker;

pub use config::EngineConfig;
pub use error::{EngineError, FrameError};
pub use reply::{Reply, Waiter};
pub use restore::{redo, restore};
pub use runtime::{Engine, Host, Opened, ReplicaSurvey};
pub use status::{GroupStatus, LostReplicas, MemberStatus, RoleName};
