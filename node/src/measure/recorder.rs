//! Latencies and outcomes, per client and then together.

use hdrhistogram::Histogram;
use std::time::Duration;

/// What an operation was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something that had to be made durable.
    Write,
    /// Something that only had to be found.
    Read,
}

/// Latencies in microseconds with three significant digits, and counts of what did not succeed.
#[derive(Clone, Debug)]
pub struct Recorder {
    writes: Histogram<u64>,
    reads: Histogram<u64>,
    /// Operations that failed and are known to have changed nothing.
    pub errors: u64,
    /// Writes of unknown outcome.
    pub unknown: u64,
    /// The longest time that a client was without a success: what a fault costs those who wait.
    pub longest_pause: Duration,
}

/// Longest latency that is told apart from longer ones.
const MAX_MICROS: u64 = 600_000_000;

impl Default for Recorder {
    fn default() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, MAX_MICROS, 3).expect("bounds and digits are constants")
        };
        Self {
            writes: histogram(),
            reads: histogram(),
            errors: 0,
            unknown: 0,
            longest_pause: Duration::ZERO,
        }
    }
}

impl Recorder {
    /// An operation succeeded.
    pub fn record(&mut self, kind: Kind, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(MAX_MICROS);
        match kind {
            Kind::Write => self.writes.saturating_record(micros.max(1)),
            Kind::Read => self.reads.saturating_record(micros.max(1)),
        }
    }

    /// Takes in what another client saw.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.writes, &other.writes),
            (&mut self.reads, &other.reads),
        ] {
            mine.add(theirs)
                .expect("all histograms have the same bounds");
        }
        self.errors += other.errors;
        self.unknown += other.unknown;
        self.longest_pause = self.longest_pause.max(other.longest_pause);
    }

    /// Latencies of one kind.
    #[must_use]
    pub const fn of(&self, kind: Kind) -> &Histogram<u64> {
        match kind {
            Kind::Write => &self.writes,
            Kind::Read => &self.reads,
        }
    }

    /// Latencies of both kinds together.
    #[must_use]
    pub fn all(&self) -> Histogram<u64> {
        let mut all = self.writes.clone();
        all.add(&self.reads)
            .expect("all histograms have the same bounds");
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_clients_saw_adds_up() {
        let (mut one, mut two) = (Recorder::default(), Recorder::default());
        for micros in 1..=500 {
            one.record(Kind::Write, Duration::from_micros(micros));
            two.record(Kind::Write, Duration::from_micros(micros + 500));
        }
        two.record(Kind::Read, Duration::from_micros(7));
        two.errors = 2;
        one.unknown = 3;
        one.longest_pause = Duration::from_secs(2);
        one.merge(&two);
        assert_eq!(one.of(Kind::Write).len(), 1000);
        assert_eq!(one.of(Kind::Write).value_at_quantile(0.5), 500);
        assert_eq!(one.all().len(), 1001);
        assert_eq!((one.errors, one.unknown), (2, 3));
        assert_eq!(one.longest_pause, Duration::from_secs(2));
    }

    #[test]
    fn the_shortest_and_the_longest_are_counted() {
        let mut recorder = Recorder::default();
        recorder.record(Kind::Read, Duration::ZERO);
        recorder.record(Kind::Read, Duration::from_secs(86_400));
        assert_eq!(recorder.of(Kind::Read).len(), 2);
    }
}
