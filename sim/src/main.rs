//! The simulator's command line.
fn main() {
    for seed in 1..=5 {
        let start = std::time::Instant::now();
        let report = pontoon_sim::simulate(seed, pontoon_sim::Scale::default(), false);
        println!("{:?} {report:?}", start.elapsed());
    }
}
