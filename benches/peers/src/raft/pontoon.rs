//! Three voters of Pontoon's core.

use super::{Limits, Trio};
use pontoon_raft::{Config, Message, Raft, Ready, Restored};
use pontoon_types::{ConfState, GroupId, Instant, ReplicaId};

/// A leader, two followers, and the messages between them.
pub(crate) struct Pontoon {
    voters: [Raft; 3],
    ready: Ready,
    mail: Vec<Message>,
    now: Instant,
}

impl Pontoon {
    /// Three voters, the first of which leads.
    pub(crate) fn new(limits: &Limits) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let members = ConfState::of_voters([1, 2, 3].map(ReplicaId));
        let voters = [1, 2, 3].map(|id| {
            let config = Config {
                max_inflight_appends: limits.inflight_appends,
                max_append_bytes: limits.append_bytes,
                max_cached_bytes: limits.retained_bytes,
                ..Config::new(GroupId(1), ReplicaId(id))
            };
            Raft::new(config, Restored::blank(members.clone()), now)
                .expect("the settings are valid")
        });
        let mut trio = Self {
            voters,
            ready: Ready::default(),
            mail: Vec::new(),
            now,
        };
        trio.voters[0].campaign(now);
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
                let at = message.to.0 as usize - 1;
                let voter = &mut self.voters[at];
                voter.step(message, self.now).expect("voters are correct");
                touched[at] = true;
            }
        }
    }

    /// Carries out what one voter wants: everything is durable and applied at once.
    fn turn(&mut self, at: usize) {
        let (voter, ready) = (&mut self.voters[at], &mut self.ready);
        while voter.poll_ready(ready) {
            super::post(&mut self.mail, &mut ready.messages);
            if let Some(persist) = &ready.persist {
                voter.handle_durable(persist.sequence, persist.term, self.now);
            }
            super::post(&mut self.mail, &mut ready.messages_after_durable);
            if let Some(last) = ready.committed.last() {
                voter.handle_applied(last.index());
            }
        }
    }
}

impl Trio for Pontoon {
    fn cycle(&mut self, proposals: u64, payload: &[u8]) {
        for _ in 0..proposals {
            let proposed = self.voters[0].propose(payload, self.now);
            proposed.expect("a leader with nothing uncommitted takes proposals");
        }
        self.settle();
    }

    fn committed(&self) -> u64 {
        self.voters[0].commit().0
    }
}
