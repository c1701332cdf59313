//! The course of a demo.

use super::DemoArgs;
use crate::cluster_view::ClusterView;
use crate::connection::connect;
use crate::drive::{Actor, Clients, Failed, Run};
use crate::error::Error;
use crate::formats::{Reader, Row};
use crate::history::History;
use crate::local::{Cluster, Layout};
use crate::measure::{Counters, Report, floor::Floor, process_cpu_us};
use crate::output::{Output, agreeing, bytes, count, counted};
use crate::sample;
use crate::verbs::bench::probe;
use crate::verification::Verification;
use crate::workload::{KeyStyle, ValueMaker, fnv64};
use indicatif::ProgressBar;
use parking_lot::Mutex;
use pontoon_client::Client;
use pontoon_shard_router::cut_at_samples;
use pontoon_types::{Limits, NodeId};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Deadline of a request; longer than an election, so that clients live through one.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a row of a file is tried again while its shard cannot be written; as long as `load` does.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long shards may be without a leader after a start.
const LEADERS_TIMEOUT: Duration = Duration::from_secs(60);
const WARM_UP: Duration = Duration::from_secs(1);
/// How often the load is looked at.
const INTERVAL: Duration = Duration::from_millis(100);
/// How much of the load is over when a node is killed, and from where on a file waits for that.
const KILL_AT: f64 = 0.4;
const HELD_FROM: f64 = 0.6;
/// How long a killed node stays away.
const AWAY: Duration = Duration::from_millis(1500);
/// Keys sampled from the generated ones, to cut shards at, however few they are.
const SAMPLE_KEYS: u64 = 16_384;
/// The same for each of many shards, so that they come out about as large as each other.
const SAMPLE_KEYS_PER_SHARD: u64 = 16;

/// A demo whose directories are made.
pub(super) struct Demo {
    args: DemoArgs,
    output: Output,
    layout: Layout,
    /// As many as were asked for, or as there are keys to cut at.
    shards: usize,
    floor: Floor,
}

/// A file whose rows the clients share.
struct SharedFile {
    path: PathBuf,
    reader: Mutex<Reader<BufReader<File>>>,
    length: u64,
    /// Whether clients may read it to its end. If a node is to be killed, that comes first.
    may_end: watch::Sender<bool>,
    /// Why nobody goes on with it.
    failed: Mutex<Option<Error>>,
}

impl Demo {
    pub(super) async fn prepare(args: DemoArgs) -> Result<Self, Error> {
        let output = Output::new(args.json);
        let limit = Limits::default().max_value_bytes;
        if args.value_bytes > limit {
            let given = args.value_bytes;
            return Err(Error::Usage(format!(
                "--value-bytes is {given}; the demo's nodes take values of up to {limit} bytes"
            )));
        }
        let sample = match &args.load {
            // All of it, so that what is wrong with it is known before anything is started.
            Some(path) => sample::keys_of_file_to_load(path)?,
            None => KeyStyle::Hashed.sample(args.keys, keys_to_sample(args.shards)),
        };
        let shards = cut_at_samples(&sample, args.shards as usize).shards();
        if shards < args.shards as usize {
            output.note(&format!(
                "--shards is {}, but the keys are enough for {} only",
                count(args.shards.into()),
                counted(shards as u64, "shard")
            ));
        }
        let data_dir = args.data_dir.as_deref();
        let mut layout = Layout::make(data_dir, args.nodes, shards, sample)?;
        if let Some(workers) = args.workers {
            layout = layout.with_settings(&format!("workers = {workers}\n"))?;
        }
        output.note("probing the disk");
        let floor = probe(layout.directory().to_owned()).await?;
        Ok(Self {
            args,
            output,
            layout,
            shards,
            floor,
        })
    }

    pub(super) async fn run(mut self) -> Result<(), Error> {
        let args = &self.args;
        self.output.note(&format!(
            "starting {} with {} in {}",
            counted(args.nodes, "node"),
            counted(self.shards as u64, "shard"),
            self.layout.directory().display()
        ));
        let mut cluster = Cluster::start(&self.layout, args.kill).await?;
        let client = self.client().await?;
        self.wait_for_leaders(&client).await?;

        let history = Arc::new(History::default());
        let run = Run::new(Some(history.clone()));
        let mut report = match &args.load {
            Some(path) => {
                let file = SharedFile {
                    path: path.clone(),
                    length: std::fs::metadata(path).map_or(0, |file| file.len()),
                    may_end: watch::Sender::new(!args.kill),
                    reader: Mutex::new(sample::open(path, None)?),
                    failed: Mutex::new(None),
                };
                let file = Arc::new(file);
                let report = self.load(&mut cluster, &client, &run, Some(&file)).await?;
                if let Some(error) = file.failed.lock().take() {
                    return Err(error);
                }
                report
            }
            None => self.load(&mut cluster, &client, &run, None).await?,
        };
        drop(client);

        self.output.note("restarting all nodes");
        cluster.wait_until_ready(&self.layout).await?;
        cluster.stop().await?;
        self.layout.wait_for_ports().await;
        self.output.note("probing the disk again");
        let after = probe(self.layout.directory().to_owned()).await?;
        report.set_floor(self.floor.mean(after));
        let cluster = Cluster::start(&self.layout, args.kill).await?;
        let verification = self.verify(&history).await?;
        report.set_verification(&verification);
        cluster.stop().await?;

        if let Some(error) = run.first_error() {
            self.output.note(&format!("first error: {error}"));
        }
        if args.json {
            self.output.line(&report.to_json())?;
        } else {
            self.output.line(&report.to_table())?;
            self.output.line("")?;
            self.output.line(&verification.to_text())?;
        }
        let result = judge(verification);
        if result.is_err() {
            let place = self.layout.keep().display().to_string();
            self.output.note(&format!("everything is kept in {place}"));
        }
        result
    }

    /// A client that knows nothing yet.
    async fn client(&self) -> Result<Client, Error> {
        connect(
            &self.layout.endpoints(),
            &self.layout.certs(),
            REQUEST_TIMEOUT,
        )
        .await
    }

    async fn wait_for_leaders(&self, client: &Client) -> Result<(), Error> {
        let began = Instant::now();
        loop {
            let view = ClusterView::look(client).await;
            let without = view.shards_without_leader();
            if view.user_shards() > 0 && without == 0 {
                return Ok(());
            }
            if began.elapsed() > LEADERS_TIMEOUT {
                let shards = counted(without as u64, "shard");
                let found = agreeing(without, "has", "have");
                let problem = format!("{shards} {found} found no leader");
                return Err(Error::Unhealthy(problem));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Lets the clients write, kills a node meanwhile if that was asked for, and reports.
    async fn load(
        &self,
        cluster: &mut Cluster,
        client: &Client,
        run: &Arc<Run>,
        file: Option<&Arc<SharedFile>>,
    ) -> Result<Report, Error> {
        let spinner = self.output.spinner("writing");
        let warm = match file {
            // It may be over in a moment, so all of it is measured.
            Some(_) => None,
            None => {
                let clients = self.start_clients(client, run, None);
                clients.work_for(WARM_UP, |_, _| {}).await;
                Some(clients)
            }
        };
        let before = ClusterView::look(client).await;
        let cpu_before = process_cpu_us();
        run.start_measuring();

        let began = Instant::now();
        let mut clients = warm.unwrap_or_else(|| self.start_clients(client, run, file));
        let mut trouble = Trouble::new(self.args.kill);
        let mut last = (began, run.done());
        loop {
            // Clients of a file end with it, and so does the window.
            let over = clients.end_within(INTERVAL).await
                || file.is_none() && began.elapsed() >= Duration::from_secs(self.args.seconds);
            let part = self.part_done(began, file);
            let rate = (run.done() - last.1) as f64 / last.0.elapsed().as_secs_f64().max(1e-3);
            last = (Instant::now(), run.done());
            self.show(&spinner, began, rate, file);
            // Before the end is looked at: no load outruns the kill that was asked for.
            if part >= KILL_AT {
                let note = trouble.make(&self.layout, cluster, &before).await?;
                if let Some(note) = note {
                    spinner.suspend(|| self.output.note(&note));
                }
                if let Some(file) = file {
                    file.may_end.send_replace(true);
                }
            }
            if over {
                break;
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        run.stop();
        let cpu = process_cpu_us() - cpu_before;
        let after = ClusterView::look(client).await;
        let recorder = clients.finish().await;
        spinner.finish_and_clear();
        // If there was no time for it, it is done now: the proof needs all nodes.
        trouble.end(&self.layout, cluster)?;

        let mut report = Report {
            nodes: before.nodes.len(),
            shards: before.user_shards(),
            clients: self.args.clients as usize,
            ..Report::default()
        };
        report.set_clients(recorder, seconds);
        let counters = |view: &ClusterView| Counters::new(view.statuses().cloned());
        let (before, after) = (counters(&before), counters(&after));
        let cpu = (!self.args.kill).then_some((cpu, "this process: all nodes and all clients"));
        let mut rates = before.rates_until(&after, seconds);
        // It may be back already, and so soon that its counters do not tell.
        rates.retain(|node| trouble.killed() != Some(NodeId(node.node)));
        let not_counted = before.left_out(&rates);
        report.set_nodes(rates, not_counted, cpu);
        Ok(report)
    }

    fn start_clients(
        &self,
        client: &Client,
        run: &Arc<Run>,
        file: Option<&Arc<SharedFile>>,
    ) -> Clients {
        let count = self.args.clients as usize;
        match file.cloned() {
            Some(file) => Clients::start(run.clone(), client, count, move |actor, _| {
                write_file(actor, file.clone())
            }),
            None => {
                let (keys, value_bytes) = (self.args.keys, self.args.value_bytes);
                Clients::start(run.clone(), client, count, move |actor, number| {
                    write_generated(actor, number, keys, value_bytes)
                })
            }
        }
    }

    /// How much of the load is over, from 0 to 1.
    fn part_done(&self, began: Instant, file: Option<&Arc<SharedFile>>) -> f64 {
        match file {
            Some(file) => file.part_read(),
            None => began.elapsed().as_secs_f64() / self.args.seconds as f64,
        }
    }

    fn show(
        &self,
        spinner: &ProgressBar,
        began: Instant,
        rate: f64,
        file: Option<&Arc<SharedFile>>,
    ) {
        let done = match file {
            Some(file) => format!(
                "{} of {}",
                bytes(file.reader.lock().bytes_read() as f64),
                bytes(file.length as f64)
            ),
            None => format!("{} of {} s", began.elapsed().as_secs(), self.args.seconds),
        };
        spinner.set_message(format!("{done}, {} writes/s", count(rate)));
    }

    /// The proof, by a client that knows nothing.
    async fn verify(&self, history: &History) -> Result<Verification, Error> {
        let client = self.client().await?;
        self.wait_for_leaders(&client).await?;
        let spinner = self.output.spinner("verifying");
        let found = Verification::of(&client, history, false, |rows| {
            spinner.set_message(format!("verifying: {}", counted(rows, "row")));
        })
        .await;
        spinner.finish_and_clear();
        found
    }
}

/// How many of the generated keys to sample.
fn keys_to_sample(shards: u32) -> u64 {
    SAMPLE_KEYS.max(SAMPLE_KEYS_PER_SHARD * u64::from(shards))
}

/// Whether something was acknowledged, and all of it is there: a demo that wrote nothing proves nothing.
fn judge(found: Verification) -> Result<(), Error> {
    let acked = found.acked;
    found.into_result()?;
    if acked == 0 {
        let problem = "no write was acknowledged, so nothing was proved";
        return Err(Error::Unhealthy(problem.to_owned()));
    }
    Ok(())
}

/// A node's death and return.
enum Trouble {
    None,
    Ahead,
    Away { node: NodeId, since: Instant },
    Over { node: NodeId },
}

impl Trouble {
    fn new(is_wanted: bool) -> Self {
        if is_wanted { Self::Ahead } else { Self::None }
    }

    /// Who was killed, back or not.
    const fn killed(&self) -> Option<NodeId> {
        match *self {
            Self::Away { node, .. } | Self::Over { node } => Some(node),
            Self::None | Self::Ahead => None,
        }
    }

    /// Does what is due, and says what was done.
    async fn make(
        &mut self,
        layout: &Layout,
        cluster: &mut Cluster,
        before: &ClusterView,
    ) -> Result<Option<String>, Error> {
        match *self {
            Self::Ahead => {
                let leads = |node: &NodeId| before.led_by(node.0);
                let nodes = layout.nodes.iter().map(|(node, _)| *node);
                let Some(node) = nodes.max_by_key(leads) else {
                    return Ok(None);
                };
                cluster.kill(layout, node).await?;
                let since = Instant::now();
                *self = Self::Away { node, since };
                Ok(Some(format!(
                    "killed node {node}, which led {}",
                    counted(leads(&node) as u64, "shard")
                )))
            }
            Self::Away { node, since } if since.elapsed() >= AWAY => {
                self.end(layout, cluster)?;
                Ok(Some(format!("started node {node} again")))
            }
            Self::Away { .. } | Self::Over { .. } | Self::None => Ok(None),
        }
    }

    fn end(&mut self, layout: &Layout, cluster: &mut Cluster) -> Result<(), Error> {
        if let Self::Away { node, .. } = *self {
            cluster.start_again(layout, node)?;
            *self = Self::Over { node };
        }
        Ok(())
    }
}

/// Writes generated rows until the run stops.
async fn write_generated(mut actor: Actor, number: u64, keys: u64, value_bytes: usize) {
    let seed = fnv64(number + 1);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut values = ValueMaker::new(value_bytes, !seed);
    while !actor.run().is_stopping() {
        let key = KeyStyle::Hashed.key(rng.random_range(0..keys));
        let value = values.value();
        // What failed was counted and noted.
        let _ = actor.put(&key, &value).await;
    }
}

/// Writes rows of the file until it ends. A row whose outcome is unknown, or which the cluster could not
/// take just now, is written again: the file is to be there in the end. A row that is refused for what it
/// is, or that could not be written for [`PATIENCE`], ends the demo.
async fn write_file(mut actor: Actor, file: Arc<SharedFile>) {
    while let Some((line, row)) = file.next().await {
        let began = Instant::now();
        while let Err(Failed(source)) = actor.put(&row.key, &row.value).await {
            if !source.is_transient() || began.elapsed() >= PATIENCE {
                let path = file.path.clone();
                file.fail(Error::Row { path, line, source });
            }
            if file.has_failed() || actor.run().is_stopping() {
                return;
            }
        }
    }
}

impl SharedFile {
    /// The next row, with the number of its line; held back while the file may not end.
    async fn next(&self) -> Option<(u64, Row)> {
        if !*self.may_end.borrow() && self.part_read() >= HELD_FROM {
            // The sender is ours, so whoever waits is told.
            let _ = self.may_end.subscribe().wait_for(|may_end| *may_end).await;
        }
        let mut reader = self.reader.lock();
        if self.has_failed() {
            return None;
        }
        let error = match reader.next()? {
            Ok(row) => return Some((reader.line(), row)),
            Err(error) => sample::read_error(&self.path, error),
        };
        self.fail(error);
        None
    }

    /// How much of it has been read, from 0 to 1.
    fn part_read(&self) -> f64 {
        self.reader.lock().bytes_read() as f64 / self.length.max(1) as f64
    }

    /// Lets nobody go on; the first reason counts.
    fn fail(&self, error: Error) {
        self.failed.lock().get_or_insert(error);
    }

    fn has_failed(&self) -> bool {
        self.failed.lock().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_enough_for_as_many_shards_as_there_are_keys() {
        for shards in [1, 20_000, 100_000] {
            let sample = KeyStyle::Hashed.sample(100_000, keys_to_sample(shards));
            assert!(!cut_at_samples(sample, shards as usize).is_short());
        }
    }

    #[test]
    fn a_demo_that_wrote_nothing_has_failed() {
        let error = judge(Verification::default()).unwrap_err();
        assert!(error.to_string().contains("no write"), "{error}");
        let acked = 1;
        let found = Verification {
            acked,
            ..Verification::default()
        };
        assert!(judge(found).is_ok());
    }
}
