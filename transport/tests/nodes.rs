//! Two nodes on loopback: frames, lanes, bounds, and coming back.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::*;
use pontoon_transport::{CloseCode, Frame, Lane, LinkError, SendError, Transport, TransportError};
use pontoon_types::NodeId;

fn addresses() -> [(NodeId, SocketAddr); 2] {
    [(ONE, free_address()), (TWO, free_address())]
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_arrive_whole_and_in_order_on_every_lane_both_ways() {
    let set = certificates();
    let addresses = addresses();
    let (one, _, mut at_one) = start(config(&set, ONE, &addresses)).await;
    let (two, _, mut at_two) = start(config(&set, TWO, &addresses)).await;
    at_one.connected().await;
    at_two.connected().await;

    let lanes = [
        Lane::Control,
        Lane::Append(0),
        Lane::Append(1),
        Lane::Snapshot,
    ];
    let body = |lane: usize, number: usize| -> Vec<u8> {
        let len = [0, 1, 100, 5_000, 70_000, 3][number % 6];
        let mut body = vec![lane as u8; len];
        body.extend_from_slice(&(number as u32).to_le_bytes());
        body
    };
    const COUNT: usize = 60;
    for (from, to) in [(&one, TWO), (&two, ONE)] {
        for number in 0..COUNT {
            for (index, lane) in lanes.iter().enumerate() {
                // Cut into slices, as a host hands it in.
                let body = Bytes::from(body(index, number));
                let cut = body.len() / 3;
                let frame: Frame = [body.slice(..cut), body.slice(cut..)].into_iter().collect();
                while let Err(error) = from.send(to, *lane, frame.clone()) {
                    assert_eq!(error, SendError::QueueFull);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                // So that control's own bound, which drops, is not met.
                while from.stats().peers[0].queued_bytes > 500_000 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }
    for (recorded, from) in [(&mut at_one, TWO), (&mut at_two, ONE)] {
        let mut next = [0; 4];
        for _ in 0..COUNT * lanes.len() {
            let (sender, lane, frame) = recorded.frame().await;
            assert_eq!(sender, from);
            let index = lanes.iter().position(|other| *other == lane).unwrap();
            assert_eq!(
                frame,
                body(index, next[index]),
                "lane {lane:?}, frame {}",
                next[index]
            );
            next[index] += 1;
        }
    }
    let stats = one.stats().peers[0].clone();
    assert_eq!((stats.node, stats.frames_sent), (TWO, COUNT as u64 * 4));
    assert_eq!(
        (stats.frames_received, stats.frames_dropped),
        (COUNT as u64 * 4, 0)
    );
    assert!(stats.connected && stats.rtt.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_the_largest_size_arrives_and_a_larger_one_is_refused_at_once() {
    let set = certificates();
    let addresses = addresses();
    let (one, _, mut at_one) = start(config(&set, ONE, &addresses)).await;
    let (_two, _, mut at_two) = start(config(&set, TWO, &addresses)).await;
    at_one.connected().await;
    let max = 32 << 20;
    let large = Bytes::from(vec![0xa5; max + 1]);
    assert_eq!(
        one.send(TWO, Lane::Append(0), large.clone().into()),
        Err(SendError::TooLarge { len: max + 1, max })
    );
    assert_eq!(
        one.send(TWO, Lane::Append(0), large.slice(1..).into()),
        Ok(())
    );
    let (_, _, frame) = at_two.frame().await;
    assert!(
        frame == large.slice(1..),
        "the frame was changed on its way"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn both_dial_and_exactly_one_connection_stays() {
    let set = certificates();
    let addresses = addresses();
    // No grace: the dials cross.
    let (one, _, mut at_one) = start(config(&set, ONE, &addresses)).await;
    let (two, _, mut at_two) = start(config(&set, TWO, &addresses)).await;
    at_one.connected().await;
    at_two.connected().await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    let before = (
        one.stats().peers[0].connections,
        two.stats().peers[0].connections,
    );
    assert!(one.is_connected(TWO) && two.is_connected(ONE));
    // It is one and the same: what is sent on it arrives, and neither side replaces it.
    assert_eq!(one.send(TWO, Lane::Control, Frame::from(vec![1])), Ok(()));
    assert_eq!(two.send(ONE, Lane::Control, Frame::from(vec![2])), Ok(()));
    at_one.frame().await;
    at_two.frame().await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let after = (
        one.stats().peers[0].connections,
        two.stats().peers[0].connections,
    );
    assert_eq!(before, after, "connections were replaced");
    assert!(after.0 <= 2 && after.1 <= 2, "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_went_away_is_connected_again_with_its_new_hello() {
    let set = certificates();
    let addresses = addresses();
    let (one, _, mut at_one) = start(config(&set, ONE, &addresses)).await;
    for (incarnation, hello) in [(7, "first"), (8, "second")] {
        let (recorder, mut at_two) = Recorder::new();
        *recorder.hello.lock() = Bytes::from_static(hello.as_bytes());
        let mut config = config(&set, TWO, &addresses);
        config.incarnation = incarnation;
        let two = Transport::bind(config, recorder, Arc::new(Echo))
            .await
            .unwrap();
        let (peer, seen, said) = at_one.connected().await;
        assert_eq!((peer, seen, said), (TWO, incarnation, Bytes::from(hello)));
        at_two.connected().await;
        assert_eq!(one.send(TWO, Lane::Append(1), Frame::from(vec![9])), Ok(()));
        at_two.frame().await;
        two.shutdown().await;
        let reason = at_one.disconnected().await;
        assert!(
            matches!(
                reason,
                LinkError::ClosedByPeer {
                    code: CloseCode::Shutdown,
                    ..
                }
            ),
            "{reason}"
        );
        assert_eq!(
            one.send(TWO, Lane::Append(1), Frame::from(vec![9])),
            Err(SendError::NotConnected)
        );
    }
}

/// A killed process says nothing, and its peer believes in the old connection until it times out; the
/// new process must not have to wait for that.
#[test]
fn a_killed_peer_is_replaced_by_its_new_self_at_once() {
    for (survivor, victim) in [(ONE, TWO), (TWO, ONE)] {
        let runtime = || {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
        };
        let set = certificates();
        let addresses = addresses();
        let patient = |node, incarnation| {
            let mut config = config(&set, node, &addresses);
            config.limits.idle_timeout = Duration::from_secs(120);
            config.incarnation = incarnation;
            config
        };
        let home = runtime().unwrap();
        let (_survivor, _, mut at_survivor) = home.block_on(start(patient(survivor, 1)));
        let doomed = runtime().unwrap();
        let (old, ..) = doomed.block_on(start(patient(victim, 1)));
        home.block_on(at_survivor.connected());
        // First the tasks that could say goodbye, then what holds the socket.
        doomed.shutdown_timeout(Duration::from_secs(5));
        drop(old);

        let (_new, _, mut at_new) = home.block_on(async {
            // The socket is freed when the last of the old tasks has been dropped.
            for _ in 0..500 {
                let (recorder, recorded) = Recorder::new();
                match Transport::bind(patient(victim, 2), recorder.clone(), Arc::new(Echo)).await {
                    Ok(transport) => return (transport, recorder, recorded),
                    Err(TransportError::Bind { .. }) => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            panic!("the port of the killed transport was never freed");
        });
        let (_, incarnation, _) = home.block_on(at_survivor.connected());
        assert_eq!(incarnation, 2);
        home.block_on(at_new.connected());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_at_its_bound_refuses_appends_and_drops_old_control() {
    let set = certificates();
    let addresses = addresses();
    let mut bounded = config(&set, ONE, &addresses);
    bounded.limits.append_queue_bytes = 100_000;
    bounded.limits.control_queue_bytes = 100_000;
    bounded.limits.stream_window_bytes = 64 * 1024;
    // The other side reads slowly: its handler blocks its reader.
    let (one, _, mut at_one) = start(bounded).await;
    let mut narrow = config(&set, TWO, &addresses);
    narrow.limits.stream_window_bytes = 64 * 1024;
    let gate = Arc::new(Stuck::default());
    let _two = Transport::bind(narrow, gate.clone(), Arc::new(Echo))
        .await
        .unwrap();
    at_one.connected().await;

    let frame = Frame::from(vec![1u8; 10_000]);
    let mut refused = 0;
    for _ in 0..1_000 {
        match one.send(TWO, Lane::Append(0), frame.clone()) {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) => {
                assert_eq!(error, SendError::QueueFull);
                refused += 1;
            }
        }
        assert_eq!(one.send(TWO, Lane::Control, frame.clone()), Ok(()));
    }
    let stats = one.stats().peers[0].clone();
    assert!(refused > 0 && stats.frames_refused == refused, "{stats:?}");
    assert!(stats.frames_dropped > 0, "{stats:?}");
    assert!(stats.queued_bytes <= 200_000, "{stats:?}");
    gate.released.store(true, Ordering::Relaxed);
}

/// Blocks whoever hands it a frame; a host must not do this, and a test of bounds may.
#[derive(Default)]
struct Stuck {
    released: AtomicBool,
}

impl pontoon_transport::NodeHandler for Stuck {
    fn handle_frame(&self, _: NodeId, _: Lane, _: Bytes) {
        while !self.released.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn handle_peer(&self, _: NodeId, _: pontoon_transport::PeerEvent) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_that_lead_nowhere_say_so() {
    let set = certificates();
    let addresses = addresses();
    let (one, _, _at_one) = start(config(&set, ONE, &addresses)).await;
    let frame = || Frame::from(vec![1]);
    assert_eq!(
        one.send(TWO, Lane::Control, frame()),
        Err(SendError::NotConnected)
    );
    assert_eq!(
        one.send(NodeId(99), Lane::Control, frame()),
        Err(SendError::NotConnected)
    );
    let (_two, _, mut at_two) = start(config(&set, TWO, &addresses)).await;
    at_two.connected().await;
    eventually("a connection", || one.is_connected(TWO)).await;
    assert_eq!(
        one.send(TWO, Lane::Append(2), frame()),
        Err(SendError::NoSuchLane)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_hello_is_explained_to_the_other_side() {
    let set = certificates();
    let addresses = addresses();
    let (recorder, _at_one) = Recorder::new();
    *recorder.refusal.lock() = Some("its manifest is of another cluster".to_owned());
    let one = Transport::bind(config(&set, ONE, &addresses), recorder, Arc::new(Echo))
        .await
        .unwrap();
    let (two, _, _at_two) = start(config(&set, TWO, &addresses)).await;
    for node in [&one, &two] {
        eventually("an explanation", || {
            let error = node.stats().peers[0].last_error.clone().unwrap_or_default();
            error.contains("its manifest is of another cluster")
        })
        .await;
        assert!(!node.is_connected(ONE) && !node.is_connected(TWO));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shut_down_transport_has_freed_its_port() {
    let set = certificates();
    let addresses = addresses();
    let (_two, _, mut at_two) = start(config(&set, TWO, &addresses)).await;
    for _ in 0..5 {
        let (one, ..) = start(config(&set, ONE, &addresses)).await;
        at_two.connected().await;
        one.shutdown().await;
        assert!(matches!(
            one.send(TWO, Lane::Control, Frame::from(vec![1])),
            Err(SendError::NotConnected)
        ));
    }
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let set = certificates();
    let (one, ..) = start(config(&set, ONE, &[(ONE, free_address())])).await;
    let taken = one.local_addr();
    let error = Transport::listen(config(&set, ONE, &[(ONE, taken)])).unwrap_err();
    assert!(matches!(error, TransportError::Bind { address, .. } if address == taken));
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
}

#[tokio::test]
async fn a_node_cannot_listen_with_a_clients_certificate() {
    let set = certificates();
    let mut config = config(&set, ONE, &[(ONE, free_address())]);
    config.identity = identity(&set, pontoon_transport::Who::Client);
    let error = Transport::listen(config).unwrap_err();
    assert!(matches!(error, TransportError::NotANode { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_found_by_name() {
    let set = certificates();
    let addresses = addresses();
    let (_one, _, mut at_one) = start(config(&set, ONE, &addresses)).await;
    let mut by_name = config(&set, TWO, &addresses);
    by_name.peers = vec![(ONE, format!("localhost:{}", addresses[0].1.port()))];
    // Only node 2 can dial: the other has no useful address for it.
    let (_two, _, mut at_two) = start(by_name).await;
    at_two.connected().await;
    at_one.connected().await;
}
