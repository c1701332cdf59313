//! One thing that a client asks, in a form that can be sent again by another descriptor.

use crate::protocol::{ScanRange, encode_command, encode_get, encode_scan};
use crate::routing::{Access, Place};
use bytes::Bytes;
use pontoon_shard_router::ShardDescriptor;
use pontoon_types::{Command, Operation};

/// Room for everything in a request but keys and values.
const HEAD_BYTES: usize = 96;

/// What is asked. Borrows keys and values from the caller.
#[derive(Debug)]
pub(crate) enum Ask<'a> {
    /// A command; shard and epoch are filled in by each try, session and sequence stay.
    Command {
        command: Command<'a>,
        /// About the length of its keys and values.
        payload_bytes: usize,
    },
    Get {
        key: &'a [u8],
    },
    /// A page of the user shard that owns its first key.
    Scan(ScanRange),
    /// A page of the map.
    ScanMap(ScanRange),
}

impl Ask<'_> {
    pub(crate) const fn access(&self) -> Access {
        match self {
            Self::Command { .. } => Access::Write,
            Self::Get { .. } | Self::Scan(_) | Self::ScanMap(_) => Access::Read,
        }
    }

    pub(crate) fn place(&self) -> Place<'_> {
        match self {
            Self::Command { command, .. } => match &command.operation {
                Operation::Write(mutations) => match &mutations[..] {
                    [mutation] => Place::Key(mutation.key()),
                    mutations => Place::Batch(mutations),
                },
                Operation::CompareAndSwap { key, .. } => Place::Key(key),
            },
            Self::Get { key } => Place::Key(key),
            Self::Scan(range) => Place::Key(&range.from),
            Self::ScanMap(_) => Place::Meta,
        }
    }

    /// The request as it goes to `shard`.
    pub(crate) fn encode(&mut self, shard: &ShardDescriptor) -> Bytes {
        let payload_bytes = match self {
            Self::Command { payload_bytes, .. } => *payload_bytes,
            Self::Get { key } => key.len(),
            Self::Scan(range) | Self::ScanMap(range) => {
                range.from.len() + range.to.as_ref().map_or(0, Bytes::len)
            }
        };
        let mut out = Vec::with_capacity(HEAD_BYTES + payload_bytes);
        match self {
            Self::Command { command, .. } => {
                command.request.shard = shard.shard;
                command.request.epoch = shard.epoch;
                encode_command(&mut out, command);
            }
            Self::Get { key } => encode_get(&mut out, shard.shard, shard.epoch, key),
            Self::ScanMap(range) => {
                encode_scan(&mut out, shard.shard, shard.epoch, range);
            }
            Self::Scan(range) => {
                let clipped = ScanRange {
                    from: range.from.clone(),
                    to: clip(range.to.as_ref(), shard.end.as_ref()),
                    ..*range
                };
                encode_scan(&mut out, shard.shard, shard.epoch, &clipped);
            }
        }
        out.into()
    }
}

/// The lower of two ends, of which either may be missing.
pub(crate) fn clip(to: Option<&Bytes>, end: Option<&Bytes>) -> Option<Bytes> {
    match (to, end) {
        (Some(to), Some(end)) => Some(to.min(end).clone()),
        (to, end) => to.or(end).cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Request;
    use pontoon_shard_router::Replica;
    use pontoon_types::{
        Epoch, GroupId, Mutation, NodeId, ReplicaId, Sequence, SessionId, ShardId,
    };

    fn shard(id: u64, range: u64, end: &'static [u8]) -> ShardDescriptor {
        ShardDescriptor {
            shard: ShardId(id),
            group: GroupId(id),
            start: Bytes::new(),
            end: Some(Bytes::from_static(end)),
            epoch: Epoch {
                range,
                membership: 1,
            },
            replicas: vec![Replica {
                replica: ReplicaId(1),
                node: NodeId(1),
            }],
        }
    }

    #[test]
    fn a_command_sent_again_is_the_same_command_routed_anew() {
        let mut ask = Ask::Command {
            command: Command {
                request: pontoon_types::Request {
                    shard: ShardId(0),
                    epoch: Epoch::default(),
                    session: SessionId(5),
                    sequence: Sequence(6),
                },
                operation: Operation::Write(vec![Mutation::Delete { key: b"k" }]),
            },
            payload_bytes: 3,
        };
        for (id, range) in [(2, 1), (9, 4)] {
            let message = ask.encode(&shard(id, range, b"z"));
            let request = Request::decode(&message).unwrap();
            let Request::Command(bytes) = request else {
                panic!("{request:?}");
            };
            let sent = Command::decode(&bytes).unwrap().request;
            assert_eq!((sent.shard, sent.epoch.range), (ShardId(id), range));
            assert_eq!((sent.session, sent.sequence), (SessionId(5), Sequence(6)));
        }
    }

    #[test]
    fn a_scan_asks_each_shard_for_no_more_than_its_range() {
        let range = |to: Option<&'static [u8]>| ScanRange {
            from: Bytes::from_static(b"a"),
            to: to.map(Bytes::from_static),
            max_rows: 10,
            max_bytes: 1000,
        };
        for (to, end, expected) in [
            (None, b"m", b"m"),
            (Some(&b"z"[..]), b"m", b"m"),
            (Some(b"c"), b"m", b"c"),
        ] {
            let message = Ask::Scan(range(to)).encode(&shard(2, 1, end));
            let request = Request::decode(&message).unwrap();
            let Request::Scan { range: asked, .. } = request else {
                panic!("{request:?}");
            };
            assert_eq!(asked.to.as_deref(), Some(&expected[..]));
        }
    }
}
