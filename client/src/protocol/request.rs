//! What a client asks of a node.

use super::{PROTOCOL_VERSION, ProtocolError, put_option, read_kind, read_option};
use bytes::Bytes;
use pontoon_types::codec::{DecodeError, Reader, put_bytes, put_varint};
use pontoon_types::{Command, Epoch, LogIndex, NodeId, ShardId};

const COMMAND: u8 = 1;
const GET: u8 = 2;
const SCAN: u8 = 3;
const HINTS: u8 = 4;
const STATUS: u8 = 5;
const MEMBERS: u8 = 6;
const MARK: u8 = 7;
const DIGEST: u8 = 8;
const PAGE: u8 = 9;

/// Changes of members in a request, at most: more than anybody has a use for, and few bytes in memory.
const MAX_MEMBER_STEPS: usize = 64;

/// A request as a node reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Propose a command. These are the bytes of a [`Command`], not decoded yet; as they are they become
    /// the payload of the entry.
    Command(Bytes),
    /// Read a key, linearizably.
    Get {
        /// The shard it was routed to.
        shard: ShardId,
        /// The epoch by which it was routed.
        epoch: Epoch,
        /// The key.
        key: Bytes,
    },
    /// Read a part of a shard in key order, linearizably: each page sees every write that was
    /// acknowledged before the page was asked for.
    Scan {
        /// The shard it was routed to.
        shard: ShardId,
        /// The epoch by which it was routed.
        epoch: Epoch,
        /// Which rows of it.
        range: ScanRange,
    },
    /// Who holds the meta group, and where the nodes are. Any node answers from what it knows.
    Hints,
    /// How the node is.
    Status,
    /// Change the members of a shard's group, in one step. Only its leader can.
    Members {
        /// The shard.
        shard: ShardId,
        /// What to change.
        steps: Vec<MemberStep>,
    },
    /// Put a mark into the log of a shard's group; only its leader can. Every replica that applies it holds its state
    /// as of there for a while.
    Mark {
        /// The shard.
        shard: ShardId,
    },
    /// What the state that the node's replica holds at a mark comes to.
    Digest {
        /// The shard.
        shard: ShardId,
        /// The mark's index.
        index: LogIndex,
    },
    /// Rows of the state that the node's replica holds at a mark.
    Page {
        /// The shard.
        shard: ShardId,
        /// The mark's index.
        index: LogIndex,
        /// About so many bytes of keys and values, but at least one row.
        max_bytes: u32,
        /// The key behind which to begin; `None`: with the first.
        after: Option<Bytes>,
    },
}

/// A step of a change of members, in terms of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberStep {
    /// The node gets a new replica, which follows without a vote.
    AddLearner(NodeId),
    /// The learner on the node gets a vote; or the node gets a new replica that has one at once.
    AddVoter(NodeId),
    /// The voter on the node goes on as a learner.
    Demote(NodeId),
    /// The node's replica is no member any more.
    Remove(NodeId),
}

impl MemberStep {
    const fn parts(self) -> (u8, NodeId) {
        match self {
            Self::AddLearner(node) => (1, node),
            Self::AddVoter(node) => (2, node),
            Self::Demote(node) => (3, node),
            Self::Remove(node) => (4, node),
        }
    }

    fn of_parts(kind: u8, node: NodeId) -> Result<Self, DecodeError> {
        match kind {
            1 => Ok(Self::AddLearner(node)),
            2 => Ok(Self::AddVoter(node)),
            3 => Ok(Self::Demote(node)),
            4 => Ok(Self::Remove(node)),
            _ => Err(DecodeError::Invalid {
                what: "a change of members of an unknown kind",
            }),
        }
    }
}

/// Which rows a scan asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRange {
    /// The first key.
    pub from: Bytes,
    /// The key before which to stop; `None`: the end of the shard.
    pub to: Option<Bytes>,
    /// The most rows in the answer.
    pub max_rows: u32,
    /// The most bytes of keys and values in the answer, unless its first row alone is larger.
    pub max_bytes: u32,
}

/// Appends a request with a command.
pub fn encode_command(out: &mut Vec<u8>, command: &Command<'_>) {
    put_head(out, COMMAND);
    command.encode(out);
}

/// Appends a request to read a key.
pub fn encode_get(out: &mut Vec<u8>, shard: ShardId, epoch: Epoch, key: &[u8]) {
    put_head(out, GET);
    put_route(out, shard, epoch);
    out.extend_from_slice(key);
}

/// Appends a request to read a part of a shard.
pub fn encode_scan(out: &mut Vec<u8>, shard: ShardId, epoch: Epoch, range: &ScanRange) {
    put_head(out, SCAN);
    put_route(out, shard, epoch);
    put_bytes(out, &range.from);
    put_option(out, range.to.as_deref());
    put_varint(out, u64::from(range.max_rows));
    put_varint(out, u64::from(range.max_bytes));
}

/// Appends a request for [`Hints`](super::Hints).
pub fn encode_hints(out: &mut Vec<u8>) {
    put_head(out, HINTS);
}

/// Appends a request for the node's status.
pub fn encode_status(out: &mut Vec<u8>) {
    put_head(out, STATUS);
}

/// Appends a request to change the members of a shard's group.
pub fn encode_members(out: &mut Vec<u8>, shard: ShardId, steps: &[MemberStep]) {
    put_head(out, MEMBERS);
    put_varint(out, shard.0);
    put_varint(out, steps.len() as u64);
    for step in steps {
        let (kind, node) = step.parts();
        out.push(kind);
        put_varint(out, node.0);
    }
}

/// Appends a request to put a mark into the log of a shard's group.
pub fn encode_mark(out: &mut Vec<u8>, shard: ShardId) {
    put_head(out, MARK);
    put_varint(out, shard.0);
}

/// Appends a request for the digest of the state at a mark.
pub fn encode_digest(out: &mut Vec<u8>, shard: ShardId, index: LogIndex) {
    put_head(out, DIGEST);
    put_varint(out, shard.0);
    put_varint(out, index.0);
}

/// Appends a request for rows of the state at a mark.
pub fn encode_page(
    out: &mut Vec<u8>,
    shard: ShardId,
    index: LogIndex,
    max_bytes: u32,
    after: Option<&[u8]>,
) {
    put_head(out, PAGE);
    for number in [shard.0, index.0, u64::from(max_bytes)] {
        put_varint(out, number);
    }
    put_option(out, after);
}

fn put_head(out: &mut Vec<u8>, kind: u8) {
    out.extend_from_slice(&[PROTOCOL_VERSION, kind]);
}

fn put_route(out: &mut Vec<u8>, shard: ShardId, epoch: Epoch) {
    for number in [shard.0, epoch.range, epoch.membership] {
        put_varint(out, number);
    }
}

impl Request {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Request::Command(command) => {
                put_head(out, COMMAND);
                out.extend_from_slice(command);
            }
            Request::Get { shard, epoch, key } => encode_get(out, *shard, *epoch, key),
            Request::Scan {
                shard,
                epoch,
                range,
            } => encode_scan(out, *shard, *epoch, range),
            Request::Hints => encode_hints(out),
            Request::Status => encode_status(out),
            Request::Members { shard, steps } => encode_members(out, *shard, steps),
            Request::Mark { shard } => encode_mark(out, *shard),
            Request::Digest { shard, index } => encode_digest(out, *shard, *index),
            Request::Page {
                shard,
                index,
                max_bytes,
                after,
            } => encode_page(out, *shard, *index, *max_bytes, after.as_deref()),
        }
    }

    /// Reads a whole request. Keys and the command share its memory. A command is not looked into, and
    /// lengths of keys are not held against a cluster's limits: both are for the node to check.
    ///
    /// # Errors
    /// If `message` is not exactly one request of a known version and kind.
    pub fn decode(message: &Bytes) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(message);
        let kind = read_kind(&mut reader)?;
        let request = match kind {
            COMMAND => Request::Command(message.slice(reader.position()..)),
            GET => {
                let (shard, epoch) = read_route(&mut reader)?;
                Request::Get {
                    shard,
                    epoch,
                    key: message.slice(reader.position()..),
                }
            }
            SCAN => {
                let (shard, epoch) = read_route(&mut reader)?;
                let range = ScanRange {
                    from: message.slice_ref(reader.bytes()?),
                    to: read_option(&mut reader)?.map(|to| message.slice_ref(to)),
                    max_rows: u32_of(&mut reader)?,
                    max_bytes: u32_of(&mut reader)?,
                };
                reader.finish()?;
                Request::Scan {
                    shard,
                    epoch,
                    range,
                }
            }
            HINTS | STATUS => {
                reader.finish()?;
                if kind == HINTS {
                    Request::Hints
                } else {
                    Request::Status
                }
            }
            MEMBERS => {
                let shard = ShardId(reader.varint()?);
                let count = reader.count(2)?;
                if count > MAX_MEMBER_STEPS {
                    let what = "more changes of members at once than the 64 that are taken";
                    return Err(DecodeError::Invalid { what }.into());
                }
                let mut steps = Vec::with_capacity(count);
                for _ in 0..count {
                    steps.push(MemberStep::of_parts(
                        reader.u8()?,
                        NodeId(reader.varint()?),
                    )?);
                }
                reader.finish()?;
                Request::Members { shard, steps }
            }
            MARK => {
                let shard = ShardId(reader.varint()?);
                reader.finish()?;
                Request::Mark { shard }
            }
            DIGEST => {
                let shard = ShardId(reader.varint()?);
                let index = LogIndex(reader.varint()?);
                reader.finish()?;
                Request::Digest { shard, index }
            }
            PAGE => {
                let shard = ShardId(reader.varint()?);
                let index = LogIndex(reader.varint()?);
                let max_bytes = u32_of(&mut reader)?;
                let after = read_option(&mut reader)?.map(|after| message.slice_ref(after));
                reader.finish()?;
                Request::Page {
                    shard,
                    index,
                    max_bytes,
                    after,
                }
            }
            kind => return Err(ProtocolError::UnknownKind { kind }),
        };
        Ok(request)
    }
}

fn read_route(reader: &mut Reader<'_>) -> Result<(ShardId, Epoch), DecodeError> {
    let shard = ShardId(reader.varint()?);
    let epoch = Epoch {
        range: reader.varint()?,
        membership: reader.varint()?,
    };
    Ok((shard, epoch))
}

fn u32_of(reader: &mut Reader<'_>) -> Result<u32, DecodeError> {
    u32::try_from(reader.varint()?).map_err(|_| DecodeError::Invalid {
        what: "a number is over 32 bits",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_bytes() -> impl Strategy<Value = Bytes> {
        any::<Vec<u8>>().prop_map(Bytes::from)
    }

    fn any_request() -> impl Strategy<Value = Request> {
        let route = any::<(u64, u64, u64)>()
            .prop_map(|(shard, range, membership)| (ShardId(shard), Epoch { range, membership }));
        let range = (any_bytes(), any::<Option<Vec<u8>>>(), any::<(u32, u32)>()).prop_map(
            |(from, to, (max_rows, max_bytes))| ScanRange {
                from,
                to: to.map(Bytes::from),
                max_rows,
                max_bytes,
            },
        );
        prop_oneof![
            any_bytes().prop_map(Request::Command),
            (route.clone(), any_bytes()).prop_map(|((shard, epoch), key)| Request::Get {
                shard,
                epoch,
                key
            }),
            (route, range).prop_map(|((shard, epoch), range)| Request::Scan {
                shard,
                epoch,
                range
            }),
            Just(Request::Hints),
            Just(Request::Status),
            any::<u64>().prop_map(|shard| Request::Mark {
                shard: ShardId(shard)
            }),
            any::<(u64, u64)>().prop_map(|(shard, index)| Request::Digest {
                shard: ShardId(shard),
                index: LogIndex(index),
            }),
            any::<(u64, u64, u32, Option<Vec<u8>>)>().prop_map(
                |(shard, index, max_bytes, after)| Request::Page {
                    shard: ShardId(shard),
                    index: LogIndex(index),
                    max_bytes,
                    after: after.map(Bytes::from),
                }
            ),
            (
                any::<u64>(),
                prop::collection::vec((1u8..=4, any::<u64>()), 0..4)
            )
                .prop_map(|(shard, steps)| Request::Members {
                    shard: ShardId(shard),
                    steps: steps
                        .into_iter()
                        .filter_map(|(kind, node)| MemberStep::of_parts(kind, NodeId(node)).ok())
                        .collect(),
                }),
        ]
    }

    proptest! {
        #[test]
        fn a_request_reads_back(request in any_request()) {
            let mut message = Vec::new();
            request.encode(&mut message);
            prop_assert_eq!(Request::decode(&message.into()), Ok(request));
        }

        #[test]
        fn a_cut_request_is_never_taken_for_another_kind(request in any_request(), at: prop::sample::Index) {
            let mut message = Vec::new();
            request.encode(&mut message);
            message.truncate(at.index(message.len()));
            if let Ok(back) = Request::decode(&message.into()) {
                // Only what runs to the end of the message can be cut without a trace; the transport's
                // frames carry the length of that.
                prop_assert_eq!(
                    core::mem::discriminant(&back),
                    core::mem::discriminant(&request)
                );
                let open = matches!(back, Request::Command(_) | Request::Get { .. });
                prop_assert!(open);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(kind: u8, bytes: Vec<u8>) {
            let _ = Request::decode(&bytes.clone().into());
            let message = [&[PROTOCOL_VERSION, kind % (PAGE + 1)][..], &bytes].concat();
            let _ = Request::decode(&message.into());
        }
    }

    #[test]
    fn more_changes_of_members_than_anybody_needs_are_refused_unread() {
        let decoded_with = |count| {
            let steps = vec![MemberStep::Remove(NodeId(1)); count];
            let shard = ShardId(1);
            let mut message = Vec::new();
            Request::Members { shard, steps }.encode(&mut message);
            Request::decode(&message.into())
        };
        assert!(decoded_with(MAX_MEMBER_STEPS).is_ok());
        assert!(decoded_with(MAX_MEMBER_STEPS + 1).is_err());
    }

    #[test]
    fn a_command_travels_as_the_bytes_that_the_log_will_hold() {
        use pontoon_types::{Mutation, Operation, Sequence, SessionId};
        let command = Command {
            request: pontoon_types::Request {
                shard: ShardId(3),
                epoch: Epoch {
                    range: 1,
                    membership: 1,
                },
                session: SessionId(9),
                sequence: Sequence(4),
            },
            operation: Operation::Write(vec![Mutation::Delete { key: b"k" }]),
        };
        let mut message = Vec::new();
        encode_command(&mut message, &command);
        let request = Request::decode(&message.into()).unwrap();
        let Request::Command(bytes) = request else {
            panic!("{request:?}");
        };
        let mut alone = Vec::new();
        command.encode(&mut alone);
        assert_eq!(bytes, alone);
        assert_eq!(Command::decode(&bytes), Ok(command));
    }

    #[test]
    fn a_request_is_laid_out_as_described() {
        let epoch = Epoch {
            range: 4,
            membership: 5,
        };
        let mut message = Vec::new();
        encode_get(&mut message, ShardId(300), epoch, b"key");
        assert_eq!(message, [&[1, 2, 0xac, 2, 4, 5][..], b"key"].concat());
    }

    #[test]
    fn what_this_build_does_not_know_is_named() {
        let unknown = |bytes: &'static [u8]| Request::decode(&Bytes::from_static(bytes));
        let version = 9;
        assert_eq!(
            unknown(&[9, 1]),
            Err(ProtocolError::UnknownVersion { version })
        );
        let kind = 99;
        assert_eq!(unknown(&[1, 99]), Err(ProtocolError::UnknownKind { kind }));
    }
}
