//! The result, for people and for programs.

use super::{Measured, Side};
use crate::pairs::Quartiles;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde_json::{Value, json};

/// Prints the table.
pub(crate) fn print(measured: &[Measured], payload_bytes: u64) {
    println!(
        "From propose to the acknowledged commit: three voters in memory, payloads of {payload_bytes} B, \
         all figures per proposal"
    );
    let (ours, theirs) = (Side::Pontoon.name(), Side::RaftRs.name());
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_header([
        "proposals per cycle",
        "what",
        ours,
        theirs,
        "ratio",
        "middle half",
    ]);
    for one in measured {
        let batch = one.batch.to_string();
        let ratio = one.times.ratio();
        table.add_row([
            batch.clone(),
            "time".to_owned(),
            nanos(one.times.ours()),
            nanos(one.times.theirs()),
            format!("{:.2}", ratio.median),
            format!("{:.2} to {:.2}", ratio.low, ratio.high),
        ]);
        let mut exact = |what: &str, digits: usize, [ours, theirs]: [f64; 2]| {
            table.add_row([
                batch.clone(),
                what.to_owned(),
                format!("{ours:.digits$}"),
                format!("{theirs:.digits$}"),
                format!("{:.2}", ours / theirs),
                String::new(),
            ]);
        };
        exact("allocations", 2, one.allocations);
        if let Some(count) = one.instructions {
            exact("instructions", 0, [count.ours, count.theirs]);
        }
    }
    println!("{table}");
    let pairs: usize = measured.iter().map(|one| one.times.len()).sum();
    println!(
        "Times are medians of {pairs} windows of 10 ms on each side, taken in turns; ratios are the medians of"
    );
    println!("the pairs' own. One allocation per proposal is the entry's own bytes.");
}

fn nanos(quartiles: Quartiles) -> String {
    format!("{:.0} ns", quartiles.median)
}

/// The same as one JSON object.
pub(crate) fn json(measured: &[Measured], payload_bytes: u64) -> Value {
    let batches: Vec<Value> = measured
        .iter()
        .map(|one| {
            json!({
                "proposals_per_cycle": one.batch,
                "windows": one.times.len(),
                "pontoon_ns_per_proposal": one.times.ours().json(),
                "raft_rs_ns_per_proposal": one.times.theirs().json(),
                "time_ratio": one.times.ratio().json(),
                "pontoon_allocations_per_proposal": one.allocations[0],
                "raft_rs_allocations_per_proposal": one.allocations[1],
                "pontoon_instructions_per_proposal": one.instructions.map(|count| count.ours),
                "raft_rs_instructions_per_proposal": one.instructions.map(|count| count.theirs),
            })
        })
        .collect();
    json!({ "bench": "raft", "peer": "raft 0.7", "payload_bytes": payload_bytes, "batches": batches })
}
