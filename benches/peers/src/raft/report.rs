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
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    let ours = Side::Pontoon.name();
    table.set_header([
        "per cycle",
        "peer",
        "what",
        ours,
        "peer",
        "ratio",
        "middle half",
    ]);
    for one in measured {
        let (batch, peer) = (one.batch.to_string(), one.peer.name());
        let ratio = one.times.ratio();
        table.add_row([
            batch.clone(),
            peer.to_owned(),
            "time".to_owned(),
            nanos(one.times.ours()),
            nanos(one.times.theirs()),
            format!("{:.2}", ratio.median),
            format!("{:.2} to {:.2}", ratio.low, ratio.high),
        ]);
        let mut exact = |what: &str, digits: usize, [ours, theirs]: [f64; 2]| {
            table.add_row([
                batch.clone(),
                peer.to_owned(),
                what.to_owned(),
                format!("{ours:.digits$}"),
                format!("{theirs:.digits$}"),
                format!("{:.2}", ours / theirs),
                String::new(),
            ]);
        };
        exact("allocations", 2, one.allocations);
        if let Some(instructions) = one.instructions {
            exact("instructions", 0, instructions);
        }
    }
    println!("{table}");
    let pairs: usize = measured.iter().map(|one| one.times.len()).sum();
    println!(
        "Times are medians of {pairs} windows of 10 ms on each side, taken in turns; ratios are the medians of"
    );
    println!(
        "the pairs' own. One allocation per proposal is the entry's own bytes. raft-rs-gathered is handed a"
    );
    println!("cycle's proposals in one message, raft-rs and Pontoon one by one.");
}

fn nanos(quartiles: Quartiles) -> String {
    format!("{:.0} ns", quartiles.median)
}

/// The same as one JSON object.
pub(crate) fn json(measured: &[Measured], payload_bytes: u64) -> Value {
    let comparisons: Vec<Value> = measured
        .iter()
        .map(|one| {
            json!({
                "peer": one.peer.name(),
                "proposals_per_cycle": one.batch,
                "windows": one.times.len(),
                "pontoon_ns_per_proposal": one.times.ours().json(),
                "peer_ns_per_proposal": one.times.theirs().json(),
                "time_ratio": one.times.ratio().json(),
                "pontoon_allocations_per_proposal": one.allocations[0],
                "peer_allocations_per_proposal": one.allocations[1],
                "pontoon_instructions_per_proposal": one.instructions.map(|[ours, _]| ours),
                "peer_instructions_per_proposal": one.instructions.map(|[_, theirs]| theirs),
            })
        })
        .collect();
    json!({
        "bench": "raft",
        "peer_version": "raft 0.7",
        "payload_bytes": payload_bytes,
        "comparisons": comparisons,
    })
}
