//! The one binary of Pontoon, as a library: the node's wiring and its command line.
//!
//! [`server`] puts the parts together into a running node. Everything else here is the command
//! line around it: [`verbs`] has a file per verb, and each verb is a thin use of
//!
//! - [`formats`]: rows in files, read and written;
//! - [`workload`]: which keys and values a load generator asks for;
//! - [`measure`]: what it took, and what the disk alone could do;
//! - [`history`]: what was promised to whom, held against what is there;
//! - [`config`], [`cli`], [`output`], [`error`]: what an operator types and sees.
//!
//! Nothing below `node` depends on this crate. It is a library so that tests and benches can
//! reach its parts; `main.rs` only calls [`run`].

pub mod server;
pub mod status;
