//! The protocol under test, beside its scenarios (`../scenarios`): random schedules, hostile messages, and what
//! is easier said in Rust, all on real replicas over a simulated network and simulated disks, with the
//! invariants I1-I9 checked after every step. Nothing here reads a clock.

// What a test unwraps is what it asserts.
#![allow(clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;

mod elections;
mod flow;
mod hostile;
mod leases;
mod membership;
mod pre_vote;
mod random;
mod reads;
mod replication;
mod restart;
mod snapshots;
