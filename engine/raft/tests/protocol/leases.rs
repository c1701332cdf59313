//! Leases under everything that could outlive them: leaders that are cut off or stand still, clocks at the edge of
//! what is stated, answers that take long, restarts, transfers and changes of the members. Reads are asked of
//! everybody who believes to lead, all the time; the harness sees to it that each answer sees all that was
//! acknowledged before (S8).

use crate::harness::{Cluster, Dice, ELECTION, Fate, Kind, Options};
use pontoon_raft::Role;
use pontoon_types::{ConfChange, MemberChange, ReplicaId, Transition};
use std::time::Duration;

const VOTERS: u64 = 3;

/// How many reads were answered under a lease, and how many leaders there were.
#[derive(Clone, Copy, Debug, Default)]
struct Harvest {
    leased: u64,
    elections: u64,
}

/// The disturbances of one seed.
struct Weather {
    dice: Dice,
    /// Who is cut off or stands still at present.
    away: Option<u64>,
    /// How many replicas were ever members.
    used: u64,
}

impl Weather {
    fn some_node(&mut self, cluster: &Cluster) -> u64 {
        let leader = cluster.leader().filter(|_| self.dice.chance(60));
        leader.unwrap_or_else(|| self.dice.below(cluster.nodes.len() as u64) + 1)
    }

    fn strike(&mut self, cluster: &mut Cluster) {
        let id = self.some_node(cluster);
        let is_up = cluster.node(id).raft.is_some();
        match self.dice.below(10) {
            0 | 1 => self.heal(cluster),
            2 => cluster.isolate(id),
            3 => {
                let kind = *[
                    Kind::HeartbeatResponse,
                    Kind::TimeoutNow,
                    Kind::VoteResponse,
                ]
                .get(self.dice.below(3) as usize)
                .unwrap();
                cluster.rule(None, Some(id), Some(kind), Fate::Hold);
            }
            4 => cluster.release(),
            5 if self.away.is_none() => {
                self.away = Some(id);
                cluster.pause(id);
            }
            6 => {
                let (percent, now) = ([95, 95, 100, 105, 105], cluster.now);
                let percent = percent[self.dice.below(5) as usize];
                let node = cluster.nodes.get_mut(&id).unwrap();
                node.clock.set_speed(percent, now);
            }
            7 if is_up && cluster.node(id).paused => {}
            7 if is_up => {
                cluster.crash(id, 0);
                cluster.restart(id);
            }
            8 if is_up => {
                let to = self.dice.below(VOTERS) + 1;
                let _ = cluster.transfer_leadership(id, to);
            }
            9 if is_up && cluster.raft(id).role() == Role::Leader => self.change(cluster, id),
            _ => {}
        }
    }

    /// One member more, or one less, but never fewer than there were.
    fn change(&mut self, cluster: &mut Cluster, id: u64) {
        let conf = cluster.raft(id).conf_state().clone();
        let fresh = ReplicaId(self.used + 1);
        let grows = conf.members().len() as u64 <= VOTERS && fresh.0 <= 6;
        let change = match grows {
            true => MemberChange::AddVoter(fresh),
            false => MemberChange::Remove(conf.members()[0]),
        };
        let change = ConfChange::of([change], Transition::Auto);
        let is_taken = cluster.propose_conf_change(id, &change).is_ok();
        if is_taken && grows {
            self.used += 1;
            cluster.add(fresh.0, options([]));
        }
    }

    fn heal(&mut self, cluster: &mut Cluster) {
        cluster.heal();
        if let Some(id) = self.away.take() {
            cluster.resume(id);
        }
    }
}

fn options(voters: impl IntoIterator<Item = u64>) -> Options {
    Options::voters(voters).pre_vote(true).lease(true)
}

fn run(seed: u64) -> Harvest {
    let mut cluster = Cluster::with(VOTERS, |mut options| {
        options.config.seed = seed;
        options.pre_vote(seed.is_multiple_of(2)).lease(true)
    });
    let mut weather = Weather {
        dice: Dice::new(seed),
        away: None,
        used: VOTERS,
    };
    let mut harvest = Harvest::default();
    let (mut last_term, mut context) = (0, 0);
    for _ in 0..40 {
        weather.strike(&mut cluster);
        let longest = [50, 300, 1200][weather.dice.below(3) as usize];
        // In strides, so that everybody is asked at all sorts of moments.
        for _ in 0..4 {
            // Somebody is eager, and campaigns the moment it may.
            let eager = weather.dice.below(cluster.nodes.len() as u64) + 1;
            let node = cluster.node(eager);
            if node.raft.is_some() && !node.paused && weather.dice.chance(30) {
                cluster.campaign(eager);
            }
            let millis = weather.dice.below(longest);
            cluster.advance(Duration::from_millis(millis));
            for id in cluster.nodes.keys().copied().collect::<Vec<_>>() {
                let node = cluster.node(id);
                let leads = node.raft.as_ref().map(|raft| raft.role() == Role::Leader);
                if node.paused || leads != Some(true) {
                    continue;
                }
                let term = cluster.raft(id).term().0;
                harvest.elections += u64::from(term > last_term);
                last_term = term.max(last_term);
                // The read comes first, so that what this leader writes does not help it.
                harvest.leased += u64::from(cluster.raft(id).holds_lease(cluster.clock(id)));
                context += 1;
                let _ = cluster.read_index(id, context);
                cluster.process(id);
                let _ = cluster.propose(id);
                cluster.settle();
            }
        }
        if weather.away.is_some() && weather.dice.chance(20) {
            weather.heal(&mut cluster);
        }
    }
    weather.heal(&mut cluster);
    cluster.advance(ELECTION * 10);
    assert!(cluster.leader().is_some(), "a leader in a healthy group");
    harvest
}

#[test]
fn no_lease_outlives_what_it_rests_on() {
    let seeds = match std::env::var("PONTOON_RAFT_SEEDS") {
        Ok(seeds) => seeds
            .parse()
            .expect("PONTOON_RAFT_SEEDS is a number of seeds"),
        Err(_) => 100,
    };
    let mut harvest = Harvest::default();
    for seed in 1..=seeds {
        match std::panic::catch_unwind(|| run(seed)) {
            Ok(one) => {
                harvest.leased += one.leased;
                harvest.elections += one.elections;
            }
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(
        harvest.leased > seeds * 10 && harvest.elections > seeds * 3,
        "too little: {harvest:?}"
    );
}
