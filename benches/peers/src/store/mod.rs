//! A node with far more data than memory, beside fjall 3.1 alone on the same data.
//!
//! The node is a process of its own: clients come over QUIC, each write is in its log and synced before it is
//! acknowledged, each read is linearizable. fjall is a library in the process that asks it, and syncs its journal only
//! after each window. So fjall is no rival here but the measure of what a merge tree, which both are built on, costs by
//! itself on this machine; the rest of a node's time is what makes it a node. With one client a latency is that of the work;
//! with many, of the queues before two cores too.

mod clients;
mod report;
mod sides;

use crate::Failure;
use clap::Args;
use clients::{load, read, scan};
use pontoon::config::ByteSize;
use report::Report;
use sides::{Fjall, Node};
use std::path::PathBuf;
use std::time::Duration;

/// How many windows each side has of each kind, in turns.
const TURNS: u32 = 10;
/// Clients that call at the same time.
const CLIENTS: [usize; 2] = [1, 64];

/// A node with far more data than memory beside fjall alone on the same data: loading, reads and scans, latency and
/// throughput in interleaved windows of one run, and the memory of both.
#[derive(Debug, Args)]
#[command(after_help = "\
Short, to see that it works:
  cargo run --release --manifest-path benches/peers/Cargo.toml -- store --bytes 64MiB --memory 16MiB --seconds 1
What a node is asked for:
  cargo run --release --manifest-path benches/peers/Cargo.toml -- store --bytes 10GiB --memory 512MiB")]
pub(crate) struct StoreArgs {
    /// Keys and values of all rows, on each side.
    #[arg(long, value_name = "BYTES", default_value = "2GiB")]
    bytes: ByteSize,

    /// The memory of each side: a quarter for writes, the rest for blocks that were read.
    #[arg(long, value_name = "BYTES", default_value = "128MiB")]
    memory: ByteSize,

    /// Size of a value. Values do not compress.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    value_bytes: u64,

    /// The node's shards.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    shards: u64,

    /// Seconds of each side for each kind of call and number of clients.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// Where the files go, in a directory of its own that is removed at the end: some three times the data. Not in
    /// memory.
    #[arg(long, value_name = "PATH", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,

    /// Print one JSON object as the last line of stdout instead of the table.
    #[arg(long)]
    json: bool,
}

/// The rows of a run: their number and shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Data {
    rows: u64,
    value_bytes: u64,
}

/// Takes the measurement.
///
/// # Errors
/// If a side cannot be started, or does not answer what was written.
pub(crate) fn run(args: &StoreArgs) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime
        .block_on(measure(args))
        .map_err(|error| error.to_string())
}

async fn measure(args: &StoreArgs) -> Result<(), Failure> {
    let directory = crate::log::scratch(&args.dir)?;
    let directory = directory.path();
    let data = Data {
        rows: (args.bytes.0 / (args.value_bytes + sides::KEY_BYTES)).max(u64::from(TURNS)),
        value_bytes: args.value_bytes,
    };
    let node = Node::start(directory, args.shards, args.memory.0).await?;
    let fjall = Fjall::open(directory, args.memory.0)?;
    let mut report = Report::default();

    let (rows, window) = (node.rows(), Duration::from_secs(args.seconds) / TURNS);
    let share = data.rows.div_ceil(u64::from(TURNS));
    report.note("loading");
    for turn in 0..u64::from(TURNS) {
        let some = (turn * share).min(data.rows)..((turn + 1) * share).min(data.rows);
        let ours = load(&rows, CLIENTS[1], data, some.clone()).await?;
        let theirs = load(&fjall, CLIENTS[1], data, some).await?;
        fjall.sync()?;
        report.add("put", CLIENTS[1], ours, theirs);
    }
    for clients in CLIENTS {
        report.note("reading");
        for _ in 0..TURNS {
            let ours = read(&rows, clients, data, window).await?;
            let theirs = read(&fjall, clients, data, window).await?;
            report.add("get", clients, ours, theirs);
        }
        report.note("scanning");
        for _ in 0..TURNS {
            let ours = scan(&rows, clients, data, window).await?;
            let theirs = scan(&fjall, clients, data, window).await?;
            report.add("scan of 100 rows", clients, ours, theirs);
        }
    }
    report.memory(node.peak_memory()?, sides::peak_memory("self")?);
    node.stop().await?;
    report.print(data, args.memory.0, args.json);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node would be a process of the test's own binary; its side is a client, as in the node's tests.
    #[tokio::test]
    async fn clients_see_all_that_was_put_and_notice_what_was_not() {
        let directory = tempfile::tempdir().unwrap();
        let side = Fjall::open(directory.path(), 16 << 20).unwrap();
        let data = Data {
            rows: 300,
            value_bytes: 100,
        };
        let window = Duration::from_millis(50);
        let put = load(&side, 4, data, 0..data.rows).await.unwrap();
        assert!(put.rows_per_s() > 0.0 && put.latency(0.5) <= put.latency(0.99));
        read(&side, 4, data, window).await.unwrap();
        scan(&side, 4, data, window).await.unwrap();

        let more = Data {
            rows: 100_000,
            ..data
        };
        let missing = read(&side, 1, more, window).await.err().unwrap();
        assert!(missing.to_string().contains("missing"), "{missing}");
    }
}
