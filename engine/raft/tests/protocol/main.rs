//! The protocol under test: scenarios with a name each, random schedules, and hostile messages, all on
//! real replicas over a simulated network and simulated disks, with the invariants I1-I9 checked after
//! every step. Nothing here reads a clock.

// What a test unwraps is what it asserts.
#![allow(clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;

mod elections;
mod flow;
mod hostile;
mod membership;
mod pre_vote;
mod random;
mod reads;
mod replication;
mod restart;
