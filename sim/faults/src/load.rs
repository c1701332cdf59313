//! Writers on the groups of a ledger: appends, truncations, compactions and votes, through the log's thread.

use crate::failure::{Failure, must};
use crate::ledger::{Book, Group, Ledger};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use pontoon_types::{
    ClusterId, Entry, EntryKind, GroupId, HardState, LogIndex, LogPosition, NodeId, ReplicaId, Term,
};
use pontoon_wal::{
    BatchBuilder, DurabilityListener, LogIdentity, Recovered, SealedBatch, Ticket, Wal, WalConfig,
    WalError,
};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub(crate) const WRITERS: u64 = 4;
pub(crate) const GROUPS_OF_EACH: u64 = 16;
pub(crate) const IDENTITY: LogIdentity = LogIdentity {
    cluster: ClusterId(0xfa17),
    node: NodeId(1),
};
/// A group with more entries is compacted.
const MANY_ENTRIES: usize = 24;
/// A disk that says nothing for so long hangs.
pub(crate) const HUNG_AFTER: Duration = Duration::from_millis(400);
/// How long a writer waits for a word of the log: longer than any scenario lets the log wait.
const PATIENCE: Duration = Duration::from_secs(4);
/// Batches of a writer that may be under way.
const UNDER_WAY: usize = 8;

/// Small segments, few of which count for a recovery: there is always one being left, recycled or rewritten.
pub(crate) fn config() -> WalConfig {
    WalConfig {
        segment_bytes: 64 << 10,
        max_bytes: 64 << 20,
        recovery_bytes: 1 << 20,
        mark_after_idle: Duration::from_millis(5),
        hung_after: HUNG_AFTER,
        ..WalConfig::default()
    }
}

/// What a writer hears of the log.
pub(crate) enum Heard {
    Durable(u64),
    Failed(WalError),
}

/// Passes on to each writer what it waits for, and counts.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) acknowledged: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) hangs: AtomicU64,
}

struct Switchboard {
    writers: Vec<Sender<Heard>>,
    counts: Arc<Counts>,
}

impl DurabilityListener for Switchboard {
    fn durable(&self, tickets: &[Ticket]) {
        let count = tickets.len() as u64;
        self.counts.acknowledged.fetch_add(count, Relaxed);
        for ticket in tickets {
            let _ = self.writers[ticket.worker as usize].send(Heard::Durable(ticket.sequence));
        }
    }

    fn hung(&self, _: &'static str, _: Duration) {
        self.counts.hangs.fetch_add(1, Relaxed);
    }

    fn failed(&self, error: &WalError) {
        self.counts.failures.fetch_add(1, Relaxed);
        for writer in &self.writers {
            let _ = writer.send(Heard::Failed(error.clone()));
        }
    }
}

/// An open log, with an ear for each writer.
pub(crate) struct Life {
    pub(crate) wal: Wal,
    pub(crate) counts: Arc<Counts>,
    pub(crate) ears: Vec<Receiver<Heard>>,
}

impl Life {
    pub(crate) fn open(
        path: &Path,
        config: WalConfig,
        writers: usize,
    ) -> Result<(Self, Recovered), WalError> {
        let (writers, ears) = (0..writers).map(|_| unbounded()).unzip();
        let counts = Arc::new(Counts::default());
        let listener = Arc::new(Switchboard {
            writers,
            counts: Arc::clone(&counts),
        });
        let (wal, recovered) = Wal::open(path, config, IDENTITY, listener)?;
        Ok((Self { wal, counts, ears }, recovered))
    }

    /// Starts a writer for each book.
    pub(crate) fn start(self, ledger: &mut Ledger, seed: u64) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let books = std::mem::take(&mut ledger.books).into_iter();
        let writers = books.zip(self.ears).enumerate();
        let writers = writers.map(|(number, (book, ear))| {
            let writer = Writer {
                number: number as u32,
                book,
                ear,
                wal: self.wal.clone(),
                dice: StdRng::seed_from_u64(seed ^ ((number as u64 + 1) << 48)),
                stop: Arc::clone(&stop),
            };
            thread::spawn(move || writer.run())
        });
        Running {
            writers: writers.collect(),
            stop,
            wal: self.wal,
            counts: self.counts,
        }
    }
}

/// A log under load.
pub(crate) struct Running {
    writers: Vec<JoinHandle<Result<(Writer, Ended), Failure>>>,
    stop: Arc<AtomicBool>,
    pub(crate) wal: Wal,
    pub(crate) counts: Arc<Counts>,
}

/// How the writers and the log ended.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// Writers that were told that the log has failed, and by what.
    pub(crate) told: Vec<WalError>,
    /// Writers that heard nothing of what they had under way.
    pub(crate) untold: usize,
    /// What the log itself says.
    pub(crate) shutdown: Option<WalError>,
}

impl Running {
    /// The writers submit no more.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Waits for the writers, who end when they are told to or the log has failed.
    pub(crate) fn wait(self) -> Result<Over, Failure> {
        let mut writers = Vec::new();
        for writer in self.writers {
            let writer = writer.join();
            let writer = writer.map_err(|_| Failure::Broken("a writer has died".to_owned()))?;
            writers.push(writer?);
        }
        Ok(Over {
            writers,
            wal: self.wal,
        })
    }
}

/// The writers have ended, and the log has not.
pub(crate) struct Over {
    writers: Vec<(Writer, Ended)>,
    wal: Wal,
}

impl Over {
    /// Ends the log. One that has failed must go on failing, and leave the disk alone.
    pub(crate) fn end(mut self, ledger: &mut Ledger) -> Result<Ending, Failure> {
        let mut ending = Ending::default();
        let failed = self
            .writers
            .iter_mut()
            .find_map(|(writer, ended)| match ended {
                Ended::Failed(_) => Some(writer),
                Ended::Stopped | Ended::Silent => None,
            });
        if let Some(writer) = failed {
            let syncs = self.wal.stats().syncs;
            writer.submit();
            match writer.ear.recv_timeout(PATIENCE) {
                Ok(Heard::Failed(_)) => {}
                _ => must(false, || {
                    "a batch for a log that has failed was not refused".to_owned()
                })?,
            }
            must(self.wal.stats().syncs == syncs, || {
                "the log has synced after it failed".to_owned()
            })?;
        }
        ending.shutdown = self.wal.shutdown().err();
        for (mut writer, how) in self.writers {
            let late = writer.ear.try_iter().filter_map(|heard| match heard {
                Heard::Durable(ticket) => Some(ticket),
                Heard::Failed(_) => None,
            });
            let late: Vec<u64> = late.collect();
            match how {
                Ended::Stopped => {}
                Ended::Failed(error) => {
                    must(late.is_empty(), || {
                        format!("{late:?} were acknowledged after the log had failed")
                    })?;
                    ending.told.push(error);
                }
                Ended::Silent => {
                    ending.untold += 1;
                    for ticket in late {
                        writer.book.acknowledge(ticket)?;
                    }
                }
            }
            ledger.books.push(writer.book);
        }
        Ok(ending)
    }
}

struct Writer {
    number: u32,
    book: Book,
    ear: Receiver<Heard>,
    wal: Wal,
    dice: StdRng,
    stop: Arc<AtomicBool>,
}

enum Ended {
    /// Everything that was submitted is acknowledged.
    Stopped,
    Failed(WalError),
    /// Nothing was heard for a long time.
    Silent,
}

impl Writer {
    fn run(mut self) -> Result<(Self, Ended), Failure> {
        loop {
            let stopping = self.stop.load(Relaxed);
            let must_wait = self.book.under_way() >= if stopping { 1 } else { UNDER_WAY };
            let heard = if must_wait {
                self.ear.recv_timeout(PATIENCE)
            } else {
                let heard = self.ear.try_recv();
                heard.map_err(|_| RecvTimeoutError::Timeout)
            };
            match heard {
                Ok(Heard::Durable(ticket)) => self.book.acknowledge(ticket)?,
                Ok(Heard::Failed(error)) => return Ok((self, Ended::Failed(error))),
                Err(_) if must_wait => return Ok((self, Ended::Silent)),
                Err(_) if stopping => return Ok((self, Ended::Stopped)),
                Err(_) => self.submit(),
            }
        }
    }

    fn submit(&mut self) {
        // A pause now and then, so that the durable mark is written to its second place too.
        if self.dice.random_ratio(1, 40) {
            thread::sleep(Duration::from_millis(self.dice.random_range(1..20)));
        }
        let batch = draw_batch(&mut self.dice, &mut self.book);
        let sequence = self.book.submit(&batch);
        let ticket = Ticket {
            worker: self.number,
            sequence,
        };
        self.wal.submit(batch, ticket);
    }
}

/// The next batch of a writer.
fn draw_batch(dice: &mut StdRng, book: &mut Book) -> SealedBatch {
    let mut batch = BatchBuilder::new();
    let mut ids: Vec<u64> = book.groups.clone().collect();
    for _ in 0..dice.random_range(1..=4) {
        let id = ids.swap_remove(dice.random_range(0..ids.len()));
        draw_records(dice, id, book, &mut batch);
    }
    batch.seal()
}

/// What one group gets of a batch. It is applied when that is submitted.
fn draw_records(dice: &mut StdRng, id: u64, book: &mut Book, batch: &mut BatchBuilder) {
    let settled = book.settled(id).index;
    let mut group = book.submitted(id).clone();
    let many = group.entries.len() > MANY_ENTRIES;
    if many && settled > group.compacted.index {
        let keep = dice.random_range(0..8);
        let index = settled
            .0
            .saturating_sub(keep)
            .max(group.compacted.index.0 + 1);
        let up_to = LogPosition {
            term: group.term_at(LogIndex(index)),
            index: LogIndex(index),
        };
        return batch.compact(GroupId(id), up_to);
    }
    let term = group.hard_state.term.max(group.last().term).max(Term(1));
    match dice.random_range(0..10) {
        0 => {
            // A new leader cuts what was not committed, and writes at least one entry.
            let keep = LogIndex(group.last().index.0.saturating_sub(dice.random_range(1..6)));
            let keep = keep.max(group.compacted.index);
            group.entries.split_off(&keep.next());
            let term = Term(term.0 + 1);
            append(dice, id, term, &mut group, batch);
            batch.hard_state(GroupId(id), &hard_state(term, None, &group));
        }
        1 | 2 => {
            let term = Term(term.0 + dice.random_range(0..2));
            let vote = ReplicaId(dice.random_range(1..6));
            batch.hard_state(GroupId(id), &hard_state(term, Some(vote), &group));
        }
        _ => {
            for _ in 0..dice.random_range(1..=3) {
                append(dice, id, term, &mut group, batch);
            }
        }
    }
}

fn hard_state(term: Term, vote: Option<ReplicaId>, group: &Group) -> HardState {
    let commit = group.last().index;
    HardState { term, vote, commit }
}

fn append(dice: &mut StdRng, id: u64, term: Term, group: &mut Group, batch: &mut BatchBuilder) {
    let size = match dice.random_range(0..20) {
        0 => dice.random_range(4_000..16_000),
        1..4 => dice.random_range(500..4_000),
        _ => dice.random_range(0..300),
    };
    let mut payload = vec![0; size];
    dice.fill_bytes(&mut payload);
    let index = group.last().index.next();
    let entry = Entry::encode(GroupId(id), term, index, EntryKind::Command, &payload);
    batch.append(&entry);
    group.entries.insert(index, entry);
}
