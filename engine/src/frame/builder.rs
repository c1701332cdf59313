//! A frame on its way out.

use super::{Origin, VERSION, kind};
use bytes::Bytes;
use pontoon_raft::{Message, MessageBody};
use pontoon_types::codec::put_varint;
use pontoon_types::{Entry, GroupId, LogPosition, ReplicaId, Term};

/// Entries at least this long travel as slices; a shorter one costs less to copy than to track.
const SLICE_BYTES: usize = 2 << 10;

/// A frame on its way out: slices that follow one another on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The slices, in order.
    pub chunks: Vec<Bytes>,
}

impl Frame {
    /// The frame's length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.iter().all(Bytes::is_empty)
    }

    /// All slices in one piece, as the receiver gets them.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match self.chunks.as_slice() {
            [single] => single.clone(),
            chunks => chunks.concat().into(),
        }
    }
}

/// Gathers messages into a frame.
#[derive(Debug)]
pub struct FrameBuilder {
    origin: Origin,
    chunks: Vec<Bytes>,
    tail: Vec<u8>,
    chunk_bytes: usize,
}

impl FrameBuilder {
    /// A builder for frames of a worker.
    #[must_use]
    pub const fn new(origin: Origin) -> Self {
        Self {
            origin,
            chunks: Vec::new(),
            tail: Vec::new(),
            chunk_bytes: 0,
        }
    }

    /// Whether no message has been added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tail.is_empty() && self.chunks.is_empty()
    }

    /// Bytes gathered so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunk_bytes + self.tail.len()
    }

    fn begin(&mut self) {
        if self.is_empty() {
            self.tail
                .extend([VERSION, self.origin.worker, self.origin.workers]);
        }
    }

    /// Adds the notice that `replica` of `group` is lost: its node cannot vouch for what it has promised.
    pub fn push_lost(&mut self, group: GroupId, replica: ReplicaId, life: u64) {
        self.push_notice(kind::LOST, group, replica);
        put_varint(&mut self.tail, life);
    }

    /// Adds the notice that `replica` of `group` was made for the node that has lost one in that life: it has never been
    /// there before.
    pub fn push_fresh(&mut self, group: GroupId, replica: ReplicaId, life: u64) {
        self.push_notice(kind::FRESH, group, replica);
        put_varint(&mut self.tail, life);
    }

    /// Adds the question whether `replica` of `group`, which is the sender's and has lost rows, can be spared.
    pub fn push_damaged(&mut self, group: GroupId, replica: ReplicaId, term: Term) {
        self.push_notice(kind::DAMAGED, group, replica);
        put_varint(&mut self.tail, term.0);
    }

    /// Adds the answer of the leader of that term that `replica` of `group` can be spared.
    pub fn push_spared(&mut self, group: GroupId, replica: ReplicaId, term: Term) {
        self.push_notice(kind::SPARED, group, replica);
        put_varint(&mut self.tail, term.0);
    }

    /// Adds the notice that `replica` of `group` is no member any more.
    /// Up to `committed`, which its removal is not behind, the log is committed.
    pub fn push_gone(&mut self, group: GroupId, replica: ReplicaId, committed: LogPosition) {
        self.push_notice(kind::GONE, group, replica);
        self.position(committed);
    }

    /// Adds the question whether `replica` of `group`, which is the sender's, still is a member.
    pub fn push_question(&mut self, group: GroupId, replica: ReplicaId) {
        self.push_notice(kind::QUESTION, group, replica);
    }

    fn push_notice(&mut self, kind: u8, group: GroupId, replica: ReplicaId) {
        self.begin();
        self.tail.push(kind);
        put_varint(&mut self.tail, group.0);
        put_varint(&mut self.tail, replica.0);
    }

    /// Adds a message of `group`.
    pub fn push(&mut self, group: GroupId, message: &Message) {
        self.begin();
        match &message.body {
            MessageBody::RequestVote {
                last,
                pre,
                transfer,
            } => {
                self.head(kind::REQUEST_VOTE, group, message);
                self.position(*last);
                self.flags(*pre, *transfer);
            }
            MessageBody::VoteResponse {
                granted,
                pre,
                committed,
            } => {
                self.head(kind::VOTE_RESPONSE, group, message);
                self.flags(*granted, *pre);
                self.position(*committed);
            }
            MessageBody::Append {
                previous,
                commit,
                matched_by_all,
                read_round,
                entries,
            } => {
                self.head(kind::APPEND, group, message);
                self.position(*previous);
                self.numbers([
                    commit.0,
                    matched_by_all.0,
                    *read_round,
                    entries.len() as u64,
                ]);
                for entry in entries {
                    self.entry(entry);
                }
            }
            MessageBody::AppendResponse {
                matched,
                read_round,
            } => {
                self.head(kind::APPEND_RESPONSE, group, message);
                self.numbers([matched.0, *read_round]);
            }
            MessageBody::AppendRejected {
                rejected,
                hint,
                read_round,
            } => {
                self.head(kind::APPEND_REJECTED, group, message);
                self.numbers([rejected.0]);
                self.position(*hint);
                self.numbers([*read_round]);
            }
            MessageBody::Heartbeat {
                commit,
                matched_by_all,
                read_round,
            } => {
                self.head(kind::HEARTBEAT, group, message);
                self.numbers([commit.0, matched_by_all.0, *read_round]);
            }
            MessageBody::HeartbeatResponse { read_round } => {
                self.head(kind::HEARTBEAT_RESPONSE, group, message);
                self.numbers([*read_round]);
            }
            MessageBody::TimeoutNow => self.head(kind::TIMEOUT_NOW, group, message),
            MessageBody::ReadIndex { asker } => {
                self.head(kind::READ_INDEX, group, message);
                self.numbers([asker.incarnation, asker.round]);
            }
            MessageBody::ReadIndexResponse { asker, index } => {
                self.head(kind::READ_INDEX_RESPONSE, group, message);
                self.numbers([asker.incarnation, asker.round, index.0]);
            }
            MessageBody::InstallSnapshot { last, conf_state } => {
                self.head(kind::INSTALL_SNAPSHOT, group, message);
                self.position(*last);
                conf_state.encode(&mut self.tail);
            }
        }
    }

    /// The frame, leaving the builder empty.
    pub fn finish(&mut self) -> Frame {
        self.cut();
        self.chunk_bytes = 0;
        Frame {
            chunks: std::mem::take(&mut self.chunks),
        }
    }

    fn head(&mut self, kind: u8, group: GroupId, message: &Message) {
        self.tail.push(kind);
        self.numbers([group.0, message.from.0, message.to.0, message.term.0]);
    }

    fn numbers<const N: usize>(&mut self, numbers: [u64; N]) {
        for number in numbers {
            put_varint(&mut self.tail, number);
        }
    }

    fn position(&mut self, position: LogPosition) {
        self.numbers([position.term.0, position.index.0]);
    }

    fn flags(&mut self, first: bool, second: bool) {
        self.tail.extend([u8::from(first), u8::from(second)]);
    }

    fn entry(&mut self, entry: &Entry) {
        let bytes = entry.as_bytes();
        if bytes.len() < SLICE_BYTES {
            self.tail.extend_from_slice(bytes);
        } else {
            self.cut();
            self.chunk_bytes += bytes.len();
            self.chunks.push(bytes.clone());
        }
    }

    fn cut(&mut self) {
        if !self.tail.is_empty() {
            self.chunk_bytes += self.tail.len();
            // The next frame of this peer will be about as large; half of it spares most regrowth.
            let next = Vec::with_capacity(self.tail.len() / 2);
            self.chunks
                .push(std::mem::replace(&mut self.tail, next).into());
        }
    }
}
