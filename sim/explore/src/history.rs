//! What happened once and binds everybody from then on: who led which term, and what was committed.

use crate::broken::{Broken, Checked, Invariant};
use crate::node::Node;
use crate::state::VOTERS;
use pontoon_raft::{Raft, Role};
use pontoon_types::{Entry, LogIndex, ReplicaId, Term};
use smallvec::SmallVec;
use std::sync::Arc;

/// The entry at some index is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Committed {
    term: Term,
    /// The lowest term in which somebody knew: leaders of later ones must have it, a late one of an
    /// earlier one need not.
    known_in: Term,
}

/// All that is remembered beside the state of the replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct History {
    /// By term.
    leaders: SmallVec<[(Term, ReplicaId); 4]>,
    /// Index 1 is at 0.
    committed: SmallVec<[Committed; 4]>,
}

impl History {
    /// Whether anything is committed.
    pub(crate) fn has_committed(&self) -> bool {
        !self.committed.is_empty()
    }

    /// Whether an entry of an earlier term was committed by way of a later one.
    pub(crate) fn has_committed_inherited(&self) -> bool {
        self.committed.iter().any(|one| one.known_in > one.term)
    }

    /// A replica has taken a step. `before` is what it was.
    pub(crate) fn observe(
        &mut self,
        at: usize,
        before: &Node,
        nodes: &[Arc<Node>; VOTERS],
    ) -> Checked {
        let raft = &nodes[at].raft;
        self.note_leader(raft)?;
        counted_own_term(&before.raft, raft)?;
        self.note_committed(raft, nodes)?;
        nodes
            .iter()
            .try_for_each(|node| self.is_complete(&node.raft))
    }

    /// S1.
    fn note_leader(&mut self, raft: &Raft) -> Checked {
        if raft.role() != Role::Leader {
            return Ok(());
        }
        let (term, id) = (raft.term(), raft.id());
        match self.leaders.binary_search_by_key(&term, |(of, _)| *of) {
            Ok(known) if self.leaders[known].1 != id => {
                let how = format!("{} and {id} lead term {term}", self.leaders[known].1);
                Err(Broken::new(Invariant::S1, how))
            }
            Ok(_) => Ok(()),
            Err(place) => {
                self.leaders.insert(place, (term, id));
                Ok(())
            }
        }
    }

    /// S4 and S7: what is committed is one entry for ever, and on a majority of disks from the start.
    fn note_committed(&mut self, raft: &Raft, nodes: &[Arc<Node>; VOTERS]) -> Checked {
        for index in (1..=raft.commit().0).map(LogIndex) {
            let (id, term) = (raft.id(), raft.term_at(index).unwrap_or_default());
            if let Some(known) = self.committed.get_mut(index.0 as usize - 1) {
                if known.term != term {
                    let how = format!("{id} commits {term}/{index}, it was {}/{index}", known.term);
                    return Err(Broken::new(Invariant::S4, how));
                }
                known.known_in = known.known_in.min(raft.term());
                continue;
            }
            let holders = nodes
                .iter()
                .filter(|node| node.disk.term_at(index) == Some(term))
                .count();
            if holders <= VOTERS / 2 {
                let how = format!("{id} commits {term}/{index}, which {holders} of {VOTERS} hold");
                return Err(Broken::new(Invariant::S7, how));
            }
            let known_in = raft.term();
            self.committed.push(Committed { term, known_in });
        }
        Ok(())
    }

    /// S3.
    fn is_complete(&self, raft: &Raft) -> Checked {
        if raft.role() != Role::Leader {
            return Ok(());
        }
        for (index, committed) in (1..).map(LogIndex).zip(&self.committed) {
            if committed.known_in < raft.term() && raft.term_at(index) != Some(committed.term) {
                let (id, term) = (raft.id(), raft.term());
                let how = format!("{id} leads term {term} without {}/{index}", committed.term);
                return Err(Broken::new(Invariant::S3, how));
            }
        }
        Ok(())
    }

    /// S4: what a state machine is given is what was committed.
    pub(crate) fn applied(&self, entries: &[Entry]) -> Checked {
        for entry in entries {
            let committed = self.committed.get(entry.index().0 as usize - 1);
            if committed.map(|one| one.term) != Some(entry.term()) {
                let how = format!("{entry:?} is applied, committed is {committed:?}");
                return Err(Broken::new(Invariant::S4, how));
            }
        }
        Ok(())
    }
}

/// S5: a leader that has committed more in one step has counted, and the last that it counted is its own.
fn counted_own_term(before: &Raft, after: &Raft) -> Checked {
    let leads = |raft: &Raft| raft.role() == Role::Leader;
    if !leads(before) || !leads(after) || after.commit() <= before.commit() {
        return Ok(());
    }
    let (term, index) = (after.term(), after.commit());
    match after.term_at(index) {
        Some(of) if of != term => {
            let how = format!("{} commits {of}/{index} in term {term}", after.id());
            Err(Broken::new(Invariant::S5, how))
        }
        _ => Ok(()),
    }
}
