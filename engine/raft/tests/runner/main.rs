//! Runs the scenarios: plain-text scripts on real replicas, over a network and disks that do what the
//! script says, with the invariants I1-I9 checked after every step. `tests/scenarios/README.md` explains
//! the language.
//!
//! `PONTOON_SCENARIOS=DIR` runs the scripts of that folder instead, and only those.

// What a test unwraps is what it asserts.
#![allow(clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;

mod choices;
mod facts;
mod grammar;
mod message;
#[cfg(feature = "mutants")]
mod mutants;
mod network;
mod observe;
mod refusal;
mod script;
mod setup;
mod token;
mod vocabulary;
mod word;
mod world;

use choices::Choices;
use libtest_mimic::{Arguments, Failed, Trial};
use script::{Case, Flaw, Script};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use world::{Failure, World};

/// The scripts that were run, and those that passed: the summary tells them from the runner's own tests.
static RUN: AtomicUsize = AtomicUsize::new(0);
static PASSED: AtomicUsize = AtomicUsize::new(0);

/// A script that needs more runs than this asks for too much.
const MAX_RUNS: u64 = 50_000;

/// The folder of scripts, as an absolute path. Cargo runs tests in the crate's folder, people write
/// paths from where they are, which is mostly the workspace's.
fn folder() -> Result<PathBuf, String> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Some(given) = std::env::var_os("PONTOON_SCENARIOS") else {
        return Ok(own.join("tests/scenarios"));
    };
    let given = PathBuf::from(given);
    let candidates = [own.join("../..").join(&given), own.join(&given)];
    candidates
        .into_iter()
        .find(|folder| folder.is_dir())
        .ok_or_else(|| format!("PONTOON_SCENARIOS={} is not a folder", given.display()))
}

fn scripts(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", folder.display());
    let mut scripts = Vec::new();
    for item in std::fs::read_dir(folder).map_err(cannot)? {
        let path = item.map_err(cannot)?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            scripts.push(path);
        }
    }
    scripts.sort();
    match scripts.is_empty() {
        true => Err(format!("{} holds no script (*.txt)", folder.display())),
        false => Ok(scripts),
    }
}

/// Runs a script in every way that it asks for.
pub(crate) fn run(name: &str, text: &str) -> Result<(), String> {
    let script =
        Script::parse(text).map_err(|Flaw { line, what }| format!("{name}:{line}: {what}"))?;
    for case in &script.cases {
        for seed in script.seeds.clone() {
            let mut choices = Choices::new(seed);
            for run in 1.. {
                choices = match run_once(name, case, choices)?.next(run) {
                    Some(choices) if run < MAX_RUNS => choices,
                    Some(_) => {
                        return Err(format!("{name}: more than {MAX_RUNS} runs for one seed"));
                    }
                    None => break,
                };
            }
        }
    }
    Ok(())
}

fn run_once(name: &str, case: &Case, choices: Choices) -> Result<Choices, String> {
    let mut world = World::new(choices);
    let result = catch_unwind(AssertUnwindSafe(|| world.run(case)));
    let Failure { line, what } = match result {
        Ok(Ok(())) => return Ok(world.choices),
        Ok(Err(failure)) => failure,
        Err(panic) => Failure {
            line: world.line,
            what: panic_text(panic.as_ref()),
        },
    };
    let mut place = format!("{name}:{line}:");
    if let Some(case) = &case.name {
        place += &format!(" case {case},");
    }
    let taken = world.choices.taken();
    if !taken.is_empty() {
        place += &format!(" choices {taken:?},");
    }
    place += &format!(" seed {}", world.choices.seed);
    Err(format!("{place}\n{what}"))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic without words".to_owned())
}

/// Name and text of every script, by name.
fn load() -> Result<Vec<(String, String)>, String> {
    let load = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{name}: {error}"))?;
        Ok((name.into_owned(), text))
    };
    scripts(&folder()?)?.into_iter().map(load).collect()
}

fn trial((file, text): (String, String)) -> Trial {
    let name = file.trim_end_matches(".txt").to_owned();
    Trial::test(name, move || {
        RUN.fetch_add(1, Relaxed);
        run(&file, &text).map_err(Failed::from)?;
        PASSED.fetch_add(1, Relaxed);
        Ok(())
    })
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let scripts = match load() {
        Ok(scripts) => scripts,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    // A panic is caught and told with the line of the script; its own report would say less.
    std::panic::set_hook(Box::new(|_| {}));
    #[cfg(feature = "mutants")]
    if !arguments.list {
        return mutants::run(&scripts);
    }
    let mut trials: Vec<Trial> = scripts.into_iter().map(trial).collect();
    if std::env::var_os("PONTOON_SCENARIOS").is_none() {
        trials.extend(grammar::trials());
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        let (passed, run) = (PASSED.load(Relaxed), RUN.load(Relaxed));
        println!("scenarios: {passed} of {run} passed");
    }
    conclusion.exit_code()
}
