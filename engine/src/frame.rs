//! The frame: everything that one cycle has to say to one peer, for all groups, as one piece.
//!
//! ```text
//! version   u8      1
//! worker    u8      the worker it comes from,
//! workers   u8      of how many, so that a node that shares its groups out alike need not look further
//! then, until the frame ends, per message:
//! kind      u8      see `kind`
//! group     varint
//! from, to  varint  replica ids
//! term      varint
//! fields            varints, in the order of the message's declaration; members as `ConfState` encodes them
//! entries           (append only) a count, then that many whole envelopes
//! ```
//!
//! A notice that a replica is lost or gone, or the question whether it is, has the kind, the group and the replica; that it is
//! gone also what is committed, that it is lost or fresh also the life of the node that has lost one.
//!
//! Entries are the envelopes that the leader encoded; they are not encoded again. A small one is copied
//! into the frame, a large one travels as a slice of its own. The receiver's entries are slices of the
//! frame that came in, and each is verified before Raft sees it.
//!
//! The frame has no checksum: TLS covers it on the wire, and an entry has its own, end to end.

use crate::error::FrameError;
use bytes::Bytes;
use pontoon_raft::{Entries, ForwardedRound, Message, MessageBody};
use pontoon_types::codec::{DecodeError, Reader, put_varint};
use pontoon_types::{ConfState, Entry, GroupId, LogIndex, LogPosition, ReplicaId, Term, mutant};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 3;

/// Entries at least this long travel as slices; a shorter one costs less to copy than to track.
const SLICE_BYTES: usize = 2 << 10;

mod kind {
    pub(super) const REQUEST_VOTE: u8 = 1;
    pub(super) const VOTE_RESPONSE: u8 = 2;
    pub(super) const APPEND: u8 = 3;
    pub(super) const APPEND_RESPONSE: u8 = 4;
    pub(super) const APPEND_REJECTED: u8 = 5;
    pub(super) const HEARTBEAT: u8 = 6;
    pub(super) const HEARTBEAT_RESPONSE: u8 = 7;
    pub(super) const INSTALL_SNAPSHOT: u8 = 8;
    pub(super) const TIMEOUT_NOW: u8 = 9;
    pub(super) const READ_INDEX: u8 = 10;
    pub(super) const READ_INDEX_RESPONSE: u8 = 11;
    pub(super) const LOST: u8 = 12;
    pub(super) const GONE: u8 = 13;
    pub(super) const QUESTION: u8 = 14;
    pub(super) const FRESH: u8 = 15;
}

/// How a frame travels. Frames on one lane arrive in order; those on the other do not wait for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Heartbeats, votes, transfers and reads: small, and not to be held up by entries.
    Control,
    /// Entries, and the answers to them.
    Append,
    /// Snapshots, which have frames of their own ([`crate::snapshot`]).
    Snapshot,
}

impl Lane {
    /// The lane of a message.
    #[must_use]
    pub const fn of(message: &Message) -> Self {
        match message.body {
            MessageBody::RequestVote { .. }
            | MessageBody::VoteResponse { .. }
            | MessageBody::Heartbeat { .. }
            | MessageBody::HeartbeatResponse { .. }
            | MessageBody::TimeoutNow
            | MessageBody::ReadIndex { .. }
            | MessageBody::ReadIndexResponse { .. } => Self::Control,
            MessageBody::Append { .. }
            | MessageBody::InstallSnapshot { .. }
            | MessageBody::AppendResponse { .. }
            | MessageBody::AppendRejected { .. } => Self::Append,
        }
    }
}

/// The worker that a frame comes from, and how many workers share the groups of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The worker's number, from 0 on.
    pub worker: u8,
    /// How many there are.
    pub workers: u8,
}

impl Origin {
    /// Reads the front of a frame.
    ///
    /// # Errors
    /// If the version is not known or the frame is cut short.
    pub fn of(frame: &[u8]) -> Result<Self, FrameError> {
        match *frame {
            [VERSION, worker, workers, ..] => Ok(Self { worker, workers }),
            [] | [VERSION, ..] => {
                let missing = HEADER_BYTES - frame.len();
                Err(FrameError::Decode(DecodeError::Truncated { missing }))
            }
            [version, ..] => Err(FrameError::UnknownVersion { version }),
        }
    }
}

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

/// What a frame holds of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A message of Raft.
    Message(Message),
    /// The sender's replica is lost: what it has promised may be forgotten, and it takes no part any more. With the life
    /// of the sender's process.
    Lost(ReplicaId, u64),
    /// This replica was made in answer to [`Item::Lost`] of that life.
    Fresh(ReplicaId, u64),
    /// This replica was removed, as of what the sender has applied: everything up to the position, which is committed.
    Gone(ReplicaId, LogPosition),
    /// The sender's replica wants to know whether it still is a member.
    Question(ReplicaId),
}

/// Reads the messages of a frame that came in, one by one.
///
/// After an error the rest of the frame cannot be read: the messages before it stand, what follows is
/// lost as if the network had dropped it.
#[derive(Debug)]
pub struct FrameReader {
    frame: Bytes,
    at: usize,
}

impl FrameReader {
    /// A reader at the first message.
    ///
    /// # Errors
    /// If the version is not known.
    pub fn new(frame: Bytes) -> Result<Self, FrameError> {
        Origin::of(&frame)?;
        Ok(Self {
            frame,
            at: HEADER_BYTES,
        })
    }

    /// The next item and its group; `None` at the end.
    ///
    /// # Errors
    /// If what follows is not a whole item, or an entry in it is damaged or not its group's.
    pub fn next_item(&mut self) -> Result<Option<(GroupId, Item)>, FrameError> {
        if self.at == self.frame.len() {
            return Ok(None);
        }
        let mut reader = Reader::new(&self.frame[self.at..]);
        let item = read_item(&self.frame, &mut reader)?;
        self.at += reader.position();
        Ok(Some(item))
    }

    /// The next message of Raft and its group; `None` at the end. Notices are passed over.
    ///
    /// # Errors
    /// As for [`FrameReader::next_item`].
    pub fn next_message(&mut self) -> Result<Option<(GroupId, Message)>, FrameError> {
        loop {
            match self.next_item()? {
                Some((group, Item::Message(message))) => return Ok(Some((group, message))),
                Some((
                    _,
                    Item::Lost(..) | Item::Fresh(..) | Item::Gone(..) | Item::Question(_),
                )) => {}
                None => return Ok(None),
            }
        }
    }
}

fn read_item(frame: &Bytes, reader: &mut Reader<'_>) -> Result<(GroupId, Item), FrameError> {
    let kind = reader.u8()?;
    let group = GroupId(reader.varint()?);
    match kind {
        kind::LOST | kind::FRESH => {
            let (replica, life) = (ReplicaId(reader.varint()?), reader.varint()?);
            let item = if kind == kind::LOST {
                Item::Lost(replica, life)
            } else {
                Item::Fresh(replica, life)
            };
            return Ok((group, item));
        }
        kind::GONE => {
            let replica = ReplicaId(reader.varint()?);
            return Ok((group, Item::Gone(replica, read_position(reader)?)));
        }
        kind::QUESTION => return Ok((group, Item::Question(ReplicaId(reader.varint()?)))),
        _ => {}
    }
    let (from, to) = (ReplicaId(reader.varint()?), ReplicaId(reader.varint()?));
    let term = Term(reader.varint()?);
    let body = match kind {
        kind::REQUEST_VOTE => MessageBody::RequestVote {
            last: read_position(reader)?,
            pre: reader.flag()?,
            transfer: reader.flag()?,
        },
        kind::VOTE_RESPONSE => MessageBody::VoteResponse {
            granted: reader.flag()?,
            pre: reader.flag()?,
            committed: read_position(reader)?,
        },
        kind::APPEND => MessageBody::Append {
            previous: read_position(reader)?,
            commit: LogIndex(reader.varint()?),
            matched_by_all: LogIndex(reader.varint()?),
            read_round: reader.varint()?,
            entries: read_entries(group, frame, reader)?,
        },
        kind::APPEND_RESPONSE => MessageBody::AppendResponse {
            matched: LogIndex(reader.varint()?),
            read_round: reader.varint()?,
        },
        kind::APPEND_REJECTED => MessageBody::AppendRejected {
            rejected: LogIndex(reader.varint()?),
            hint: read_position(reader)?,
            read_round: reader.varint()?,
        },
        kind::HEARTBEAT => MessageBody::Heartbeat {
            commit: LogIndex(reader.varint()?),
            matched_by_all: LogIndex(reader.varint()?),
            read_round: reader.varint()?,
        },
        kind::HEARTBEAT_RESPONSE => MessageBody::HeartbeatResponse {
            read_round: reader.varint()?,
        },
        kind::TIMEOUT_NOW => MessageBody::TimeoutNow,
        kind::READ_INDEX => MessageBody::ReadIndex {
            asker: read_forwarded_round(reader)?,
        },
        kind::READ_INDEX_RESPONSE => MessageBody::ReadIndexResponse {
            asker: read_forwarded_round(reader)?,
            index: LogIndex(reader.varint()?),
        },
        kind::INSTALL_SNAPSHOT => MessageBody::InstallSnapshot {
            last: read_position(reader)?,
            conf_state: Box::new(ConfState::decode(reader)?),
        },
        kind => return Err(FrameError::UnknownKind { kind }),
    };
    let message = Message {
        from,
        to,
        term,
        body,
    };
    Ok((group, Item::Message(message)))
}

fn read_position(reader: &mut Reader<'_>) -> Result<LogPosition, DecodeError> {
    Ok(LogPosition {
        term: Term(reader.varint()?),
        index: LogIndex(reader.varint()?),
    })
}

fn read_forwarded_round(reader: &mut Reader<'_>) -> Result<ForwardedRound, DecodeError> {
    Ok(ForwardedRound {
        incarnation: reader.varint()?,
        round: reader.varint()?,
    })
}

fn read_entries(
    group: GroupId,
    frame: &Bytes,
    reader: &mut Reader<'_>,
) -> Result<Entries, FrameError> {
    let count = reader.count(pontoon_types::ENTRY_HEADER_BYTES)?;
    let mut entries = Entries::with_capacity(count);
    for _ in 0..count {
        let length = Entry::length_of(reader.rest())?;
        let entry = Entry::decode_unverified(frame.slice_ref(reader.take(length)?))?;
        if !mutant!(DamagedEntriesPass) {
            entry.verify()?;
        }
        if entry.group() != group {
            return Err(FrameError::ForeignEntry {
                group,
                entry: entry.group(),
            });
        }
        entries.push(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_types::EntryKind;
    use proptest::prelude::*;

    const ORIGIN: Origin = Origin {
        worker: 1,
        workers: 2,
    };

    fn message(body: MessageBody) -> Message {
        Message {
            from: ReplicaId(1),
            to: ReplicaId(300),
            term: Term(9),
            body,
        }
    }

    fn entry(index: u64, payload: &[u8]) -> Entry {
        Entry::encode(
            GroupId(70),
            Term(9),
            LogIndex(index),
            EntryKind::Command,
            payload,
        )
    }

    fn append(entries: impl Into<Entries>) -> Message {
        message(MessageBody::Append {
            previous: LogPosition {
                term: Term(8),
                index: LogIndex(4),
            },
            commit: LogIndex(3),
            matched_by_all: LogIndex(2),
            read_round: 77,
            entries: entries.into(),
        })
    }

    fn read_all(frame: Bytes) -> Vec<(GroupId, Message)> {
        let mut reader = FrameReader::new(frame).unwrap();
        std::iter::from_fn(|| reader.next_message().unwrap()).collect()
    }

    #[test]
    fn every_kind_of_message_reads_back() {
        let position = LogPosition {
            term: Term(3),
            index: LogIndex(1 << 40),
        };
        let asker = ForwardedRound {
            incarnation: u64::MAX,
            round: 1,
        };
        let bodies = [
            MessageBody::RequestVote {
                last: position,
                pre: true,
                transfer: false,
            },
            MessageBody::VoteResponse {
                granted: false,
                pre: true,
                committed: position,
            },
            MessageBody::AppendResponse {
                matched: LogIndex(5),
                read_round: 6,
            },
            MessageBody::AppendRejected {
                rejected: LogIndex(5),
                hint: position,
                read_round: 6,
            },
            MessageBody::Heartbeat {
                commit: LogIndex(1),
                matched_by_all: LogIndex(2),
                read_round: 3,
            },
            MessageBody::HeartbeatResponse { read_round: 3 },
            MessageBody::TimeoutNow,
            MessageBody::ReadIndex { asker },
            MessageBody::ReadIndexResponse {
                asker,
                index: LogIndex(5),
            },
            MessageBody::InstallSnapshot {
                last: position,
                conf_state: Box::new(ConfState {
                    voters: vec![ReplicaId(1), ReplicaId(300)],
                    outgoing: vec![ReplicaId(1), ReplicaId(2)],
                    learners: vec![ReplicaId(7)],
                    learners_next: vec![ReplicaId(2)],
                    auto_leave: true,
                }),
            },
        ];
        let mut sent: Vec<_> = bodies.into_iter().map(message).collect();
        sent.push(append(vec![
            entry(5, b"small"),
            entry(6, &[7; 10_000]),
            entry(7, b""),
        ]));
        let mut builder = FrameBuilder::new(ORIGIN);
        for message in &sent {
            builder.push(GroupId(70), message);
        }
        let length = builder.len();
        let frame = builder.finish();
        assert!(builder.is_empty());
        assert_eq!(frame.len(), length);
        assert_eq!(Origin::of(&frame.to_bytes()).unwrap(), ORIGIN);
        let received = read_all(frame.to_bytes());
        assert_eq!(
            received,
            sent.into_iter()
                .map(|m| (GroupId(70), m))
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_followers_entry_bytes_are_the_leaders() {
        let (small, large) = (entry(5, b"small"), entry(6, &[7; 10_000]));
        let mut builder = FrameBuilder::new(ORIGIN);
        builder.push(GroupId(70), &append(vec![small.clone(), large.clone()]));
        let received = read_all(builder.finish().to_bytes());
        let MessageBody::Append { entries, .. } = &received[0].1.body else {
            panic!("an append was sent")
        };
        assert_eq!(entries[0].as_bytes(), small.as_bytes());
        assert_eq!(entries[1].as_bytes(), large.as_bytes());
    }

    #[test]
    fn an_entry_of_another_group_is_refused() {
        let mut builder = FrameBuilder::new(ORIGIN);
        builder.push(GroupId(71), &append(vec![entry(5, b"stray")]));
        let mut reader = FrameReader::new(builder.finish().to_bytes()).unwrap();
        assert!(matches!(
            reader.next_message(),
            Err(FrameError::ForeignEntry { .. })
        ));
    }

    #[test]
    fn a_damaged_entry_is_refused() {
        let mut builder = FrameBuilder::new(ORIGIN);
        builder.push(GroupId(70), &append(vec![entry(5, b"damaged on the way")]));
        let mut bytes = builder.finish().to_bytes().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        let mut reader = FrameReader::new(bytes.into()).unwrap();
        assert!(matches!(reader.next_message(), Err(FrameError::Entry(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>) {
            bytes.splice(0..0, [VERSION, 0, 1]);
            if let Ok(mut reader) = FrameReader::new(bytes.into()) {
                while let Ok(Some(_)) = reader.next_message() {}
            }
        }

        #[test]
        fn a_snapshots_members_read_back_whole_or_not_at_all(
            lists in prop::array::uniform4(prop::collection::btree_set(1u64.., 0..9)),
            auto_leave: bool,
            at: prop::sample::Index,
        ) {
            let [voters, outgoing, learners, learners_next] =
                lists.map(|ids| ids.into_iter().map(ReplicaId).collect());
            let conf_state = ConfState { voters, outgoing, learners, learners_next, auto_leave };
            let last = LogPosition { term: Term(3), index: LogIndex(1 << 40) };
            let conf_state = Box::new(conf_state);
            let sent = message(MessageBody::InstallSnapshot { last, conf_state });
            let mut builder = FrameBuilder::new(ORIGIN);
            builder.push(GroupId(70), &sent);
            let bytes = builder.finish().to_bytes();
            let whole = read_all(bytes.clone());
            prop_assert_eq!(whole, vec![(GroupId(70), sent)]);
            let cut = bytes.slice(..at.index(bytes.len() - HEADER_BYTES) + HEADER_BYTES);
            let is_empty = cut.len() == HEADER_BYTES;
            let read = FrameReader::new(cut).unwrap().next_message();
            prop_assert!(read.is_err() || is_empty);
        }

        #[test]
        fn forwarded_reads_read_back_whole_or_not_at_all(
            incarnation: u64,
            round: u64,
            index: u64,
            at: prop::sample::Index,
        ) {
            let asker = ForwardedRound { incarnation, round };
            let index = LogIndex(index);
            for body in [
                MessageBody::ReadIndex { asker },
                MessageBody::ReadIndexResponse { asker, index },
            ] {
                let sent = message(body);
                let mut builder = FrameBuilder::new(ORIGIN);
                builder.push(GroupId(70), &sent);
                let bytes = builder.finish().to_bytes();
                prop_assert_eq!(read_all(bytes.clone()), vec![(GroupId(70), sent)]);
                let length = at.index(bytes.len() - HEADER_BYTES) + HEADER_BYTES;
                let read = FrameReader::new(bytes.slice(..length)).unwrap().next_message();
                prop_assert!(read.is_err() || length == HEADER_BYTES);
            }
        }

        #[test]
        fn a_frame_cut_anywhere_is_an_error_or_shorter(at: prop::sample::Index) {
            let mut builder = FrameBuilder::new(ORIGIN);
            builder.push(GroupId(70), &append(vec![entry(5, b"one"), entry(6, b"two")]));
            let bytes = builder.finish().to_bytes();
            let cut = bytes.slice(..at.index(bytes.len()).max(HEADER_BYTES));
            let mut reader = FrameReader::new(cut).unwrap();
            while let Ok(Some((_, message))) = reader.next_message() {
                let is_append = matches!(message.body, MessageBody::Append { .. });
                prop_assert!(is_append);
            }
        }
    }
}
