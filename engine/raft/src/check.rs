//! What a message must be before anyone believes it: bytes from a peer must never cause a panic (S12).
//!
//! Checked here is what can be told from the message alone. What depends on the replica's state is
//! checked where it is used.

use crate::error::StepError;
use crate::message::{Message, MessageBody};
use crate::raft::Raft;
use pontoon_types::{
    ConfChange, Entry, EntryKind, GroupId, LogIndex, LogPosition, MAX_COUNT, ReplicaId, Term,
};

impl Raft {
    pub(crate) fn check(&self, message: &Message) -> Result<(), StepError> {
        let Message { from, to, term, .. } = *message;
        if to != self.config.id {
            let id = self.config.id;
            return Err(StepError::Misdirected { to, id });
        }
        let malformed = |what| Err(StepError::Malformed { from, what });
        if from == to || from == ReplicaId(0) {
            return malformed("its sender cannot be");
        }
        if term.0 > MAX_COUNT {
            return malformed("its term is out of bounds");
        }
        match &message.body {
            MessageBody::RequestVote { last, .. } if last.term >= term || !is_possible(*last) => {
                malformed("its log does not fit its term")
            }
            MessageBody::VoteResponse { committed, .. }
                if committed.term > term || !is_possible(*committed) =>
            {
                malformed("what it knows to be committed cannot be")
            }
            MessageBody::Append { .. }
            | MessageBody::Heartbeat { .. }
            | MessageBody::InstallSnapshot { .. }
            | MessageBody::TimeoutNow
            | MessageBody::ReadIndexResponse { .. }
                if term == Term::ZERO =>
            {
                malformed("nobody leads term 0")
            }
            MessageBody::InstallSnapshot { last, conf_state } => {
                if last.index == LogIndex::ZERO || !is_possible(*last) || last.term > term {
                    malformed("its snapshot's position cannot be")
                } else if !conf_state.is_well_formed() {
                    malformed("its snapshot's members cannot be")
                } else {
                    Ok(())
                }
            }
            MessageBody::Append {
                previous, entries, ..
            } => match flaw(self.config.group, term, *previous, entries) {
                Some(what) => malformed(what),
                None => Ok(()),
            },
            MessageBody::ReadIndexResponse { index, .. } if index.0 > MAX_COUNT => {
                malformed("its index is out of bounds")
            }
            MessageBody::AppendRejected { hint, .. } if hint.term > term => {
                malformed("its hint is of a later term")
            }
            _ => Ok(()),
        }
    }
}

fn is_possible(position: LogPosition) -> bool {
    position.index.0 <= MAX_COUNT && (position.index.0 == 0) == (position.term == Term::ZERO)
}

/// What is wrong with the entries of an Append, if anything is.
fn flaw(
    group: GroupId,
    term: Term,
    mut previous: LogPosition,
    entries: &[Entry],
) -> Option<&'static str> {
    if !is_possible(previous) || previous.term > term {
        return Some("its previous position cannot be");
    }
    for entry in entries {
        let position = entry.position();
        if entry.group() != group {
            return Some("an entry is of another group");
        }
        if entry.kind() == EntryKind::ConfChange && ConfChange::decode(entry.payload()).is_err() {
            return Some("an entry's change of members cannot be read");
        }
        if position.index.0 != previous.index.0 + 1 {
            return Some("its entries are not consecutive");
        }
        if position.term < previous.term || position.term > term || position.term == Term::ZERO {
            return Some("its entries' terms do not ascend to its own");
        }
        previous = position;
    }
    None
}
