//! The trace: a hash over everything that happens, and lines to read if somebody wants them.

use pontoon_types::Instant;
use std::fmt::Display;
use std::io::Write;

/// What happened so far, as one number. Two runs of a seed with the same number did the same.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    prints: bool,
}

impl Trace {
    /// A trace that prints its lines, or not.
    #[must_use]
    pub fn new(prints: bool) -> Self {
        Self {
            prints,
            ..Self::default()
        }
    }

    /// Mixes numbers into the hash.
    pub fn mix(&mut self, numbers: &[u64]) {
        for number in numbers {
            let mixed = (self.hash.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.hash = mixed ^ (mixed >> 29);
        }
    }

    /// An event happens. `kind` and `numbers` say everything about it that may differ between runs.
    pub fn event(&mut self, now: Instant, kind: u64, numbers: &[u64]) {
        self.events += 1;
        self.mix(&[now.as_nanos(), kind]);
        self.mix(numbers);
    }

    /// A line for a reader.
    pub fn line<T: Display>(&self, now: Instant, text: impl FnOnce() -> T) {
        if self.prints {
            let micros = now.as_nanos() / 1000;
            let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000);
            // A reader who has seen enough closes the pipe.
            let _ = writeln!(
                std::io::stdout().lock(),
                "{seconds:>3}.{rest:06} {}",
                text()
            );
        }
    }

    /// Whether lines are printed.
    #[must_use]
    pub const fn prints(&self) -> bool {
        self.prints
    }

    /// The hash so far.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events there were.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }
}
