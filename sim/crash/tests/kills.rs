//! Twenty kills of real processes, and what the clients saw. Many more: the command itself, with `--kills`.

use serde_json::Value;
use std::process::Command;

#[test]
fn nothing_acknowledged_is_lost_when_nodes_are_killed_and_suspended() {
    let output = Command::new(env!("CARGO_BIN_EXE_pontoon-crash"))
        .args(["--kills", "20", "--json"])
        .output()
        .expect("the binary was built for this test");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).expect(&stderr);
    assert!(output.status.success(), "{report} {stderr}");
    assert_eq!(report["kills"], 20, "{report}");
    assert_eq!(report["violations"], 0, "{report}");
    // It has not idled.
    let count = |name: &str| report["calls"][name].as_u64().unwrap_or_default();
    for name in ["reads", "writes", "removals", "swaps"] {
        assert!(count(name) > 20, "{name}: {report}");
    }
    let calls = count("reads") + count("writes") + count("removals") + count("swaps");
    assert!(report["checked"].as_u64() > Some(calls), "{report}");
}
