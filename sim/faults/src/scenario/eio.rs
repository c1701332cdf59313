//! Calls fail with EIO: a sync that fails once, and a write.
//!
//! libfiu stands between this program and the C library, so the program starts itself once more under
//! `fiu-run`, and that one switches the failures on and off in itself.

use super::{Figures, Outcome, add, all_were_told, open_and_check, wait};
use crate::disk::{Image, Scratch, run as run_tool};
use crate::failure::Failure;
use crate::ledger::Ledger;
use crate::load::{GROUPS_OF_EACH, WRITERS};
use pontoon_wal::Operation;
use std::process::{Command, Stdio};

/// Where the control pipes are of the one that runs under libfiu.
const CONTROL: &str = "PONTOON_FAULTS_FIU_CONTROL";
const IMAGE_BYTES: u64 = 64 << 20;
const TOOL: &str = "fiu-run";
const PACKAGE: &str = "fiu-utils";
/// Which call fails, and which operations of the log that are.
const POINTS: [(&str, &[Operation], &str); 2] = [
    (
        "posix/io/sync/fdatasync",
        &[Operation::Sync],
        "failed_syncs",
    ),
    // A batch, or the zeros with which a segment is made.
    (
        "posix/io/rw/pwrite",
        &[Operation::Write, Operation::Allocate],
        "failed_writes",
    ),
];

pub(super) fn run(scratch: &Scratch, seed: u64, figures: &mut Figures) -> Result<(), Failure> {
    match std::env::var(CONTROL) {
        Ok(control) => inside(scratch, seed, figures, &control),
        Err(_) => outside(scratch, seed, figures),
    }
}

/// Starts this program under libfiu and takes over what came of it.
fn outside(scratch: &Scratch, seed: u64, figures: &mut Figures) -> Result<(), Failure> {
    let control = scratch.path().join("fiu");
    let program = std::env::current_exe().map_err(Failure::system("find this program"))?;
    let mut command = Command::new(TOOL);
    command.arg("-x").arg("-f").arg(&control).arg(program);
    command.args(["eio", "--json", "--seed", &seed.to_string()]);
    command.env(CONTROL, &control).stderr(Stdio::inherit());
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::Missing {
                tool: TOOL,
                package: PACKAGE,
            });
        }
        output => output.map_err(Failure::system(format!("run {TOOL}")))?,
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let outcomes = said.lines().last().unwrap_or_default();
    let outcomes = serde_json::from_str::<Vec<Outcome>>(outcomes);
    let Some(outcome) = outcomes.ok().and_then(|mut outcomes| outcomes.pop()) else {
        // The tool leaves with a small code if it cannot do it; by a signal or a panic only what it has started.
        let status = output.status;
        let has_died = status.code().is_none_or(|code| code == 101);
        return Err(if has_died {
            Failure::Broken(format!("it died under failing calls: {status}: {said}"))
        } else {
            Failure::Tool {
                command: format!("{command:?}"),
                said: format!("{status}: {said}"),
            }
        });
    };
    *figures = outcome.figures;
    match (outcome.reason, outcome.kept) {
        (None, _) => Ok(()),
        (Some(reason), None) => Err(Failure::Tool {
            command: TOOL.to_owned(),
            said: reason,
        }),
        (Some(reason), Some(kept)) => Err(Failure::Broken(format!(
            "{reason}; its files are in {}",
            kept.display()
        ))),
    }
}

fn inside(
    scratch: &Scratch,
    seed: u64,
    figures: &mut Figures,
    control: &str,
) -> Result<(), Failure> {
    let image = Image::make(scratch, IMAGE_BYTES)?;
    let mut ledger = Ledger::new(WRITERS, GROUPS_OF_EACH);
    for number in 0..6 {
        let (point, operations, name) = POINTS[number % POINTS.len()];
        let mount = image.mount()?;
        let life = open_and_check(&mount, &mut ledger, figures)?;
        let running = life.start(&mut ledger, seed ^ number as u64);
        wait(50 + 40 * number as u64);
        let io_error = rustix::io::Errno::IO.raw_os_error();
        switch(control, &format!("enable name={point},failinfo={io_error}"))?;
        let over = running.wait()?;
        // The disk says again that all is well, and nobody may believe it.
        switch(control, &format!("disable name={point}"))?;
        let ending = over.end(&mut ledger)?;
        all_were_told(&ending, operations)?;
        let whole = mount.whole()?;
        let cut = whole.cut_power();
        cut.map_err(Failure::system("cut the power"))?;
        drop(whole);
        mount.unmount()?;
        add(figures, name, 1);
    }
    let mount = image.mount()?;
    let life = open_and_check(&mount, &mut ledger, figures)?;
    life.wal
        .shutdown()
        .map_err(Failure::log("closing the log"))?;
    mount.unmount()
}

fn switch(control: &str, what: &str) -> Result<(), Failure> {
    let mut command = Command::new("fiu-ctrl");
    command.args(["-f", control, "-c", what]);
    command.arg(std::process::id().to_string());
    run_tool(&mut command, "fiu-ctrl", PACKAGE)
}
