//! What a load took, and what the disk alone could have done.
//!
//! [`Recorder`] keeps the latencies of one client, [`floor`] probes the disk, [`Counters`] are
//! what the nodes themselves counted, and [`Report`] brings them together as a table for people
//! and as one line of JSON for programs.

mod counters;
pub mod floor;
mod recorder;
mod report;

pub use counters::{Counters, NodeRates, process_cpu_us};
pub use recorder::{Kind, Recorder};
pub use report::Report;
