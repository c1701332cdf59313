//! The command `beside`: what do writes feel of a replica that is brought up beside them?
//!
//! Four nodes, each shard on three. One shard holds much and rests, unless it is to be written to as well
//! (`--big-writes`); the others are written to at a set part of what the cluster takes at most. In pairs of windows, one without and one beside it, the node that has no replica of the big
//! shard gets one, as `pontoon members` would give it one, and loses it again.
//!
//! The load is open: writes begin when they are due, however many are under way, and their latency counts from then.
//! So a cluster that falls behind shows as a queue does, and not as a load that gives way (`paced`).

mod paced;
mod replica;
mod report;

use crate::cli::Beside;
use crate::run::block_on;
use bytes::Bytes;
use paced::{Keys, Paced};
use pontoon::connection::connect;
use pontoon::error::Error;
use pontoon::local::{Cluster, Layout};
use pontoon::measure::Recorder;
use pontoon::measure::floor::write_rate;
use pontoon::output::Output;
use pontoon::workload::KeyStyle;
use pontoon_client::Client;
use pontoon_types::{Mutation, ShardId};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use replica::{Guest, Transfer};
use report::{Pair, Report};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

const NODES: u64 = 4;
const SHARDS: usize = 16;
const SAMPLE_KEYS: u64 = 1024;
/// Deadline of a call; generous, for what is slow is to be seen and not to fail.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Rows of the big shard, which cannot be compressed, and how many are written at once.
const ROW_BYTES: u64 = 4096;
const ROWS_AT_ONCE: u64 = 16;
/// What is written to the big shard beside the load begins here, behind all rows that are loaded.
const FIRST_ROW_BEHIND: u64 = 1 << 40;
const LOADERS: u64 = 16;
/// The disk is asked so often how fast it writes.
const PROBES: usize = 3;
/// The load has begun so long before the first window, for each second of one.
const WARM_UP: Duration = Duration::from_secs(2);
/// A window begins so long after what was before it.
const SETTLE: Duration = Duration::from_secs(1);

/// Runs it, and says what it took.
pub(crate) fn run(options: &Beside) -> ExitCode {
    match block_on(measure(options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether the aim is met, if there is one.
async fn measure(options: &Beside) -> Result<bool, Error> {
    let output = Output::new(options.json);
    let sample = KeyStyle::Hashed.sample(SAMPLE_KEYS, SAMPLE_KEYS);
    let layout = Layout::make(options.data_dir.as_deref(), NODES, SHARDS, sample)?;
    let settings = match options.snapshot_rate {
        Some(rate) => format!("log = \"warn\"\nsnapshot-rate = {}\n", rate.0),
        None => "log = \"warn\"\n".to_owned(),
    };
    let layout = layout.with_settings(&settings)?;
    output.note(&format!("nodes in {}", layout.directory().display()));
    let disk_rate = disk_rate(&layout, options.bytes.0).await?;

    let mut cluster = Cluster::start(&layout, true).await?;
    let client = connect(&layout.endpoints(), &layout.certs(), TIMEOUT).await?;
    let (mut guest, keys) = place(&client).await?;
    load(&client, options.bytes.0, output).await?;
    output.note("waiting until the nodes' stores rest");
    guest.wait_for_rest().await?;
    let alone = guest.bring_up().await?;
    guest.leave().await?;
    output.note(&format!("a replica by itself: {alone}"));

    let window = Duration::from_secs(options.seconds);
    let most = paced::closed_loop(&client, &keys, window).await?;
    let rate = most * options.load;
    output.note(&format!(
        "at most {most:.0} writes/s; the load is {rate:.0}"
    ));
    guest.wait_for_rest().await?;
    let load = Paced::start(&client, &keys, rate);
    let big_load = Paced::start(&client, &Keys::OfBig, f64::from(options.big_writes));
    // Stores that have just rested flush and merge less than they will: the first window must not be a better one.
    quiet_window(&load, WARM_UP * options.seconds as u32).await;
    let mut pairs = Vec::new();
    for number in 0..options.pairs {
        // In turns, so that what grows or fades with time falls on both.
        let pair = if number.is_multiple_of(2) {
            let alone = quiet_window(&load, window).await;
            let (beside, transfer) = busy_window(&load, &mut guest).await?;
            guest.leave().await?;
            Pair::new(&alone, &beside, transfer)
        } else {
            let (beside, transfer) = busy_window(&load, &mut guest).await?;
            guest.leave().await?;
            let alone = quiet_window(&load, window).await;
            Pair::new(&alone, &beside, transfer)
        };
        output.note(&format!("pair {} of {}: {pair}", number + 1, options.pairs));
        pairs.push(pair);
        cluster.is_whole(&layout)?;
    }
    load.stop().await?;
    big_load.stop().await?;
    cluster.stop().await?;

    let report = Report {
        options,
        disk_rate,
        most,
        rate,
        alone,
        pairs,
    };
    if options.json {
        output.json(&report.to_json())?;
    } else {
        output.line(&report.to_table())?;
    }
    Ok(report.is_met())
}

/// What the load saw while nothing else was going on.
async fn quiet_window(load: &Paced, window: Duration) -> Recorder {
    sleep(SETTLE).await;
    load.take();
    sleep(window).await;
    load.take()
}

/// What it saw while a replica was brought up.
async fn busy_window(load: &Paced, guest: &mut Guest) -> Result<(Recorder, Transfer), Error> {
    sleep(SETTLE).await;
    load.take();
    let transfer = guest.bring_up().await?;
    Ok((load.take(), transfer))
}

/// How fast the disk takes as many bytes, one after the other, in bytes a second.
async fn disk_rate(layout: &Layout, bytes: u64) -> Result<f64, Error> {
    let mut rates = Vec::new();
    for _ in 0..PROBES {
        let directory = layout.directory().to_owned();
        let probe = move || write_rate(&directory, bytes).map_err(|error| error.to_string());
        let rate = spawn_blocking(probe).await;
        let rate = rate.expect("the probe does not panic");
        rates.push(rate.map_err(Error::Unhealthy)?);
    }
    rates.sort_by(f64::total_cmp);
    Ok(rates[PROBES / 2])
}

/// The first shard is the big one. Returns who can take it in, and the keys of all others.
async fn place(client: &Client) -> Result<(Guest, Keys), Error> {
    let missing = |what: &str| Error::Unhealthy(format!("the map has no {what}"));
    let map = client.map().await?;
    let mut shards = map.shards().filter(|shard| shard.shard != ShardId::META);
    let big = shards.next().ok_or_else(|| missing("shard"))?;
    let end = big.end.clone().ok_or_else(|| missing("second shard"))?;
    let holds = |node| big.replicas.iter().any(|replica| replica.node == node);
    let spare = map.nodes().map(|node| node.node).find(|node| !holds(*node));
    let spare = spare.ok_or_else(|| missing("node without the first shard"))?;
    Ok((Guest::new(client, big, spare), Keys::From(end)))
}

/// A row of the big shard: its keys begin with zeros, and so lie below where the first shard ends.
fn big_key(row: u64) -> Bytes {
    Bytes::copy_from_slice(&row.to_be_bytes())
}

async fn load(client: &Client, bytes: u64, output: Output) -> Result<(), Error> {
    let rows = (bytes / (ROW_BYTES + 8)).max(1);
    let bar = output.bar(rows, "rows", "loading");
    let next = Arc::new(AtomicU64::new(0));
    let loaders: JoinSet<Result<(), Error>> = (0..LOADERS)
        .map(|loader| {
            let (client, next, bar) = (client.clone(), next.clone(), bar.clone());
            async move {
                let mut random = StdRng::seed_from_u64(loader);
                loop {
                    let from = next.fetch_add(ROWS_AT_ONCE, Ordering::Relaxed);
                    if from >= rows {
                        return Ok(());
                    }
                    let batch: Vec<(Bytes, Vec<u8>)> = (from..rows.min(from + ROWS_AT_ONCE))
                        .map(|row| {
                            let mut value = vec![0; ROW_BYTES as usize];
                            random.fill_bytes(&mut value);
                            (big_key(row), value)
                        })
                        .collect();
                    let puts: Vec<_> = batch
                        .iter()
                        .map(|(key, value)| Mutation::Put { key, value })
                        .collect();
                    client.write_batch(&puts).await?;
                    bar.inc(puts.len() as u64);
                }
            }
        })
        .collect();
    for loaded in loaders.join_all().await {
        loaded?;
    }
    bar.finish_and_clear();
    Ok(())
}
