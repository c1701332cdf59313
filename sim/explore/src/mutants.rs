//! The command `mutants`: leaves out one rule of the core after the other, and sees what breaks.

use crate::explore::explore;
use crate::space::Bounds;
use pontoon_types::mutant::{Mutant, Noticer, choose};
use serde_json::json;
use std::process::ExitCode;

/// Large enough for all of these.
const BOUNDS: Bounds = Bounds {
    terms: 2,
    in_flight: 2,
    proposals: 0,
    crashes: 0,
    repeats: 0,
    heartbeats: 0,
};

pub(crate) fn run(threads: u16, as_json: bool) -> ExitCode {
    let mut rows = Vec::new();
    let mut missed = 0;
    for mutant in Mutant::of(Noticer::Exploration) {
        choose(Some(mutant));
        let explored = explore(BOUNDS, threads);
        choose(None);
        missed += usize::from(explored.broken.is_none());
        if !as_json {
            let found = match &explored.broken {
                Some((broken, steps)) => format!("{} steps  {broken}", steps.len()),
                None => "NOT FOUND".to_owned(),
            };
            println!("{:<22} {found}", mutant.name());
        }
        rows.push(json!({ "mutant": mutant.name(), "explored": explored.json() }));
    }
    if as_json {
        println!("{}", json!({ "mutants": rows }));
    } else {
        println!(
            "{BOUNDS}: {missed} of {} rules can be left out unnoticed",
            rows.len()
        );
    }
    match missed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
