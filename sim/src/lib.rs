//! Pontoon's deterministic simulator: whole clusters in one thread, from one seed.
//!
//! A [`World`] is a cluster whose nodes run the code of production: the worker's cycle, the log's core, the
//! apply stage, the state machine, and clients with the routing core of the real client. What production
//! has threads, sockets, disks and clocks for is here a queue of events in simulated time. A seed decides
//! everything: how long a sync takes, which frame is lost, when the power goes, and which of the pages that
//! were not synced are on the disk afterwards. The same seed does the same again, to the last bit, which
//! the trace hash shows.
//!
//! # A run
//!
//! 1. The seed draws a [`Profile`]: what kind of network, disks, clocks and clients this world has, and
//!    which faults, how often. Seeds differ much, and that is the point of it.
//! 2. For the simulated time asked for, clients call and [faults](Fault) happen.
//! 3. Everything heals. Within bounded time every group must serve again and its replicas be equal.
//!
//! All along, [`invariants`] are checked, a file each. None of them believes what the code says of itself;
//! they look at messages, batches, entries, recovered logs and clients' histories. In particular a
//! [shadow] of every log is kept beside it, so that it is known which states a crash may leave.
//!
//! Beside the clients there are those who do not play by the rules: reads that try whether a deposed leader
//! still answers, requests that were routed wrongly, floods, forged messages, and bytes that are none.
//!
//! # Who checks the checkers
//!
//! With the feature `mutants` the command of that name leaves out one rule of the code after the other
//! (`pontoon_types::mutant` lists them) and shows which checker notices, and at which seed. A rule that is
//! added gets a mutant; one that nobody notices is a hole here.
//!
//! # What it is not
//!
//! Sockets, TLS, threads, the mapped log and the LSM tree are not simulated: their crates test them on the
//! real thing. The model store behind the state machine has the flush and crash rules of the real one.
#![deny(missing_docs)]

mod clock;
mod faults;
pub mod invariants;
pub mod members;
mod network;
mod profile;
mod random;
mod run;
pub mod shadow;
mod trace;
mod world;

pub use clock::Clock;
pub use faults::{Class, Fault, FaultCounts};
pub use network::{Network, Stream};
pub use profile::{Profile, Scale, Theme};
pub use random::Dice;
pub use run::{Summary, in_order, simulate};
pub use trace::Trace;
pub use world::{Report, World};
