//! The second phase: nothing fails any more, and the cluster must come to rest, working and of one mind.

use super::World;
use crate::invariants::{Checked, Invariant, Violation};
use pontoon_engine::{GroupStatus, RoleName};
use pontoon_types::NodeId;
use std::time::Duration;

/// How long it may take. Restarts, elections and everything that had piled up need a few seconds.
const BOUND: Duration = Duration::from_secs(40);
const LOOK_EVERY: Duration = Duration::from_millis(250);

impl World {
    /// Heals everything, and demands that every group serves a write and reads, and that its replicas
    /// end equal.
    pub(super) fn heal_and_converge(&mut self) -> Checked {
        self.trace.line(self.now, || "everything heals");
        self.end_faults();
        self.plan_probes();
        let end = self.now + BOUND;
        loop {
            self.run_until(self.now + LOOK_EVERY)?;
            let calling = !self.probes.is_empty() || self.clients.iter().any(|c| !c.is_idle());
            let why = if calling {
                Some("clients still wait for answers".to_owned())
            } else {
                self.difference()
            };
            match why {
                None => break,
                Some(_) if self.now < end => {}
                Some(why) => {
                    let what = format!("{BOUND:?} after everything healed: {why}");
                    return Err(Violation::new(Invariant::Convergence, what));
                }
            }
        }
        self.check_states()?;
        for (group, members) in self.observer.members.iter() {
            for node in members.nodes() {
                let applied = self.observer.once.last(node, group);
                self.observer.acknowledged.survived(group, applied)?;
            }
        }
        Ok(())
    }

    fn status_of(&self, node: NodeId) -> Vec<GroupStatus> {
        let process = self.nodes[node.0 as usize - 1].process.as_ref();
        process.map(|process| process.status()).unwrap_or_default()
    }

    /// In what the replicas of some group differ, if they do.
    fn difference(&self) -> Option<String> {
        let all: Vec<_> = self
            .nodes
            .iter()
            .map(|node| self.status_of(node.id))
            .collect();
        for (group, members) in self.observer.members.iter() {
            if members.latest().is_joint() {
                return Some(format!("group {group} is between two configurations"));
            }
            let of_group = members.latest().members().into_iter().map(|replica| {
                let node = members.node_of(replica)?;
                let mut statuses = all[node.0 as usize - 1].iter();
                statuses.find(|status| {
                    (status.group, status.replica) == (group, replica)
                        && status.role != RoleName::Stopped
                })
            });
            let Some(replicas) = of_group.collect::<Option<Vec<_>>>() else {
                return Some(format!(
                    "group {group} has a replica that does not run: {members:?}"
                ));
            };
            let strays = all.iter().flatten().find(|status| {
                status.group == group && !members.latest().is_member(status.replica)
            });
            if let Some(stray) = strays {
                return Some(format!("a removed replica has not left: {stray:?}"));
            }
            let leaders = replicas
                .iter()
                .filter(|replica| replica.role == RoleName::Leader);
            let end = self.observer.machines.last(group);
            let equal = replicas.iter().all(|replica| {
                replica.applied == end && replica.last == end && replica.term == replicas[0].term
            });
            if leaders.count() != 1 || !equal {
                return Some(format!("group {group} is not of one mind: {replicas:?}"));
            }
        }
        None
    }
}
