//! The demo as a stranger runs it.

use crate::cluster::{Running, error_line, file, pontoon, run, stdout, until, usage_line};
use std::fmt::Write as _;
use std::process::Stdio;

fn report(args: &[&str]) -> serde_json::Value {
    let output = run(args);
    let text = stdout(&output);
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn a_demo_in_one_process_proves_itself() {
    let report = report(&[
        "demo",
        "--seconds",
        "1",
        "--shards",
        "8",
        "--clients",
        "8",
        "--json",
    ]);
    assert_eq!(report["errors"], 0, "{report}");
    assert_eq!(report["unknown"], 0, "{report}");
    assert_eq!(report["missing"], 0, "{report}");
    assert_eq!(report["acked"], report["verified"], "{report}");
    assert!(report["writes"].as_u64().unwrap() > 0, "{report}");
    assert!(
        report["entries_per_sync"].as_f64().unwrap() > 0.0,
        "{report}"
    );
    assert!(
        report["floor_syncs_per_s"].as_f64().unwrap() > 0.0,
        "{report}"
    );
}

#[test]
fn a_demo_with_a_killed_node_proves_itself() {
    let report = report(&[
        "demo",
        "--seconds",
        "6",
        "--shards",
        "8",
        "--clients",
        "8",
        "--kill",
        "--json",
    ]);
    assert_eq!(report["errors"], 0, "{report}");
    let nodes_in = |name: &str| report[name].as_array().map(Vec::len);
    assert_eq!(nodes_in("per_node"), Some(2), "{report}");
    assert_eq!(nodes_in("not_counted"), Some(1), "the killed one: {report}");
    assert_eq!(report["missing"], 0, "{report}");
    assert_eq!(report["acked"], report["verified"], "{report}");
}

#[test]
fn a_demo_of_a_file_writes_all_of_it_and_keeps_the_directory_it_was_given() {
    let directory = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for row in 0..500 {
        writeln!(
            text,
            "{{\"key\": \"package-{row:05}\", \"value\": \"é\\n{row}\"}}"
        )
        .unwrap();
    }
    let path = file(directory.path(), "rows.ndjson", &text);
    let data = directory.path().join("data");
    let data = data.to_str().unwrap();
    let report = report(&[
        "demo",
        "--load",
        &path,
        "--shards",
        "4",
        "--data-dir",
        data,
        "--json",
    ]);
    assert_eq!(report["acked"], 500, "{report}");
    assert_eq!(report["verified"], 500, "{report}");
    // However soon it is over, all of it is measured.
    assert_eq!(report["writes"], 500, "{report}");
    assert!(report["p50_us"].as_u64() > Some(0), "{report}");
    let verified = stdout(&run(&["wal", "verify", &format!("{data}/node-1")]));
    assert!(verified.contains("checked"), "{verified}");

    let again = usage_line(&run(&["demo", "--data-dir", data]));
    assert!(again.contains("is not empty"), "{again}");
}

#[test]
fn a_file_does_not_end_before_the_kill_that_was_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let rows: String = (0..40).map(|row| format!("{row}\t{row}\n")).collect();
    let path = file(directory.path(), "rows.tsv", &rows);
    let args = ["demo", "--load", &path, "--shards", "4"];
    let report = report(&[&args[..], &["--kill", "--json"]].concat());
    let nodes_in = |name: &str| report[name].as_array().map(Vec::len);
    assert_eq!(nodes_in("per_node"), Some(2), "{report}");
    assert_eq!(nodes_in("not_counted"), Some(1), "the killed one: {report}");
    assert_eq!(report["writes"], 40, "{report}");
    assert_eq!(report["verified"], 40, "{report}");
}

#[test]
fn a_row_that_no_node_takes_ends_the_demo_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let too_long = "v".repeat((1 << 20) + 1);
    let rows = file(
        dir.path(),
        "rows.tsv",
        &format!("a\t1\nb\t{too_long}\nc\t3\n"),
    );
    let output = run(&["demo", "--load", &rows, "--shards", "20"]);
    let line = error_line(&output);
    assert!(line.contains("rows.tsv:2: "), "{line}");
    assert!(line.contains("max-value-bytes"), "{line}");
    // Three keys do not make twenty shards.
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("enough for 3 shards only"), "{told}");
    assert!(told.contains("3 nodes with 3 shards"), "{told}");
}

#[test]
fn nodes_end_with_the_demo_that_started_them_even_if_it_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let args = ["demo", "--kill", "--shards", "2", "--seconds", "60"];
    let mut command = pontoon();
    command.args(args).arg("--data-dir").arg(&data);
    let demo = Running::spawn(command.stderr(Stdio::null()));
    let children = format!("/proc/{0}/task/{0}/children", demo.id());
    let nodes = until(|| {
        let nodes = std::fs::read_to_string(&children).unwrap();
        let nodes: Vec<String> = nodes.split_whitespace().map(str::to_owned).collect();
        (nodes.len() == 3).then_some(nodes)
    });
    drop(demo);
    // Who waits for orphans is not ours to say, so one that has ended may still be listed.
    let has_ended = |node: &String| {
        let stat = std::fs::read_to_string(format!("/proc/{node}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z "))
    };
    until(|| nodes.iter().all(has_ended).then_some(()));
}
