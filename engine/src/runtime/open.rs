//! From a data directory to a running engine: what is opened, what is put together, and which threads it gets.

use super::apply;
use super::keeper::Keeper;
use super::mailbox::{Mailbox, mailbox};
use super::scrub::LogScrub;
use super::{
    Engine, Host, Shared, Threads, clock, held, readers, snapshots, spawn, work, worker_of,
};
use crate::apply::ApplyStage;
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::held::HeldStates;
use crate::reply::Places;
use crate::restore::{redo, restore};
use crate::snapshot::Carrier;
use crate::worker::{Input, Worker};
use parking_lot::Mutex;
use pontoon_store::{KeyValue, LsmSettings, LsmStore, Machine, ScrubSchedule, StateMachine};
use pontoon_types::{ClusterId, GroupId, NodeId};
use pontoon_wal::{DurabilityListener, LogIdentity, Recovered, SyncMode, Ticket, Wal, WalError};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How many threads serve reads and cold parts of the log.
const READERS: usize = 2;

/// A node's data directory, open and locked, before anything is served. `M` says what commands do.
pub struct Opened<M = KeyValue> {
    pub(super) node: NodeId,
    config: EngineConfig,
    pub(super) wal: Wal,
    pub(super) recovered: Recovered,
    pub(super) machine: Machine<LsmStore, M>,
    /// So much memory may states keep that are held.
    max_kept_bytes: u64,
    log_schedule: ScrubSchedule,
    news: Arc<LogNews>,
}

/// Takes the log's news to the workers, which start after it.
#[derive(Default)]
struct LogNews {
    hearers: OnceLock<Hearers>,
}

struct Hearers {
    workers: Vec<Mailbox<Input>>,
    host: Arc<dyn Host>,
}

impl DurabilityListener for LogNews {
    fn durable(&self, tickets: &[Ticket]) {
        let Some(hearers) = self.hearers.get() else {
            return;
        };
        for (index, mailbox) in hearers.workers.iter().enumerate() {
            let own = tickets
                .iter()
                .filter(|ticket| ticket.worker as usize == index);
            if let Some(sequence) = own.map(|ticket| ticket.sequence).max() {
                mailbox.tell(Input::Durable { sequence });
            }
        }
    }

    /// A leader's own promises wait for the disk, and so do those who read and write there: its followers would
    /// do better. It is not elected again meanwhile, for its own vote waits too.
    fn hung(&self, _: &'static str, _: Duration) {
        for mailbox in self.hearers.get().iter().flat_map(|it| &it.workers) {
            mailbox.tell(Input::LogHangs);
        }
    }

    fn failed(&self, error: &WalError) {
        tracing::error!(%error, "the log failed; the node stops");
        if let Some(hearers) = self.hearers.get() {
            hearers.host.failed(EngineError::LogFailed {
                message: error.to_string(),
            });
        }
    }
}

impl Opened {
    /// Opens the log and the store below `data_dir`, and recovers both. Commands are those of the key-value store.
    ///
    /// # Errors
    /// As [`Opened::open_with`] has them.
    pub fn open(
        data_dir: &Path,
        cluster: ClusterId,
        node: NodeId,
        config: EngineConfig,
        store: LsmSettings,
    ) -> Result<Self, EngineError> {
        Self::open_with(data_dir, cluster, node, config, store, KeyValue)
    }
}

impl<M: StateMachine> Opened<M> {
    /// Opens the log and the store below `data_dir`, and recovers both. All nodes of a cluster must have the same
    /// state machine.
    ///
    /// # Errors
    /// If a setting is wrong, another process has the directory, it belongs to another node, or what is
    /// in it cannot be read.
    pub fn open_with(
        data_dir: &Path,
        cluster: ClusterId,
        node: NodeId,
        config: EngineConfig,
        store: LsmSettings,
        commands: M,
    ) -> Result<Self, EngineError> {
        config.validate()?;
        let news = Arc::new(LogNews::default());
        let identity = LogIdentity { cluster, node };
        let log_dir = data_dir.join("log");
        let (wal, recovered) = Wal::open(&log_dir, config.wal.clone(), identity, news.clone())?;
        // One state keeps as much as the memtables of its time, at most, and is not to be given up for that.
        let max_kept_bytes = 2 * store.write_memory_bytes();
        let log_schedule = ScrubSchedule::new(&log_dir, store.scrub_interval);
        let store = LsmStore::open(&data_dir.join("store"), store)?;
        let machine = Machine::open_with(store, commands)?;
        Ok(Self {
            node,
            config,
            wal,
            recovered,
            machine,
            max_kept_bytes,
            log_schedule,
            news,
        })
    }

    /// The state machine, with what the node has noted about itself.
    pub fn machine(&mut self) -> &mut Machine<LsmStore, M> {
        &mut self.machine
    }

    /// What the log's recovery found.
    #[must_use]
    pub const fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Starts every replica that the store has a record of.
    ///
    /// # Errors
    /// If the log and the store do not belong together, or a thread cannot be started.
    pub fn start(self, host: Arc<dyn Host>) -> Result<Engine, EngineError> {
        let Self {
            node,
            config,
            wal,
            mut recovered,
            mut machine,
            max_kept_bytes,
            log_schedule,
            news,
        } = self;
        redo(&mut recovered, &mut machine)?;
        machine.set_tablets_aside()?;
        let replicas: Vec<_> = machine.replicas().cloned().collect();
        let mut workers: Vec<_> = (0..config.workers)
            .map(|index| Worker::new(node, index, &config))
            .collect();
        let mut quarantined = Vec::new();
        for record in &replicas {
            let worker = &mut workers[worker_of(record.group, config.workers)];
            let restored = match restore(record, &mut recovered, &machine) {
                // A log that is not synced may lose what the store has already applied.
                Err(error @ EngineError::LogBehindStore { .. })
                    if config.wal.sync != SyncMode::Always =>
                {
                    tracing::error!(%error, "the power went before the log was synced");
                    recovered.damaged.insert(record.group);
                    None
                }
                restored => restored?,
            };
            let Some(restored) = restored else {
                quarantined.push(record.group);
                worker.quarantine(record.clone(), clock::now());
                continue;
            };
            let added = worker.add_group(record.clone(), restored, clock::now());
            added.map_err(|error| EngineError::Restore {
                group: record.group,
                message: error.to_string(),
            })?;
        }
        if !quarantined.is_empty() {
            let line = quarantine_line(&quarantined);
            tracing::error!("{line}");
        }
        for worker in &mut workers {
            worker.remember(&recovered);
        }
        let (mailboxes, inboxes): (Vec<_>, Vec<_>) = workers
            .iter()
            .map(|_| mailbox(config.max_queued_inputs, config.max_queued_bytes))
            .unzip();
        let _ = news.hearers.set(Hearers {
            workers: mailboxes.clone(),
            host: host.clone(),
        });
        let max_reads = config.max_queued_inputs.saturating_mul(mailboxes.len());
        let shared = Arc::new(Shared {
            mailboxes,
            wal,
            drained: workers.iter().map(|_| AtomicBool::new(false)).collect(),
            lost: (workers.iter())
                .map(|worker| Mutex::new(worker.counters().lost))
                .collect(),
            halting: AtomicBool::new(false),
            scrub_is_wanted: AtomicBool::new(false),
            replicas: Mutex::new(replicas.into_iter().map(|one| (one.group, one)).collect()),
            held: Mutex::new(HeldStates::new(config.held_for, max_kept_bytes)),
        });
        let durability = machine.durability();
        let store = machine.store().monitor();
        let (apply, apply_jobs) = mailbox(usize::MAX, usize::MAX);
        let (readers, read_jobs) = crossbeam_channel::unbounded();
        let (carrier, carrier_jobs) = mailbox(config.max_queued_inputs, config.max_queued_bytes);
        let carried = Carrier::new(config.snapshots, clock::now());
        let told = Arc::new(Mutex::new(snapshots::Told::of(&carried)));
        let mut threads = Threads::default();

        for reader in 0..READERS {
            let (jobs, shared) = (read_jobs.clone(), shared.clone());
            threads
                .readers
                .push(spawn(format!("reader-{reader}"), &host, move || {
                    readers::run(&jobs, &shared);
                })?);
        }
        let stage = ApplyStage::new(machine);
        let (host_, shared_, readers_) = (host.clone(), shared.clone(), readers.clone());
        let carrier_ = carrier.clone();
        threads
            .apply
            .push(spawn("apply".to_owned(), &host, move || {
                let exits = apply::Exits {
                    readers: readers_,
                    carrier: carrier_,
                    shared: shared_,
                    host: host_.clone(),
                };
                if let Err(error) = apply::run(stage, &apply_jobs, &exits) {
                    tracing::error!(%error, "the store failed; the node stops");
                    host_.failed(EngineError::Store(error));
                }
            })?);
        for (index, (worker, inbox)) in workers.into_iter().zip(inboxes).enumerate() {
            let exits = work::Exits {
                shared: shared.clone(),
                host: host.clone(),
                apply: apply.clone(),
                readers: readers.clone(),
                carrier: carrier.clone(),
            };
            threads
                .workers
                .push(spawn(format!("worker-{index}"), &host, move || {
                    work::run(index, worker, &inbox, &exits);
                })?);
        }
        let exits = snapshots::Exits {
            shared: shared.clone(),
            host: host.clone(),
            apply: apply.clone(),
            told: told.clone(),
        };
        threads
            .carrier
            .push(spawn("snapshots".to_owned(), &host, move || {
                snapshots::run(carried, &carrier_jobs, &exits);
            })?);
        let (held, held_jobs) = mailbox(config.max_queued_inputs, config.max_queued_bytes);
        let (shared_, rate) = (shared.clone(), config.snapshots.bytes_per_second);
        threads.held.push(spawn("held".to_owned(), &host, move || {
            held::run(&held_jobs, &shared_, rate);
        })?);
        let keeper = Keeper {
            shared: shared.clone(),
            apply: apply.clone(),
            durability,
            store: store.clone(),
            interval: config.compaction_interval,
            flush_interval: config.flush_interval,
        };
        threads
            .keeper
            .push(spawn("keeper".to_owned(), &host, move || keeper.run())?);
        let scrub = LogScrub {
            shared: shared.clone(),
            schedule: log_schedule.clone(),
            budget: store.scrub_budget(),
        };
        threads
            .scrub
            .push(spawn("log-scrub".to_owned(), &host, move || scrub.run())?);
        Ok(Engine {
            shared,
            apply,
            readers,
            reads: Arc::new(Places::new(max_reads)),
            carrier,
            held,
            carried: told,
            store,
            log_schedule,
            threads: Mutex::new(threads),
        })
    }
}

/// What to say of replicas whose log is damaged: one line, however many there are.
fn quarantine_line(groups: &[GroupId]) -> String {
    const NAMED: usize = 8;
    let named: Vec<_> = groups.iter().take(NAMED).map(ToString::to_string).collect();
    let named = named.join(", ");
    match groups.len() {
        1 => format!("the log is damaged; quarantined the replica of group {named}"),
        count @ ..=NAMED => {
            format!("the log is damaged; quarantined {count} replicas, of groups {named}")
        }
        count => {
            let more = count - NAMED;
            format!(
                "the log is damaged; quarantined {count} replicas, of groups {named} and {more} more"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarantined_replicas_are_one_line() {
        let line = |count| quarantine_line(&(1..=count).map(GroupId).collect::<Vec<_>>());
        assert!(line(1).ends_with("the replica of group 1"), "{}", line(1));
        assert!(
            line(2).ends_with("2 replicas, of groups 1, 2"),
            "{}",
            line(2)
        );
        let many = line(65);
        assert!(
            many.contains("65 replicas") && many.ends_with("7, 8 and 57 more"),
            "{many}"
        );
    }
}
