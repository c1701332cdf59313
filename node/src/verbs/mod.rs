//! A file per verb. Each has its arguments, with help that stands on its own, and a `run`.

pub mod backup;
pub mod bench;
pub mod cas;
pub mod certs;
pub mod delete;
pub mod demo;
pub mod dump;
pub mod get;
pub mod load;
pub mod members;
pub mod node;
pub mod put;
pub mod recover;
pub mod restore;
pub mod scan;
pub mod status;
pub mod verify;
pub mod wal;

use crate::cli::Verb;
use crate::config::defaults;
use crate::error::Error;
use std::future::Future;
use std::io::IsTerminal as _;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Does what was asked.
///
/// # Errors
/// If it could not be done; the error is meant to be printed as it is.
pub fn run(verb: Verb) -> Result<(), Error> {
    match verb {
        Verb::Certs(args) => certs::run(&args),
        Verb::Wal(args) => wal::run(&args),
        Verb::Recover(args) => recover::run(&args),
        Verb::Node(args) => node::run(*args),
        Verb::Demo(args) => block_on(demo::run(args)),
        Verb::Put(args) => block_on(put::run(args)),
        Verb::Get(args) => block_on(get::run(args)),
        Verb::Delete(args) => block_on(delete::run(args)),
        Verb::Cas(args) => block_on(cas::run(args)),
        Verb::Scan(args) => block_on(scan::run(args)),
        Verb::Load(args) => block_on(load::run(args)),
        Verb::Dump(args) => block_on(dump::run(args)),
        Verb::Bench(args) => block_on(bench::run(args)),
        Verb::Status(args) => block_on(status::run(args)),
        Verb::Backup(args) => block_on(backup::run(args)),
        Verb::Restore(args) => block_on(restore::run(args)),
        Verb::Verify(args) => block_on(verify::run(args)),
        Verb::Members(args) => block_on(members::run(args)),
    }
}

/// Logs to stderr what the filter lets through: the one given, else RUST_LOG, else `usual`.
///
/// # Errors
/// If the filter makes no sense.
fn start_logging(filter: Option<&str>, usual: &str) -> Result<(), Error> {
    let from_environment = std::env::var("RUST_LOG").ok();
    let filter = filter
        .or(from_environment.as_deref().filter(|text| !text.is_empty()))
        .unwrap_or(usual);
    let parsed = EnvFilter::try_new(filter)
        .map_err(|error| Error::Usage(format!("log filter \"{filter}\": {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

/// The runtime of what waits for the network.
fn start_runtime() -> Result<Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(defaults::network_threads())
        .enable_all()
        .build()
        .map_err(|source| Error::System {
            action: "start the runtime",
            source,
        })
}

/// Runs a verb to its end, or until SIGINT or SIGTERM: then its future is dropped, and with it
/// whatever it started, such as a demo's processes and directory.
fn block_on(verb: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    // What a client meets on its way it tells in its error; the log is for those who ask for it.
    start_logging(None, "off")?;
    let runtime = start_runtime()?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(|source| Error::System {
            action: "wait for signals",
            source,
        })?;
        tokio::select! {
            result = verb => result,
            _ = tokio::signal::ctrl_c() => Err(Error::Interrupted),
            _ = terminate.recv() => Err(Error::Interrupted),
        }
    });
    // A blocked reader of a file or a pipe must not keep the process alive.
    runtime.shutdown_background();
    result
}
