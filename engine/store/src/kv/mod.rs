//! State machines on top of a [`Store`](crate::Store): what replicas need of every one, and the key-value store, which ships.

mod key_value;
mod machine;
mod outcome;
mod reader;
mod record;
mod snapshot;
mod state_machine;
mod tablets;

pub use key_value::KeyValue;
pub use machine::{KvMachine, Machine};
pub use outcome::Outcome;
pub use reader::{KvReader, ReadError, ScanLimits, ScanPage};
pub use record::ReplicaRecord;
pub use snapshot::{KvSnapshot, Stager, StateHash};
pub use state_machine::{State, StateMachine};
