//! Whole runs: some seeds hold all invariants, and a seed is the same every time.

use pontoon_sim::{Fault, FaultCounts, Scale, Summary, Theme, simulate};

/// Short enough for a build without optimisations.
const SHORT: Scale = Scale {
    nodes: 3,
    groups: 4,
    simulated_seconds: 15,
};

#[test]
fn a_few_seeds_hold_every_invariant_under_many_faults() {
    let mut summary = Summary::default();
    for seed in 1..=32 {
        let report = simulate(seed, Theme::Swarm, SHORT, false);
        assert_eq!(report.violation, None, "seed {seed}");
        summary.add(&report);
    }
    assert!(summary.acknowledged > 500, "{summary:?}");
    assert!(summary.restarts > 50, "{summary:?}");
    assert!(summary.compactions > 0, "{summary:?}");
    assert!(summary.fetches > 0, "{summary:?}");
    assert!(summary.faults.total() > 200, "{summary:?}");
    assert_eq!(summary.unused_faults(), Vec::<Fault>::new());
}

#[test]
fn members_that_change_all_the_time_break_nothing() {
    let mut summary = Summary::default();
    for seed in 1..=16 {
        let report = simulate(seed, Theme::Membership, SHORT, false);
        assert_eq!(report.violation, None, "seed {seed}");
        summary.add(&report);
    }
    assert!(summary.changes > 30, "{summary:?}");
    assert!(summary.snapshots > 10, "{summary:?}");
    assert!(summary.counts > 0, "none served counters: {summary:?}");
}

#[test]
fn a_seed_is_the_same_every_time_and_unlike_the_others() {
    let first = simulate(7, Theme::Swarm, SHORT, false);
    let again = simulate(7, Theme::Swarm, SHORT, false);
    assert_eq!(first.trace_hash, again.trace_hash);
    assert_eq!(first.events, again.events);
    assert_eq!(first.faults, again.faults);
    assert_ne!(
        first.trace_hash,
        simulate(8, Theme::Swarm, SHORT, false).trace_hash
    );
}

#[test]
fn other_sizes_of_cluster_hold_too() {
    for (nodes, groups) in [(1, 2), (2, 1), (5, 3), (7, 6)] {
        let scale = Scale {
            nodes,
            groups,
            simulated_seconds: 8,
        };
        for seed in 1..=2 {
            let report = simulate(seed, Theme::Swarm, scale, false);
            assert_eq!(report.violation, None, "seed {seed}, {scale:?}");
            assert!(report.calls > 0, "seed {seed}, {scale:?}");
        }
    }
}

#[test]
fn themes_have_their_faults_and_no_others() {
    let run = |theme| {
        let mut faults = FaultCounts::default();
        for seed in 1..=2 {
            let report = simulate(seed, theme, SHORT, false);
            assert_eq!(report.violation, None, "seed {seed}, {theme:?}");
            faults.add(&report.faults);
        }
        faults
    };
    assert_eq!(run(Theme::Calm).total(), 0);
    let disk = run(Theme::Disk);
    assert!(disk.of(Fault::TornWrite) > 0 && disk.of(Fault::Partition) == 0);
    let network = run(Theme::Network);
    assert!(network.of(Fault::Partition) > 0 && network.of(Fault::Kill) == 0);
}
