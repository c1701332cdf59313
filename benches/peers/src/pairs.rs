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

#[cfg(test)]
mod tests {
    use super::*;

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
