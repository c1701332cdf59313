//! What a node knows of a replica it has, durably and by itself.

use crate::Pieces;
use bytes::Bytes;
use pontoon_types::codec::{DecodeError, Reader, put_bytes, put_varint};
use pontoon_types::{ConfChange, ConfState, Epoch, GroupId, Members, ReplicaId, ShardId};

const VERSION: u8 = 3;

/// The record of a local replica: which group, which part of the key space, where its rows are.
///
/// A restart reads it from the store and never from flags. The row's format, of which the group is
/// the key:
///
/// ```text
/// version      u8      3
/// shard, replica, range epoch, member epoch      varints
/// start, end   length-prefixed; an empty end is the end of the key space
/// pieces       how many, and of each the tablet (varints), start and end (length-prefixed); see `Piece`
/// conf state   as `ConfState::encode`
/// members      as `Members::encode`
/// descriptor   length-prefixed
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaRecord {
    /// The Raft group.
    pub group: GroupId,
    /// The shard that the group owns.
    pub shard: ShardId,
    /// This node's member of the group.
    pub replica: ReplicaId,
    /// The first key of the shard.
    pub start: Bytes,
    /// The first key behind the shard; empty: it has all keys from `start` on.
    pub end: Bytes,
    /// The shard's version.
    pub epoch: Epoch,
    /// Where its rows are.
    pub pieces: Pieces,
    /// The group's members as they are at the applied index.
    pub conf_state: ConfState,
    /// Which node holds which of them, as of there as well.
    pub members: Members,
    /// The shard's descriptor as the router encodes it, to answer those who were routed by an old
    /// one. The store does not look into it.
    pub descriptor: Bytes,
}

impl ReplicaRecord {
    /// Whether `key` is in the shard's range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && (self.end.is_empty() || key < &self.end[..])
    }

    /// Whether a request was routed to this shard by its present range. Changes of members alone
    /// leave a request valid: the group is still the owner of the same keys.
    #[must_use]
    pub fn is_current(&self, shard: ShardId, epoch: Epoch) -> bool {
        self.shard == shard && self.epoch.range == epoch.range
    }

    /// What is wrong with it, if anything is.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if !self.end.is_empty() && self.end <= self.start {
            return Err("its range is empty");
        }
        self.pieces.check(&self.start, &self.end)
    }

    /// Makes a change of members that is committed. One that cannot be made changes nothing, as in
    /// `pontoon_raft::membership`. Returns whether it was made.
    pub(super) fn change_members(&mut self, change: &ConfChange) -> bool {
        let Ok(next) = self.conf_state.apply(change) else {
            return false;
        };
        self.members.apply(change, &next);
        self.conf_state = next;
        self.epoch.membership += 1;
        true
    }

    /// Appends the row's encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        let Epoch { range, membership } = self.epoch;
        for number in [self.shard.0, self.replica.0, range, membership] {
            put_varint(out, number);
        }
        put_bytes(out, &self.start);
        put_bytes(out, &self.end);
        self.pieces.encode(out);
        self.conf_state.encode(out);
        self.members.encode(out);
        put_bytes(out, &self.descriptor);
    }

    /// Reads what [`ReplicaRecord::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes are not a record, or one of another version.
    pub fn decode(group: GroupId, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(DecodeError::Invalid {
                what: "a record of another version of Pontoon",
            });
        }
        let record = Self {
            group,
            shard: ShardId(reader.varint()?),
            replica: ReplicaId(reader.varint()?),
            epoch: Epoch {
                range: reader.varint()?,
                membership: reader.varint()?,
            },
            start: Bytes::copy_from_slice(reader.bytes()?),
            end: Bytes::copy_from_slice(reader.bytes()?),
            pieces: Pieces::decode(&mut reader)?,
            conf_state: ConfState::decode(&mut reader)?,
            members: Members::decode(&mut reader)?,
            descriptor: Bytes::copy_from_slice(reader.bytes()?),
        };
        reader.finish()?;
        record
            .check()
            .map_err(|what| DecodeError::Invalid { what })?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_types::{NodeId, TabletId};
    use proptest::prelude::*;

    fn record() -> ReplicaRecord {
        ReplicaRecord {
            group: GroupId(7),
            shard: ShardId(300),
            replica: ReplicaId(2),
            start: Bytes::from_static(b"b"),
            end: Bytes::from_static(b"d"),
            epoch: Epoch {
                range: 4,
                membership: 9,
            },
            pieces: TabletId(12).into(),
            conf_state: ConfState::of_voters([ReplicaId(1), ReplicaId(2)]),
            members: Members::new([(ReplicaId(1), NodeId(4)), (ReplicaId(2), NodeId(5))]),
            descriptor: Bytes::from_static(b"opaque"),
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = ReplicaRecord::decode(GroupId(1), &bytes);
        }
    }

    /// One with several pieces.
    fn merged() -> ReplicaRecord {
        let (left, right) = (TabletId(12).into(), TabletId(400).into());
        let pieces = Pieces::join(&left, &right, b"c");
        ReplicaRecord { pieces, ..record() }
    }

    #[test]
    fn a_record_reads_back_and_every_shortened_one_is_refused() {
        for record in [record(), merged()] {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            assert_eq!(ReplicaRecord::decode(GroupId(7), &bytes), Ok(record));
            for len in 0..bytes.len() {
                assert!(
                    ReplicaRecord::decode(GroupId(7), &bytes[..len]).is_err(),
                    "{len} bytes"
                );
            }
        }
    }

    #[test]
    fn a_record_with_pieces_that_are_not_those_of_its_range_is_damage() {
        let mut bytes = Vec::new();
        let mut narrow = merged();
        narrow.pieces = narrow.pieces.split(b"c").0;
        for record in [
            narrow,
            ReplicaRecord {
                end: "b".into(),
                ..merged()
            },
        ] {
            bytes.clear();
            record.encode(&mut bytes);
            let read = ReplicaRecord::decode(GroupId(7), &bytes);
            assert!(matches!(read, Err(DecodeError::Invalid { .. })), "{read:?}");
        }
    }

    #[test]
    fn a_range_has_its_start_and_not_its_end() {
        let mut record = record();
        let held = |record: &ReplicaRecord| {
            ["a", "b", "c", "d"].map(|key| record.contains(key.as_bytes()))
        };
        assert_eq!(held(&record), [false, true, true, false]);
        record.end = Bytes::new();
        assert_eq!(held(&record), [false, true, true, true]);
    }

    #[test]
    fn only_the_range_half_of_an_epoch_makes_a_request_stale() {
        let record = record();
        let epoch = |range, membership| Epoch { range, membership };
        assert!(record.is_current(ShardId(300), epoch(4, 9)));
        assert!(record.is_current(ShardId(300), epoch(4, 1)));
        assert!(!record.is_current(ShardId(300), epoch(3, 9)));
        assert!(!record.is_current(ShardId(301), epoch(4, 9)));
    }
}
