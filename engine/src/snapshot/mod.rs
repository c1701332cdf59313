//! Snapshots on their way: a replica's whole state, from one node to another (Raft §7).
//!
//! Raft decides who needs one and what it means for the log (`pontoon_raft::snapshot`); the store pins a state
//! and takes one in (`pontoon_store`). Here is the way between: one [`Carrier`] per node, a synchronous piece like a
//! worker, that the runtime turns on a thread of its own.
//!
//! ```text
//!  sender                                                      receiver
//!  worker: Wanted ─> apply stage pins a version
//!  worker: Taken  ─> offer  ───────────────────────────────>   worker: Offered, is it wanted?
//!                           <───────────────────────────────   pull, after no key
//!                    chunks ───────────────────────────────>   staged in a tablet that nothing refers to
//!                           <───────────────────────────────   pull, after the last key that came
//!                    …                                          …
//!                    last chunk, with the hash of all  ──────>  compared, made durable
//!                           <───────────────────────────────   end: delivered
//!  worker: Delivered                                            worker: Staged, steps the InstallSnapshot
//! ```
//!
//! The receiver pulls, so nothing piles up anywhere: the sender is ahead of it by a few chunks at most, and those are what a break
//! costs. It pulls again after the last key that it has, from whoever offers the same snapshot. What was pinned lives as long
//! as the receiver makes progress.
//!
//! The one commit point is the record in the log that the receiver's worker writes when Raft has taken the snapshot;
//! until then the staged rows are nobody's.

mod budget;
mod carrier;
mod incoming;
mod message;
mod outgoing;

pub(crate) use budget::Budget;
pub use carrier::{
    Carrier, CarrierInput, Errand, SnapshotCounters, SnapshotSettings, SnapshotUnderWay,
};
pub use message::{End, SnapshotBody, SnapshotMessage};
