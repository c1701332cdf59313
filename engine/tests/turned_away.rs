//! Requests that a node has no room for, or that come when it has stopped.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use bytes::Bytes;
use parking_lot::Mutex;
use pontoon_engine::frame::{Frame, Lane};
use pontoon_engine::worker::{Read, ReadQuery};
use pontoon_engine::{Engine, EngineConfig, EngineError, Host, Opened, Reply, Waiter};
use pontoon_store::{LsmSettings, ReplicaRecord};
use pontoon_types::{
    ClusterId, ConfState, Epoch, GroupId, Members, NodeId, ReplicaId, ShardId, TabletId,
};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

const GROUP: GroupId = GroupId(1);
const EPOCH: Epoch = Epoch {
    range: 1,
    membership: 1,
};
/// Reads that a node lets wait in these tests.
const PLACES: usize = 8;

struct Alone;

impl Host for Alone {
    fn send(&self, _: NodeId, _: usize, _: Lane, _: Frame) {}

    fn failed(&self, error: EngineError) {
        eprintln!("the node stops: {error}");
        std::process::abort();
    }
}

/// A node with the only replica of a group, and one worker.
fn start(path: &Path) -> Engine {
    let config = EngineConfig {
        workers: 1,
        election_timeout: Duration::from_millis(100),
        heartbeat_interval: Duration::from_millis(50),
        max_queued_inputs: PLACES,
        ..EngineConfig::default()
    };
    let settings = LsmSettings::default();
    let mut opened = Opened::open(path, ClusterId(1), NodeId(1), config, settings).unwrap();
    let record = ReplicaRecord {
        group: GROUP,
        shard: ShardId(1),
        replica: ReplicaId(1),
        start: Bytes::new(),
        end: Bytes::new(),
        epoch: EPOCH,
        pieces: TabletId(1).into(),
        conf_state: ConfState::of_voters([ReplicaId(1)]),
        members: Members::new([(ReplicaId(1), NodeId(1))]),
        descriptor: Bytes::new(),
    };
    opened.machine().bootstrap(&[record], &[]).unwrap();
    opened.start(Arc::new(Alone)).unwrap()
}

fn read(engine: &Engine, answer: impl FnOnce(Reply) + Send + 'static) {
    let read = Read {
        shard: ShardId(1),
        epoch: EPOCH,
        query: ReadQuery::Get {
            key: Bytes::from_static(b"key"),
        },
        waiter: Waiter::new(answer),
    };
    engine.read(GROUP, read);
}

/// Reads until it is answered with a value.
fn read_until_served(engine: &Engine) {
    loop {
        let (sender, answered) = mpsc::channel();
        read(engine, move |reply| sender.send(reply).unwrap());
        if let Reply::Value(_) = answered.recv().unwrap() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn reads_behind_a_disk_that_hangs_are_turned_away() {
    let directory = tempfile::tempdir().unwrap();
    let engine = start(directory.path());
    read_until_served(&engine);

    // Whoever serves a read is held up in it, as by a disk.
    let disk = Arc::new(Mutex::new(()));
    let hanging = disk.lock();
    let (sender, answers) = mpsc::channel();
    for _ in 0..3 * PLACES {
        let (sender, disk) = (sender.clone(), Arc::clone(&disk));
        read(&engine, move |reply| {
            let is_served = matches!(reply, Reply::Value(_));
            drop(is_served.then(|| disk.lock()));
            let _ = sender.send(is_served);
        });
        // The worker has taken it in: it waits for a reader, not for the worker.
        std::thread::sleep(Duration::from_millis(5));
    }
    let turned_away = answers.try_iter().collect::<Vec<_>>();
    assert_eq!(turned_away, [false; 2 * PLACES]);

    drop(hanging);
    let served: Vec<_> = answers.iter().take(PLACES).collect();
    assert_eq!(served, [true; PLACES]);
    read_until_served(&engine);
}

#[test]
fn who_comes_when_the_node_has_stopped_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let engine = start(directory.path());
    read_until_served(&engine);
    engine.shutdown(Duration::from_secs(10));

    let stopped = Ok(Reply::Unavailable {
        reason: "the node is stopping",
    });
    let (sender, answered) = mpsc::channel();
    read(&engine, move |reply| sender.send(reply).unwrap());
    assert_eq!(answered.try_recv(), stopped);
    let (sender, answered) = mpsc::channel();
    let waiter = Waiter::new(move |reply| sender.send(reply).unwrap());
    engine.propose(GROUP, Bytes::from_static(b"a command"), waiter);
    assert_eq!(answered.try_recv(), stopped);
}
