//! The header of a batch: it verifies alone, and says where the batch belongs.

use super::checksum::Seed;
use super::{put, u32_at, u64_at};
use crate::Lsn;
use pontoon_types::mutant;

/// Bytes of a batch header.
pub(crate) const BATCH_HEADER_BYTES: usize = 64;

/// [`BatchHeader::previous`] of the first batch after an end that is damaged. It follows nothing, so every
/// later recovery finds the damage again, also when nothing else is left that could tell.
pub(crate) const FOLLOWS_DAMAGE: Lsn = Lsn(u64::MAX);

const MAGIC: u32 = u32::from_le_bytes(*b"PBch");

/// What the records of a batch are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum BatchKind {
    /// What a worker sealed.
    Records = 0,
    /// The log's segments and the latest state of every group, so that nothing older is needed for
    /// those; or the segments alone.
    Checkpoint = 1,
}

/// A decoded batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    /// Where the batch lies.
    pub(crate) position: Lsn,
    /// What was known to be durable when it was laid: everything below.
    pub(crate) durable: Lsn,
    /// Where the batch before it lies.
    pub(crate) previous: Lsn,
    /// The header checksum of the batch before it.
    pub(crate) chain: u32,
    /// The checksum over the records' headers and the entries' own checksums.
    pub(crate) body_checksum: u32,
    /// Bytes of records behind the header.
    pub(crate) body_bytes: u32,
    /// How many records there are.
    pub(crate) records: u32,
    pub(crate) kind: BatchKind,
}

impl BatchHeader {
    /// The encoding and the header's checksum, to which the next batch is chained.
    pub(crate) fn encode(&self, seed: Seed) -> ([u8; BATCH_HEADER_BYTES], u32) {
        let mut out = [0; BATCH_HEADER_BYTES];
        put(&mut out, 4, &MAGIC.to_le_bytes());
        put(&mut out, 8, &self.position.0.to_le_bytes());
        put(&mut out, 16, &self.durable.0.to_le_bytes());
        put(&mut out, 24, &self.previous.0.to_le_bytes());
        put(&mut out, 32, &self.chain.to_le_bytes());
        put(&mut out, 36, &self.body_checksum.to_le_bytes());
        put(&mut out, 40, &self.body_bytes.to_le_bytes());
        put(&mut out, 44, &self.records.to_le_bytes());
        out[48] = self.kind as u8;
        let checksum = crc32c::crc32c_append(seed.at(self.position.offset()), &out[4..]);
        put(&mut out, 0, &checksum.to_le_bytes());
        (out, checksum)
    }

    /// Reads the header with which `bytes` begin, which lie at `offset` of a segment; also returns its checksum. `None` if
    /// there is none.
    pub(crate) fn decode(bytes: &[u8], offset: u32, seed: Seed) -> Option<(Self, u32)> {
        let bytes = bytes.first_chunk::<BATCH_HEADER_BYTES>()?;
        let checksum = u32_at(bytes, 0);
        if u32_at(bytes, 4) != MAGIC
            || crc32c::crc32c_append(seed.at(offset), &bytes[4..]) != checksum
        {
            return None;
        }
        let header = Self {
            position: Lsn(u64_at(bytes, 8)),
            durable: Lsn(u64_at(bytes, 16)),
            previous: Lsn(u64_at(bytes, 24)),
            chain: u32_at(bytes, 32),
            body_checksum: u32_at(bytes, 36),
            body_bytes: u32_at(bytes, 40),
            records: u32_at(bytes, 44),
            kind: match bytes[48] {
                0 => BatchKind::Records,
                1 => BatchKind::Checkpoint,
                _ => return None,
            },
        };
        let is_here =
            header.position == Lsn::new(seed.generation, offset) || mutant!(StaleRecordsVerify);
        is_here.then_some((header, checksum))
    }

    /// Whether a header could start with these bytes: a cheap test before the checksum.
    pub(crate) fn may_start(bytes: &[u8]) -> bool {
        bytes.get(4..8) == Some(&MAGIC.to_le_bytes()[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEED: Seed = Seed {
        salt: 5,
        generation: 3,
    };

    fn header() -> BatchHeader {
        BatchHeader {
            position: Lsn::new(3, 64),
            durable: Lsn::new(3, 64),
            previous: Lsn::new(2, 4096),
            chain: 1,
            body_checksum: 2,
            body_bytes: 80,
            records: 1,
            kind: BatchKind::Records,
        }
    }

    #[test]
    fn a_header_reads_back_only_at_its_own_place() {
        let mut segment = vec![0; 256];
        let (bytes, checksum) = header().encode(SEED);
        segment[64..128].copy_from_slice(&bytes);
        assert_eq!(
            BatchHeader::decode(&segment[64..], 64, SEED),
            Some((header(), checksum))
        );
        segment.copy_within(64..128, 128);
        assert_eq!(BatchHeader::decode(&segment[128..], 128, SEED), None);
    }

    #[test]
    fn nothing_of_another_generation_or_salt_verifies() {
        let mut segment = vec![0; 256];
        segment[64..128].copy_from_slice(&header().encode(SEED).0);
        for seed in [
            Seed { salt: 6, ..SEED },
            Seed {
                generation: 4,
                ..SEED
            },
        ] {
            assert_eq!(BatchHeader::decode(&segment[64..], 64, seed), None);
        }
    }

    proptest! {
        #[test]
        fn one_flipped_bit_is_found(at in 0usize..BATCH_HEADER_BYTES, bit in 0..8u8) {
            let mut segment = vec![0; 256];
            segment[64..128].copy_from_slice(&header().encode(SEED).0);
            segment[64 + at] ^= 1 << bit;
            prop_assert_eq!(BatchHeader::decode(&segment[64..], 64, SEED), None);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, offset in 0u32..300) {
            prop_assert!(BatchHeader::decode(&bytes, offset, SEED).is_none());
        }
    }
}
