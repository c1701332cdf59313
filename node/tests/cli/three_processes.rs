//! Three nodes as an operator runs them, with data that must survive what is done to them.

use crate::cluster::{Cluster, error_line, run, stdout, until};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Rows with keys that repeat: the file, and what a dump of it must be.
fn rows(count: usize) -> (String, String) {
    let mut text = String::new();
    let mut last = BTreeMap::new();
    for row in 0..count {
        let key = format!("{:04x}-pkg", (row * 7919) % (count * 3 / 4));
        let value = format!("row {row} {}", "x".repeat(row % 700));
        writeln!(text, "{key}\t{value}").unwrap();
        last.insert(key, value);
    }
    let sorted = last.iter().fold(String::new(), |mut text, (key, value)| {
        writeln!(text, "{key}\t{value}").unwrap();
        text
    });
    (text, sorted)
}

/// How far a node has applied each of its groups.
fn applied(cluster: &Cluster, node: u64) -> BTreeMap<u64, u64> {
    let status = status(cluster);
    let mut nodes = status["nodes"].as_array().unwrap().iter();
    let node = nodes.find(|one| one["node"] == node).unwrap();
    let groups = node["status"]["groups"].as_array().unwrap().iter();
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    groups
        .map(|group| (number(&group["group"]), number(&group["applied"])))
        .collect()
}

fn status(cluster: &Cluster) -> serde_json::Value {
    serde_json::from_str(stdout(&cluster.run(&["status", "--json"])).trim()).unwrap()
}

#[test]
fn a_file_survives_the_death_of_one_node_and_then_of_all() {
    let mut cluster = Cluster::start(&["--shards", "8"]);
    let (text, sorted) = rows(6000);
    let mut load = cluster
        .command(&["load", "-", "--format", "tsv", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // However fast it is, it has not the last third of the rows when the node dies.
    let (held, release) = std::sync::mpsc::channel();
    let mut rows = load.stdin.take().unwrap();
    let feeding = std::thread::spawn(move || {
        let (at_once, later) = text.as_bytes().split_at(text.len() * 2 / 3);
        rows.write_all(at_once).unwrap();
        release.recv().unwrap();
        rows.write_all(later).unwrap();
    });
    // As soon as something is written, the load is under way.
    while stdout(&cluster.run(&["scan", "--limit", "1"])).is_empty() {}
    cluster.kill(2);
    assert!(load.try_wait().unwrap().is_none(), "the load is over");
    held.send(()).unwrap();
    feeding.join().unwrap();
    let load = load.wait_with_output().unwrap();
    let summary: serde_json::Value = serde_json::from_str(stdout(&load).trim()).unwrap();
    assert_eq!(summary["rows"], 6000);
    assert_eq!(summary["complete"], true);

    cluster.spawn(2);
    cluster.wait_until_whole();
    // It catches up: nothing is written now, so all come to the same indexes.
    until(|| {
        let [first, second, third] = [1, 2, 3].map(|node| applied(&cluster, node));
        (first.len() == 9 && first == second && second == third).then_some(())
    });
    for node in 1..=3 {
        cluster.kill(node);
    }
    for node in 1..=3 {
        cluster.spawn(node);
    }
    cluster.wait_until_whole();
    assert!(
        stdout(&cluster.run(&["dump", "--format", "tsv"])) == sorted,
        "the dump differs"
    );

    let out = cluster.dir.path().join("all.ndjson");
    let dumped = cluster.run(&["dump", "--out", out.to_str().unwrap()]);
    assert!(dumped.status.success(), "{dumped:?}");
    let lines = std::fs::read_to_string(&out).unwrap();
    assert_eq!(lines.lines().count(), sorted.lines().count());
    // A device is written to, not replaced.
    let nowhere = cluster.run(&["dump", "--out", "/dev/null"]);
    assert!(nowhere.status.success(), "{nowhere:?}");
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn clients_go_on_when_a_leader_dies_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(&["--shards", "6"]);
    let bench = cluster
        .command(&[
            "bench",
            "--clients",
            "16",
            "--seconds",
            "7",
            "--keys",
            "2000",
            "--verify",
            "--json",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(3000));
    // The keys lie evenly over the shards, so any that is not the map's is written to.
    let shards = status(&cluster)["shards"].take();
    let mut shards = shards.as_array().unwrap().iter();
    let written_to = shards.find(|shard| shard["meta"] == false).unwrap();
    let leader = written_to["leader"].as_u64().unwrap();
    cluster.kill(leader as usize);
    let report: serde_json::Value =
        serde_json::from_str(stdout(&bench.wait_with_output().unwrap()).trim()).unwrap();
    assert_eq!(report["missing"], 0, "{report}");
    assert_eq!(report["verified"], report["acked"], "{report}");
    assert_eq!(report["errors"], 0, "{report}");
    assert!(report["acked"].as_u64().unwrap() > 100, "{report}");
    // Others wait for an election before they lead, and no longer than is promised.
    let pause = report["longest_pause_us"].as_u64().unwrap();
    assert!((500_000..3_000_000).contains(&pause), "{report}");
}

#[test]
fn every_workload_runs() {
    let cluster = Cluster::start(&["--shards", "4"]);
    for workload in [
        "put", "get", "ycsb-a", "ycsb-b", "ycsb-c", "ycsb-d", "ycsb-e", "ycsb-f",
    ] {
        let args = [
            "bench",
            "--workload",
            workload,
            "--clients",
            "4",
            "--seconds",
            "1",
            "--keys",
        ];
        let output = cluster.run(&[&args[..], &["300", "--verify", "--json"]].concat());
        let report: serde_json::Value = serde_json::from_str(stdout(&output).trim()).unwrap();
        assert_eq!(report["errors"], 0, "{workload}: {report}");
        assert_eq!(report["missing"], 0, "{workload}: {report}");
        let (reads, writes) = (report["reads"].as_u64(), report["writes"].as_u64());
        assert_eq!(reads > Some(0), workload != "put", "{workload}: {report}");
        let reads_only = ["get", "ycsb-c"].contains(&workload);
        // Of these a twentieth is writes, and a busy machine may not come to one within a second.
        let seldom_writes = ["ycsb-b", "ycsb-d", "ycsb-e"].contains(&workload);
        let is_right = (writes > Some(0)) != reads_only;
        assert!(is_right || seldom_writes, "{workload}: {report}");
    }
}

#[test]
fn a_drained_node_leaves_a_log_that_verifies() {
    let mut cluster = Cluster::start(&["--shards", "2"]);
    stdout(&cluster.run(&["put", "k", "v"]));
    let dir = cluster.node_dir(3);
    let dir = dir.to_str().unwrap();
    let in_use = error_line(&run(&["wal", "verify", dir]));
    assert!(in_use.contains(dir), "{in_use}");

    cluster.terminate(3);
    let verified = stdout(&run(&["wal", "verify", dir]));
    assert!(verified.contains("checked"), "{verified}");
    let stat: serde_json::Value =
        serde_json::from_str(stdout(&run(&["wal", "stat", dir, "--json"])).trim()).unwrap();
    assert_eq!(stat["node"], 3);
    assert_eq!(stat["sound"], true);
    // Two shards and the meta group.
    assert_eq!(stat["groups"].as_array().unwrap().len(), 3);
    let dumped = stdout(&run(&["wal", "dump", dir, "--json"]));
    let entries = dumped
        .lines()
        .filter(|line| line.contains("\"kind\":\"entry\""));
    assert_eq!(stat["records"]["entry"], entries.count());

    let copy = cluster.dir.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(cluster.node_dir(3).join("log")).unwrap() {
        let file = file.unwrap();
        if file.file_name() != "0000000001.seg" {
            std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
    }
    let line = error_line(&run(&["wal", "verify", copy.to_str().unwrap()]));
    assert!(line.ends_with(": 0000000001.seg is missing"), "{line}");

    // Two of three are a quorum; the status names the one that is away.
    assert_eq!(stdout(&cluster.run(&["get", "k"])), "v\n");
    let began = Instant::now();
    let status = cluster.run(&["status", "--timeout-ms", "3000"]);
    let text = String::from_utf8_lossy(&status.stdout);
    assert!(text.contains("node 3 does not answer"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(15));
    cluster.spawn(3);
    cluster.wait_until_whole();
}
