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
//! gone also what is committed, that it is lost or fresh also the life of the node that has lost one. That it is damaged or
//! spared comes with the term.
//!
//! Entries are the envelopes that the leader encoded; they are not encoded again. A small one is copied
//! into the frame, a large one travels as a slice of its own. The receiver's entries are slices of the
//! frame that came in, and each is verified before Raft sees it.
//!
//! The frame has no checksum: TLS covers it on the wire, and an entry has its own, end to end.

mod builder;
mod reader;
#[cfg(test)]
mod tests;

pub use builder::{Frame, FrameBuilder};
pub use reader::{FrameReader, Item};

use crate::error::FrameError;
use pontoon_raft::{Message, MessageBody};
use pontoon_types::codec::DecodeError;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 3;

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
    pub(super) const DAMAGED: u8 = 16;
    pub(super) const SPARED: u8 = 17;
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
