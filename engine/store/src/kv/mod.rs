//! The key-value state machine: what ships on top of a [`Store`](crate::Store).

mod machine;
mod reader;
mod record;
mod snapshot;
mod tablets;

pub use machine::{KvMachine, Outcome};
pub use reader::{KvReader, ReadError, ScanLimits, ScanPage};
pub use record::ReplicaRecord;
pub use snapshot::{KvSnapshot, Stager, StateHash};
