//! The first page of a segment file.

use super::{PAGE_BYTES, put, u32_at, u64_at};
use crate::LogIdentity;
use crate::format::checksum::Seed;
use pontoon_types::{ClusterId, NodeId};

/// The header's page; batches start behind it.
pub(crate) const SEGMENT_HEADER_BYTES: usize = PAGE_BYTES;
/// The newest format version.
pub(crate) const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"PNTN-WAL";
const COPY_BYTES: usize = 64;
/// The second copy lies in another sector.
const SECOND_COPY: usize = 2048;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) identity: LogIdentity,
    pub(crate) generation: u32,
    pub(crate) salt: u64,
    /// The length of the file.
    pub(crate) bytes: u64,
}

/// Why a page is not a segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// Neither copy verifies.
    Damaged,
    /// It verifies, and is of a newer format.
    UnknownVersion(u32),
}

impl SegmentHeader {
    pub(crate) const fn seed(&self) -> Seed {
        Seed {
            salt: self.salt,
            generation: self.generation,
        }
    }

    pub(crate) fn encode(&self) -> [u8; PAGE_BYTES] {
        let mut copy = [0; COPY_BYTES];
        put(&mut copy, 0, &MAGIC);
        put(&mut copy, 8, &FORMAT_VERSION.to_le_bytes());
        put(&mut copy, 16, &self.identity.cluster.0.to_le_bytes());
        put(&mut copy, 24, &self.identity.node.0.to_le_bytes());
        put(&mut copy, 32, &u64::from(self.generation).to_le_bytes());
        put(&mut copy, 40, &self.salt.to_le_bytes());
        put(&mut copy, 48, &self.bytes.to_le_bytes());
        let checksum = Self::checksum(&copy);
        put(&mut copy, 12, &checksum.to_le_bytes());
        let mut page = [0; PAGE_BYTES];
        put(&mut page, 0, &copy);
        put(&mut page, SECOND_COPY, &copy);
        page
    }

    pub(crate) fn decode(page: &[u8; PAGE_BYTES]) -> Result<Self, HeaderError> {
        let mut result = Err(HeaderError::Damaged);
        for at in [0, SECOND_COPY] {
            let mut copy = [0; COPY_BYTES];
            copy.copy_from_slice(&page[at..at + COPY_BYTES]);
            result = Self::decode_copy(&copy);
            if result != Err(HeaderError::Damaged) {
                break;
            }
        }
        result
    }

    fn decode_copy(copy: &[u8; COPY_BYTES]) -> Result<Self, HeaderError> {
        if copy[..8] != MAGIC || u32_at(copy, 12) != Self::checksum(copy) {
            return Err(HeaderError::Damaged);
        }
        let version = u32_at(copy, 8);
        if version != FORMAT_VERSION {
            return Err(HeaderError::UnknownVersion(version));
        }
        Ok(Self {
            identity: LogIdentity {
                cluster: ClusterId(u64_at(copy, 16)),
                node: NodeId(u64_at(copy, 24)),
            },
            generation: u32::try_from(u64_at(copy, 32)).map_err(|_| HeaderError::Damaged)?,
            salt: u64_at(copy, 40),
            bytes: u64_at(copy, 48),
        })
    }

    /// Over everything but the checksum itself.
    fn checksum(copy: &[u8; COPY_BYTES]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&copy[..12]), &copy[16..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            identity: LogIdentity {
                cluster: ClusterId(0xfeed),
                node: NodeId(3),
            },
            generation: 7,
            salt: 99,
            bytes: 1 << 20,
        }
    }

    #[test]
    fn a_header_reads_back_from_either_copy() {
        let mut page = header().encode();
        assert_eq!(SegmentHeader::decode(&page), Ok(header()));
        page[20] ^= 1;
        assert_eq!(SegmentHeader::decode(&page), Ok(header()));
        page[SECOND_COPY + 20] ^= 1;
        assert_eq!(SegmentHeader::decode(&page), Err(HeaderError::Damaged));
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut page = header().encode();
        let mut copy = [0; COPY_BYTES];
        copy.copy_from_slice(&page[..COPY_BYTES]);
        put(&mut copy, 8, &9u32.to_le_bytes());
        let checksum = SegmentHeader::checksum(&copy);
        put(&mut copy, 12, &checksum.to_le_bytes());
        put(&mut page, 0, &copy);
        assert_eq!(
            SegmentHeader::decode(&page),
            Err(HeaderError::UnknownVersion(9))
        );
    }

    proptest! {
        #[test]
        fn arbitrary_pages_never_panic(bytes in proptest::collection::vec(any::<u8>(), PAGE_BYTES)) {
            let mut page = [0; PAGE_BYTES];
            page.copy_from_slice(&bytes);
            prop_assert!(SegmentHeader::decode(&page).is_err());
        }
    }
}
