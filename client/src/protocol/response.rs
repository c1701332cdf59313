//! What a node answers.

use super::{MAX_TEXT_BYTES, PROTOCOL_VERSION, ProtocolError, put_option, read_kind, read_option};
use bytes::Bytes;
use core::fmt;
use core::time::Duration;
use pontoon_shard_router::{NodeDescriptor, ShardDescriptor};
use pontoon_types::codec::{DecodeError, Reader, put_bytes, put_varint};
use pontoon_types::{ClusterId, LogIndex, NodeId, ReplicaId};

const WRITTEN: u8 = 1;
const SWAPPED: u8 = 2;
const NOT_SWAPPED: u8 = 3;
const VALUE: u8 = 4;
const ROWS: u8 = 5;
const HINTS: u8 = 6;
const STATUS: u8 = 7;
const MARKED: u8 = 8;
const DIGEST: u8 = 9;
const NOT_LEADER: u8 = 16;
const STALE_EPOCH: u8 = 17;
const OVERLOADED: u8 = 18;
const NOT_HERE: u8 = 19;
const REFUSED: u8 = 20;
const UNAVAILABLE: u8 = 21;
const UNKNOWN_OUTCOME: u8 = 22;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// A write was committed and applied.
    Written,
    /// A compare-and-swap found what it expected and set the new value.
    Swapped,
    /// A compare-and-swap found something else and changed nothing.
    NotSwapped {
        /// What it found.
        actual: Option<Bytes>,
    },
    /// The value of the key that was asked for.
    Value(Option<Bytes>),
    /// Rows of a scan, in key order.
    Rows {
        /// Keys and values.
        rows: Vec<(Bytes, Bytes)>,
        /// Whether the range holds more behind the last row.
        more: bool,
    },
    /// Where to begin.
    Hints(Hints),
    /// How the node is, as JSON that the node's own crate describes.
    Status(Bytes),
    /// A mark was committed and applied at this index.
    Marked(LogIndex),
    /// What a replica's state at a mark comes to.
    Digest(DigestState),
    /// This replica does not lead; nothing was proposed or read.
    NotLeader {
        /// The node of the replica that does, as far as this one knows.
        leader: Option<NodeId>,
    },
    /// The request was routed by an old descriptor; nothing was proposed or read.
    StaleEpoch {
        /// What the node knows of the range now.
        descriptors: Vec<ShardDescriptor>,
    },
    /// A bound was reached; nothing was proposed.
    Overloaded {
        /// When it is worth trying again, in whole milliseconds.
        retry_after: Duration,
    },
    /// This node has no replica of the shard.
    NotHere,
    /// The request is wrong and will be so on every node.
    Refused {
        /// In what way.
        code: RefusalCode,
        /// In words, for people.
        text: String,
    },
    /// The node cannot serve this now (it starts, stops, or has no quorum); nothing was proposed.
    Unavailable {
        /// In words, for people.
        text: String,
    },
    /// A command was proposed and its fate could not be learnt.
    UnknownOutcome,
}

/// Whether there is a digest of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestState {
    /// The replica holds no state at that index: it has not come there yet, was brought past it by a snapshot, or has let it
    /// go.
    NotHeld,
    /// It is being computed: ask again.
    Underway,
    /// The state could not be read; the node's log says why.
    Failed,
    /// The node gave the state up, because what it holds kept too much memory.
    GivenUp,
    /// Here it is.
    Known(Digest),
}

/// What a replica's state comes to at one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The replica.
    pub replica: ReplicaId,
    /// How many rows there are, those that are not a user's included.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// The hash of all that must be the same on all replicas.
    pub hash: u128,
}

/// In what way a request is wrong. An open set: codes of a newer node become [`RefusalCode::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RefusalCode {
    /// It cannot be read.
    Malformed,
    /// Its version or kind is unknown to the node.
    Unsupported,
    /// A key, value or command is over a limit, or a key is empty.
    TooLarge,
    /// A key lies outside the shard that the request names.
    OutOfRange,
    /// The certificate's owner may not do this.
    Forbidden,
    /// The members of the shard's group cannot be changed like that.
    Members,
    /// A code that this build does not know.
    Other(u8),
}

impl RefusalCode {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Malformed => 1,
            Self::Unsupported => 2,
            Self::TooLarge => 3,
            Self::OutOfRange => 4,
            Self::Forbidden => 5,
            Self::Members => 6,
            Self::Other(code) => code,
        }
    }

    const fn from_byte(code: u8) -> Self {
        match code {
            1 => Self::Malformed,
            2 => Self::Unsupported,
            3 => Self::TooLarge,
            4 => Self::OutOfRange,
            5 => Self::Forbidden,
            6 => Self::Members,
            code => Self::Other(code),
        }
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("malformed"),
            Self::Unsupported => f.write_str("unsupported"),
            Self::TooLarge => f.write_str("too large"),
            Self::OutOfRange => f.write_str("out of range"),
            Self::Forbidden => f.write_str("forbidden"),
            Self::Members => f.write_str("other members"),
            Self::Other(code) => write!(f, "code {code}"),
        }
    }
}

/// Where a client that knows one node begins: the meta group, whose rows are the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hints {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node that answers.
    pub node: NodeId,
    /// The meta shard, with its epoch and replicas.
    pub meta: ShardDescriptor,
    /// Every node that this one knows, itself included.
    pub nodes: Vec<NodeDescriptor>,
}

impl Response {
    /// Whether the request was done; if not, this says why not.
    #[must_use]
    pub const fn is_outcome(&self) -> bool {
        matches!(
            self,
            Self::Written
                | Self::Swapped
                | Self::NotSwapped { .. }
                | Self::Value(_)
                | Self::Rows { .. }
                | Self::Hints(_)
                | Self::Status(_)
                | Self::Marked(_)
                | Self::Digest(_)
        )
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(PROTOCOL_VERSION);
        match self {
            Self::Written => out.push(WRITTEN),
            Self::Swapped => out.push(SWAPPED),
            Self::NotSwapped { actual } => {
                out.push(NOT_SWAPPED);
                put_option(out, actual.as_deref());
            }
            Self::Value(value) => {
                out.push(VALUE);
                put_option(out, value.as_deref());
            }
            Self::Rows { rows, more } => {
                out.extend_from_slice(&[ROWS, u8::from(*more)]);
                let bytes: usize = rows.iter().map(|(k, v)| k.len() + v.len() + 8).sum();
                out.reserve(bytes);
                put_varint(out, rows.len() as u64);
                for (key, value) in rows {
                    put_bytes(out, key);
                    put_bytes(out, value);
                }
            }
            Self::Hints(hints) => {
                out.push(HINTS);
                hints.encode(out);
            }
            Self::Status(status) => {
                out.push(STATUS);
                out.extend_from_slice(status);
            }
            Self::Marked(index) => {
                out.push(MARKED);
                put_varint(out, index.0);
            }
            Self::Digest(digest) => {
                out.push(DIGEST);
                digest.encode(out);
            }
            Self::NotLeader { leader } => {
                out.push(NOT_LEADER);
                put_node(out, *leader);
            }
            Self::StaleEpoch { descriptors } => {
                out.push(STALE_EPOCH);
                put_varint(out, descriptors.len() as u64);
                for descriptor in descriptors {
                    descriptor.encode(out);
                }
            }
            Self::Overloaded { retry_after } => {
                out.push(OVERLOADED);
                let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
                put_varint(out, u64::from(retry_after_ms));
            }
            Self::NotHere => out.push(NOT_HERE),
            Self::Refused { code, text } => {
                out.extend_from_slice(&[REFUSED, code.to_byte()]);
                put_text(out, text);
            }
            Self::Unavailable { text } => {
                out.push(UNAVAILABLE);
                put_text(out, text);
            }
            Self::UnknownOutcome => out.push(UNKNOWN_OUTCOME),
        }
    }

    /// Reads a whole answer. Keys and values share its memory.
    ///
    /// # Errors
    /// If `message` is not exactly one answer of a known version and kind.
    pub fn decode(message: &Bytes) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(message);
        let kind = read_kind(&mut reader)?;
        let shared = |value: Option<&[u8]>| value.map(|value| message.slice_ref(value));
        let response = match kind {
            WRITTEN => Self::Written,
            SWAPPED => Self::Swapped,
            NOT_SWAPPED => Self::NotSwapped {
                actual: shared(read_option(&mut reader)?),
            },
            VALUE => Self::Value(shared(read_option(&mut reader)?)),
            ROWS => {
                let more = reader.flag()?;
                let count = reader.count(2)?;
                let mut rows = Vec::with_capacity(count);
                for _ in 0..count {
                    let key = message.slice_ref(reader.bytes()?);
                    rows.push((key, message.slice_ref(reader.bytes()?)));
                }
                Self::Rows { rows, more }
            }
            HINTS => Self::Hints(Hints::decode(&mut reader)?),
            STATUS => return Ok(Self::Status(message.slice(reader.position()..))),
            MARKED => Self::Marked(LogIndex(reader.varint()?)),
            DIGEST => Self::Digest(DigestState::decode(&mut reader)?),
            NOT_LEADER => Self::NotLeader {
                leader: read_node(&mut reader)?,
            },
            STALE_EPOCH => {
                let count = reader.count(10)?;
                let mut descriptors = Vec::with_capacity(count.min(16));
                for _ in 0..count {
                    descriptors.push(ShardDescriptor::decode_from(&mut reader)?);
                }
                Self::StaleEpoch { descriptors }
            }
            OVERLOADED => Self::Overloaded {
                retry_after: Duration::from_millis(reader.varint()?.min(u64::from(u32::MAX))),
            },
            NOT_HERE => Self::NotHere,
            REFUSED => {
                let code = RefusalCode::from_byte(reader.u8()?);
                let text = read_text(&reader);
                return Ok(Self::Refused { code, text });
            }
            UNAVAILABLE => {
                let text = read_text(&reader);
                return Ok(Self::Unavailable { text });
            }
            UNKNOWN_OUTCOME => Self::UnknownOutcome,
            kind => return Err(ProtocolError::UnknownKind { kind }),
        };
        reader.finish()?;
        Ok(response)
    }
}

impl DigestState {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::NotHeld => out.push(0),
            Self::Underway => out.push(1),
            Self::Failed => out.push(2),
            Self::GivenUp => out.push(4),
            Self::Known(digest) => {
                out.push(3);
                for number in [digest.replica.0, digest.rows, digest.bytes] {
                    put_varint(out, number);
                }
                out.extend_from_slice(&digest.hash.to_le_bytes());
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match reader.u8()? {
            0 => Self::NotHeld,
            1 => Self::Underway,
            2 => Self::Failed,
            4 => Self::GivenUp,
            3 => {
                let (replica, rows) = (ReplicaId(reader.varint()?), reader.varint()?);
                let bytes = reader.varint()?;
                let hash = reader.take(16)?.try_into().expect("16 bytes were taken");
                Self::Known(Digest {
                    replica,
                    rows,
                    bytes,
                    hash: u128::from_le_bytes(hash),
                })
            }
            _ => {
                return Err(DecodeError::Invalid {
                    what: "a digest in an unknown state",
                });
            }
        })
    }
}

impl Hints {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.cluster.0.to_le_bytes());
        put_varint(out, self.node.0);
        self.meta.encode(out);
        put_varint(out, self.nodes.len() as u64);
        for node in &self.nodes {
            node.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        let cluster = ClusterId(reader.u64()?);
        let node = NodeId(reader.varint()?);
        let meta = ShardDescriptor::decode_from(reader)?;
        let count = reader.count(3)?;
        let mut nodes = Vec::with_capacity(count.min(64));
        for _ in 0..count {
            nodes.push(NodeDescriptor::decode_from(reader)?);
        }
        Ok(Self {
            cluster,
            node,
            meta,
            nodes,
        })
    }
}

fn put_node(out: &mut Vec<u8>, node: Option<NodeId>) {
    out.push(u8::from(node.is_some()));
    if let Some(node) = node {
        put_varint(out, node.0);
    }
}

fn read_node(reader: &mut Reader<'_>) -> Result<Option<NodeId>, ProtocolError> {
    Ok(match reader.flag()? {
        true => Some(NodeId(reader.varint()?)),
        false => None,
    })
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = text.floor_char_boundary(MAX_TEXT_BYTES);
    out.extend_from_slice(&text.as_bytes()[..len]);
}

/// What remains, as text. Text is for people: what is not UTF-8 is shown as such, and what is too long
/// is cut.
fn read_text(reader: &Reader<'_>) -> String {
    let bytes = reader.rest();
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT_BYTES)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_shard_router::Replica;
    use pontoon_types::{Epoch, GroupId, ReplicaId, ShardId};
    use proptest::prelude::*;

    fn any_bytes() -> impl Strategy<Value = Bytes> {
        any::<Vec<u8>>().prop_map(Bytes::from)
    }

    fn any_option() -> impl Strategy<Value = Option<Bytes>> {
        prop::option::of(any_bytes())
    }

    fn any_node() -> impl Strategy<Value = Option<NodeId>> {
        any::<Option<u64>>().prop_map(|node| node.map(NodeId))
    }

    fn any_ms() -> impl Strategy<Value = Duration> {
        any::<u32>().prop_map(|ms| Duration::from_millis(u64::from(ms)))
    }

    prop_compose! {
        fn any_shard()(ids in (1u64.., 1u64..), start in any_bytes(), nodes in 1u64..6) -> ShardDescriptor {
            ShardDescriptor {
                shard: ShardId(ids.0),
                group: GroupId(ids.1),
                start,
                end: None,
                epoch: Epoch { range: 1, membership: 2 },
                replicas: (1..=nodes)
                    .map(|n| Replica { replica: ReplicaId(n), node: NodeId(n) })
                    .collect(),
            }
        }
    }

    fn any_hints() -> impl Strategy<Value = Hints> {
        let nodes = prop::collection::vec((1u64.., "[a-z]{1,9}:[0-9]{1,5}"), 0..5);
        (any::<(u64, u64)>(), any_shard(), nodes).prop_map(|((cluster, node), meta, nodes)| Hints {
            cluster: ClusterId(cluster),
            node: NodeId(node),
            meta,
            nodes: nodes
                .into_iter()
                .map(|(node, address)| NodeDescriptor {
                    node: NodeId(node),
                    address,
                })
                .collect(),
        })
    }

    fn any_response() -> impl Strategy<Value = Response> {
        let rows = prop::collection::vec((any_bytes(), any_bytes()), 0..20);
        prop_oneof![
            Just(Response::Written),
            Just(Response::Swapped),
            any_option().prop_map(|actual| Response::NotSwapped { actual }),
            any_option().prop_map(Response::Value),
            (rows, any::<bool>()).prop_map(|(rows, more)| Response::Rows { rows, more }),
            any_hints().prop_map(Response::Hints),
            any_bytes().prop_map(Response::Status),
            any::<u64>().prop_map(|index| Response::Marked(LogIndex(index))),
            (0u8..5, any::<(u64, u64, u64, u128)>()).prop_map(|(state, of)| {
                Response::Digest(match state {
                    0 => DigestState::NotHeld,
                    1 => DigestState::Underway,
                    2 => DigestState::Failed,
                    3 => DigestState::GivenUp,
                    _ => DigestState::Known(Digest {
                        replica: ReplicaId(of.0),
                        rows: of.1,
                        bytes: of.2,
                        hash: of.3,
                    }),
                })
            }),
            any_node().prop_map(|leader| Response::NotLeader { leader }),
            prop::collection::vec(any_shard(), 0..4)
                .prop_map(|descriptors| Response::StaleEpoch { descriptors }),
            any_ms().prop_map(|retry_after| Response::Overloaded { retry_after }),
            Just(Response::NotHere),
            (any::<u8>(), "\\PC{0,40}").prop_map(|(code, text)| Response::Refused {
                code: RefusalCode::from_byte(code),
                text
            }),
            "\\PC{0,40}".prop_map(|text| Response::Unavailable { text }),
            Just(Response::UnknownOutcome),
        ]
    }

    fn encoded(response: &Response) -> Bytes {
        let mut message = Vec::new();
        response.encode(&mut message);
        message.into()
    }

    proptest! {
        #[test]
        fn an_answer_reads_back(response in any_response()) {
            prop_assert_eq!(Response::decode(&encoded(&response)), Ok(response));
        }

        #[test]
        fn a_cut_answer_never_tells_another_outcome(
            response in any_response(), at: prop::sample::Index,
        ) {
            let message = encoded(&response);
            let cut = message.slice(..at.index(message.len()));
            if let Ok(back) = Response::decode(&cut) {
                let open = matches!(
                    back,
                    Response::Status(_) | Response::Refused { .. } | Response::Unavailable { .. }
                );
                prop_assert!(open, "{:?}", back);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(kind: u8, bytes: Vec<u8>) {
            let _ = Response::decode(&bytes.clone().into());
            let message = [&[PROTOCOL_VERSION, kind % 24][..], &bytes].concat();
            let _ = Response::decode(&message.into());
        }
    }

    #[test]
    fn a_hostile_count_of_rows_reserves_nothing() {
        let mut message = vec![PROTOCOL_VERSION, ROWS, 0];
        put_varint(&mut message, u64::MAX);
        assert!(matches!(
            Response::decode(&message.into()),
            Err(ProtocolError::Malformed(_))
        ));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = "ü".repeat(MAX_TEXT_BYTES);
        let message = encoded(&Response::Unavailable { text: text.clone() });
        let Ok(Response::Unavailable { text: back }) = Response::decode(&message) else {
            panic!("{message:?}");
        };
        assert_eq!(back.len(), MAX_TEXT_BYTES);
        assert!(text.starts_with(&back));
    }
}
