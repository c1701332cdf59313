//! The command `mutants`: leaves out one rule after the other, in the nodes and in the clients, and sees
//! whether a run finds something.

use crate::cli::Mutants;
use pontoon_types::mutant::{Mutant, Noticer, choose};
use serde_json::Value;
use std::process::{Command, ExitCode, Stdio};

/// Names the mutant of a process and of the nodes that it starts.
const VARIABLE: &str = "PONTOON_CRASH_LEAVES_OUT";

/// Turns on the mutant that whoever started this process has named.
pub(crate) fn choose_as_told() {
    if let Ok(name) = std::env::var(VARIABLE) {
        choose(Mutant::ALL.iter().copied().find(|one| one.name() == name));
    }
}

/// Runs them all and prints the table.
pub(crate) fn run(options: &Mutants) -> ExitCode {
    let is_asked_for = |mutant: &Mutant| match options.only.as_slice() {
        [] => mutant.noticers().contains(&Noticer::Kills),
        only => only.iter().any(|name| name == mutant.name()),
    };
    let chosen: Vec<Mutant> = Mutant::ALL.iter().copied().filter(is_asked_for).collect();
    if chosen.len() < options.only.len() {
        eprintln!("no mutant has such a name; pontoon-sim --features mutants lists them");
        return ExitCode::FAILURE;
    }
    let mut unnoticed = 0;
    for mutant in &chosen {
        let found = try_kills(*mutant, options.kills);
        unnoticed += usize::from(found.is_err());
        let words = found.unwrap_or_else(|why| why);
        println!("{:<26} {words}", mutant.name());
    }
    println!(
        "{unnoticed} of {} rules can be left out unnoticed",
        chosen.len()
    );
    match unnoticed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// What a run without the rule found, or why it found nothing.
fn try_kills(mutant: Mutant, kills: u64) -> Result<String, String> {
    let directory = std::env::current_exe().and_then(|binary| {
        Command::new(binary)
            .args(["--json", "--seed", "1", "--kills", &kills.to_string()])
            .env(VARIABLE, mutant.name())
            .stderr(Stdio::null())
            .output()
    });
    let output = directory.map_err(|error| format!("could not be run: {error}"))?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("said nothing that can be read: {error}"))?;
    let killed = report["kills"].as_u64().unwrap_or_default();
    match report["found"].as_str() {
        Some(found) => {
            let found: String = found.replace('\n', " ").chars().take(110).collect();
            Ok(format!("kill {killed:>4}  {found}"))
        }
        None => Err(format!("NOT FOUND within {killed} kills")),
    }
}
