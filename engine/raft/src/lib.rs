//! The Raft protocol as a pure state machine.
//!
//! This crate decides what one replica of one group does, and nothing else: it has no clock, file,
//! thread, socket or random map to reach for. It is `no_std`, so that the compiler keeps it so. Time comes
//! in as `now`, randomness as a seed, and the disk and the network are its caller, the *shell*. The
//! same calls in the same order give the same results, on any machine.
#![no_std]

extern crate alloc;

mod check;
mod config;
mod durability;
mod election;
mod error;
mod follower;
mod leader;
mod log;
mod message;
mod poll;
mod progress;
mod quorum;
mod raft;
mod read_index;
mod ready;
mod rng;
mod terms;

pub use config::{Config, ConfigError, Restored};
pub use error::{ProposeError, ReadError, StepError};
pub use message::{Message, MessageBody};
pub use progress::{ProgressMode, ProgressView};
pub use raft::{Raft, Role};
pub use ready::{AppendSequence, Fetch, FetchPurpose, Persist, ReadReady, Ready};
