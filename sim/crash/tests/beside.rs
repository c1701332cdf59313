//! The command `beside`, with little.

use serde_json::Value;
use std::process::Command;

#[test]
fn a_replica_is_brought_up_beside_a_load_and_both_are_measured() {
    let options = ["--bytes", "4MiB", "--pairs", "2", "--seconds", "1"];
    let output = Command::new(env!("CARGO_BIN_EXE_pontoon-crash"))
        .arg("beside")
        .args(options)
        .args(["--load", "0.1", "--big-writes", "50", "--json"])
        .output()
        .expect("the binary was built for this test");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).expect(&stderr);
    assert!(output.status.success(), "{report} {stderr}");
    let pairs = report["pairs"].as_array().expect("a list");
    assert_eq!(pairs.len(), 2, "{report}");
    let number = |of: &Value, name: &str| of[name].as_f64().unwrap_or_default();
    for pair in pairs {
        for window in [&pair["alone"], &pair["beside"]] {
            assert_eq!(window["errors"], 0, "{report}");
            assert!(number(window, "writes") > 0.0, "{report}");
            assert!(
                number(window, "p99_us") >= number(window, "p50_us"),
                "{report}"
            );
        }
        // Nothing of it came out of the log.
        assert!(number(&pair["transfer"], "bytes") > 4e6, "{report}");
    }
    // What was due was begun: the rate is the load's own, not the cluster's.
    let alone = number(&pairs[0]["alone"], "writes");
    let due = number(&report, "writes_per_s");
    assert!((0.5 * due..1.5 * due).contains(&alone), "{alone} of {due}");
    assert_eq!(report["big_writes_per_s"], 50, "{report}");
    assert!(number(&report, "disk_bytes_per_s") > 0.0, "{report}");
    assert!(number(&report, "p99_ratio") > 0.0, "{report}");
}

#[test]
fn the_exit_code_says_whether_the_aim_is_met() {
    let options = ["--bytes", "1MiB", "--pairs", "1", "--seconds", "1"];
    let output = Command::new(env!("CARGO_BIN_EXE_pontoon-crash"))
        .arg("beside")
        .args(options)
        .args(["--load", "0.1", "--at-most", "0.0001", "--json"])
        .output()
        .expect("the binary was built for this test");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["met"], false, "{report}");
    assert_eq!(output.status.code(), Some(1), "{report}");
}
