//! What must hold, and how it did not.

use std::fmt;

/// The invariants of the design that a group of the core alone can break, and two of the core's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Invariant {
    S1,
    S2,
    S3,
    S4,
    S5,
    S6,
    S7,
    S10,
    /// What a correct replica says is never refused.
    Accepted,
    /// No assertion of the core fails.
    Asserted,
}

/// How an invariant was broken.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) invariant: Invariant,
    pub(crate) how: String,
}

/// Something that broke nothing, or what it broke.
pub(crate) type Checked<T = ()> = Result<T, Broken>;

impl Broken {
    pub(crate) fn new(invariant: Invariant, how: String) -> Self {
        Self { invariant, how }
    }
}

impl Invariant {
    /// Its number and what it says.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::S1 => "S1 one leader per term",
            Self::S2 => "S2 log matching",
            Self::S3 => "S3 leader completeness",
            Self::S4 => "S4 one entry per committed index",
            Self::S5 => "S5 only own terms are counted",
            Self::S6 => "S6 durable before it is promised",
            Self::S7 => "S7 committed on a majority of disks",
            Self::S10 => "S10 applied in order and once",
            Self::Accepted => "correct messages are accepted",
            Self::Asserted => "the core's assertions hold",
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant.name(), self.how)
    }
}
