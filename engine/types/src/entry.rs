//! The entry envelope: the one encoding of a log entry, from the leader that accepted it to the state
//! machine of the last follower.
//!
//! ```text
//! offset  size  field
//!      0     4  length of the whole envelope in bytes, header and payload
//!      4     4  CRC32C over every byte from offset 8 to the end
//!      8     8  group
//!     16     8  term
//!     24     8  index
//!     32     1  kind
//!     33     1  version of the envelope (1)
//!     34     2  reserved, zero
//!     36     -  payload
//! ```
//!
//! All numbers are little-endian. The checksum covers the group, so an entry that strays into another
//! group's log never verifies as one of its own.

use crate::block;
use crate::{GroupId, LogIndex, LogPosition, Term};
use bytes::Bytes;
use core::fmt;
use thiserror::Error;

/// Bytes before the payload.
pub const ENTRY_HEADER_BYTES: usize = 36;
/// The largest envelope that anyone accepts, 16 MiB. Settings may only lower it.
pub const MAX_ENTRY_BYTES: usize = 16 << 20;

const VERSION: u8 = 1;

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// The entry without payload that a leader appends at the start of its term (Raft §8).
    Empty = 0,
    /// A command for the state machine.
    Command = 1,
    /// A membership change (thesis §4).
    ConfChange = 2,
    /// A place in the log, without payload, that changes nothing: every replica pins its state as of exactly there, to be
    /// compared or copied.
    Mark = 3,
}

impl TryFrom<u8> for EntryKind {
    type Error = EntryError;

    fn try_from(value: u8) -> Result<Self, EntryError> {
        match value {
            0 => Ok(Self::Empty),
            1 => Ok(Self::Command),
            2 => Ok(Self::ConfChange),
            3 => Ok(Self::Mark),
            kind => Err(EntryError::UnknownKind { kind }),
        }
    }
}

/// Why bytes are not an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Fewer bytes than the header or its length field asks for.
    #[error("entry of {expected} bytes cut at {found}")]
    Truncated {
        /// What the length field, or the header's size, asks for.
        expected: usize,
        /// How many bytes there were.
        found: usize,
    },
    /// The length field is smaller than the header or larger than [`MAX_ENTRY_BYTES`].
    #[error("entry length {length} is outside {ENTRY_HEADER_BYTES}..={MAX_ENTRY_BYTES}")]
    Length {
        /// The length field.
        length: usize,
    },
    /// The checksum does not match.
    #[error("entry checksum {found:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// What the header says.
        found: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// An envelope version from a newer Pontoon.
    #[error("entry version {version} is not known")]
    UnknownVersion {
        /// The version byte.
        version: u8,
    },
    /// A kind from a newer Pontoon.
    #[error("entry kind {kind} is not known")]
    UnknownKind {
        /// The kind byte.
        kind: u8,
    },
}

/// A log entry: a cheap, shared handle on its encoded envelope.
///
/// Invariant: the bytes have a whole header, a length field equal to their own length, a known version
/// and a known kind. The checksum is verified where bytes come in ([`Entry::decode`]), not by the type.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Entry(Bytes);

impl Entry {
    /// Encodes and checksums an entry; the one place where that happens.
    ///
    /// # Panics
    /// If the payload is longer than [`MAX_ENTRY_BYTES`] allows; whoever accepts payloads bounds them.
    #[must_use]
    pub fn encode(
        group: GroupId,
        term: Term,
        index: LogIndex,
        kind: EntryKind,
        payload: &[u8],
    ) -> Self {
        let length = ENTRY_HEADER_BYTES + payload.len();
        assert!(
            length <= MAX_ENTRY_BYTES,
            "payload of {} bytes",
            payload.len()
        );
        Self(block::filled(length, |envelope| {
            let (header, rest) = envelope.split_at_mut(ENTRY_HEADER_BYTES);
            header[..4].copy_from_slice(&(length as u32).to_le_bytes());
            header[8..16].copy_from_slice(&group.0.to_le_bytes());
            header[16..24].copy_from_slice(&term.0.to_le_bytes());
            header[24..32].copy_from_slice(&index.0.to_le_bytes());
            header[32..].copy_from_slice(&[kind as u8, VERSION, 0, 0]);
            rest.copy_from_slice(payload);
            let checksum = crc32c::crc32c(&envelope[8..]);
            envelope[4..8].copy_from_slice(&checksum.to_le_bytes());
        }))
    }

    /// Takes over an envelope that came from a peer or a disk, after checking all of it.
    ///
    /// # Errors
    /// If it is not exactly one whole, known and undamaged envelope.
    pub fn decode(bytes: Bytes) -> Result<Self, EntryError> {
        let entry = Self::decode_unverified(bytes)?;
        entry.verify()?;
        Ok(entry)
    }

    /// Like [`Entry::decode`], but leaves the payload's checksum to a later [`Entry::verify`].
    ///
    /// # Errors
    /// If the header is not that of exactly these bytes.
    pub fn decode_unverified(bytes: Bytes) -> Result<Self, EntryError> {
        let length = Self::length_of(&bytes)?;
        if bytes.len() != length {
            return Err(EntryError::Truncated {
                expected: length,
                found: bytes.len(),
            });
        }
        EntryKind::try_from(bytes[32])?;
        if bytes[33] != VERSION {
            return Err(EntryError::UnknownVersion { version: bytes[33] });
        }
        Ok(Self(bytes))
    }

    /// The length of the envelope that starts at the front of `bytes`, which may go on after it.
    ///
    /// # Errors
    /// If there is no whole header, or its length field is out of bounds.
    pub fn length_of(bytes: &[u8]) -> Result<usize, EntryError> {
        let found = bytes.len();
        match bytes.first_chunk::<4>() {
            Some(length) if found >= ENTRY_HEADER_BYTES => {
                let length = u32::from_le_bytes(*length) as usize;
                if (ENTRY_HEADER_BYTES..=MAX_ENTRY_BYTES).contains(&length) {
                    Ok(length)
                } else {
                    Err(EntryError::Length { length })
                }
            }
            _ => Err(EntryError::Truncated {
                expected: ENTRY_HEADER_BYTES,
                found,
            }),
        }
    }

    /// Checks the checksum over all bytes.
    ///
    /// # Errors
    /// If they were changed since they were encoded.
    pub fn verify(&self) -> Result<(), EntryError> {
        let (found, computed) = (self.checksum(), crc32c::crc32c(&self.0[8..]));
        if found == computed {
            Ok(())
        } else {
            Err(EntryError::Checksum { found, computed })
        }
    }

    fn u64_at(&self, offset: usize) -> u64 {
        let bytes = self.0[offset..]
            .first_chunk()
            .expect("an entry has a whole header");
        u64::from_le_bytes(*bytes)
    }

    /// The group whose log it belongs to.
    #[must_use]
    pub fn group(&self) -> GroupId {
        GroupId(self.u64_at(8))
    }

    /// The term of the leader that accepted it.
    #[must_use]
    pub fn term(&self) -> Term {
        Term(self.u64_at(16))
    }

    /// Its index in the group's log.
    #[must_use]
    pub fn index(&self) -> LogIndex {
        LogIndex(self.u64_at(24))
    }

    /// Its index and term.
    #[must_use]
    pub fn position(&self) -> LogPosition {
        LogPosition {
            term: self.term(),
            index: self.index(),
        }
    }

    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> EntryKind {
        EntryKind::try_from(self.0[32]).expect("the kind was checked when the entry was made")
    }

    /// The CRC32C in its header.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        let bytes = self.0[4..]
            .first_chunk()
            .expect("an entry has a whole header");
        u32::from_le_bytes(*bytes)
    }

    /// What the state machine gets.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0[ENTRY_HEADER_BYTES..]
    }

    /// The payload as a slice that shares the envelope's memory.
    #[must_use]
    pub fn payload_bytes(&self) -> Bytes {
        self.0.slice(ENTRY_HEADER_BYTES..)
    }

    /// The whole envelope.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The length of the envelope in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (group, term, index) = (self.group(), self.term(), self.index());
        write!(
            f,
            "Entry(g{group} {term}/{index} {:?} {}B)",
            self.kind(),
            self.payload().len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[test]
    fn envelopes_of_every_size_read_back() {
        for payload_bytes in (0..1100).chain([4096, 65_536]) {
            let payload: Vec<u8> = (0..payload_bytes).map(|at| at as u8).collect();
            let entry = Entry::encode(
                GroupId(1),
                Term(2),
                LogIndex(3),
                EntryKind::Command,
                &payload,
            );
            assert_eq!(entry.payload(), payload);
            assert_eq!(entry.encoded_len(), ENTRY_HEADER_BYTES + payload_bytes);
            assert_eq!(entry.verify(), Ok(()));
        }
    }

    proptest! {
        #[test]
        fn an_entry_reads_back(group: u64, term: u64, index: u64, payload: Vec<u8>) {
            let (group, term, index) = (GroupId(group), Term(term), LogIndex(index));
            let entry = Entry::encode(group, term, index, EntryKind::Command, &payload);
            let back = Entry::decode(entry.as_bytes().clone());
            prop_assert_eq!(back.as_ref(), Ok(&entry));
            prop_assert_eq!(entry.group(), group);
            prop_assert_eq!(entry.position(), LogPosition { term, index });
            prop_assert_eq!(entry.payload(), &payload[..]);
        }

        #[test]
        fn one_flipped_bit_is_found(payload: Vec<u8>, at: prop::sample::Index, bit in 0..8u8) {
            let entry = Entry::encode(GroupId(7), Term(2), LogIndex(3), EntryKind::Command, &payload);
            let mut bytes = entry.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Entry::decode(bytes.into()).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Entry::decode(bytes.into());
        }
    }
}
