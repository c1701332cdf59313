//! Shared bytes in one allocation.
//!
//! [`Bytes`] made from a vector keeps its reference count in an allocation of its own, which every entry would
//! pay for as soon as it is handed to a second owner, at once. Made from an owner that holds the bytes itself,
//! count and bytes lie together. Such an owner has a size that the compiler knows; so there are some, a cache
//! line apart, up to where a second allocation is small beside the bytes.

use alloc::vec;
use bytes::Bytes;

/// A step between two sizes.
const STEP_BYTES: usize = 64;

struct Block<const N: usize> {
    length: u16,
    bytes: [u8; N],
}

impl<const N: usize> AsRef<[u8]> for Block<N> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

fn in_block<const N: usize>(length: usize, fill: impl FnOnce(&mut [u8])) -> Bytes {
    let mut block = Block {
        length: length as u16,
        bytes: [0; N],
    };
    fill(&mut block.bytes[..length]);
    Bytes::from_owner(block)
}

/// `length` bytes, zero until `fill` has written them.
pub(crate) fn filled(length: usize, fill: impl FnOnce(&mut [u8])) -> Bytes {
    match length.div_ceil(STEP_BYTES) {
        0 | 1 => in_block::<64>(length, fill),
        2 => in_block::<128>(length, fill),
        3 => in_block::<192>(length, fill),
        4 => in_block::<256>(length, fill),
        5 => in_block::<320>(length, fill),
        6 => in_block::<384>(length, fill),
        7 => in_block::<448>(length, fill),
        8 => in_block::<512>(length, fill),
        9..=10 => in_block::<640>(length, fill),
        11..=12 => in_block::<768>(length, fill),
        13..=14 => in_block::<896>(length, fill),
        15..=16 => in_block::<1024>(length, fill),
        _ => {
            let mut bytes = vec![0; length];
            fill(&mut bytes);
            bytes.into()
        }
    }
}
