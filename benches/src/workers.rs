//! A worker on each of three nodes, with a log, a network and a store that take no time.

use crate::{command, key, record};
use bytes::Bytes;
use pontoon_engine::worker::{ApplyBatch, Input, Output, Worker};
use pontoon_engine::{EngineConfig, Reply, Waiter};
use pontoon_raft::Restored;
use pontoon_store::Outcome;
use pontoon_types::{GroupId, Instant, LogIndex, NodeId, ReplicaId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Three workers with the same groups. The first node's leads all of them.
#[derive(Debug)]
pub struct Workers {
    workers: [Worker; 3],
    commands: Vec<(GroupId, Bytes)>,
    answered: Arc<AtomicU64>,
    wire: Vec<(NodeId, NodeId, Bytes)>,
    now: Instant,
}

impl Workers {
    /// Workers of `groups` groups, with a put of so many bytes at hand for each.
    ///
    /// # Panics
    /// If the first node is not elected everywhere.
    #[must_use]
    pub fn new(groups: u64, value_bytes: usize) -> Self {
        let (config, now) = (EngineConfig::default(), Instant::from_nanos(1_000_000_000));
        let groups: Vec<_> = (1..=groups).map(GroupId).collect();
        let workers = [1, 2, 3].map(|node| {
            let mut worker = Worker::new(NodeId(node), 0, &config);
            for group in &groups {
                let record = record(*group, ReplicaId(node), 3);
                let restored = Restored::blank(record.conf_state.clone());
                let added = worker.add_group(record, restored, now);
                added.expect("a new replica is valid");
            }
            worker
        });
        let value = vec![7; value_bytes];
        let commands = groups
            .iter()
            .map(|group| (*group, command(*group, key(group.0).as_bytes(), &value)))
            .collect();
        let mut nodes = Self {
            workers,
            commands,
            answered: Arc::default(),
            wire: Vec::new(),
            now,
        };
        for group in groups {
            nodes.workers[0].handle(Input::Campaign { group }, now);
        }
        let first = nodes.cycle(0);
        nodes.finish(first);
        let wrote = nodes.leader_cycle();
        nodes.finish(wrote);
        assert_eq!(nodes.answered() as usize, nodes.commands.len());
        nodes
    }

    /// How many proposals were answered as written.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    /// A cycle of the leading worker with one proposal for every group.
    #[must_use]
    pub fn leader_cycle(&mut self) -> Output {
        for (group, command) in &self.commands {
            let answered = Arc::clone(&self.answered);
            let waiter = Waiter::new(move |reply| {
                if reply == Reply::Applied(Outcome::Written) {
                    answered.fetch_add(1, Relaxed);
                }
            });
            let (group, command) = (*group, command.clone());
            let propose = Input::Propose {
                group,
                command,
                waiter,
            };
            self.workers[0].handle(propose, self.now);
        }
        self.cycle(0)
    }

    fn cycle(&mut self, at: usize) -> Output {
        let mut out = Output::default();
        self.workers[at].run(self.now, &mut out);
        out
    }

    /// Carries out what a cycle of the leader wants, and all that follows on all nodes.
    pub fn finish(&mut self, output: Output) {
        self.carry_out(0, output);
        loop {
            let wire = std::mem::take(&mut self.wire);
            for (from, to, frame) in wire {
                self.workers[to.0 as usize - 1].handle(Input::Frame { from, frame }, self.now);
            }
            for at in 0..self.workers.len() {
                while self.workers[at].has_work() {
                    let output = self.cycle(at);
                    self.carry_out(at, output);
                }
            }
            if self.wire.is_empty() {
                return;
            }
        }
    }

    fn carry_out(&mut self, at: usize, output: Output) {
        let worker = &mut self.workers[at];
        let from = NodeId(at as u64 + 1);
        for (to, _, frame) in output.frames {
            self.wire.push((from, to, frame.to_bytes()));
        }
        if let Some(log) = output.log {
            let sequence = log.sequence;
            worker.handle(Input::Durable { sequence }, self.now);
        }
        if !output.apply.is_empty() {
            worker.handle(applied(output.apply), self.now);
        }
    }
}

/// Answers a batch as if all of it had been written.
fn applied(batch: ApplyBatch) -> Input {
    let mut indexes: Vec<(GroupId, LogIndex)> = Vec::new();
    for entry in &batch.entries {
        match indexes.last_mut() {
            Some(last) if last.0 == entry.group() => last.1 = entry.index(),
            _ => indexes.push((entry.group(), entry.index())),
        }
    }
    for (_, waiter) in batch.waiters {
        waiter.reply(Reply::Applied(Outcome::Written));
    }
    let bytes = batch.bytes;
    Input::Applied { indexes, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_of_64_groups_is_one_batch_and_a_frame_per_peer() {
        let mut workers = Workers::new(64, 128);
        let before = workers.answered();
        let output = workers.leader_cycle();
        let entries = output.log.as_ref().map(|log| log.batch.entries());
        assert_eq!((entries, output.frames.len()), (Some(64), 2));
        workers.finish(output);
        assert_eq!(workers.answered(), before + 64);
    }
}
