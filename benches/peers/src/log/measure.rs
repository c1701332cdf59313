//! The comparisons, one after the other, each in turns.

use super::floor::{CopyFloor, SyncFloor};
use super::peer::{RaftEngine, SharedEngine};
use super::pontoon::{PontoonLog, PontoonWal};
use super::report::{Aim, Row, Section, Unit};
use super::writers::{Writers, median};
use super::{Batches, Failure, Shape, TIDY_BYTES};
use crate::clock::{Took, timed};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Groups in a batch, one record each.
const GROUPS: [u64; 4] = [1, 8, 64, 1024];
/// From so many groups in a batch on the log is meant to be faster than its peer.
const MANY_GROUPS: u64 = 64;
/// Threads that wait, and how many records each of them writes in a window.
const WRITERS: [(u32, u64); 3] = [(1, 32), (8, 32), (64, 16)];
/// Batches, each with its sync, in a window.
const SYNCS: u64 = 8;
/// Payload in a window that is not synced: it stays in a core's cache.
const WINDOW_BYTES: u64 = 512 << 10;
/// Pairs of windows, at the least.
const MIN_PAIRS: usize = 20;
/// How often each side is opened.
const RECOVERIES: usize = 7;
/// Groups of a small log, and of a large one, which is also the one that is recovered.
const FEW_GROUPS: u64 = 16;
const ALL_GROUPS: u64 = 10_000;
/// Records in a batch where the groups are not asked about.
const RECORDS: u64 = 64;

/// Measures everything. `seconds` are shared by all but the recovery.
pub(crate) fn all(directory: &Path, seconds: u64, recovery_mib: u64) -> Result<Vec<Row>, Failure> {
    let payloads = [128, 4096];
    // Batches synced and not, writers, appends, groups.
    let comparisons = 2 * GROUPS.len() + WRITERS.len() + payloads.len() + 1;
    let run = Run {
        directory,
        share: Duration::from_secs(seconds) / comparisons as u32,
    };
    let mut rows = Vec::new();
    for groups in GROUPS {
        rows.extend(run.synced(groups)?);
        rows.push(run.unsynced(groups)?);
    }
    for (count, rounds) in WRITERS {
        rows.extend(run.writers(count, rounds)?);
    }
    for payload_bytes in payloads {
        rows.push(run.append(payload_bytes)?);
    }
    rows.push(run.many_groups()?);
    rows.extend(run.recovery(recovery_mib)?);
    rows.sort_by_key(|row| row.section);
    Ok(rows)
}

struct Run<'a> {
    directory: &'a Path,
    /// For each comparison.
    share: Duration,
}

impl Run<'_> {
    /// Batches with a sync each: sealed ones against the floor, and from their payloads on against the peer.
    fn synced(&self, groups: u64) -> Result<Vec<Row>, Failure> {
        let (place, shape) = (
            Place::new(self, "synced", groups)?,
            Shape::of_groups(groups),
        );
        let case = batches_of(groups);
        eprintln!("{case}, synced: the floor, the log, raft-engine");
        let log = PontoonLog::open(&place.log(), shape)?;
        let batch_bytes = log.batch_bytes();
        let mut floor = SyncFloor::new(&place.path, batch_bytes)?;
        let mut log = Tidied::new(log, batch_bytes);
        let mut peer = Tidied::new(RaftEngine::open(&place.peer(), shape)?, batch_bytes);
        let windows: Vec<[Took; 4]> = self.turns(|side| match side {
            0 => timed(|| (0..SYNCS).try_for_each(|_| floor.write_and_sync())),
            1 => {
                let batches = log.sealed(SYNCS);
                log.window(SYNCS, |log| {
                    batches.iter().try_for_each(|batch| {
                        log.lay(batch)?;
                        log.sync()
                    })
                })
            }
            2 => log.batches(SYNCS, true),
            _ => peer.batches(SYNCS, true),
        })?;
        let records = (SYNCS * shape.records) as f64;
        let micros = |took: &Took| took.wall.as_secs_f64() * 1e6 / SYNCS as f64;
        let per_second = |took: &Took| records / took.wall.as_secs_f64();
        let cpu = |took: &Took| took.cpu.as_secs_f64() * 1e9 / records;
        Ok(vec![
            Row::new(
                Section::Floor,
                &case,
                "time of the floor to the log's",
                Unit::Micros,
            )
            .values(&windows, |w| micros(&w[1]), |w| micros(&w[0]))
            .ratio(&windows, |w| secs(&w[0]) / secs(&w[1]))
            .aim(Aim::LowAtLeast(0.90)),
            Row::new(Section::Peer, &case, "throughput, synced", Unit::PerSecond)
                .values(&windows, |w| per_second(&w[2]), |w| per_second(&w[3]))
                .ratio(&windows, |w| secs(&w[3]) / secs(&w[2]))
                .aim(throughput_aim(groups)),
            Row::new(Section::Peer, &case, "CPU per record, synced", Unit::Nanos)
                .values(&windows, |w| cpu(&w[2]), |w| cpu(&w[3]))
                .ratio(&windows, |w| cpu(&w[2]) / cpu(&w[3]))
                .aim(Aim::AtMost(0.5)),
        ])
    }

    /// The same batches without a sync, against the peer.
    fn unsynced(&self, groups: u64) -> Result<Row, Failure> {
        let (place, shape) = (
            Place::new(self, "unsynced", groups)?,
            Shape::of_groups(groups),
        );
        let case = batches_of(groups);
        eprintln!("{case}, not synced: the log, raft-engine");
        let log = PontoonLog::open(&place.log(), shape)?;
        let batch_bytes = log.batch_bytes();
        let mut log = Tidied::new(log, batch_bytes);
        let mut peer = Tidied::new(RaftEngine::open(&place.peer(), shape)?, batch_bytes);
        let count = shape.batches_in(WINDOW_BYTES);
        let windows: Vec<[Took; 2]> = self.turns(|side| match side {
            0 => log.batches(count, false),
            _ => peer.batches(count, false),
        })?;
        let cpu = |took: &Took| took.cpu.as_secs_f64() * 1e9 / (count * shape.records) as f64;
        Ok(Row::new(
            Section::Peer,
            &case,
            "CPU per record, not synced",
            Unit::Nanos,
        )
        .values(&windows, |w| cpu(&w[0]), |w| cpu(&w[1]))
        .ratio(&windows, |w| cpu(&w[0]) / cpu(&w[1]))
        .aim(Aim::AtMost(0.5)))
    }

    /// Threads that each wait for their record.
    fn writers(&self, count: u32, rounds: u64) -> Result<Vec<Row>, Failure> {
        let place = Place::new(self, "writers", u64::from(count))?;
        let case = format!("{count} {}", plural(u64::from(count), "writer"));
        eprintln!("{case}: the floor, the log, raft-engine");
        let payload = Shape::of_groups(1).payload();
        let log = PontoonWal::open(&place.log(), count as usize, payload.clone())?;
        let mut floor = SyncFloor::new(&place.path, log.batch_bytes())?;
        let log = Writers::start(log, count);
        let peer = Writers::start(SharedEngine::open(&place.peer(), payload)?, count);
        let windows: Vec<[(Took, Duration); 3]> = self.turns(|side| match side {
            0 => {
                let mut latencies = Vec::new();
                let took = timed(|| {
                    (0..SYNCS).try_for_each(|_| {
                        latencies.push(timed(|| floor.write_and_sync())?.wall);
                        Ok(())
                    })
                })?;
                Ok((took, median(&mut latencies)))
            }
            1 => log.window(rounds),
            _ => peer.window(rounds),
        })?;
        let records = (u64::from(count) * rounds) as f64;
        let record_s = |took: &Took| secs(took) / records;
        let sync_s = |took: &Took| secs(took) / SYNCS as f64;
        let cpu = |took: &Took| took.cpu.as_secs_f64() * 1e9 / records;
        let shared = Row::new(
            Section::Writers,
            &case,
            "records in the time of a floor's sync",
            Unit::PerSecond,
        )
        .values(
            &windows,
            |w| 1.0 / record_s(&w[1].0),
            |w| 1.0 / sync_s(&w[0].0),
        )
        .ratio(&windows, |w| sync_s(&w[0].0) / record_s(&w[1].0));
        let mut rows = vec![if count == 64 {
            shared.aim(Aim::AtLeast(10.0))
        } else {
            shared
        }];
        if count == 1 {
            let micros = |(_, latency): &(Took, Duration)| latency.as_secs_f64() * 1e6;
            rows.push(
                Row::new(
                    Section::Writers,
                    &case,
                    "median latency to the floor's",
                    Unit::Micros,
                )
                .values(&windows, |w| micros(&w[1]), |w| micros(&w[0]))
                .ratio(&windows, |w| micros(&w[1]) / micros(&w[0]))
                .aim(Aim::AtMost(1.1)),
            );
        }
        rows.push(
            Row::new(Section::Peer, &case, "throughput, synced", Unit::PerSecond)
                .values(
                    &windows,
                    |w| 1.0 / record_s(&w[1].0),
                    |w| 1.0 / record_s(&w[2].0),
                )
                .ratio(&windows, |w| secs(&w[2].0) / secs(&w[1].0))
                .aim(Aim::NotBelow(1.0)),
        );
        rows.push(
            Row::new(Section::Peer, &case, "CPU per record, synced", Unit::Nanos)
                .values(&windows, |w| cpu(&w[1].0), |w| cpu(&w[2].0))
                .ratio(&windows, |w| cpu(&w[1].0) / cpu(&w[2].0))
                .aim(Aim::AtMost(0.5)),
        );
        Ok(rows)
    }

    /// Sealed batches without a sync, against a copy of their entries with a CRC32C over them. On one core, so it is
    /// that core's time that counts.
    fn append(&self, payload_bytes: usize) -> Result<Row, Failure> {
        let shape = Shape {
            records: RECORDS,
            groups: RECORDS,
            payload_bytes,
        };
        let place = Place::new(self, "append", payload_bytes as u64)?;
        let case = format!("batches of {RECORDS} x {payload_bytes} B");
        eprintln!("{case}, sealed, not synced: a copy with CRC32C, the log");
        let log = PontoonLog::open(&place.log(), shape)?;
        let batch_bytes = log.batch_bytes();
        let mut log = Tidied::new(log, batch_bytes);
        let mut copy = CopyFloor::new();
        let count = shape.batches_in(WINDOW_BYTES);
        let windows: Vec<[Took; 2]> = self.turns(|side| {
            let mut batches = log.sealed(count);
            match side {
                // Nothing that was sealed may be left out, so the log takes what the copy took.
                0 => {
                    let took = timed(|| {
                        batches.iter().for_each(|batch| copy.take(batch));
                        Ok(())
                    })?;
                    log.window(count, |log| {
                        batches.drain(..).try_for_each(|batch| log.lay(&batch))
                    })?;
                    Ok(took)
                }
                _ => log.window(count, |log| {
                    batches.iter().try_for_each(|batch| log.lay(batch))
                }),
            }
        })?;
        let cpu = |took: &Took| took.cpu.as_secs_f64() * 1e9 / (count * shape.records) as f64;
        Ok(Row::new(
            Section::Append,
            &case,
            "CPU of copy + CRC32C to the log's",
            Unit::Nanos,
        )
        .values(&windows, |w| cpu(&w[1]), |w| cpu(&w[0]))
        .ratio(&windows, |w| cpu(&w[0]) / cpu(&w[1]))
        .aim(Aim::AtLeast(0.60)))
    }

    /// Sealed batches of as many records over many groups and over few.
    fn many_groups(&self) -> Result<Row, Failure> {
        let case = format!("{ALL_GROUPS} groups, and {FEW_GROUPS}");
        eprintln!("{case}: appends that are not synced");
        let place = Place::new(self, "groups", ALL_GROUPS)?;
        let open = |groups: u64| {
            let shape = Shape {
                records: RECORDS,
                groups,
                payload_bytes: 128,
            };
            let log = PontoonLog::open(&place.path.join(groups.to_string()), shape)?;
            let batch_bytes = log.batch_bytes();
            let mut log = Tidied::new(log, batch_bytes);
            // Every group is known before anything is measured.
            log.batches(ALL_GROUPS.div_ceil(RECORDS), false)?;
            Ok::<_, Failure>((log, shape.batches_in(WINDOW_BYTES)))
        };
        let (mut many, count) = open(ALL_GROUPS)?;
        let (mut few, _) = open(FEW_GROUPS)?;
        let windows: Vec<[Took; 2]> = self.turns(|side| {
            let log = if side == 0 { &mut few } else { &mut many };
            let batches = log.sealed(count);
            log.window(count, |log| {
                batches.iter().try_for_each(|batch| log.lay(batch))
            })
        })?;
        let cpu = |took: &Took| took.cpu.as_secs_f64() * 1e9 / (count * RECORDS) as f64;
        Ok(Row::new(
            Section::Groups,
            &case,
            "CPU per record of an append",
            Unit::Nanos,
        )
        .values(&windows, |w| cpu(&w[1]), |w| cpu(&w[0]))
        .ratio(&windows, |w| cpu(&w[1]) / cpu(&w[0]))
        .aim(Aim::AtMost(1.3)))
    }

    /// Opening a log that is in the page cache.
    fn recovery(&self, mib: u64) -> Result<Vec<Row>, Failure> {
        let shape = Shape {
            records: RECORDS,
            groups: ALL_GROUPS,
            payload_bytes: 128,
        };
        let place = Place::new(self, "recovery", mib)?;
        let case = format!("{mib} MiB, {ALL_GROUPS} groups");
        eprintln!("recovery: writing {mib} MiB into each log");
        let mut log = PontoonLog::open(&place.log(), shape)?;
        let mut peer = RaftEngine::open_keeping(&place.peer(), shape)?;
        let batch_bytes = log.batch_bytes() as u64;
        let batches = (mib << 20).div_ceil(batch_bytes);
        let between = TIDY_BYTES / batch_bytes;
        for number in 1..=batches {
            let sync = number % between == 0 || number == batches;
            log.batch(sync)?;
            peer.batch(sync)?;
            if sync {
                log.maintain()?;
            }
        }
        log.close()?;
        peer.close()?;
        let mut windows = Vec::new();
        for number in 1..=RECOVERIES {
            eprintln!("recovery: {number} of {RECOVERIES}");
            let (mut ours, mut theirs) = (None, None);
            let our_time = timed(|| {
                ours = Some(PontoonLog::recover(&place.log())?);
                Ok(())
            })?;
            let their_time = timed(|| {
                theirs = Some(RaftEngine::recover(&place.peer())?);
                Ok(())
            })?;
            let found = [
                ours.map_or(0, |log| log.entries()),
                theirs.map_or(0, |engine| engine.entries()),
            ];
            let laid = batches * shape.records;
            if found != [laid; 2] {
                return Err(format!("{laid} entries were laid, and {found:?} recovered").into());
            }
            windows.push([our_time, their_time]);
        }
        let gib = (batches * batch_bytes) as f64 / (1u64 << 30) as f64;
        let row = |what, unit| Row::new(Section::Recovery, &case, what, unit);
        Ok(vec![
            row("speed of the log to raft-engine's", Unit::GibPerSecond)
                .values(&windows, |w| gib / secs(&w[0]), |w| gib / secs(&w[1]))
                .ratio(&windows, |w| secs(&w[1]) / secs(&w[0])),
            row("CPU of the log to raft-engine's", Unit::Millis)
                .values(&windows, |w| cpu_millis(&w[0]), |w| cpu_millis(&w[1]))
                .ratio(&windows, |w| cpu_millis(&w[0]) / cpu_millis(&w[1])),
        ])
    }

    /// Windows of `N` sides in turns, each turn beginning with another side, for the share of the time. The first turn
    /// is not counted.
    fn turns<T: Copy + Default, const N: usize>(
        &self,
        mut window: impl FnMut(usize) -> Result<T, Failure>,
    ) -> Result<Vec<[T; N]>, Failure> {
        let mut windows = Vec::new();
        let began = Instant::now();
        for turn in 0.. {
            let mut taken = [T::default(); N];
            for step in 0..N {
                let side = (turn + step) % N;
                taken[side] = window(side)?;
            }
            if turn > 0 {
                windows.push(taken);
            }
            if windows.len() >= MIN_PAIRS && began.elapsed() >= self.share {
                break;
            }
        }
        Ok(windows)
    }
}

fn batches_of(groups: u64) -> String {
    format!("batches of {groups} {}", plural(groups, "group"))
}

fn plural(count: u64, what: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{what}{ending}")
}

fn throughput_aim(groups: u64) -> Aim {
    if groups >= MANY_GROUPS {
        Aim::Above(1.0)
    } else {
        Aim::NotBelow(1.0)
    }
}

fn secs(took: &Took) -> f64 {
    took.wall.as_secs_f64()
}

fn cpu_millis(took: &Took) -> f64 {
    took.cpu.as_secs_f64() * 1e3
}

impl Shape {
    fn batches_in(self, payload_bytes: u64) -> u64 {
        (payload_bytes / self.payload_total()).max(1)
    }
}

/// A directory that goes with the comparison that it is for.
struct Place {
    path: PathBuf,
}

impl Place {
    fn new(run: &Run<'_>, what: &str, which: u64) -> Result<Self, Failure> {
        let path = run.directory.join(format!("{what}-{which}"));
        std::fs::create_dir(&path)?;
        Ok(Self { path })
    }

    fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    fn peer(&self) -> PathBuf {
        self.path.join("peer")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed now goes with the whole directory, at the end.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A log that is cut between windows when much was laid.
struct Tidied<B> {
    inner: B,
    batch_bytes: u64,
    untidied_bytes: u64,
}

impl<B: Batches> Tidied<B> {
    fn new(inner: B, batch_bytes: usize) -> Self {
        Self {
            inner,
            batch_bytes: batch_bytes as u64,
            untidied_bytes: 0,
        }
    }

    /// A window in which `count` batches are laid.
    fn window(
        &mut self,
        count: u64,
        work: impl FnOnce(&mut B) -> Result<(), Failure>,
    ) -> Result<Took, Failure> {
        let took = timed(|| work(&mut self.inner))?;
        self.untidied_bytes += count * self.batch_bytes;
        if self.untidied_bytes >= TIDY_BYTES {
            self.untidied_bytes = 0;
            self.inner.tidy()?;
        }
        Ok(took)
    }

    fn batches(&mut self, count: u64, sync: bool) -> Result<Took, Failure> {
        self.window(count, |log| (0..count).try_for_each(|_| log.batch(sync)))
    }
}

impl Tidied<PontoonLog> {
    fn sealed(&mut self, count: u64) -> Vec<pontoon_wal::SealedBatch> {
        (0..count).map(|_| self.inner.seal_next()).collect()
    }
}
