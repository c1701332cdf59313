//! The invariants I1-I9, and with them the rules on durability and reads, as a stranger would check
//! them: from outside, over everything that was ever seen.

use super::node::Node;
use pontoon_raft::{Message, MessageBody, Raft, ReadReady, Role};
use pontoon_types::{Entry, HardState, LogIndex, LogPosition, ReplicaId, Term};
use std::collections::BTreeMap;

#[derive(Default)]
struct Seen {
    term: Term,
    /// The highest term that it has spoken of, but for questions.
    spoken: Term,
    commit: LogIndex,
    applied: LogIndex,
    last_applied: Option<LogIndex>,
}

/// What is known of a committed index: the entry's term, and the least term in which somebody knew.
#[derive(Clone, Copy)]
struct Committed {
    term: Term,
    known_in: Term,
}

#[derive(Default)]
pub(crate) struct Invariants {
    leaders: BTreeMap<Term, ReplicaId>,
    committed: BTreeMap<LogIndex, Committed>,
    applied: BTreeMap<LogIndex, Entry>,
    votes: BTreeMap<(ReplicaId, Term), ReplicaId>,
    seen: BTreeMap<u64, Seen>,
    reads: BTreeMap<(u64, u64), LogIndex>,
    /// The furthest index of which a leader said that every member holds it.
    held_by_all: LogIndex,
    /// Begin and end of each pair of logs when they were last compared.
    compared: BTreeMap<(ReplicaId, ReplicaId), [(LogIndex, LogPosition); 2]>,
}

impl Invariants {
    /// The highest index that anybody knows to be committed.
    pub(crate) fn max_committed(&self) -> LogIndex {
        self.committed
            .keys()
            .next_back()
            .copied()
            .unwrap_or_default()
    }

    pub(crate) fn committed(&self) -> impl Iterator<Item = (LogIndex, Term)> {
        self.committed.iter().map(|(index, one)| (*index, one.term))
    }

    /// The entry that was applied at `index`, if any was.
    pub(crate) fn applied_at(&self, index: LogIndex) -> Option<&Entry> {
        self.applied.get(&index)
    }

    /// I5 over a restart. A process that comes back may know less: what its disk holds. But nobody was told of more: no
    /// later term, and in its term no other vote.
    pub(crate) fn restarted(&mut self, id: u64, durable: &HardState) {
        let seen = self.seen.entry(id).or_default();
        assert!(
            durable.term >= seen.spoken,
            "I5: {id} comes back in term {}, and has spoken of {}",
            durable.term,
            seen.spoken
        );
        if let Some(vote) = self.votes.get(&(ReplicaId(id), durable.term)) {
            assert_eq!(durable.vote, Some(*vote), "I5: {id} has forgotten its vote");
        }
        seen.term = durable.term;
        (seen.commit, seen.applied, seen.last_applied) = (LogIndex::ZERO, LogIndex::ZERO, None);
        self.reads.retain(|(asked, _), _| *asked != id);
    }

    pub(crate) fn read_asked(&mut self, id: u64, context: u64) {
        self.reads.insert((id, context), self.max_committed());
    }

    /// The reads that this node has not answered in its present life.
    pub(crate) fn reads_waiting(&self, id: u64) -> impl Iterator<Item = u64> {
        let range = (id, 0)..=(id, u64::MAX);
        self.reads.range(range).map(|((_, context), _)| *context)
    }

    /// S8: a read sees everything that was acknowledged before it was asked.
    pub(crate) fn read_answered(&mut self, id: u64, read: ReadReady) {
        let least = self.reads.remove(&(id, read.context));
        let least = least.expect("a read that nobody asked for, or that was answered twice");
        assert!(read.index >= least, "S8: {read:?} must see {least}");
    }

    /// I4 and I9, at every entry handed to a state machine.
    pub(crate) fn applied(&mut self, id: u64, entry: &Entry) {
        let index = entry.index();
        let known = self.applied.entry(index).or_insert_with(|| entry.clone());
        assert_eq!(known, entry, "I4: {id} applies another entry at {index}");
        let seen = self.seen.entry(id).or_default();
        if let Some(last) = seen.last_applied {
            assert_eq!(index.0, last.0 + 1, "I9: {id} applies out of order");
        }
        seen.last_applied = Some(index);
    }

    /// The state machine has everything up to `index`, be it from a snapshot.
    pub(crate) fn installed(&mut self, id: u64, index: LogIndex) {
        let seen = self.seen.entry(id).or_default();
        if seen.last_applied.is_some_and(|last| last < index) {
            seen.last_applied = Some(index);
        }
    }

    /// I6 and I7, at every message that leaves. What is durable is what the disk holds at this moment.
    pub(crate) fn left(&mut self, message: &Message, nodes: &BTreeMap<u64, Node>) {
        let Message { from, to, term, .. } = *message;
        let node = &nodes[&from.0];
        let disk = &node.disk;
        let question = matches!(
            message.body,
            MessageBody::RequestVote { pre: true, .. }
                | MessageBody::VoteResponse {
                    pre: true,
                    granted: true,
                    ..
                }
        );
        assert!(
            question || term <= disk.hard_state.term,
            "I7: {message:?} before its term is durable"
        );
        if !question {
            let seen = self.seen.entry(from.0).or_default();
            seen.spoken = seen.spoken.max(term);
        }
        let vote = match message.body {
            MessageBody::VoteResponse {
                granted: true,
                pre: false,
                ..
            } => Some(to),
            MessageBody::RequestVote { pre: false, .. } => Some(from),
            _ => None,
        };
        if let Some(vote) = vote {
            let known = *self.votes.entry((from, term)).or_insert(vote);
            assert_eq!(known, vote, "I6: {from} votes twice in term {term}");
            assert!(
                disk.hard_state.term > term || disk.hard_state.vote == Some(vote),
                "I7: {message:?} before the vote is durable"
            );
        }
        if let MessageBody::AppendResponse { matched, .. } = message.body {
            let held = disk.term_at(matched);
            assert!(
                matched == LogIndex::ZERO || held.is_some(),
                "I7: {message:?} before the entries are durable"
            );
            if let Some(leader) = nodes.get(&to.0).and_then(|node| node.raft.as_ref())
                && leader.role() == Role::Leader
                && leader.term() == term
                && disk.hard_state.term == term
                && matched >= leader.first_index()
            {
                assert_eq!(
                    held,
                    leader.term_at(matched),
                    "I7: {message:?} of another log"
                );
            }
        }
    }

    pub(crate) fn check(&mut self, nodes: &BTreeMap<u64, Node>) {
        for node in nodes.values() {
            if let Some(raft) = &node.raft {
                self.check_one(node.id, raft);
                self.check_commit(raft, nodes);
                self.check_leader(raft);
            }
        }
        self.check_log_matching(nodes);
        self.check_matched_by_all(nodes);
    }

    /// I5 and I8.
    fn check_one(&mut self, id: u64, raft: &Raft) {
        let seen = self.seen.entry(id).or_default();
        let (term, commit, applied) = (raft.term(), raft.commit(), raft.applied());
        let last = raft.last_position().index;
        assert!(term >= seen.term, "I5: {id} falls to term {term}");
        assert!(commit >= seen.commit, "I5: {id} falls to commit {commit}");
        assert!(
            applied >= seen.applied,
            "I5: {id} falls to applied {applied}"
        );
        assert!(applied <= commit, "I8: {id} applied {applied} of {commit}");
        assert!(commit <= last, "I8: {id} committed {commit} of {last}");
        (seen.term, seen.commit, seen.applied) = (term, commit, applied);
    }

    /// What is committed is one entry for ever, and a quorum of disks holds it (S7).
    fn check_commit(&mut self, raft: &Raft, nodes: &BTreeMap<u64, Node>) {
        for index in (1..=raft.commit().0).rev().map(LogIndex) {
            let Some(term) = raft.term_at(index) else {
                break;
            };
            if let Some(known) = self.committed.get_mut(&index) {
                assert_eq!(
                    known.term,
                    term,
                    "S4: {} commits another {index}",
                    raft.id()
                );
                if known.known_in <= raft.term() {
                    break;
                }
                known.known_in = raft.term();
                continue;
            }
            let holds = |id: &&ReplicaId| {
                let disk = nodes.get(&id.0).map(|node| &node.disk);
                disk.is_some_and(|disk| disk.term_at(index) == Some(term))
            };
            for half in [&raft.conf_state().voters, &raft.conf_state().outgoing] {
                let holders = half.iter().filter(holds).count();
                assert!(
                    half.is_empty() || holders > half.len() / 2,
                    "S7: {} commits {term}/{index}, durable on {holders} of {half:?}",
                    raft.id()
                );
            }
            let known_in = raft.term();
            self.committed.insert(index, Committed { term, known_in });
        }
    }

    /// I1 and I3.
    fn check_leader(&mut self, raft: &Raft) {
        if raft.role() != Role::Leader {
            return;
        }
        let (id, term) = (raft.id(), raft.term());
        if let Some(known) = self.leaders.get(&term) {
            assert_eq!(*known, id, "I1: two leaders of term {term}");
            return;
        }
        self.leaders.insert(term, id);
        for (index, committed) in &self.committed {
            assert!(
                committed.known_in >= term
                    || *index < raft.first_index()
                    || raft.term_at(*index) == Some(committed.term),
                "I3: {id} leads term {term} without {}/{index}",
                committed.term
            );
        }
    }

    /// What a leader says that nobody needs any more is committed, and on the disk of every member that it
    /// then has. Who joins later starts from a snapshot.
    fn check_matched_by_all(&mut self, nodes: &BTreeMap<u64, Node>) {
        for raft in nodes.values().filter_map(|node| node.raft.as_ref()) {
            let index = raft.matched_by_all();
            assert!(index <= raft.commit(), "{} gives up {index}", raft.id());
            if index <= self.held_by_all {
                continue;
            }
            assert_eq!(raft.role(), Role::Leader, "{} gives up {index}", raft.id());
            self.held_by_all = index;
            let term = self.committed.get(&index).map(|one| one.term);
            // A disk that has lost what it held breaks the promise, not the replicas.
            let members = raft.conf_state().members();
            for node in members.iter().filter_map(|id| nodes.get(&id.0)) {
                assert!(
                    node.damaged || node.disk.term_at(index) == term,
                    "{} says that {} does not need {index}",
                    raft.id(),
                    node.id
                );
            }
        }
    }

    /// I2: where two logs hold the same position, they are the same up to there. Compared again whenever
    /// one of them begins or ends elsewhere.
    fn check_log_matching(&mut self, nodes: &BTreeMap<u64, Node>) {
        let running = nodes.values();
        let running: Vec<_> = running
            .filter_map(|node| Some((node, node.raft.as_ref()?)))
            .collect();
        for (at, (node, one)) in running.iter().enumerate() {
            for (other_node, other) in &running[at + 1..] {
                let extent = |raft: &Raft| (raft.first_index(), raft.last_position());
                let extents = [extent(one), extent(other)];
                if self.compared.insert((one.id(), other.id()), extents) != Some(extents) {
                    compare_logs(one, other);
                    compare_disks(node, other_node);
                }
            }
        }
    }
}

/// The other half of I2: what stands at the same position is the same entry, byte for byte.
fn compare_disks(one: &Node, other: &Node) {
    if one.damaged || other.damaged {
        return;
    }
    for (ours, theirs) in one.disk.log.iter().zip(&other.disk.log) {
        assert!(
            ours.position() != theirs.position() || ours == theirs,
            "I2: {} and {} hold different entries at {:?}",
            one.id,
            other.id,
            ours.position()
        );
    }
}

fn compare_logs(one: &Raft, other: &Raft) {
    let first = one.first_index().max(other.first_index());
    let last = one.last_position().index.min(other.last_position().index);
    let mut equal = false;
    for index in (first.0..=last.0).rev().map(LogIndex) {
        let same = one.term_at(index) == other.term_at(index);
        assert!(
            same || !equal,
            "I2: the logs of {} and {} agree after {index} and differ there",
            one.id(),
            other.id()
        );
        equal |= same;
    }
}
