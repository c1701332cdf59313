//! The simulator's command line.

mod cli;
#[cfg(feature = "mutants")]
mod mutants;
mod output;

use clap::Parser;
use cli::{Cli, Run};
use indicatif::{ProgressBar, ProgressStyle};
use output::{print_json, print_summary};
use pontoon_sim::{Report, Summary, simulate};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    let cli = Cli::parse();
    #[cfg(feature = "mutants")]
    if let Some(cli::Command::Mutants(options)) = &cli.command {
        return mutants::run(options);
    }
    let cli = cli.run;
    if let Some(seed) = cli.seed {
        return replay(&cli, seed);
    }
    let started = Instant::now();
    let (summary, differing) = run_seeds(&cli);
    let real = started.elapsed();
    if cli.json {
        print_json(&summary, &differing, real);
    } else {
        print_summary(&summary, real);
    }
    let shortcomings = if cli.owes_faults() {
        summary.shortcomings()
    } else {
        Vec::new()
    };
    for shortcoming in &shortcomings {
        eprintln!("too little was tried: {shortcoming}");
    }
    if summary.failed.is_empty() && differing.is_empty() && shortcomings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs one seed and says all about it.
fn replay(cli: &Run, seed: u64) -> ExitCode {
    let started = Instant::now();
    let report = simulate(seed, cli.theme(), cli.scale(), cli.trace);
    let real = started.elapsed();
    let mut differing = Vec::new();
    if cli.check_determinism
        && simulate(seed, cli.theme(), cli.scale(), false).trace_hash != report.trace_hash
    {
        differing.push(seed);
        eprintln!("seed {seed} is not the same twice");
    }
    let mut summary = Summary::default();
    summary.add(&report);
    complain(cli, &report);
    if cli.json {
        print_json(&summary, &differing, real);
    } else {
        println!("seed {seed}: trace hash {:016x}", report.trace_hash);
        print_summary(&summary, real);
    }
    if report.violation.is_some() || !differing.is_empty() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Runs all seeds, each on one thread. Returns what came of them, and those that were not the same twice.
fn run_seeds(cli: &Run) -> (Summary, Vec<u64>) {
    let seeds = cli.seeds.clone();
    let next = AtomicU64::new(*seeds.start());
    let (sender, receiver) = mpsc::channel();
    let progress = progress_bar(seeds.end() - seeds.start() + 1);
    let (mut summary, mut differing) = (Summary::default(), Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..cli.jobs {
            let (sender, next, seeds) = (sender.clone(), &next, &seeds);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        return;
                    }
                    let report = simulate(seed, cli.theme(), cli.scale(), false);
                    let is_same = !cli.check_determinism
                        || simulate(seed, cli.theme(), cli.scale(), false).trace_hash
                            == report.trace_hash;
                    if sender.send((report, is_same)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        // Added up in the order of the seeds, so that the output does not depend on the threads.
        let mut finished = BTreeMap::new();
        let mut expected = *seeds.start();
        for (report, is_same) in receiver {
            progress.inc(1);
            finished.insert(report.seed, (report, is_same));
            while let Some((report, is_same)) = finished.remove(&expected) {
                expected += 1;
                summary.add(&report);
                progress.suspend(|| complain(cli, &report));
                if !is_same {
                    progress.suspend(|| eprintln!("seed {} is not the same twice", report.seed));
                    differing.push(report.seed);
                }
            }
            progress.set_message(format!("{} failed", summary.failed.len() + differing.len()));
        }
    });
    progress.finish_and_clear();
    (summary, differing)
}

fn progress_bar(seeds: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(seeds);
    let template = "{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left, {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Says what went wrong with a seed and how to see it again.
fn complain(cli: &Run, report: &Report) {
    let Some((at, violation)) = &report.violation else {
        return;
    };
    let seconds = at.as_nanos() as f64 / 1e9;
    eprintln!("seed {} breaks {violation}", report.seed);
    eprintln!("  at {seconds:.6} simulated seconds; to see it again:");
    eprintln!("  {}", cli.replay_command(report.seed));
}
