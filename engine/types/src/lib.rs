//! The words that all of Pontoon shares.
//!
//! This crate owns the ids, terms and indexes, the state that a Raft replica must not forget, the
//! **entry envelope** and the **command**. It decides nothing and does no I/O; it is `no_std` with
//! `alloc`, so that the crates above it cannot reach for a clock, a file or a random map through it.
//!
//! Three encodings are fixed here, because bytes written once are read in many places:
//!
//! - [`Entry`]: encoded and checksummed once, by the leader that accepted it. The same bytes are in
//!   the leader's log, on the wire, in the follower's log and before the state machine.
//! - [`Command`]: what a client asks of a shard. The client encodes it, the node checks it without
//!   copying, and the encoding becomes the payload of the entry as it is.
//! - [`ConfChange`]: a change of a group's members, the payload of an entry of its own kind, and with it
//!   [`ConfState::apply`], which says what the change makes of them.
#![no_std]

extern crate alloc;

mod block;
pub mod codec;
mod command;
mod conf_change;
mod entry;
mod ids;
mod members;
pub mod mutant;
mod state;
mod time;

pub use command::{Command, Epoch, Limits, LimitsError, Mutation, Operation, Request, SessionId};
pub use conf_change::{ConfChange, ConfChangeError, MemberChange, Transition};
pub use entry::{ENTRY_HEADER_BYTES, Entry, EntryError, EntryKind, MAX_ENTRY_BYTES};
pub use ids::{
    ClusterId, GroupId, LogIndex, MAX_COUNT, NodeId, ReplicaId, Sequence, ShardId, TabletId, Term,
};
pub use members::Members;
pub use state::{ConfState, HardState, LogPosition};
pub use time::Instant;
