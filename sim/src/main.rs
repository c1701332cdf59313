//! The simulator's command line.

mod cli;
#[cfg(feature = "mutants")]
mod mutants;
mod output;

use clap::Parser;
use cli::{Cli, Run};
use indicatif::{ProgressBar, ProgressStyle};
use output::{print_json, print_summary};
use pontoon_sim::{Report, Summary, in_order, simulate};
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::process::ExitCode;
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
        print_json(&summary, &differing, real, cli.jobs);
    } else {
        print_summary(&summary, real, cli.jobs);
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
        print_json(&summary, &differing, real, 1);
    } else {
        println!("seed {seed}: trace hash {:016x}", report.trace_hash);
        print_summary(&summary, real, 1);
    }
    if report.violation.is_some() || !differing.is_empty() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Runs all seeds. Returns what came of them, and those that were not the same twice.
fn run_seeds(cli: &Run) -> (Summary, Vec<u64>) {
    let progress = progress_bar(cli.seeds.end() - cli.seeds.start() + 1);
    let (mut summary, mut differing) = (Summary::default(), Vec::new());
    let run = |seed| {
        let report = simulate(seed, cli.theme(), cli.scale(), false);
        let again = |report: &Report| {
            let again = simulate(seed, cli.theme(), cli.scale(), false);
            again.trace_hash == report.trace_hash
        };
        let is_same = !cli.check_determinism || again(&report);
        (report, is_same)
    };
    in_order(
        cli.seeds.clone(),
        cli.jobs,
        run,
        |seed, (report, is_same)| {
            progress.inc(1);
            summary.add(&report);
            progress.suspend(|| complain(cli, &report));
            if !is_same {
                progress.suspend(|| eprintln!("seed {seed} is not the same twice"));
                differing.push(seed);
            }
            progress.set_message(format!("{} failed", summary.failed.len() + differing.len()));
            ControlFlow::Continue(())
        },
    );
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
