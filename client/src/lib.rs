//! The client of a Pontoon cluster.

pub mod protocol;
