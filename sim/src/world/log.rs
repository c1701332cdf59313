//! A node's log: what production's log thread does, and a disk that takes its time and fails.

use super::{Event, Node, WORKERS, World, unexpected};
use crate::faults::Fault;
use crate::invariants::Checked;
use pontoon_engine::worker::Input;
use pontoon_store::Store;
use pontoon_wal::WalError;
use std::time::Duration;

/// How long the log waits before it tries again what it had no room for.
const RETRY_AFTER: Duration = Duration::from_millis(100);
impl World {
    /// The log lays what waits, and begins a sync.
    pub(super) fn log_round(&mut self, at: usize) -> Checked {
        let node = &mut self.nodes[at];
        let Some(process) = &mut node.process else {
            return Ok(());
        };
        while let Some((worker, batch)) = process.log_queue.pop_front() {
            match process.log.append(&batch.batch) {
                Ok(_) => {
                    self.observer.laid(node.id, &batch.batch)?;
                    process.laid.push((worker, batch.sequence));
                }
                Err(WalError::NoSpace { .. }) => {
                    process.log_queue.push_front((worker, batch));
                    break;
                }
                Err(error) => {
                    // It may be on the disk all the same.
                    self.observer.laid(node.id, &batch.batch)?;
                    return self.log_failed(at, &error);
                }
            }
        }
        if process.laid.is_empty() {
            self.plan_log_idle(at);
        } else {
            self.begin_sync(at);
        }
        Ok(())
    }

    fn begin_sync(&mut self, at: usize) {
        let mut latency = self.dice.micros(self.profile.sync_micros);
        if !self.healed && self.dice.chance(self.profile.slow_sync_chance) {
            self.faults.count(Fault::SlowSync);
            latency += self.dice.micros((10_000, 2_500_000));
        }
        let node = &mut self.nodes[at];
        let life = node.life;
        if let Some(process) = &mut node.process {
            process.is_syncing = true;
            self.plan(latency, Event::SyncDone { node: at, life });
        }
    }

    /// The log's sync returns.
    pub(super) fn sync_done(&mut self, at: usize, life: u64) -> Checked {
        let id = self.nodes[at].id;
        let Some(process) = self.process(at, life) else {
            return Ok(());
        };
        process.is_syncing = false;
        let before = process.log.stats().segments_live;
        let synced = process.log.sync();
        let given_back = before.saturating_sub(process.log.stats().segments_live);
        let end = match synced {
            Ok(end) => end,
            Err(error) => return self.log_failed(at, &error),
        };
        let mut sequences = [None; WORKERS];
        for (worker, sequence) in process.laid.drain(..) {
            sequences[worker] = sequences[worker].max(Some(sequence));
        }
        let is_idle = process.log_queue.is_empty();
        self.observer.synced(id);
        self.compactions += given_back;
        self.trace.event(self.now, 6, &[id.0, end.0]);
        for (worker, sequence) in sequences.into_iter().enumerate() {
            if let Some(sequence) = sequence {
                self.tell(at, worker, Input::Durable { sequence });
            }
        }
        self.log_chores(at)?;
        if is_idle {
            self.plan_log_idle(at);
            Ok(())
        } else {
            self.log_round(at)
        }
    }

    /// Makes the next segment and takes back what nothing needs, as the preparing thread does.
    fn log_chores(&mut self, at: usize) -> Checked {
        let Some(process) = &mut self.nodes[at].process else {
            return Ok(());
        };
        let result = process.log.maintain();
        match result {
            Ok(()) | Err(WalError::NoSpace { .. }) => Ok(()),
            Err(error) => self.log_failed(at, &error),
        }
    }

    pub(super) fn plan_log_idle(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let (life, mark_after) = (node.life, self.config.wal.mark_after_idle);
        let Some(process) = &mut node.process else {
            return;
        };
        let after = if process.log.is_dirty() || !process.log_queue.is_empty() {
            RETRY_AFTER
        } else if process.log.mark_is_stale() {
            mark_after
        } else {
            return;
        };
        process.idle_round += 1;
        let round = process.idle_round;
        self.plan(
            after,
            Event::LogIdle {
                node: at,
                life,
                round,
            },
        );
    }

    /// The log has had nothing to do for a while.
    pub(super) fn log_idle(&mut self, at: usize, life: u64, round: u64) -> Checked {
        let Some(process) = self.process(at, life) else {
            return Ok(());
        };
        if process.idle_round != round || process.is_syncing {
            return Ok(());
        }
        if process.log.mark_is_stale()
            && let Err(error) = process.log.write_mark()
        {
            return self.log_failed(at, &error);
        }
        self.trace.event(self.now, 7, &[at as u64]);
        self.log_chores(at)?;
        let Some(process) = self.process(at, life) else {
            return Ok(());
        };
        if !process.log_queue.is_empty() {
            return self.log_round(at);
        }
        if process.log.is_dirty() {
            self.begin_sync(at);
        }
        Ok(())
    }

    /// The log has failed and the process stops; the disk says why.
    fn log_failed(&mut self, at: usize, error: &WalError) -> Checked {
        let node = &self.nodes[at];
        let line = format!("n{}'s log fails: {error}", node.id);
        self.trace.line(self.now, || line);
        if node.power_is_off() {
            self.faults.count(Fault::TornWrite);
            self.end_process(at, true)
        } else if node.sync_has_failed() {
            self.faults.count(Fault::FailedSync);
            self.nodes[at].sync_fails_at = None;
            self.end_process(at, false)
        } else {
            Err(unexpected(format!(
                "the log of node {} failed: {error}",
                node.id
            )))
        }
    }

    /// The end of a shutdown: the store is flushed and the log closed.
    pub(super) fn close(&mut self, at: usize) -> Checked {
        let id = self.nodes[at].id;
        let Some(process) = &mut self.nodes[at].process else {
            return Ok(());
        };
        let flushed = process.stage.machine().store_mut().flush();
        flushed.map_err(|error| unexpected(format!("node {id} cannot flush: {error}")))?;
        let closed = process.log.sync().and_then(|_| {
            self.observer.synced(id);
            process.log.write_mark()
        });
        match closed {
            Ok(()) => self.end_process(at, false),
            Err(error) => self.log_failed(at, &error),
        }
    }
}

impl Node {
    /// What the power cut leaves is on the disk from now on.
    pub(super) fn lose_power(&mut self, seed: u64) {
        self.disk = self.disk.crash(seed);
        self.power_ends_at = None;
        self.sync_fails_at = None;
    }

    /// The power goes after so many more changes of the disk.
    pub(super) fn cut_power_after(&mut self, operations: u64) {
        self.disk.cut_power_after(operations);
        self.power_ends_at = Some(self.disk.operations() + operations);
    }

    /// A sync will fail, after so many that do not.
    pub(super) fn fail_sync_after(&mut self, successes: u64) {
        self.disk.fail_sync_after(successes);
        self.sync_fails_at = Some(self.disk.syncs() + successes);
    }

    pub(super) fn power_is_off(&self) -> bool {
        let operations = self.disk.operations();
        self.power_ends_at.is_some_and(|end| operations >= end)
    }

    /// Whether the armed failure has struck.
    pub(super) fn sync_has_failed(&self) -> bool {
        let syncs = self.disk.syncs();
        self.sync_fails_at.is_some_and(|at| syncs > at)
    }
}
