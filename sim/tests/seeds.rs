//! Whole runs: some seeds hold all invariants, and a seed is the same every time.

use pontoon_sim::{Fault, Scale, Summary, simulate};

/// Short enough for a build without optimisations.
const SHORT: Scale = Scale {
    nodes: 3,
    groups: 4,
    simulated_seconds: 15,
};

#[test]
fn a_few_seeds_hold_every_invariant_under_many_faults() {
    let mut summary = Summary::default();
    for seed in 1..=12 {
        let report = simulate(seed, SHORT, false);
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
fn a_seed_is_the_same_every_time_and_unlike_the_others() {
    let first = simulate(7, SHORT, false);
    let again = simulate(7, SHORT, false);
    assert_eq!(first.trace_hash, again.trace_hash);
    assert_eq!(first.events, again.events);
    assert_eq!(first.faults, again.faults);
    assert_ne!(first.trace_hash, simulate(8, SHORT, false).trace_hash);
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
            let report = simulate(seed, scale, false);
            assert_eq!(report.violation, None, "seed {seed}, {scale:?}");
            assert!(report.calls > 0, "seed {seed}, {scale:?}");
        }
    }
}
