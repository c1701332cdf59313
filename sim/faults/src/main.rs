//! The log, and whole nodes, on real file systems whose kernel fails them.
//!
//! The simulator's disk is the worst that the format must bear; this is what Linux really does: an ext4 that is
//! shut down under load and mounted again, one without room, one that is frozen, one that turns read-only, and
//! calls that fail. It mounts file systems of its own, so it needs root, and it is never shipped.
//!
//! - `ledger` is what was written and acknowledged, and the one check that all scenarios share; `load` the writers.
//! - `disk` has the file systems, which never outlive the process; `kernel` the calls that do something to them.
//! - `nodes` has a cluster of processes with a disk each: this binary is its own nodes, `pontoon-faults node …` is
//!   `pontoon node …`; `writers` are its clients, and know what was acknowledged to them.
//! - `scenario` has a file for each fault.

mod cli;
mod disk;
mod failure;
mod kernel;
mod ledger;
mod load;
mod nodes;
mod scenario;
mod writers;

use clap::Parser;
use cli::Cli;
use indicatif::{ProgressBar, ProgressStyle};
use scenario::{Outcome, Verdict};
use std::process::ExitCode;

const BROKEN: u8 = 1;
/// As test runners say "skipped".
const UNTRIED: u8 = 77;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("node") {
        return pontoon::run();
    }
    let cli = Cli::parse();
    if !rustix::process::geteuid().is_root() {
        eprintln!("pontoon-faults mounts file systems and so needs root; nothing was tried");
        return ExitCode::from(UNTRIED);
    }
    if let Err(error) = kernel::keep_mounts_private() {
        eprintln!("cannot get mounts of its own: {error}; nothing was tried");
        return ExitCode::from(UNTRIED);
    }
    let scenarios = cli.scenarios();
    let style = ProgressStyle::with_template("{spinner} {elapsed} {msg} {wide_bar} {pos}/{len}");
    let style = style.expect("the template is well formed");
    let mut outcomes = Vec::new();
    for scenario in &scenarios {
        let bar = ProgressBar::new(1).with_style(style.clone());
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
        let outcome = scenario.run(cli.seed, &bar);
        bar.finish_and_clear();
        if !cli.json {
            println!("{outcome}");
        }
        outcomes.push(outcome);
    }
    if cli.json {
        let json = serde_json::to_string(&outcomes);
        println!("{}", json.expect("names and numbers can be written"));
    }
    ExitCode::from(verdict_of(&outcomes))
}

/// What is missing a tool is no failure among others that were tried; alone it is.
fn verdict_of(outcomes: &[Outcome]) -> u8 {
    let any = |verdict| outcomes.iter().any(|outcome| outcome.verdict == verdict);
    let nothing = outcomes
        .iter()
        .all(|outcome| outcome.verdict == Verdict::Skipped);
    if any(Verdict::Broken) {
        BROKEN
    } else if any(Verdict::Untried) || nothing {
        UNTRIED
    } else {
        0
    }
}
