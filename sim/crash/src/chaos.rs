//! Who is killed or suspended when.

use pontoon_sim::Dice;
use pontoon_types::NodeId;
use std::time::Duration;

/// Of a million disturbances so many are pauses, and of as many deaths so many are those of two nodes, and
/// of all.
const PAUSES: u32 = 200_000;
const OF_TWO: u32 = 120_000;
const OF_ALL: u32 = 180_000;
/// So many of those that were started again are killed once more, in the middle of their recovery.
const DIE_AGAIN: u32 = 200_000;

/// Something that is done to nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Disturbance {
    /// One stands still for a while.
    Pause(NodeId, Duration),
    /// Some die, one after the other, and come back.
    Deaths(Vec<Death>),
}

/// A node dies and comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Death {
    pub(crate) node: NodeId,
    /// After the one before.
    pub(crate) later: Duration,
    /// From then until it is started again.
    pub(crate) away: Duration,
    /// How long after that it is killed again, if it is, and then started at once.
    pub(crate) again: Option<Duration>,
}

/// Draws disturbances from a seed.
pub(crate) struct Chaos {
    dice: Dice,
    nodes: Vec<NodeId>,
}

impl Chaos {
    pub(crate) fn new(seed: u64, nodes: Vec<NodeId>) -> Self {
        let dice = Dice::new(seed);
        Self { dice, nodes }
    }

    /// How long to let the clients work before the next disturbance.
    pub(crate) fn calm(&mut self) -> Duration {
        self.dice.micros((0, 500_000))
    }

    /// The next disturbance, with at most so many kills.
    pub(crate) fn draw(&mut self, kills: u64) -> Disturbance {
        if self.dice.chance(PAUSES) {
            let node = *self.dice.pick(&self.nodes);
            return Disturbance::Pause(node, self.dice.micros((20_000, 2_500_000)));
        }
        let sort = self.dice.below(1_000_000) as u32;
        let victims = match sort {
            _ if sort < OF_TWO => 2,
            _ if sort < OF_TWO + OF_ALL => self.nodes.len(),
            _ => 1,
        };
        let mut left = self.nodes.clone();
        let mut budget = kills;
        let mut deaths = Vec::new();
        while deaths.len() < victims && budget > 0 && !left.is_empty() {
            let node = left.swap_remove(self.dice.below(left.len() as u64) as usize);
            budget -= 1;
            let dies_again = budget > 0 && self.dice.chance(DIE_AGAIN);
            budget -= u64::from(dies_again);
            deaths.push(Death {
                node,
                later: self.dice.micros((0, 20_000)),
                away: self.dice.micros((0, 1_000_000)),
                again: dies_again.then(|| self.dice.micros((0, 400_000))),
            });
        }
        Disturbance::Deaths(deaths)
    }
}

impl Disturbance {
    /// How many processes are killed by it.
    pub(crate) fn kills(&self) -> u64 {
        match self {
            Self::Pause(..) => 0,
            Self::Deaths(deaths) => {
                let again = deaths.iter().filter(|death| death.again.is_some());
                (deaths.len() + again.count()) as u64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> Vec<NodeId> {
        (1..=3).map(NodeId).collect()
    }

    #[test]
    fn a_seed_decides_and_all_kinds_come_up() {
        let draw = |seed| {
            let mut chaos = Chaos::new(seed, nodes());
            (0..200).map(|_| chaos.draw(100)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let victims = |count| {
            draw(1).iter().any(|one| match one {
                Disturbance::Deaths(deaths) => deaths.len() == count,
                Disturbance::Pause(..) => false,
            })
        };
        assert!(victims(1) && victims(2) && victims(3));
        assert!(draw(1).iter().any(|one| one.kills() == 0));
    }

    #[test]
    fn no_more_are_killed_than_may_be_and_none_twice_at_once() {
        for seed in 0..200 {
            let mut chaos = Chaos::new(seed, nodes());
            for kills in 1..5 {
                let drawn = chaos.draw(kills);
                assert!(drawn.kills() <= kills, "{drawn:?}");
                if let Disturbance::Deaths(deaths) = drawn {
                    let mut nodes: Vec<_> = deaths.iter().map(|death| death.node).collect();
                    nodes.sort_unstable();
                    nodes.dedup();
                    assert_eq!(nodes.len(), deaths.len());
                }
            }
        }
    }
}
