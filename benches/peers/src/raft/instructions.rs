//! Instructions per proposal, counted by callgrind: the same on every machine and under any load.
//!
//! This program is run under valgrind with one side alone, once for few cycles and once for many. The difference
//! is the cycles' own: loading, electing and warming up cancel out.

use super::Side;
use std::process::Command;

/// Proposals of the shorter and of the longer run.
const PROPOSALS: [u64; 2] = [16_000, 48_000];

/// Instructions per proposal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instructions {
    pub(crate) ours: f64,
    pub(crate) theirs: f64,
}

impl Instructions {
    /// Counts both sides with batches of one size.
    pub(crate) fn count(batch: u64, payload_bytes: u64) -> Result<Self, String> {
        let per_proposal = |side| {
            let runs = PROPOSALS.map(|proposals| proposals / batch);
            let [few, many] = runs.map(|cycles| collected(side, batch, cycles, payload_bytes));
            let proposals = (runs[1] - runs[0]) * batch;
            Ok::<_, String>((many? - few?) as f64 / proposals as f64)
        };
        Ok(Self {
            ours: per_proposal(Side::Pontoon)?,
            theirs: per_proposal(Side::RaftRs)?,
        })
    }
}

/// The instructions that callgrind collects in one run.
fn collected(side: Side, batch: u64, cycles: u64, payload_bytes: u64) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| format!("where am I: {error}"))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["raft", "--only", side.name()])
        .args(["--batch", &batch.to_string()])
        .args(["--cycles", &cycles.to_string()])
        .args(["--payload", &payload_bytes.to_string()])
        .output()
        .map_err(|error| format!("valgrind cannot be run ({error}); is it installed?"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("valgrind ended with {}:\n{words}", output.status));
    }
    parse_collected(&words)
        .ok_or_else(|| format!("valgrind says nothing of instructions:\n{words}"))
}

/// Reads `==17== Collected : 123456`.
fn parse_collected(words: &str) -> Option<u64> {
    let line = words.lines().find(|line| line.contains("Collected :"))?;
    line.rsplit(':').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_callgrinds_summary() {
        let words = "==17== Events    : Ir\n==17== Collected : 2508437\n==17== \n";
        assert_eq!(parse_collected(words), Some(2_508_437));
        assert_eq!(parse_collected("==17== Events : Ir"), None);
    }
}
