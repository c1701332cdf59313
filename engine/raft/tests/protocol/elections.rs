//! What the scenarios leave out about who may lead, and what a leader may commit.

use crate::harness::{Cluster, ELECTION, Fate, index, message, position};
use pontoon_raft::{MessageBody, Role};

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
        committed: position(0, 0),
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

#[test]
fn who_ranks_first_asks_first_and_still_needs_the_longer_log() {
    for seed in 1..=20 {
        let options = |id: u64| {
            let mut options = crate::harness::Options::voters(1..=3);
            options.config.election_rank = u32::from(id != 2);
            options.config.seed = seed;
            options
        };
        let mut cluster = Cluster::default();
        for id in 1..=3 {
            cluster.add_unchecked(id, options(id)).unwrap();
        }
        cluster.advance(2 * ELECTION);
        assert_eq!(cluster.leaders(), [2], "seed {seed}");
        // Without it the others make do.
        cluster.crash(2, 0);
        cluster.advance(4 * ELECTION);
        let after = cluster.leader().unwrap();
        cluster.propose(after).unwrap();
        cluster.advance(ELECTION);
        // It comes back, and with a shorter log it may ask as early as it likes.
        let others = 4 - after;
        cluster.crash(after, 0);
        cluster.restart(2);
        cluster.cut(2, others);
        cluster.advance(2 * ELECTION);
        cluster.heal();
        cluster.advance(4 * ELECTION);
        assert_eq!(cluster.leaders(), [others], "seed {seed}");
    }
}
