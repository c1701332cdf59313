//! Scenarios E1-E5 and C1, C2: who may lead, and what a leader may commit.

use crate::harness::{Cluster, Fate, Kind, Options, index, message, position};
use pontoon_raft::{MessageBody, Role};
use pontoon_types::{ReplicaId, Term};

fn request_vote(last: (u64, u64), pre: bool) -> MessageBody {
    MessageBody::RequestVote {
        last: position(last.0, last.1),
        pre,
        transfer: false,
    }
}

/// What `to` answers to a vote request, once its disk has done its work.
fn ask(cluster: &mut Cluster, from: u64, to: u64, term: u64, body: MessageBody) -> Option<bool> {
    cluster.step(message(from, to, term, body)).unwrap();
    cluster.process(to);
    let answer = cluster.network.pop()?;
    match answer.body {
        MessageBody::VoteResponse { granted, .. } => Some(granted),
        _ => None,
    }
}

#[test]
fn e1_a_first_election_leaves_one_leader_and_its_empty_entry_everywhere() {
    let mut cluster = Cluster::fresh(3);
    cluster.campaign(1);
    cluster.settle();
    assert_eq!(cluster.leaders(), [1]);
    cluster.advance(crate::harness::HEARTBEAT);
    for node in cluster.nodes.values() {
        assert_eq!(node.raft().leader(), Some(ReplicaId(1)));
        assert_eq!(node.log_terms(), [1]);
        assert_eq!(node.raft().commit(), index(1));
        assert_eq!(node.raft().applied(), index(1));
        assert_eq!(node.disk.hard_state.term, Term(1));
        assert_eq!(node.disk.hard_state.vote, Some(ReplicaId(1)));
    }
}

#[test]
fn e2_a_voter_votes_once_per_term_also_across_a_restart() {
    let mut cluster = Cluster::fresh(3);
    let body = request_vote((0, 0), false);
    assert_eq!(ask(&mut cluster, 1, 3, 1, body.clone()), Some(true));
    assert_eq!(ask(&mut cluster, 2, 3, 1, body.clone()), Some(false));
    assert_eq!(ask(&mut cluster, 1, 3, 1, body.clone()), Some(true));
    cluster.crash(3, 0);
    cluster.restart(3);
    assert_eq!(ask(&mut cluster, 2, 3, 1, body.clone()), Some(false));
    assert_eq!(ask(&mut cluster, 1, 3, 1, body), Some(true));
}

#[test]
fn a_follower_of_a_term_gives_its_free_vote_to_nobody_else_in_it() {
    let mut cluster = Cluster::fresh(3);
    let heartbeat = MessageBody::Heartbeat {
        commit: index(0),
        matched_by_all: index(0),
        read_round: 0,
    };
    cluster.step(message(1, 3, 1, heartbeat)).unwrap();
    assert_eq!(cluster.raft(3).vote(), None);
    let body = request_vote((0, 0), false);
    cluster.process(3);
    assert_eq!(ask(&mut cluster, 2, 3, 1, body), Some(false));
}

#[test]
fn e3_only_a_log_that_is_as_good_gets_a_vote() {
    for (last, expected) in [
        ((1, 10), false),
        ((2, 2), false),
        ((2, 3), true),
        ((2, 4), true),
        ((3, 1), true),
    ] {
        for pre in [true, false] {
            let mut cluster = Cluster::with(3, |options| options.log(&[1, 1, 2]));
            let body = request_vote(last, pre);
            assert_eq!(ask(&mut cluster, 1, 3, 9, body), Some(expected), "{last:?}");
            let lifted = if pre { 2 } else { 9 };
            assert_eq!(cluster.raft(3).term(), Term(lifted));
        }
    }
}

#[test]
fn e4_of_two_duelling_candidates_one_wins_and_the_loser_disturbs_once() {
    let mut cluster = Cluster::fresh(3);
    cluster.cut(1, 3);
    cluster.campaign(1);
    cluster.campaign(3);
    cluster.process(1);
    cluster.process(3);
    cluster.deliver_all();
    cluster.settle();
    assert_eq!(cluster.leaders(), [1]);
    assert_eq!(cluster.raft(1).commit(), index(1));
    cluster.heal();
    cluster.campaign(3);
    cluster.settle();
    assert_eq!(cluster.leaders(), [0u64; 0]);
    assert_eq!(cluster.terms(), [2, 2, 2]);
    assert_eq!(cluster.node(1).log_terms(), [1]);
    assert_eq!(cluster.raft(1).commit(), index(1));
    cluster.campaign(2);
    cluster.settle();
    assert_eq!(cluster.leaders(), [2]);
    assert_eq!(cluster.terms(), [3, 3, 3]);
    for node in cluster.nodes.values() {
        assert_eq!(node.log_terms(), [1, 3]);
    }
}

#[test]
fn e5_a_newer_uncommitted_entry_is_overwritten() {
    let mut cluster = Cluster::default();
    for id in 1..=5 {
        let options = Options::voters(1..=5);
        let options = match id {
            1 | 2 => options.log(&[1]),
            3 => options.log(&[2]).hard_state(2, 3, 0),
            _ => options.hard_state(2, 3, 0),
        };
        cluster.add(id, options);
    }
    cluster.campaign(1);
    cluster.settle();
    assert_eq!(cluster.leaders(), [0u64; 0]);
    assert_eq!(cluster.raft(1).role(), Role::Follower);
    assert_eq!(cluster.raft(1).term(), Term(2));
    cluster.campaign(1);
    cluster.settle();
    assert_eq!(cluster.leaders(), [1]);
    for node in cluster.nodes.values() {
        assert_eq!(node.log_terms(), [1, 3]);
    }
}

#[test]
fn a_candidate_with_a_stuck_disk_says_and_counts_nothing() {
    let mut cluster = Cluster::fresh(1);
    cluster.nodes.get_mut(&1).unwrap().disk_held = true;
    cluster.campaign(1);
    cluster.settle();
    assert_eq!(cluster.raft(1).role(), Role::Candidate);
    cluster.make_durable(1, 1);
    assert_eq!(cluster.raft(1).role(), Role::Leader);
}

#[test]
fn a_candidate_with_all_votes_but_its_own_does_not_lead_yet() {
    let mut cluster = Cluster::fresh(3);
    cluster.nodes.get_mut(&1).unwrap().disk_held = true;
    cluster.campaign(1);
    cluster.process(1);
    let granted = MessageBody::VoteResponse {
        granted: true,
        pre: false,
    };
    // Its request may reach others before it learns itself that its disk has done its work.
    for id in [2, 3] {
        cluster.step(message(id, 1, 1, granted.clone())).unwrap();
    }
    assert_eq!(cluster.raft(1).role(), Role::Candidate);
    cluster.make_durable(1, 1);
    assert_eq!(cluster.raft(1).role(), Role::Leader);
}

#[test]
fn a_leader_commits_what_others_hold_before_its_own_disk_does() {
    let mut cluster = Cluster::fresh(3);
    cluster.campaign(1);
    cluster.settle();
    cluster.nodes.get_mut(&1).unwrap().disk_held = true;
    cluster.propose(1).unwrap();
    cluster.rule(Some(3), None, None, Fate::Drop);
    cluster.settle();
    assert_eq!(cluster.raft(1).commit(), index(1), "one of three disks");
    cluster.heal();
    cluster.advance(crate::harness::HEARTBEAT);
    assert_eq!(cluster.raft(1).commit(), index(2), "two of three disks");
    assert_eq!(cluster.raft(1).applied(), index(1), "not durable here");
    assert_eq!(cluster.raft(1).matched_by_all(), index(1));
    cluster.make_durable(1, 9);
    cluster.settle();
    assert_eq!(cluster.raft(1).applied(), index(2));
}

/// Figure 8 up to (c): S1 leads term 4 and has copied 2/2 to a majority.
fn figure_8() -> Cluster {
    let mut cluster = Cluster::default();
    for id in 1..=5 {
        let options = Options::voters(1..=5);
        let options = match id {
            1 | 2 => options.log(&[1, 2]).hard_state(2, 1, 0),
            5 => options.log(&[1, 3]).hard_state(3, 5, 0),
            _ => options.log(&[1]).hard_state(3, 5, 0),
        };
        cluster.add(id, options);
    }
    cluster.isolate(5);
    cluster.campaign(1);
    cluster.settle();
    assert_eq!(cluster.leaders(), [0u64; 0], "3 and 4 are in term 3");
    cluster
}

#[test]
fn c1_an_older_entry_on_a_majority_is_not_committed_by_counting() {
    for branch in ["a", "b"] {
        let mut cluster = figure_8();
        // Index 3 holds the leader's own 4/3; followers get only what is before it.
        cluster.campaign(1);
        cluster.process(1);
        cluster.deliver_all();
        for id in 2..=4 {
            cluster.process(id);
        }
        cluster.deliver_all();
        assert_eq!(cluster.leaders(), [1]);
        cluster.isolate(1);
        cluster.process(1);
        cluster.network.clear();
        let entry = pontoon_types::Entry::encode(
            pontoon_types::GroupId(1),
            Term(2),
            index(2),
            pontoon_types::EntryKind::Command,
            b"2/2",
        );
        let append = MessageBody::Append {
            previous: position(1, 1),
            commit: index(0),
            matched_by_all: index(0),
            read_round: 0,
            entries: vec![entry],
        };
        cluster.heal();
        cluster.isolate(5);
        for id in [2, 3] {
            cluster.step(message(1, id, 4, append.clone())).unwrap();
            cluster.process(id);
        }
        assert_eq!(cluster.network.len(), 2, "both acknowledge 2/2");
        cluster.deliver_all();
        assert_eq!(cluster.raft(1).commit(), index(0));
        assert_eq!(cluster.invariants.max_committed(), index(0));
        if branch == "a" {
            cluster.crash(1, 0);
            cluster.heal();
            cluster.campaign(5);
            cluster.settle();
            if cluster.leaders().is_empty() {
                cluster.campaign(5);
                cluster.settle();
            }
            assert_eq!(cluster.leaders(), [5]);
            cluster.restart(1);
            cluster.advance(crate::harness::HEARTBEAT * 3);
            for node in cluster.nodes.values() {
                assert_eq!(node.log_terms(), [1, 3, 5]);
                assert_eq!(node.raft().commit(), index(3));
            }
        } else {
            cluster.settle();
            cluster.advance(crate::harness::HEARTBEAT);
            assert_eq!(cluster.raft(1).commit(), index(3));
            assert_eq!(cluster.node(1).log_terms(), [1, 2, 4]);
            cluster.heal();
            for _ in 0..3 {
                cluster.campaign(5);
                cluster.settle();
                assert!(!cluster.leaders().contains(&5));
            }
        }
    }
}

#[test]
fn c2_a_new_leader_commits_older_entries_only_with_one_of_its_own() {
    let mut cluster = Cluster::default();
    for id in 1..=5 {
        let log: &[u64] = if id <= 2 { &[1, 1, 1] } else { &[1] };
        cluster.add(id, Options::voters(1..=5).log(log));
    }
    // Every follower gets the older entries, and nobody the leader's own.
    cluster.rule(Some(2), None, Some(Kind::Append), Fate::Hold);
    cluster.campaign(2);
    cluster.settle();
    assert_eq!(cluster.leaders(), [2]);
    let held = std::mem::take(&mut cluster.held);
    for mut append in held {
        let to = append.to.0;
        if let MessageBody::Append {
            previous, entries, ..
        } = &mut append.body
        {
            *previous = position(1, 1);
            *entries = cluster.node(2).disk.log[1..3].to_vec();
        }
        cluster.network.push(append);
        cluster.deliver_all();
        cluster.process(to);
        cluster.deliver_all();
    }
    assert_eq!(cluster.raft(2).commit(), index(0));
    cluster.heal();
    cluster.propose(2).unwrap();
    cluster.settle();
    assert_eq!(cluster.raft(2).commit(), index(5));
    assert_eq!(cluster.node(2).log_terms(), [1, 1, 1, 2, 2]);
}
