//! The command `mutants`: leaves out one rule after the other and sees which checker notices.

use crate::cli::{Mutants, cores};
use pontoon_sim::{Scale, Theme, in_order, simulate};
use pontoon_types::mutant::{self, Mutant, Noticer};
use serde_json::json;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Instant;

/// So much of a violation's words is in the table.
const WIDTH: usize = 110;

/// Rules about members are looked at where members change, and one about old segments where disks fail most.
const fn theme_of(mutant: Option<Mutant>) -> Theme {
    match mutant {
        Some(Mutant::GoneStaySilent | Mutant::GoneComeBack) => Theme::Membership,
        Some(Mutant::RewriteOutranks) => Theme::Disk,
        _ => Theme::Swarm,
    }
}

/// How a mutant, or the code without one, came through.
struct Outcome {
    mutant: Option<Mutant>,
    caught: Option<Caught>,
    seconds: f64,
}

/// The first seed that broke something.
struct Caught {
    seed: u64,
    /// Which invariant.
    by: String,
    /// How.
    what: String,
}

/// Runs them all and prints the table.
pub(crate) fn run(options: &Mutants) -> ExitCode {
    let chosen: Vec<Mutant> = if options.only.is_empty() {
        Mutant::of(Noticer::Simulator).collect()
    } else {
        let is_named = |mutant: &Mutant| options.only.iter().any(|name| name == mutant.name());
        Mutant::ALL.iter().copied().filter(is_named).collect()
    };
    if chosen.len() < options.only.len() {
        eprintln!("no mutant has such a name; they are:");
        for mutant in Mutant::ALL {
            eprintln!("  {:<26} {}", mutant.name(), mutant.fault());
        }
        return ExitCode::FAILURE;
    }
    let mut outcomes = Vec::new();
    let of_none = [None];
    for mutant in of_none.into_iter().chain(chosen.into_iter().map(Some)) {
        let outcome = try_seeds(mutant, options.within);
        if !options.json {
            print_row(&outcome);
        }
        outcomes.push(outcome);
    }
    let right = |outcome: &&Outcome| outcome.mutant.is_some() == outcome.caught.is_some();
    let wrong = outcomes.iter().filter(|outcome| !right(outcome)).count();
    let latest = outcomes
        .iter()
        .filter_map(|outcome| outcome.caught.as_ref());
    let latest = latest.map(|caught| caught.seed).max().unwrap_or_default();
    if options.json {
        print_json(&outcomes, options.within);
    } else {
        let caught = outcomes.iter().filter(|one| one.caught.is_some()).count();
        println!(
            "{caught} of {} mutants caught within {} seeds, the last at seed {latest}",
            outcomes.len() - 1,
            options.within
        );
    }
    if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn try_seeds(mutant: Option<Mutant>, within: u64) -> Outcome {
    mutant::choose(mutant);
    let started = Instant::now();
    let mut caught = None;
    let run = |seed| simulate(seed, theme_of(mutant), Scale::default(), false);
    in_order(1..=within, cores(), run, |seed, report| {
        let Some((_, violation)) = report.violation else {
            return ControlFlow::Continue(());
        };
        caught = Some(Caught {
            seed,
            by: violation.invariant.to_string(),
            what: violation.what,
        });
        ControlFlow::Break(())
    });
    mutant::choose(None);
    Outcome {
        mutant,
        caught,
        seconds: started.elapsed().as_secs_f64(),
    }
}

fn print_row(outcome: &Outcome) {
    let name = outcome.mutant.map_or("(none)", Mutant::name);
    match &outcome.caught {
        Some(Caught { seed, by, what }) => {
            let what = what.replace('\n', " ");
            let what: String = what.chars().take(WIDTH).collect();
            println!("{name:<26} seed {seed:>4}  {by:<32} {what}");
        }
        None => println!("{name:<26} not caught ({:.0} s)", outcome.seconds),
    }
}

fn print_json(outcomes: &[Outcome], within: u64) {
    let rows: Vec<_> = outcomes
        .iter()
        .map(|outcome| {
            let caught = outcome.caught.as_ref();
            json!({
                "mutant": outcome.mutant.map(Mutant::name),
                "fault": outcome.mutant.map(Mutant::fault),
                "seed": caught.map(|caught| caught.seed),
                "caught_by": caught.map(|caught| &caught.by),
                "what": caught.map(|caught| &caught.what),
                "seconds": outcome.seconds,
            })
        })
        .collect();
    println!("{}", json!({ "within": within, "mutants": rows }));
}
