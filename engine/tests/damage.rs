//! A flipped byte in a table of one node: the group that it befell is rebuilt, and nobody else notices.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod real;

use bytes::Bytes;
use pontoon_engine::{GroupStatus, LostReplicas, RoleName};
use pontoon_store::Outcome;
use pontoon_types::{Mutation, Operation, ReplicaId};
use real::{Cluster, GROUPS, HIT, key, value};
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::Duration;

/// The row that is damaged.
const ROW: u64 = 700;

trait Damage {
    fn flip(&self, node: u64) -> PathBuf;
    /// Flips a bit of what only one file in a directory of a node has, and once.
    fn flip_in(&self, node: u64, below: &str, needle: &[u8]) -> PathBuf;
    /// The group heals, with a new replica on `node` for the one that was lost, and that is counted.
    fn is_rebuilt(&self, node: u64, by_log: u64, by_table: u64);
    fn heals(&self, node: u64, before: &[GroupStatus]);
}

impl Damage for Cluster {
    /// Flips a byte of a row in the tables of a node.
    fn flip(&self, node: u64) -> PathBuf {
        loop {
            let path = self.flip_in(node, "store/tables", &value(HIT, ROW));
            // A merge that had read it before leaves no damage behind.
            std::thread::sleep(Duration::from_millis(300));
            let is_met = self.engine(node).store().stats().scrub.damaged > 0;
            if is_met || path.exists() {
                return path;
            }
        }
    }

    fn flip_in(&self, node: u64, below: &str, needle: &[u8]) -> PathBuf {
        let dir = self.dir.path().join(format!("node-{node}")).join(below);
        let mut found = Vec::new();
        self.wait("only one file has it", || {
            found.clear();
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                // Tables may be merged away meanwhile.
                let bytes = fs::read(&path).unwrap_or_default();
                let mut windows = bytes.windows(needle.len());
                found.extend(windows.position(|w| w == needle).map(|at| (path, at)));
            }
            found.len() == 1
        });
        let (path, at) = &found[0];
        let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start(*at as u64)).unwrap();
        file.write_all(&[needle[0] ^ 1]).unwrap();
        path.clone()
    }

    fn is_rebuilt(&self, node: u64, by_log: u64, by_table: u64) {
        self.wait("the group is healed", || {
            let status = [1, 2, 3].map(|node| self.status(node, HIT));
            let healed = status.iter().flatten().filter(|status| {
                status.role != RoleName::Stopped
                    && status.members.len() == 3
                    && status.members.iter().all(|member| member.is_voter)
            });
            let is_new = |status: &GroupStatus| status.replica > ReplicaId(3);
            healed.count() == 3 && status[node as usize - 1].as_ref().is_some_and(is_new)
        });
        let counted = LostReplicas {
            by_log,
            by_table,
            otherwise: 0,
            replaced: 1,
        };
        self.wait("it is counted", || {
            self.engine(node).lost_replicas() == counted
        });
    }

    /// After something has met the damage on `node`: the group heals, the table goes, and no other group has noticed.
    fn heals(&self, node: u64, before: &[GroupStatus]) {
        self.is_rebuilt(node, 0, 1);
        self.wait("the damaged table has gone", || {
            let store = self.engine(node).store().clone();
            store.stats().scrub.damaged > 0 && store.damaged_tables().is_empty()
        });
        for group in (1..=GROUPS).filter(|group| *group != HIT) {
            let now = self.status(node, group).unwrap();
            let was = &before[group as usize - 1];
            assert_eq!(
                (now.replica, now.term, now.leader),
                (was.replica, was.term, was.leader),
                "another group has noticed"
            );
        }
        // What the new replica has.
        self.make_lead(node, HIT);
        for group in 1..=GROUPS {
            let leader = self.leader(group).unwrap();
            assert_eq!(self.read_all(leader, group), 0, "group {group}");
            let put = Mutation::Put {
                key: b"new",
                value: b"new",
            };
            assert_eq!(
                self.write(group, Operation::Write(vec![put])),
                Outcome::Written
            );
        }
        // Merging goes on.
        self.wait("nothing is wrong with the store", || {
            let store = self.engine(node).store().stats();
            store.trouble.is_none()
        });
    }
}

fn statuses(cluster: &Cluster, node: u64) -> Vec<GroupStatus> {
    (1..=GROUPS)
        .map(|group| cluster.status(node, group).unwrap())
        .collect()
}

#[test]
fn a_leader_whose_reads_meet_damage_is_replaced_and_rebuilt() {
    let cluster = Cluster::new();
    cluster.make_lead(2, HIT);
    let before = statuses(&cluster, 2);
    cluster.flip(2);
    assert!(cluster.read_all(2, HIT) > 0);
    cluster.heals(2, &before);
    assert_eq!(cluster.engine(2).store().stats().scrub.passes, 0);
}

#[test]
fn a_replica_that_cannot_apply_its_log_for_damage_costs_no_other_group() {
    let cluster = Cluster::new();
    cluster.make_lead(1, HIT);
    let before = statuses(&cluster, 2);
    cluster.flip(2);
    let (row, there) = (key(ROW), value(HIT, ROW));
    let swap = |expect: &[u8], set: &[u8]| {
        let (expect, set) = (Some(expect), Some(set));
        let key = &row;
        cluster.write(HIT, Operation::CompareAndSwap { key, expect, set })
    };
    assert_eq!(swap(&there, b"other"), Outcome::Swapped);
    for group in 1..=GROUPS {
        let put = Mutation::Put {
            key: b"meanwhile",
            value: b"written",
        };
        cluster.write(group, Operation::Write(vec![put]));
    }
    assert_eq!(swap(b"other", &there), Outcome::Swapped);
    cluster.heals(2, &before);
}

#[test]
fn a_leader_that_cannot_apply_its_log_for_damage_is_replaced_and_rebuilt() {
    let cluster = Cluster::new();
    cluster.make_lead(2, HIT);
    let before = statuses(&cluster, 2);
    cluster.flip(2);
    let (row, there) = (key(ROW), value(HIT, ROW));
    let (key, expect, set) = (&row[..], Some(&there[..]), Some(&b"other"[..]));
    let swap = Operation::CompareAndSwap { key, expect, set };
    // The leader answered that the outcome is unknown, and the next one says that it was done.
    let actual = Some(Bytes::from_static(b"other"));
    assert_eq!(cluster.write(HIT, swap), Outcome::NotSwapped { actual });
    let (expect, set) = (set, expect);
    let back = Operation::CompareAndSwap { key, expect, set };
    assert_eq!(cluster.write(HIT, back), Outcome::Swapped);
    cluster.heals(2, &before);
}

#[test]
fn damage_that_only_scrubbing_finds_is_healed_as_well() {
    let cluster = Cluster::new();
    cluster.make_lead(1, HIT);
    let before = statuses(&cluster, 2);
    let path = cluster.flip(2);
    cluster.engine(2).store().scrub();
    cluster.heals(2, &before);
    assert!(!path.exists());
}

#[test]
fn a_replica_whose_log_is_damaged_is_rebuilt_and_counted() {
    let cluster = Cluster::new();
    cluster.make_lead(1, HIT);
    let put = |group, key, value| {
        cluster.write(group, Operation::Write(vec![Mutation::Put { key, value }]))
    };
    put(HIT, b"late", b"what the log still has");
    for group in 1..=GROUPS {
        put(group, b"later", b"what makes that durable everywhere");
    }
    cluster.wait("node 2 has it all", || {
        let applied = |node| cluster.status(node, HIT).unwrap().applied;
        applied(1) == applied(2)
    });
    cluster.stop(2);
    cluster.flip_in(2, "log", b"what the log still has");
    cluster.start(2);
    assert_eq!(cluster.engine(2).lost_replicas().by_log, 1);
    cluster.is_rebuilt(2, 1, 0);
    cluster.make_lead(2, HIT);
    assert_eq!(cluster.read_all(2, HIT), 0);
}

#[test]
fn two_replicas_that_are_damaged_at_once_are_rebuilt_one_after_the_other() {
    let cluster = Cluster::new();
    cluster.make_lead(1, HIT);
    let before = [2, 3].map(|node| statuses(&cluster, node));
    for node in [2, 3] {
        cluster.flip(node);
    }
    for node in [2, 3] {
        cluster.engine(node).store().scrub();
    }
    cluster.heals(2, &before[0]);
    cluster.heals(3, &before[1]);
}
