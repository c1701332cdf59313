//! The durable mark: how far everything is known to be on the disk, in a small place of its own.
//!
//! The batches carry the mark too, but the last ones before a pause have nobody after them to say that
//! they were durable. Without the second place, damage in them would look like a torn tail. The file has
//! two pages that are written in turn, so that a torn write leaves the other.

use super::{PAGE_BYTES, put, u32_at, u64_at};
use crate::{LogIdentity, Lsn};
use pontoon_types::{ClusterId, NodeId};

/// The length of the mark's file.
pub(crate) const MARK_FILE_BYTES: u64 = 2 * PAGE_BYTES as u64;

const MAGIC: [u8; 8] = *b"PNTN-MRK";
const USED_BYTES: usize = 56;

/// One page of the mark's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) identity: LogIdentity,
    /// Counts the writes of the mark; the highest that verifies holds.
    pub(crate) sequence: u64,
    /// Everything below is durable.
    pub(crate) durable: Lsn,
}

impl Mark {
    /// Where the page of this sequence lies.
    pub(crate) const fn offset(&self) -> u64 {
        (self.sequence % 2) * PAGE_BYTES as u64
    }

    pub(crate) fn encode(&self) -> [u8; PAGE_BYTES] {
        let mut page = [0; PAGE_BYTES];
        put(&mut page, 0, &MAGIC);
        put(&mut page, 8, &1u32.to_le_bytes());
        put(&mut page, 16, &self.identity.cluster.0.to_le_bytes());
        put(&mut page, 24, &self.identity.node.0.to_le_bytes());
        put(&mut page, 32, &self.sequence.to_le_bytes());
        put(&mut page, 40, &self.durable.0.to_le_bytes());
        let checksum = Self::checksum(&page);
        put(&mut page, 12, &checksum.to_le_bytes());
        page
    }

    pub(crate) fn decode(page: &[u8; PAGE_BYTES]) -> Option<Self> {
        if page[..8] != MAGIC || u32_at(page, 8) != 1 || u32_at(page, 12) != Self::checksum(page) {
            return None;
        }
        Some(Self {
            identity: LogIdentity {
                cluster: ClusterId(u64_at(page, 16)),
                node: NodeId(u64_at(page, 24)),
            },
            sequence: u64_at(page, 32),
            durable: Lsn(u64_at(page, 40)),
        })
    }

    fn checksum(page: &[u8; PAGE_BYTES]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&page[..12]), &page[16..USED_BYTES])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_mark_reads_back(cluster: u64, node: u64, sequence: u64, durable: u64) {
            let identity = LogIdentity { cluster: ClusterId(cluster), node: NodeId(node) };
            let mark = Mark { identity, sequence, durable: Lsn(durable) };
            let mut page = mark.encode();
            prop_assert_eq!(Mark::decode(&page), Some(mark));
            page[(cluster % 48) as usize] ^= 1;
            prop_assert_eq!(Mark::decode(&page), None);
        }

        #[test]
        fn arbitrary_pages_never_panic(bytes in proptest::collection::vec(any::<u8>(), PAGE_BYTES)) {
            let mut page = [0; PAGE_BYTES];
            page.copy_from_slice(&bytes);
            prop_assert_eq!(Mark::decode(&page), None);
        }
    }
}
