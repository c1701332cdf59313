//! The command `restart`, with little.

use serde_json::Value;
use std::process::Command;

#[test]
fn a_killed_node_serves_every_shard_again_and_has_every_row() {
    let options = [
        "--bytes",
        "4MiB",
        "--shards",
        "32",
        "--seconds",
        "1",
        "--json",
    ];
    let output = Command::new(env!("CARGO_BIN_EXE_pontoon-crash"))
        .arg("restart")
        .args(options)
        .output()
        .expect("the binary was built for this test");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).expect(&stderr);
    assert!(output.status.success(), "{report} {stderr}");
    assert_eq!(report["rows"], (4 << 20) / (16 + 4096), "{report}");
    let number = |name: &str| report[name].as_u64().unwrap_or_default();
    assert!(
        number("all_served_ms") >= number("first_served_ms"),
        "{report}"
    );
    assert!(number("first_served_ms") > 0, "{report}");
    assert!(number("peak_memory_bytes") > 4 << 20, "{report}");
}
