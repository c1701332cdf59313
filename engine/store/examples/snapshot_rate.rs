//! How fast a snapshot is taken, read, staged, switched in and reclaimed, and what that costs those who apply meanwhile.
//!
//! ```text
//! cargo run --release -p pontoon-store --example snapshot_rate -- [MiB] [value bytes]
//! ```
//!
//! Beside it, in the same run and with as many bytes: the disk's floor, one file written in pieces of 1 MiB and synced.

mod common;

use common::{at, put, record};
use pontoon_store::{KvMachine, LsmSettings, LsmStore, ReplicaRecord, Stager, StateHash, Store};
use pontoon_types::{GroupId, LogIndex};
use std::io::Write;
use std::time::{Duration, Instant};

/// The group whose snapshot comes, and the one that goes on meanwhile.
const MOVED: GroupId = GroupId(1);
const BUSY: u64 = 2;
/// Puts applied at once.
const BATCH: u64 = 256;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let mut next = |default| numbers.next().unwrap_or(Ok(default));
    let (bytes, value_bytes) = (next(512)? << 20, next(128)?);
    let rows = bytes / (value_bytes + 21);
    let rate = |took: Duration| format!("{:.0} MB/s", bytes as f64 / 1e6 / took.as_secs_f64());

    let dir = tempfile::tempdir()?;
    let floor = write_floor(&dir.path().join("floor"), bytes)?;
    println!(
        "{rows} rows of {value_bytes} B; the disk's floor {}",
        rate(floor)
    );

    let store = LsmStore::open(&dir.path().join("store"), LsmSettings::default())?;
    let mut machine = KvMachine::open(store)?;
    machine.bootstrap(&[record(MOVED.0), record(BUSY)], &[])?;
    let mut busy = Busy::default();
    println!(
        "applying alone: {}",
        busy.run(&mut machine, |passed| passed > Duration::from_secs(2))?
    );

    // The first snapshot fills the replica; the second one replaces it.
    for applied in [1, 2] {
        let (tablet, mut stager) = machine.begin_install()?;
        let staging = std::thread::spawn(
            move || -> Result<(Duration, u128), pontoon_store::StoreError> {
                let (began, mut value) = (Instant::now(), vec![0; value_bytes as usize]);
                let mut random = common::Random::default();
                let mut hash = StateHash::default();
                for row in 0..rows {
                    let key = format!("d{row:020}");
                    random.fill(&mut value);
                    hash.push(key.as_bytes(), &value);
                    stager.push(key.as_bytes(), &value)?;
                }
                stager.finish()?;
                Ok((began.elapsed(), hash.finish()))
            },
        );
        // The first one has the machine to itself.
        let meanwhile = match applied {
            1 => None,
            _ => Some(busy.run(&mut machine, |_| staging.is_finished())?),
        };
        let (took, stated) = staging.join().expect("it does not panic")?;
        println!("staged at {}", rate(took));
        if let Some(meanwhile) = meanwhile {
            println!("applying meanwhile: {meanwhile}");
        }

        let began = Instant::now();
        let record = ReplicaRecord {
            pieces: tablet.into(),
            ..record(MOVED.0)
        };
        machine.install(record, LogIndex(applied))?;
        println!("switched in {:?}", began.elapsed());
        let began = Instant::now();
        let snapshot = machine.snapshot(MOVED).expect("it was installed");
        println!("pinned in {:?}", began.elapsed());
        let began = Instant::now();
        assert_eq!(snapshot.hash()?, stated, "what is read is what was staged");
        println!("read and hashed at {}", rate(began.elapsed()));
    }
    let (began, mut steps) = (Instant::now(), 0);
    while machine.reclaim(256)? {
        if machine.store().is_dropping() {
            std::thread::yield_now();
        } else {
            steps += 1;
        }
    }
    println!(
        "the replaced one reclaimed in {:?}, {steps} steps of at most 256 rows",
        began.elapsed()
    );
    Ok(())
}

/// Writes and syncs as many bytes.
fn write_floor(path: &std::path::Path, bytes: u64) -> std::io::Result<Duration> {
    let (began, piece) = (Instant::now(), vec![7; 1 << 20]);
    let mut file = std::fs::File::create(path)?;
    for _ in 0..bytes >> 20 {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    let took = began.elapsed();
    std::fs::remove_file(path)?;
    Ok(took)
}

/// Puts of random keys, applied one batch after the other.
#[derive(Default)]
struct Busy {
    random: common::Random,
    index: LogIndex,
}

impl Busy {
    fn run(
        &mut self,
        machine: &mut KvMachine<LsmStore>,
        mut is_over: impl FnMut(Duration) -> bool,
    ) -> Result<String, pontoon_store::StoreError> {
        let (mut outcomes, mut slowest, began) = (Vec::new(), Vec::new(), Instant::now());
        while !is_over(began.elapsed()) {
            let entries: Vec<_> = (0..BATCH)
                .map(|_| {
                    self.index = self.index.next();
                    let key = format!("user{:020}", self.random.next());
                    put(BUSY, self.index, key.as_bytes(), &[7; 128])
                })
                .collect();
            let began = Instant::now();
            machine.apply(&entries, &mut outcomes)?;
            slowest.push(began.elapsed());
        }
        let rate = (slowest.len() as u64 * BATCH) as f64 / began.elapsed().as_secs_f64();
        slowest.sort_unstable();
        Ok(format!(
            "{rate:.0} puts/s, a batch of {BATCH} p50 {:.1?}, p99 {:.1?}, p99.9 {:.1?}, at most {:.1?}",
            at(&slowest, 0.5),
            at(&slowest, 0.99),
            at(&slowest, 0.999),
            at(&slowest, 1.0)
        ))
    }
}
