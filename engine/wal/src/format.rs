//! The bytes of a log, as `docs/wal-format.md` describes them: pure functions from and to slices.
//!
//! Every decoder takes any bytes: it returns what it found or why it is not that, and neither panics nor
//! allocates by a length that it was told (invariant S12). All numbers are little-endian.

pub(crate) mod batch;
pub(crate) mod checksum;
pub(crate) mod mark;
pub(crate) mod record;
pub(crate) mod segment;
pub(crate) mod state;

/// Records and batches start at multiples of this, so that a lost one can be searched for.
pub(crate) const ALIGNMENT: usize = 8;

/// The page of the file system and its cache; also what a disk is assumed to tear no finer than in
/// 512-byte sectors.
pub(crate) const PAGE_BYTES: usize = 4096;

pub(crate) const fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

/// Reads a `u32` of a fixed layout whose length the caller has checked by its type.
pub(crate) fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// Reads a `u64` of a fixed layout whose length the caller has checked by its type.
pub(crate) fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// Writes `bytes` at a fixed place of a fixed layout.
pub(crate) fn put<const N: usize>(out: &mut [u8; N], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}
