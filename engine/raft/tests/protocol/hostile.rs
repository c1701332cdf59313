//! S12: whatever a peer sends, nothing panics, and nothing that it cannot know becomes true.

use crate::harness::{Cluster, Machine, message, position};
use pontoon_raft::{ForwardedRound, Message, MessageBody, Ready, Snapshot, StepError};
use pontoon_types::{
    ConfChange, ConfState, Entry, EntryKind, GroupId, LogIndex, LogPosition, MemberChange,
    ReplicaId, Term, Transition,
};
use proptest::prelude::*;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0u64..8, 1 => any::<u64>(), 1 => Just(u64::MAX), 1 => Just(1u64 << 62)]
}

fn any_position() -> impl Strategy<Value = LogPosition> {
    (number(), number()).prop_map(|(term, index)| position(term, index))
}

fn any_members() -> impl Strategy<Value = ConfState> {
    let list = || prop::collection::vec((0u64..6).prop_map(ReplicaId), 0..4);
    let sorted = |list: Vec<ReplicaId>| ConfState::of_voters(list).voters;
    prop_oneof![
        3 => list().prop_map(ConfState::of_voters),
        1 => (list(), list(), list(), any::<bool>()).prop_map(move |lists| ConfState {
            voters: sorted(lists.0),
            outgoing: sorted(lists.1),
            learners: lists.2,
            auto_leave: lists.3,
            ..ConfState::default()
        }),
    ]
}

fn any_change() -> impl Strategy<Value = Vec<u8>> {
    let change = (0u64..5, 0u8..3).prop_map(|(id, kind)| match kind {
        0 => MemberChange::AddVoter(ReplicaId(id)),
        1 => MemberChange::AddLearner(ReplicaId(id)),
        _ => MemberChange::Remove(ReplicaId(id)),
    });
    let change = prop::collection::vec(change, 0..3).prop_map(|changes| {
        let mut bytes = Vec::new();
        ConfChange::of(changes, Transition::Auto).encode(&mut bytes);
        bytes
    });
    prop_oneof![4 => change, 1 => any::<Vec<u8>>()]
}

fn any_entries() -> impl Strategy<Value = Vec<Entry>> {
    let entry = (1u64..3, number(), number()).prop_map(|(group, term, index)| {
        let (term, index) = (Term(term), LogIndex(index));
        Entry::encode(GroupId(group), term, index, EntryKind::Command, b"x")
    });
    let run = (number(), number(), 0u64..5).prop_map(|(term, first, count)| {
        let entry = |index| {
            Entry::encode(
                GroupId(1),
                Term(term),
                LogIndex(index),
                EntryKind::Command,
                b"y",
            )
        };
        (first..first.saturating_add(count)).map(entry).collect()
    });
    let change = (number(), number(), any_change()).prop_map(|(term, index, payload)| {
        let (term, index) = (Term(term), LogIndex(index));
        let kind = EntryKind::ConfChange;
        vec![Entry::encode(GroupId(1), term, index, kind, &payload)]
    });
    prop_oneof![prop::collection::vec(entry, 0..3), run, change]
}

fn any_asker() -> impl Strategy<Value = ForwardedRound> {
    // The first life of a node here is number 1.
    let incarnation = prop_oneof![3 => Just(1), 1 => number()];
    (incarnation, number()).prop_map(|(incarnation, round)| ForwardedRound { incarnation, round })
}

fn any_body() -> impl Strategy<Value = MessageBody> {
    let index = || number().prop_map(LogIndex);
    prop_oneof![
        (any_position(), any::<bool>(), any::<bool>()).prop_map(|(last, pre, transfer)| {
            MessageBody::RequestVote {
                last,
                pre,
                transfer,
            }
        }),
        (any::<bool>(), any::<bool>(), any_position()).prop_map(|(granted, pre, committed)| {
            MessageBody::VoteResponse {
                granted,
                pre,
                committed,
            }
        }),
        (any_position(), index(), index(), number(), any_entries()).prop_map(
            |(previous, commit, matched_by_all, read_round, entries)| MessageBody::Append {
                previous,
                commit,
                matched_by_all,
                read_round,
                entries: entries.into(),
            }
        ),
        (index(), number()).prop_map(|(matched, read_round)| MessageBody::AppendResponse {
            matched,
            read_round
        }),
        (index(), any_position(), number()).prop_map(|(rejected, hint, read_round)| {
            MessageBody::AppendRejected {
                rejected,
                hint,
                read_round,
            }
        }),
        (index(), index(), number()).prop_map(|(commit, matched_by_all, read_round)| {
            MessageBody::Heartbeat {
                commit,
                matched_by_all,
                read_round,
            }
        }),
        number().prop_map(|read_round| MessageBody::HeartbeatResponse { read_round }),
        Just(MessageBody::TimeoutNow),
        any_asker().prop_map(|asker| MessageBody::ReadIndex { asker }),
        (any_asker(), index())
            .prop_map(|(asker, index)| MessageBody::ReadIndexResponse { asker, index }),
        (any_position(), any_members()).prop_map(|(last, conf_state)| {
            MessageBody::InstallSnapshot {
                last,
                conf_state: Box::new(conf_state),
            }
        }),
    ]
}

fn any_message() -> impl Strategy<Value = Message> {
    let to = prop_oneof![9 => Just(1u64), 1 => number()];
    (number(), to, number(), any_body())
        .prop_map(|(from, to, term, body)| message(from, to, term, body))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_sequence_of_messages_panics(
        leads in any::<bool>(),
        pre_vote in any::<bool>(),
        lease in any::<bool>(),
        messages in prop::collection::vec(any_message(), 1..40),
    ) {
        let mut cluster = Cluster::with(3, |options| options.pre_vote(pre_vote).lease(lease));
        if leads {
            cluster.campaign(1);
            cluster.settle();
            cluster.propose(1).unwrap();
        }
        // Without the checkers: liars do break the invariants that hold among the honest.
        let mut now = cluster.now;
        let node = cluster.nodes.get_mut(&1).unwrap();
        let mut ready = Ready::default();
        for (at, message) in messages.into_iter().enumerate() {
            if let MessageBody::InstallSnapshot { last, conf_state } = &message.body {
                if last.index.0 > 100 {
                    continue; // There is no such data, so its shell does not hand it over.
                }
                let at = |index| Entry::encode(GroupId(1), last.term, LogIndex(index), EntryKind::Empty, &[]);
                let machine = Machine {
                    state: (1..=last.index.0).map(at).collect(),
                    conf_state: conf_state.as_ref().clone(),
                };
                node.staged.insert(*last, machine);
            }
            let raft = node.raft.as_mut().unwrap();
            let (term, commit) = (raft.term(), raft.commit());
            let _ = raft.step(message, now);
            if at % 4 == 3 {
                now = now + crate::harness::ELECTION * 2;
                raft.handle_timeout(now);
            }
            let _ = raft.propose(b"z", now);
            let _ = raft.forward_read_index(at as u64, now);
            if at % 8 == 6 {
                let _ = raft.transfer_leadership(ReplicaId(2), now);
            }
            let change = ConfChange::one(MemberChange::AddLearner(ReplicaId(9)));
            let _ = raft.propose_conf_change(&change, now);
            prop_assert!(raft.term() >= term && raft.commit() >= commit);
            prop_assert!(raft.commit() <= raft.last_position().index);
            while node.raft.as_mut().unwrap().poll_ready(&mut ready) {
                node.take(&mut ready);
                for entry in ready.committed.drain(..) {
                    node.apply(entry);
                }
                node.acknowledge_applied();
                for fetch in ready.fetches.drain(..) {
                    node.serve(fetch);
                }
                for peer in ready.snapshots.drain(..) {
                    let snapshot = Snapshot {
                        last: node.memory.last(),
                        conf_state: node.memory.conf_state.clone(),
                    };
                    node.raft.as_mut().unwrap().handle_snapshot_taken(peer, snapshot);
                }
                while node.sync_one(now).is_some() {}
            }
        }
    }
}

#[test]
fn what_no_correct_replica_sends_is_named_and_changes_nothing() {
    let mut cluster = Cluster::fresh(3);
    cluster.campaign(1);
    cluster.settle();
    let ack = |matched, read_round| MessageBody::AppendResponse {
        matched: LogIndex(matched),
        read_round,
    };
    let unreadable = Entry::encode(
        GroupId(1),
        Term(1),
        LogIndex(2),
        EntryKind::ConfChange,
        b"?",
    );
    let change = MessageBody::Append {
        previous: position(1, 1),
        commit: LogIndex(0),
        matched_by_all: LogIndex(0),
        read_round: 0,
        entries: vec![unreadable].into(),
    };
    let nobody = MessageBody::InstallSnapshot {
        last: position(1, 9),
        conf_state: Box::default(),
    };
    let heartbeat = MessageBody::Heartbeat {
        commit: LogIndex(0),
        matched_by_all: LogIndex(0),
        read_round: 0,
    };
    for (from, term, body) in [
        (2, 1, ack(99, 0)),
        (2, 1, ack(1, 99)),
        (1, 1, ack(1, 0)),
        (2, 2, change),
        (2, 2, nobody),
        (2, u64::MAX, ack(1, 0)),
    ] {
        let error = cluster.step(message(from, 1, term, body)).unwrap_err();
        assert!(matches!(error, StepError::Malformed { .. }), "{error}");
        assert!(!error.is_fatal());
    }
    let asker = ForwardedRound {
        incarnation: 1,
        round: 1,
    };
    let index = LogIndex(1);
    let unasked = MessageBody::ReadIndexResponse { asker, index };
    let error = cluster.step(message(1, 2, 1, unasked)).unwrap_err();
    assert!(matches!(error, StepError::Malformed { .. }), "{error}");
    let usurper = message(3, 2, 1, MessageBody::TimeoutNow);
    let error = cluster.step(usurper).unwrap_err();
    assert!(matches!(error, StepError::TwoLeaders { .. }), "{error}");
    let error = cluster
        .step(message(2, 1, 1, heartbeat.clone()))
        .unwrap_err();
    assert!(matches!(error, StepError::TwoLeaders { .. }), "{error}");
    let error = cluster.step(message(3, 2, 1, heartbeat)).unwrap_err();
    assert!(matches!(error, StepError::TwoLeaders { .. }), "{error}");
    assert_eq!(cluster.leaders(), [1]);
    assert_eq!(cluster.terms(), [1, 1, 1]);
}
