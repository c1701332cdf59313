//! What becomes of reads and of memory when there is far more data than memory.
//!
//! ```text
//! cargo run --release -p pontoon-store --example beyond_memory -- [data MiB] [memory MiB] [value bytes]
//! ```
//!
//! Half of the memory is for blocks that were read, half for writes. Keys come in random order, values do not compress.
//! The pages that the kernel keeps of the tables are no memory of the process; on a machine with room for all of them,
//! reads are faster than the disk.

mod common;

use common::{Random, at, put, record};
use pontoon_store::{KvMachine, LsmSettings, LsmStore, ScanLimits, Store, StoreError};
use pontoon_types::{Epoch, GroupId, LogIndex, ShardId};
use std::time::{Duration, Instant};

/// Puts applied at once.
const BATCH: u64 = 256;
const READS: u64 = 50_000;
const SCANS: u64 = 2_000;
const LIMITS: ScanLimits = ScanLimits {
    rows: 100,
    bytes: usize::MAX,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let mut next = |default| numbers.next().unwrap_or(Ok(default));
    let (data, memory, value_bytes) = (next(2048)? << 20, next(128)? << 20, next(1024)?);
    let rows = data / (value_bytes + 20);

    let defaults = LsmSettings::default();
    let settings = LsmSettings {
        memtable_bytes: memory / 2 / (defaults.max_sealed_memtables as u64 + 1),
        block_cache_bytes: memory / 2,
        ..defaults
    };
    let dir = tempfile::tempdir()?;
    let mut machine = KvMachine::open(LsmStore::open(dir.path(), settings)?)?;
    machine.bootstrap(&[record(1)], &[])?;

    let began = Instant::now();
    load(&mut machine, rows, value_bytes)?;
    machine.store_mut().flush()?;
    let loaded = began.elapsed();
    machine.store().wait_for_compaction()?;
    println!(
        "{rows} rows of {value_bytes} B, {} MiB of data, {} MiB of memory: loaded at {:.0} MB/s, merged {:.1?} later, {} MiB on disk",
        data >> 20,
        memory >> 20,
        data as f64 / 1e6 / loaded.as_secs_f64(),
        began.elapsed().saturating_sub(loaded),
        machine.store().stats().disk_bytes >> 20
    );

    let (group, shard, epoch) = (GroupId(1), ShardId(1), Epoch::default());
    let (reader, mut random) = (machine.reader(), Random::default());
    let mut key = || key_of(random.next() % rows);
    println!(
        "a get {}",
        timed(READS, || {
            let found = reader.get(group, shard, epoch, &key());
            assert!(matches!(found, Ok(Some(_))), "{found:?}");
        })
    );
    println!(
        "a scan of {} rows {}",
        LIMITS.rows,
        timed(SCANS, || {
            let page = reader.scan(group, shard, epoch, (&key(), b""), LIMITS);
            assert!(page.is_ok_and(|page| !page.rows.is_empty()));
        })
    );
    println!("at most {} MiB resident", peak_bytes()? >> 20);
    Ok(())
}

/// The keys in an order of their own, each once.
fn key_of(number: u64) -> Vec<u8> {
    format!("user{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes()
}

fn load(machine: &mut KvMachine<LsmStore>, rows: u64, value_bytes: u64) -> Result<(), StoreError> {
    let mut random = Random::default();
    let (mut value, mut outcomes) = (vec![0; value_bytes as usize], Vec::new());
    for first in (0..rows).step_by(BATCH as usize) {
        let entries: Vec<_> = (first..rows.min(first + BATCH))
            .map(|number| {
                random.fill(&mut value);
                put(1, LogIndex(number + 1), &key_of(number), &value)
            })
            .collect();
        machine.apply(&entries, &mut outcomes)?;
    }
    Ok(())
}

fn timed(count: u64, mut what: impl FnMut()) -> String {
    let mut times: Vec<_> = (0..count)
        .map(|_| {
            let began = Instant::now();
            what();
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    let mean = times.iter().sum::<Duration>() / count as u32;
    format!(
        "takes {mean:.1?}, p50 {:.1?}, p99 {:.1?}, p99.9 {:.1?}",
        at(&times, 0.5),
        at(&times, 0.99),
        at(&times, 0.999)
    )
}

/// The most memory that the process has held (`proc(5)`).
fn peak_bytes() -> std::io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(number.unwrap_or(0) << 10)
}
