//! The client against nodes on loopback, over real QUIC and TLS.
#![allow(
    clippy::unwrap_used,
    reason = "what fails in a test's helper fails the test"
)]

mod common;

use bytes::Bytes;
use common::Cluster;
use pontoon_client::protocol::{DigestState, MemberStep};
use pontoon_client::{CasOutcome, Client, ClientError, Mutation, Setback, UnknownCause};
use pontoon_shard_router::ShardDescriptor;
use pontoon_transport::{Who, certs};
use pontoon_types::{ClusterId, GroupId, LogIndex, NodeId, ShardId};
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const ONE: NodeId = NodeId(1);

fn run(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

#[test]
fn what_is_written_is_read() {
    let cluster = Cluster::start(&[b"g", b"p"]);
    run(async {
        let client = Client::connect(cluster.config()).await.unwrap();
        for key in [b"a", b"h", b"z"] {
            client.put(key, b"one").await.unwrap();
            assert_eq!(client.get(key).await.unwrap().as_deref(), Some(&b"one"[..]));
        }
        client.delete(b"a").await.unwrap();
        assert_eq!(client.get(b"a").await.unwrap(), None);
        let swap = |expect, set| client.compare_and_swap(b"h", expect, set);
        let actual = Some(Bytes::from_static(b"one"));
        assert_eq!(
            swap(None, Some(b"x".as_slice())).await.unwrap(),
            CasOutcome::NotSwapped { actual }
        );
        assert_eq!(
            swap(Some(b"one".as_slice()), None).await.unwrap(),
            CasOutcome::Swapped
        );
        assert_eq!(client.get(b"h").await.unwrap(), None);
        let map = client.map().await.unwrap();
        assert_eq!(map, cluster.world.lock().map);
        let statuses = client.statuses().await;
        assert_eq!(statuses.len(), 3);
        assert!(statuses.iter().all(|(_, status)| status.is_ok()));
        let unknown = client.status(NodeId(9)).await;
        assert!(matches!(unknown, Err(ClientError::UnknownNode { .. })));
    });
}

#[test]
fn a_scan_crosses_shards_in_key_order_whatever_the_size_of_its_pages() {
    let cluster = Cluster::start(&[b"k03", b"k07", b"k08"]);
    run(async {
        let mut config = cluster.config();
        config.scan_page_rows = 2;
        let client = Client::connect(config).await.unwrap();
        let keys: Vec<_> = (0..10).map(|n| format!("k{n:02}")).collect();
        for key in &keys {
            client.put(key.as_bytes(), key.as_bytes()).await.unwrap();
        }
        let text = |rows: Vec<(Bytes, Bytes)>| -> Vec<String> {
            let rows = rows.into_iter();
            rows.map(|(key, _)| String::from_utf8(key.to_vec()).unwrap())
                .collect()
        };
        assert_eq!(text(client.scan(b"", None, 100).await.unwrap()), keys);
        assert_eq!(text(client.scan(b"", None, 5).await.unwrap()), keys[..5]);
        assert_eq!(
            text(client.scan(b"k02", Some(b"k08"), 100).await.unwrap()),
            keys[2..8]
        );
        assert_eq!(
            text(client.scan(b"k0", Some(b"k02"), 100).await.unwrap()),
            keys[..2]
        );
        assert!(
            client
                .scan(b"k5", Some(b"k5"), 100)
                .await
                .unwrap()
                .is_empty()
        );
        assert!(client.scan(b"z", Some(b"a"), 100).await.unwrap().is_empty());
        assert!(client.scan(b"", None, 0).await.unwrap().is_empty());
        let mut scan = client.scan_pages(b"", None);
        let mut rows = Vec::new();
        rows.extend(scan.next().await.unwrap());
        while let Some(page) = scan.next_page().await.unwrap() {
            assert!((1..=2).contains(&page.len()));
            rows.extend(page);
        }
        assert_eq!(text(rows), keys);
        assert_eq!(scan.next().await.unwrap(), None);
    });
}

#[test]
fn a_batch_is_of_one_shard() {
    let cluster = Cluster::start(&[b"g"]);
    run(async {
        let client = Client::connect(cluster.config()).await.unwrap();
        let put = |key| Mutation::Put { key, value: b"v" };
        client.write_batch(&[put(b"a"), put(b"b")]).await.unwrap();
        client.write_batch(&[]).await.unwrap();
        let (first, second) = (ShardId(2), ShardId(3));
        match client.write_batch(&[put(b"c"), put(b"h")]).await {
            Err(ClientError::BatchSpansShards {
                first: one,
                second: two,
            }) => assert_eq!((one, two), (first, second)),
            other => panic!("{other:?}"),
        }
        let keys: Vec<_> = cluster.world.lock().data.keys().cloned().collect();
        assert_eq!(keys, [&b"a"[..], b"b"]);
    });
}

#[test]
fn leaders_are_followed_and_overload_is_waited_out() {
    let cluster = Cluster::start(&[]);
    run(async {
        let client = Client::connect(cluster.config()).await.unwrap();
        client.put(b"a", b"1").await.unwrap();
        for leader in [2, 3, 1] {
            cluster
                .world
                .lock()
                .leaders
                .insert(ShardId(2), NodeId(leader));
            client.put(b"a", b"1").await.unwrap();
            let before = cluster.requests.load(Ordering::SeqCst);
            client.put(b"a", b"1").await.unwrap();
            // The leader is known now: one request does it.
            assert_eq!(cluster.requests.load(Ordering::SeqCst), before + 1);
        }
        cluster.world.lock().overloads = 3;
        client.put(b"a", b"2").await.unwrap();
        assert_eq!(cluster.world.lock().overloads, 0);
    });
}

#[test]
fn without_a_leader_the_error_says_that_nothing_was_done() {
    let cluster = Cluster::start(&[]);
    run(async {
        let client = Client::connect(cluster.config()).await.unwrap();
        client.put(b"a", b"1").await.unwrap();
        cluster.world.lock().leaders.remove(&ShardId(2));
        let hasty = client.with_timeout(Duration::from_millis(300));
        let error = hasty.put(b"a", b"2").await.unwrap_err();
        assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("knows of no leader"), "{error}");
        // An election in progress is waited for.
        let (put, ()) = tokio::join!(client.put(b"a", b"3"), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            cluster.world.lock().leaders.insert(ShardId(2), NodeId(3));
        });
        put.unwrap();
    });
}

#[test]
fn members_are_changed_by_the_leader_wherever_it_is_and_a_refusal_is_final() {
    let cluster = Cluster::start(&[b"g"]);
    run(async {
        let client = Client::connect(cluster.config()).await.unwrap();
        let shard = client.map().await.unwrap().shards().next().unwrap().shard;
        let add = MemberStep::AddLearner(NodeId(9));
        client.change_members(shard, &[add]).await.unwrap();
        cluster.world.lock().leaders.insert(shard, NodeId(3));
        client.change_members(shard, &[add]).await.unwrap();
        let remove = MemberStep::Remove(NodeId(1));
        let refused = client.change_members(shard, &[add, remove]).await;
        assert!(
            matches!(&refused, Err(ClientError::Refused { node: NodeId(3), text, .. }) if text == "one at a time"),
            "{refused:?}"
        );
    });
}

#[test]
fn a_change_of_members_without_an_answer_is_an_unknown_outcome() {
    let mut cluster = Cluster::start(&[]);
    run(async {
        let client = Client::connect(cluster.config()).await.unwrap();
        let shard = client.map().await.unwrap().shards().next().unwrap().shard;
        let add = [MemberStep::AddLearner(NodeId(9))];
        client.change_members(shard, &add).await.unwrap();
        cluster.world.lock().mute.insert(ONE);
        let hasty = client.with_timeout(Duration::from_millis(300));
        let silent = hasty.change_members(shard, &add).await.unwrap_err();
        assert!(silent.is_unknown_outcome(), "{silent}");
        // The node gives the request up.
        let (given_up, ()) = tokio::join!(client.change_members(shard, &add), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            cluster.world.lock().held.clear();
        });
        let given_up = given_up.unwrap_err();
        assert!(given_up.is_unknown_outcome(), "{given_up}");
        // The node dies over it.
        let (lost, ()) = tokio::join!(client.change_members(shard, &add), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            cluster.kill(ONE);
        });
        let lost = lost.unwrap_err();
        assert!(lost.is_unknown_outcome(), "{lost}");
    });
}

#[test]
fn nodes_that_name_each_other_as_leaders_are_not_asked_in_a_tight_loop() {
    let cluster = Cluster::start(&[]);
    run(async {
        let client = Client::connect(cluster.config()).await.unwrap();
        let shard = client.map().await.unwrap().shards().next().unwrap().shard;
        let two = NodeId(2);
        cluster.world.lock().deny = [(ONE, two), (two, ONE)].into();
        let before = cluster.requests.load(Ordering::SeqCst);
        let hasty = client.with_timeout(Duration::from_secs(1));
        let error = hasty.mark(shard).await.unwrap_err();
        assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
        let asked = cluster.requests.load(Ordering::SeqCst) - before;
        assert!(asked < 100, "{asked}");
    });
}

#[test]
fn a_mark_goes_to_the_leader_wherever_it_is_and_a_state_is_asked_of_one_node() {
    let cluster = Cluster::start(&[b"g"]);
    run(async {
        let client = Client::connect(cluster.config()).await.unwrap();
        let shard = client.map().await.unwrap().shards().next().unwrap().shard;
        for leader in 1..=3 {
            cluster.world.lock().leaders.insert(shard, NodeId(leader));
            assert_eq!(client.mark(shard).await.unwrap(), LogIndex(90));
        }
        // Another one does no harm; another change of members would.
        cluster.world.lock().unknown = 2;
        assert_eq!(client.mark(shard).await.unwrap(), LogIndex(90));
        cluster.world.lock().unknown = 1;
        let add = MemberStep::AddLearner(NodeId(9));
        let unknown = client.change_members(shard, &[add]).await;
        assert!(matches!(unknown, Err(ClientError::UnknownOutcome { .. })));
        let digest = client.digest(NodeId(2), shard, LogIndex(90)).await;
        assert_eq!(digest.unwrap(), DigestState::Underway);
        let page = client.page(ONE, shard, LogIndex(90), None, 100).await;
        assert!(
            matches!(
                &page,
                Err(ClientError::Unavailable {
                    last: Setback::Unavailable { node: ONE, .. },
                    ..
                })
            ),
            "{page:?}"
        );
    });
}

#[test]
fn a_split_is_learnt_from_the_refusal() {
    let cluster = Cluster::start(&[]);
    run(async {
        let client = Client::connect(cluster.config()).await.unwrap();
        client.put(b"z", b"1").await.unwrap();
        {
            let mut world = cluster.world.lock();
            let parent = world.map.shard(ShardId(2)).unwrap();
            let mut left = ShardDescriptor::clone(parent);
            left.epoch.range += 1;
            let mut right = left.clone();
            left.end = Some(Bytes::from_static(b"m"));
            right.start = Bytes::from_static(b"m");
            right.shard = ShardId(9);
            right.group = GroupId(9);
            world.map.apply(left);
            world.map.apply(right);
            world.leaders.insert(ShardId(9), NodeId(2));
        }
        client.put(b"z", b"2").await.unwrap();
        client.put(b"a", b"2").await.unwrap();
        assert_eq!(client.scan(b"", None, 9).await.unwrap().len(), 2);
    });
}

#[test]
fn a_write_without_an_answer_is_an_unknown_outcome_and_is_sent_once() {
    let cluster = Cluster::start(&[]);
    run(async {
        let client = Client::connect(cluster.config()).await.unwrap();
        client.put(b"a", b"1").await.unwrap();
        cluster.world.lock().mute.insert(ONE);
        let before = cluster.requests.load(Ordering::SeqCst);
        let hasty = client.with_timeout(Duration::from_millis(300));
        let error = hasty.put(b"a", b"2").await.unwrap_err();
        let ClientError::UnknownOutcome { node, cause, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(node, ONE);
        assert!(matches!(cause, UnknownCause::NoAnswer), "{cause}");
        assert_eq!(cluster.requests.load(Ordering::SeqCst), before + 1);
        // A read asks on, and a node that stays silent does not keep it from a new leader.
        cluster.world.lock().leaders.insert(ShardId(2), NodeId(2));
        let started = Instant::now();
        let mut reads = Vec::new();
        for _ in 0..8 {
            let client = client.clone();
            reads.push(tokio::spawn(async move { client.get(b"a").await }));
        }
        for read in reads {
            assert_eq!(read.await.unwrap().unwrap().as_deref(), Some(&b"1"[..]));
        }
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "{:?}",
            started.elapsed()
        );
    });
}

#[test]
fn one_slow_request_keeps_nobody_from_the_other_shards_of_its_node() {
    let cluster = Cluster::start(&[b"g"]);
    run(async {
        let client = Client::connect(cluster.config()).await.unwrap();
        cluster.world.lock().leaders.insert(ShardId(2), ONE);
        cluster.world.lock().leaders.insert(ShardId(3), ONE);
        client.put(b"a", b"1").await.unwrap();
        client.put(b"h", b"1").await.unwrap();
        cluster.world.lock().hold = 1;
        let slow = client.with_timeout(Duration::from_secs(20));
        let held = tokio::spawn(async move { slow.put(b"a", b"2").await });
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        let hasty = client.with_timeout(Duration::from_secs(4));
        let started = Instant::now();
        hasty.put(b"h", b"2").await.unwrap();
        let first = started.elapsed();
        assert!(first < Duration::from_secs(2), "{first:?}");
        // It has answered what it was asked since: it is well, however long the slow one takes.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        for _ in 0..3 {
            let started = Instant::now();
            hasty.put(b"h", b"3").await.unwrap();
            let later = started.elapsed();
            assert!(later < Duration::from_millis(500), "{later:?}");
        }
        assert!(!held.is_finished());
        held.abort();
    });
}

#[test]
fn of_many_requests_few_try_a_node_that_answers_nothing() {
    let cluster = Cluster::start(&[]);
    run(async {
        let client = Client::connect(cluster.config()).await.unwrap();
        client.put(b"a", b"1").await.unwrap();
        cluster.world.lock().mute.insert(ONE);
        let slow = client.with_timeout(Duration::from_secs(20));
        let held = tokio::spawn(async move { slow.put(b"a", b"2").await });
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        let mut writers = Vec::new();
        for _ in 0..32 {
            let client = client.with_timeout(Duration::from_millis(2_500));
            writers.push(tokio::spawn(async move { client.put(b"a", b"3").await }));
        }
        let mut unknown = 0;
        for writer in writers {
            match writer.await.unwrap().unwrap_err() {
                error if error.is_unknown_outcome() => unknown += 1,
                ClientError::Unavailable { .. } => {}
                error => panic!("{error}"),
            }
        }
        // One a second finds out whether it still says nothing.
        assert!((1..=3).contains(&unknown), "{unknown}");
        held.abort();
    });
}

/// One of three nodes dies without a word while many clients write; its shards get new leaders a second
/// later, as an election would have it.
#[test]
fn when_a_node_dies_clients_go_on_within_three_seconds() {
    let mut cluster = Cluster::start(&[b"c", b"f"]);
    run(async {
        let client = Client::connect(cluster.config()).await.unwrap();
        let mut writers = Vec::new();
        let started = Instant::now();
        for writer in 0..32u8 {
            let client = client.clone();
            writers.push(tokio::spawn(async move {
                let (mut longest, mut unknown) = (Duration::ZERO, 0);
                let mut n = 0u32;
                while started.elapsed() < Duration::from_secs(5) {
                    let key = [b'a' + (n % 8) as u8, writer];
                    let begun = Instant::now();
                    match client.put(&key, &n.to_be_bytes()).await {
                        Ok(()) => {}
                        Err(error) if error.is_unknown_outcome() => unknown += 1,
                        Err(error) => panic!("{error}"),
                    }
                    longest = longest.max(begun.elapsed());
                    n += 1;
                }
                (longest, unknown)
            }));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.kill(ONE);
        tokio::time::sleep(Duration::from_secs(1)).await;
        for leader in cluster.world.lock().leaders.values_mut() {
            if *leader == ONE {
                *leader = NodeId(2);
            }
        }
        for writer in writers {
            let (longest, unknown) = writer.await.unwrap();
            assert!(longest < Duration::from_secs(3), "{longest:?}");
            // Only what was under way when the node died may be unknown.
            assert!(unknown <= 1, "{unknown}");
        }
        let world = cluster.world.lock();
        assert!(world.applied.values().all(|times| *times == 1));
        let sessions: HashSet<_> = world.applied.keys().map(|(session, _)| session).collect();
        assert_eq!(sessions.len(), 1);
    });
}

#[test]
fn a_node_that_comes_back_is_found_again() {
    let mut cluster = Cluster::start(&[]);
    run(async {
        let client = Client::connect(cluster.config()).await.unwrap();
        client.put(b"a", b"1").await.unwrap();
        cluster.kill(ONE);
        let hasty = client.with_timeout(Duration::from_millis(500));
        // What was under way when the node died may be unknown; soon it is known that it is not there.
        let died = Instant::now();
        loop {
            let error = hasty.put(b"a", b"2").await.unwrap_err();
            if matches!(error, ClientError::Unavailable { .. }) {
                break;
            }
            assert!(error.is_unknown_outcome(), "{error}");
            assert!(died.elapsed() < Duration::from_secs(5), "{error}");
        }
        cluster.restart(ONE);
        let started = Instant::now();
        client.put(b"a", b"3").await.unwrap();
        assert!(
            started.elapsed() < Duration::from_secs(4),
            "{:?}",
            started.elapsed()
        );
    });
}

#[test]
fn limits_are_checked_before_anything_is_sent() {
    let cluster = Cluster::start(&[]);
    run(async {
        let mut config = cluster.config();
        // Only one node is asked for hints: the question to another could come in late and be counted.
        config.endpoints.truncate(1);
        config.limits.max_command_bytes = 1000;
        let client = Client::connect(config).await.unwrap();
        let before = cluster.requests.load(Ordering::SeqCst);
        for key in [vec![], vec![b'k'; 5000]] {
            let error = client.put(&key, b"v").await.unwrap_err();
            assert!(matches!(error, ClientError::TooLarge(_)), "{error}");
            assert!(client.get(&key).await.is_err());
        }
        let error = client.put(b"k", &[0; 1001]).await.unwrap_err();
        assert!(matches!(error, ClientError::TooLarge(_)), "{error}");
        assert_eq!(cluster.requests.load(Ordering::SeqCst), before);
    });
}

#[test]
fn a_cluster_that_cannot_be_reached_is_named_with_the_reason() {
    let cluster = Cluster::start(&[]);
    run(async {
        let mut config = cluster.config();
        config.endpoints.clear();
        let error = Client::connect(config).await.unwrap_err();
        assert!(matches!(error, ClientError::NoEndpoints), "{error}");

        // Nobody listens: one line, with the endpoint, when the time is over.
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let mut config = cluster.config();
        config.endpoints = vec![address.clone()];
        config.connect_timeout = Duration::from_millis(500);
        let error = Client::connect(config).await.unwrap_err().to_string();
        assert!(error.contains(&address) && !error.contains('\n'), "{error}");

        // A certificate of another cluster: at once.
        let strangers = certs::generate(ClusterId(7), &[ONE]).unwrap();
        let mut config = cluster.config();
        config.identity = strangers.identity(Who::Client).unwrap().unwrap();
        config.endpoints.truncate(1);
        let started = Instant::now();
        let error = Client::connect(config.clone())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("another cluster"), "{error}");
        assert!(error.contains(&config.endpoints[0]), "{error}");
        assert!(started.elapsed() < Duration::from_secs(3));
    });
}

#[test]
fn one_endpoint_of_several_is_enough_even_if_its_node_is_no_leader() {
    let mut cluster = Cluster::start(&[]);
    cluster.kill(NodeId(2));
    run(async {
        let mut config = cluster.config();
        config.endpoints.remove(0);
        let client = Client::connect(config).await.unwrap();
        client.put(b"a", b"1").await.unwrap();
        assert_eq!(client.nodes().len(), 3);
    });
}
