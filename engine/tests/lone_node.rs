//! What a node with the only replica of a group does by itself: it cuts the log, gives up what keeps too much, and turns away
//! whom it has no room for.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use bytes::Bytes;
use parking_lot::Mutex;
use pontoon_engine::frame::{Frame, Lane};
use pontoon_engine::held::DigestState;
use pontoon_engine::worker::{Read, ReadQuery};
use pontoon_engine::{Engine, EngineConfig, EngineError, Host, Opened, Reply, Waiter};
use pontoon_store::{LsmSettings, Outcome, ReplicaRecord};
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
fn start(path: &Path, flush_interval: Option<Duration>, settings: LsmSettings) -> Engine {
    let config = EngineConfig {
        flush_interval,
        ..EngineConfig::default()
    };
    start_with(path, config, settings)
}

fn start_with(path: &Path, config: EngineConfig, settings: LsmSettings) -> Engine {
    let config = EngineConfig {
        compaction_interval: Duration::from_millis(10),
        election_timeout: Duration::from_millis(100),
        heartbeat_interval: Duration::from_millis(50),
        log_tail_entries: 0,
        ..config
    };
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

/// Proposes a row until it is there.
fn write(engine: &Engine, value: &[u8]) {
    let key = b"key".as_slice();
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
        let reply = ask(|waiter| engine.propose(GROUP, command.into(), waiter));
        if let Reply::Applied(_) = reply {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ask(what: impl FnOnce(Waiter)) -> Reply {
    let (reply, answered) = mpsc::channel();
    what(Waiter::new(move |answer| drop(reply.send(answer))));
    answered.recv().unwrap()
}

/// Whether the log of a group that was written to once is cut behind that within a while.
fn is_cut(flush_interval: Option<Duration>, within: Duration) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let engine = start(dir.path(), flush_interval, LsmSettings::default());
    write(&engine, b"value");
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

#[test]
fn states_that_are_held_beside_many_writes_keep_a_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    let settings = LsmSettings {
        memtable_bytes: 64 << 10,
        max_sealed_memtables: 1,
        ..LsmSettings::default()
    };
    let most = 2 * settings.write_memory_bytes();
    let engine = start(dir.path(), None, settings);
    write(&engine, b"value");
    let mut marks = Vec::new();
    let began = Instant::now();
    while engine.held_states().given_up == 0 {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{:?}",
            engine.held_states()
        );
        let Reply::Applied(Outcome::Marked(index)) = ask(|waiter| engine.mark(GROUP, waiter))
        else {
            panic!("a mark at a leader");
        };
        marks.push(index);
        for _ in 0..32 {
            write(&engine, &[0; 4 << 10]);
        }
    }
    let page = |index| ask(|waiter| engine.page(GROUP, index, None, 1 << 10, waiter));
    let last = marks.len() - 1;
    let refused = page(marks[0]);
    assert!(
        matches!(refused, Reply::Unavailable { reason } if reason.contains("given up")),
        "{refused:?}"
    );
    assert_eq!(engine.digest(GROUP, marks[0]), DigestState::GivenUp);
    assert!(matches!(page(marks[last]), Reply::Rows(_)));
    assert!(last > 1, "more than one state can be held");
    // Nothing is written any more, so it stays as it was given up to.
    let settled = Instant::now();
    while engine.held_states().kept_bytes > most {
        assert!(
            settled.elapsed() < Duration::from_secs(30),
            "{:?}",
            engine.held_states()
        );
    }
    engine.shutdown(Duration::from_secs(5));
}

/// Reads that a node lets wait in the tests that follow.
const PLACES: usize = 8;

fn start_to_turn_away(path: &Path) -> Engine {
    let config = EngineConfig {
        workers: 1,
        max_queued_inputs: PLACES,
        ..EngineConfig::default()
    };
    start_with(path, config, LsmSettings::default())
}

fn read(engine: &Engine, waiter: Waiter) {
    let read = Read {
        shard: ShardId(1),
        epoch: EPOCH,
        query: ReadQuery::Get {
            key: Bytes::from_static(b"key"),
        },
        waiter,
    };
    engine.read(GROUP, read);
}

/// Reads until it is answered with a value.
fn read_until_served(engine: &Engine) {
    loop {
        if let Reply::Value(_) = ask(|waiter| read(engine, waiter)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn reads_behind_a_disk_that_hangs_are_turned_away() {
    let directory = tempfile::tempdir().unwrap();
    let engine = start_to_turn_away(directory.path());
    read_until_served(&engine);

    // Whoever serves a read is held up in it, as by a disk.
    let disk = Arc::new(Mutex::new(()));
    let hanging = disk.lock();
    let (sender, answers) = mpsc::channel();
    for _ in 0..3 * PLACES {
        let (sender, disk) = (sender.clone(), Arc::clone(&disk));
        let waiter = Waiter::new(move |reply| {
            let is_served = matches!(reply, Reply::Value(_));
            drop(is_served.then(|| disk.lock()));
            let _ = sender.send(is_served);
        });
        read(&engine, waiter);
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
    let engine = start_to_turn_away(directory.path());
    read_until_served(&engine);
    engine.shutdown(Duration::from_secs(10));

    let stopped = Reply::Unavailable {
        reason: "the node is stopping",
    };
    assert_eq!(ask(|waiter| read(&engine, waiter)), stopped);
    let command = Bytes::from_static(b"a command");
    let proposed = ask(|waiter| engine.propose(GROUP, command, waiter));
    assert_eq!(proposed, stopped);
}
