//! The binary as people meet it: real processes, real directories, real certificates.

mod cluster;
mod demo;
mod three_processes;
mod verbs;
mod wrong_input;
