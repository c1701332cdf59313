//! What the carriers of two nodes say to each other.
//!
//! ```text
//! version   u8      1
//! kind      u8      1 offer, 2 pull, 3 chunk, 4 end
//! group     varint
//! transfer  varint  the sender's number for it
//! offer     the InstallSnapshot, as a frame with that one message; the sender's record of the replica; both length-prefixed
//! pull      length-prefixed: the last key that has arrived, empty if none has
//! chunk     length-prefixed: the key after which it begins; u8: whether it is the last one, and if so u128: the
//!           hash of all rows; then key and value of each row, length-prefixed
//! end       u8      how
//! checksum  u32     CRC32C of all before it
//! ```
//!
//! TLS covers what is on the wire; the checksum covers the way through both processes, for rows have none of their own.

use crate::error::FrameError;
use crate::frame::{Frame, FrameBuilder, FrameReader, Origin};
use bytes::Bytes;
use pontoon_raft::{Message, MessageBody};
use pontoon_types::GroupId;
use pontoon_types::codec::{DecodeError, Reader, put_bytes, put_varint};

const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;

mod kind {
    pub(super) const OFFER: u8 = 1;
    pub(super) const PULL: u8 = 2;
    pub(super) const CHUNK: u8 = 3;
    pub(super) const END: u8 = 4;
}

/// One message between two carriers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMessage {
    /// The group.
    pub group: GroupId,
    /// The sender's number for the transfer.
    pub transfer: u64,
    /// What it says.
    pub body: SnapshotBody,
}

/// What a [`SnapshotMessage`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotBody {
    /// Sender: there is a snapshot. The receiver pulls it, or ends it.
    Offer {
        /// The InstallSnapshot that goes with it.
        message: Message,
        /// The encoded [`ReplicaRecord`](pontoon_store::ReplicaRecord) of the sender's replica as of the snapshot.
        record: Bytes,
    },
    /// Receiver: all rows up to this key are here; send what is next.
    Pull {
        /// The last key received; empty: nothing yet.
        after: Bytes,
    },
    /// Sender: the rows behind a key.
    Chunk {
        /// The key.
        after: Bytes,
        /// The hash of all rows of the snapshot, if these are the last ones.
        hash: Option<u128>,
        /// The rows: key and value each, length-prefixed.
        rows: Bytes,
    },
    /// Either: this transfer is over.
    End {
        /// How.
        how: End,
    },
}

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum End {
    /// Receiver: all of it is here, and the replica has been told.
    Delivered = 1,
    /// Receiver: not wanted, or not now.
    Refused = 2,
    /// Sender: it does not have this snapshot any more.
    Gone = 3,
}

impl SnapshotMessage {
    /// The frame of this message.
    #[must_use]
    pub fn encode(&self) -> Frame {
        let mut out = vec![VERSION, 0];
        put_varint(&mut out, self.group.0);
        put_varint(&mut out, self.transfer);
        out[1] = match &self.body {
            SnapshotBody::Offer { message, record } => {
                // Whom a carrier's frame came from is known; that it names no worker is not looked at.
                let mut builder = FrameBuilder::new(Origin {
                    worker: 0,
                    workers: 1,
                });
                builder.push(self.group, message);
                put_bytes(&mut out, &builder.finish().to_bytes());
                put_bytes(&mut out, record);
                kind::OFFER
            }
            SnapshotBody::Pull { after } => {
                put_bytes(&mut out, after);
                kind::PULL
            }
            SnapshotBody::Chunk { after, hash, rows } => {
                out.reserve(after.len() + rows.len() + 64);
                put_bytes(&mut out, after);
                out.push(u8::from(hash.is_some()));
                out.extend(hash.iter().flat_map(|hash| hash.to_le_bytes()));
                out.extend_from_slice(rows);
                kind::CHUNK
            }
            SnapshotBody::End { how } => {
                out.push(*how as u8);
                kind::END
            }
        };
        let checksum = crc32c::crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        Frame {
            chunks: vec![out.into()],
        }
    }

    /// Reads what [`SnapshotMessage::encode`] made.
    ///
    /// # Errors
    /// If the bytes are not a whole message, or were changed on their way.
    pub fn decode(frame: &Bytes) -> Result<Self, FrameError> {
        let invalid = |what| FrameError::Decode(DecodeError::Invalid { what });
        let Some((body, checksum)) = frame.split_last_chunk::<CHECKSUM_BYTES>() else {
            return Err(invalid("a message about a snapshot that is cut short"));
        };
        let mut reader = Reader::new(body);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(FrameError::UnknownVersion { version });
        }
        if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
            return Err(invalid("a message about a snapshot with a wrong checksum"));
        }
        let kind = reader.u8()?;
        let group = GroupId(reader.varint()?);
        let transfer = reader.varint()?;
        let body = match kind {
            kind::OFFER => {
                let mut inner = FrameReader::new(frame.slice_ref(reader.bytes()?))?;
                let record = frame.slice_ref(reader.bytes()?);
                match inner.next_message()? {
                    Some((of, message))
                        if of == group
                            && matches!(message.body, MessageBody::InstallSnapshot { .. }) =>
                    {
                        SnapshotBody::Offer { message, record }
                    }
                    _ => return Err(invalid("an offer of something that is no snapshot")),
                }
            }
            kind::PULL => SnapshotBody::Pull {
                after: frame.slice_ref(reader.bytes()?),
            },
            kind::CHUNK => {
                let after = frame.slice_ref(reader.bytes()?);
                let hash = if reader.flag()? {
                    let bytes = reader.take(16)?;
                    let bytes = bytes.try_into().expect("16 bytes were taken");
                    Some(u128::from_le_bytes(bytes))
                } else {
                    None
                };
                let rows = frame.slice_ref(reader.rest());
                return Ok(Self {
                    group,
                    transfer,
                    body: SnapshotBody::Chunk { after, hash, rows },
                });
            }
            kind::END => SnapshotBody::End {
                how: match reader.u8()? {
                    1 => End::Delivered,
                    2 => End::Refused,
                    3 => End::Gone,
                    _ => return Err(invalid("an end of an unknown kind")),
                },
            },
            kind => return Err(FrameError::UnknownKind { kind }),
        };
        reader.finish()?;
        Ok(Self {
            group,
            transfer,
            body,
        })
    }
}

/// Adds a row to those of a chunk.
pub(super) fn put_row(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    put_bytes(out, key);
    put_bytes(out, value);
}

/// The rows of a chunk, key and value each.
///
/// # Errors
/// An item is an error if the bytes end early; it is the last.
pub(super) fn rows(bytes: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), DecodeError>> {
    let mut reader = Reader::new(bytes);
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed || reader.is_empty() {
            return None;
        }
        let row = (|| Ok((reader.bytes()?, reader.bytes()?)))();
        failed = row.is_err();
        Some(row)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_types::{ConfState, LogIndex, LogPosition, ReplicaId, Term};
    use proptest::prelude::*;

    fn messages() -> Vec<SnapshotMessage> {
        let last = LogPosition {
            term: Term(3),
            index: LogIndex(70),
        };
        let message = Message {
            from: ReplicaId(1),
            to: ReplicaId(4),
            term: Term(5),
            body: MessageBody::InstallSnapshot {
                last,
                conf_state: Box::new(ConfState::of_voters([ReplicaId(1), ReplicaId(2)])),
            },
        };
        let mut rows = Vec::new();
        put_row(&mut rows, b"key", b"");
        put_row(&mut rows, b"other", &[7; 300]);
        [
            SnapshotBody::Offer {
                message,
                record: Bytes::from_static(b"record"),
            },
            SnapshotBody::Pull {
                after: Bytes::from_static(b"key"),
            },
            SnapshotBody::Chunk {
                after: Bytes::new(),
                hash: Some(u128::MAX - 1),
                rows: rows.into(),
            },
            SnapshotBody::Chunk {
                after: Bytes::from_static(b"a"),
                hash: None,
                rows: Bytes::new(),
            },
            SnapshotBody::End {
                how: End::Delivered,
            },
        ]
        .map(|body| SnapshotMessage {
            group: GroupId(300),
            transfer: 9,
            body,
        })
        .into()
    }

    #[test]
    fn messages_read_back_and_no_changed_or_shortened_one_does() {
        for message in messages() {
            let bytes = message.encode().to_bytes();
            assert_eq!(SnapshotMessage::decode(&bytes).unwrap(), message);
            for at in 0..bytes.len() {
                assert!(SnapshotMessage::decode(&bytes.slice(..at)).is_err());
                let mut changed = bytes.to_vec();
                changed[at] ^= 0x10;
                assert!(
                    SnapshotMessage::decode(&changed.into()).is_err(),
                    "byte {at}"
                );
            }
        }
    }

    #[test]
    fn rows_read_back_until_they_are_cut() {
        let mut bytes = Vec::new();
        put_row(&mut bytes, b"a", b"1");
        put_row(&mut bytes, b"b", b"22");
        let read: Vec<_> = rows(&bytes).collect();
        assert_eq!(
            read,
            [Ok((&b"a"[..], &b"1"[..])), Ok((&b"b"[..], &b"22"[..]))]
        );
        let cut: Vec<_> = rows(&bytes[..bytes.len() - 1]).collect();
        assert!(cut.len() == 2 && cut[1].is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>) {
            let _ = SnapshotMessage::decode(&bytes.clone().into());
            for row in rows(&bytes) {
                let _ = row;
            }
            bytes.splice(0..0, [VERSION]);
            let checksum = crc32c::crc32c(&bytes);
            bytes.extend_from_slice(&checksum.to_le_bytes());
            let _ = SnapshotMessage::decode(&bytes.into());
        }
    }
}
