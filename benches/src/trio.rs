//! Three voters of one group in memory, with a disk and a network that take no time.

use pontoon_raft::{Config, Message, Raft, Ready, Restored};
use pontoon_types::{ConfState, GroupId, Instant, LogIndex, ReplicaId};

/// A leader, two followers, and the messages between them.
#[derive(Debug)]
pub struct Trio {
    voters: [Raft; 3],
    ready: Ready,
    mail: Vec<Message>,
    now: Instant,
}

impl Default for Trio {
    fn default() -> Self {
        Self::new()
    }
}

impl Trio {
    /// Three voters, the first of which leads.
    ///
    /// # Panics
    /// If it is not elected.
    #[must_use]
    pub fn new() -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let members = ConfState::of_voters([1, 2, 3].map(ReplicaId));
        let voters = [1, 2, 3].map(|id| {
            let config = Config::new(GroupId(1), ReplicaId(id));
            let restored = Restored::blank(members.clone());
            Raft::new(config, restored, now).expect("the settings of a voter are valid")
        });
        let mut trio = Self {
            voters,
            ready: Ready::default(),
            mail: Vec::new(),
            now,
        };
        trio.voters[0].campaign(now);
        trio.settle();
        assert_eq!(trio.voters[0].leader(), Some(ReplicaId(1)));
        trio
    }

    /// Proposes `count` times, carries out all that follows, and returns the leader's commit index.
    ///
    /// # Panics
    /// If the leader refuses.
    pub fn cycle(&mut self, count: u64, payload: &[u8]) -> LogIndex {
        let now = self.now;
        for _ in 0..count {
            let proposed = self.voters[0].propose(payload, now);
            proposed.expect("a leader with nothing uncommitted takes proposals");
        }
        self.settle();
        self.voters[0].commit()
    }

    fn settle(&mut self) {
        loop {
            for at in 0..self.voters.len() {
                self.turn(at);
            }
            if self.mail.is_empty() {
                return;
            }
            for message in self.mail.drain(..) {
                let voter = &mut self.voters[message.to.0 as usize - 1];
                voter.step(message, self.now).expect("voters are correct");
            }
        }
    }

    /// Carries out what one voter wants: everything is durable and applied at once.
    fn turn(&mut self, at: usize) {
        let (voter, ready) = (&mut self.voters[at], &mut self.ready);
        while voter.poll_ready(ready) {
            self.mail.append(&mut ready.messages);
            if let Some(persist) = &ready.persist {
                voter.handle_durable(persist.sequence, persist.term, self.now);
            }
            self.mail.append(&mut ready.messages_after_durable);
            if let Some(last) = ready.committed.last() {
                voter.handle_applied(last.index());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_commits_all_that_it_proposed() {
        let mut trio = Trio::new();
        let before = trio.cycle(1, b"first");
        assert_eq!(trio.cycle(64, b"more"), LogIndex(before.0 + 64));
    }
}
