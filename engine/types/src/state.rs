//! What a replica must not forget, and who its group's members are.

use crate::codec::{DecodeError, Reader, put_varint};
use crate::{LogIndex, ReplicaId, Term};
use alloc::vec::Vec;

/// The state that must be durable before a replica speaks of it (Raft figure 2, "persistent state").
///
/// `commit` is a hint that may lag behind: it is written along with other records and spares a
/// restarted replica the wait for its leader, but no message promises it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    /// The latest term this replica has seen.
    pub term: Term,
    /// Whom this replica voted for in `term`.
    pub vote: Option<ReplicaId>,
    /// An index known to be committed.
    pub commit: LogIndex,
}

/// A place in a log: an index and the term of the entry there. Ordered as Raft §5.4.1 compares
/// logs: by term first, then by index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// The entry's term. First, so that the derived order is the election restriction's order.
    pub term: Term,
    /// The entry's index.
    pub index: LogIndex,
}

impl LogPosition {
    /// The place before the first entry.
    pub const ZERO: Self = Self {
        term: Term::ZERO,
        index: LogIndex::ZERO,
    };
}

/// The members of a group, in a form that can be joint (Raft thesis §4.3).
///
/// Each list is sorted and free of repeats. While `outgoing` is not empty the configuration is joint,
/// and every quorum must be a majority of `voters` and a majority of `outgoing`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConfState {
    /// The voters, or the incoming half of a joint configuration.
    pub voters: Vec<ReplicaId>,
    /// The outgoing half of a joint configuration; empty if there is none.
    pub outgoing: Vec<ReplicaId>,
    /// Members that receive the log but are in no quorum.
    pub learners: Vec<ReplicaId>,
    /// Voters of the outgoing half that become learners when the joint configuration is left.
    pub learners_next: Vec<ReplicaId>,
    /// Whether the leader leaves the joint configuration by itself.
    pub auto_leave: bool,
}

impl ConfState {
    /// A plain configuration of these voters.
    #[must_use]
    pub fn of_voters(voters: impl IntoIterator<Item = ReplicaId>) -> Self {
        let mut voters: Vec<_> = voters.into_iter().collect();
        voters.sort_unstable();
        voters.dedup();
        Self {
            voters,
            ..Self::default()
        }
    }

    /// Whether `id` votes, in either half.
    #[must_use]
    pub fn is_voter(&self, id: ReplicaId) -> bool {
        self.voters.binary_search(&id).is_ok() || self.outgoing.binary_search(&id).is_ok()
    }

    /// Whether two majorities are needed.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether those for whom `is_present` holds are enough to decide anything: a majority of the voters, and of the
    /// outgoing ones if the configuration is joint (Raft thesis §4.3). Without voters nobody is.
    #[must_use]
    pub fn has_quorum(&self, is_present: impl Fn(ReplicaId) -> bool) -> bool {
        let majority = |half: &[ReplicaId]| {
            let present = half.iter().filter(|id| is_present(**id)).count();
            present > half.len() / 2
        };
        majority(&self.voters) && (!self.is_joint() || majority(&self.outgoing))
    }

    /// Appends the encoding: four varint-counted lists of varints, and one flag byte.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for list in [
            &self.voters,
            &self.outgoing,
            &self.learners,
            &self.learners_next,
        ] {
            put_varint(out, list.len() as u64);
            for id in list {
                put_varint(out, id.0);
            }
        }
        out.push(u8::from(self.auto_leave));
    }

    /// Reads what [`ConfState::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes end early, a list is not sorted or a flag is neither 0 nor 1.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut list = || -> Result<Vec<ReplicaId>, DecodeError> {
            let count = reader.count(1)?;
            let mut ids = Vec::with_capacity(count);
            for _ in 0..count {
                let id = ReplicaId(reader.varint()?);
                if ids.last().is_some_and(|last| *last >= id) {
                    return Err(DecodeError::Invalid {
                        what: "replica ids out of order",
                    });
                }
                ids.push(id);
            }
            Ok(ids)
        };
        let (voters, outgoing, learners, learners_next) = (list()?, list()?, list()?, list()?);
        let auto_leave = reader.flag()?;
        Ok(Self {
            voters,
            outgoing,
            learners,
            learners_next,
            auto_leave,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_compare_by_term_before_index() {
        let older = LogPosition {
            term: Term(1),
            index: LogIndex(10),
        };
        let newer = LogPosition {
            term: Term(2),
            index: LogIndex(2),
        };
        assert!(newer > older);
    }

    #[test]
    fn a_quorum_is_a_majority_of_each_half() {
        let ids = |ids: &[u64]| ids.iter().copied().map(ReplicaId).collect();
        let joint = ConfState {
            voters: ids(&[1, 4, 5]),
            outgoing: ids(&[1, 2, 3]),
            learners: ids(&[6]),
            ..ConfState::default()
        };
        let plain = ConfState::of_voters([1, 2, 3, 4].map(ReplicaId));
        for (conf, present, expected) in [
            (&plain, &[1, 2, 3][..], true),
            (&plain, &[1, 2], false),
            (&joint, &[1, 2, 4], true),
            (&joint, &[1, 4, 5, 6], false),
            (&joint, &[1, 2, 3, 6], false),
            (&ConfState::default(), &[1, 2, 3], false),
        ] {
            let has = conf.has_quorum(|id| present.contains(&id.0));
            assert_eq!(has, expected, "{conf:?} of {present:?}");
        }
    }

    #[test]
    fn a_conf_state_reads_back() {
        let conf = ConfState {
            voters: alloc::vec![ReplicaId(2), ReplicaId(3)],
            outgoing: alloc::vec![ReplicaId(1), ReplicaId(2)],
            learners: alloc::vec![ReplicaId(9)],
            learners_next: alloc::vec![ReplicaId(1)],
            auto_leave: true,
        };
        let mut bytes = Vec::new();
        conf.encode(&mut bytes);
        let mut reader = Reader::new(&bytes);
        assert_eq!(ConfState::decode(&mut reader), Ok(conf));
        assert!(reader.is_empty());
    }
}
