//! Positions in the log.

use std::fmt;
use std::str::FromStr;

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

/// Text is not a position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a position: SEGMENT, or SEGMENT:OFFSET as in 2:0x1040")]
pub struct LsnError {
    text: String,
}

/// Reads what `Display` writes; a segment alone is its start, and an offset may be decimal.
impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, LsnError> {
        let read = || {
            let (generation, offset) = text.split_once(':').unwrap_or((text, "0"));
            let offset = match offset.strip_prefix("0x") {
                Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                None => offset.parse().ok()?,
            };
            Some(Self::new(generation.parse().ok()?, offset))
        };
        read().ok_or_else(|| LsnError {
            text: text.to_owned(),
        })
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_position_reads_back(position: u64) {
            prop_assert_eq!(Lsn(position).to_string().parse(), Ok(Lsn(position)));
        }
    }

    #[test]
    fn a_position_may_be_a_segment_alone() {
        assert_eq!("7".parse(), Ok(Lsn::new(7, 0)));
        assert_eq!("7:4096".parse(), Ok(Lsn::new(7, 4096)));
        for text in [
            "",
            ":",
            "7:",
            "x",
            "7:0x",
            "7:-1",
            "4294967296",
            "7:0x100000000",
        ] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
