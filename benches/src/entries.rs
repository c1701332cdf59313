//! Entries, commands and the records of the replicas that execute them.

use bytes::Bytes;
use pontoon_store::ReplicaRecord;
use pontoon_types::{
    Command, ConfState, Entry, EntryKind, Epoch, GroupId, LogIndex, Members, Mutation, NodeId,
    Operation, ReplicaId, Request, Sequence, SessionId, ShardId, TabletId, Term,
};

/// The epoch of every shard here.
pub const EPOCH: Epoch = Epoch {
    range: 1,
    membership: 1,
};

/// An entry of term 1 with a payload of so many bytes.
#[must_use]
pub fn entry(group: GroupId, index: LogIndex, payload_bytes: usize) -> Entry {
    let payload = vec![index.0 as u8; payload_bytes];
    Entry::encode(group, Term(1), index, EntryKind::Command, &payload)
}

/// The key of a number: 24 bytes, in the order of the numbers.
#[must_use]
pub fn key(number: u64) -> String {
    format!("user{number:020}")
}

/// A put of one key in a group's shard.
#[must_use]
pub fn put<'a>(group: GroupId, key: &'a [u8], value: &'a [u8]) -> Command<'a> {
    Command {
        request: Request {
            shard: ShardId(group.0),
            epoch: EPOCH,
            session: SessionId(0x5e55_1014),
            sequence: Sequence(1_000_000),
        },
        operation: Operation::Write(vec![Mutation::Put { key, value }]),
    }
}

/// The same, encoded.
#[must_use]
pub fn command(group: GroupId, key: &[u8], value: &[u8]) -> Bytes {
    let mut bytes = Vec::new();
    put(group, key, value).encode(&mut bytes);
    bytes.into()
}

/// The record of a replica of a group with `voters` members, whose shard is the whole key space.
#[must_use]
pub fn record(group: GroupId, replica: ReplicaId, voters: u64) -> ReplicaRecord {
    ReplicaRecord {
        group,
        shard: ShardId(group.0),
        replica,
        start: Bytes::new(),
        end: Bytes::new(),
        epoch: EPOCH,
        pieces: TabletId(group.0).into(),
        conf_state: ConfState::of_voters((1..=voters).map(ReplicaId)),
        members: Members::new((1..=voters).map(|id| (ReplicaId(id), NodeId(id)))),
        descriptor: Bytes::new(),
    }
}
