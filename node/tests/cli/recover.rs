//! A majority that is lost for good, and what the survivor makes of it.

use crate::cluster::{Cluster, error_line, file, run, stdout, usage_line};
use serde_json::Value;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

const LOST: [&str; 2] = ["--lost", "2,3"];

fn recover(dir: &Path, args: &[&str]) -> std::process::Output {
    let dir = dir.to_str().unwrap();
    run(&[&["recover", "--data-dir", dir][..], args].concat())
}

/// The last line is one JSON object.
fn json(output: &std::process::Output) -> Value {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// Waits until node 1 has applied all that its leaders have committed.
fn wait_until_applied(cluster: &Cluster) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status = json(&cluster.run(&["status", "--json"]));
        let shards = status["shards"].as_array().unwrap();
        if shards
            .iter()
            .all(|shard| shard["applied"] == shard["commit"])
        {
            return;
        }
        assert!(Instant::now() < deadline, "{status}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until every shard has a leader, whichever nodes answer.
fn wait_until_led(cluster: &Cluster) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status = cluster.run(&["status", "--json", "--timeout-ms", "1000"]);
        if status.status.success() {
            return json(&status);
        }
        let log = cluster.log(1);
        assert!(Instant::now() < deadline, "{status:?}\n{log}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Rows by one process: each process looks for the nodes of the map anew, and waits for those that are away.
fn load(cluster: &Cluster, rows: Range<usize>) {
    let text: String = rows.map(row).collect();
    let path = file(cluster.dir.path(), "rows.tsv", &text);
    stdout(&cluster.run(&["load", &path]));
}

fn row(key: usize) -> String {
    format!("{key:03}-key\tvalue-{key}\n")
}

#[track_caller]
fn check_rows(cluster: &Cluster, rows: impl Iterator<Item = usize>) {
    let expected: String = rows.map(row).collect();
    assert_eq!(stdout(&cluster.run(&["dump", "--format", "tsv"])), expected);
}

#[test]
fn a_survivor_goes_on_with_all_that_it_had_received() {
    let mut cluster = Cluster::start(&["--shards", "4"]);
    load(&cluster, 0..20);
    wait_until_applied(&cluster);
    let running = error_line(&recover(&cluster.node_dir(1), &LOST));
    assert!(running.contains("is in use by process"), "{running}");

    // What is acknowledged from here on is on the others alone.
    cluster.kill(1);
    load(&cluster, 20..25);
    let saved = cluster.dir.path().join("saved");
    for node in [2, 3] {
        cluster.kill(node);
    }
    std::fs::rename(cluster.node_dir(2), &saved).unwrap();
    std::fs::remove_dir_all(cluster.node_dir(3)).unwrap();

    // Alone it says what is wrong.
    cluster.spawn(1);
    let refused = loop {
        let line = error_line(&cluster.run(&["put", "k", "v", "--timeout-ms", "2000"]));
        if !line.contains("cannot connect") && !line.contains("starting") {
            break line;
        }
    };
    assert!(refused.contains("unavailable"), "{refused}");
    let status = cluster.run(&["status", "--timeout-ms", "1000"]);
    assert_eq!(status.status.code(), Some(1));
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(text.contains("no quorum: 5 of them"), "{text}");
    cluster.kill(1);

    let dir = cluster.node_dir(1);
    let plan = stdout(&recover(&dir, &[&LOST[..], &["--dry-run"]].concat()));
    assert!(plan.contains("node 1: 5 of 5 groups to recover"), "{plan}");
    let unaccepted = recover(&dir, &[&LOST[..], &["--json"]].concat());
    assert!(usage_line(&unaccepted).contains("--i-accept-data-loss"));
    let plan = json(&unaccepted);
    assert_eq!(
        (&plan["planned"], &plan["recovered"]),
        (&5.into(), &0.into())
    );
    assert!(!dir.join("recover.log").exists());

    let done = json(&recover(
        &dir,
        &[&LOST[..], &["--i-accept-data-loss", "--json"]].concat(),
    ));
    assert_eq!(done["recovered"], 5, "{done}");
    // Once more there is nothing to do: each group has the quorum that it needs.
    let again = recover(&dir, &[&LOST[..], &["--i-accept-data-loss"]].concat());
    assert!(error_line(&again).contains("nothing was done"));
    let log = std::fs::read_to_string(dir.join("recover.log")).unwrap();
    let events: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (&events[0]["event"], &events[1]["event"]),
        (&"planned".into(), &"done".into())
    );
    assert_eq!(events[0]["groups"].as_array().unwrap().len(), 5);

    cluster.spawn(1);
    let status = wait_until_led(&cluster);
    assert!(
        status["shards"]
            .as_array()
            .unwrap()
            .iter()
            .all(|shard| !shard["forced"].is_null())
    );
    assert!(cluster.log(1).contains("recovered by force"));
    // Rows 20 to 24 were acknowledged, and are lost.
    check_rows(&cluster, 0..20);
    load(&cluster, 30..40);
    cluster.kill(1);
    cluster.spawn(1);
    wait_until_led(&cluster);
    check_rows(&cluster, (0..20).chain(30..40));

    // A wiped node is not let in under its old id.
    cluster.spawn(3);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !cluster
        .log(3)
        .contains("was a member of the cluster before")
    {
        assert!(Instant::now() < deadline, "{}", cluster.log(3));
        std::thread::sleep(Duration::from_millis(100));
    }
    cluster.kill(3);
    // One that comes back against all advice is told to leave, and can be given new replicas.
    std::fs::rename(&saved, cluster.node_dir(2)).unwrap();
    cluster.spawn(2);
    let shard = status["shards"][1]["shard"].to_string();
    until(&cluster, "the old replica leaves", || {
        let added = cluster.run(&["members", "--shard", &shard, "--add-learner", "2"]);
        added.status.success()
    });
    until(&cluster, "the new replica gets a vote", || {
        let promoted = cluster.run(&["members", "--shard", &shard, "--add", "2"]);
        promoted.status.success()
    });
    until(&cluster, "all old replicas have left", || {
        let status = json(&cluster.run(&["status", "--json", "--timeout-ms", "1000"]));
        let nodes = status["nodes"].as_array().unwrap();
        let node = nodes.iter().find(|node| node["node"] == 2).unwrap();
        let groups = node["status"]["groups"].as_array();
        groups.is_some_and(|groups| groups.len() == 1 && groups[0]["replica"].as_u64() > Some(1000))
    });
    check_rows(&cluster, (0..20).chain(30..40));
    let status = wait_until_led(&cluster);
    assert!(
        status["shards"]
            .as_array()
            .unwrap()
            .iter()
            .all(|shard| shard["leader"] != Value::Null)
    );
}

#[track_caller]
fn until(cluster: &Cluster, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(
            Instant::now() < deadline,
            "{what}: {}\n{}",
            cluster.log(1),
            cluster.log(2)
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_cannot_be_meant_is_refused_and_nothing_is_done() {
    let mut cluster = Cluster::start(&["--shards", "2"]);
    load(&cluster, 0..10);
    for node in 1..=3 {
        cluster.kill(node);
    }
    let dir = cluster.node_dir(1);
    let accept = "--i-accept-data-loss";
    for (args, says) in [
        (&["--lost", "1,2", accept][..], "it cannot be among --lost"),
        (
            &["--lost", "2,9", accept],
            "names node 9, which is none of this cluster's: 1, 2, 3",
        ),
        (
            &["--lost", "2,3", "--groups", "77", accept],
            "names group 77",
        ),
        (
            &["--lost", "2,3"],
            "--i-accept-data-loss carries the plan out",
        ),
    ] {
        let line = usage_line(&recover(&dir, args));
        assert!(line.contains(says), "{line}");
    }
    // One lost node of three leaves a quorum.
    let line = error_line(&recover(&dir, &["--lost", "2", accept]));
    assert!(line.contains("no group here has lost its quorum"), "{line}");
    let line = error_line(&recover(&dir, &["--lost", "2", "--groups", "2", accept]));
    assert!(
        line.contains("group 2 cannot be recovered here: has its quorum"),
        "{line}"
    );
    let nothing = cluster.dir.path().join("nothing");
    let line = error_line(&recover(&nothing, &["--lost", "2", accept]));
    assert!(
        line.contains("is not the data directory of a node"),
        "{line}"
    );
    assert!(!nothing.exists());

    // A damaged log is never gone on with.
    damage(&dir.join("log"));
    let damaged = recover(&dir, &["--lost", "2,3", accept, "--json"]);
    let line = error_line(&damaged);
    assert!(line.contains("may have no quorum"), "{line}");
    let plan = json(&damaged);
    let groups = plan["groups"].as_array().unwrap();
    let is_damaged = |group: &&Value| group["decision"] == "damaged";
    let count = groups.iter().filter(is_damaged).count();
    assert!(count > 0, "{plan}");
    assert_eq!(plan["recovered"], groups.len() - count, "{plan}");
    let group = groups.iter().find(is_damaged).unwrap()["group"].to_string();
    let named = ["--lost", "2,3", "--groups", &group, accept];
    let line = error_line(&recover(&dir, &named));
    assert!(
        line.contains("cannot be trusted: its log is damaged"),
        "{line}"
    );
}

/// Flips a byte of a value in the log.
fn damage(log: &Path) {
    let value = b"value-5";
    for file in std::fs::read_dir(log).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(value.len()).position(|found| found == value);
        if let Some(at) = at {
            bytes[at] ^= 1;
            return std::fs::write(&path, bytes).unwrap();
        }
    }
    panic!("no value in {}", log.display());
}
