//! Benches of Pontoon's parts, and the fixtures that they share.
//!
//! ```text
//! cargo bench -p pontoon-benches                          all of them
//! cargo bench -p pontoon-benches -- --quick --noplot      all of them, briefly: what the gate runs
//! cargo bench -p pontoon-benches --bench log -- synced    those of one file whose names match
//! ```
//!
//! What a whole node does in a second is measured by `pontoon demo` and `pontoon bench`. The benches
//! here say where that time goes and where it cannot be lost: each takes one part, alone, on one
//! thread (the log's submitters aside), with everything outside that part prepared beforehand.
//!
//! # What each answers
//!
//! | file | question | beside it |
//! |---|---|---|
//! | `log` | What does it cost to lay a sealed batch (`unsynced`), and how much of a sync is ours (`synced`)? | memcpy + CRC32C; `pwrite` + `fdatasync` |
//! | `log` | How many records share a sync when N threads each wait for theirs (`submitters`)? | the floor's sync of one such record |
//! | `raft` | What does the protocol cost per proposal, all three voters together, when a cycle brings 1, 16 or 64? | itself at 1 |
//! | `worker` | What does a leader's cycle cost with 1, 16, 64 groups (`leader`), and what a write on all three nodes (`round`)? | itself at 1 |
//! | `frame` | What do encoding and reading a frame cost? | a copy of its bytes; CRC32C over them |
//! | `store` | How fast are puts applied, keys read and ranges scanned? | [`ModelStore`](pontoon_store::ModelStore), a map in memory |
//! | `client` | What do requests and answers cost to write and read? | nothing: they are small |
//!
//! # How to read the figures
//!
//! **Trust ratios within a run; distrust seconds.** A virtual disk on a shared machine syncs at half
//! of its speed a minute later, and a neighbour takes cache and core. So where a part has a floor,
//! the least that the machine could do for the same bytes, floor and part are measured *in turns*,
//! a piece of each at a time, and next to criterion's figures stands a line like
//!
//! ```text
//! log/synced/64x128B/64groups: floor / log = 0.93 (median of 1024 pairs, middle half 0.65 to 1.26)
//! ```
//!
//! which is the floor's time over the part's: 1 where the part costs nothing beyond the floor, 0.5
//! where it takes twice as long. For the submitters it is the records that were written in the time
//! of one sync of the floor, and meant to be far over 1. Under `--quick` criterion looks at some benches
//! only for a moment; there, these medians are worth more than its own figures.
//!
//! Without a floor, compare a bench with itself: the time per element at 64 against that at 1 says
//! what batching saves, and nothing in the engine is worth more than that. Criterion also compares
//! with the last run on the same machine; believe it when floors have not moved.
//!
//! # Rules for a new bench
//!
//! Fixtures live here, measured code in `benches/`. What is not asked for (making commands, cutting
//! the log, handing back acknowledgements) happens between two readings of the clock. A file on disk
//! is made with [`scratch`], below the target directory, because a `/tmp` in memory syncs nothing.
//! Each bench also runs once under `cargo test`, unoptimised: keep what it sets up small.

mod disk;
mod entries;
mod log;
mod machine;
mod pairs;
mod trio;
mod workers;

pub use disk::{SyncFloor, scratch};
pub use entries::{EPOCH, command, entry, key, put, record};
pub use log::{BatchShape, IDENTITY, LogFixture};
pub use machine::{MachineFixture, get, scan};
pub use pairs::{Pairs, Sums};
pub use trio::Trio;
pub use workers::Workers;

use criterion::Criterion;
use std::time::Duration;

/// The node's allocator, which the benches must pay as well.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Criterion as all benches use it: short, because on a shared machine a longer look at one bench is
/// less worth than another run of all.
#[must_use]
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}
