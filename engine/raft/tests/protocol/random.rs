//! Random schedules: everything that a network, a disk and a power supply can do, in an order that a seed
//! decides, and then health, in which the group must come together again.

use crate::harness::{Cluster, Dice, ELECTION, Fate, index};
use pontoon_types::{LogPosition, Term};
use std::time::Duration;

/// Returns how many entries were committed under faults.
fn run(seed: u64, steps: usize) -> u64 {
    let mut dice = Dice::new(seed);
    let voters = [1, 3, 3, 3, 5][dice.below(5) as usize];
    let (pre_vote, check_quorum) = (dice.chance(50), dice.chance(50));
    let (max_append, max_cached) = (dice.below(400) + 1, dice.below(400));
    let mut cluster = Cluster::with(voters, |options| {
        let mut options = options.pre_vote(pre_vote).check_quorum(check_quorum);
        options.config.seed = seed;
        options.config.max_inflight_appends = 4;
        options.config.max_append_bytes = max_append as usize;
        options.config.max_cached_bytes = max_cached as usize;
        options.config.max_uncommitted_bytes = 2000;
        options.config.max_apply_bytes = 200;
        options
    });
    // A swarm: each seed has its own weather.
    let weather: Vec<u64> = (0..6).map(|_| dice.below(4)).collect();
    let (drops, repeats, crashes, cuts, slow_disk, hastes) = (
        weather[0] * 5,
        weather[1] * 5,
        weather[2],
        weather[3],
        weather[4] * 20,
        weather[5],
    );
    let mut proposed: Vec<LogPosition> = Vec::new();
    for context in 0..steps as u64 {
        let id = dice.below(voters) + 1;
        let is_up = cluster.node(id).raft.is_some();
        match dice.below(10) {
            0..=3 if !cluster.network.is_empty() => {
                let far = if dice.chance(30) { 100 } else { 1 };
                let at = dice.below(far.min(cluster.network.len() as u64)) as usize;
                if dice.chance(repeats) {
                    let again = cluster.network[at].clone();
                    cluster.network.push(again);
                }
                if dice.chance(drops) {
                    cluster.network.remove(at);
                } else {
                    cluster.deliver(at);
                }
            }
            0..=6 if is_up => {
                let held = dice.chance(slow_disk);
                cluster.nodes.get_mut(&id).unwrap().disk_held = held;
                cluster.process(id);
                if held && dice.chance(50) {
                    cluster.make_durable(id, 1);
                }
            }
            7 if is_up => {
                if let Ok(position) = cluster.propose(id) {
                    proposed.push(position);
                }
                let _ = cluster.read_index(id, context);
            }
            8 => {
                cluster.now = cluster.now + Duration::from_millis(dice.below(60));
                cluster.fire_timeouts();
                if dice.chance(hastes) && is_up {
                    cluster.campaign(id);
                }
            }
            9 if dice.chance(cuts * 5) => {
                cluster.heal();
                if dice.chance(60) {
                    let to = dice.chance(50).then(|| dice.below(voters) + 1);
                    cluster.rule(Some(id), to, None, Fate::Drop);
                    if dice.chance(50) {
                        cluster.rule(to, Some(id), None, Fate::Drop);
                    }
                }
            }
            9 if is_up && dice.chance(crashes * 8) => {
                if dice.chance(50) {
                    cluster.nodes.get_mut(&id).unwrap().flush();
                }
                let written = dice.below(3) as usize;
                cluster.crash(id, written);
            }
            9 if !is_up => cluster.restart(id),
            _ => {}
        }
    }
    let committed = cluster.invariants.max_committed();
    // Health.
    cluster.heal();
    for id in 1..=voters {
        if cluster.node(id).raft.is_none() {
            cluster.restart(id);
        }
        cluster.nodes.get_mut(&id).unwrap().disk_held = false;
    }
    cluster.advance(ELECTION * 10);
    let leader = cluster.leader().expect("a leader in a healthy group");
    let written = cluster.propose(leader).unwrap();
    cluster.read_index(leader, u64::MAX).unwrap();
    cluster.advance(ELECTION);
    assert_eq!(cluster.leaders(), [leader]);
    let answered = cluster
        .node(leader)
        .reads
        .iter()
        .any(|read| read.context == u64::MAX);
    assert!(answered, "a read in a healthy group");
    for node in cluster.nodes.values() {
        let raft = node.raft();
        assert!(
            raft.term_at(written.index) == Some(written.term),
            "lost a write"
        );
        assert_eq!(raft.applied(), raft.last_position().index);
        assert_eq!(raft.uncommitted_bytes(), 0);
        assert_eq!(raft.matched_by_all(), raft.commit());
        for (at, term) in cluster.invariants.committed() {
            assert_eq!(raft.term_at(at), Some(term), "{} lost {at}", node.id);
        }
    }
    // A proposal whose position was applied is the entry that was applied there.
    for LogPosition { term, index } in proposed {
        if let Some(entry) = cluster.invariants.applied_at(index) {
            assert!(entry.term() != term || entry.payload().len() == 8);
        }
    }
    assert_ne!(cluster.raft(leader).term(), Term(0));
    committed.0
}

#[test]
fn no_schedule_breaks_an_invariant_and_health_brings_the_group_together() {
    let seeds = match std::env::var("PONTOON_RAFT_SEEDS") {
        Ok(seeds) => seeds
            .parse()
            .expect("PONTOON_RAFT_SEEDS is a number of seeds"),
        Err(_) => 300,
    };
    let mut committed = 0;
    for seed in 1..=seeds {
        let outcome = std::panic::catch_unwind(|| run(seed, 1500));
        match outcome {
            Ok(count) => committed += count,
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    // The weather must not be so bad that nothing is tested.
    assert!(
        index(committed) > index(seeds * 5),
        "only {committed} entries"
    );
}
