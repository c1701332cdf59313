//! A flipped byte in the log of a node that runs: it heals, and nobody else notices.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod real;

use pontoon_engine::{GroupStatus, RoleName};
use pontoon_store::Outcome;
use pontoon_types::{Mutation, Operation};
use real::{Cluster, GROUPS, HIT, ROWS, key, value};
use std::fs;
use std::io::{Seek, SeekFrom, Write};

/// Flips a byte of the newest entry in a node's log that writes a row; returns the segment's name.
fn flip(cluster: &Cluster, node: u64, value: &[u8]) -> String {
    let log = cluster.dir.path().join(format!("node-{node}/log"));
    let names = fs::read_dir(&log)
        .unwrap()
        .map(|it| it.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    let mut names: Vec<_> = names
        .filter(|name| name.len() == 14 && name.ends_with(".seg"))
        .collect();
    names.sort();
    for name in names.into_iter().rev() {
        let bytes = fs::read(log.join(&name)).unwrap();
        let mut windows = bytes.windows(value.len());
        if let Some(at) = windows.rposition(|window| window == value) {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .open(log.join(&name))
                .unwrap();
            file.seek(SeekFrom::Start(at as u64)).unwrap();
            file.write_all(b"V").unwrap();
            return name;
        }
    }
    panic!("the row is not in the log");
}

fn exists(cluster: &Cluster, node: u64, segment: &str) -> bool {
    let log = cluster.dir.path().join(format!("node-{node}/log"));
    log.join(segment).exists()
}

fn statuses(cluster: &Cluster, node: u64) -> Vec<GroupStatus> {
    (1..=GROUPS)
        .map(|group| cluster.status(node, group).unwrap())
        .collect()
}

/// Nobody has lost a replica or elected a leader.
fn is_unmoved(cluster: &Cluster, node: u64, before: &[GroupStatus]) {
    for (now, before) in statuses(cluster, node).iter().zip(before) {
        assert_eq!(
            (now.replica, now.term, now.leader),
            (before.replica, before.term, before.leader)
        );
    }
}

/// Every row is there on every node, and more can be written.
fn is_whole(cluster: &Cluster) {
    for group in 1..=GROUPS {
        let put = Mutation::Put {
            key: b"new",
            value: b"new",
        };
        let written = cluster.write(group, Operation::Write(vec![put]));
        assert_eq!(written, Outcome::Written);
    }
    for node in 1..=3 {
        for group in 1..=GROUPS {
            cluster.make_lead(node, group);
            assert_eq!(cluster.read_all(node, group), 0, "group {group} on {node}");
        }
    }
}

#[test]
fn damage_in_a_running_nodes_log_heals_and_a_restart_finds_none() {
    let cluster = Cluster::new();
    for group in 1..=GROUPS {
        cluster.make_lead(1, group);
    }
    // Applied soon, and not flushed.
    let (row, late) = (&key(ROWS)[..], value(HIT, ROWS));
    let put = Mutation::Put {
        key: row,
        value: &late,
    };
    cluster.write(HIT, Operation::Write(vec![put]));
    cluster.wait("the row is everywhere", || {
        let applied = [1, 2, 3].map(|node| cluster.status(node, HIT).unwrap().applied);
        applied.iter().all(|one| *one == applied[0])
    });
    let before = statuses(&cluster, 2);
    let segment = flip(&cluster, 2, &late);
    cluster.engine(2).scrub_log();
    cluster.wait("it is found", || {
        cluster.engine(2).log_stats().scrub.damaged == 1
    });
    cluster.wait("the damaged segment has gone", || {
        cluster.engine(2).log_damage().is_empty() && !exists(&cluster, 2, &segment)
    });
    is_unmoved(&cluster, 2, &before);
    assert!(cluster.engine(2).log_scrubbed_at().is_some());
    cluster.stop(2);
    cluster.start(2);
    let after = statuses(&cluster, 2);
    for (after, before) in after.iter().zip(&before) {
        assert_eq!(after.replica, before.replica, "it was rebuilt");
        assert_ne!(after.role, RoleName::Stopped);
    }
    is_whole(&cluster);
    cluster.make_lead(2, HIT);
    let read = cluster.read(2, HIT, key(ROWS));
    assert_eq!(read.flatten().as_deref(), Some(&late[..]));
}

#[test]
fn a_leader_that_cannot_read_what_a_follower_lacks_sends_a_snapshot() {
    let cluster = Cluster::new();
    cluster.make_lead(1, HIT);
    cluster.stop(3);
    let late = value(HIT, ROWS + 7);
    for _ in 0..4 {
        let key = &key(ROWS)[..];
        let put = Mutation::Put { key, value: &late };
        cluster.write(HIT, Operation::Write(vec![put]));
    }
    // So that it has them on the disk only.
    cluster.stop(1);
    cluster.start(1);
    cluster.make_lead(1, HIT);
    let replica = cluster.status(1, HIT).unwrap().replica;
    flip(&cluster, 1, &late);
    cluster.start(3);
    cluster.wait("the follower has caught up", || {
        let applied = |node| cluster.status(node, HIT).map(|status| status.applied);
        applied(1).is_some() && applied(3) == applied(1)
    });
    cluster.wait("what it met is looked at", || {
        cluster.engine(1).log_stats().scrub.damaged > 0
    });
    cluster.wait("the damage has gone", || {
        cluster.engine(1).log_damage().is_empty()
    });
    assert_eq!(cluster.status(1, HIT).unwrap().replica, replica);
    assert_eq!(
        cluster.read(1, HIT, key(ROWS)).flatten().as_deref(),
        Some(&late[..])
    );
    is_whole(&cluster);
}
