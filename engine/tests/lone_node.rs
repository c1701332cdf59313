//! What is seldom written to leaves the log, too.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use bytes::Bytes;
use pontoon_engine::frame::{Frame, Lane};
use pontoon_engine::{Engine, EngineConfig, EngineError, Host, Opened, Reply, Waiter};
use pontoon_store::{LsmSettings, ReplicaRecord};
use pontoon_types::{
    ClusterId, Command, ConfState, Epoch, GroupId, Members, Mutation, NodeId, Operation, ReplicaId,
    Request, Sequence, SessionId, ShardId, TabletId,
};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

const GROUP: GroupId = GroupId(1);
const EPOCH: Epoch = Epoch {
    range: 1,
    membership: 1,
};

struct Alone;

impl Host for Alone {
    fn send(&self, _: NodeId, _: usize, _: Lane, _: Frame) {}

    fn failed(&self, error: EngineError) {
        eprintln!("the node stops: {error}");
        std::process::abort();
    }
}

/// A node with the only replica of a group.
fn start(path: &Path, flush_interval: Option<Duration>) -> Engine {
    let config = EngineConfig {
        compaction_interval: Duration::from_millis(10),
        election_timeout: Duration::from_millis(100),
        heartbeat_interval: Duration::from_millis(50),
        log_tail_entries: 0,
        flush_interval,
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
        tablet: TabletId(1),
        conf_state: ConfState::of_voters([ReplicaId(1)]),
        members: Members::new([(ReplicaId(1), NodeId(1))]),
        descriptor: Bytes::new(),
    };
    opened.machine().bootstrap(&[record], &[]).unwrap();
    opened.start(Arc::new(Alone)).unwrap()
}

/// Proposes a row until it is there.
fn write(engine: &Engine) {
    let (key, value) = (b"key".as_slice(), b"value".as_slice());
    for sequence in 1.. {
        let request = Request {
            shard: ShardId(1),
            epoch: EPOCH,
            session: SessionId(1),
            sequence: Sequence(sequence),
        };
        let operation = Operation::Write(vec![Mutation::Put { key, value }]);
        let mut command = Vec::new();
        Command { request, operation }.encode(&mut command);
        let (reply, answered) = mpsc::channel();
        let waiter = Waiter::new(move |answer| drop(reply.send(answer)));
        engine.propose(GROUP, command.into(), waiter);
        if let Reply::Applied(_) = answered.recv().unwrap() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether the log of a group that was written to once is cut behind that within a while.
fn is_cut(flush_interval: Option<Duration>, within: Duration) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let engine = start(dir.path(), flush_interval);
    write(&engine);
    let written = engine.status()[0].last;
    let began = Instant::now();
    let is_cut = || engine.status()[0].first > written;
    while !is_cut() && began.elapsed() < within {
        std::thread::sleep(Duration::from_millis(5));
    }
    let is_cut = is_cut();
    engine.shutdown(Duration::from_secs(5));
    is_cut
}

#[test]
fn a_row_leaves_the_log_after_the_interval_and_without_one_stays() {
    let short = Some(Duration::from_millis(50));
    assert!(is_cut(short, Duration::from_secs(20)));
    assert!(!is_cut(None, Duration::from_millis(500)));
}
