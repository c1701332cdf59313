//! One replica: the real core, its disk, and what is on the way between them.

use crate::broken::{Broken, Checked, Invariant};
use pontoon_raft::{Config, Fetch, Message, MessageBody, Persist, Raft, Ready, Restored};
use pontoon_types::{ConfState, Entry, GroupId, HardState, Instant, LogIndex, ReplicaId, Term};
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Time stands still: what it would bring about is an action of its own.
pub(crate) const NOW: Instant = Instant::ZERO;

const GROUP: GroupId = GroupId(1);

/// What survives a crash.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    /// Index 1 is at 0.
    log: Vec<Entry>,
}

/// A write on its way to the disk, and the messages that promise it.
#[derive(Clone, Debug)]
struct Pending {
    persist: Persist,
    then: Vec<Message>,
}

/// A replica. The state machine is in memory only, so that a restart applies everything again.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) raft: Raft,
    pub(crate) disk: Disk,
    pending: VecDeque<Pending>,
    pub(crate) applied: LogIndex,
    /// A hash of all of the above: two nodes with the same have the same future.
    pub(crate) digest: u64,
}

/// What a node did in one step.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// What left it, in order.
    pub(crate) messages: Vec<Message>,
    /// What it applied.
    pub(crate) applied: Vec<Entry>,
}

impl Disk {
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        let at = index.0.checked_sub(1)?;
        self.log.get(at as usize).map(Entry::term)
    }

    fn write(&mut self, persist: &Persist) -> Checked {
        if let Some(state) = persist.hard_state {
            let old = self.hard_state;
            let keeps_vote = old.vote.is_none() || state.vote == old.vote;
            if state.term < old.term || state.term == old.term && !keeps_vote {
                return Err(Broken::new(
                    Invariant::S6,
                    format!("{old:?} is replaced by {state:?}"),
                ));
            }
            self.hard_state = state;
        }
        for entry in &persist.entries {
            self.log.truncate(entry.index().0 as usize - 1);
            self.log.push(entry.clone());
        }
        Ok(())
    }

    fn restored(&self, voters: &[ReplicaId]) -> Restored {
        let mut terms: Vec<(LogIndex, Term)> = Vec::new();
        for entry in &self.log {
            if terms.last().is_none_or(|(_, term)| *term != entry.term()) {
                terms.push((entry.index(), entry.term()));
            }
        }
        Restored {
            hard_state: self.hard_state,
            conf_state: ConfState::of_voters(voters.iter().copied()),
            terms,
            last: LogIndex(self.log.len() as u64),
            ..Restored::default()
        }
    }

    /// S6: whatever `message` promises of its sender is on this, the sender's disk.
    fn covers(&self, message: &Message) -> Checked {
        let Message { from, to, term, .. } = *message;
        let broken = |what| {
            Err(Broken::new(
                Invariant::S6,
                format!("{message:?} leaves before {what} is durable"),
            ))
        };
        let (is_question, vote) = match message.body {
            MessageBody::RequestVote { pre, .. } => (pre, (!pre).then_some(from)),
            MessageBody::VoteResponse { granted, pre, .. } => {
                (granted && pre, (granted && !pre).then_some(to))
            }
            _ => (false, None),
        };
        let state = self.hard_state;
        if !is_question && term > state.term {
            return broken("its term");
        }
        if vote.is_some() && state.term == term && state.vote != vote {
            return broken("the vote");
        }
        match message.body {
            MessageBody::AppendResponse { matched, .. }
                if matched > LogIndex::ZERO && self.term_at(matched).is_none() =>
            {
                broken("what it acknowledges")
            }
            _ => Ok(()),
        }
    }
}

impl Node {
    /// One that has never written anything.
    pub(crate) fn blank(id: ReplicaId, voters: &[ReplicaId]) -> Self {
        let mut node = Self {
            raft: start(id, &Disk::default(), voters),
            disk: Disk::default(),
            pending: VecDeque::new(),
            applied: LogIndex::ZERO,
            digest: 0,
        };
        node.digest = node.hash();
        node
    }

    /// Lets something happen to the core, and then carries out all that it wants, but for the disk.
    pub(crate) fn act(&mut self, happens: impl FnOnce(&mut Raft) -> Checked) -> Checked<Done> {
        let mut done = Done::default();
        happens(&mut self.raft)?;
        self.settle(&mut done)?;
        Ok(done)
    }

    /// The oldest write has reached the disk.
    pub(crate) fn sync(&mut self) -> Checked<Done> {
        let mut done = Done::default();
        let Some(Pending { persist, then }) = self.pending.pop_front() else {
            return Ok(done);
        };
        self.disk.write(&persist)?;
        for message in then {
            self.send(message, &mut done)?;
        }
        self.raft
            .handle_durable(persist.sequence, persist.term, NOW);
        self.settle(&mut done)?;
        Ok(done)
    }

    /// The process dies when the disk has got `written` of the writes on their way, which nobody was told,
    /// and starts again.
    pub(crate) fn crash(&mut self, written: usize) -> Checked<Done> {
        for pending in std::mem::take(&mut self.pending).iter().take(written) {
            self.disk.write(&pending.persist)?;
        }
        let voters = self.raft.conf_state().voters.clone();
        self.raft = start(self.raft.id(), &self.disk, &voters);
        self.applied = LogIndex::ZERO;
        let mut done = Done::default();
        self.settle(&mut done)?;
        Ok(done)
    }

    /// Writes that are on their way to the disk.
    pub(crate) fn unwritten(&self) -> usize {
        self.pending.len()
    }

    /// A write on its way replaces entries that another leader brought.
    pub(crate) fn overwrites(&self) -> bool {
        let replaces = |entry: &Entry| {
            let held = self.disk.term_at(entry.index());
            held.is_some_and(|term| term != entry.term())
        };
        self.pending
            .iter()
            .any(|pending| pending.persist.entries.iter().any(replaces))
    }

    fn settle(&mut self, done: &mut Done) -> Checked {
        let mut ready = Ready::default();
        while self.raft.poll_ready(&mut ready) {
            for message in ready.messages.drain(..) {
                self.send(message, done)?;
            }
            if let Some(persist) = ready.persist.take() {
                let then = Vec::new();
                self.pending.push_back(Pending { persist, then });
            }
            if !ready.messages_after_durable.is_empty() {
                let Some(last) = self.pending.back_mut() else {
                    return Err(Broken::new(
                        Invariant::S6,
                        "messages wait, and nothing is on its way to the disk".to_owned(),
                    ));
                };
                last.then.append(&mut ready.messages_after_durable);
            }
            for entry in ready.committed.drain(..) {
                self.apply(entry, done)?;
            }
            for fetch in ready.fetches.drain(..) {
                self.serve(fetch);
            }
        }
        self.digest = self.hash();
        Ok(())
    }

    fn send(&self, message: Message, done: &mut Done) -> Checked {
        self.disk.covers(&message)?;
        done.messages.push(message);
        Ok(())
    }

    fn apply(&mut self, entry: Entry, done: &mut Done) -> Checked {
        let (index, next) = (entry.index(), self.applied.next());
        if index != next {
            return Err(Broken::new(
                Invariant::S10,
                format!("{entry:?} is applied where {next} is due"),
            ));
        }
        if self.disk.term_at(index) != Some(entry.term()) {
            return Err(Broken::new(
                Invariant::S6,
                format!("{entry:?} is applied before it is durable"),
            ));
        }
        self.applied = index;
        self.raft.handle_applied(index);
        done.applied.push(entry);
        Ok(())
    }

    fn serve(&mut self, fetch: Fetch) {
        let wanted = fetch.from.0 as usize - 1..fetch.to.0 as usize;
        let entries = self.disk.log.get(wanted).unwrap_or_default().to_vec();
        self.raft.handle_fetched(fetch.purpose, entries);
    }

    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.raft.id().hash(&mut hasher);
        self.raft.fingerprint(&mut hasher);
        (&self.disk, self.applied, self.pending.len()).hash(&mut hasher);
        for Pending { persist, then } in &self.pending {
            // Not its sequence: it only names it.
            (persist.term, persist.hard_state, &persist.entries).hash(&mut hasher);
            (persist.must_sync, then).hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// The replica that recovery makes of a disk. Nothing that it does depends on time.
fn start(id: ReplicaId, disk: &Disk, voters: &[ReplicaId]) -> Raft {
    let config = Config {
        pre_vote: false,
        check_quorum: false,
        ..Config::new(GROUP, id)
    };
    Raft::new(config, disk.restored(voters), NOW).expect("a disk that only the core has written")
}
