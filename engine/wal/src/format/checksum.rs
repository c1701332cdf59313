//! CRC32C with a seed that ties bytes to one place in one life of one file.

use pontoon_types::mutant;

/// What a segment's checksums start from. A file that is reused gets another generation and another
/// salt, so nothing that an earlier life left in it verifies again; the offset keeps a batch from
/// verifying anywhere but where it was laid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed {
    pub(crate) salt: u64,
    pub(crate) generation: u32,
}

impl Seed {
    /// The checksum to go on from at `offset`.
    pub(crate) fn at(self, offset: u32) -> u32 {
        let mut bytes = [0; 16];
        if mutant!(StaleRecordsVerify) {
            return crc32c::crc32c(&bytes);
        }
        bytes[..8].copy_from_slice(&self.salt.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.generation.to_le_bytes());
        bytes[12..].copy_from_slice(&offset.to_le_bytes());
        crc32c::crc32c(&bytes)
    }
}
