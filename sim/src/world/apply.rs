//! A node's apply stage, readers, store and keeper.

use super::process::worker_of;
use super::{Event, WORKERS, World, unexpected};
use crate::invariants::{Checked, Invariant, Violation};
use pontoon_engine::worker::{Fetch, Input};
use pontoon_store::Store;
use pontoon_wal::{Pressure, ScrubStep, WalError};
use std::collections::BTreeSet;
use std::time::Duration;

/// How much of a log is read, in pieces, each time the keeper looks.
const SCRUB_STEPS: usize = 4;

/// How long a flush takes once everything is healed, in microseconds.
const HEALED_FLUSH_MICROS: (u64, u64) = (500, 5_000);

impl World {
    /// The apply stage takes what waits.
    pub(super) fn apply(&mut self, at: usize, life: u64) -> Checked {
        let (now, id) = (self.now, self.nodes[at].id);
        let node = &mut self.nodes[at];
        let Some(process) = node.process.as_mut().filter(|_| node.life == life) else {
            return Ok(());
        };
        if now < node.paused_until {
            let until = node.paused_until;
            self.plan_at(until, Event::Apply { node: at, life });
            return Ok(());
        }
        // As in production: memory for what waits for the disk is bounded (S11).
        let waiting = process.stage.machine().store().sealed_memtables();
        if waiting >= self.profile.max_sealed_memtables {
            process.apply_stalls = true;
            self.plan_flush(at);
            return Ok(());
        }
        process.apply_is_planned = false;
        for (worker, batch) in process.apply_queue.drain(..) {
            for switch in &batch.switches {
                self.observer.switches(id, switch)?;
                self.trace.line(now, || format!("n{id} {switch:?}"));
            }
            for entry in &batch.entries {
                self.observer.applies(id, entry)?;
                let numbers = [
                    id.0,
                    entry.group().0,
                    entry.index().0,
                    entry.checksum().into(),
                ];
                self.trace.mix(&numbers);
                self.trace.line(now, || format!("n{id} applies {entry:?}"));
            }
            process.stage.gather(worker, batch);
        }
        let applied = process.stage.run();
        applied.map_err(|error| unexpected(format!("node {id} cannot apply: {error}")))?;
        let progress: Vec<_> = process.stage.progress().collect();
        let reads = process.stage.take_reads();
        let has_reads = reads.is_some();
        process.reads.extend(reads);
        self.trace.event(now, 8, &[id.0]);
        for progress in progress {
            let (indexes, bytes) = (progress.indexes, progress.bytes);
            if let Some(process) = &mut self.nodes[at].process {
                process.unapplied[progress.worker] -= bytes as u64;
            }
            self.tell(at, progress.worker, Input::Applied { indexes, bytes });
        }
        if has_reads {
            let after = self.dice.micros((1, 2_000));
            self.plan(after, Event::ServeReads { node: at, life });
        }
        self.collect_replies(at)?;
        self.plan_flush(at);
        Ok(())
    }

    /// A reader serves the oldest reads that are due.
    pub(super) fn serve_reads(&mut self, at: usize, life: u64) -> Checked {
        let Some(process) = self.process(at, life) else {
            return Ok(());
        };
        if let Some(reads) = process.reads.pop_front() {
            reads.serve();
        }
        self.trace.event(self.now, 9, &[at as u64]);
        self.collect_replies(at)
    }

    fn plan_flush(&mut self, at: usize) {
        // A disk that stays slow with tiny memtables would need minutes for what has piled up.
        let latency = if self.healed {
            HEALED_FLUSH_MICROS
        } else {
            self.profile.flush_micros
        };
        let after = self.dice.micros(latency);
        let node = &mut self.nodes[at];
        let life = node.life;
        let Some(process) = &mut node.process else {
            return;
        };
        let waits = process.stage.machine().store().sealed_memtables() > 0;
        if waits && !std::mem::replace(&mut process.is_flushing, true) {
            self.plan(after, Event::FlushDone { node: at, life });
        }
    }

    /// A memtable is on the disk.
    pub(super) fn flush_done(&mut self, at: usize, life: u64) -> Checked {
        let Some(process) = self.process(at, life) else {
            return Ok(());
        };
        process.is_flushing = false;
        process.stage.machine().store_mut().finish_flush();
        let stalled = std::mem::take(&mut process.apply_stalls);
        self.trace.event(self.now, 10, &[at as u64]);
        if stalled {
            self.plan(Duration::ZERO, Event::Apply { node: at, life });
        }
        self.plan_flush(at);
        Ok(())
    }

    /// A reader reads a part of the log for a group.
    pub(super) fn fetch(&mut self, at: usize, life: u64, worker: usize, fetch: Fetch) -> Checked {
        let (now, id) = (self.now, self.nodes[at].id);
        let Some(process) = self.process(at, life) else {
            return Ok(());
        };
        let Fetch { group, fetch } = fetch;
        let read = process
            .reader
            .read(group, fetch.from, fetch.to, fetch.max_bytes);
        let line = format!(
            "n{id} g{group} fetches {:?} from {}: {read:?}",
            fetch.purpose, fetch.from
        );
        self.trace.line(now, || line);
        self.fetches += 1;
        for entry in read.iter().flatten() {
            entry.verify().map_err(|error| {
                let what = format!("node {id} reads a damaged {entry:?} from its log: {error}");
                Violation::new(Invariant::S12, what)
            })?;
        }
        self.trace.event(now, 11, &[id.0, group.0, fetch.from.0]);
        let input = match read {
            Ok(entries) => Input::Fetched {
                group,
                purpose: fetch.purpose,
                entries,
            },
            // As in production: a snapshot has taken the log's place since, or it is damaged, which the keeper sees to.
            Err(error) => {
                let is_gone = matches!(
                    error,
                    WalError::Compacted { .. } | WalError::Unavailable { .. }
                );
                if !is_gone && !self.nodes[at].is_damaged {
                    return Err(unexpected(format!(
                        "group {group}: node {id} cannot read entries from {} for {:?}: {error}",
                        fetch.from, fetch.purpose
                    )));
                }
                Input::Fetched {
                    group,
                    purpose: fetch.purpose,
                    entries: Vec::new(),
                }
            }
        };
        self.tell(at, worker, input);
        Ok(())
    }

    /// Reads some of the log, and has what is damaged go. On every other seed nobody does: then damage is found by those
    /// who need what is there, or at a start.
    fn scrub(&mut self, at: usize) -> Checked {
        if !self.seed.is_multiple_of(2) {
            return Ok(());
        }
        let node = &mut self.nodes[at];
        let Some(process) = &mut node.process else {
            return Ok(());
        };
        process.scrubber.begin();
        for _ in 0..SCRUB_STEPS {
            let ScrubStep::Read { found, .. } = process.scrubber.step() else {
                break;
            };
            for damage in found {
                if !node.is_damaged {
                    let what = format!("node {} reports {damage:?}", node.id);
                    return Err(unexpected(what));
                }
                self.scrubbed += 1;
                process.log.condemn(damage.start.generation());
                let line = format!("n{} finds {damage:?}", node.id);
                self.trace.line(self.now, || line);
            }
        }
        self.plan_chores(at);
        Ok(())
    }

    /// The keeper looks after the log's space.
    pub(super) fn keep(&mut self, at: usize, life: u64) -> Checked {
        let interval = self.config.compaction_interval;
        let Some(process) = self.process(at, life) else {
            return Ok(());
        };
        let full = process.log.pressure() == Pressure::Full;
        let bytes = self.nodes[at].disk.used_bytes();
        self.bounds.files(self.nodes[at].id, bytes)?;
        self.scrub(at)?;
        let Some(process) = self.process(at, life) else {
            return Ok(());
        };
        let over_quota = process.log.over_quota();
        let mut without_tail: BTreeSet<_> = over_quota.iter().map(|over| over.group).collect();
        let unreadable = process.log.unreadable();
        without_tail.extend(unreadable.keys());
        let crowds = !without_tail.is_empty();
        let rotated = if full || crowds {
            process.stage.machine().store_mut().rotate()
        } else {
            Ok(())
        };
        rotated.map_err(|error| unexpected(format!("a store cannot rotate: {error}")))?;
        let reclaimed = process.stage.machine().reclaim(16);
        reclaimed.map_err(|error| unexpected(format!("a store cannot reclaim: {error}")))?;
        let changed = std::mem::replace(&mut process.log_was_full, full) != full;
        let generation = process.durability.generation();
        let flushed = std::mem::replace(&mut process.generation, generation) != generation;
        let cut = flushed || full || crowds;
        let mut shares = vec![Vec::new(); WORKERS];
        for (group, applied) in process.durability.all().iter() {
            shares[worker_of(*group)].push((*group, *applied));
        }
        self.trace
            .event(self.now, 12, &[at as u64, u64::from(full), generation]);
        self.plan_flush(at);
        for (group, indexes) in unreadable {
            let damaged = Input::LogUnreadable { group, indexes };
            self.tell(at, worker_of(group), damaged);
        }
        for (worker, applied) in shares.into_iter().enumerate() {
            if changed {
                self.tell(at, worker, Input::LogPressure { full });
            }
            if cut {
                let without_tail = without_tail.iter().copied().collect();
                let cut = Input::Compact {
                    applied,
                    without_tail,
                };
                self.tell(at, worker, cut);
            }
        }
        self.plan(interval, Event::Keeper { node: at, life });
        Ok(())
    }
}
