//! What the nodes counted while a load ran: two looks at their status, and the difference.

use crate::status::NodeStatus;
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;

/// CPU time of this process so far, in microseconds.
#[must_use]
pub fn process_cpu_us() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1000
}

/// The counters of all nodes at one moment.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    nodes: BTreeMap<u64, NodeStatus>,
}

/// What one node did per second, and per sync.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct NodeRates {
    /// The node.
    pub node: u64,
    /// Syncs of its log a second.
    pub syncs_per_s: f64,
    /// Entries that one sync made durable, on average; of all groups.
    pub entries_per_sync: f64,
    /// Bytes laid into its log a second.
    pub log_bytes_per_s: f64,
    /// Entries laid into its log.
    pub entries: u64,
}

impl Counters {
    /// Takes what the nodes answered.
    pub fn new(nodes: impl IntoIterator<Item = NodeStatus>) -> Self {
        Self {
            nodes: nodes.into_iter().map(|node| (node.node, node)).collect(),
        }
    }

    /// The rates of every node between `self` and `later`. A node that was away at either moment
    /// is left out, and so is one that was started anew: its counters began at zero.
    #[must_use]
    pub fn rates_until(&self, later: &Self, seconds: f64) -> Vec<NodeRates> {
        self.pairs(later, seconds)
            .map(|(before, after)| {
                let syncs = after.log.syncs - before.log.syncs;
                let entries = after.log.entries.saturating_sub(before.log.entries);
                let bytes = after.log.bytes.saturating_sub(before.log.bytes);
                NodeRates {
                    node: before.node,
                    syncs_per_s: syncs as f64 / seconds,
                    entries_per_sync: entries as f64 / syncs.max(1) as f64,
                    log_bytes_per_s: bytes as f64 / seconds,
                    entries,
                }
            })
            .collect()
    }

    /// The nodes that [`Self::rates_until`] has left out.
    #[must_use]
    pub fn left_out(&self, rates: &[NodeRates]) -> Vec<u64> {
        let is_in = |node: &u64| rates.iter().any(|rates| rates.node == *node);
        let nodes = self.nodes.keys().copied();
        nodes.filter(|node| !is_in(node)).collect()
    }

    /// CPU time of all nodes' processes between `self` and `later`, in microseconds; `None` if a
    /// node was away or started anew.
    #[must_use]
    pub fn cpu_us_until(&self, later: &Self, seconds: f64) -> Option<u64> {
        let (nodes, cpu) = self
            .pairs(later, seconds)
            .fold((0, 0), |(nodes, cpu), pair| {
                (nodes + 1, cpu + pair.1.cpu_us.saturating_sub(pair.0.cpu_us))
            });
        (nodes > 0 && nodes == self.nodes.len()).then_some(cpu)
    }

    fn pairs<'a>(
        &'a self,
        later: &'a Self,
        seconds: f64,
    ) -> impl Iterator<Item = (&'a NodeStatus, &'a NodeStatus)> {
        self.nodes.values().filter_map(move |before| {
            let after = later.nodes.get(&before.node)?;
            // Uptimes are whole seconds, and the two looks took a moment.
            let is_the_same = (after.uptime_s + 2) as f64 >= before.uptime_s as f64 + seconds;
            (is_the_same && after.log.syncs >= before.log.syncs).then_some((before, after))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node: u64, syncs: u64, entries: u64, cpu_us: u64) -> NodeStatus {
        let mut status = NodeStatus {
            node,
            cpu_us,
            uptime_s: cpu_us,
            ..NodeStatus::default()
        };
        status.log.syncs = syncs;
        status.log.entries = entries;
        status
    }

    #[test]
    fn rates_are_differences() {
        let before = Counters::new([node(1, 100, 1000, 5), node(2, 0, 0, 5)]);
        let after = Counters::new([node(1, 300, 5000, 25), node(2, 100, 50, 10)]);
        let rates = before.rates_until(&after, 2.0);
        assert_eq!(rates.len(), 2);
        assert_eq!(rates[0].node, 1);
        assert_eq!(rates[0].syncs_per_s, 100.0);
        assert_eq!(rates[0].entries_per_sync, 20.0);
        assert_eq!(before.cpu_us_until(&after, 2.0), Some(25));
        let long = before.rates_until(&after, 500.0);
        assert_eq!(
            long,
            [],
            "nodes that are younger than the window were started in it"
        );
    }

    #[test]
    fn a_node_that_was_started_anew_is_left_out() {
        let before = Counters::new([node(1, 100, 1000, 5), node(2, 50, 60, 7)]);
        let after = Counters::new([node(1, 7, 10, 2), node(2, 60, 80, 9)]);
        let rates = before.rates_until(&after, 1.0);
        assert_eq!(
            rates.iter().map(|rates| rates.node).collect::<Vec<_>>(),
            [2]
        );
        assert_eq!(before.left_out(&rates), [1]);
        assert_eq!(before.cpu_us_until(&after, 1.0), None);
    }

    #[test]
    fn the_cpu_clock_moves() {
        let before = process_cpu_us();
        let mut number = 1_u64;
        while process_cpu_us() - before < 1000 {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        assert!(process_cpu_us() > before);
    }
}
