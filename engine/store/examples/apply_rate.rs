//! How fast one apply thread takes puts, and what its slowest batches cost.
//!
//! ```text
//! cargo run --release -p pontoon-store --example apply_rate -- [entries] [value bytes] [batch]
//! ```
//!
//! Entries of 64 groups, each a put of a random key, are applied in batches through [`KvMachine`] into
//! an [`LsmStore`], flushes and compactions going on. Encoding the entries is not counted. The time on
//! the processor is the apply thread's own, and so says something on a busy machine too.

use pontoon_store::{KvMachine, LsmSettings, LsmStore, ReplicaRecord, Store};
use pontoon_types::{
    Command, ConfState, Entry, EntryKind, Epoch, GroupId, LogIndex, Members, Mutation, NodeId,
    Operation, ReplicaId, Request, Sequence, SessionId, ShardId, TabletId, Term,
};
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
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut indexes = vec![LogIndex::ZERO; GROUPS as usize + 1];
    let (mut outcomes, mut entries) = (Vec::new(), Vec::new());
    let (mut spent, mut cpu, mut slowest) = (Duration::ZERO, Duration::ZERO, Vec::new());
    let started = Instant::now();
    for first in (0..count).step_by(batch) {
        entries.clear();
        for number in first..count.min(first + batch) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // As a cycle hands them over: the entries of one group together.
            let group = 1 + ((number - first) as u64 * GROUPS / batch as u64);
            indexes[group as usize] = indexes[group as usize].next();
            let key = format!("user{random:020}");
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
    let at = |share: f64| slowest[((slowest.len() - 1) as f64 * share) as usize];
    println!(
        "{count} puts of {value_bytes} B in batches of {batch}: {:.0} puts/s, {:.2} µs each, {:.2} µs of it on the processor",
        count as f64 / spent.as_secs_f64(),
        spent.as_secs_f64() * 1e6 / count as f64,
        cpu.as_secs_f64() * 1e6 / count as f64
    );
    println!(
        "a batch took p50 {:?}, p99 {:?}, p99.9 {:?}, at most {:?}; {wall:.1?} in all",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
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

/// How long this thread has been on a processor (Linux: `proc(5)`, schedstat).
fn thread_cpu() -> std::io::Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok());
    Ok(Duration::from_nanos(nanoseconds.unwrap_or(0)))
}

fn record(group: u64) -> ReplicaRecord {
    ReplicaRecord {
        group: GroupId(group),
        shard: ShardId(group),
        replica: ReplicaId(1),
        start: bytes::Bytes::new(),
        end: bytes::Bytes::new(),
        epoch: Epoch::default(),
        tablet: TabletId(group),
        conf_state: ConfState::of_voters([ReplicaId(1)]),
        members: Members::new([(ReplicaId(1), NodeId(1))]),
        descriptor: bytes::Bytes::new(),
    }
}

fn put(group: u64, index: LogIndex, key: &[u8], value: &[u8]) -> Entry {
    let command = Command {
        request: Request {
            shard: ShardId(group),
            epoch: Epoch::default(),
            session: SessionId(0),
            sequence: Sequence(0),
        },
        operation: Operation::Write(vec![Mutation::Put { key, value }]),
    };
    let mut payload = Vec::new();
    command.encode(&mut payload);
    Entry::encode(GroupId(group), Term(1), index, EntryKind::Command, &payload)
}
