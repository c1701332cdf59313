//! The state machine of 64 groups on the store of production and on its model in memory.

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use pontoon_benches::{MachineFixture, get, scan, scratch};
use pontoon_store::{LsmSettings, LsmStore, ModelStore, Store};
use std::time::{Duration, Instant};

const TARGET: &str = env!("CARGO_TARGET_TMPDIR");
const SCAN_ROWS: usize = 100;

/// Puts of 128 B to random keys of 64 groups, applied in batches, with flushes and merges going on.
fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("store/apply");
    let directory = scratch(TARGET);
    let mut lsm = MachineFixture::new(lsm(directory.path()));
    apply_on(&mut group, "lsm", &mut lsm, |_| {});
    let mut model = MachineFixture::new(ModelStore::new(4 << 20));
    // What a thread of its own does for the other store.
    apply_on(&mut group, "model", &mut model, |store| {
        while store.finish_flush() {}
    });
    group.finish();
}

fn apply_on<S: Store>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    fixture: &mut MachineFixture<S>,
    mut between: impl FnMut(&mut S),
) {
    for batch in [16, 256] {
        group.throughput(Throughput::Elements(batch));
        group.bench_function(BenchmarkId::new(name, batch), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut took = Duration::ZERO;
                for _ in 0..iterations {
                    let entries = fixture.next_entries(batch);
                    let began = Instant::now();
                    fixture.apply(&entries);
                    took += began.elapsed();
                    between(fixture.store_mut());
                }
                took
            });
        });
    }
}

/// Gets and scans of rows that are in tables on disk, and their blocks in the cache.
fn read(c: &mut Criterion) {
    let directory = scratch(TARGET);
    let mut lsm = MachineFixture::new(lsm(directory.path()));
    let store = lsm.store_mut();
    let settled = store.flush().and_then(|()| store.wait_for_compaction());
    settled.expect("the store writes its tables");
    read_from(c, "lsm", &mut lsm);
    read_from(
        c,
        "model",
        &mut MachineFixture::new(ModelStore::new(4 << 20)),
    );
}

fn read_from<S: Store>(c: &mut Criterion, name: &str, fixture: &mut MachineFixture<S>) {
    let keys = fixture.some_keys(4096);
    let reader = fixture.reader();
    let mut next = keys.iter().cycle();
    let mut next = || next.next().expect("there are keys");

    let mut group = c.benchmark_group("store/get");
    group.throughput(Throughput::Elements(1));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let (group, key) = next();
            assert!(get(&reader, *group, key).expect("the row can be read"));
        });
    });
    group.finish();

    let mut group = c.benchmark_group("store/scan 100 rows");
    group.throughput(Throughput::Elements(SCAN_ROWS as u64));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let (group, from) = next();
            let rows = scan(&reader, *group, from, SCAN_ROWS).expect("the rows can be read");
            assert_eq!(rows, SCAN_ROWS);
        });
    });
    group.finish();
}

fn lsm(directory: &std::path::Path) -> LsmStore {
    LsmStore::open(directory, LsmSettings::default()).expect("an empty store can be opened")
}

criterion_group! {
    name = benches;
    config = pontoon_benches::criterion();
    targets = apply, read
}
criterion_main!(benches);
