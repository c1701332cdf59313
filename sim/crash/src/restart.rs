//! The command `restart`: a node with much data is killed, and how long is it until it serves every shard again?
//!
//! On the way there it shows what much data costs: loading, reading and scanning more than the node may hold in
//! memory. Every row is read at the end and compared, so what is quick is also right.

use crate::cli::Restart;
use crate::report::met;
use crate::run::block_on;
use bytes::Bytes;
use pontoon::connection::connect;
use pontoon::error::Error;
use pontoon::local::{Cluster, Layout};
use pontoon::measure::{Kind, Recorder};
use pontoon::output::{Output, bytes, count, micros, table};
use pontoon::workload::KeyStyle;
use pontoon_client::Client;
use pontoon_types::NodeId;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use serde_json::json;
use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const CLIENTS: usize = 64;
/// Deadline of a call; generous, for what is slow is to be seen and not to fail.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Rows of a scan.
const SCANNED: usize = 100;
/// Keys sampled to cut shards at, for each shard.
const SAMPLES_PER_SHARD: u64 = 8;
/// The memory that a node may use: 128 MiB of writes, 384 MiB of the store's cache.
const SETTINGS: &str = "\
memtable-bytes = \"32MiB\"
max-memtables = 4
block-cache-bytes = \"384MiB\"
log = \"warn\"
";

/// Runs it, and says what it took.
pub(crate) fn run(options: &Restart) -> ExitCode {
    match block_on(load_and_restart(options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether the aims are met.
async fn load_and_restart(options: &Restart) -> Result<bool, Error> {
    let output = Output::new(options.json);
    let samples = options.shards * SAMPLES_PER_SHARD;
    let sample = KeyStyle::Hashed.sample(samples, samples);
    let shards = options.shards as usize;
    let layout = Layout::make(options.data_dir.as_deref(), options.nodes, shards, sample)?;
    let layout = layout.with_settings(SETTINGS)?;
    output.note(&format!("nodes in {}", layout.directory().display()));
    let mut cluster = Cluster::start(&layout, true).await?;
    let client = connect(&layout.endpoints(), &layout.certs(), TIMEOUT).await?;

    let row_bytes = KeyStyle::Hashed.key(0).len() as u64 + options.value_bytes;
    let rows = (options.bytes.0 / row_bytes).max(1);
    let loaded = load(&client, rows, options.value_bytes, output).await?;
    let random_row = move || rand::rng().random_range(0..rows);
    let seconds = Duration::from_secs(options.seconds);
    let read = repeat(seconds, &client, move |client| async move {
        let row = random_row();
        let found = client.get(&KeyStyle::Hashed.key(row)).await?;
        is_as_written(row, found.as_deref(), row_bytes).map_err(Error::Unhealthy)?;
        Ok(1)
    });
    let read = read.await?;
    let scanned = repeat(seconds, &client, move |client| async move {
        let from = KeyStyle::Hashed.key(random_row());
        Ok(client.scan(&from, None, SCANNED).await?.len() as u64)
    });
    let scanned = scanned.await?;
    cluster.is_whole(&layout)?;
    let memory = peak_memory(&cluster, &layout).map_err(Error::Unhealthy)?;
    let map = client.map().await?;
    let starts = map.shards().map(|shard| shard.start.clone()).collect();
    drop(client);

    let nodes: Vec<NodeId> = layout.nodes.iter().map(|(node, _)| *node).collect();
    for node in &nodes {
        cluster.kill(&layout, *node).await?;
    }
    let began = Instant::now();
    for node in nodes {
        cluster.start_again(&layout, node)?;
    }
    let served = serve_again(&layout, starts, began).await?;
    cluster.wait_until_ready(&layout).await?;
    let client = connect(&layout.endpoints(), &layout.certs(), TIMEOUT).await?;
    let compared = read_all(&client, rows, row_bytes, output).await?;
    cluster.is_whole(&layout)?;
    let memory_after = peak_memory(&cluster, &layout).map_err(Error::Unhealthy)?;
    cluster.stop().await?;

    let report = Report {
        options,
        rows,
        bytes: rows * row_bytes,
        loaded,
        read,
        scanned,
        served,
        compared,
        memory: memory.max(memory_after),
    };
    if options.json {
        output.json(&report.to_json())?;
    } else {
        output.line(&report.to_table())?;
    }
    Ok(report.starts_in_time() && report.fits())
}

/// What some clients did for some time.
struct Phase {
    recorder: Recorder,
    rows: u64,
    took: Duration,
}

impl Phase {
    fn rows_per_s(&self) -> f64 {
        self.rows as f64 / self.took.as_secs_f64()
    }

    fn percentile(&self, percent: f64) -> u64 {
        self.recorder.all().value_at_percentile(percent)
    }
}

/// The value of a row: bytes that no compression makes smaller, and that only this row has.
fn value_of(row: u64, value_bytes: u64) -> Vec<u8> {
    let mut value = vec![0; value_bytes as usize];
    StdRng::seed_from_u64(row).fill_bytes(&mut value);
    value
}

fn is_as_written(row: u64, found: Option<&[u8]>, row_bytes: u64) -> Result<(), String> {
    let key_bytes = KeyStyle::Hashed.key(row).len() as u64;
    if found == Some(&value_of(row, row_bytes - key_bytes)[..]) {
        return Ok(());
    }
    let what = if found.is_some() { "wrong" } else { "missing" };
    Err(format!("row {row} is {what}"))
}

async fn load(
    client: &Client,
    rows: u64,
    value_bytes: u64,
    output: Output,
) -> Result<Phase, Error> {
    let next = Arc::new(AtomicU64::new(0));
    let bar = output.bar(rows, "rows", "loading");
    let shown = bar.clone();
    let phase = together(client, move |client| {
        let (next, bar) = (next.clone(), shown.clone());
        async move {
            let mut recorder = Recorder::default();
            let mut written = 0;
            loop {
                let row = next.fetch_add(1, Ordering::Relaxed);
                if row >= rows {
                    return Ok((recorder, written));
                }
                let value = value_of(row, value_bytes);
                let began = Instant::now();
                client.put(&KeyStyle::Hashed.key(row), &value).await?;
                recorder.record(Kind::Write, began.elapsed());
                written += 1;
                bar.inc(1);
            }
        }
    });
    let phase = phase.await?;
    bar.finish_and_clear();
    Ok(phase)
}

/// Has each client call again and again, until the time is over. A call says how many rows it got.
async fn repeat<C, F>(time: Duration, client: &Client, call: C) -> Result<Phase, Error>
where
    C: Fn(Client) -> F + Copy + Send + 'static,
    F: Future<Output = Result<u64, Error>> + Send,
{
    let since = Instant::now();
    let phase = together(client, move |client| async move {
        let mut recorder = Recorder::default();
        let mut rows = 0;
        while since.elapsed() < time {
            let began = Instant::now();
            rows += call(client.clone()).await?;
            recorder.record(Kind::Read, began.elapsed());
        }
        Ok((recorder, rows))
    });
    phase.await
}

async fn together<C, F>(client: &Client, work: C) -> Result<Phase, Error>
where
    C: Fn(Client) -> F,
    F: Future<Output = Result<(Recorder, u64), Error>> + Send + 'static,
{
    let began = Instant::now();
    let clients = (0..CLIENTS).map(|_| work(client.clone()));
    let mut recorder = Recorder::default();
    let mut rows = 0;
    for done in clients.collect::<JoinSet<_>>().join_all().await {
        let (some, more) = done?;
        recorder.merge(&some);
        rows += more;
    }
    let took = began.elapsed();
    Ok(Phase {
        recorder,
        rows,
        took,
    })
}

/// How long it is until a new client has read from the first shard, and until it has read from all.
async fn serve_again(
    layout: &Layout,
    starts: Vec<Bytes>,
    began: Instant,
) -> Result<(Duration, Duration), Error> {
    // Nobody may listen yet.
    let client = loop {
        match connect(&layout.endpoints(), &layout.certs(), TIMEOUT).await {
            Ok(client) => break client,
            Err(error) if began.elapsed() > TIMEOUT => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let mut reads: JoinSet<Result<_, Error>> = JoinSet::new();
    for start in starts {
        let client = client.clone();
        reads.spawn(async move {
            // The smallest key of all is empty, and no key.
            let key = if start.is_empty() {
                Bytes::from_static(b"\0")
            } else {
                start
            };
            client.get(&key).await?;
            Ok(began.elapsed())
        });
    }
    let mut served = Vec::new();
    for read in reads.join_all().await {
        served.push(read?);
    }
    let first = served.iter().min().copied().unwrap_or_default();
    let last = served.iter().max().copied().unwrap_or_default();
    Ok((first, last))
}

/// Reads every row there is, in key order, and compares it.
async fn read_all(
    client: &Client,
    rows: u64,
    row_bytes: u64,
    output: Output,
) -> Result<Duration, Error> {
    let bar = output.bar(rows, "rows", "comparing");
    let (began, mut seen) = (Instant::now(), 0);
    let mut all = client.scan_pages(b"", None);
    while let Some((key, value)) = all.next().await? {
        let number = key.get(8..).and_then(|bytes| bytes.try_into().ok());
        let row = number.map(u64::from_be_bytes);
        match row.filter(|row| *row < rows && KeyStyle::Hashed.key(*row) == key) {
            Some(row) => is_as_written(row, Some(&value), row_bytes).map_err(Error::Unhealthy)?,
            None => return Err(Error::Unhealthy(format!("{key:?} was never written"))),
        }
        seen += 1;
        bar.inc(1);
    }
    bar.finish_and_clear();
    if seen != rows {
        let what = format!("{seen} of {rows} rows are there");
        return Err(Error::Unhealthy(what));
    }
    Ok(began.elapsed())
}

/// The most resident memory that any node has had, in bytes, the mapped log and all.
fn peak_memory(cluster: &Cluster, layout: &Layout) -> Result<u64, String> {
    let mut most = 0;
    for (node, _) in &layout.nodes {
        let Some(process) = cluster.process_id(*node) else {
            continue;
        };
        let path = format!("/proc/{process}/status");
        let status = std::fs::read_to_string(&path);
        let status = status.map_err(|error| format!("cannot read {path}: {error}"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        most = most.max(kib.unwrap_or_default() * 1024);
    }
    Ok(most)
}

struct Report<'a> {
    options: &'a Restart,
    rows: u64,
    /// Of keys and values, per node.
    bytes: u64,
    loaded: Phase,
    read: Phase,
    scanned: Phase,
    /// From the start of the processes until the first shard was served, and until all were.
    served: (Duration, Duration),
    compared: Duration,
    memory: u64,
}

impl Report<'_> {
    /// Whether all shards were served soon enough.
    fn starts_in_time(&self) -> bool {
        self.served.1.as_secs_f64() <= self.options.max_start_seconds
    }

    /// Whether no node has had more memory than it may.
    fn fits(&self) -> bool {
        self.memory <= self.options.max_resident.0
    }

    fn to_table(&self) -> String {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
        row(
            "data",
            format!(
                "{} in {} rows and {} shards, on each of {} nodes",
                bytes(self.bytes as f64),
                count(self.rows as f64),
                self.options.shards,
                self.options.nodes
            ),
        );
        for (name, phase) in [
            ("loaded", &self.loaded),
            ("read at random", &self.read),
            ("scanned, 100 rows each", &self.scanned),
        ] {
            row(
                name,
                format!(
                    "{} rows/s, p50 {}, p99 {}",
                    count(phase.rows_per_s()),
                    micros(phase.percentile(50.0)),
                    micros(phase.percentile(99.0))
                ),
            );
        }
        row("killed, started again", String::new());
        row("  first shard served", format!("{:.2?}", self.served.0));
        row("  all shards served", format!("{:.2?}", self.served.1));
        let most = self.options.max_start_seconds;
        row(
            "    at most",
            format!("{most} s: {}", met(self.starts_in_time())),
        );
        row(
            "all rows compared",
            format!("{} in {:.1?}", count(self.rows as f64), self.compared),
        );
        row("most memory of a node", bytes(self.memory as f64));
        let most = bytes(self.options.max_resident.0 as f64);
        row("  at most", format!("{most}: {}", met(self.fits())));
        table(&[], rows)
    }

    fn to_json(&self) -> serde_json::Value {
        let phase = |phase: &Phase| {
            json!({
                "rows_per_s": phase.rows_per_s(),
                "p50_us": phase.percentile(50.0),
                "p99_us": phase.percentile(99.0),
            })
        };
        json!({
            "nodes": self.options.nodes,
            "shards": self.options.shards,
            "rows": self.rows,
            "bytes": self.bytes,
            "load": phase(&self.loaded),
            "read": phase(&self.read),
            "scan": phase(&self.scanned),
            "first_served_ms": self.served.0.as_millis() as u64,
            "all_served_ms": self.served.1.as_millis() as u64,
            "compared_s": self.compared.as_secs_f64(),
            "peak_memory_bytes": self.memory,
            "starts_in_time": self.starts_in_time(),
            "fits": self.fits(),
        })
    }
}
