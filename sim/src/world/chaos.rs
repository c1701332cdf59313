//! Injects the faults that a world has, one after the other.

use super::{Event, Healing, World};
use crate::faults::Fault;
use crate::invariants::Checked;
use std::time::Duration;

/// How long a partition lasts, in microseconds.
const PARTITION_MICROS: (u64, u64) = (50_000, 5_000_000);
/// How long a disk stays full, in microseconds.
const FULL_MICROS: (u64, u64) = (100_000, 5_000_000);
/// How long a process is suspended, in microseconds.
const PAUSE_MICROS: (u64, u64) = (20_000, 4_000_000);
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
            Fault::TornWrite | Fault::FailedSync => false,
            Fault::Kill | Fault::Stop | Fault::PowerLoss | Fault::Pause => is_up,
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
            // Far beyond anything that will happen.
            node.cut_power_after(u64::MAX / 2);
            node.fail_sync_after(u64::MAX / 2);
            self.plan(Duration::ZERO, Event::Start { node: at });
        }
    }
}
