//! Random schedules: everything that a network, a disk and a power supply can do, in an order that a seed
//! decides, and then health, in which the group must come together again.

use crate::harness::{Cluster, Dice, ELECTION, Fate, Options};
use pontoon_raft::Role;
use pontoon_types::{
    ConfChange, ConfState, LogIndex, LogPosition, MemberChange, ReplicaId, Term, Transition,
};
use std::collections::BTreeSet;
use std::time::Duration;

/// Replicas that a run may have, those included that have been removed.
const MAX_REPLICAS: u64 = 9;

/// What a run was good for.
#[derive(Clone, Copy, Debug, Default)]
struct Harvest {
    committed: u64,
    changes: u64,
    snapshots: u64,
    /// Transfers that were begun, and after which the transferee led before the healing.
    transfers: u64,
    transferred: u64,
    /// Reads asked of a leader that held a lease.
    leased: u64,
    /// Reads that followers have forwarded and that were answered.
    forwarded: u64,
}

/// A change that a leader with these members might be asked for. Ids are used once: who was ever to be
/// added and is no member is never added again.
fn some_change(dice: &mut Dice, conf: &ConfState, used: &BTreeSet<ReplicaId>) -> ConfChange {
    if conf.is_joint() && dice.chance(60) {
        return ConfChange::leave();
    }
    let members = conf.members();
    let fresh = ReplicaId(used.len() as u64 + 1);
    let count = [1, 1, 1, 2, 3][dice.below(5) as usize];
    let transition = [
        Transition::Auto,
        Transition::JointAutoLeave,
        Transition::JointExplicit,
    ][dice.below(3) as usize];
    let changes = (0..count).map(|at| {
        let known = members[dice.below(members.len() as u64) as usize];
        let can_grow = at == 0 && fresh.0 <= MAX_REPLICAS;
        match dice.below(6) {
            0 | 1 if can_grow => MemberChange::AddVoter(fresh),
            2 if can_grow => MemberChange::AddLearner(fresh),
            0..=2 => MemberChange::AddVoter(known),
            3 => MemberChange::AddLearner(known),
            _ => MemberChange::Remove(known),
        }
    });
    ConfChange::of(changes, transition)
}

fn run(seed: u64, steps: usize) -> Harvest {
    let mut dice = Dice::new(seed);
    let voters = [1, 3, 3, 3, 5][dice.below(5) as usize];
    let (pre_vote, check_quorum, lease) = (dice.chance(50), dice.chance(50), dice.chance(50));
    let (max_append, max_cached) = (dice.below(400) + 1, dice.below(400));
    let options = |conf_state: ConfState| {
        let mut options = Options::members(conf_state)
            .pre_vote(pre_vote)
            .check_quorum(check_quorum)
            .lease(lease);
        options.config.seed = seed;
        options.config.max_inflight_appends = 4;
        options.config.max_inflight_bytes = 500;
        options.config.max_append_bytes = max_append as usize;
        options.config.max_cached_bytes = max_cached as usize;
        options.config.max_uncommitted_bytes = 2000;
        options.config.max_apply_bytes = 200;
        options
    };
    let first_voters = ConfState::of_voters((1..=voters).map(ReplicaId));
    let mut cluster = Cluster::with(voters, |_| options(first_voters.clone()));
    let mut used: BTreeSet<ReplicaId> = (1..=voters).map(ReplicaId).collect();
    // A swarm: each seed has its own weather.
    let weather: Vec<u64> = (0..12).map(|_| dice.below(4)).collect();
    let (drops, repeats, crashes, cuts, slow_disk, hastes) = (
        weather[0] * 5,
        weather[1] * 5,
        weather[2],
        weather[3],
        weather[4] * 20,
        weather[5],
    );
    let (changes, compactions, slow_machine) = (weather[6] * 33, weather[7] * 15, weather[8] * 20);
    let (transfers, pauses, drifts) = (weather[9] * 33, weather[10] * 10, weather[11] > 1);
    let longest_pause = [60, 200, 600][dice.below(3) as usize];
    let mut harvest = Harvest::default();
    let mut proposed: Vec<LogPosition> = Vec::new();
    let mut wanted = None;
    for context in 0..steps as u64 {
        let id = dice.below(cluster.nodes.len() as u64) + 1;
        if drifts && dice.chance(2) {
            // Of any two clocks, one loses at most 10 % on the other.
            let (percent, now) = (dice.below(11) + 95, cluster.now);
            let node = cluster.nodes.get_mut(&id).unwrap();
            node.clock.set_speed(percent, now);
        }
        if dice.chance(pauses) {
            match cluster.node(id).paused {
                true => cluster.resume(id),
                false if dice.chance(20) => cluster.pause(id),
                false => {}
            }
        }
        let is_down = cluster.node(id).raft.is_none();
        let is_up = !is_down && !cluster.node(id).paused;
        match dice.below(14) {
            0..=3 if !cluster.network.is_empty() => {
                let far = if dice.chance(30) { 100 } else { 1 };
                let at = dice.below(far.min(cluster.network.len() as u64)) as usize;
                if dice.chance(repeats) {
                    let again = cluster.network[at].clone();
                    cluster.network.push(again);
                }
                if dice.chance(drops) {
                    cluster.lose(at);
                } else {
                    cluster.deliver(at);
                }
            }
            0..=6 if is_up => {
                let held = dice.chance(slow_disk);
                let node = cluster.nodes.get_mut(&id).unwrap();
                node.disk_held = held;
                node.apply_held = dice.chance(slow_machine);
                node.snapshots_held = dice.chance(30);
                cluster.process(id);
                if held && dice.chance(50) {
                    cluster.make_durable(id, 1);
                }
            }
            7 if is_up => {
                if let Ok(position) = cluster.propose(id) {
                    proposed.push(position);
                }
                harvest.leased += u64::from(cluster.raft(id).holds_lease(cluster.clock(id)));
                let _ = match dice.chance(50) {
                    true => cluster.read_index(id, context),
                    false => cluster.forward_read_index(id, context),
                };
            }
            8 => {
                cluster.now = cluster.now + Duration::from_millis(dice.below(longest_pause));
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
            9 if is_down => cluster.restart(id),
            10 | 11 if is_up && dice.chance(changes) && cluster.raft(id).role() == Role::Leader => {
                let conf = cluster.raft(id).conf_state();
                let change = some_change(&mut dice, conf, &used);
                if cluster.propose_conf_change(id, &change).is_ok() {
                    harvest.changes += 1;
                    for one in change.changes {
                        let replica = one.replica();
                        if used.insert(replica) {
                            cluster.add(replica.0, options(ConfState::default()));
                        }
                    }
                }
            }
            11 if is_up && dice.chance(compactions) => {
                let applied = cluster.raft(id).applied().0;
                let up_to = match dice.chance(50) {
                    true => cluster.raft(id).compactable(dice.below(10)),
                    false => LogIndex(dice.below(applied + 1)),
                };
                cluster.compact(id, up_to);
                cluster.take_snapshots(id);
            }
            12 if is_up && dice.chance(transfers) => {
                let to = dice.below(cluster.nodes.len() as u64) + 1;
                if cluster.transfer_leadership(id, to).is_ok() {
                    harvest.transfers += 1;
                    wanted = Some(to);
                }
            }
            13 if is_up => {
                let leads = cluster.raft(id).role() == Role::Leader;
                harvest.transferred += u64::from(leads && wanted == Some(id));
                wanted = wanted.filter(|to| !leads || *to != id);
            }
            _ => {}
        }
    }
    harvest.forwarded = cluster.forwarded;
    harvest.committed = cluster.invariants.max_committed().0;
    harvest.snapshots = cluster.installed;
    // Health.
    cluster.heal();
    for id in cluster.nodes.keys().copied().collect::<Vec<_>>() {
        cluster.resume(id);
        if cluster.node(id).raft.is_none() {
            cluster.restart(id);
        }
        let node = cluster.nodes.get_mut(&id).unwrap();
        (node.disk_held, node.apply_held, node.snapshots_held) = (false, false, false);
        cluster.take_snapshots(id);
    }
    let mut leader = come_together(&mut cluster);
    let conf = cluster.raft(leader).conf_state().clone();
    let other = conf
        .members()
        .into_iter()
        .find(|id| id.0 != leader && conf.is_voter(*id));
    if let Some(other) = other {
        cluster.transfer_leadership(leader, other.0).unwrap();
        cluster.settle();
        leader = other.0;
        assert_eq!(cluster.raft(leader).role(), Role::Leader, "a transfer");
    }
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
    for node in cluster.nodes.values().filter(|node| node.raft.is_some()) {
        let raft = node.raft();
        assert!(
            raft.term_at(written.index) == Some(written.term),
            "lost a write"
        );
        assert_eq!(raft.applied(), raft.last_position().index);
        assert_eq!(raft.uncommitted_bytes(), 0);
        assert_eq!(raft.matched_by_all(), raft.commit());
        assert_eq!(raft.conf_state(), cluster.raft(leader).conf_state());
        for (at, term) in cluster.invariants.committed() {
            let held = node.memory.state[at.0 as usize - 1].term();
            assert_eq!(held, term, "{} lost {at}", node.id);
        }
    }
    // A proposal whose position was applied is the entry that was applied there.
    for LogPosition { term, index } in proposed {
        if let Some(entry) = cluster.invariants.applied_at(index) {
            assert!(entry.term() != term || entry.payload().len() == 8);
        }
    }
    assert_ne!(cluster.raft(leader).term(), Term(0));
    harvest
}

/// Lets the group settle its members, and then switches off who is none: without `pre_vote` and
/// `check_quorum` a replica that has not heard of its removal would disturb it for ever.
fn come_together(cluster: &mut Cluster) -> u64 {
    let is_settled = |cluster: &mut Cluster| {
        cluster.advance(ELECTION * 3);
        let leader = cluster.leader()?;
        let raft = cluster.raft(leader);
        let last = raft.last_position().index;
        let conf = raft.conf_state();
        let knows = |id: &ReplicaId| {
            let member = cluster.raft(id.0);
            member.applied() == last && member.conf_state() == conf
        };
        let settled = raft.applied() == last && !(conf.is_joint() && conf.auto_leave);
        (settled && conf.members().iter().all(knows)).then_some(leader)
    };
    let leader = (0..30).find_map(|_| is_settled(cluster));
    let leader = leader.expect("a leader that everybody follows in a healthy group");
    let conf = cluster.raft(leader).conf_state().clone();
    let ids: Vec<u64> = cluster.nodes.keys().copied().collect();
    for id in ids.into_iter().filter(|id| !conf.is_member(ReplicaId(*id))) {
        cluster.crash(id, 0);
    }
    (0..30)
        .find_map(|_| is_settled(cluster))
        .expect("a leader among the members")
}

#[test]
fn no_schedule_breaks_an_invariant_and_health_brings_the_group_together() {
    let seeds = match std::env::var("PONTOON_RAFT_SEEDS") {
        Ok(seeds) => seeds
            .parse()
            .expect("PONTOON_RAFT_SEEDS is a number of seeds"),
        Err(_) => 300,
    };
    let mut harvest = Harvest::default();
    for seed in 1..=seeds {
        let outcome = std::panic::catch_unwind(|| run(seed, 1800));
        match outcome {
            Ok(one) => {
                harvest.committed += one.committed;
                harvest.changes += one.changes;
                harvest.snapshots += one.snapshots;
                harvest.transfers += one.transfers;
                harvest.transferred += one.transferred;
                harvest.leased += one.leased;
                harvest.forwarded += one.forwarded;
            }
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    // The weather must not be so bad that nothing is tested.
    let Harvest {
        committed,
        changes,
        snapshots,
        transfers,
        transferred,
        leased,
        forwarded,
    } = harvest;
    eprintln!("{harvest:?}");
    assert!(
        committed > seeds * 5 && changes > seeds && snapshots > seeds / 10,
        "too little: {harvest:?}"
    );
    assert!(
        transfers > seeds && transferred > seeds / 20 && leased > seeds && forwarded > seeds,
        "too little: {harvest:?}"
    );
}
