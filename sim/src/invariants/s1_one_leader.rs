//! S1: at most one leader per term of a group (Raft §5.2).
//!
//! Only a leader sends entries or heartbeats, so two senders of one term are two leaders.

use super::{Checked, Invariant, Violation};
use pontoon_types::{GroupId, ReplicaId, Term};
use std::collections::BTreeMap;

/// Who led which term.
#[derive(Debug, Default)]
pub struct OneLeaderPerTerm {
    leaders: BTreeMap<(GroupId, Term), ReplicaId>,
}

impl OneLeaderPerTerm {
    /// A replica has acted as the leader of a term. Returns whether that is the first sign of it.
    ///
    /// # Errors
    /// If another replica has done so before.
    pub fn leads(
        &mut self,
        group: GroupId,
        term: Term,
        replica: ReplicaId,
    ) -> Result<bool, Violation> {
        match self.leaders.insert((group, term), replica) {
            None => Ok(true),
            Some(known) if known == replica => Ok(false),
            Some(known) => Err(Violation::new(
                Invariant::S1,
                format!("group {group}, term {term}: replicas {known} and {replica} both lead"),
            )),
        }
    }

    /// The latest term of a group that anyone was seen to lead.
    #[must_use]
    pub fn latest(&self, group: GroupId) -> Term {
        let terms = (group, Term::ZERO)..=(group, Term(u64::MAX));
        let latest = self.leaders.range(terms).next_back();
        latest.map_or(Term::ZERO, |((_, term), _)| *term)
    }

    /// The leaders of a group's terms, the latest first.
    pub fn recent(&self, group: GroupId) -> impl Iterator<Item = ReplicaId> {
        let terms = (group, Term::ZERO)..=(group, Term(u64::MAX));
        self.leaders.range(terms).rev().map(|(_, replica)| *replica)
    }

    /// How many terms had a leader.
    #[must_use]
    pub fn elections(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// Like [`OneLeaderPerTerm::leads`], for those who need not know.
    ///
    /// # Errors
    /// As above.
    pub fn check(&mut self, group: GroupId, term: Term, replica: ReplicaId) -> Checked {
        self.leads(group, term, replica).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::broken;

    #[test]
    fn two_leaders_of_one_term_are_found() {
        let mut checker = OneLeaderPerTerm::default();
        let group = GroupId(1);
        assert_eq!(checker.leads(group, Term(1), ReplicaId(1)), Ok(true));
        assert_eq!(checker.leads(group, Term(1), ReplicaId(1)), Ok(false));
        assert_eq!(checker.leads(group, Term(2), ReplicaId(2)), Ok(true));
        assert_eq!(checker.leads(GroupId(2), Term(1), ReplicaId(2)), Ok(true));
        assert_eq!(checker.latest(group), Term(2));
        let second = checker.check(group, Term(1), ReplicaId(2));
        assert_eq!(broken(&second), Invariant::S1);
    }
}
