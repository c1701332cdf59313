//! The one source of chance: a small generator that gives the same numbers for ever.

use std::time::Duration;

/// A seeded generator (SplitMix64; Steele, Lea, Flood 2014). A seed in a bug report must mean the same run
/// after any update of any dependency, so this is not a library's generator.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The generator of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `sides`, which must not be zero.
    pub const fn below(&mut self, sides: u64) -> u64 {
        self.roll() % sides
    }

    /// A number from `low` to `high`, both included.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True about `per_million` times in a million.
    pub const fn chance(&mut self, per_million: u32) -> bool {
        self.below(1_000_000) < per_million as u64
    }

    /// One of two.
    pub const fn flip(&mut self) -> bool {
        self.roll() & 1 == 1
    }

    /// A time from `low` to `high` microseconds.
    pub const fn micros(&mut self, (low, high): (u64, u64)) -> Duration {
        Duration::from_nanos(self.between(low * 1000, high * 1000))
    }

    /// A time around `mean`, between a tenth of it and nearly twice.
    pub const fn around(&mut self, mean: Duration) -> Duration {
        let nanos = mean.as_nanos() as u64;
        Duration::from_nanos(self.between(nanos / 10, nanos * 19 / 10 + 1))
    }

    /// An element of a list that is not empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }
}
