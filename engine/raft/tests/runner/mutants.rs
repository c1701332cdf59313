//! Which scenario notices which deliberate fault of the core.
//!
//! Built with the feature `mutants` the runner does this instead of its tests: every script is run with
//! each mutant of the core in turn, and each must make one of them fail.

use pontoon_types::mutant::{Mutant, Noticer, choose};
use std::process::ExitCode;

pub(crate) fn run(scripts: &[(String, String)]) -> ExitCode {
    let (mut tried, mut missed) = (0, 0);
    for mutant in Mutant::of(Noticer::Scenarios) {
        tried += 1;
        choose(Some(mutant));
        let fails = |(name, text): &&(String, String)| super::run(name, text).is_err();
        let caught: Vec<&str> = scripts
            .iter()
            .filter(fails)
            .map(|(name, _)| name.split('-').next().unwrap_or(name))
            .collect();
        choose(None);
        missed += usize::from(caught.is_empty());
        let by = match caught.is_empty() {
            true => "NOTHING".to_owned(),
            false => caught.join(" "),
        };
        println!("{:<28} {by}", mutant.name());
    }
    println!("mutants: {missed} of {tried} noticed by no scenario");
    match missed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
