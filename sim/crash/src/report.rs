//! What a run came to.

use crate::history::Counts;
use pontoon::output::{count, table};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What came of an aim, in a word.
pub(crate) const fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "missed" }
}

/// What was done to the nodes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) kills: u64,
    /// Times at which all nodes were down.
    pub(crate) outages: u64,
    /// Kills of nodes that had just been started.
    pub(crate) in_recovery: u64,
    pub(crate) pauses: u64,
    /// The longest time after a disturbance until calls succeeded again, over all keys together.
    pub(crate) longest_wait: Duration,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) faults: Faults,
    pub(crate) keys: usize,
    /// Calls in the histories that were checked at the end.
    pub(crate) checked: u64,
    /// What was found, in words.
    pub(crate) found: Option<String>,
    pub(crate) took: Duration,
}

impl Report {
    /// For people.
    pub(crate) fn to_table(&self, counts: &Counts) -> String {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
        let number = |value: u64| count(value as f64);
        row("seed", self.seed.to_string());
        row("processes killed", number(self.faults.kills));
        row("  while they recovered", number(self.faults.in_recovery));
        row("times that all were down", number(self.faults.outages));
        row("processes suspended", number(self.faults.pauses));
        row(
            "longest until served again",
            format!("{:.1} s", self.faults.longest_wait.as_secs_f64()),
        );
        for (name, value) in self.counts(counts) {
            row(&name.replace('_', " "), number(value));
        }
        row("keys", number(self.keys as u64));
        row("calls checked", number(self.checked));
        row("violations", u64::from(self.found.is_some()).to_string());
        row("seconds", format!("{:.1}", self.took.as_secs_f64()));
        table(&[], rows)
    }

    /// For programs.
    pub(crate) fn to_json(&self, counts: &Counts) -> String {
        let calls: serde_json::Map<_, _> = self
            .counts(counts)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        json!({
            "seed": self.seed,
            "kills": self.faults.kills,
            "kills_in_recovery": self.faults.in_recovery,
            "outages": self.faults.outages,
            "pauses": self.faults.pauses,
            "longest_wait_ms": self.faults.longest_wait.as_millis() as u64,
            "calls": calls,
            "keys": self.keys,
            "checked": self.checked,
            "violations": u64::from(self.found.is_some()),
            "found": self.found,
            "seconds": self.took.as_secs_f64(),
        })
        .to_string()
    }

    fn counts(&self, counts: &Counts) -> [(&'static str, u64); 8] {
        [
            ("reads", &counts.reads),
            ("writes", &counts.writes),
            ("removals", &counts.removals),
            ("swaps", &counts.swaps),
            ("swaps_that_found_another_value", &counts.not_swapped),
            ("outcome_unknown", &counts.unknown),
            ("surely_not_done", &counts.refused),
            ("reads_without_answer", &counts.unread),
        ]
        .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }
}
