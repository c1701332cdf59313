//! The randomness of election timeouts: small, seeded and ours, so that one seed replays a run.

use core::time::Duration;

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014): one word
/// of state, every seed good. Spreading timeouts asks for nothing stronger.
#[derive(Clone, Debug)]
pub(crate) struct Rng {
    state: u64,
}

impl Rng {
    /// A stream of its own for each (seed, group, replica).
    pub(crate) fn new(seed: u64, group: u64, id: u64) -> Self {
        let mut rng = Self { state: seed };
        for salt in [group, id] {
            rng.state = rng.next_u64() ^ salt;
        }
        rng
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A duration in `[0, bound)`.
    pub(crate) fn below(&mut self, bound: Duration) -> Duration {
        let bound = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        // The high half of a 128-bit product maps a word evenly onto the range, without division.
        let nanos = (u128::from(self.next_u64()) * u128::from(bound)) >> 64;
        Duration::from_nanos(nanos as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_with_one_seed_draw_different_timeouts_within_the_bound() {
        let bound = Duration::from_millis(100);
        let mut streams = [(1, 1), (1, 2), (2, 1)].map(|(group, id)| Rng::new(7, group, id));
        for _ in 0..1000 {
            let drawn = streams.each_mut().map(|rng| rng.below(bound));
            assert!(drawn.iter().all(|d| *d < bound));
            assert!(drawn[0] != drawn[1] && drawn[0] != drawn[2] && drawn[1] != drawn[2]);
        }
    }
}
