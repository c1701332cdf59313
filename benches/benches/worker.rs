//! A worker's cycle: however many groups have something to say, one batch for the log and one frame per
//! peer.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pontoon_benches::Workers;
use std::time::{Duration, Instant};

const GROUPS: [u64; 3] = [1, 16, 64];
const VALUE_BYTES: usize = 128;

/// The leader's cycle that proposes: commands in, sealed batch and two frames out. Clients wait for it.
fn leader(c: &mut Criterion) {
    let mut group = c.benchmark_group("worker/leader cycle");
    for groups in GROUPS {
        let mut workers = Workers::new(groups, VALUE_BYTES);
        group.throughput(Throughput::Elements(groups));
        group.bench_function(BenchmarkId::from_parameter(groups), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut took = Duration::ZERO;
                for _ in 0..iterations {
                    let began = Instant::now();
                    let output = workers.leader_cycle();
                    took += began.elapsed();
                    workers.finish(output);
                }
                took
            });
        });
    }
    group.finish();
}

/// All of a write that is not the log, the store, the network or a client: proposal, frames written and
/// read, three batches, acknowledgements, answers. The work of three nodes on one core.
fn round(c: &mut Criterion) {
    let mut group = c.benchmark_group("worker/round of three nodes");
    for groups in GROUPS {
        let mut workers = Workers::new(groups, VALUE_BYTES);
        group.throughput(Throughput::Elements(groups));
        group.bench_function(BenchmarkId::from_parameter(groups), |bencher| {
            bencher.iter(|| {
                let output = workers.leader_cycle();
                workers.finish(output);
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = pontoon_benches::criterion();
    targets = leader, round
}
criterion_main!(benches);
