//! What two sides took for the same work, measured in turns.

use serde_json::{Value, json};

/// Times of both sides per piece of work, in nanoseconds; each pair was taken within a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pairs {
    pairs: Vec<(f64, f64)>,
}

/// The first quartile, the median and the third quartile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Quartiles {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Pairs {
    pub(crate) fn push(&mut self, ours: f64, theirs: f64) {
        self.pairs.push((ours, theirs));
    }

    pub(crate) fn len(&self) -> usize {
        self.pairs.len()
    }

    pub(crate) fn ours(&self) -> Quartiles {
        Quartiles::of(self.pairs.iter().map(|pair| pair.0))
    }

    pub(crate) fn theirs(&self) -> Quartiles {
        Quartiles::of(self.pairs.iter().map(|pair| pair.1))
    }

    /// Ours over theirs, pair by pair: 0.5 where Pontoon takes half of the peer's time.
    pub(crate) fn ratio(&self) -> Quartiles {
        Quartiles::of(self.pairs.iter().map(|(ours, theirs)| ours / theirs))
    }
}

impl Quartiles {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_unstable_by(f64::total_cmp);
        let last = values.len().saturating_sub(1);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self {
            low: at(last / 4),
            median: at(last / 2),
            high: at(last * 3 / 4),
        }
    }

    pub(crate) fn json(self) -> Value {
        json!({ "low": self.low, "median": self.median, "high": self.high })
    }
}

/// A median, and the bounds that hold the true one: each on its side in 95 of 100 runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounded {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
    /// Of how many values it is the median.
    pub(crate) count: usize,
}

impl Bounded {
    /// Of the values' order alone, whatever way they are spread: the k-th smallest lies above the median only if
    /// fewer than k values do not, each of which does so by the toss of a coin. Too few values have no bounds.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let count = values.len();
        let middle = match (values.get((count.max(1) - 1) / 2), values.get(count / 2)) {
            (Some(below), Some(above)) => f64::midpoint(*below, *above),
            _ => f64::NAN,
        };
        let (low, high) = match bound_rank(count) {
            Some(rank) => (values[rank], values[count - 1 - rank]),
            None => (f64::NAN, f64::NAN),
        };
        Self {
            low,
            median: middle,
            high,
            count,
        }
    }

    pub(crate) fn json(self) -> Value {
        json!({ "low": self.low, "median": self.median, "high": self.high, "pairs": self.count })
    }
}

/// The largest rank, from 0, at which so many sorted values bound their median with 95% confidence.
fn bound_rank(count: usize) -> Option<usize> {
    const DOUBT: f64 = 0.05;
    if count > 500 {
        // The binomial is as good as normal here, and its smallest terms are below what an `f64` holds.
        let rank = count as f64 / 2.0 - 1.645 * (count as f64).sqrt() / 2.0 - 1.0;
        return Some(rank as usize);
    }
    let mut term = 0.5f64.powi(count as i32);
    let mut sum = 0.0;
    for rank in 0..count {
        sum += term;
        if sum > DOUBT {
            return rank.checked_sub(1);
        }
        term *= (count - rank) as f64 / (rank + 1) as f64;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_a_median_are_those_of_the_sign_test() {
        // The tables' ranks, from 1, for a one-sided 5%: 1 of 5, 2 of 8, 6 of 20, 37 of 90.
        assert_eq!(bound_rank(4), None);
        for (count, rank) in [(5, 1), (8, 2), (20, 6), (90, 37)] {
            assert_eq!(bound_rank(count), Some(rank - 1), "{count}");
        }
        let near = |exact: usize, normal: usize| exact.abs_diff(normal) <= 1;
        assert!(near(bound_rank(500).unwrap(), bound_rank(501).unwrap()));
        let twenty = Bounded::of((1..=20).map(f64::from));
        assert_eq!([twenty.low, twenty.median, twenty.high], [6.0, 10.5, 15.0]);
        assert!(Bounded::of([]).median.is_nan());
    }

    #[test]
    fn the_ratio_is_that_of_the_pairs_and_not_of_the_sums() {
        let mut pairs = Pairs::default();
        for (ours, theirs) in [(1.0, 2.0), (9.0, 9.0), (1.0, 4.0), (2.0, 1.0), (1.0, 1.0)] {
            pairs.push(ours, theirs);
        }
        let Quartiles { low, median, high } = pairs.ratio();
        assert_eq!([low, median, high], [0.5, 1.0, 1.0]);
        assert_eq!(pairs.theirs().median, 2.0);
    }
}
