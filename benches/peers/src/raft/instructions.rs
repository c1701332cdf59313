//! Instructions per proposal, counted by callgrind: the same on every machine and under any load.
//!
//! This program is run under valgrind with one side alone, once for few cycles and once for many. The difference
//! is the cycles' own: loading, electing and warming up cancel out.

use super::Side;
use std::process::Command;

/// Proposals of the shorter and of the longer run.
const PROPOSALS: [u64; 2] = [16_000, 48_000];

/// Whether callgrind can be asked at all.
pub(crate) fn can_be_counted() -> bool {
    Command::new("valgrind")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Instructions per proposal of one side.
pub(crate) fn count(side: Side, batch: u64, payload_bytes: u64) -> Result<f64, String> {
    let [few, many] = PROPOSALS.map(|proposals| proposals / batch);
    let more = collected(side, batch, many, payload_bytes)?.saturating_sub(collected(
        side,
        batch,
        few,
        payload_bytes,
    )?);
    Ok(more as f64 / ((many - few) * batch) as f64)
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
        .map_err(|error| format!("valgrind cannot be run: {error}"))?;
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
