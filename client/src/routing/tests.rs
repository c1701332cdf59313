//! The rules of the router, one by one, and then all of them against a random cluster.

use super::*;
use crate::protocol::RefusalCode;
use bytes::Bytes;
use pontoon_shard_router::Manifest;
use pontoon_types::ClusterId;
use proptest::prelude::*;

const DEADLINE: Instant = Instant::from_nanos(5_000_000_000);

fn map() -> ClusterMap {
    let nodes = (1..=3).map(|n| (NodeId(n), format!("host{n}:7700")));
    let splits = vec![Bytes::from_static(b"g"), Bytes::from_static(b"p")];
    let manifest = Manifest::new(ClusterId(3), nodes, splits, None);
    manifest.unwrap().initial_map()
}

fn router() -> Router {
    let map = map();
    let mut router = Router::new(ShardDescriptor::clone(map.meta()));
    router.handle_map(map);
    router
}

fn attempt(access: Access) -> Attempt {
    Attempt::new(access, DEADLINE)
}

fn node_for(router: &Router, attempt: &mut Attempt, key: &[u8]) -> NodeId {
    match router.target(Place::Key(key), attempt, Instant::ZERO) {
        Target::Send { node, shard } => {
            assert!(shard.contains(key) && shard.replica_on(node).is_some());
            node
        }
        other => panic!("{other:?}"),
    }
}

fn answer(router: &mut Router, attempt: &mut Attempt, response: &Response) -> Verdict {
    router.handle_response(attempt, response, Instant::ZERO, 7)
}

fn is_retry(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Retry { .. } | Verdict::RefreshMap { .. })
}

#[test]
fn a_request_goes_first_to_the_preferred_leader_and_then_to_who_answered() {
    let mut router = router();
    let mut one = attempt(Access::Write);
    let first = node_for(&router, &mut one, b"a");
    assert_eq!(first, NodeId(1));
    let leader = Some(NodeId(3));
    let verdict = answer(&mut router, &mut one, &Response::NotLeader { leader });
    let after = Duration::ZERO;
    assert_eq!(verdict, Verdict::Retry { after });
    assert_eq!(node_for(&router, &mut one, b"a"), NodeId(3));
    assert_eq!(
        answer(&mut router, &mut one, &Response::Written),
        Verdict::Done
    );
    // Another request starts where the first one ended; another shard is not concerned.
    assert_eq!(
        node_for(&router, &mut attempt(Access::Read), b"b"),
        NodeId(3)
    );
    assert_eq!(
        node_for(&router, &mut attempt(Access::Read), b"h"),
        NodeId(2)
    );
}

#[test]
fn without_a_leader_the_replicas_are_asked_in_turn_with_pauses() {
    let mut router = router();
    let mut one = attempt(Access::Write);
    let mut asked = Vec::new();
    for _ in 0..6 {
        asked.push(node_for(&router, &mut one, b"a").0);
        let verdict = answer(&mut router, &mut one, &Response::NotLeader { leader: None });
        assert!(matches!(verdict, Verdict::Retry { after } if after > Duration::ZERO));
    }
    assert_eq!(asked, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn a_follower_that_names_a_dead_leader_is_not_followed_there() {
    let mut router = router();
    let mut one = attempt(Access::Read);
    assert_eq!(node_for(&router, &mut one, b"a"), NodeId(1));
    router.handle_failure(&mut one, ChannelFailure::MayHaveBeenSent, Instant::ZERO, 0);
    let second = node_for(&router, &mut one, b"a");
    assert_ne!(second, NodeId(1));
    let leader = Some(NodeId(1));
    let verdict = answer(&mut router, &mut one, &Response::NotLeader { leader });
    assert!(matches!(verdict, Verdict::Retry { after } if after > Duration::ZERO));
    let third = node_for(&router, &mut one, b"a");
    assert!(third != NodeId(1) && third != second);
    // Once it is back, its name counts again.
    router.handle_up(NodeId(1));
    answer(&mut router, &mut one, &Response::NotLeader { leader });
    assert_eq!(node_for(&router, &mut one, b"a"), NodeId(1));
}

#[test]
fn a_stalled_node_is_passed_over_until_it_answers_or_its_time_is_up() {
    let mut router = router();
    let until = Instant::from_nanos(1_000);
    router.handle_stalled(NodeId(1), until);
    let mut late = attempt(Access::Read);
    let chosen = |router: &Router, now| {
        let target = router.target(Place::Key(b"a"), &mut attempt(Access::Read), now);
        match target {
            Target::Send { node, .. } => node,
            other => panic!("{other:?}"),
        }
    };
    assert_ne!(chosen(&router, Instant::ZERO), NodeId(1));
    assert_eq!(chosen(&router, until), NodeId(1));
    // An answer to something sent earlier shows that it lives.
    late.sent_to(ShardId(2), NodeId(1));
    answer(&mut router, &mut late, &Response::Value(None));
    assert_eq!(chosen(&router, Instant::ZERO), NodeId(1));
}

#[test]
fn a_late_denial_does_not_displace_a_newer_leader() {
    let mut router = router();
    let (mut late, mut other) = (attempt(Access::Read), attempt(Access::Read));
    assert_eq!(node_for(&router, &mut late, b"a"), NodeId(1));
    assert_eq!(node_for(&router, &mut other, b"a"), NodeId(1));
    answer(
        &mut router,
        &mut other,
        &Response::NotLeader { leader: None },
    );
    assert_eq!(node_for(&router, &mut other, b"a"), NodeId(2));
    answer(&mut router, &mut other, &Response::Value(None));
    let leader = Some(NodeId(3));
    answer(&mut router, &mut late, &Response::NotLeader { leader });
    assert_eq!(node_for(&router, &mut late, b"a"), NodeId(2));
}

#[test]
fn two_nodes_that_name_each_other_are_not_asked_in_a_tight_loop() {
    let mut router = router();
    let mut one = attempt(Access::Write);
    let mut paused = 0;
    for _ in 0..20 {
        let leader = match node_for(&router, &mut one, b"a") {
            NodeId(1) => Some(NodeId(2)),
            _ => Some(NodeId(1)),
        };
        let verdict = answer(&mut router, &mut one, &Response::NotLeader { leader });
        paused += u32::from(
            verdict
                != Verdict::Retry {
                    after: Duration::ZERO,
                },
        );
    }
    assert!(paused >= 4, "{paused}");
}

#[test]
fn a_write_without_an_answer_is_unknown_and_a_read_goes_elsewhere() {
    for failure in [
        ChannelFailure::MayHaveBeenSent,
        ChannelFailure::TimedOut,
        ChannelFailure::Unreadable,
    ] {
        let mut router = router();
        let mut write = attempt(Access::Write);
        node_for(&router, &mut write, b"a");
        let verdict = router.handle_failure(&mut write, failure, Instant::ZERO, 0);
        assert_eq!(verdict, Verdict::Unknown, "{failure:?}");
        let mut read = attempt(Access::Read);
        let first = node_for(&router, &mut read, b"a");
        let verdict = router.handle_failure(&mut read, failure, Instant::ZERO, 0);
        if failure == ChannelFailure::Unreadable {
            assert_eq!(verdict, Verdict::Fail);
        } else {
            assert!(is_retry(&verdict), "{failure:?}");
            assert_ne!(node_for(&router, &mut read, b"a"), first);
        }
    }
    let mut router = router();
    let mut write = attempt(Access::Write);
    node_for(&router, &mut write, b"a");
    let verdict = answer(&mut router, &mut write, &Response::UnknownOutcome);
    assert_eq!(verdict, Verdict::Unknown);
}

#[test]
fn a_leader_that_is_stopping_is_a_leader_no_more() {
    let mut router = router();
    let mut before = attempt(Access::Write);
    assert_eq!(node_for(&router, &mut before, b"a"), NodeId(1));
    answer(&mut router, &mut before, &Response::Written);

    let mut write = attempt(Access::Write);
    assert_eq!(node_for(&router, &mut write, b"a"), NodeId(1));
    let stopping = Response::Unavailable {
        text: "the node is stopping".into(),
    };
    assert!(is_retry(&answer(&mut router, &mut write, &stopping)));
    // Others are asked in turn, and the one that stops not before them.
    let mut asked = Vec::new();
    for _ in 0..2 {
        asked.push(node_for(&router, &mut write, b"a").0);
        answer(
            &mut router,
            &mut write,
            &Response::NotLeader { leader: None },
        );
    }
    assert_eq!(asked, [2, 3]);
}

#[test]
fn what_was_surely_not_proposed_is_tried_again_even_if_it_writes() {
    let refusals = [
        Response::NotLeader { leader: None },
        Response::StaleEpoch {
            descriptors: vec![],
        },
        Response::NotHere,
        Response::Overloaded {
            retry_after: Duration::from_millis(3),
        },
        Response::Unavailable {
            text: "starting".into(),
        },
    ];
    for refusal in refusals {
        let mut router = router();
        let mut write = attempt(Access::Write);
        node_for(&router, &mut write, b"a");
        assert!(
            is_retry(&answer(&mut router, &mut write, &refusal)),
            "{refusal:?}"
        );
        assert!(write.last_setback.is_some());
    }
    for failure in [ChannelFailure::NotSent, ChannelFailure::QueueFull] {
        let mut router = router();
        let mut write = attempt(Access::Write);
        node_for(&router, &mut write, b"a");
        let verdict = router.handle_failure(&mut write, failure, Instant::ZERO, 0);
        assert!(is_retry(&verdict), "{failure:?}");
    }
}

#[test]
fn a_wrong_request_is_not_tried_again() {
    let mut router = router();
    let mut one = attempt(Access::Write);
    node_for(&router, &mut one, b"a");
    let response = Response::Refused {
        code: RefusalCode::TooLarge,
        text: "key over 4096 bytes".into(),
    };
    assert_eq!(answer(&mut router, &mut one, &response), Verdict::Fail);
}

#[test]
fn an_overloaded_node_is_left_alone_for_as_long_as_it_asks() {
    let mut router = router();
    let mut one = attempt(Access::Write);
    let node = node_for(&router, &mut one, b"a");
    let retry_after = Duration::from_millis(300);
    let verdict = answer(&mut router, &mut one, &Response::Overloaded { retry_after });
    assert!(matches!(verdict, Verdict::Retry { after } if after > retry_after));
    // It is still the leader.
    assert_eq!(node_for(&router, &mut one, b"a"), node);
}

#[test]
fn a_stale_epoch_teaches_the_new_range_and_is_followed_at_once() {
    let mut router = router();
    let mut one = attempt(Access::Write);
    node_for(&router, &mut one, b"c");
    let parent = ShardDescriptor::clone(router.map().unwrap().route(b"c").unwrap());
    let mut left = parent.clone();
    left.epoch.range += 1;
    left.end = Some(Bytes::from_static(b"b"));
    let mut right = left.clone();
    right.shard = ShardId(77);
    right.start = Bytes::from_static(b"b");
    right.end = parent.end.clone();
    right.replicas.rotate_left(1);
    let descriptors = vec![left.clone(), right.clone()];
    let response = Response::StaleEpoch { descriptors };
    let after = Duration::ZERO;
    assert_eq!(
        answer(&mut router, &mut one, &response),
        Verdict::Retry { after }
    );
    let Target::Send { shard, .. } = router.target(Place::Key(b"c"), &mut one, Instant::ZERO)
    else {
        panic!("the new shard is known");
    };
    assert_eq!(*shard, right);
    // The same news again is no news: then the map is asked.
    let verdict = answer(&mut router, &mut one, &response);
    assert!(matches!(verdict, Verdict::RefreshMap { .. }));
    // Half of the news leaves a gap, and the map is asked.
    let mut half = super::Router::new(ShardDescriptor::clone(map().meta()));
    half.handle_map(map());
    let mut one = attempt(Access::Write);
    node_for(&half, &mut one, b"c");
    let descriptors = vec![left];
    answer(&mut half, &mut one, &Response::StaleEpoch { descriptors });
    assert_eq!(
        half.target(Place::Key(b"c"), &mut one, Instant::ZERO),
        Target::RefreshMap
    );
}

#[test]
fn before_the_map_was_read_only_the_meta_shard_can_be_asked() {
    let router = Router::new(ShardDescriptor::clone(map().meta()));
    let mut one = attempt(Access::Read);
    assert_eq!(
        router.target(Place::Key(b"a"), &mut one, Instant::ZERO),
        Target::RefreshMap
    );
    let target = router.target(Place::Meta, &mut one, Instant::ZERO);
    assert!(matches!(target, Target::Send { shard, .. } if shard.shard == ShardId::META));
}

#[test]
fn when_no_node_of_the_meta_group_is_there_others_are_asked_who_holds_it() {
    let mut router = router();
    let mut one = attempt(Access::Read);
    let mut verdicts = Vec::new();
    for _ in 0..4 {
        let target = router.target(Place::Meta, &mut one, Instant::ZERO);
        assert!(matches!(target, Target::Send { .. }));
        let failure = ChannelFailure::NotSent;
        verdicts.push(router.handle_failure(&mut one, failure, Instant::ZERO, 0));
    }
    let asks_around = |verdict: &Verdict| matches!(verdict, Verdict::RefreshMap { .. });
    assert!(!verdicts[..3].iter().any(asks_around), "{verdicts:?}");
    assert!(asks_around(&verdicts[3]), "{verdicts:?}");
}

#[test]
fn what_is_too_large_for_a_node_was_not_done_and_is_not_tried_again() {
    let mut router = router();
    let mut one = attempt(Access::Write);
    node_for(&router, &mut one, b"a");
    let verdict = router.handle_failure(&mut one, ChannelFailure::TooLarge, Instant::ZERO, 0);
    assert_eq!(verdict, Verdict::Fail);
}

#[test]
fn news_of_a_lost_connection_does_not_outlive_a_new_one_for_long() {
    let mut router = router();
    let mut one = attempt(Access::Read);
    node_for(&router, &mut one, b"a");
    // The connection was made anew before the failure of a request on the old one was told.
    router.handle_up(NodeId(1));
    router.handle_failure(&mut one, ChannelFailure::MayHaveBeenSent, Instant::ZERO, 0);
    let later = Instant::ZERO + LOST_FOR;
    let target = router.target(Place::Key(b"a"), &mut attempt(Access::Read), later);
    assert!(matches!(target, Target::Send { node, .. } if node == NodeId(1)));
}

#[test]
fn a_batch_over_two_shards_names_both() {
    let router = router();
    let batch = [b"a", b"b", b"q"].map(|key| Mutation::Delete { key });
    let mut one = attempt(Access::Write);
    let (first, second) = (ShardId(2), ShardId(4));
    assert_eq!(
        router.target(Place::Batch(&batch), &mut one, Instant::ZERO),
        Target::Spans { first, second }
    );
    let target = router.target(Place::Batch(&batch[..2]), &mut one, Instant::ZERO);
    assert!(matches!(target, Target::Send { shard, .. } if shard.shard == first));
}

#[test]
fn the_deadline_ends_the_tries() {
    let mut router = router();
    let mut one = attempt(Access::Write);
    node_for(&router, &mut one, b"a");
    let late = Instant::from_nanos(DEADLINE.as_nanos() - 1_000);
    let response = Response::NotLeader { leader: None };
    let verdict = router.handle_response(&mut one, &response, late, 0);
    assert_eq!(verdict, Verdict::Deadline);
    let node = NodeId(1);
    let leader = None;
    assert_eq!(one.last_setback, Some(Setback::NotLeader { node, leader }));
}

#[test]
fn when_every_replica_is_down_one_is_still_asked() {
    let mut router = router();
    (1..=3).for_each(|n| router.handle_down(NodeId(n)));
    node_for(&router, &mut attempt(Access::Read), b"a");
}

/// What may happen to one try in the random cluster.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered,
    NotSent,
    Lost,
    TimedOut,
    Overloaded,
    Restarting,
    UnknownOutcome,
}

fn any_fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Answered),
        1 => Just(Fate::NotSent),
        1 => Just(Fate::Lost),
        1 => Just(Fate::TimedOut),
        1 => Just(Fate::Overloaded),
        1 => Just(Fate::Restarting),
        1 => Just(Fate::UnknownOutcome),
    ]
}

proptest! {
    /// A cluster whose leader moves and whose network fails for a while, and then stands still. Whatever
    /// happens: a write that may have been proposed is never sent again, nothing is tried after the
    /// deadline, and once the cluster stands still every request comes through in a few tries.
    #[test]
    fn no_write_is_sent_twice_and_calm_brings_every_request_through(
        writes: bool,
        unrest in prop::collection::vec((any_fate(), 1u64..=3, any::<bool>(), any::<u64>()), 0..30),
        calm_leader in 1u64..=3,
        key: [u8; 1],
    ) {
        let mut router = router();
        let access = if writes { Access::Write } else { Access::Read };
        let mut one = attempt(access);
        let mut now = Instant::ZERO;
        let mut may_have_been_proposed = false;
        let mut calm_tries = 0;
        let mut unrest = unrest.into_iter();
        loop {
            prop_assert!(now < DEADLINE, "a try began after the deadline");
            let (fate, leader, followers_know, random) =
                unrest.next().unwrap_or_else(|| {
                    calm_tries += 1;
                    (1..=3).for_each(|n| router.handle_up(NodeId(n)));
                    (Fate::Answered, calm_leader, true, 0)
                });
            prop_assert!(calm_tries <= 6, "calm, and still not through");
            prop_assert!(!(writes && may_have_been_proposed), "sent again after it may have been proposed");
            let node = node_for(&router, &mut one, &key);
            now = now + Duration::from_millis(1);
            let respond = |router: &mut Router, one: &mut Attempt, response| {
                router.handle_response(one, &response, now, random)
            };
            let verdict = match fate {
                Fate::Answered if node == NodeId(leader) => {
                    let response = if writes { Response::Written } else { Response::Value(None) };
                    prop_assert_eq!(respond(&mut router, &mut one, response), Verdict::Done);
                    break;
                }
                Fate::Answered => {
                    let leader = followers_know.then_some(NodeId(leader));
                    respond(&mut router, &mut one, Response::NotLeader { leader })
                }
                Fate::Overloaded => {
                    let retry_after = Duration::from_millis(2);
                    respond(&mut router, &mut one, Response::Overloaded { retry_after })
                }
                Fate::Restarting => {
                    respond(&mut router, &mut one, Response::Unavailable { text: String::new() })
                }
                Fate::UnknownOutcome => {
                    may_have_been_proposed = true;
                    respond(&mut router, &mut one, Response::UnknownOutcome)
                }
                Fate::NotSent => {
                    router.handle_failure(&mut one, ChannelFailure::NotSent, now, random)
                }
                Fate::Lost | Fate::TimedOut => {
                    may_have_been_proposed = true;
                    let failure = match fate {
                        Fate::Lost => ChannelFailure::MayHaveBeenSent,
                        _ => ChannelFailure::TimedOut,
                    };
                    router.handle_failure(&mut one, failure, now, random)
                }
            };
            match verdict {
                Verdict::Retry { after } | Verdict::RefreshMap { after } => now = now + after,
                Verdict::Unknown => {
                    prop_assert!(writes && may_have_been_proposed);
                    break;
                }
                Verdict::Deadline => {
                    prop_assert!(one.last_setback.is_some());
                    break;
                }
                Verdict::Done | Verdict::Fail => prop_assert!(false, "{:?}", verdict),
            }
        }
    }

    #[test]
    fn pauses_are_jittered_and_bounded(randoms in prop::collection::vec(any::<u64>(), 1..30)) {
        let mut one = attempt(Access::Write);
        for (n, random) in randoms.into_iter().enumerate() {
            let verdict = one.again(Setback::NoMap, Instant::ZERO, random);
            let Verdict::Retry { after } = verdict else { panic!("{verdict:?}") };
            let full = (8 << n.min(8)).min(200);
            prop_assert!(after <= Duration::from_millis(full));
            prop_assert!(after >= Duration::from_millis(full) / 2);
        }
    }
}

/// A map of four nodes whose one shard is on three of them, and the node that has none.
fn partly() -> (Router, NodeId) {
    let nodes = (1..=4).map(|n| (NodeId(n), format!("host{n}:7700")));
    let manifest = Manifest::new(ClusterId(3), nodes, Vec::new(), Some(3)).unwrap();
    let map = manifest.initial_map();
    let shard = map.shards().next().unwrap();
    let without = (1..=4)
        .map(NodeId)
        .find(|node| shard.replica_on(*node).is_none());
    let without = without.unwrap();
    let mut router = Router::new(ShardDescriptor::clone(map.meta()));
    router.handle_map(map);
    (router, without)
}

fn any_node_for(router: &Router, attempt: &mut Attempt) -> NodeId {
    match router.target(Place::Key(b"a"), attempt, Instant::ZERO) {
        Target::Send { node, .. } => node,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_shard_that_has_moved_is_found_where_the_map_does_not_say_it_is() {
    // A member that is left names the new leader.
    let (mut router, moved_to) = partly();
    let mut one = attempt(Access::Write);
    any_node_for(&router, &mut one);
    let leader = Some(moved_to);
    answer(&mut router, &mut one, &Response::NotLeader { leader });
    assert_eq!(any_node_for(&router, &mut one), moved_to);

    // No member is left where the map says: the others are asked in their turn.
    let (mut router, moved_to) = partly();
    let mut one = attempt(Access::Write);
    let mut asked = Vec::new();
    for _ in 0..4 {
        let node = any_node_for(&router, &mut one);
        asked.push(node);
        if node == moved_to {
            assert_eq!(asked.len(), 4, "first those that the map names: {asked:?}");
            assert_eq!(
                answer(&mut router, &mut one, &Response::Written),
                Verdict::Done
            );
            return;
        }
        assert!(is_retry(&answer(&mut router, &mut one, &Response::NotHere)));
    }
    panic!("node {moved_to} was not asked, but {asked:?}");
}
