//! The binary as people meet it: real processes, real directories, real certificates.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod cluster;
mod damage;
mod demo;
mod recover;
mod three_processes;
mod verbs;
mod wal_dump;
mod wrong_input;
