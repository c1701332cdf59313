//! The result of a load: one record, shown as a table or as one line of JSON.

use super::floor::{FILES, Floor};
use super::{Kind, NodeRates, Recorder};
use crate::output::{bytes, count, counted, micros, table};
use crate::verification::Verification;
use serde::Serialize;
use std::collections::BTreeMap;

/// What `demo` and `bench` report. The names are those of the JSON object; `None` is `null` and
/// means that it does not apply or was not measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Shards of users' keys.
    pub shards: usize,
    /// Clients that each had one request under way.
    pub clients: usize,
    /// Length of the window that was measured.
    pub seconds: f64,
    /// Writes acknowledged in the window.
    pub writes: u64,
    /// The same, a second.
    pub writes_per_s: f64,
    /// Reads answered in the window.
    pub reads: u64,
    /// The same, a second.
    pub reads_per_s: f64,
    /// Half of all operations took no longer, in microseconds.
    pub p50_us: Option<u64>,
    /// 99 of 100 took no longer.
    pub p99_us: Option<u64>,
    /// 999 of 1000 took no longer.
    pub p999_us: Option<u64>,
    /// The slowest took so long.
    pub max_us: Option<u64>,
    /// The longest time that a client was without a success, in microseconds.
    pub longest_pause_us: Option<u64>,
    /// Operations that failed and changed nothing.
    pub errors: u64,
    /// Writes of unknown outcome.
    pub unknown: u64,
    /// Acknowledged writes of the whole run, warm-up and load included, as verified afterwards.
    pub acked: Option<u64>,
    /// Those that the verification found to be in order.
    pub verified: Option<u64>,
    /// Those that it found missing or wrong.
    pub missing: Option<u64>,
    /// Syncs a second of the busiest node's log.
    pub syncs_per_s: Option<f64>,
    /// Entries that one of its syncs made durable, on average.
    pub entries_per_sync: Option<f64>,
    /// CPU time of the processes measured (see `cpu_of`) for each write, in microseconds.
    pub cpu_us_per_write: Option<f64>,
    /// Bytes a second into the busiest node's log.
    pub log_bytes_per_s: Option<f64>,
    /// Syncs a second of each of three files at once, measured before the load; of a demo, the mean of what was
    /// measured before it and after it.
    pub floor_syncs_per_s: Option<f64>,
    /// Writes a second, as a multiple of that.
    pub writes_per_floor_sync: Option<f64>,
    /// Every node's log.
    pub per_node: Vec<NodeRates>,
    /// Nodes whose logs are not among those, because they went away or were started anew in the window.
    pub not_counted: Vec<u64>,
    /// Whose CPU time was measured.
    #[serde(skip)]
    pub cpu_of: &'static str,
    /// Latencies by kind, for the table.
    #[serde(skip)]
    pub latencies: Recorder,
}

impl Report {
    /// Fills in what the clients saw in a window of `seconds`.
    pub fn set_clients(&mut self, recorder: Recorder, seconds: f64) {
        self.seconds = seconds;
        self.writes = recorder.of(Kind::Write).len();
        self.reads = recorder.of(Kind::Read).len();
        self.writes_per_s = self.writes as f64 / seconds;
        self.reads_per_s = self.reads as f64 / seconds;
        let all = recorder.all();
        if !all.is_empty() {
            self.p50_us = Some(all.value_at_quantile(0.5));
            self.p99_us = Some(all.value_at_quantile(0.99));
            self.p999_us = Some(all.value_at_quantile(0.999));
            self.max_us = Some(all.max());
            self.longest_pause_us = u64::try_from(recorder.longest_pause.as_micros()).ok();
        }
        self.errors = recorder.errors;
        self.unknown = recorder.unknown;
        self.latencies = recorder;
    }

    /// Fills in what the nodes counted in the same window, which of them were not counted, and their CPU time.
    pub fn set_nodes(
        &mut self,
        rates: Vec<NodeRates>,
        not_counted: Vec<u64>,
        cpu: Option<(u64, &'static str)>,
    ) {
        let busiest = rates.iter().max_by_key(|node| node.entries);
        if let Some(busiest) = busiest.filter(|_| self.writes > 0) {
            self.syncs_per_s = Some(busiest.syncs_per_s);
            self.entries_per_sync = Some(busiest.entries_per_sync);
            self.log_bytes_per_s = Some(busiest.log_bytes_per_s);
        }
        if let Some((cpu_us, cpu_of)) = cpu.filter(|_| self.writes > 0) {
            self.cpu_us_per_write = Some(cpu_us as f64 / self.writes as f64);
            self.cpu_of = cpu_of;
        }
        self.per_node = rates;
        self.not_counted = not_counted;
    }

    /// Fills in what a verification found; rows that nobody wrote count as missing ones.
    pub fn set_verification(&mut self, found: &Verification) {
        self.acked = Some(found.acked);
        self.verified = Some(found.verified);
        self.missing = Some(found.missing + found.unexpected);
    }

    /// Fills in the floor.
    pub fn set_floor(&mut self, floor: Floor) {
        self.floor_syncs_per_s = Some(floor.syncs_per_s);
        if self.writes > 0 && floor.syncs_per_s > 0.0 {
            self.writes_per_floor_sync = Some(self.writes_per_s / floor.syncs_per_s);
        }
    }

    /// The object that ends the output of `--json`.
    ///
    /// # Panics
    /// Never: numbers and names can always be written.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and names can always be written")
    }

    /// The table for people.
    #[must_use]
    pub fn to_table(&self) -> String {
        let mut rows = Vec::new();
        let mut row = |name: &str, text: String| rows.push(vec![name.to_owned(), text]);
        let cluster = format!(
            "{}, {}; {} for {:.1} s",
            counted(self.nodes as u64, "node"),
            counted(self.shards as u64, "shard"),
            counted(self.clients as u64, "client"),
            self.seconds
        );
        row("cluster", cluster);
        for (kind, name, rate) in [
            (Kind::Write, "writes", self.writes_per_s),
            (Kind::Read, "reads", self.reads_per_s),
        ] {
            let latencies = self.latencies.of(kind);
            if latencies.is_empty() {
                continue;
            }
            row(
                name,
                format!(
                    "{}/s ({} in all)",
                    count(rate),
                    count(latencies.len() as f64)
                ),
            );
            let at = |quantile| micros(latencies.value_at_quantile(quantile));
            row(
                "  latency",
                format!(
                    "p50 {}, p99 {}, p99.9 {}, slowest {}",
                    at(0.5),
                    at(0.99),
                    at(0.999),
                    micros(latencies.max())
                ),
            );
        }
        if let Some(pause) = self.longest_pause_us {
            row("longest pause", format!("{} of a client", micros(pause)));
        }
        row(
            "errors",
            format!("{}, unknown outcomes {}", self.errors, self.unknown),
        );
        if self.writes > 0 {
            for (node, text) in self.log_rows() {
                row(&format!("log of node {node}"), text);
            }
        }
        if let Some(cpu) = self.cpu_us_per_write {
            row("CPU per write", format!("{cpu:.1} µs ({})", self.cpu_of));
        }
        if let Some(floor) = self.floor_syncs_per_s {
            let floor = format!("{} syncs/s on each of {FILES} files at once", count(floor));
            row("floor of the disk", floor);
        }
        if let Some(ratio) = self.writes_per_floor_sync {
            row("writes/s to floor", format!("{ratio:.1} times"));
        }
        table(&[], rows)
    }

    /// What to say of each node's log.
    fn log_rows(&self) -> BTreeMap<u64, String> {
        let counted = self.per_node.iter().map(|node| {
            let text = format!(
                "{} syncs/s, {:.1} entries per sync, {}/s",
                count(node.syncs_per_s),
                node.entries_per_sync,
                bytes(node.log_bytes_per_s)
            );
            (node.node, text)
        });
        let away = "not counted: the node was away meanwhile";
        let not_counted = self.not_counted.iter().map(|node| (*node, away.to_owned()));
        counted.chain(not_counted).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn report() -> Report {
        let mut recorder = Recorder::default();
        for micros in 1..=1000 {
            recorder.record(Kind::Write, Duration::from_micros(micros));
        }
        let mut report = Report {
            nodes: 3,
            shards: 64,
            clients: 64,
            ..Report::default()
        };
        report.set_clients(recorder, 2.0);
        let rates = |node, entries| NodeRates {
            node,
            syncs_per_s: 10.0 * node as f64,
            entries_per_sync: 12.0,
            log_bytes_per_s: 1e6,
            entries,
        };
        report.set_nodes(
            vec![rates(1, 5), rates(2, 9), rates(3, 7)],
            Vec::new(),
            Some((20_000, "all")),
        );
        report.set_floor(Floor { syncs_per_s: 100.0 });
        report
    }

    #[test]
    fn the_json_object_has_every_promised_name() {
        let json: serde_json::Value = serde_json::from_str(&report().to_json()).unwrap();
        for name in "nodes shards clients seconds writes writes_per_s reads reads_per_s p50_us \
                     p99_us p999_us errors unknown acked verified missing syncs_per_s \
                     entries_per_sync cpu_us_per_write"
            .split_whitespace()
        {
            assert!(json.get(name).is_some(), "{name}");
        }
        assert_eq!(json["writes_per_s"], 500.0);
        assert_eq!(json["reads"], 0);
        assert_eq!(json["p50_us"], 500);
        assert!(json["verified"].is_null());
        assert_eq!(json["syncs_per_s"], 20.0, "the busiest node is node 2");
        assert_eq!(json["cpu_us_per_write"], 20.0);
        assert_eq!(json["writes_per_floor_sync"], 5.0);
    }

    #[test]
    fn an_object_is_one_line() {
        assert!(!report().to_json().contains('\n'));
    }

    #[test]
    fn the_table_shows_what_there_is_and_nothing_else() {
        let table = report().to_table();
        assert!(table.contains("500/s"), "{table}");
        assert!(table.contains("log of node 3"), "{table}");
        assert!(
            !table.contains("reads") && !table.contains("not counted"),
            "{table}"
        );
    }

    #[test]
    fn a_node_that_was_away_is_said_not_to_be_counted() {
        let mut report = report();
        let rates = report.per_node.split_off(2);
        report.set_nodes(rates, vec![1], None);
        let table = report.to_table();
        let line = table.lines().find(|line| line.starts_with("log of node 1"));
        assert!(line.unwrap().contains("not counted"), "{table}");
    }
}
