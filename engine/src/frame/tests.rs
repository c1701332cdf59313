//! Whatever is put into a frame comes out of it, and whatever else comes in is refused.

use super::*;
use bytes::Bytes;
use pontoon_raft::{Entries, ForwardedRound};
use pontoon_types::EntryKind;
use pontoon_types::{ConfState, Entry, GroupId, LogIndex, LogPosition, MAX_COUNT, ReplicaId, Term};
use proptest::prelude::*;

const ORIGIN: Origin = Origin {
    worker: 1,
    workers: 2,
};

fn message(body: MessageBody) -> Message {
    Message {
        from: ReplicaId(1),
        to: ReplicaId(300),
        term: Term(9),
        body,
    }
}

fn entry(index: u64, payload: &[u8]) -> Entry {
    Entry::encode(
        GroupId(70),
        Term(9),
        LogIndex(index),
        EntryKind::Command,
        payload,
    )
}

fn append(entries: impl Into<Entries>) -> Message {
    message(MessageBody::Append {
        previous: LogPosition {
            term: Term(8),
            index: LogIndex(4),
        },
        commit: LogIndex(3),
        matched_by_all: LogIndex(2),
        read_round: 77,
        entries: entries.into(),
    })
}

fn read_all(frame: Bytes) -> Vec<(GroupId, Message)> {
    let mut reader = FrameReader::new(frame).unwrap();
    std::iter::from_fn(|| reader.next_message().unwrap()).collect()
}

#[test]
fn every_kind_of_message_reads_back() {
    let position = LogPosition {
        term: Term(3),
        index: LogIndex(1 << 40),
    };
    let asker = ForwardedRound {
        incarnation: u64::MAX,
        round: 1,
    };
    let bodies = [
        MessageBody::RequestVote {
            last: position,
            pre: true,
            transfer: false,
        },
        MessageBody::VoteResponse {
            granted: false,
            pre: true,
            committed: position,
        },
        MessageBody::AppendResponse {
            matched: LogIndex(5),
            read_round: 6,
        },
        MessageBody::AppendRejected {
            rejected: LogIndex(5),
            hint: position,
            read_round: 6,
        },
        MessageBody::Heartbeat {
            commit: LogIndex(1),
            matched_by_all: LogIndex(2),
            read_round: 3,
        },
        MessageBody::HeartbeatResponse { read_round: 3 },
        MessageBody::TimeoutNow,
        MessageBody::ReadIndex { asker },
        MessageBody::ReadIndexResponse {
            asker,
            index: LogIndex(5),
        },
        MessageBody::InstallSnapshot {
            last: position,
            conf_state: Box::new(ConfState {
                voters: vec![ReplicaId(1), ReplicaId(300)],
                outgoing: vec![ReplicaId(1), ReplicaId(2)],
                learners: vec![ReplicaId(7)],
                learners_next: vec![ReplicaId(2)],
                auto_leave: true,
            }),
        },
    ];
    let mut sent: Vec<_> = bodies.into_iter().map(message).collect();
    sent.push(append(vec![
        entry(5, b"small"),
        entry(6, &[7; 10_000]),
        entry(7, b""),
    ]));
    let mut builder = FrameBuilder::new(ORIGIN);
    for message in &sent {
        builder.push(GroupId(70), message);
    }
    let length = builder.len();
    let frame = builder.finish();
    assert!(builder.is_empty());
    assert_eq!(frame.len(), length);
    assert_eq!(Origin::of(&frame.to_bytes()).unwrap(), ORIGIN);
    let received = read_all(frame.to_bytes());
    assert_eq!(
        received,
        sent.into_iter()
            .map(|m| (GroupId(70), m))
            .collect::<Vec<_>>()
    );
}

#[test]
fn a_followers_entry_bytes_are_the_leaders() {
    let (small, large) = (entry(5, b"small"), entry(6, &[7; 10_000]));
    let mut builder = FrameBuilder::new(ORIGIN);
    builder.push(GroupId(70), &append(vec![small.clone(), large.clone()]));
    let received = read_all(builder.finish().to_bytes());
    let MessageBody::Append { entries, .. } = &received[0].1.body else {
        panic!("an append was sent")
    };
    assert_eq!(entries[0].as_bytes(), small.as_bytes());
    assert_eq!(entries[1].as_bytes(), large.as_bytes());
}

#[test]
fn an_entry_of_another_group_is_refused() {
    let mut builder = FrameBuilder::new(ORIGIN);
    builder.push(GroupId(71), &append(vec![entry(5, b"stray")]));
    let mut reader = FrameReader::new(builder.finish().to_bytes()).unwrap();
    assert!(matches!(
        reader.next_message(),
        Err(FrameError::ForeignEntry { .. })
    ));
}

#[test]
fn a_damaged_entry_is_refused() {
    let mut builder = FrameBuilder::new(ORIGIN);
    builder.push(GroupId(70), &append(vec![entry(5, b"damaged on the way")]));
    let mut bytes = builder.finish().to_bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let mut reader = FrameReader::new(bytes.into()).unwrap();
    assert!(matches!(reader.next_message(), Err(FrameError::Entry(_))));
}

#[test]
fn ids_and_positions_that_cannot_be_are_refused() {
    let refused = |fill: &dyn Fn(&mut FrameBuilder)| {
        let mut builder = FrameBuilder::new(ORIGIN);
        fill(&mut builder);
        let mut reader = FrameReader::new(builder.finish().to_bytes()).unwrap();
        matches!(
            reader.next_item(),
            Err(FrameError::Decode(DecodeError::Invalid { .. }))
        )
    };
    let group = GroupId(70);
    for (id, is_refused) in [
        (0, true),
        (1, false),
        (MAX_COUNT, false),
        (MAX_COUNT + 1, true),
    ] {
        let id = ReplicaId(id);
        let term = Term(9);
        let vote = message(MessageBody::TimeoutNow);
        let fills: [&dyn Fn(&mut FrameBuilder); 8] = [
            &|frame| frame.push_lost(group, id, 7),
            &|frame| frame.push_fresh(group, id, 7),
            &|frame| frame.push_gone(group, id, LogPosition::ZERO),
            &|frame| frame.push_question(group, id),
            &|frame| frame.push_damaged(group, id, term),
            &|frame| frame.push_spared(group, id, term),
            &|frame| {
                frame.push(
                    group,
                    &Message {
                        from: id,
                        ..vote.clone()
                    },
                );
            },
            &|frame| {
                frame.push(
                    group,
                    &Message {
                        to: id,
                        ..vote.clone()
                    },
                );
            },
        ];
        for (at, fill) in fills.into_iter().enumerate() {
            assert_eq!(refused(fill), is_refused, "{at}, {id}");
        }
    }
    for (term, index, is_refused) in [
        (MAX_COUNT, MAX_COUNT, false),
        (MAX_COUNT + 1, 1, true),
        (1, MAX_COUNT + 1, true),
    ] {
        let position = LogPosition {
            term: Term(term),
            index: LogIndex(index),
        };
        let fill = |frame: &mut FrameBuilder| frame.push_gone(group, ReplicaId(1), position);
        assert_eq!(refused(&fill), is_refused, "{position:?}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>) {
        bytes.splice(0..0, [VERSION, 0, 1]);
        if let Ok(mut reader) = FrameReader::new(bytes.into()) {
            while let Ok(Some(_)) = reader.next_message() {}
        }
    }

    #[test]
    fn a_snapshots_members_read_back_whole_or_not_at_all(
        lists in prop::array::uniform4(prop::collection::btree_set(1u64.., 0..9)),
        auto_leave: bool,
        at: prop::sample::Index,
    ) {
        let [voters, outgoing, learners, learners_next] =
            lists.map(|ids| ids.into_iter().map(ReplicaId).collect());
        let conf_state = ConfState { voters, outgoing, learners, learners_next, auto_leave };
        let last = LogPosition { term: Term(3), index: LogIndex(1 << 40) };
        let conf_state = Box::new(conf_state);
        let sent = message(MessageBody::InstallSnapshot { last, conf_state });
        let mut builder = FrameBuilder::new(ORIGIN);
        builder.push(GroupId(70), &sent);
        let bytes = builder.finish().to_bytes();
        let whole = read_all(bytes.clone());
        prop_assert_eq!(whole, vec![(GroupId(70), sent)]);
        let cut = bytes.slice(..at.index(bytes.len() - HEADER_BYTES) + HEADER_BYTES);
        let is_empty = cut.len() == HEADER_BYTES;
        let read = FrameReader::new(cut).unwrap().next_message();
        prop_assert!(read.is_err() || is_empty);
    }

    #[test]
    fn forwarded_reads_read_back_whole_or_not_at_all(
        incarnation: u64,
        round: u64,
        index: u64,
        at: prop::sample::Index,
    ) {
        let asker = ForwardedRound { incarnation, round };
        let index = LogIndex(index);
        for body in [
            MessageBody::ReadIndex { asker },
            MessageBody::ReadIndexResponse { asker, index },
        ] {
            let sent = message(body);
            let mut builder = FrameBuilder::new(ORIGIN);
            builder.push(GroupId(70), &sent);
            let bytes = builder.finish().to_bytes();
            prop_assert_eq!(read_all(bytes.clone()), vec![(GroupId(70), sent)]);
            let length = at.index(bytes.len() - HEADER_BYTES) + HEADER_BYTES;
            let read = FrameReader::new(bytes.slice(..length)).unwrap().next_message();
            prop_assert!(read.is_err() || length == HEADER_BYTES);
        }
    }

    #[test]
    fn a_frame_cut_anywhere_is_an_error_or_shorter(at: prop::sample::Index) {
        let mut builder = FrameBuilder::new(ORIGIN);
        builder.push(GroupId(70), &append(vec![entry(5, b"one"), entry(6, b"two")]));
        let bytes = builder.finish().to_bytes();
        let cut = bytes.slice(..at.index(bytes.len()).max(HEADER_BYTES));
        let mut reader = FrameReader::new(cut).unwrap();
        while let Ok(Some((_, message))) = reader.next_message() {
            let is_append = matches!(message.body, MessageBody::Append { .. });
            prop_assert!(is_append);
        }
    }
}
