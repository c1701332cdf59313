//! What is to become of each replica of a node when others are lost. Pure.

use pontoon_engine::ReplicaSurvey;
use pontoon_types::{ConfState, GroupId, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// What the operator says.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// The node that is looked at.
    pub node: NodeId,
    /// Nodes that will never come back.
    pub lost: &'a BTreeSet<NodeId>,
    /// The groups to recover here; `None`: those that nobody else has.
    pub groups: Option<&'a BTreeSet<GroupId>>,
}

/// A replica as it is, and what it would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    /// The group.
    pub group: u64,
    /// The shard that it owns.
    pub shard: u64,
    /// The replica's id.
    pub replica: u64,
    /// Its term.
    pub term: u64,
    /// The term of the last entry in its log.
    pub last_term: u64,
    /// The index of that entry.
    pub last: u64,
    /// Up to where it knows the log to be committed.
    pub commit: u64,
    /// What its state holds durably; the rest is in the log.
    pub applied: u64,
    /// The members, by the last change in its log.
    pub members: Vec<Member>,
    /// The id under which it goes on, alone.
    pub new_replica: u64,
}

/// A member of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    /// The replica.
    pub replica: u64,
    /// Its node, if that is known.
    pub node: Option<u64>,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it votes in the outgoing half of a joint configuration.
    pub outgoing: bool,
}

/// What is to become of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It becomes the only voter.
    Recover,
    /// Nothing: the group has its quorum without the lost nodes.
    HasQuorum,
    /// Nothing: a change of members in the log decides whether there is a quorum, and may be committed or not.
    Undecided,
    /// Nothing unless the group is named: others survive as well, and only one may be recovered.
    OthersSurvive {
        /// Their nodes.
        nodes: Vec<u64>,
    },
    /// Nothing: other groups were named.
    NotNamed,
    /// Nothing: the replica cannot be trusted.
    Damaged {
        /// Why.
        reason: String,
    },
    /// Nothing: the replica has left its group.
    NotAMember,
}

impl Decision {
    /// The word for programs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Recover => "recover",
            Self::HasQuorum => "has_quorum",
            Self::Undecided => "undecided",
            Self::OthersSurvive { .. } => "others_survive",
            Self::NotNamed => "not_named",
            Self::Damaged { .. } => "damaged",
            Self::NotAMember => "not_a_member",
        }
    }

    /// Whether the group stays without a quorum although it was meant.
    #[must_use]
    pub const fn leaves_undone(&self) -> bool {
        !matches!(self, Self::Recover | Self::HasQuorum | Self::NotNamed)
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recover => f.write_str("RECOVER"),
            Self::HasQuorum => f.write_str("has its quorum: left alone"),
            Self::Undecided => f.write_str(
                "a change of members in its log decides whether it has a quorum: start the nodes that are left; if it gets no leader, name the nodes of the new members as lost too",
            ),
            Self::OthersSurvive { nodes } => {
                let nodes: Vec<_> = nodes.iter().map(ToString::to_string).collect();
                let nodes = nodes.join(", ");
                write!(
                    f,
                    "node {nodes} has a replica too: compare, and name the group with --groups on one node"
                )
            }
            Self::NotNamed => f.write_str("not among --groups: left alone"),
            Self::Damaged { reason } => write!(f, "cannot be trusted: {reason}"),
            Self::NotAMember => f.write_str("the replica has left its group"),
        }
    }
}

/// A replica with what is to become of it.
#[derive(Clone, Debug)]
pub struct GroupPlan {
    /// As it is.
    pub standing: Standing,
    /// What is to become of it.
    pub decision: Decision,
}

/// Decides about every replica of a node.
#[must_use]
pub fn plan(choice: &Choice<'_>, surveys: &[ReplicaSurvey]) -> Vec<GroupPlan> {
    let plans = surveys.iter().map(|survey| GroupPlan {
        standing: standing(choice.node, survey),
        decision: decide(choice, survey),
    });
    plans.collect()
}

fn decide(choice: &Choice<'_>, survey: &ReplicaSurvey) -> Decision {
    let group = survey.record.group;
    let is_named = choice.groups.map(|groups| groups.contains(&group));
    if is_named == Some(false) {
        return Decision::NotNamed;
    }
    // One whose node is not known may well live.
    let survives = |replica: ReplicaId| {
        let node = survey.members.node_of(replica);
        node.is_none_or(|node| !choice.lost.contains(&node))
    };
    let configurations = &survey.configurations;
    let with_quorum = configurations
        .iter()
        .filter(|conf| conf.has_quorum(survives));
    let with_quorum = with_quorum.count();
    if with_quorum == configurations.len() {
        return Decision::HasQuorum;
    }
    if let Some(reason) = &survey.damage {
        let reason = reason.clone();
        return Decision::Damaged { reason };
    }
    if with_quorum > 0 {
        return Decision::Undecided;
    }
    let members: BTreeSet<_> = configurations.iter().flat_map(ConfState::members).collect();
    if !members.contains(&survey.record.replica) {
        return Decision::NotAMember;
    }
    let others = members.into_iter().filter(|member| survives(*member));
    let nodes: BTreeSet<_> = others
        .filter_map(|member| survey.members.node_of(member))
        .filter(|node| *node != choice.node)
        .map(|node| node.0)
        .collect();
    if nodes.is_empty() || is_named == Some(true) {
        return Decision::Recover;
    }
    let nodes = nodes.into_iter().collect();
    Decision::OthersSurvive { nodes }
}

fn standing(node: NodeId, survey: &ReplicaSurvey) -> Standing {
    let conf = survey
        .configurations
        .last()
        .unwrap_or(&survey.record.conf_state);
    let members = conf.members().into_iter().map(|replica| Member {
        replica: replica.0,
        node: survey.members.node_of(replica).map(|node| node.0),
        voter: conf.voters.binary_search(&replica).is_ok(),
        outgoing: conf.outgoing.binary_search(&replica).is_ok(),
    });
    Standing {
        group: survey.record.group.0,
        shard: survey.record.shard.0,
        replica: survey.record.replica.0,
        term: survey.hard_state.term.0,
        last_term: survey.last.term.0,
        last: survey.last.index.0,
        commit: survey.hard_state.commit.0,
        applied: survey.applied.0,
        members: members.collect(),
        new_replica: survey.sole_voter(node).replica.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use pontoon_store::ReplicaRecord;
    use pontoon_types::{
        Epoch, HardState, LogIndex, LogPosition, Members, ShardId, TabletId, Term,
    };

    fn conf(voters: &[u64], outgoing: &[u64], learners: &[u64]) -> ConfState {
        let ids = |ids: &[u64]| ids.iter().copied().map(ReplicaId).collect();
        ConfState {
            voters: ids(voters),
            outgoing: ids(outgoing),
            learners: ids(learners),
            ..ConfState::default()
        }
    }

    /// Replica 1 of group 7, on node 1; every replica is on the node of its number.
    fn survey(configurations: &[ConfState]) -> ReplicaSurvey {
        let members = Members::new((1..=6).map(|id| (ReplicaId(id), NodeId(id))));
        ReplicaSurvey {
            record: ReplicaRecord {
                group: GroupId(7),
                shard: ShardId(7),
                replica: ReplicaId(1),
                start: Bytes::new(),
                end: Bytes::new(),
                epoch: Epoch::default(),
                pieces: TabletId(3).into(),
                conf_state: configurations[0].clone(),
                members: members.clone(),
                descriptor: Bytes::new(),
            },
            hard_state: HardState {
                term: Term(5),
                vote: None,
                commit: LogIndex(8),
            },
            last: LogPosition {
                term: Term(4),
                index: LogIndex(9),
            },
            applied: LogIndex(6),
            configurations: configurations.to_vec(),
            members,
            damage: None,
        }
    }

    fn decision(survey: &ReplicaSurvey, lost: &[u64], groups: Option<&[u64]>) -> Decision {
        let lost = lost.iter().copied().map(NodeId).collect();
        let groups = groups.map(|groups| groups.iter().copied().map(GroupId).collect());
        let choice = Choice {
            node: NodeId(1),
            lost: &lost,
            groups: groups.as_ref(),
        };
        plan(&choice, std::slice::from_ref(survey))
            .remove(0)
            .decision
    }

    #[test]
    fn a_group_is_recovered_only_without_its_quorum() {
        let others = |nodes: &[u64]| Decision::OthersSurvive {
            nodes: nodes.to_vec(),
        };
        for (configuration, lost, expected) in [
            (conf(&[1, 2, 3], &[], &[]), &[2][..], Decision::HasQuorum),
            (conf(&[1, 2, 3], &[], &[]), &[2, 3], Decision::Recover),
            (conf(&[1, 2, 3], &[], &[]), &[4, 5], Decision::HasQuorum),
            (conf(&[1, 2], &[], &[]), &[2], Decision::Recover),
            (conf(&[1], &[], &[]), &[2, 3], Decision::HasQuorum),
            (conf(&[1, 2, 3, 4, 5], &[], &[]), &[3, 4, 5], others(&[2])),
            (conf(&[1, 2, 3], &[], &[4]), &[2, 3], others(&[4])),
            // Of a joint configuration either half can be the one that is missing.
            (conf(&[1, 4, 5], &[1, 2, 3], &[]), &[2, 3], others(&[4, 5])),
            (conf(&[1, 4, 5], &[1, 2, 3], &[]), &[4, 5], others(&[2, 3])),
            (
                conf(&[1, 4, 5], &[1, 2, 3], &[]),
                &[2, 4],
                Decision::HasQuorum,
            ),
            // A learner has the state as well.
            (conf(&[2, 3], &[], &[1]), &[2, 3], Decision::Recover),
            (conf(&[2, 3], &[], &[]), &[2, 3], Decision::NotAMember),
        ] {
            let found = decision(&survey(std::slice::from_ref(&configuration)), lost, None);
            assert_eq!(found, expected, "{configuration:?} without {lost:?}");
        }
    }

    #[test]
    fn other_survivors_need_a_choice() {
        let five = survey(&[conf(&[1, 2, 3, 4, 5], &[], &[])]);
        let lost = &[3, 4, 5];
        assert_eq!(decision(&five, lost, Some(&[7])), Decision::Recover);
        assert_eq!(decision(&five, lost, Some(&[8])), Decision::NotNamed);
        assert_eq!(decision(&five, &[3], Some(&[7])), Decision::HasQuorum);
    }

    #[test]
    fn a_change_that_may_be_committed_must_not_be_passed_over() {
        // Replicas 4 and 5 may lead the group by now, and this one would not know.
        let moved = [
            conf(&[1, 2, 3], &[], &[]),
            conf(&[1, 4, 5], &[1, 2, 3], &[]),
            conf(&[1, 4, 5], &[], &[]),
        ];
        let moved = survey(&moved);
        assert_eq!(decision(&moved, &[2, 3], Some(&[7])), Decision::Undecided);
        assert_eq!(decision(&moved, &[2, 3, 4, 5], None), Decision::Recover);
    }

    #[test]
    fn a_damaged_replica_is_never_recovered() {
        let mut damaged = survey(&[conf(&[1, 2, 3], &[], &[])]);
        let reason = "its log is damaged".to_owned();
        damaged.damage = Some(reason.clone());
        for groups in [None, Some(&[7][..])] {
            let reason = reason.clone();
            let expected = Decision::Damaged { reason };
            assert_eq!(decision(&damaged, &[2, 3], groups), expected);
        }
        assert_eq!(decision(&damaged, &[2], None), Decision::HasQuorum);
    }

    #[test]
    fn the_new_id_is_above_all_that_others_may_have_heard_of() {
        let changed = survey(&[conf(&[1, 2, 3], &[], &[]), conf(&[1, 2, 3, 6], &[], &[])]);
        let record = changed.sole_voter(NodeId(1));
        assert!(record.replica > ReplicaId(100));
        assert_eq!(record.conf_state, ConfState::of_voters([record.replica]));
        assert_eq!(record.members.node_of(record.replica), Some(NodeId(1)));
        assert_eq!(
            record.members.next_replica(),
            ReplicaId(record.replica.0 + 1)
        );
        assert_eq!(record.epoch.membership, 2);
        assert_eq!(record.pieces, changed.record.pieces);
    }
}
