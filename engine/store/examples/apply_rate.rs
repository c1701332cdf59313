//! How fast one apply thread takes puts, and what its slowest batches cost.
//!
//! ```text
//! cargo run --release -p pontoon-store --example apply_rate -- [entries] [value bytes] [batch]
//! ```
//!
//! Entries of 64 groups, each a put of a random key, are applied in batches through [`KvMachine`] into
//! an [`LsmStore`], flushes and compactions going on. Encoding the entries is not counted. The time on
//! the processor is the apply thread's own, and so says something on a busy machine too.

mod common;

use common::{Random, at, put, record, thread_cpu};
use pontoon_store::{KvMachine, LsmSettings, LsmStore, Store};
use pontoon_types::LogIndex;
use std::time::{Duration, Instant};

const GROUPS: u64 = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let mut next = |default| numbers.next().unwrap_or(Ok(default));
    let (count, value_bytes, batch) = (next(1_000_000)?, next(128)?, next(256)?);

    let dir = tempfile::tempdir()?;
    let store = LsmStore::open(dir.path(), LsmSettings::default())?;
    let mut machine = KvMachine::open(store)?;
    let records: Vec<_> = (1..=GROUPS).map(record).collect();
    machine.bootstrap(&records, &[])?;

    let value = vec![7; value_bytes];
    let mut random = Random::default();
    let mut indexes = vec![LogIndex::ZERO; GROUPS as usize + 1];
    let (mut outcomes, mut entries) = (Vec::new(), Vec::new());
    let (mut spent, mut cpu, mut slowest) = (Duration::ZERO, Duration::ZERO, Vec::new());
    let started = Instant::now();
    for first in (0..count).step_by(batch) {
        entries.clear();
        for number in first..count.min(first + batch) {
            // As a cycle hands them over: the entries of one group together.
            let group = 1 + ((number - first) as u64 * GROUPS / batch as u64);
            indexes[group as usize] = indexes[group as usize].next();
            let key = format!("user{:020}", random.next());
            entries.push(put(group, indexes[group as usize], key.as_bytes(), &value));
        }
        let (began, on_cpu) = (Instant::now(), thread_cpu()?);
        machine.apply(&entries, &mut outcomes)?;
        let took = began.elapsed();
        cpu += thread_cpu()? - on_cpu;
        spent += took;
        slowest.push(took);
    }
    let wall = started.elapsed();
    slowest.sort_unstable();
    println!(
        "{count} puts of {value_bytes} B in batches of {batch}: {:.0} puts/s, {:.2} µs each, {:.2} µs of it on the processor",
        count as f64 / spent.as_secs_f64(),
        spent.as_secs_f64() * 1e6 / count as f64,
        cpu.as_secs_f64() * 1e6 / count as f64
    );
    println!(
        "a batch took p50 {:?}, p99 {:?}, p99.9 {:?}, at most {:?}; {wall:.1?} in all",
        at(&slowest, 0.5),
        at(&slowest, 0.99),
        at(&slowest, 0.999),
        at(&slowest, 1.0)
    );
    let began = Instant::now();
    machine.store_mut().flush()?;
    println!(
        "last flush {:?}, {:#?}",
        began.elapsed(),
        machine.store().stats()
    );
    Ok(())
}
