//! The protocol alone: from the proposal to the leader's knowledge that it is committed.
//!
//! One iteration is a cycle of all three voters: n proposals, one Append to each follower, two persists
//! and two acknowledgements over there, the leader's own, and what is committed handed out everywhere.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pontoon_benches::Trio;

fn commit(c: &mut Criterion) {
    let mut group = c.benchmark_group("raft/three voters commit");
    let payload = [7; 128];
    for proposals in [1, 16, 64] {
        let mut trio = Trio::new();
        group.throughput(Throughput::Elements(proposals));
        group.bench_function(BenchmarkId::from_parameter(proposals), |bencher| {
            bencher.iter(|| trio.cycle(proposals, &payload));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = pontoon_benches::criterion();
    targets = commit
}
criterion_main!(benches);
