//! The scenarios, a file for each, and what comes of one.

mod backup;
mod eio;
mod flush;
mod frozen;
mod full;
mod install;
mod power;
mod readonly;

use crate::disk::{Mount, Scratch};
use crate::failure::{Failure, must};
use crate::ledger::{Checked, Ledger};
use crate::load::{self, Ending, Life};
use indicatif::ProgressBar;
use pontoon_wal::{Operation, WalError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A way in which a file system fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scenario {
    Power { cycles: u32 },
    Full,
    Eio,
    Frozen,
    Readonly,
    Flush,
    Install,
    Backup,
}

/// What was counted, by name.
pub(crate) type Figures = BTreeMap<String, u64>;

/// What came of a scenario.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) scenario: String,
    pub(crate) verdict: Verdict,
    pub(crate) figures: Figures,
    pub(crate) seconds: f64,
    /// Why, if it did not hold.
    pub(crate) reason: Option<String>,
    /// Where the files are, if it did not hold.
    pub(crate) kept: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Held,
    Broken,
    /// A tool is missing that can be installed.
    Skipped,
    /// The machine would not take part.
    Untried,
}

impl Scenario {
    const fn name(self) -> &'static str {
        match self {
            Self::Power { .. } => "power",
            Self::Full => "full",
            Self::Eio => "eio",
            Self::Frozen => "frozen",
            Self::Readonly => "readonly",
            Self::Flush => "flush",
            Self::Install => "install",
            Self::Backup => "backup",
        }
    }

    /// Tries it on file systems of its own, which are gone afterwards unless it did not hold.
    pub(crate) fn run(self, seed: u64, bar: &ProgressBar) -> Outcome {
        let began = Instant::now();
        bar.set_message(self.name());
        let mut figures = Figures::new();
        let mut kept = None;
        let result = Scratch::new().and_then(|scratch| {
            let result = match self {
                Self::Power { cycles } => power::run(&scratch, cycles, seed, bar, &mut figures),
                Self::Full => full::run(&scratch, seed, &mut figures),
                Self::Eio => eio::run(&scratch, seed, &mut figures),
                Self::Frozen => frozen::run(&scratch, seed, &mut figures),
                Self::Readonly => readonly::run(&scratch, seed, &mut figures),
                Self::Flush => flush::run(&scratch, seed, &mut figures),
                Self::Install => install::run(&scratch, seed, &mut figures),
                Self::Backup => backup::run(&scratch, seed, &mut figures),
            };
            if result.as_ref().is_err_and(Failure::is_broken) {
                kept = Some(scratch.keep());
            }
            result
        });
        let verdict = match &result {
            Ok(()) => Verdict::Held,
            Err(Failure::Missing { .. }) => Verdict::Skipped,
            Err(failure) if failure.is_broken() => Verdict::Broken,
            Err(_) => Verdict::Untried,
        };
        Outcome {
            scenario: self.name().to_owned(),
            verdict,
            figures,
            seconds: began.elapsed().as_secs_f64(),
            reason: result.err().map(|failure| failure.to_string()),
            kept,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Held => "held",
            Verdict::Broken => "BROKEN",
            Verdict::Skipped => "skipped",
            Verdict::Untried => "could not be tried",
        };
        write!(f, "{}: {verdict}, {:.1} s", self.scenario, self.seconds)?;
        if let Some(reason) = &self.reason {
            write!(f, "\n  {reason}")?;
        }
        if let Some(kept) = &self.kept {
            write!(f, "\n  its files are in {}", kept.display())?;
        }
        for (name, count) in &self.figures {
            write!(f, "\n  {:<32}{count:>12}", name.replace('_', " "))?;
        }
        Ok(())
    }
}

/// Opens the log and compares it with the ledger.
fn open_and_check(
    mount: &Mount,
    ledger: &mut Ledger,
    figures: &mut Figures,
) -> Result<Life, Failure> {
    let opened = Life::open(&mount.log(), load::config(), ledger.books.len());
    let (life, recovered) = opened.map_err(Failure::log("opening the log"))?;
    let Checked {
        groups,
        entries,
        unacknowledged_survivors,
    } = ledger.check(&life.wal, &recovered)?;
    add(figures, "groups_compared", groups);
    add(figures, "entries_read_and_compared", entries);
    let survivors = "batches_there_unacknowledged";
    add(figures, survivors, unacknowledged_survivors);
    figures.insert("lost".to_owned(), 0);
    let acknowledged = ledger.acknowledged_records();
    figures.insert("acknowledged_records".to_owned(), acknowledged);
    Ok(life)
}

/// Every writer must have been told that the log has stopped, and by which failure of the disk.
fn all_were_told(ending: &Ending, operations: &[Operation]) -> Result<(), Failure> {
    must(ending.untold == 0, || {
        format!("{} writers were told nothing: {ending:?}", ending.untold)
    })?;
    let writers = load::WRITERS as usize;
    must(ending.told.len() == writers, || {
        format!("not all of {writers} writers were told of a failure: {ending:?}")
    })?;
    let is_typed = |error: &WalError| match error {
        WalError::Poisoned { cause, .. } => {
            matches!(&**cause, WalError::Io { operation, .. } if operations.contains(operation))
        }
        _ => false,
    };
    let stopped = ending.told.iter().chain(&ending.shutdown);
    for error in stopped {
        must(is_typed(error), || {
            format!("told of another failure: {error}")
        })?;
    }
    must(ending.shutdown.is_some(), || {
        "the log does not say at its end that it has failed".to_owned()
    })
}

fn add(figures: &mut Figures, name: &str, count: u64) {
    *figures.entry(name.to_owned()).or_default() += count;
}

fn wait(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}
