//! The one binary of Pontoon, as a library: the node's wiring and its command line.
//!
//! [`server`] puts the parts together into a running node. Everything else here is the command
//! line around it: [`verbs`] has a file per verb, and each verb is a thin use of
//!
//! - [`formats`]: rows in files, read and written; [`sample`]: keys to cut shards at;
//! - [`workload`]: which keys and values a load generator asks for;
//! - [`drive`], [`load`], [`rows`]: clients at work, files written, ranges read;
//! - [`measure`]: what it took, and what the disk alone could do;
//! - [`history`]: what was promised to whom; [`verification`]: held against what is there;
//! - [`local`]: a whole cluster on this machine;
//! - [`status`], [`cluster_view`]: what nodes say about themselves, and what that makes together;
//! - [`backup`]: copies of all shards, taken and brought back;
//! - [`recovery`]: groups that lost their quorum, forced to go on;
//! - [`comparison`]: replicas, held against each other;
//! - [`cli`], [`config`], [`connection`], [`output`], [`error`]: what an operator types and sees.
//!
//! Nothing below `node` depends on this crate. It is a library so that tests and benches can
//! reach its parts; `main.rs` only calls [`run`].

pub mod backup;
pub mod cli;
pub mod cluster_view;
pub mod comparison;
pub mod config;
pub mod connection;
pub mod drive;
pub mod error;
pub mod formats;
pub mod history;
pub mod load;
pub mod local;
pub mod measure;
pub mod output;
pub mod recovery;
pub mod rows;
pub mod sample;
pub mod server;
pub mod status;
pub mod verbs;
pub mod verification;
pub mod workload;

use std::process::ExitCode;

/// Runs the command line of this process.
#[must_use]
pub fn run() -> ExitCode {
    let cli = cli::Cli::of_process();
    match verbs::run(cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            // One line, whatever is inside; and if stderr is gone, there is nobody to tell.
            let text = error.to_string().replace('\n', "; ");
            let _ = writeln!(std::io::stderr(), "error: {text}");
            error.exit_code()
        }
    }
}
