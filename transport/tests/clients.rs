//! Clients on loopback: many requests at once, in any order, and what a lost connection means.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use pontoon_transport::{
    Channel, ChannelConfig, ChannelError, ClientTransport, LinkError, PeerName, Transport, Who,
};
use tokio::time::timeout;

async fn channel(node: &Transport, set: &pontoon_transport::certs::CertificateSet) -> Channel {
    let address = node.local_addr().to_string();
    Channel::connect(&address, &identity(set, Who::Client))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_are_under_way_at_once_and_each_gets_its_own_answer() {
    let set = certificates();
    let node = lone_node(&set, Arc::new(Echo)).await;
    let channel = channel(&node, &set).await;
    assert_eq!(channel.node(), ONE);
    let body =
        |number: usize| Bytes::from(vec![number as u8; [3, 170, 20_000, 0, 300_000][number % 5]]);
    let pending: Vec<_> = (0..500)
        .map(|number| channel.request(body(number)))
        .collect();
    for (number, answer) in pending.into_iter().enumerate() {
        let answer = timeout(PATIENCE, answer).await.unwrap().unwrap();
        assert!(
            answer == body(number),
            "request {number} got another's answer"
        );
    }
    let stats = node.stats().clients;
    assert_eq!((stats.connections, stats.requests), (1, 500));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_may_come_in_any_order_and_from_any_thread() {
    let set = certificates();
    let hold = Arc::new(Hold::default());
    let node = lone_node(&set, hold.clone()).await;
    let channel = channel(&node, &set).await;
    let first = channel.request(Bytes::from_static(b"first"));
    let second = channel.request(Bytes::from_static(b"second"));
    let third = channel.request(Bytes::from_static(b"third"));
    hold.wait_for(3).await;
    let mut held = std::mem::take(&mut *hold.0.lock());
    std::thread::spawn(move || {
        let (third, _) = held.pop().unwrap();
        assert_eq!(
            third.connection().name(),
            PeerName::Client { cluster: CLUSTER }
        );
        third.respond_bytes(Bytes::from(vec![3; 100_000]));
        let (second, _) = held.pop().unwrap();
        second.respond(b"two");
        // The first is dropped without an answer.
    })
    .join()
    .unwrap();
    assert_eq!(
        timeout(PATIENCE, third).await.unwrap().unwrap().len(),
        100_000
    );
    assert_eq!(
        timeout(PATIENCE, second).await.unwrap().unwrap(),
        b"two"[..]
    );
    let first = timeout(PATIENCE, first).await.unwrap();
    assert!(matches!(first, Err(ChannelError::Abandoned)), "{first:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_leaves_what_was_sent_unknown_and_what_comes_later_unsent() {
    let set = certificates();
    let hold = Arc::new(Hold::default());
    let node = lone_node(&set, hold.clone()).await;
    let channel = channel(&node, &set).await;
    let sent = channel.request(Bytes::from_static(b"sent"));
    hold.wait_for(1).await;
    node.shutdown().await;
    let sent = timeout(PATIENCE, sent).await.unwrap().unwrap_err();
    assert!(
        matches!(sent, ChannelError::MayHaveBeenSent(_)) && !sent.surely_not_sent(),
        "{sent}"
    );
    let later = channel
        .request(Bytes::from_static(b"later"))
        .await
        .unwrap_err();
    assert!(
        matches!(later, ChannelError::NotSent(_)) && later.surely_not_sent(),
        "{later}"
    );
    assert!(channel.ended().is_some());
}

/// On one thread the writer cannot run before this test lets it, so the request has surely not left.
#[tokio::test]
async fn what_was_queued_and_never_written_is_surely_not_sent() {
    let set = certificates();
    let node = lone_node(&set, Arc::new(Hold::default())).await;
    let channel = channel(&node, &set).await;
    let pending = channel.request(Bytes::from_static(b"queued"));
    drop(channel);
    let error = pending.await.unwrap_err();
    assert!(
        matches!(error, ChannelError::NotSent(LinkError::ClosedHere)),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_were_given_arrive_although_the_node_stops() {
    let set = certificates();
    let hold = Arc::new(Hold::default());
    let node = lone_node(&set, hold.clone()).await;
    let channel = channel(&node, &set).await;
    let pending: Vec<_> = (0..100)
        .map(|_| channel.request(Bytes::from_static(b"x")))
        .collect();
    hold.wait_for(100).await;
    for (responder, body) in std::mem::take(&mut *hold.0.lock()) {
        responder.respond_bytes(Bytes::from(vec![body[0]; 10_000]));
    }
    node.shutdown().await;
    for answer in pending {
        assert_eq!(
            timeout(PATIENCE, answer).await.unwrap().unwrap().len(),
            10_000
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_the_nodes_bound_wait_and_all_are_answered() {
    let set = certificates();
    let hold = Arc::new(Hold::default());
    let node = lone_node_with(&set, hold.clone(), |config| {
        config.limits.max_in_flight = 10;
    })
    .await;
    let channel = channel(&node, &set).await;
    // Longer than a read's worth of packets, so that the bound is met with requests still unread.
    let count = 400;
    let pending: Vec<_> = (0..count)
        .map(|_| channel.request(Bytes::from(vec![1; 5_000])))
        .collect();
    hold.wait_for(10).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let held = hold.0.lock().len();
    assert!(
        held < 150,
        "{held} requests were handed on with a bound of 10"
    );
    let answering = tokio::spawn({
        let hold = hold.clone();
        async move {
            loop {
                for (responder, _) in std::mem::take(&mut *hold.0.lock()) {
                    responder.respond(b"ok");
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    for answer in pending {
        assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap(), b"ok"[..]);
    }
    answering.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_the_channels_own_bounds_are_not_sent() {
    let set = certificates();
    let hold = Arc::new(Hold::default());
    let node = lone_node_with(&set, hold, |config| {
        config.limits.max_request_bytes = 10_000;
    })
    .await;
    let config = ChannelConfig {
        max_in_flight: 2,
        ..ChannelConfig::default()
    };
    let transport = ClientTransport::new(identity(&set, Who::Client), config);
    let channel = transport
        .connect(&node.local_addr().to_string())
        .await
        .unwrap();
    let large = channel
        .request(Bytes::from(vec![0; 10_001]))
        .await
        .unwrap_err();
    assert!(
        matches!(
            large,
            ChannelError::TooLarge {
                len: 10_001,
                max: 10_000
            }
        ),
        "{large}"
    );
    let _first = channel.request(Bytes::new());
    let _second = channel.request(Bytes::new());
    let third = channel.request(Bytes::new()).await.unwrap_err();
    assert!(matches!(third, ChannelError::QueueFull), "{third}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_channel_leaves_no_connection_behind() {
    let set = certificates();
    let node = lone_node(&set, Arc::new(Echo)).await;
    let first = channel(&node, &set).await;
    let clone = first.clone();
    drop(first);
    assert_eq!(
        clone
            .request(Bytes::from_static(b"still open"))
            .await
            .unwrap(),
        b"still open"[..]
    );
    drop(clone);
    eventually("an end", || node.stats().clients.connections == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_act_as_a_client() {
    let set = certificates();
    let node = lone_node(&set, Arc::new(Echo)).await;
    let address = node.local_addr().to_string();
    let channel = Channel::connect(&address, &identity(&set, Who::Node(TWO)))
        .await
        .unwrap();
    assert_eq!(
        channel.request(Bytes::from_static(b"hi")).await.unwrap(),
        b"hi"[..]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_clients_are_told_so() {
    let set = certificates();
    let node = lone_node_with(&set, Arc::new(Echo), |config| config.limits.max_clients = 1).await;
    let _first = channel(&node, &set).await;
    let address = node.local_addr().to_string();
    let second = Channel::connect(&address, &identity(&set, Who::Client))
        .await
        .unwrap_err();
    assert!(second.to_string().contains("too many clients"), "{second}");
    assert_eq!(node.stats().connections_refused, 1);
}

#[tokio::test]
async fn nobody_at_the_address_is_an_error_and_not_a_wait_for_ever() {
    let set = certificates();
    let config = ChannelConfig {
        connect_timeout: Duration::from_millis(300),
        ..ChannelConfig::default()
    };
    let transport = ClientTransport::new(identity(&set, Who::Client), config);
    let error = transport
        .connect(&free_address().to_string())
        .await
        .unwrap_err();
    assert!(matches!(error, LinkError::TimedOut), "{error}");
    let error = transport
        .connect("no.such.host.invalid:1")
        .await
        .unwrap_err();
    assert!(matches!(error, LinkError::Resolve { .. }), "{error}");
}
