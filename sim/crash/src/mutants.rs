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
    // With every rule in place nothing may be found, or what is found without one means nothing.
    match try_kills(None, options.kills) {
        Ok((killed, None)) => println!("{:<26} not found within {killed} kills", "(none)"),
        Ok((_, Some(found))) | Err(found) => {
            eprintln!("with all rules in place: {found}");
            return ExitCode::FAILURE;
        }
    }
    let mut unnoticed = 0;
    for mutant in &chosen {
        let tried = try_kills(Some(*mutant), options.kills);
        unnoticed += usize::from(!matches!(tried, Ok((_, Some(_)))));
        let words = match tried {
            Ok((killed, Some(found))) => format!("kill {killed:>4}  {found}"),
            Ok((killed, None)) => format!("NOT FOUND within {killed} kills"),
            Err(why) => why,
        };
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

/// After how many kills a run without the rule ended, and what it found; or why there was no run.
fn try_kills(mutant: Option<Mutant>, kills: u64) -> Result<(u64, Option<String>), String> {
    let ended = std::env::current_exe().and_then(|binary| {
        Command::new(binary)
            .args(["--json", "--seed", "1", "--kills", &kills.to_string()])
            .envs(mutant.map(|mutant| (VARIABLE, mutant.name())))
            .stderr(Stdio::null())
            .output()
    });
    let output = ended.map_err(|error| format!("could not be run: {error}"))?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("said nothing that can be read: {error}"))?;
    let killed = report["kills"].as_u64().unwrap_or_default();
    let found = report["found"].as_str();
    let found = found.map(|found| found.replace('\n', " ").chars().take(110).collect());
    Ok((killed, found))
}
