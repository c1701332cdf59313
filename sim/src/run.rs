//! Running seeds and adding up what came of them.

use crate::faults::{Fault, FaultCounts};
use crate::invariants::{Invariant, Violation};
use crate::profile::{Scale, Theme};
use crate::world::{Report, World};
use pontoon_types::Instant;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::{ControlFlow, RangeInclusive};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Once, mpsc};
use std::time::Duration;

/// The fewest faults that a seed of a swarm may have.
const FAULTS_PER_SEED: u64 = 20;
/// Over so many seeds every kind of fault must have been used.
const SEEDS_FOR_EVERY_FAULT: u64 = 100;

thread_local! {
    /// Where the last panic of this thread was, and what it said.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    /// A seed is being run.
    static IN_A_SEED: Cell<bool> = const { Cell::new(false) };
}

/// Runs one seed. An assertion that fails in the code under test is a violation like any other.
#[must_use]
pub fn simulate(seed: u64, theme: Theme, scale: Scale, prints: bool) -> Report {
    remember_panics();
    let world = AssertUnwindSafe(|| World::new(seed, theme, scale, prints).run());
    IN_A_SEED.set(true);
    let report = panic::catch_unwind(world);
    IN_A_SEED.set(false);
    report.unwrap_or_else(|_| {
        let what = LAST_PANIC.take().unwrap_or_default();
        let violation = Violation::new(Invariant::NoPanic, what);
        Report::of_panic(seed, Instant::ZERO, violation)
    })
}

/// Runs seeds on `jobs` threads, each seed on one of them, and hands over what came of it in the order of the
/// seeds, so that nothing depends on the threads. Ends early when `take` has seen enough.
pub fn in_order<T: Send>(
    seeds: RangeInclusive<u64>,
    jobs: u64,
    run: impl Fn(u64) -> T + Sync,
    mut take: impl FnMut(u64, T) -> ControlFlow<()>,
) {
    let next = AtomicU64::new(*seeds.start());
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (sender, next, seeds, run) = (sender.clone(), &next, &seeds, &run);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) || sender.send((seed, run(seed))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut finished = BTreeMap::new();
        let mut expected = *seeds.start();
        for (seed, result) in receiver {
            finished.insert(seed, result);
            while let Some(result) = finished.remove(&expected) {
                if take(expected, result).is_break() {
                    return;
                }
                expected += 1;
            }
        }
    });
}

/// Keeps the words of a seed's panic instead of printing them in the midst of the progress.
fn remember_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if IN_A_SEED.get() {
                LAST_PANIC.set(Some(info.to_string()));
            } else {
                others(info);
            }
        }));
    });
}

/// What came of many seeds.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds that were run.
    pub seeds: u64,
    /// Those in which an invariant was broken, or that were not the same twice.
    pub failed: Vec<u64>,
    /// Events.
    pub events: u64,
    /// Injected faults.
    pub faults: FaultCounts,
    /// Those of them that served counters.
    pub counts: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Elections won.
    pub elections: u64,
    /// Entries applied, over all replicas.
    pub applied: u64,
    /// Calls of clients.
    pub calls: u64,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Restarts of processes.
    pub restarts: u64,
    /// Segments that logs gave back.
    pub compactions: u64,
    /// Reads of the log for replicas that lag.
    pub fetches: u64,
    /// Starts of replicas that found their log damaged.
    pub quarantined: u64,
    /// Places of damage that scrubbing found in logs of running nodes.
    pub scrubbed: u64,
    /// Snapshots that were put in place.
    pub snapshots: u64,
    /// Changes of members that were made.
    pub changes: u64,
    /// The fewest faults that a seed had.
    pub fewest_faults: Option<u64>,
}

impl Summary {
    /// Adds a seed's report.
    pub fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.counts += u64::from(report.counts);
        self.events += report.events;
        self.faults.add(&report.faults);
        self.simulated += report.simulated;
        self.elections += report.elections;
        self.applied += report.applied;
        self.calls += report.calls;
        self.acknowledged += report.acknowledged;
        self.restarts += report.restarts;
        self.compactions += report.compactions;
        self.fetches += report.fetches;
        self.quarantined += report.quarantined;
        self.scrubbed += report.scrubbed;
        self.snapshots += report.snapshots;
        self.changes += report.changes;
        let faults = report.faults.total();
        self.fewest_faults = Some(
            self.fewest_faults
                .map_or(faults, |fewest| fewest.min(faults)),
        );
        if report.violation.is_some() {
            self.failed.push(report.seed);
        }
    }

    /// What a run of [`Theme::Swarm`] at full length owes and has not delivered: a number of faults in each
    /// seed, and, over enough seeds, every kind of them.
    #[must_use]
    pub fn shortcomings(&self) -> Vec<String> {
        let mut shortcomings = Vec::new();
        if let Some(fewest) = self.fewest_faults
            && fewest < FAULTS_PER_SEED
        {
            shortcomings.push(format!(
                "a seed had {fewest} faults, fewer than {FAULTS_PER_SEED}"
            ));
        }
        if self.seeds >= SEEDS_FOR_EVERY_FAULT {
            let unused = self.unused_faults();
            let unused = unused.iter().map(|fault| fault.name());
            shortcomings.extend(unused.map(|name| format!("no seed had the fault {name:?}")));
        }
        shortcomings
    }

    /// How many times faster than real time it went.
    #[must_use]
    pub fn speed(&self, real: Duration) -> f64 {
        self.simulated.as_secs_f64() / real.as_secs_f64().max(1e-9)
    }

    /// The kinds of faults that were never injected.
    #[must_use]
    pub fn unused_faults(&self) -> Vec<Fault> {
        let all = Fault::ALL.iter().copied();
        all.filter(|fault| self.faults.of(*fault) == 0).collect()
    }
}
