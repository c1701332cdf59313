//! Three voters of raft-rs 0.7, in the configuration that is best for this work.
//!
//! Messages to one peer are merged (`batch_append`), as they are in Pontoon; a commit index travels with
//! the next Append instead of one of its own (`skip_bcast_commit`), as it does in Pontoon; the leader's
//! messages leave before its own persist, and persists are acknowledged through the asynchronous API.
//! (Here that is faster than the synchronous one.) Proposals are made one by one, with `propose`, or a cycle's
//! all in one message, which is what a shell can do that gathers them before it asks raft-rs.
//! The storage is as little as the trait asks for: a deque that entries are moved into, without a lock.

use super::{Limits, Trio};
use raft::eraftpb::{ConfState, Entry, HardState, Message, MessageType, Snapshot};
use raft::storage::Storage;
use raft::{Config, Error, GetEntriesContext, RaftState, RawNode, StorageError};
use slog::{Discard, Logger, o};
use std::collections::VecDeque;

/// A leader, two followers, and the messages between them.
pub(crate) struct RaftRs {
    voters: [RawNode<Memory>; 3],
    mail: Vec<Message>,
    /// Whether a cycle's proposals go in one message.
    gathers: bool,
}

impl RaftRs {
    /// Three voters, the first of which leads.
    pub(crate) fn new(limits: &Limits, gathers: bool) -> Self {
        let logger = Logger::root(Discard, o!());
        let voters = [1, 2, 3].map(|id| {
            let config = Config {
                check_quorum: true,
                pre_vote: true,
                max_inflight_msgs: limits.inflight_appends,
                max_size_per_msg: limits.append_bytes as u64,
                skip_bcast_commit: true,
                batch_append: true,
                ..Config::new(id)
            };
            let memory = Memory::new(limits.retained_bytes);
            RawNode::new(&config, memory, &logger).expect("the settings are valid")
        });
        let mut trio = Self {
            voters,
            mail: Vec::new(),
            gathers,
        };
        trio.voters[0].campaign().expect("a voter may campaign");
        trio.settle();
        trio
    }

    /// Lets the voters that something happened to do what they want, until nothing is left.
    fn settle(&mut self) {
        let mut touched = [true, false, false];
        while touched.contains(&true) {
            for (at, touched) in touched.iter_mut().enumerate() {
                if std::mem::take(touched) {
                    self.turn(at);
                }
            }
            for message in self.mail.drain(..) {
                let at = message.to as usize - 1;
                let voter = &mut self.voters[at];
                voter.step(message).expect("voters are correct");
                touched[at] = true;
            }
        }
    }

    /// Carries out what one voter wants: everything is durable and applied at once.
    fn turn(&mut self, at: usize) {
        let voter = &mut self.voters[at];
        while voter.has_ready() {
            let mut ready = voter.ready();
            super::post(&mut self.mail, &mut ready.take_messages());
            let applied = ready.take_committed_entries().last().map(|last| last.index);
            voter.mut_store().append(ready.take_entries());
            let (number, mut persisted) = (ready.number(), ready.take_persisted_messages());
            voter.advance_append_async(ready);
            voter.on_persist_ready(number);
            super::post(&mut self.mail, &mut persisted);
            if let Some(applied) = applied {
                voter.advance_apply_to(applied);
                voter.mut_store().release(applied);
            }
        }
    }
}

impl Trio for RaftRs {
    fn cycle(&mut self, proposals: u64, payload: &[u8]) {
        let leader = &mut self.voters[0];
        if self.gathers {
            let entry = |_| Entry {
                data: payload.to_vec().into(),
                ..Entry::default()
            };
            let mut message = Message {
                from: 1,
                entries: (0..proposals).map(entry).collect(),
                ..Message::default()
            };
            message.set_msg_type(MessageType::MsgPropose);
            leader.step(message).expect("a leader takes proposals");
        } else {
            for _ in 0..proposals {
                let proposed = leader.propose(Vec::new(), payload.to_vec());
                proposed.expect("a leader takes proposals");
            }
        }
        self.settle();
    }

    fn committed(&self) -> u64 {
        self.voters[0].raft.raft_log.committed
    }
}

/// The log of one voter. Keeps as many bytes of applied entries as Pontoon's cache does.
struct Memory {
    entries: VecDeque<Entry>,
    /// The index before the first of `entries`, and its term.
    truncated: (u64, u64),
    bytes: usize,
    retained_bytes: usize,
}

impl Memory {
    fn new(retained_bytes: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            truncated: (0, 0),
            bytes: 0,
            retained_bytes,
        }
    }

    /// Takes entries that follow the last: the only ones that come up where nothing fails.
    fn append(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.bytes += size(&entry);
            self.entries.push_back(entry);
        }
    }

    fn release(&mut self, applied: u64) {
        while self.bytes > self.retained_bytes
            && self
                .entries
                .front()
                .is_some_and(|first| first.index <= applied)
            && let Some(first) = self.entries.pop_front()
        {
            self.bytes -= size(&first);
            self.truncated = (first.index, first.term);
        }
    }
}

/// What an envelope of Pontoon with this payload would take, so that both keep as many entries.
fn size(entry: &Entry) -> usize {
    entry.data.len() + pontoon_types::ENTRY_HEADER_BYTES
}

impl Storage for Memory {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let members = ConfState {
            voters: vec![1, 2, 3],
            ..ConfState::default()
        };
        Ok(RaftState::new(HardState::default(), members))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let before = self.truncated.0 + 1;
        if low < before {
            return Err(Error::Store(StorageError::Compacted));
        }
        let range = (low - before) as usize..(high - before) as usize;
        let mut entries: Vec<Entry> = self.entries.range(range).cloned().collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.truncated.0 {
            return Ok(self.truncated.1);
        }
        let at = index
            .checked_sub(self.truncated.0 + 1)
            .map(|at| at as usize);
        at.and_then(|at| self.entries.get(at))
            .map(|entry| entry.term)
            .ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.0 + self.entries.len() as u64)
    }

    fn snapshot(&self, _: u64, _: u64) -> raft::Result<Snapshot> {
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
