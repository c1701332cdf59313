//! The course of a run.

use crate::chaos::{Chaos, Disturbance};
use crate::cli::Run;
use crate::history::{History, value_of};
use crate::load::Load;
use crate::report::{Faults, Report};
use bytes::Bytes;
use pontoon::connection::connect;
use pontoon::error::Error;
use pontoon::local::{Cluster, Layout};
use pontoon::output::Output;
use pontoon::workload::KeyStyle;
use pontoon_client::{Client, ClientError};
use pontoon_sim::invariants::{Invariant, Violation};
use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::sleep;

const NODES: u64 = 3;
/// Deadline of a call.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// Deadline of a call when nothing is disturbed any more.
const LAST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the cluster may take until it serves again. All nodes run then, or soon will.
const SERVES_AGAIN: Duration = Duration::from_secs(60);
/// So many calls must succeed between two disturbances.
const CALLS_BETWEEN: u64 = 40;
const CONNECTIONS: usize = 4;
/// Keys sampled to cut shards at.
const SAMPLE_KEYS: u64 = 1024;
/// Small, so that a run sees segments come and go, tables flushed and logs cut, and snapshots for who was away.
const SETTINGS: &str = "\
segment-bytes = \"1MiB\"
memtable-bytes = \"1MiB\"
block-cache-bytes = \"8MiB\"
log-tail-entries = 200
log = \"warn\"
";

/// Why a run did not end well.
#[derive(Debug, Error)]
enum Failure {
    /// Something that must not be.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// Nodes that did not start, or ended by themselves.
    #[error(transparent)]
    Cluster(#[from] Error),
    /// A call that must succeed when nothing is disturbed any more.
    #[error("when all was over: {0}")]
    Client(#[from] ClientError),
    /// Nobody served any more.
    #[error("{waited:.0?} after a disturbance {done} calls have succeeded; {wanted} should have")]
    Stuck {
        waited: Duration,
        done: u64,
        wanted: u64,
    },
}

/// Runs it, and says what came of it.
pub(crate) fn run(options: &Run) -> ExitCode {
    let output = Output::new(options.json);
    match block_on(prepare_and_run(options, output)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does it on a runtime of its own, unless somebody ends this process first; then the nodes are ended too.
pub(crate) fn block_on<T, E: From<Error>>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let system = |action| move |source| E::from(Error::System { action, source });
    let runtime = tokio::runtime::Runtime::new().map_err(system("start the runtime"))?;
    runtime.block_on(async {
        // Dropping what is under way ends the nodes.
        let mut terminate = signal(SignalKind::terminate()).map_err(system("wait for signals"))?;
        tokio::select! {
            result = work => result,
            _ = tokio::signal::ctrl_c() => Err(Error::Interrupted.into()),
            _ = terminate.recv() => Err(Error::Interrupted.into()),
        }
    })
}

/// Returns whether all was well.
async fn prepare_and_run(options: &Run, output: Output) -> Result<bool, Error> {
    let seed = options.seed.unwrap_or_else(rand::random);
    let sample = KeyStyle::Hashed.sample(SAMPLE_KEYS, SAMPLE_KEYS);
    let shards = options.shards as usize;
    let layout = Layout::make(options.data_dir.as_deref(), NODES, shards, sample)?;
    let settings = format!("{SETTINGS}lease-reads = {}\n", options.lease_reads);
    let mut layout = layout.with_settings(&settings)?;
    output.note(&format!(
        "seed {seed}: {} kills, nodes in {}",
        options.kills,
        layout.directory().display()
    ));
    let history = Arc::new(History::new());
    let began = Instant::now();
    let mut faults = Faults::default();
    let course = Course {
        options,
        output,
        layout: &layout,
        history: &history,
        seed,
    };
    let result = course.run(&mut faults).await;
    let report = Report {
        seed,
        faults,
        keys: history.keys().len(),
        checked: *result.as_ref().unwrap_or(&0),
        found: result.err().map(|failure| failure.to_string()),
        took: began.elapsed(),
    };
    if options.json {
        output.line(&report.to_json(&history.counts))?;
    } else {
        output.line(&report.to_table(&history.counts))?;
    }
    let Some(found) = report.found else {
        return Ok(true);
    };
    eprintln!("{found}");
    eprintln!("everything is kept in {}", layout.keep().display());
    Ok(false)
}

struct Course<'a> {
    options: &'a Run,
    output: Output,
    layout: &'a Layout,
    history: &'a Arc<History>,
    seed: u64,
}

impl Course<'_> {
    /// Returns how many calls were checked.
    async fn run(&self, faults: &mut Faults) -> Result<u64, Failure> {
        let mut cluster = Cluster::start(self.layout, true).await?;
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(self.client(REQUEST_TIMEOUT).await?);
        }
        let (load, clients) = Load::start(
            self.history.clone(),
            &connections,
            self.options.keys,
            self.options.clients,
            self.seed,
        );
        self.disturb(&mut cluster, &load, faults).await?;
        load.stop();
        clients.join_all().await;
        drop(connections);

        self.output
            .note("killing all nodes once more, and reading every key");
        cluster.stop().await?;
        self.layout.wait_for_ports().await;
        let mut cluster = Cluster::start(self.layout, true).await?;
        self.read_all().await?;
        load.found().map_or(Ok(()), Err)?;
        cluster.is_whole(self.layout)?;
        cluster.stop().await?;
        let history = self.history.clone();
        let checked = move || history.check(&history.keys());
        let checked = tokio::task::spawn_blocking(checked).await;
        Ok(checked.expect("the check does not panic")?)
    }

    /// A client that knows nothing yet.
    async fn client(&self, timeout: Duration) -> Result<Client, Error> {
        connect(&self.layout.endpoints(), &self.layout.certs(), timeout).await
    }

    /// Disturbs the nodes until enough of them were killed.
    async fn disturb(
        &self,
        cluster: &mut Cluster,
        load: &Load,
        faults: &mut Faults,
    ) -> Result<(), Failure> {
        let nodes = self.layout.nodes.iter().map(|(node, _)| *node).collect();
        let mut chaos = Chaos::new(self.seed, nodes);
        let bar = self.output.bar(self.options.kills, "kills", "killing");
        loop {
            self.wait_until_served(cluster, load, faults).await?;
            load.found().map_or(Ok(()), Err)?;
            self.history.check(&load.take_left())?;
            let left = self.options.kills - faults.kills;
            if left == 0 {
                bar.finish_and_clear();
                return Ok(());
            }
            sleep(chaos.calm()).await;
            let disturbance = chaos.draw(left);
            self.act(cluster, &disturbance, faults).await?;
            bar.set_position(faults.kills);
            bar.set_message(format!("{} calls", self.history.counts.done()));
        }
    }

    async fn act(
        &self,
        cluster: &mut Cluster,
        disturbance: &Disturbance,
        faults: &mut Faults,
    ) -> Result<(), Failure> {
        faults.kills += disturbance.kills();
        let deaths = match disturbance {
            Disturbance::Pause(node, pause) => {
                faults.pauses += 1;
                cluster.suspend(*node, true)?;
                sleep(*pause).await;
                cluster.suspend(*node, false)?;
                return Ok(());
            }
            Disturbance::Deaths(deaths) => deaths,
        };
        faults.outages += u64::from(deaths.len() as u64 == NODES);
        for death in deaths {
            sleep(death.later).await;
            cluster.kill(self.layout, death.node).await?;
        }
        let mut comebacks = deaths.clone();
        comebacks.sort_by_key(|death| death.away);
        let since = Instant::now();
        for death in comebacks {
            sleep(death.away.saturating_sub(since.elapsed())).await;
            cluster.start_again(self.layout, death.node)?;
            if let Some(again) = death.again {
                faults.in_recovery += 1;
                sleep(again).await;
                cluster.is_whole(self.layout)?;
                cluster.kill(self.layout, death.node).await?;
                cluster.start_again(self.layout, death.node)?;
            }
        }
        Ok(())
    }

    async fn wait_until_served(
        &self,
        cluster: &mut Cluster,
        load: &Load,
        faults: &mut Faults,
    ) -> Result<(), Failure> {
        let (began, before) = (Instant::now(), self.history.counts.done());
        loop {
            cluster.is_whole(self.layout)?;
            let (waited, done) = (began.elapsed(), self.history.counts.done() - before);
            if done >= CALLS_BETWEEN || load.found().is_some() {
                faults.longest_wait = faults.longest_wait.max(waited);
                return Ok(());
            }
            if waited > SERVES_AGAIN {
                let wanted = CALLS_BETWEEN;
                return Err(Failure::Stuck {
                    waited,
                    done,
                    wanted,
                });
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// A client that knows nothing reads every key that was ever used, and all rows: there must be no others.
    async fn read_all(&self) -> Result<(), Failure> {
        let client = self.client(LAST_TIMEOUT).await?;
        let keys = self.history.keys();
        let names: HashMap<Bytes, u64> = keys
            .iter()
            .map(|key| (KeyStyle::Hashed.key(*key), *key))
            .collect();
        let bar = self.output.bar(keys.len() as u64, "keys", "reading");
        for some in keys.chunks(64) {
            let mut reads = JoinSet::new();
            for key in some.iter().copied() {
                let (client, history) = (client.clone(), self.history.clone());
                reads.spawn(async move {
                    let began = history.now();
                    let found = client.get(&KeyStyle::Hashed.key(key)).await?;
                    history.read(key, began, value_of(key, found.as_deref())?);
                    Ok::<_, Failure>(())
                });
            }
            for read in reads.join_all().await {
                read?;
            }
            bar.inc(some.len() as u64);
        }
        bar.finish_and_clear();
        let mut rows = client.scan_pages(b"", None);
        while let Some((key, value)) = rows.next().await? {
            let Some(number) = names.get(&key) else {
                let what = format!("{key:?} was never written, and is there");
                return Err(Violation::new(Invariant::S8, what).into());
            };
            value_of(*number, Some(&value))?;
        }
        Ok(())
    }
}
