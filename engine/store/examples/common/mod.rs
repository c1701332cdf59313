//! What the examples share.
#![allow(dead_code, reason = "each example uses its part")]

use pontoon_store::ReplicaRecord;
use pontoon_types::{
    Command, ConfState, Entry, EntryKind, Epoch, GroupId, LogIndex, Members, Mutation, NodeId,
    Operation, ReplicaId, Request, Sequence, SessionId, ShardId, TabletId, Term,
};
use std::time::Duration;

/// Random numbers that are the same in every run (xorshift64).
pub(crate) struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Bytes that do not compress.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for bytes in bytes.chunks_mut(8) {
            bytes.copy_from_slice(&self.next().to_le_bytes()[..bytes.len()]);
        }
    }
}

/// A share of sorted durations.
pub(crate) fn at(sorted: &[Duration], share: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

/// How long this thread has been on a processor (Linux: `proc(5)`, schedstat).
pub(crate) fn thread_cpu() -> std::io::Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok());
    Ok(Duration::from_nanos(nanoseconds.unwrap_or(0)))
}

/// The record of a group that has all keys, in a tablet named as it is.
pub(crate) fn record(group: u64) -> ReplicaRecord {
    ReplicaRecord {
        group: GroupId(group),
        shard: ShardId(group),
        replica: ReplicaId(1),
        start: bytes::Bytes::new(),
        end: bytes::Bytes::new(),
        epoch: Epoch::default(),
        pieces: TabletId(group).into(),
        conf_state: ConfState::of_voters([ReplicaId(1)]),
        members: Members::new([(ReplicaId(1), NodeId(1))]),
        descriptor: bytes::Bytes::new(),
    }
}

/// An entry that puts a row.
pub(crate) fn put(group: u64, index: LogIndex, key: &[u8], value: &[u8]) -> Entry {
    let command = Command {
        request: Request {
            shard: ShardId(group),
            epoch: Epoch::default(),
            session: SessionId(0),
            sequence: Sequence(0),
        },
        operation: Operation::Write(vec![Mutation::Put { key, value }]),
    };
    let mut payload = Vec::new();
    command.encode(&mut payload);
    Entry::encode(GroupId(group), Term(1), index, EntryKind::Command, &payload)
}
