//! A node's log: what production's log thread does, and a disk that takes its time and fails.

use super::process::Process;
use super::{Event, Node, WORKERS, World, unexpected};
use crate::faults::Fault;
use crate::invariants::Checked;
use pontoon_engine::worker::{Input, LogBatch};
use pontoon_store::Store;
use pontoon_wal::{SealedBatch, WalError};
use std::time::Duration;

/// How long the log waits before it tries again what it had no room for.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// How long a sync may take before somebody says that it hangs.
const HUNG_AFTER: Duration = Duration::from_secs(2);

impl World {
    /// The log's thread takes what was submitted, lays what there is room for, and begins a sync.
    pub(super) fn log_round(&mut self, at: usize) -> Checked {
        let Self {
            nodes, observer, ..
        } = self;
        let node = &mut nodes[at];
        let Some(process) = &mut node.process else {
            return Ok(());
        };
        let Process {
            log,
            log_inbox,
            log_queue,
            ..
        } = process;
        let mut seen = Ok(());
        let mut lay = |batch: &SealedBatch| {
            let laid = log.try_append(batch);
            // If it failed, it may be on the disk all the same.
            if !matches!(laid, Ok(false)) && seen.is_ok() {
                seen = observer.laid(node.id, batch);
            }
            laid
        };
        let mut result = log_queue.lay_waiting(&mut lay);
        while result.is_ok()
            && let Some((worker, LogBatch { batch, sequence })) = log_inbox.pop_front()
        {
            result = log_queue.submit(batch, (worker, sequence), &mut lay);
        }
        let is_dirty = log.is_dirty();
        seen?;
        if let Err(error) = result {
            return self.log_failed(at, &error);
        }
        self.plan_chores(at);
        if is_dirty {
            self.begin_sync(at);
        } else {
            self.plan_log_idle(at);
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
        if let Some(hang) = node.next_sync_hangs.take() {
            self.faults.count(Fault::HungSync);
            latency += hang;
            let life = node.life;
            self.plan(HUNG_AFTER, Event::LogHangs { node: at, life });
        }
        let node = &mut self.nodes[at];
        let life = node.life;
        if let Some(process) = &mut node.process {
            process.is_syncing = true;
            self.plan(latency, Event::SyncDone { node: at, life });
        }
    }

    /// The one that watches the log's thread says that a sync does not return.
    pub(super) fn log_hangs(&mut self, at: usize, life: u64) -> Checked {
        if self.process(at, life).is_some() {
            for worker in 0..WORKERS {
                self.tell(at, worker, Input::LogHangs);
            }
        }
        Ok(())
    }

    /// The log's sync returns.
    pub(super) fn sync_done(&mut self, at: usize, life: u64) -> Checked {
        let id = self.nodes[at].id;
        let Some(process) = self.process(at, life) else {
            return Ok(());
        };
        process.is_syncing = false;
        let before = process.log.stats().segments_live;
        // The headers of what is synced now say that everything before was durable.
        let marked = process.log.durable();
        let synced = process.log.sync();
        let given_back = before.saturating_sub(process.log.stats().segments_live);
        let end = match synced {
            Ok(end) => end,
            Err(error) => return self.log_failed(at, &error),
        };
        // As in production a worker hears of the last one only; in what order they came is the queue's matter.
        let mut sequences = [None; WORKERS];
        for (worker, sequence) in process.log_queue.take_laid() {
            sequences[worker] = Some(sequence).max(sequences[worker]);
            process.unsynced[worker].remove(&sequence);
        }
        let node = &mut self.nodes[at];
        node.marked = node.marked.max(marked);
        let Some(process) = self.process(at, life) else {
            return Ok(());
        };
        let is_idle = process.log_inbox.is_empty() && !process.log_queue.has_waiting();
        self.observer.synced(id);
        self.compactions += given_back;
        self.trace.event(self.now, 6, &[id.0, end.0]);
        for (worker, sequence) in sequences.into_iter().enumerate() {
            if let Some(sequence) = sequence {
                self.tell(at, worker, Input::Durable { sequence });
            }
        }
        self.plan_chores(at);
        if is_idle {
            self.plan_log_idle(at);
            Ok(())
        } else {
            self.log_round(at)
        }
    }

    /// Other threads make the next segment and take back what nothing needs. That takes its time, during
    /// which batches may have to wait.
    pub(super) fn plan_chores(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let life = node.life;
        let Some(process) = &mut node.process else {
            return;
        };
        if process.log.has_chores() && !std::mem::replace(&mut process.chores_are_planned, true) {
            let after = self.dice.micros(self.profile.chore_micros);
            self.plan(after, Event::LogChores { node: at, life });
        }
    }

    /// The chores of the log are done.
    pub(super) fn log_chores(&mut self, at: usize, life: u64) -> Checked {
        let Some(process) = self.process(at, life) else {
            return Ok(());
        };
        process.chores_are_planned = false;
        let result = process.log.maintain();
        let goes_on = process.log_queue.has_waiting() && !process.is_syncing;
        self.trace.event(self.now, 14, &[at as u64]);
        match result {
            Ok(()) | Err(WalError::NoSpace { .. }) if goes_on => self.log_round(at),
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
        let log = &process.log;
        let retries = log.is_dirty() || log.spare_failed() || process.log_queue.has_waiting();
        let after = if retries {
            RETRY_AFTER
        } else if log.mark_is_stale() {
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
        let Some(process) = self.process(at, life) else {
            return Ok(());
        };
        match process.log.maintain() {
            Ok(()) | Err(WalError::NoSpace { .. }) => self.log_round(at),
            Err(error) => self.log_failed(at, &error),
        }
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
