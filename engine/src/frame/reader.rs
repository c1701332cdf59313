//! A frame that came in.

use super::{HEADER_BYTES, Origin, kind};
use crate::error::FrameError;
use bytes::Bytes;
use pontoon_raft::{Entries, ForwardedRound, Message, MessageBody};
use pontoon_types::codec::{DecodeError, Reader};
use pontoon_types::{
    ConfState, Entry, GroupId, LogIndex, LogPosition, MAX_COUNT, ReplicaId, Term, mutant,
};

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
    /// The sender's replica has lost rows, and asks the leader of this term whether it can be spared to be rebuilt.
    Damaged(ReplicaId, Term),
    /// It can, says that leader.
    Spared(ReplicaId, Term),
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
    /// If what follows is not a whole item, names what cannot be, or an entry in it is damaged or not its group's.
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
                Some(_) => {}
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
            let (replica, life) = (read_replica(reader)?, reader.varint()?);
            let item = if kind == kind::LOST {
                Item::Lost(replica, life)
            } else {
                Item::Fresh(replica, life)
            };
            return Ok((group, item));
        }
        kind::DAMAGED | kind::SPARED => {
            let (replica, term) = (read_replica(reader)?, Term(reader.varint()?));
            let item = if kind == kind::DAMAGED {
                Item::Damaged(replica, term)
            } else {
                Item::Spared(replica, term)
            };
            return Ok((group, item));
        }
        kind::GONE => {
            let replica = read_replica(reader)?;
            return Ok((group, Item::Gone(replica, read_position(reader)?)));
        }
        kind::QUESTION => return Ok((group, Item::Question(read_replica(reader)?))),
        _ => {}
    }
    let (from, to) = (read_replica(reader)?, read_replica(reader)?);
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

/// An id that a replica can have. A node keeps the highest that it has heard of, so one that is out of bounds would be
/// believed for ever.
fn read_replica(reader: &mut Reader<'_>) -> Result<ReplicaId, DecodeError> {
    match reader.varint()? {
        id @ 1..=MAX_COUNT => Ok(ReplicaId(id)),
        _ => Err(DecodeError::Invalid {
            what: "a replica's id is out of bounds",
        }),
    }
}

fn read_position(reader: &mut Reader<'_>) -> Result<LogPosition, DecodeError> {
    let (term, index) = (reader.varint()?, reader.varint()?);
    if term.max(index) > MAX_COUNT {
        return Err(DecodeError::Invalid {
            what: "a position in a log is out of bounds",
        });
    }
    Ok(LogPosition {
        term: Term(term),
        index: LogIndex(index),
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
