//! The summary, for people and for programs.

use pontoon_sim::{Fault, Summary};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Prints the summary for a person.
pub(crate) fn print_summary(summary: &Summary, real: Duration, jobs: u64) {
    let row = |name: &str, value: String| println!("{name:<34} {value:>14}");
    row("seeds", summary.seeds.to_string());
    row("  that served counters", summary.counts.to_string());
    row("failed", summary.failed.len().to_string());
    row("events", summary.events.to_string());
    row("elections won", summary.elections.to_string());
    row("entries applied, all replicas", summary.applied.to_string());
    row("calls of clients", summary.calls.to_string());
    row("writes acknowledged", summary.acknowledged.to_string());
    row("processes restarted", summary.restarts.to_string());
    row(
        "log reads for lagging replicas",
        summary.fetches.to_string(),
    );
    row("replicas quarantined", summary.quarantined.to_string());
    row("damage found by scrubbing", summary.scrubbed.to_string());
    row("snapshots put in place", summary.snapshots.to_string());
    row("changes of members", summary.changes.to_string());
    row("log segments given back", summary.compactions.to_string());
    row("faults", summary.faults.total().to_string());
    for fault in Fault::ALL {
        row(
            &format!("  {}", fault.name()),
            summary.faults.of(*fault).to_string(),
        );
    }
    if let Some(fewest) = summary.fewest_faults {
        row("fewest faults in a seed", fewest.to_string());
    }
    row(
        "simulated",
        format!("{:.1} s", summary.simulated.as_secs_f64()),
    );
    row("real", format!("{:.1} s", real.as_secs_f64()));
    let threads = if jobs == 1 {
        "1 thread".to_owned()
    } else {
        format!("{jobs} threads")
    };
    row(
        "speed",
        format!("{:.0} x, on {threads}", summary.speed(real)),
    );
    if !summary.failed.is_empty() {
        println!("failed seeds: {:?}", summary.failed);
    }
}

/// Prints the summary as one JSON object.
pub(crate) fn print_json(summary: &Summary, differing: &[u64], real: Duration, jobs: u64) {
    let faults: Map<String, Value> = Fault::ALL
        .iter()
        .map(|fault| {
            (
                fault.name().replace([' ', '-'], "_"),
                summary.faults.of(*fault).into(),
            )
        })
        .collect();
    let object = json!({
        "seeds": summary.seeds,
        "seeds_with_counters": summary.counts,
        "failed": summary.failed,
        "not_deterministic": differing,
        "events": summary.events,
        "elections": summary.elections,
        "applied": summary.applied,
        "calls": summary.calls,
        "acknowledged": summary.acknowledged,
        "restarts": summary.restarts,
        "log_reads": summary.fetches,
        "quarantined": summary.quarantined,
        "scrubbed": summary.scrubbed,
        "snapshots": summary.snapshots,
        "member_changes": summary.changes,
        "segments_given_back": summary.compactions,
        "faults": faults,
        "faults_total": summary.faults.total(),
        "fewest_faults_in_a_seed": summary.fewest_faults,
        "simulated_seconds": summary.simulated.as_secs_f64(),
        "real_seconds": real.as_secs_f64(),
        "speed": summary.speed(real),
        "jobs": jobs,
    });
    println!("{object}");
}
