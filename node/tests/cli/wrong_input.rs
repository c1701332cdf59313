//! What operators and strangers get wrong: one clear line each, and the cluster goes on.

use crate::cluster::{
    Cluster, Running, error_line, file, free_port, pontoon, run, stdout, until, usage_line,
};
use std::fs::File;
use std::net::UdpSocket;
use std::process::Stdio;
use std::time::Instant;

#[test]
fn a_running_cluster_refuses_what_is_wrong_and_goes_on() {
    let cluster = Cluster::start(&["--shards", "2"]);
    let dir = cluster.dir.path();

    // A certificate of another cluster.
    let other = dir.join("other");
    stdout(&run(&[
        "certs",
        "--out",
        other.to_str().unwrap(),
        "--nodes",
        "1,2,3",
    ]));
    let stranger = run(&[
        "get",
        "k",
        "--endpoints",
        &cluster.address(1),
        "--certs",
        other.to_str().unwrap(),
        "--timeout-ms",
        "5000",
    ]);
    let line = error_line(&stranger);
    assert!(line.contains(&cluster.address(1)), "{line}");
    assert!(
        line.contains("certificate") || line.contains("cluster"),
        "{line}"
    );

    // A port in use.
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = taken
        .local_addr()
        .map(|address| (taken, address.to_string()));
    let (_holder, taken) = taken.unwrap();
    let fresh = dir.join("fresh");
    let line = error_line(&run(&[
        "node",
        "--id",
        "1",
        "--listen",
        &taken,
        "--data-dir",
        fresh.to_str().unwrap(),
        "--certs",
        cluster.certs().to_str().unwrap(),
        "--peers",
        &cluster.peers(),
    ]));
    assert!(line.contains(&taken) && line.contains("in use"), "{line}");
    assert!(!fresh.exists());

    // A second process on the directory of one that runs.
    let second = cluster.node_command(2).output().unwrap();
    let line = error_line(&second);
    assert!(
        line.contains(cluster.node_dir(2).to_str().unwrap()),
        "{line}"
    );

    // A key over the limit.
    let long = "k".repeat(5000);
    let line = error_line(&cluster.run(&["put", &long, "v"]));
    assert!(
        line.contains("5000") && line.contains("max-key-bytes"),
        "{line}"
    );
    let line = error_line(&cluster.run(&["put", "", "v"]));
    assert!(line.contains("empty"), "{line}");

    // A node of another cluster, and what it is asked.
    let port = free_port();
    let peers = cluster.peers().replace(&cluster.address(1), &port);
    let own = ["--endpoints", &port, "--certs", other.to_str().unwrap()];
    let mut command = pontoon();
    command
        .args(["node", "--id", "1", "--listen", &port, "--peers", &peers])
        .args(["--certs", other.to_str().unwrap(), "--data-dir"])
        .arg(dir.join("lost"));
    let began = Instant::now();
    let lost = Running::spawn(command.stderr(Stdio::null()));
    let line = until(|| {
        let line = error_line(&run(
            &[&["status", "--timeout-ms", "1000"], &own[..]].concat()
        ));
        (line.matches("another cluster").count() == 2).then_some(line)
    });
    drop(lost);
    let missing = format!(
        "its first start waits for node 2 at {}: ",
        cluster.address(2)
    );
    assert!(line.contains(&missing), "{line}");
    // It dials again and again, and the second line may come only ten seconds after the first.
    let most = 1 + began.elapsed().as_secs() / 10;
    let told = until(|| {
        let log = cluster.log(2);
        let told = log.matches("refuses our certificate; it looks for cluster");
        Some(told.count() as u64).filter(|told| *told > 0)
    });
    assert!(told <= most, "{told}: {}", cluster.log(2));

    // Garbage on the port, and what begins as a packet of QUIC does.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for connection in 0..50 {
        let mut packet = [0x5a; 1200];
        packet[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
        packet[5..14].copy_from_slice(&[8, connection, 1, 2, 3, 4, 5, 6, 7]);
        packet[14..24].copy_from_slice(&[8, 1, 2, 3, 4, 5, 6, 7, 8, 0]);
        packet[24..26].copy_from_slice(&[0x44, 0x96]);
        socket.send_to(&packet, cluster.address(3)).unwrap();
    }
    for length in 1..200_usize {
        let garbage: Vec<u8> = (0..length)
            .map(|byte| (byte * 31 + length * 7) as u8)
            .collect();
        socket.send_to(&garbage, cluster.address(3)).unwrap();
    }

    assert_eq!(stdout(&cluster.run(&["put", "still", "here"])), "written\n");
    assert_eq!(stdout(&cluster.run(&["get", "still"])), "here\n");
    cluster.wait_until_whole();
    let log = cluster.log(3);
    let from = socket.local_addr().unwrap().to_string();
    let told: Vec<&str> = log.lines().filter(|line| line.contains(&from)).collect();
    assert!(
        matches!(told[..], [one] if one.contains("not QUIC")),
        "{log}"
    );
}

#[test]
fn the_directory_of_another_node_is_refused() {
    let mut cluster = Cluster::start(&["--shards", "2"]);
    cluster.terminate(3);
    cluster.terminate(2);

    // One that is told other addresses than the map has.
    let (peers, port) = (cluster.peers(), free_port());
    let moved = peers.replace(&cluster.address(1), &port);
    let command = cluster.node_command(2);
    let args = command.get_args();
    let args = args.map(|arg| if arg == &*peers { moved.as_ref() } else { arg });
    let log = cluster.dir.path().join("moved.log");
    let stderr = File::create(&log).unwrap();
    let node = Running::spawn(pontoon().args(args).stdout(Stdio::null()).stderr(stderr));
    let warning = until(|| {
        let log = std::fs::read_to_string(&log).unwrap();
        let mut lines = log
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        let found = lines.find(|line| line.contains("--peers is not as the cluster's map"));
        found.map(str::to_owned)
    });
    drop(node);
    let expected = format!(
        "node 1 is at {port} there and at {} in the map",
        cluster.address(1)
    );
    assert!(warning.contains(&expected), "{warning}");

    let own = cluster.node_dir(2);
    let others = cluster.node_dir(3);
    std::fs::remove_dir_all(&own).unwrap();
    std::fs::rename(&others, &own).unwrap();
    let line = error_line(&cluster.node_command(2).output().unwrap());
    assert!(line.contains("node 3") && line.contains("node 2"), "{line}");
}

#[test]
fn files_that_are_missing_or_wrong_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();

    let line = error_line(&run(&[
        "get",
        "k",
        "--endpoints",
        "127.0.0.1:9",
        "--certs",
        &path("none"),
    ]));
    assert!(line.contains("none/ca.pem"), "{line}");

    let config = file(directory.path(), "node.toml", "id = 1\n\nshard = 3\n");
    let line = usage_line(&run(&["node", "--config", &config]));
    assert!(
        line.contains("node.toml:3: unknown field `shard`"),
        "{line}"
    );

    let line = error_line(&run(&["node", "--config", &path("absent.toml")]));
    assert!(line.contains("absent.toml"), "{line}");
    let missing = run(&["get", "k"]);
    assert_eq!(missing.status.code(), Some(2));
    let text = String::from_utf8_lossy(&missing.stderr).into_owned();
    for named in [
        "--endpoints",
        "PONTOON_ENDPOINTS",
        "--certs",
        "PONTOON_CERTS",
    ] {
        assert!(text.contains(named), "{named}: {text}");
    }
    let line = usage_line(&run(&["node", "--id", "1"]));
    assert!(line.contains("--peers is needed"), "{line}");

    let line = error_line(&run(&["wal", "verify", &path("nowhere")]));
    assert!(line.contains("nowhere"), "{line}");
    let line = error_line(&run(&["demo", "--load", &path("absent.ndjson")]));
    assert!(line.contains("absent.ndjson"), "{line}");
    let text = file(directory.path(), "rows.txt", "a\tb\n");
    let line = usage_line(&run(&["demo", "--load", &text]));
    assert!(line.contains(".ndjson"), "{line}");
    let rows = file(directory.path(), "rows.tsv", "a\tb\n\nno tab\n");
    let line = error_line(&run(&[
        "demo",
        "--load",
        &rows,
        "--data-dir",
        &path("demo"),
    ]));
    assert!(line.contains("rows.tsv:3: no tab"), "{line}");
    assert!(!directory.path().join("demo").exists());
    let line = usage_line(&run(&["demo", "--value-bytes", "1048577"]));
    assert!(line.contains("1048576"), "{line}");
    let line = usage_line(&run(&["certs", "--out", &path("twice"), "--nodes", "2,2"]));
    assert!(line.contains("node 2 is named twice"), "{line}");

    let certs = path("certs");
    stdout(&run(&["certs", "--out", &certs, "--nodes", "1"]));
    let line = error_line(&run(&["certs", "--out", &certs, "--nodes", "1"]));
    assert!(line.contains("certs/"), "{line}");

    // What keeps a node from starting leaves nothing behind.
    let data = path("data");
    let node = |certs: &str, more: &[&str]| {
        let args = ["node", "--id", "1", "--listen", "127.0.0.1:0"];
        let args = [
            &args[..],
            &["--peers", "1=127.0.0.1:1", "--data-dir", &data],
        ];
        run(&[&args.concat()[..], &["--certs", certs], more].concat())
    };
    let line = error_line(&node(&path("none"), &[]));
    assert!(line.contains("none/ca.pem"), "{line}");
    for (setting, value, line) in [
        ("--workers", "0", "--workers is 0"),
        ("--replication", "2", "--replication is 2, with 1 node in"),
        ("--segment-bytes", "5000", "segment-bytes is 5000"),
        (
            "--election-timeout-ms",
            "200",
            "election-timeout-ms: must be",
        ),
    ] {
        let found = usage_line(&node(&certs, &[setting, value]));
        assert!(found.contains(line), "{found}");
    }
    assert!(!directory.path().join("data").exists());

    // Nobody listens there.
    let args = [
        "get",
        "k",
        "--endpoints",
        "127.0.0.1:9",
        "--timeout-ms",
        "1500",
        "--certs",
    ];
    let line = error_line(&run(&[&args[..], &[&certs]].concat()));
    assert!(line.contains("127.0.0.1:9"), "{line}");
}
