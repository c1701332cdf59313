//! Laying batches into the log, with and without a sync, alone and from many threads.

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use pontoon_benches::{BatchShape, IDENTITY, LogFixture, Pairs, Sums, SyncFloor, entry, scratch};
use pontoon_types::{GroupId, LogIndex, LogPosition, Term};
use pontoon_wal::{
    BatchBuilder, DurabilityListener, SealedBatch, Ticket, Wal, WalConfig, WalError,
};
use std::hint::black_box;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

const TARGET: &str = env!("CARGO_TARGET_TMPDIR");
const SIZES: [usize; 2] = [128, 4096];
/// Submitters and floor take turns after so many rounds, and so many syncs.
const SLICE: u64 = 4;

/// `Log::append` against a copy of the same entries with a CRC32C over them, both into memory that is
/// there already. What the log does besides: its index, record headers, and the kernel's page cache.
fn unsynced(c: &mut Criterion) {
    let mut group = c.benchmark_group("log/unsynced");
    for (records, groups) in [(1, 1), (1, 64), (64, 1), (64, 64)] {
        for payload_bytes in SIZES {
            let shape = BatchShape {
                records,
                payload_bytes,
                groups,
            };
            let directory = scratch(TARGET);
            let mut log = LogFixture::new(directory.path(), shape);
            let mut copy = CopyFloor::new();
            let mut pairs = Pairs::default();
            // A reading of the clock is worth one small batch; half a megabyte stays in a core's cache.
            let at_once = (512 << 10) / (records * payload_bytes as u64).max(4096);
            bench_pair(&mut group, "copy+crc32c", shape, |iterations| {
                let mut sums = Sums::default();
                let mut left = iterations;
                while left > 0 {
                    let count = left.min(at_once);
                    let batches: Vec<_> = (0..count).map(|_| log.next_batch()).collect();
                    pairs.measure(
                        &mut sums,
                        || batches.iter().for_each(|batch| copy.take(batch)),
                        || batches.iter().for_each(|batch| log.append(batch)),
                    );
                    log.tidy();
                    left -= count;
                }
                sums
            });
            pairs.report(&format!("log/unsynced/{shape}"), RATIO);
        }
    }
    group.finish();
}

/// `Log::append` and `Log::sync` against `pwrite` and `fdatasync` of as many bytes.
fn synced(c: &mut Criterion) {
    let mut group = c.benchmark_group("log/synced");
    for (records, groups) in [(1, 1), (64, 64)] {
        for payload_bytes in SIZES {
            let shape = BatchShape {
                records,
                payload_bytes,
                groups,
            };
            let directory = scratch(TARGET);
            let mut log = LogFixture::new(directory.path(), shape);
            let mut floor = SyncFloor::new(directory.path());
            let mut pairs = Pairs::default();
            bench_pair(&mut group, "pwrite+fdatasync", shape, |iterations| {
                let mut sums = Sums::default();
                for _ in 0..iterations {
                    let batch = log.next_batch();
                    let bytes = vec![0xa5; batch.bytes()];
                    pairs.measure(
                        &mut sums,
                        || floor.write_and_sync(&bytes),
                        || {
                            log.append(&batch);
                            log.sync();
                        },
                    );
                    log.tidy();
                }
                sums
            });
            pairs.report(&format!("log/synced/{shape}"), RATIO);
        }
    }
    group.finish();
}

/// One bench for the floor and one for the log. Either takes both in turns, and is told its half.
fn bench_pair(
    group: &mut BenchmarkGroup<'_, WallTime>,
    floor: &str,
    shape: BatchShape,
    mut run: impl FnMut(u64) -> Sums,
) {
    group.throughput(Throughput::ElementsAndBytes {
        elements: shape.records,
        bytes: shape.records * shape.payload_bytes as u64,
    });
    group.bench_function(BenchmarkId::new(floor, shape), |bencher| {
        bencher.iter_custom(|iterations| run(iterations).floor);
    });
    group.bench_function(BenchmarkId::new("log", shape), |bencher| {
        bencher.iter_custom(|iterations| run(iterations).part);
    });
}

/// The log with its threads: N threads that each submit a record of 128 B and wait until it is durable.
/// One iteration is a record of each.
fn submitters(c: &mut Criterion) {
    let mut group = c.benchmark_group("log/submitters");
    for count in [1, 8, 64] {
        let directory = scratch(TARGET);
        let mut floor = SyncFloor::new(directory.path());
        let mut submitters = Submitters::new(directory.path(), count);
        let bytes = vec![0xa5; submitters.batch_bytes()];
        let mut pairs = Pairs::default();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut took = Duration::ZERO;
                for first in (0..rounds).step_by(SLICE as usize) {
                    let began = Instant::now();
                    (0..SLICE).for_each(|_| floor.write_and_sync(&bytes));
                    let floor_s = began.elapsed().as_secs_f64() / SLICE as f64;
                    let rounds = SLICE.min(rounds - first);
                    let slice = submitters.run(rounds);
                    let record_s = slice.as_secs_f64() / (rounds * count as u64) as f64;
                    if rounds == SLICE {
                        pairs.push(floor_s, record_s);
                    }
                    took += slice;
                }
                took
            });
        });
        let name = format!("log/submitters/{count}");
        pairs.report(&name, "records per floor sync");
    }
    group.finish();
}

const RATIO: &str = "floor / log";

/// Memory that entries are copied into, round about, after their CRC32C was taken.
struct CopyFloor {
    memory: Vec<u8>,
    cursor: usize,
}

impl CopyFloor {
    fn new() -> Self {
        // Not 0, for which the system would hand out pages that are not there yet.
        let memory = vec![1; 16 << 20];
        Self { memory, cursor: 0 }
    }

    fn take(&mut self, batch: &SealedBatch) {
        for record in batch.records() {
            let pontoon_wal::Record::Entry(entry) = record else {
                continue;
            };
            let bytes = entry.as_bytes();
            if self.cursor + bytes.len() > self.memory.len() {
                self.cursor = 0;
            }
            black_box(crc32c::crc32c(bytes));
            self.memory[self.cursor..][..bytes.len()].copy_from_slice(bytes);
            self.cursor += bytes.len();
        }
        black_box(&self.memory);
    }
}

/// Threads with a group each, which wait for each record before they submit the next.
struct Submitters {
    wal: Wal,
    threads: Vec<Submitter>,
}

struct Submitter {
    group: GroupId,
    last: LogIndex,
    worker: u32,
    durable: Receiver<()>,
}

/// Wakes the thread whose record is durable.
struct Wake(Vec<SyncSender<()>>);

impl DurabilityListener for Wake {
    fn durable(&self, tickets: &[Ticket]) {
        for ticket in tickets {
            // Nobody waits only if the bench is over.
            let _ = self.0[ticket.worker as usize].send(());
        }
    }

    fn failed(&self, error: &WalError) {
        eprintln!("the log failed: {error}");
        std::process::abort();
    }
}

impl Submitters {
    const PAYLOAD_BYTES: usize = 128;

    fn new(directory: &std::path::Path, count: usize) -> Self {
        let (wakers, waiting): (Vec<_>, Vec<_>) = (0..count).map(|_| sync_channel(1)).unzip();
        let listener = Arc::new(Wake(wakers));
        let opened = Wal::open(directory, WalConfig::default(), IDENTITY, listener);
        let (wal, _) = opened.expect("a log can be made");
        let threads = (0..).zip(waiting).map(|(worker, durable)| Submitter {
            group: GroupId(u64::from(worker) + 1),
            last: LogIndex::ZERO,
            worker,
            durable,
        });
        let threads = threads.collect();
        Self { wal, threads }
    }

    fn batch_bytes(&self) -> usize {
        let mut batch = BatchBuilder::new();
        batch.append(&entry(GroupId(1), LogIndex(1), Self::PAYLOAD_BYTES));
        batch.bytes()
    }

    /// Lets every thread write so many records, and returns the time from the first one's start to the
    /// last one's end.
    fn run(&mut self, rounds: u64) -> Duration {
        let (wal, start) = (&self.wal, &Barrier::new(self.threads.len()));
        std::thread::scope(|scope| {
            let run = |thread: &mut Submitter| {
                start.wait();
                let began = Instant::now();
                (0..rounds).for_each(|_| thread.write(wal));
                (began, Instant::now())
            };
            let threads = self.threads.iter_mut();
            let threads: Vec<_> = threads
                .map(|thread| scope.spawn(move || run(thread)))
                .collect();
            let times = threads.into_iter().map(|thread| thread.join());
            let times: Vec<_> = times.map(|times| times.expect("no panic")).collect();
            let began = times.iter().map(|(began, _)| *began).min();
            let ended = times.iter().map(|(_, ended)| *ended).max();
            began
                .zip(ended)
                .map_or(Duration::ZERO, |(began, ended)| ended - began)
        })
    }
}

impl Submitter {
    fn write(&mut self, wal: &Wal) {
        let mut batch = BatchBuilder::new();
        // So that the log stays small, however long the bench goes on.
        if self.last.0 % 256 == 255 {
            let (term, index) = (Term(1), self.last);
            batch.compact(self.group, LogPosition { term, index });
        }
        self.last = self.last.next();
        batch.append(&entry(self.group, self.last, Submitters::PAYLOAD_BYTES));
        let (worker, sequence) = (self.worker, self.last.0);
        wal.submit(batch.seal(), Ticket { worker, sequence });
        self.durable.recv().expect("the log announces every batch");
    }
}

criterion_group! {
    name = benches;
    config = pontoon_benches::criterion();
    targets = unsynced, synced, submitters
}
criterion_main!(benches);
