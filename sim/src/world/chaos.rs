//! Injects the faults that a world has, one after the other.

use super::process::{Asker, worker_of};
use super::{Event, Healing, World};
use crate::faults::Fault;
use crate::invariants::Checked;
use crate::random::Dice;
use pontoon_engine::worker::{Input, MemberStep};
use pontoon_types::{GroupId, NodeId};
use pontoon_wal::Directory;
use std::time::Duration;

/// How long a partition lasts, in microseconds.
const PARTITION_MICROS: (u64, u64) = (50_000, 5_000_000);
/// A log with less room than this fills up when a replica of its groups is out for good.
const ROOM_FOR_THE_DAMAGED: u64 = 8 << 20;
/// How long a disk stays full, in microseconds.
const FULL_MICROS: (u64, u64) = (100_000, 5_000_000);
/// How long a process is suspended, in microseconds.
const PAUSE_MICROS: (u64, u64) = (20_000, 4_000_000);
/// How long a process stays away, in microseconds.
const ABSENCE_MICROS: (u64, u64) = (5_000_000, 40_000_000);
/// How long a sync hangs, in microseconds.
const HANG_MICROS: (u64, u64) = (3_000_000, 20_000_000);
/// How long a shutdown takes, in microseconds.
const SHUTDOWN_MICROS: (u64, u64) = (1_000, 2_000_000);

impl World {
    /// Injects a fault and plans the next.
    pub(super) fn fault(&mut self) -> Checked {
        if self.healed {
            return Ok(());
        }
        let gap = self.dice.around(self.profile.fault_gap);
        self.plan(gap, Event::Fault);
        let Some(fault) = self.profile.draw_fault(&mut self.dice) else {
            return Ok(());
        };
        let count = self.nodes.len() as u64;
        let at = self.dice.below(count) as usize;
        self.trace.event(self.now, 30, &[fault as u64, at as u64]);
        self.trace
            .line(self.now, || format!("FAULT {} (n{})", fault.name(), at + 1));
        let is_up = self.nodes[at].process.is_some();
        // Counted when it strikes, where it may miss.
        let counted = match fault {
            Fault::TornWrite | Fault::FailedSync | Fault::HungSync | Fault::HostileBytes => false,
            Fault::FlippedBit => self.flip_bit(at),
            Fault::Kill
            | Fault::Absence
            | Fault::Stop
            | Fault::PowerLoss
            | Fault::Pause
            | Fault::Transfer
            | Fault::Members
            | Fault::Astray
            | Fault::Flood => is_up,
            Fault::Partition | Fault::OneWay | Fault::StaleNews | Fault::Disconnect => count > 1,
            _ => true,
        };
        if counted {
            self.faults.count(fault);
        }
        match fault {
            Fault::Partition => self.partition(),
            Fault::OneWay if count > 1 => {
                let to = (at + 1 + self.dice.below(count - 1) as usize) % count as usize;
                self.network.cut(at, to);
                self.plan_network_healing();
            }
            Fault::StaleNews => {
                let by = self.dice.micros((500_000, 3_000_000));
                self.network.slow_down(at, by);
                if self.dice.flip() {
                    let after = self.dice.micros((0, 3_000_000));
                    let what = Healing::CutOutgoing { node: at };
                    self.plan(after, Event::Heal { what });
                }
                self.plan_network_healing();
            }
            Fault::Disconnect if count > 1 => {
                let peer = (at + 1 + self.dice.below(count - 1) as usize) % count as usize;
                for (node, peer) in [(at, peer), (peer, at)] {
                    let after = self.dice.micros((0, 50_000));
                    self.plan(after, Event::PeerLost { node, peer });
                }
            }
            Fault::Kill => self.end_process(at, false)?,
            Fault::Absence => {
                self.nodes[at].stays_down_until = self.now + self.dice.micros(ABSENCE_MICROS);
                self.end_process(at, false)?;
            }
            Fault::PowerLoss => self.end_process(at, true)?,
            Fault::Blackout => {
                for at in 0..self.nodes.len() {
                    if self.nodes[at].process.is_some() {
                        self.end_process(at, true)?;
                    } else {
                        let seed = self.dice.roll();
                        self.nodes[at].lose_power(seed);
                    }
                }
            }
            Fault::Stop if is_up => {
                self.tell_stop(at);
                let (life, after) = (self.nodes[at].life, self.dice.micros(SHUTDOWN_MICROS));
                let what = Healing::Shutdown { node: at, life };
                self.plan(after, Event::Heal { what });
            }
            Fault::Transfer => self.transfer_leaderships(at),
            Fault::Members => self.change_members(),
            Fault::HungSync => {
                self.nodes[at].next_sync_hangs = Some(self.dice.micros(HANG_MICROS));
            }
            Fault::HostileBytes => self.send_hostile_bytes(at)?,
            Fault::Astray => self.send_astray(at),
            Fault::Flood => self.flood(at),
            Fault::TornWrite => {
                let operations = self.dice.below(40);
                self.nodes[at].cut_power_after(operations);
            }
            Fault::FailedSync => {
                let successes = self.dice.below(10);
                self.nodes[at].fail_sync_after(successes);
            }
            Fault::FullDisk => {
                self.nodes[at].disk.limit(Some(0));
                self.nodes[at].disk_is_full = true;
                let after = self.dice.micros(FULL_MICROS);
                let what = Healing::Disk { node: at };
                self.plan(after, Event::Heal { what });
            }
            Fault::Pause => {
                let until = self.now + self.dice.micros(PAUSE_MICROS);
                self.nodes[at].paused_until = until;
            }
            _ => {}
        }
        Ok(())
    }

    /// Flips a bit of a node's log, below its durable mark; it may be one that nothing needs. Only ever one
    /// node of a cluster has that, since nothing rebuilds its replicas yet; and only where there is room for
    /// the log of those who wait for them. Returns whether it was done.
    fn flip_bit(&mut self, at: usize) -> bool {
        let others = self.nodes.iter().enumerate();
        let is_second = others
            .filter(|(other, _)| *other != at)
            .any(|(_, node)| node.is_damaged);
        let wal = &self.config.wal;
        // A group that has changed may be down to what it cannot lose.
        if self.members_asked
            || is_second
            || self.nodes.len() < 3
            || wal.max_bytes < ROOM_FOR_THE_DAMAGED
        {
            return false;
        }
        let node = &mut self.nodes[at];
        let (generation, end) = (node.marked.generation(), node.marked.offset() as usize);
        let names = node.disk.list().unwrap_or_default();
        let segments: Vec<(String, usize)> = names
            .into_iter()
            .filter_map(|name| {
                let of: u32 = name.strip_suffix(".seg")?.parse().ok()?;
                let bytes = node.disk.contents(&name)?.len();
                let below = if of == generation { end } else { bytes };
                (of <= generation && below > 0).then_some((name, below))
            })
            .collect();
        if segments.is_empty() {
            return false;
        }
        for _ in 0..self.dice.between(1, 12) {
            // Half of them where readers are likely to come by.
            let newest = segments.iter().max().filter(|_| self.dice.flip());
            let (name, below) = newest.unwrap_or_else(|| self.dice.pick(&segments));
            let offset = self.dice.below(*below as u64) as usize;
            let bit = 1 << self.dice.below(8);
            node.is_damaged |= node.disk.flip(name, offset, bit);
            let id = node.id;
            self.trace.line(self.now, || {
                format!("n{id}: a bit of {name} flips at {offset}")
            });
        }
        node.is_damaged
    }

    /// Asks a node to hand what it leads over to others, a group here and there.
    fn transfer_leaderships(&mut self, at: usize) {
        let groups: Vec<GroupId> = self.map.shards().map(|shard| shard.group).collect();
        for group in groups {
            let to = self.nodes[self.dice.below(self.nodes.len() as u64) as usize].id;
            if self.dice.flip() {
                let input = Input::TransferLeadership { group, to };
                self.tell(at, worker_of(group), input);
            }
        }
    }

    /// Asks for a change of some group's members, of whoever may lead it. A group keeps the replicas that it needs to
    /// heal from damage, if there is some: then only those of the damaged node go and come.
    fn change_members(&mut self) {
        let groups: Vec<GroupId> = self.map.shards().map(|shard| shard.group).collect();
        let group = *self.dice.pick(&groups);
        let damaged = self.nodes.iter().find(|node| node.is_damaged);
        let damaged = damaged.map(|node| node.id);
        self.members_asked |= damaged.is_none();
        let count = self.nodes.len() as u64;
        let node = |dice: &mut Dice| NodeId(1 + dice.below(count));
        let one = node(&mut self.dice);
        let other = node(&mut self.dice);
        let steps = match self.dice.below(7) {
            kind if let Some(damaged) = damaged => vec![match kind {
                0..4 => MemberStep::Remove(damaged),
                _ => MemberStep::AddLearner(damaged),
            }],
            0 => vec![MemberStep::AddLearner(one)],
            1 | 2 => vec![MemberStep::AddVoter(one)],
            3 => vec![MemberStep::Demote(one)],
            4 => vec![MemberStep::Remove(one)],
            5 => vec![MemberStep::AddVoter(one), MemberStep::Remove(other)],
            _ => vec![MemberStep::AddVoter(one), MemberStep::Demote(other)],
        };
        let leader = self.observer.recent_leaders(group).first().copied();
        let at = leader.unwrap_or(one).0 as usize - 1;
        self.trace.line(self.now, || format!("g{group}: {steps:?}"));
        if let Some(process) = &self.nodes[at].process {
            let waiter = process.waiter(Asker::Members);
            let input = Input::ChangeMembers {
                group,
                steps,
                waiter,
            };
            self.tell(at, worker_of(group), input);
        }
    }

    /// Cuts some nodes off from the others.
    fn partition(&mut self) {
        let count = self.nodes.len();
        let side: Vec<bool> = (0..count).map(|_| self.dice.flip()).collect();
        for (from, left) in side.iter().enumerate() {
            for (to, right) in side.iter().enumerate() {
                if left != right {
                    self.network.cut(from, to);
                    if self.dice.flip() {
                        let after = self.dice.micros((10_000, 1_000_000));
                        let (node, peer) = (from, to);
                        self.plan(after, Event::PeerLost { node, peer });
                    }
                }
            }
        }
        self.plan_network_healing();
    }

    fn plan_network_healing(&mut self) {
        let after = self.dice.micros(PARTITION_MICROS);
        let what = Healing::Network;
        self.plan(after, Event::Heal { what });
    }

    /// Something that had failed for a while works again.
    pub(super) fn heal(&mut self, what: &Healing) -> Checked {
        match *what {
            Healing::Network => {
                self.network.heal();
                self.trace.line(self.now, || "the network is whole");
            }
            Healing::CutOutgoing { node } if !self.healed => {
                for to in (0..self.nodes.len()).filter(|to| *to != node) {
                    self.network.cut(node, to);
                }
                self.trace.line(self.now, || {
                    format!("nothing that n{} says arrives", node + 1)
                });
                self.plan_network_healing();
            }
            Healing::CutOutgoing { .. } => {}
            Healing::Disk { node } => {
                self.nodes[node].disk.limit(None);
                self.nodes[node].disk_is_full = false;
                self.trace
                    .line(self.now, || format!("n{} has room again", node + 1));
            }
            Healing::Shutdown { node, life } => {
                if self.nodes[node].life == life {
                    return self.close(node);
                }
            }
        }
        Ok(())
    }

    /// From now on nothing fails any more.
    pub(super) fn end_faults(&mut self) {
        self.healed = true;
        self.network.heal_for_good();
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            node.disk.limit(None);
            node.disk_is_full = false;
            node.paused_until = self.now;
            node.next_sync_hangs = None;
            node.stays_down_until = self.now;
            // Far beyond anything that will happen.
            node.cut_power_after(u64::MAX / 2);
            node.fail_sync_after(u64::MAX / 2);
            self.plan(Duration::ZERO, Event::Start { node: at });
        }
    }
}
