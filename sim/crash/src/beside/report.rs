//! What came of it: per pair, and over all of them.

use super::replica::Transfer;
use crate::cli::Beside;
use crate::report::met;
use pontoon::measure::{Kind, Recorder};
use pontoon::output::{bytes, count, micros, table};
use serde_json::json;
use std::fmt;

/// Latencies of a window, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    writes: u64,
    errors: u64,
    p50: u64,
    p99: u64,
    p999: u64,
}

impl From<&Recorder> for Latency {
    fn from(recorder: &Recorder) -> Self {
        let writes = recorder.of(Kind::Write);
        Self {
            writes: writes.len(),
            errors: recorder.errors,
            p50: writes.value_at_quantile(0.5),
            p99: writes.value_at_quantile(0.99),
            p999: writes.value_at_quantile(0.999),
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, p999] = [self.p50, self.p99, self.p999].map(micros);
        write!(f, "{p50} / {p99} / {p999}")
    }
}

/// A window without the replica, one while it came, and how it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    alone: Latency,
    beside: Latency,
    transfer: Transfer,
}

impl Pair {
    pub(super) fn new(alone: &Recorder, beside: &Recorder, transfer: Transfer) -> Self {
        Self {
            alone: alone.into(),
            beside: beside.into(),
            transfer,
        }
    }

    /// Beside to alone, of the 99th percentile.
    fn ratio(&self) -> f64 {
        self.beside.p99 as f64 / self.alone.p99.max(1) as f64
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (alone, beside, ratio) = (&self.alone, &self.beside, self.ratio());
        write!(
            f,
            "alone {alone}, beside {beside}, p99 {ratio:.2}; {}",
            self.transfer
        )
    }
}

pub(super) struct Report<'a> {
    pub(super) options: &'a Beside,
    /// Of the disk, in bytes a second.
    pub(super) disk_rate: f64,
    /// Writes a second, in a closed loop and of the load.
    pub(super) most: f64,
    pub(super) rate: f64,
    /// The replica that came while nobody wrote.
    pub(super) alone: Transfer,
    pub(super) pairs: Vec<Pair>,
}

impl Report<'_> {
    fn ratio(&self) -> Estimate {
        Estimate::of(self.pairs.iter().map(Pair::ratio).collect())
    }

    fn rates(&self) -> Estimate {
        Estimate::of(self.pairs.iter().map(|pair| pair.transfer.rate()).collect())
    }

    /// Whether the medians are as was asked for, if they were.
    pub(super) fn is_met(&self) -> bool {
        self.is_calm() && self.is_fast()
    }

    fn is_calm(&self) -> bool {
        let ratio = self.ratio().median;
        self.options.at_most.is_none_or(|most| ratio <= most)
    }

    fn is_fast(&self) -> bool {
        let (rate, least) = (self.rates().median, &self.options.rate_at_least);
        least.as_ref().is_none_or(|least| rate >= least.0 as f64)
    }

    pub(super) fn to_table(&self) -> String {
        let header = ["pair", "alone", "beside", "p99", "replica", "writes"];
        let rows = self.pairs.iter().enumerate().map(|(number, pair)| {
            vec![
                (number + 1).to_string(),
                pair.alone.to_string(),
                pair.beside.to_string(),
                format!("{:.2}", pair.ratio()),
                pair.transfer.to_string(),
                count((pair.alone.writes + pair.beside.writes) as f64),
            ]
        });
        let pairs = table(&header, rows.collect());
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
        let (ratio, rates) = (self.ratio(), self.rates());
        row("p99 beside to p99 alone", format!("{ratio:.2}"));
        if let Some(most) = self.options.at_most {
            row("  at most", format!("{most}: {}", met(self.is_calm())));
        }
        row(
            "load",
            format!(
                "{} of {} writes/s, begun when due",
                count(self.rate),
                count(self.most)
            ),
        );
        row(
            "  and to the shard that is brought up",
            format!("{} writes/s", count(f64::from(self.options.big_writes))),
        );
        row(
            "the disk, one file written and synced",
            per_second(self.disk_rate),
        );
        let of_disk = |rate: f64| {
            format!(
                "{}, {:.2} of the disk",
                per_second(rate),
                rate / self.disk_rate
            )
        };
        row("a replica by itself", of_disk(self.alone.rate()));
        row("a replica beside the load", of_disk(rates.median));
        if let Some(least) = &self.options.rate_at_least {
            let (least, met) = (per_second(least.0 as f64), met(self.is_fast()));
            row("  at least", format!("{least}: {met}"));
        }
        let errors: u64 = self
            .pairs
            .iter()
            .map(|pair| pair.alone.errors + pair.beside.errors)
            .sum();
        row("writes failed", count(errors as f64));
        let legend = "latencies: p50 / p99 / p99.9 from when a write was due";
        format!("{pairs}\n{legend}\n\n{}", table(&[], rows))
    }

    pub(super) fn to_json(&self) -> serde_json::Value {
        let latency = |latency: &Latency| {
            json!({
                "writes": latency.writes,
                "errors": latency.errors,
                "p50_us": latency.p50,
                "p99_us": latency.p99,
                "p99_9_us": latency.p999,
            })
        };
        let transfer = |transfer: &Transfer| {
            json!({
                "bytes": transfer.bytes,
                "seconds": transfer.took.as_secs_f64(),
                "bytes_per_s": transfer.rate(),
                "least_rate": transfer.least_rate,
            })
        };
        let pairs: Vec<_> = self
            .pairs
            .iter()
            .map(|pair| {
                json!({
                    "alone": latency(&pair.alone),
                    "beside": latency(&pair.beside),
                    "p99_ratio": pair.ratio(),
                    "transfer": transfer(&pair.transfer),
                })
            })
            .collect();
        let ratio = self.ratio();
        json!({
            "bytes": self.options.bytes.0,
            "most_writes_per_s": self.most,
            "writes_per_s": self.rate,
            "big_writes_per_s": self.options.big_writes,
            "disk_bytes_per_s": self.disk_rate,
            "transfer_alone": transfer(&self.alone),
            "pairs": pairs,
            "p99_ratio": ratio.median,
            "p99_ratio_bounds": [ratio.from, ratio.to],
            "at_most": self.options.at_most,
            "rate_at_least": self.options.rate_at_least.as_ref().map(|least| least.0),
            "met": self.is_met(),
        })
    }
}

fn per_second(rate: f64) -> String {
    format!("{}/s", bytes(rate))
}

/// The median, and the order statistics between which it lies in 95 of 100 cases, whatever the distribution; with fewer than six
/// values none are that far apart, and it is the least and the greatest.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Estimate {
    median: f64,
    from: f64,
    to: f64,
}

impl Estimate {
    /// # Panics
    /// If there are none.
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let outside = outside(count);
        Self {
            median: f64::midpoint(values[(count - 1) / 2], values[count / 2]),
            from: values[outside],
            to: values[count - 1 - outside],
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let Self { median, from, to } = self;
        write!(f, "{median:.digits$} ({from:.digits$} to {to:.digits$})")
    }
}

/// How many of the values may be left out on either side: the most for which a fair coin falls so seldom so often on
/// one side that both sides together stay within 5%.
fn outside(count: usize) -> usize {
    let (mut term, mut sum, mut outside) = (0.5_f64.powi(count as i32), 0.0, 0);
    loop {
        sum += term;
        if 2.0 * sum > 0.05 || outside >= count {
            return outside.saturating_sub(1);
        }
        term *= (count - outside) as f64 / (outside + 1) as f64;
        outside += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;
    use std::time::Duration;

    /// Whether the aims are met by one replica at 1 MiB a second, beside which p99 is twice that without.
    fn meets(aims: &[&str]) -> bool {
        let line = [&["pontoon-crash", "beside"], aims].concat();
        let Some(Command::Beside(options)) = Cli::parse_from(line).command else {
            panic!("another command");
        };
        let transfer = Transfer {
            bytes: 1 << 20,
            took: Duration::from_secs(1),
            least_rate: 1,
        };
        let latency = |p99| Latency {
            writes: 1,
            errors: 0,
            p50: 1,
            p99,
            p999: p99,
        };
        let pair = Pair {
            alone: latency(500),
            beside: latency(1_000),
            transfer,
        };
        let report = Report {
            options: &options,
            disk_rate: 1.0,
            most: 1.0,
            rate: 1.0,
            alone: transfer,
            pairs: vec![pair],
        };
        report.is_met()
    }

    #[test]
    fn each_aim_can_be_missed_and_none_is_met() {
        assert!(meets(&[]));
        assert!(meets(&["--at-most", "2", "--rate-at-least", "1MiB"]));
        assert!(!meets(&["--at-most", "1.9", "--rate-at-least", "1MiB"]));
        assert!(!meets(&["--at-most", "2", "--rate-at-least", "2MiB"]));
    }

    #[test]
    fn bounds_leave_out_what_the_sign_test_lets_them() {
        // The table of the sign test (Conover, Practical Nonparametric Statistics).
        for (count, left_out) in [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (10, 1), (20, 5)] {
            assert_eq!(outside(count), left_out, "{count}");
        }
        let estimate = Estimate::of((1..=10).map(f64::from).collect());
        let expected = Estimate {
            median: 5.5,
            from: 2.0,
            to: 9.0,
        };
        assert_eq!(estimate, expected);
    }
}
