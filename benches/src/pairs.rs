//! What a floor and the part above it took, measured in turns.

use std::time::{Duration, Instant};

/// Pairs of times for the same work, each pair taken within a moment.
///
/// Machine and disk change their pace from second to second. Both halves of a pair meet the same
/// pace, so the median of the pairs' ratios holds where a ratio of two averages would not.
#[derive(Clone, Debug, Default)]
pub struct Pairs {
    ratios: Vec<f64>,
}

/// The sums of some pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// What the floor took.
    pub floor: Duration,
    /// What the part took.
    pub part: Duration,
}

impl Pairs {
    /// Times the floor, then the part, and adds both to `sums`.
    pub fn measure(&mut self, sums: &mut Sums, floor: impl FnOnce(), part: impl FnOnce()) {
        let (floor, part) = (timed(floor), timed(part));
        sums.floor += floor;
        sums.part += part;
        self.ratios.push(floor.as_secs_f64() / part.as_secs_f64());
    }

    /// Adds a pair that was timed elsewhere, each half per piece of work.
    pub fn push(&mut self, floor_s: f64, part_s: f64) {
        self.ratios.push(floor_s / part_s);
    }

    /// The first quartile, the median and the third quartile of floor over part, if there is a pair.
    #[must_use]
    pub fn quartiles(&self) -> Option<[f64; 3]> {
        let mut ratios = self.ratios.clone();
        ratios.sort_unstable_by(f64::total_cmp);
        let last = ratios.len().checked_sub(1)?;
        Some([last / 4, last / 2, last * 3 / 4].map(|at| ratios[at]))
    }

    /// Prints the median of `what` the ratio means, or nothing if a filter left no pairs.
    pub fn report(&self, name: &str, what: &str) {
        if let Some([low, median, high]) = self.quartiles() {
            let count = self.ratios.len();
            println!(
                "{name}: {what} = {median:.2} (median of {count} pairs, middle half {low:.2} to {high:.2})\n"
            );
        }
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_that_of_the_ratios() {
        let mut pairs = Pairs::default();
        assert_eq!(pairs.quartiles(), None);
        for (floor_s, part_s) in [(1.0, 2.0), (9.0, 9.0), (1.0, 4.0), (2.0, 1.0), (1.0, 1.0)] {
            pairs.push(floor_s, part_s);
        }
        assert_eq!(pairs.quartiles(), Some([0.5, 1.0, 1.0]));
    }
}
