//! Positions in the log.

use std::fmt;

/// A position in a node's log: the segment's generation in the upper 32 bits, the offset in its file
/// in the lower 32. Positions only grow, also over restarts, and tell where to look without a table.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before everything; also "there is none".
    pub const ZERO: Self = Self(0);

    /// The position of a byte of a segment.
    #[must_use]
    pub const fn new(generation: u32, offset: u32) -> Self {
        Self((generation as u64) << 32 | offset as u64)
    }

    /// The generation of the segment.
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The offset in the segment's file.
    #[must_use]
    pub const fn offset(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:#x}", self.generation(), self.offset())
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({self})")
    }
}
