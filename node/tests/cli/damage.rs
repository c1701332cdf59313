//! A flipped byte in a table of one process of three.

use crate::cluster::{Cluster, file, stdout};
use std::fmt::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const ROWS: usize = 4_000;
const ROW: usize = 1_234;
const HEALS_WITHIN: Duration = Duration::from_secs(30);

fn value(row: usize) -> String {
    format!("value of row {row:05} {}", "-".repeat(200))
}

/// Flips a byte of a row in the tables of a node, as soon as the row is in one of them and nothing is merged any more.
fn flip(cluster: &Cluster, node: usize) -> PathBuf {
    let tables = cluster.node_dir(node).join("store/tables");
    let needle = value(ROW).into_bytes();
    let began = Instant::now();
    loop {
        let files = std::fs::read_dir(&tables).unwrap();
        let mut found = files.filter_map(|entry| {
            let path = entry.ok()?.path();
            let bytes = std::fs::read(&path).ok()?;
            let at = bytes.windows(needle.len()).position(|w| w == needle)?;
            Some((path, at))
        });
        let is_settled = || {
            let before = merges(cluster, node);
            std::thread::sleep(Duration::from_millis(500));
            before == merges(cluster, node)
        };
        if is_settled()
            && let Some((path, at)) = found.next()
        {
            let table = std::fs::File::options().write(true).open(&path).unwrap();
            table.write_all_at(b"V", at as u64).unwrap();
            return path;
        }
        assert!(began.elapsed() < HEALS_WITHIN, "the row is in no table");
    }
}

fn status(cluster: &Cluster) -> String {
    let output = cluster.run(&["status", "--timeout-ms", "2000"]);
    String::from_utf8(output.stdout).unwrap()
}

/// What the node says.
fn told(cluster: &Cluster, node: usize) -> serde_json::Value {
    let output = cluster.run(&["status", "--json", "--timeout-ms", "2000"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut nodes = status["nodes"].as_array().unwrap().iter();
    let one = nodes.find(|one| one["node"] == node).unwrap();
    one["status"].clone()
}

fn merges(cluster: &Cluster, node: usize) -> u64 {
    let store = &told(cluster, node)["store"];
    store["compactions"].as_u64().unwrap() + store["flushes"].as_u64().unwrap()
}

/// What a client gets is the row or nothing.
fn read(cluster: &Cluster) -> bool {
    let got = cluster.run(&["get", &format!("key {ROW:05}"), "--timeout-ms", "1000"]);
    if got.status.success() {
        assert_eq!(stdout(&got), format!("{}\n", value(ROW)));
    }
    got.status.success()
}

#[test]
fn a_damaged_table_is_named_and_heals_as_soon_as_its_replica_can_be_spared() {
    let mut cluster = Cluster::start(&[
        "--shards",
        "1",
        "--memtable-bytes",
        "256KiB",
        "--block-cache-bytes",
        "64KiB",
        "--compression",
        "none",
    ]);
    let rows = (0..ROWS).fold(String::new(), |mut text, row| {
        writeln!(text, "key {row:05}\t{}", value(row)).unwrap();
        text
    });
    let path = file(cluster.dir.path(), "rows.tsv", &rows);
    stdout(&cluster.run(&["load", &path]));
    let table = flip(&cluster, 2);
    cluster.kill(3);

    // Everything is read on both nodes that are there, so the damage is found. It is named, and its replica stays: without it
    // there would be no quorum.
    cluster.run(&["verify", "--patience", "1", "--timeout-ms", "2000"]);
    let named = format!("{} is damaged at byte ", table.display());
    let began = Instant::now();
    while !status(&cluster).contains(&named) {
        assert!(began.elapsed() < HEALS_WITHIN, "{}", status(&cluster));
    }
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        stdout(&cluster.run(&["put", "key", "value"]));
        read(&cluster);
    }
    assert!(status(&cluster).contains(&named), "{}", status(&cluster));
    assert!(cluster.log(2).contains(table.to_str().unwrap()));

    cluster.spawn(3);
    cluster.wait_until_whole();
    let began = Instant::now();
    let verified = || cluster.run(&["verify", "--patience", "2"]).status.success();
    while !(read(&cluster) && !status(&cluster).contains("is damaged") && verified()) {
        assert!(
            began.elapsed() < HEALS_WITHIN,
            "{}\n{}",
            status(&cluster),
            cluster.log(2)
        );
    }
    let told = told(&cluster, 2);
    assert!(told["store"]["damaged_found"].as_u64() > Some(0), "{told}");
    let lost = serde_json::json!({"by_log": 0, "by_table": 1, "otherwise": 0, "replaced": 1});
    assert_eq!(told["lost_replicas"], lost);
    let line = "node 2: 1 replica lost since it started (1 by its tables), 1 replaced";
    assert!(status(&cluster).contains(line), "{}", status(&cluster));
    let dumped = stdout(&cluster.run(&["dump", "--format", "tsv"]));
    let expected = format!("key\tvalue\n{rows}");
    let (mut dumped, mut expected): (Vec<_>, Vec<_>) =
        (dumped.lines().collect(), expected.lines().collect());
    dumped.sort_unstable();
    expected.sort_unstable();
    assert!(dumped == expected, "the dump differs");
}
