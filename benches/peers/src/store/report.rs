//! The result, for people and for programs.

use super::Data;
use super::clients::Window;
use crate::pairs::Bounded;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use pontoon::output::{bytes, count};
use serde_json::{Value, json};
use std::io::IsTerminal as _;

/// All windows of a kind of call.
struct Kind {
    name: &'static str,
    clients: usize,
    pairs: Vec<(Window, Window)>,
}

/// A figure of a window: its name, and how to read it.
type Figure = (&'static str, fn(&Window) -> f64);

const FIGURES: [Figure; 3] = [
    ("rows/s", Window::rows_per_s),
    ("p50, µs", |window| window.latency(0.5)),
    ("p99, µs", |window| window.latency(0.99)),
];

#[derive(Default)]
pub(super) struct Report {
    kinds: Vec<Kind>,
    /// Most resident bytes of the node; and of this process, which has fjall and the clients.
    memory: (u64, u64),
}

/// The median of each side, and of the pairs' ratios.
struct Line {
    kind: String,
    figure: &'static str,
    node: f64,
    fjall: f64,
    ratio: Bounded,
}

impl Report {
    /// Tells people what is going on.
    pub(super) fn note(&self, text: &str) {
        if std::io::stderr().is_terminal() {
            eprintln!("{text}");
        }
    }

    pub(super) fn add(&mut self, name: &'static str, clients: usize, node: Window, fjall: Window) {
        let same = |kind: &&mut Kind| kind.name == name && kind.clients == clients;
        match self.kinds.iter_mut().find(same) {
            Some(kind) => kind.pairs.push((node, fjall)),
            None => self.kinds.push(Kind {
                name,
                clients,
                pairs: vec![(node, fjall)],
            }),
        }
    }

    pub(super) fn memory(&mut self, node: u64, this: u64) {
        self.memory = (node, this);
    }

    fn lines(&self) -> impl Iterator<Item = Line> {
        self.kinds.iter().flat_map(|kind| {
            FIGURES.iter().map(|(figure, read)| {
                let median = |side: fn(&(Window, Window)) -> &Window| {
                    Bounded::of(kind.pairs.iter().map(|pair| read(side(pair)))).median
                };
                Line {
                    kind: format!("{}, {} at a time", kind.name, kind.clients),
                    figure,
                    node: median(|pair| &pair.0),
                    fjall: median(|pair| &pair.1),
                    ratio: Bounded::of(
                        kind.pairs
                            .iter()
                            .map(|(node, fjall)| read(node) / read(fjall)),
                    ),
                }
            })
        })
    }

    pub(super) fn print(&self, data: Data, memory: u64, as_json: bool) {
        if as_json {
            println!("{}", self.json(data, memory));
            return;
        }
        println!(
            "{} rows of {} B values, {} of memory for each side",
            count(data.rows as f64),
            data.value_bytes,
            bytes(memory as f64)
        );
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED);
        table.set_header(["call", "figure", "node", "fjall", "node to fjall (bounds)"]);
        for line in self.lines() {
            let Bounded {
                low, median, high, ..
            } = line.ratio;
            table.add_row([
                line.kind,
                line.figure.to_owned(),
                count(line.node),
                count(line.fjall),
                format!("{median:.2} ({low:.2} to {high:.2})"),
            ]);
        }
        println!("{table}");
        println!(
            "most resident memory: the node {}; fjall with the clients of both {}",
            bytes(self.memory.0 as f64),
            bytes(self.memory.1 as f64)
        );
    }

    fn json(&self, data: Data, memory: u64) -> Value {
        let rows = self.lines().map(|line| {
            json!({
                "call": line.kind,
                "figure": line.figure,
                "node": line.node,
                "fjall": line.fjall,
                "ratio": line.ratio.json(),
            })
        });
        json!({
            "rows": data.rows,
            "value_bytes": data.value_bytes,
            "memory_bytes": memory,
            "measured": rows.collect::<Vec<_>>(),
            "node_peak_bytes": self.memory.0,
            "fjall_and_clients_peak_bytes": self.memory.1,
        })
    }
}
