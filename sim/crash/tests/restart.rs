//! The command `restart`, with little.

use serde_json::Value;
use std::process::Command;

/// Its exit code and what it says.
fn restart(bytes: &str, aims: [&str; 2]) -> (Option<i32>, Value) {
    let [start, resident] = aims;
    let output = Command::new(env!("CARGO_BIN_EXE_pontoon-crash"))
        .args(["restart", "--bytes", bytes, "--shards", "32"])
        .args(["--seconds", "1", "--json"])
        .args(["--max-start-seconds", start, "--max-resident", resident])
        .output()
        .expect("the binary was built for this test");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout).expect(&stderr);
    (output.status.code(), report)
}

#[test]
fn a_killed_node_serves_every_shard_again_and_has_every_row() {
    // Generous: other tests may take the machine.
    let (code, report) = restart("4MiB", ["60", "1GiB"]);
    assert_eq!(code, Some(0), "{report}");
    let aims = [&report["starts_in_time"], &report["fits"]];
    assert_eq!(aims, [true, true], "{report}");
    assert_eq!(report["rows"], (4 << 20) / (16 + 4096), "{report}");
    let number = |name: &str| report[name].as_u64().unwrap_or_default();
    assert!(
        number("all_served_ms") >= number("first_served_ms"),
        "{report}"
    );
    assert!(number("first_served_ms") > 0, "{report}");
    assert!(number("peak_memory_bytes") > 4 << 20, "{report}");
}

#[test]
fn the_exit_code_says_whether_an_aim_was_missed() {
    for (aims, met) in [
        (["0.000001", "1GiB"], [false, true]),
        (["60", "1MiB"], [true, false]),
    ] {
        let (code, report) = restart("64KiB", aims);
        let found = [&report["starts_in_time"], &report["fits"]];
        assert_eq!(found, met, "{report}");
        assert_eq!(code, Some(1), "{report}");
    }
}
