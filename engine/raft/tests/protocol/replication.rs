//! Scenarios R1-R5: logs that differ, and messages that come late, twice or never.

use crate::harness::{Cluster, Fate, HEARTBEAT, Kind, Options, index, message, position};
use pontoon_raft::{MessageBody, ProgressMode, ProposeError, StepError};
use pontoon_types::{Entry, EntryKind, GroupId, ReplicaId, Term};

#[test]
fn r1_seven_divergent_logs_become_the_leaders() {
    let tails: [&[u64]; 7] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 7, 7, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    let mut cluster = Cluster::default();
    for (id, tail) in (1..).zip(tails) {
        let log = [&[1; 10][..], tail].concat();
        cluster.add(id, Options::voters(1..=7).log(&log).hard_state(7, 0, 0));
    }
    cluster.campaign(1);
    cluster.settle();
    cluster.advance(HEARTBEAT);
    assert_eq!(cluster.leaders(), [1]);
    for node in cluster.nodes.values() {
        let expected = [&[1; 10][..], &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]].concat();
        assert_eq!(node.log_terms(), expected);
        assert_eq!(node.raft().commit(), index(21));
    }
    let overwritten = |id: u64| cluster.node(id).first_overwritten.map(|index| index.0);
    let found: Vec<_> = (1..=7).map(overwritten).collect();
    let expected = [None, None, None, Some(21), Some(19), Some(16), Some(14)];
    assert_eq!(found, expected);
}

/// Every order of six, by Heap's algorithm.
fn orders(of: usize) -> Vec<Vec<usize>> {
    fn permute(at: usize, items: &mut Vec<usize>, out: &mut Vec<Vec<usize>>) {
        if at == 1 {
            out.push(items.clone());
            return;
        }
        for swap in 0..at {
            permute(at - 1, items, out);
            items.swap(if at.is_multiple_of(2) { swap } else { 0 }, at - 1);
        }
    }
    let mut out = Vec::new();
    permute(of, &mut (0..of).collect(), &mut out);
    out
}

#[test]
fn r2_appends_in_any_order_and_twice_build_the_leaders_log() {
    let orders = orders(6);
    assert_eq!(orders.len(), 720);
    for (round, order) in orders.into_iter().enumerate() {
        let mut cluster = Cluster::fresh(2);
        cluster.campaign(1);
        cluster.settle();
        cluster.rule(Some(1), Some(2), Some(Kind::Append), Fate::Hold);
        for _ in 0..6 {
            cluster.propose(1).unwrap();
            cluster.process(1);
        }
        let appends = cluster.held.clone();
        assert_eq!(appends.len(), 6);
        for at in order {
            cluster.step(appends[at].clone()).unwrap();
            if (at + round) % 3 == 0 {
                cluster.step(appends[at / 2].clone()).unwrap();
            }
            cluster.process(2);
        }
        cluster.heal();
        cluster.held.clear();
        cluster.advance(HEARTBEAT);
        assert_eq!(cluster.node(2).log_terms(), [1; 7]);
        assert_eq!(cluster.commits(), [7, 7]);
    }
}

fn append(previous: (u64, u64), commit: u64, terms: &[u64]) -> MessageBody {
    let entry = |(at, term): (u64, &u64)| {
        let index = index(previous.1 + 1 + at);
        Entry::encode(GroupId(1), Term(*term), index, EntryKind::Command, b"other")
    };
    MessageBody::Append {
        previous: position(previous.0, previous.1),
        commit: index(commit),
        matched_by_all: index(0),
        read_round: 0,
        entries: (0..).zip(terms).map(entry).collect(),
    }
}

fn committed_follower() -> Cluster {
    let mut cluster = Cluster::fresh(3);
    cluster.campaign(1);
    for _ in 0..4 {
        cluster.settle();
        cluster.propose(1).unwrap();
    }
    cluster.settle();
    cluster.advance(HEARTBEAT);
    assert_eq!(cluster.commits(), [5, 5, 5]);
    cluster
}

#[test]
fn r3_an_append_below_the_commit_index_is_answered_with_it() {
    let mut cluster = committed_follower();
    cluster
        .step(message(1, 2, 1, append((1, 2), 3, &[1])))
        .unwrap();
    cluster.process(2);
    let answer = cluster.network.pop().unwrap();
    let expected = MessageBody::AppendResponse {
        matched: index(5),
        read_round: 0,
    };
    assert_eq!(answer.body, expected);
    assert_eq!(cluster.node(2).log_terms(), [1; 5]);
}

#[test]
fn r3_a_leader_that_contradicts_what_is_committed_stops_the_replica() {
    for body in [
        append((1, 2), 3, &[1, 2]),
        append((1, 4), 5, &[2]),
        append((2, 5), 5, &[]),
    ] {
        let mut cluster = committed_follower();
        let error = cluster.step(message(3, 2, 2, body)).unwrap_err();
        assert!(
            matches!(error, StepError::CommittedConflict { .. }) && error.is_fatal(),
            "{error}"
        );
        assert!(cluster.raft(2).is_stopped());
        assert_eq!(cluster.node(2).log_terms(), [1; 5]);
        assert_eq!(cluster.raft(2).next_deadline(), None);
        cluster.process(2);
        assert!(cluster.network.is_empty(), "it says nothing more");
        assert_eq!(cluster.propose(2), Err(ProposeError::Stopped));
        let again = cluster.step(message(3, 2, 9, append((0, 0), 0, &[])));
        assert_eq!(again, Err(StepError::Stopped { id: ReplicaId(2) }));
    }
}

#[test]
fn a_follower_that_lost_what_it_had_acknowledged_stops() {
    let mut cluster = committed_follower();
    cluster.crash(2, 0);
    let node = cluster.nodes.get_mut(&2).unwrap();
    node.disk.log.truncate(2);
    node.disk.hard_state.commit = index(2);
    // The checkers would rightly cry: what was committed is gone from this disk.
    let now = cluster.now;
    node.start(now).unwrap();
    let heartbeat = MessageBody::Heartbeat {
        commit: index(5),
        matched_by_all: index(0),
        read_round: 0,
    };
    let raft = node.raft.as_mut().unwrap();
    let error = raft.step(message(1, 2, 1, heartbeat), now).unwrap_err();
    assert!(matches!(error, StepError::LogLost { .. }) && error.is_fatal());
    assert!(raft.is_stopped());
}

/// Ten terms of a hundred entries each, from `first` on in steps of two.
fn ten_terms(first: u64) -> Vec<u64> {
    (0..1000).map(|at| first + 2 * (at / 100)).collect()
}

#[test]
fn r4_backing_up_takes_a_rejection_per_term_and_not_per_entry() {
    let common = vec![1; 50];
    let with = |tail: Vec<u64>| [common.clone(), tail].concat();
    let logs = [
        // The follower has newer terms that the leader lacks, so that it must skip; older ones, so that
        // the leader must; the leader alone has them, both do, and a follower that is only short.
        (with(vec![2; 1000]), with(ten_terms(3)), 10),
        (with(vec![30; 1000]), with(ten_terms(2)), 10),
        (with(ten_terms(2)), with(vec![]), 10),
        (with(ten_terms(3)), with(ten_terms(2)), 20),
        (with(vec![2; 1000]), with(vec![]), 1),
    ];
    for (leader, follower, terms) in logs {
        let mut cluster = Cluster::default();
        for id in 1..=3 {
            let log = if id == 3 { &follower } else { &leader };
            let options = Options::voters(1..=3).log(log).hard_state(40, 0, 0);
            cluster.add(id, options);
        }
        cluster.campaign(1);
        cluster.settle();
        cluster.advance(HEARTBEAT);
        assert_eq!(cluster.node(3).log_terms(), cluster.node(1).log_terms());
        let rejections = cluster.delivered(Kind::AppendRejected, 3, 1);
        assert!(
            (1..=terms + 2).contains(&rejections),
            "{rejections} rejections over {terms} terms"
        );
        let view = cluster.raft(1).progress(ReplicaId(3)).unwrap();
        assert_eq!(view.mode, ProgressMode::Pipeline);
    }
}

#[test]
fn r5_lost_answers_and_silence_still_end_in_the_same_commit() {
    let mut cluster = Cluster::fresh(3);
    cluster.campaign(1);
    cluster.settle();
    cluster.drop_kind(3, 1, Kind::AppendResponse);
    cluster.propose(1).unwrap();
    cluster.settle();
    cluster.rule(Some(1), Some(3), None, Fate::Drop);
    cluster.advance(HEARTBEAT * 3);
    assert_eq!(cluster.raft(1).commit(), index(2));
    assert_eq!(cluster.raft(3).commit(), index(1));
    cluster.heal();
    cluster.advance(HEARTBEAT);
    assert_eq!(cluster.raft(3).commit(), index(2));
}

#[test]
fn an_acknowledgement_owed_to_an_earlier_term_is_forgotten_with_it() {
    let mut cluster = committed_follower();
    // Replica 1 leads term 1, loses unsynced entries that replica 2 has, and leads term 2 without them,
    // all within one of replica 2's cycles.
    cluster
        .step(message(1, 2, 1, append((1, 5), 5, &[1, 1, 1])))
        .unwrap();
    cluster
        .step(message(1, 2, 2, append((1, 5), 5, &[2])))
        .unwrap();
    cluster.process(2);
    let answers: Vec<_> = cluster
        .network
        .drain(..)
        .map(|answer| answer.body)
        .collect();
    let expected = MessageBody::AppendResponse {
        matched: index(6),
        read_round: 0,
    };
    assert_eq!(answers, [expected]);
}

#[test]
fn one_cycles_proposals_are_one_append_per_peer_and_one_for_the_disk() {
    let mut cluster = Cluster::fresh(3);
    cluster.campaign(1);
    cluster.settle();
    for _ in 0..10 {
        cluster.propose(1).unwrap();
    }
    cluster.take_outputs(1);
    assert_eq!(cluster.network.len(), 2);
    for message in &cluster.network {
        let MessageBody::Append { entries, .. } = &message.body else {
            panic!("{message:?}");
        };
        assert_eq!(entries.len(), 10);
    }
    let pending = &cluster.node(1).pending;
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0].persist.entries.len(), 10);
}

#[test]
fn everybody_learns_what_nobody_needs_any_more() {
    let mut cluster = committed_follower();
    cluster.isolate(3);
    cluster.propose(1).unwrap();
    cluster.settle();
    cluster.advance(HEARTBEAT);
    assert_eq!(cluster.raft(1).matched_by_all(), index(5));
    assert_eq!(cluster.raft(2).matched_by_all(), index(5));
    cluster.heal();
    cluster.advance(HEARTBEAT * 2);
    for node in cluster.nodes.values() {
        assert_eq!(node.raft().matched_by_all(), index(6));
    }
}

#[test]
fn a_peer_behind_the_cache_is_fed_from_the_log() {
    let mut cluster = Cluster::with(3, |mut options| {
        options.config.max_cached_bytes = 0;
        options.config.max_append_bytes = 100;
        options
    });
    cluster.campaign(1);
    cluster.settle();
    cluster.isolate(3);
    for _ in 0..50 {
        cluster.propose(1).unwrap();
        cluster.settle();
    }
    assert_eq!(cluster.raft(1).cached_bytes(), 0);
    cluster.heal();
    cluster.advance(HEARTBEAT * 2);
    assert_eq!(cluster.commits(), [51, 51, 51]);
    assert_eq!(cluster.node(3).machine, cluster.node(1).machine);
}

#[test]
fn a_peer_behind_the_compacted_log_waits_for_a_snapshot() {
    let mut cluster = Cluster::fresh(3);
    cluster.campaign(1);
    cluster.settle();
    cluster.isolate(3);
    for _ in 0..5 {
        cluster.propose(1).unwrap();
    }
    cluster.settle();
    let raft = cluster.nodes.get_mut(&1).unwrap().raft.as_mut().unwrap();
    raft.compact(index(4));
    assert_eq!(raft.first_index(), index(5));
    cluster.heal();
    cluster.advance(HEARTBEAT * 3);
    let view = cluster.raft(1).progress(ReplicaId(3)).unwrap();
    assert_eq!(view.mode, ProgressMode::Snapshot);
    assert_eq!(cluster.raft(3).commit(), index(1));
    cluster.propose(1).unwrap();
    cluster.settle();
    assert_eq!(cluster.raft(1).commit(), index(7), "the others go on");
}
