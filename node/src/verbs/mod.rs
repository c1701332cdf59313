//! A file per verb. Each has its arguments, with help that stands on its own, and a `run`.

pub mod bench;
pub mod cas;
pub mod certs;
pub mod delete;
pub mod demo;
pub mod dump;
pub mod get;
pub mod load;
pub mod node;
pub mod put;
pub mod scan;
pub mod status;
pub mod wal;

use crate::cli::Verb;
use crate::error::Error;
use std::future::Future;

/// Does what was asked.
///
/// # Errors
/// If it could not be done; the error is meant to be printed as it is.
pub fn run(verb: Verb) -> Result<(), Error> {
    match verb {
        Verb::Certs(args) => certs::run(&args),
        Verb::Wal(args) => wal::run(&args),
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
    }
}

/// Runs a verb to its end, or until the user interrupts it: then its future is dropped, and with
/// it whatever it started.
fn block_on(verb: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System {
            action: "start the runtime",
            source,
        })?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = verb => result,
            _ = tokio::signal::ctrl_c() => Err(Error::Interrupted),
        }
    });
    // A blocked reader of a file or a pipe must not keep the process alive.
    runtime.shutdown_background();
    result
}
