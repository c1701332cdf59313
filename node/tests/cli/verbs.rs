//! Every verb against a running cluster: what it prints, and how it ends.

use crate::cluster::{Cluster, error_line, file, run, stdout, usage_line};
use std::process::Output;

#[test]
fn single_keys_can_be_written_read_swapped_and_removed() {
    let cluster = Cluster::start(&["--shards", "4"]);
    assert_eq!(
        stdout(&cluster.run(&["put", "greeting", "hello"])),
        "written\n"
    );
    assert_eq!(stdout(&cluster.run(&["get", "greeting"])), "hello\n");
    assert_eq!(
        stdout(&cluster.run(&["get", "greeting", "--json"])),
        "{\"key\": \"greeting\", \"value\": \"hello\"}\n"
    );

    let wrong = cluster.run(&["cas", "greeting", "--expect", "hi", "--set", "x"]);
    let line = error_line(&wrong);
    assert!(
        line.contains("not swapped: the value is \"hello\""),
        "{line}"
    );
    let last_line = |output: &Output| -> serde_json::Value {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    };
    let wrong = cluster.run(&["cas", "greeting", "--expect", "hi", "--json"]);
    let expected = serde_json::json!({ "outcome": "not swapped", "actual": "hello" });
    assert_eq!(last_line(&wrong), expected);
    assert!(error_line(&wrong).contains("not swapped"));
    let right = cluster.run(&["cas", "greeting", "--expect", "hello", "--set", "bye"]);
    assert_eq!(stdout(&right), "swapped\n");
    assert_eq!(
        stdout(&cluster.run(&["cas", "new", "--set", "1"])),
        "swapped\n"
    );
    assert!(error_line(&cluster.run(&["cas", "new", "--set", "2"])).contains("not swapped"));

    assert_eq!(
        stdout(&cluster.run(&["delete", "greeting", "--json"])),
        "{\"outcome\":\"deleted\"}\n"
    );
    let gone = cluster.run(&["get", "greeting"]);
    assert_eq!(error_line(&gone), "error: no such key: \"greeting\"");
    assert!(gone.stdout.is_empty());
    let gone = cluster.run(&["get", "greeting", "--json"]);
    let expected = serde_json::json!({ "key": "greeting", "value": null });
    assert_eq!(last_line(&gone), expected);
    assert_eq!(error_line(&gone), "error: no such key: \"greeting\"");

    assert_eq!(
        stdout(&cluster.run(&["put", "--b64", "/wA=", "AAE="])),
        "written\n"
    );
    assert_eq!(stdout(&cluster.run(&["get", "--b64", "/wA="])), "AAE=\n");

    let status = stdout(&cluster.run(&["status"]));
    assert!(status.contains("4 shards and the meta shard"), "{status}");
    let first = status.lines().find(|line| line.contains("\"\""));
    let applied = first.unwrap().matches(": ").count();
    assert_eq!(applied, 3, "a word of each replica: {status}");
    let verified = stdout(&cluster.run(&["verify"]));
    assert!(
        verified.contains("15 of 15 replicas in 5 shards are the same"),
        "{verified}"
    );
    let json = stdout(&cluster.run(&["verify", "--json"]));
    let json: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!(json["shards"][1]["replicas"][2]["finding"], "same");

    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().to_str().unwrap();
    let line = stdout(&cluster.run(&["backup", "--to", dir]));
    assert!(
        line.starts_with("backup 2") && line.contains(" of 4 shards ("),
        "{line}"
    );
    let json = stdout(&cluster.run(&["backup", "--to", dir, "--json"]));
    let json: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!(json["bytes_written"], 0);
    assert_eq!(json["shards"], 4);
    let refused = error_line(&cluster.run(&["restore", "--from", dir]));
    assert!(refused.contains("the cluster is not empty"), "{refused}");
    let restored = stdout(&cluster.run(&["restore", "--from", dir, "--force"]));
    assert!(restored.starts_with("restored backup 2"), "{restored}");
    assert!(status.lines().count() <= 24, "{status}");
}

#[test]
fn scans_cross_shards_in_key_order_and_bad_lines_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let sample = file(directory.path(), "sample.tsv", "a\t\nd\t\ng\t\nk\t\n");
    let cluster = Cluster::start(&["--shards", "4", "--split-sample", &sample]);
    let text = "g\t7\nno tab here\na\t1\nk\t11\nd\\x\t4\nd\t4\n";
    let path = file(directory.path(), "rows.tsv", text);

    let stopped = error_line(&cluster.run(&["load", &path]));
    assert!(stopped.contains("rows.tsv:2: no tab"), "{stopped}");
    assert!(stopped.contains("--on-error skip"), "{stopped}");

    let skipped = cluster.run(&["load", &path, "--on-error", "skip"]);
    let summary = stdout(&skipped);
    assert!(
        summary.starts_with("4 rows") && summary.contains("2 bad lines"),
        "{summary}"
    );
    let named = String::from_utf8_lossy(&skipped.stderr).into_owned();
    assert!(
        named.contains("line 2: no tab") && named.contains("line 5: unknown escape"),
        "{named}"
    );

    let skipped = cluster.run(&["load", &path, "--on-error", "skip", "--json"]);
    let summary: serde_json::Value = serde_json::from_str(stdout(&skipped).trim()).unwrap();
    assert_eq!(summary["bad_lines"], 2, "{summary}");
    assert_eq!(summary["complete"], false, "{summary}");

    assert_eq!(stdout(&cluster.run(&["scan"])), "a\t1\nd\t4\ng\t7\nk\t11\n");
    assert_eq!(
        stdout(&cluster.run(&["scan", "--from", "b", "--to", "k"])),
        "d\t4\ng\t7\n"
    );
    assert_eq!(stdout(&cluster.run(&["scan", "--limit", "1"])), "a\t1\n");
    assert_eq!(stdout(&cluster.run(&["scan", "--prefix", "k"])), "k\t11\n");
    assert_eq!(
        stdout(&cluster.run(&["scan", "--from", "g", "--limit", "1", "--json"])),
        "{\"key\": \"g\", \"value\": \"7\"}\n"
    );

    let path = file(directory.path(), "more.txt", "m\t13\r\nno tab here\r\n");
    let load = |args: &[&str]| {
        let rows = std::fs::File::open(&path).unwrap();
        cluster.command(args).stdin(rows).output().unwrap()
    };
    let line = usage_line(&load(&["load", "-"]));
    assert!(line.contains("--format"), "{line}");
    let line = error_line(&load(&["load", "-", "--format", "tsv"]));
    assert!(line.contains("stdin:2: no tab"), "{line}");
    assert_eq!(stdout(&cluster.run(&["get", "m"])), "13\n");
}

#[test]
fn a_sample_is_written_before_there_is_a_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ycsb.tsv");
    let path = path.to_str().unwrap();
    let args = ["bench", "--workload", "ycsb-a", "--keys", "100"];
    let args = [&args[..], &["--write-sample", path]].concat();
    let told = stdout(&run(&args));
    assert!(told.starts_with("wrote 100 keys to "), "{told}");
    let sample = std::fs::read_to_string(path).unwrap();
    assert_eq!(sample.lines().count(), 100);
    assert!(sample.lines().all(|line| line.starts_with("user")));
    let json = stdout(&run(&[&args[..], &["--json"]].concat()));
    let json: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!((&json["keys"], &json["file"]), (&100.into(), &path.into()));

    let missing = run(&args[..3]);
    assert_eq!(missing.status.code(), Some(2));
    let told = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(
        told.contains("--endpoints") && told.contains("--certs"),
        "{told}"
    );
}

#[test]
fn help_stands_on_its_own() {
    let all = stdout(&run(&["--help"]));
    let commands = all.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    let verbs = commands.filter_map(|line| line.split_whitespace().next());
    let verbs: Vec<&str> = verbs.filter(|verb| *verb != "help").collect();
    assert!(verbs.contains(&"demo") && verbs.contains(&"wal"), "{all}");
    for verb in verbs {
        let help = stdout(&run(&[verb, "--help"]));
        let (usage, examples) = help.split_once("\nExamples:\n").expect(verb);
        assert!(usage.contains(&format!("Usage: pontoon {verb} ")), "{help}");
        let first = examples.lines().next().unwrap();
        assert!(first.starts_with(&format!("  pontoon {verb}")), "{help}");
    }
}
