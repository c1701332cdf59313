//! The network: who reaches whom, and when what was sent arrives.

use crate::faults::{Fault, FaultCounts};
use crate::profile::Profile;
use crate::random::Dice;
use pontoon_engine::frame::Lane;
use pontoon_types::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a frame that is held up takes at most, in microseconds.
const LONGEST_HOLD_MICROS: u64 = 3_000_000;

/// An ordered stream: from node, to node, worker, lane.
pub type Stream = (usize, usize, usize, Lane);

/// The links between nodes, by their places in the cluster. Clients reach every node that is up; their
/// messages only take time or are lost.
#[derive(Debug, Default)]
pub struct Network {
    /// Directions in which nothing arrives.
    cut: BTreeSet<(usize, usize)>,
    /// Nodes to which everything takes so much longer.
    slow: BTreeMap<usize, Duration>,
    /// When the last frame of each ordered stream arrives.
    last_arrival: BTreeMap<Stream, Instant>,
    healed: bool,
}

impl Network {
    /// Cuts one direction.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Lets everything that is sent to a node take longer.
    pub fn slow_down(&mut self, to: usize, by: Duration) {
        self.slow.insert(to, by);
    }

    /// Makes all directions whole.
    pub fn heal(&mut self) {
        self.slow.clear();
        self.cut.clear();
    }

    /// From now on nothing is lost, repeated or held up.
    pub fn heal_for_good(&mut self) {
        self.heal();
        self.healed = true;
    }

    /// Whether anything is cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        !self.cut.is_empty()
    }

    /// Whether frames of one node reach another.
    #[must_use]
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(from, to))
    }

    /// When a frame arrives that is sent now: never, once or twice. The first copy keeps its stream's order.
    pub fn send(
        &mut self,
        stream: Stream,
        now: Instant,
        profile: &Profile,
        dice: &mut Dice,
        counts: &mut FaultCounts,
    ) -> Vec<Instant> {
        if !self.reaches(stream.0, stream.1) {
            return Vec::new();
        }
        if !self.healed && dice.chance(profile.drop_chance) {
            counts.count(Fault::Drop);
            return Vec::new();
        }
        let mut delay = dice.micros(profile.delay_micros);
        if !self.healed && dice.chance(profile.slow_chance) {
            counts.count(Fault::Delay);
            delay += dice.micros((1_000, LONGEST_HOLD_MICROS));
        }
        delay += self.slow.get(&stream.1).copied().unwrap_or_default();
        let last = self.last_arrival.entry(stream).or_default();
        *last = (now + delay).max(*last + Duration::from_nanos(1));
        let mut arrivals = vec![*last];
        if !self.healed && dice.chance(profile.duplicate_chance) {
            counts.count(Fault::Duplicate);
            let most = dice.between(1_000, LONGEST_HOLD_MICROS);
            arrivals.push(now + dice.micros((1, most)));
        }
        arrivals
    }
}
