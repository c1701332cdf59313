//! `pontoon bench`: load a cluster and measure it.

use crate::cli::ClusterOptions;
use crate::cluster_view::ClusterView;
use crate::drive::{Actor, Clients, Failed, Run};
use crate::error::Error;
use crate::formats::{Format, ReadError, Row};
use crate::history::History;
use crate::load::{self, Event, Options, Source};
use crate::measure::{Counters, Report, floor};
use crate::output::{Output, count, counted};
use crate::verification::Verification;
use crate::workload::{Inserts, KeyStyle, Step, Steps, ValueMaker, Workload, fnv64};
use clap::builder::ArgPredicate;
use clap::{Arg, Args};
use pontoon_client::Client;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Load a cluster and measure it.
///
/// Each client has one request under way and sends the next when it is answered. First the rows are
/// written (except for `put`, which brings its own), then a second of warm-up passes, then the window
/// is measured. Syncs, entries and CPU time are the nodes' own counts over the same window.
///
/// The YCSB workloads have the published mixes, distributions and keys: rows of ten fields, zipfian
/// 0.99 scattered by FNV. An update writes the row anew and does not read it; a read-modify-write reads
/// it and changes one field, and so does an update with --update-one-field.
#[derive(Debug, Args)]
#[command(
    mut_arg("endpoints", unless_a_sample),
    mut_arg("certs", certs_unless_a_sample)
)]
#[command(after_help = "\
Workloads:
  put     writes of 16-byte keys, uniform      get     linearizable reads, uniform
  ycsb-a  50% read, 50% update                 ycsb-b  95% read, 5% update
  ycsb-c  read only                            ycsb-d  95% read latest, 5% insert
  ycsb-e  95% scan of 1-100 rows, 5% insert    ycsb-f  50% read, 50% read-modify-write

YCSB keys all begin with \"user\". Start a cluster for them with shards cut at a sample:
  pontoon bench --workload ycsb-a --keys 100000 --write-sample ycsb.tsv
  pontoon node … --shards 64 --split-sample ycsb.tsv

Examples:
  pontoon bench --endpoints 127.0.0.1:7001 --certs certs --workload put --clients 64
  pontoon bench --workload ycsb-e --keys 1000000 --seconds 30 --json
  pontoon bench --workload put --verify        (kill a node meanwhile)")]
pub struct BenchArgs {
    /// What to ask for.
    #[arg(long, value_enum, default_value_t = Workload::Put)]
    pub workload: Workload,
    /// Clients that ask at the same time.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub clients: u32,
    /// Length of the window.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    /// Size of a value. [default: 1000 for YCSB, else 128]
    #[arg(long, value_name = "B")]
    pub value_bytes: Option<usize>,
    /// Rows that are asked for.
    #[arg(long, value_name = "K", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// The rows are there from an earlier run; do not write them first.
    #[arg(long)]
    pub skip_load: bool,
    /// Let a YCSB update change one field, for which it reads the row first.
    #[arg(long)]
    pub update_one_field: bool,
    /// Read everything afterwards, and check that what was acknowledged is there.
    #[arg(long)]
    pub verify: bool,
    /// Before, measure how fast the disk of this directory syncs, and compare.
    #[arg(long, value_name = "DIR")]
    pub floor: Option<PathBuf>,
    /// Draw other keys and values.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Only write keys of the workload to a file, for `pontoon node --split-sample`. Needs no cluster.
    #[arg(long, value_name = "FILE")]
    pub write_sample: Option<PathBuf>,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterOptions,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// A sample is written before there is a cluster to name.
fn unless_a_sample(argument: Arg) -> Arg {
    argument
        .required(false)
        .required_unless_present("write_sample")
}

/// A directory must stand there all the same; nobody looks into it.
fn certs_unless_a_sample(certs: Arg) -> Arg {
    unless_a_sample(certs).default_value_if("write_sample", ArgPredicate::IsPresent, ".")
}

/// Not measured, so that connections and caches are warm.
const WARM_UP: Duration = Duration::from_secs(1);
/// Keys of a sample.
const SAMPLE_KEYS: u64 = 16_384;

/// Runs the verb.
///
/// # Errors
/// If the cluster could not be loaded, or the verification found something.
pub async fn run(args: BenchArgs) -> Result<(), Error> {
    let output = Output::new(args.json);
    if let Some(path) = &args.write_sample {
        return write_sample(&args, path, output);
    }
    let floor = match args.floor.clone() {
        Some(directory) => Some(probe(directory).await?),
        None => None,
    };
    let client = args.cluster.connect().await?;
    if !args.skip_load && args.workload != Workload::Put {
        load_rows(&args, &client, output).await?;
    }

    let history = args.verify.then(|| Arc::new(History::default()));
    let run = Run::new(history.clone());
    let clients = start(&args, &run, &client);
    let spinner = output.spinner("warming up");
    clients.work_for(WARM_UP, |_, _| {}).await;
    let before = ClusterView::look(&client).await;
    run.start_measuring();
    let window = Duration::from_secs(args.seconds);
    let seconds = clients
        .work_for(window, |over, rate| {
            let (over, all) = (over.as_secs(), args.seconds);
            spinner.set_message(format!("{over} of {all} s, {} operations/s", count(rate)));
        })
        .await;
    run.stop();
    let after = ClusterView::look(&client).await;
    let recorder = clients.finish().await;
    spinner.finish_and_clear();

    let mut report = Report {
        nodes: after.nodes.len(),
        shards: after.user_shards(),
        clients: args.clients as usize,
        ..Report::default()
    };
    report.set_clients(recorder, seconds);
    let counters = |view: &ClusterView| Counters::new(view.statuses().cloned());
    let (before, after) = (counters(&before), counters(&after));
    let cpu = before
        .cpu_us_until(&after, seconds)
        .map(|cpu| (cpu, "all nodes"));
    let rates = before.rates_until(&after, seconds);
    let not_counted = before.left_out(&rates);
    report.set_nodes(rates, not_counted, cpu);
    if let Some(floor) = floor {
        report.set_floor(floor);
    }

    let mut verification = None;
    if let Some(history) = history {
        let spinner = output.spinner("verifying");
        // A client that knows nothing yet.
        let client = args.cluster.connect().await?;
        let found = Verification::of(&client, &history, true, |rows| {
            spinner.set_message(format!("verifying: {}", counted(rows, "row")));
        })
        .await?;
        spinner.finish_and_clear();
        report.set_verification(&found);
        verification = Some(found);
    }
    if let Some(error) = run.first_error() {
        output.note(&format!("first error: {error}"));
    }
    if args.json {
        output.line(&report.to_json())?;
    } else {
        output.line(&report.to_table())?;
        if let Some(verification) = &verification {
            output.line(&verification.to_text())?;
        }
    }
    verification.map_or(Ok(()), Verification::into_result)?;
    if report.writes + report.reads == 0 {
        return Err(Error::Unhealthy(
            "nothing was done in the window".to_owned(),
        ));
    }
    Ok(())
}

/// Probes a disk without holding up the runtime.
pub(super) async fn probe(directory: PathBuf) -> Result<floor::Floor, Error> {
    let probing = move || floor::probe(&directory, Duration::from_secs(1));
    tokio::task::spawn_blocking(probing)
        .await
        .expect("a probe does not panic")
}

/// Starts the clients of the workload.
fn start(args: &BenchArgs, run: &Arc<Run>, client: &Client) -> Clients {
    let inserts = Arc::new(Inserts::new(args.keys));
    let workload = args.workload;
    let value_bytes = args.value_bytes.unwrap_or(workload.default_value_bytes());
    let one_field = args.update_one_field && workload.is_ycsb();
    let (keys, seed) = (args.keys, args.seed);
    Clients::start(
        run.clone(),
        client,
        args.clients as usize,
        move |actor, number| {
            let steps = Steps::new(workload, keys, inserts.clone(), seed, number);
            let worker = Worker {
                actor,
                keys: workload.keys(),
                values: ValueMaker::new(value_bytes, fnv64(seed ^ fnv64(number + 1))),
                inserts: inserts.clone(),
                one_field,
            };
            worker.work(steps)
        },
    )
}

/// One client at its workload.
struct Worker {
    actor: Actor,
    keys: KeyStyle,
    values: ValueMaker,
    inserts: Arc<Inserts>,
    one_field: bool,
}

impl Worker {
    async fn work(mut self, steps: Steps) {
        for step in steps {
            if self.actor.run().is_stopping() {
                break;
            }
            // What failed was counted; the next step is another attempt.
            let _: Result<(), Failed> = self.step(step).await;
        }
    }

    async fn step(&mut self, step: Step) -> Result<(), Failed> {
        match step {
            Step::Read(row) => self.actor.get(&self.keys.key(row)).await.map(drop),
            Step::Scan(row, rows) => {
                let from = self.keys.key(row);
                self.actor.scan(&from, rows).await.map(drop)
            }
            Step::Insert(row) => {
                let value = self.values.value();
                let result = self.actor.put(&self.keys.key(row), &value).await;
                self.inserts.finished(row);
                result
            }
            Step::Update(row) | Step::ReadModifyWrite(row) if reads_first(step, self.one_field) => {
                let (key, values) = (self.keys.key(row), &mut self.values);
                let change = |row: Option<bytes::Bytes>| match row {
                    Some(row) => values.with_new_field(&row),
                    None => values.value(),
                };
                self.actor.modify(&key, change).await
            }
            Step::Update(row) | Step::ReadModifyWrite(row) => {
                let value = self.values.value();
                self.actor.put(&self.keys.key(row), &value).await
            }
        }
    }
}

/// Whether what a step writes depends on what it reads: that is what parts the workloads A and F.
const fn reads_first(step: Step, one_field: bool) -> bool {
    match step {
        Step::ReadModifyWrite(_) => true,
        Step::Update(_) => one_field,
        Step::Read(_) | Step::Insert(_) | Step::Scan(..) => false,
    }
}

/// The rows of a workload, made one after the other.
struct MadeRows {
    keys: KeyStyle,
    values: ValueMaker,
    next: u64,
    end: u64,
}

impl Source for MadeRows {
    fn next_row(&mut self) -> Option<Result<Row, ReadError>> {
        (self.next < self.end).then(|| {
            let row = Row {
                key: self.keys.key(self.next),
                value: self.values.value(),
            };
            self.next += 1;
            Ok(row)
        })
    }

    fn line(&self) -> u64 {
        self.next
    }

    fn position(&self) -> u64 {
        self.next
    }
}

async fn load_rows(args: &BenchArgs, client: &Client, output: Output) -> Result<(), Error> {
    let workload = args.workload;
    let value_bytes = args.value_bytes.unwrap_or(workload.default_value_bytes());
    let rows = MadeRows {
        keys: workload.keys(),
        values: ValueMaker::new(value_bytes, args.seed),
        next: 0,
        end: args.keys,
    };
    let bar = output.bar(args.keys, "rows", "loading");
    let options = Options {
        skip_errors: false,
        patience: Duration::from_secs(60),
    };
    let summary = load::load(client, rows, options, |event| {
        if let Event::Written(rows) = event {
            bar.inc(rows);
        }
    })
    .await;
    bar.finish_and_clear();
    let failed = |stopped: load::LoadError| Err(stopped.about("rows of the workload".as_ref()));
    summary.stopped.map_or(Ok(()), failed)
}

fn write_sample(args: &BenchArgs, path: &PathBuf, output: Output) -> Result<(), Error> {
    let format = crate::sample::format_of(path, None)?;
    let keys = args.workload.keys().sample(args.keys, SAMPLE_KEYS);
    let mut text = Vec::new();
    for key in &keys {
        Format::write(format, &mut text, key, b"").map_err(Error::file("write", path))?;
    }
    std::fs::write(path, text).map_err(Error::file("write", path))?;
    if output.json {
        return output.json(&json!({ "keys": keys.len(), "file": path }));
    }
    output.line(&format!(
        "wrote {} to {}",
        counted(keys.len() as u64, "key"),
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_of_workload_a_are_blind_unless_asked_and_those_of_f_are_not() {
        let reading = |workload, one_field| {
            let steps = Steps::new(workload, 100, Arc::new(Inserts::new(100)), 1, 0);
            let steps = steps.take(1000);
            steps.filter(|step| reads_first(*step, one_field)).count()
        };
        assert_eq!(reading(Workload::YcsbA, false), 0);
        assert!(reading(Workload::YcsbA, true) > 400);
        assert!(reading(Workload::YcsbF, false) > 400);
    }
}
