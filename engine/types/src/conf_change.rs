//! Changes of a group's members: what an entry of kind [`EntryKind::ConfChange`](crate::EntryKind)
//! holds, and what it makes of a [`ConfState`] (Raft §6; thesis §4).
//!
//! Whoever follows a group's log keeps its members by [`ConfState::apply`] alone: the protocol, and the
//! state machine's record of them. It is pure, so all come to the same members.

use crate::codec::{DecodeError, Reader, put_bytes, put_varint};
use crate::members::{put_nodes, read_nodes};
use crate::{ConfState, NodeId, ReplicaId};
use alloc::vec::Vec;
use thiserror::Error;

const VERSION: u8 = 1;

/// A change of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberChange {
    /// The replica becomes a voter; a learner is promoted.
    AddVoter(ReplicaId),
    /// The replica becomes a learner; a voter is demoted.
    AddLearner(ReplicaId),
    /// The replica is no member any more. Its id is never used again.
    Remove(ReplicaId),
}

impl MemberChange {
    /// Whom it is about.
    #[must_use]
    pub const fn replica(self) -> ReplicaId {
        match self {
            Self::AddVoter(id) | Self::AddLearner(id) | Self::Remove(id) => id,
        }
    }
}

/// How a group comes from its present members to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transition {
    /// One change is made in one step: the majorities before and after it always overlap (thesis §4.1).
    /// Several go through a joint configuration, which the leader leaves by itself.
    #[default]
    Auto,
    /// Through a joint configuration (thesis §4.3), which the leader leaves by itself.
    JointAutoLeave,
    /// Through a joint configuration, which lasts until a [`ConfChange::leave`] is proposed.
    JointExplicit,
}

/// A change of a group's members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConfChange {
    /// What changes, at most once per replica. Nothing means: leave the joint configuration.
    pub changes: Vec<MemberChange>,
    /// How.
    pub transition: Transition,
    /// Whatever its proposer wants to be known with it, such as which node holds a new replica.
    /// Raft does not look into it.
    pub context: Vec<u8>,
}

/// Why a change cannot be made to some configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfChangeError {
    /// A joint configuration can only be left.
    #[error("the configuration is joint and has to be left first")]
    Joint,
    /// Only a joint configuration can be left.
    #[error("there is no joint configuration to leave")]
    NotJoint,
    /// No quorum could ever be reached again.
    #[error("no voter would remain")]
    NoVoters,
    /// Whose members are not known cannot be told by a change.
    #[error("the members before the change are not known")]
    Unknown,
    /// Nobody has this id.
    #[error("replica 0 cannot be a member")]
    ZeroId,
    /// The order of two changes of one replica would matter.
    #[error("replica {replica} is changed twice")]
    Repeated {
        /// The replica.
        replica: ReplicaId,
    },
    /// The replica is already what it is to become.
    #[error("replica {replica} is already what the change would make it")]
    NoEffect {
        /// The replica.
        replica: ReplicaId,
    },
}

impl ConfChange {
    /// One change, made in one step.
    #[must_use]
    pub fn one(change: MemberChange) -> Self {
        Self {
            changes: Vec::from([change]),
            ..Self::default()
        }
    }

    /// Several changes, by way of a joint configuration unless it is one change and `transition` is
    /// [`Transition::Auto`].
    #[must_use]
    pub fn of(changes: impl IntoIterator<Item = MemberChange>, transition: Transition) -> Self {
        Self {
            changes: changes.into_iter().collect(),
            transition,
            context: Vec::new(),
        }
    }

    /// The end of a joint configuration.
    #[must_use]
    pub fn leave() -> Self {
        Self::default()
    }

    /// The same change, saying which nodes hold the replicas that it brings.
    #[must_use]
    pub fn with_nodes(mut self, nodes: impl IntoIterator<Item = (ReplicaId, NodeId)>) -> Self {
        let mut nodes: Vec<_> = nodes.into_iter().collect();
        nodes.sort_unstable();
        self.context.clear();
        put_nodes(&mut self.context, &nodes);
        self
    }

    /// Which nodes hold the replicas that it brings. A context that says something else names none.
    #[must_use]
    pub fn nodes(&self) -> Vec<(ReplicaId, NodeId)> {
        let mut reader = Reader::new(&self.context);
        match read_nodes(&mut reader) {
            Ok(nodes) if reader.is_empty() => nodes,
            _ => Vec::new(),
        }
    }

    /// Whether it ends a joint configuration.
    #[must_use]
    pub fn is_leave(&self) -> bool {
        self.changes.is_empty()
    }

    /// Appends the encoding: version, transition, the changes as a varint count of kind byte and
    /// varint id, and the context with its length before it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let transition = match self.transition {
            Transition::Auto => 0,
            Transition::JointAutoLeave => 1,
            Transition::JointExplicit => 2,
        };
        out.extend([VERSION, transition]);
        put_varint(out, self.changes.len() as u64);
        for change in &self.changes {
            out.push(match change {
                MemberChange::AddVoter(_) => 0,
                MemberChange::AddLearner(_) => 1,
                MemberChange::Remove(_) => 2,
            });
            put_varint(out, change.replica().0);
        }
        put_bytes(out, &self.context);
    }

    /// Reads what [`ConfChange::encode`] wrote, and nothing after it.
    ///
    /// # Errors
    /// If the bytes are not exactly one change of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let invalid = |what| Err(DecodeError::Invalid { what });
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return invalid("a membership change of an unknown version");
        }
        let transition = match reader.u8()? {
            0 => Transition::Auto,
            1 => Transition::JointAutoLeave,
            2 => Transition::JointExplicit,
            _ => return invalid("an unknown transition between members"),
        };
        let count = reader.count(2)?;
        let mut changes = Vec::with_capacity(count);
        for _ in 0..count {
            let kind = reader.u8()?;
            let id = ReplicaId(reader.varint()?);
            changes.push(match kind {
                0 => MemberChange::AddVoter(id),
                1 => MemberChange::AddLearner(id),
                2 => MemberChange::Remove(id),
                _ => return invalid("an unknown change of a member"),
            });
        }
        let context = reader.bytes()?.to_vec();
        reader.finish()?;
        Ok(Self {
            changes,
            transition,
            context,
        })
    }
}

impl ConfState {
    /// The members after `change`.
    ///
    /// Two configurations that follow one another in one step differ by at most one voter, so their
    /// majorities overlap; every other pair has a joint configuration between them (thesis §4.1, §4.3).
    ///
    /// # Errors
    /// If the change cannot be made to these members. An entry with such a change, which no correct
    /// leader appends, changes nothing anywhere.
    pub fn apply(&self, change: &ConfChange) -> Result<Self, ConfChangeError> {
        if change.is_leave() {
            return self.left();
        }
        if self.is_joint() {
            return Err(ConfChangeError::Joint);
        }
        if self.voters.is_empty() {
            return Err(ConfChangeError::Unknown);
        }
        let mut next = self.clone();
        for (at, step) in change.changes.iter().enumerate() {
            let replica = step.replica();
            if replica == ReplicaId(0) {
                return Err(ConfChangeError::ZeroId);
            }
            if change.changes[..at].iter().any(|c| c.replica() == replica) {
                return Err(ConfChangeError::Repeated { replica });
            }
            let (votes, learns) = match step {
                MemberChange::AddVoter(_) => (true, false),
                MemberChange::AddLearner(_) => (false, true),
                MemberChange::Remove(_) => (false, false),
            };
            let changed =
                put(&mut next.voters, replica, votes) | put(&mut next.learners, replica, learns);
            if !changed {
                return Err(ConfChangeError::NoEffect { replica });
            }
        }
        if next.voters.is_empty() {
            return Err(ConfChangeError::NoVoters);
        }
        if change.transition != Transition::Auto || change.changes.len() > 1 {
            next.outgoing.clone_from(&self.voters);
            // Who still votes in the outgoing half is a learner only once that is left.
            let demoted = |id: &ReplicaId| self.voters.binary_search(id).is_ok();
            (next.learners_next, next.learners) = next.learners.into_iter().partition(demoted);
            next.auto_leave = change.transition != Transition::JointExplicit;
        }
        Ok(next)
    }

    fn left(&self) -> Result<Self, ConfChangeError> {
        if !self.is_joint() {
            return Err(ConfChangeError::NotJoint);
        }
        let mut learners = [&self.learners[..], &self.learners_next].concat();
        learners.sort_unstable();
        Ok(Self {
            voters: self.voters.clone(),
            learners,
            ..Self::default()
        })
    }

    /// All members, in order, each once.
    #[must_use]
    pub fn members(&self) -> Vec<ReplicaId> {
        let mut members = [&self.voters[..], &self.outgoing, &self.learners].concat();
        members.sort_unstable();
        members.dedup();
        members
    }

    /// Whether `id` is a voter or a learner.
    #[must_use]
    pub fn is_member(&self, id: ReplicaId) -> bool {
        self.is_voter(id) || self.learners.binary_search(&id).is_ok()
    }

    /// Whether these can be the members of a group: at least one votes, lists are sorted, nobody is both
    /// voter and learner, and only a joint configuration has something to leave.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let lists = [
            &self.voters,
            &self.outgoing,
            &self.learners,
            &self.learners_next,
        ];
        let sorted = |list: &&Vec<ReplicaId>| {
            list.first() != Some(&ReplicaId(0)) && list.is_sorted_by(|one, next| one < next)
        };
        let only_learns = |id: &ReplicaId| !self.is_voter(*id);
        let will_learn = |id: &ReplicaId| {
            self.outgoing.binary_search(id).is_ok() && self.voters.binary_search(id).is_err()
        };
        !self.voters.is_empty()
            && lists.iter().all(sorted)
            && self.learners.iter().all(only_learns)
            && self.learners_next.iter().all(will_learn)
            && (self.is_joint() || !self.auto_leave)
    }
}

/// Makes `id` be in the sorted list or not. Returns whether that changed anything.
fn put(list: &mut Vec<ReplicaId>, id: ReplicaId, is_in: bool) -> bool {
    match (list.binary_search(&id), is_in) {
        (Err(at), true) => list.insert(at, id),
        (Ok(at), false) => {
            list.remove(at);
        }
        (Ok(_), true) | (Err(_), false) => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::MemberChange::{AddLearner, AddVoter, Remove};
    use super::*;
    use proptest::prelude::*;

    fn ids(list: &[u64]) -> Vec<ReplicaId> {
        list.iter().copied().map(ReplicaId).collect()
    }

    fn voters(list: &[u64]) -> ConfState {
        ConfState::of_voters(ids(list))
    }

    fn is_majority(of: &[ReplicaId], set: u32) -> bool {
        let holders = of.iter().filter(|id| set & (1 << id.0) != 0).count();
        of.is_empty() || holders > of.len() / 2
    }

    /// Whether two configurations can decide against each other.
    fn overlap(one: &ConfState, other: &ConfState) -> bool {
        let decides = |conf: &ConfState, set| {
            is_majority(&conf.voters, set) && is_majority(&conf.outgoing, set)
        };
        (0u32..256).all(|set| !(decides(one, set) && decides(other, !set)))
    }

    fn any_change() -> impl Strategy<Value = ConfChange> {
        let member = (0u8..3, 0u64..7).prop_map(|(kind, id)| match kind {
            0 => AddVoter(ReplicaId(id)),
            1 => AddLearner(ReplicaId(id)),
            _ => Remove(ReplicaId(id)),
        });
        let transition = prop_oneof![
            Just(Transition::Auto),
            Just(Transition::JointAutoLeave),
            Just(Transition::JointExplicit)
        ];
        (
            prop::collection::vec(member, 0..4),
            transition,
            any::<Vec<u8>>(),
        )
            .prop_map(|(changes, transition, context)| ConfChange {
                changes,
                transition,
                context,
            })
    }

    proptest! {
        #[test]
        fn configurations_stay_well_formed_and_neighbours_overlap(
            changes in prop::collection::vec(any_change(), 1..40)
        ) {
            let mut conf = voters(&[1, 2, 3]);
            for change in changes {
                let Ok(next) = conf.apply(&change) else { continue };
                prop_assert!(next.is_well_formed(), "{conf:?} {change:?} {next:?}");
                prop_assert!(overlap(&conf, &next), "{conf:?} {change:?} {next:?}");
                prop_assert_ne!(&next, &conf);
                if !next.is_joint() && !conf.is_joint() {
                    let changed = conf.voters.iter().filter(|id| !next.voters.contains(id)).count()
                        + next.voters.iter().filter(|id| !conf.voters.contains(id)).count();
                    prop_assert!(changed <= 1, "{conf:?} {change:?} {next:?}");
                }
                conf = next;
            }
        }

        #[test]
        fn a_change_reads_back(change in any_change()) {
            let mut bytes = Vec::new();
            change.encode(&mut bytes);
            prop_assert_eq!(ConfChange::decode(&bytes), Ok(change));
            for cut in 0..bytes.len() {
                prop_assert!(ConfChange::decode(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>) {
            let _ = ConfChange::decode(&bytes);
            bytes.splice(0..0, [VERSION, 0]);
            let _ = ConfChange::decode(&bytes);
        }
    }

    #[test]
    fn one_change_is_a_step_and_several_are_joint() {
        let conf = voters(&[1, 2, 3]);
        let added = conf
            .apply(&ConfChange::one(AddVoter(ReplicaId(4))))
            .unwrap();
        assert_eq!(added, voters(&[1, 2, 3, 4]));
        let swap = [AddVoter(ReplicaId(4)), Remove(ReplicaId(1))];
        let joint = conf.apply(&ConfChange::of(swap, Transition::Auto)).unwrap();
        let expected = ConfState {
            outgoing: ids(&[1, 2, 3]),
            auto_leave: true,
            ..voters(&[2, 3, 4])
        };
        assert_eq!(joint, expected);
        assert_eq!(joint.members(), ids(&[1, 2, 3, 4]));
        assert_eq!(joint.apply(&ConfChange::leave()), Ok(voters(&[2, 3, 4])));
    }

    #[test]
    fn a_voter_is_demoted_at_once_or_when_the_joint_configuration_is_left() {
        let conf = voters(&[1, 2, 3]);
        let simple = conf
            .apply(&ConfChange::one(AddLearner(ReplicaId(3))))
            .unwrap();
        let demoted = ConfState {
            learners: ids(&[3]),
            ..voters(&[1, 2])
        };
        assert_eq!(simple, demoted);
        let change = ConfChange::of([AddLearner(ReplicaId(3))], Transition::JointExplicit);
        let joint = conf.apply(&change).unwrap();
        assert!(joint.is_voter(ReplicaId(3)) && joint.learners.is_empty());
        assert_eq!(joint.learners_next, ids(&[3]));
        assert!(!joint.auto_leave);
        assert_eq!(joint.apply(&ConfChange::leave()), Ok(demoted.clone()));
        let promoted = demoted.apply(&ConfChange::one(AddVoter(ReplicaId(3))));
        assert_eq!(promoted, Ok(conf));
    }

    #[test]
    fn what_cannot_be_changed_is_named() {
        let conf = voters(&[1, 2]);
        let joint = ConfState {
            outgoing: ids(&[1, 3]),
            ..conf.clone()
        };
        let (one, two, nine) = (ReplicaId(1), ReplicaId(2), ReplicaId(9));
        for (conf, changes, expected) in [
            (&conf, &[][..], ConfChangeError::NotJoint),
            (&joint, &[Remove(one)], ConfChangeError::Joint),
            (
                &conf,
                &[Remove(one), Remove(two)],
                ConfChangeError::NoVoters,
            ),
            (&conf, &[AddVoter(ReplicaId(0))], ConfChangeError::ZeroId),
            (
                &conf,
                &[AddVoter(nine), Remove(nine)],
                ConfChangeError::Repeated { replica: nine },
            ),
            (
                &conf,
                &[Remove(nine)],
                ConfChangeError::NoEffect { replica: nine },
            ),
            (
                &conf,
                &[AddVoter(two)],
                ConfChangeError::NoEffect { replica: two },
            ),
            (
                &ConfState::default(),
                &[AddVoter(one)],
                ConfChangeError::Unknown,
            ),
        ] {
            let change = ConfChange::of(changes.iter().copied(), Transition::Auto);
            assert_eq!(conf.apply(&change), Err(expected));
        }
    }
}
