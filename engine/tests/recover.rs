//! A replica of a lost majority, with changes of members in its log of which nobody knows whether they are committed.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use bytes::Bytes;
use pontoon_engine::frame::{Frame, Lane};
use pontoon_engine::{EngineConfig, EngineError, Host, Opened, RoleName};
use pontoon_store::{LsmSettings, ReplicaRecord};
use pontoon_types::{
    ClusterId, Command, ConfChange, ConfState, Entry, EntryKind, Epoch, GroupId, HardState,
    LogIndex, MemberChange, Members, Mutation, NodeId, Operation, ReplicaId, Request, Sequence,
    SessionId, ShardId, TabletId, Term, Transition,
};
use pontoon_wal::{BatchBuilder, LogIdentity, Wal, WalConfig};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const CLUSTER: ClusterId = ClusterId(1);
const NODE: NodeId = NodeId(1);
const GROUP: GroupId = GroupId(2);

struct Nobody;

impl Host for Nobody {
    fn send(&self, _: NodeId, _: usize, _: Lane, _: Frame) {}

    fn failed(&self, error: EngineError) {
        panic!("{error}");
    }
}

fn open(dir: &Path) -> Opened {
    let config = EngineConfig {
        wal: wal_config(),
        ..EngineConfig::default()
    };
    Opened::open(dir, CLUSTER, NODE, config, LsmSettings::default()).unwrap()
}

fn wal_config() -> WalConfig {
    WalConfig {
        segment_bytes: 1 << 20,
        ..WalConfig::default()
    }
}

fn record() -> ReplicaRecord {
    ReplicaRecord {
        group: GROUP,
        shard: ShardId(2),
        replica: ReplicaId(1),
        start: Bytes::new(),
        end: Bytes::new(),
        epoch: Epoch {
            range: 1,
            membership: 1,
        },
        pieces: TabletId(5).into(),
        conf_state: ConfState::of_voters([1, 2, 3].map(ReplicaId)),
        members: Members::new([1, 2, 3].map(|id| (ReplicaId(id), NodeId(id)))),
        descriptor: Bytes::new(),
    }
}

fn command(index: u64) -> Entry {
    let key = format!("key-{index}");
    let put = Mutation::Put {
        key: key.as_bytes(),
        value: b"value",
    };
    let request = Request {
        shard: ShardId(2),
        epoch: record().epoch,
        session: SessionId::default(),
        sequence: Sequence(0),
    };
    let operation = Operation::Write(vec![put]);
    let mut payload = Vec::new();
    Command { request, operation }.encode(&mut payload);
    Entry::encode(
        GROUP,
        Term(3),
        LogIndex(index),
        EntryKind::Command,
        &payload,
    )
}

fn change(index: u64, change: &ConfChange) -> Entry {
    let mut payload = Vec::new();
    change.encode(&mut payload);
    Entry::encode(
        GROUP,
        Term(3),
        LogIndex(index),
        EntryKind::ConfChange,
        &payload,
    )
}

/// A data directory whose log holds two commands, a change to a joint configuration and one more command; only the first
/// command is known to be committed, and nothing is applied.
fn write_log(dir: &Path) {
    let identity = LogIdentity {
        cluster: CLUSTER,
        node: NODE,
    };
    let (wal, _) = Wal::open(&dir.join("log"), wal_config(), identity, Arc::new(())).unwrap();
    let mut batch = BatchBuilder::new();
    let state = HardState {
        term: Term(4),
        vote: Some(ReplicaId(3)),
        commit: LogIndex(1),
    };
    let steps = [
        MemberChange::AddVoter(ReplicaId(4)),
        MemberChange::Remove(ReplicaId(2)),
    ];
    let swap = ConfChange::of(steps, Transition::Auto).with_nodes([(ReplicaId(4), NodeId(4))]);
    batch.hard_state(GROUP, &state);
    for entry in [command(1), command(2), change(3, &swap), command(4)] {
        batch.append(&entry);
    }
    wal.append(batch.seal()).wait().unwrap();
    wal.shutdown().unwrap();
    let mut opened = open(dir);
    opened.machine().bootstrap(&[record()], &[]).unwrap();
    opened.close().unwrap();
}

#[test]
fn a_joint_configuration_in_the_log_cannot_bring_the_lost_members_back() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path());
    let mut opened = open(dir.path());
    let surveys = opened.survey().unwrap();
    let survey = &surveys[0];
    assert_eq!(survey.damage, None);
    assert_eq!((survey.applied.0, survey.last.index.0), (0, 4));
    assert_eq!(
        (survey.last.term, survey.hard_state.term),
        (Term(3), Term(4))
    );
    assert_eq!(survey.configurations.len(), 2);
    assert!(survey.configurations[1].is_joint());
    assert_eq!(survey.members.node_of(ReplicaId(4)), Some(NodeId(4)));
    // Looking changes nothing.
    assert_eq!(opened.machine().replica(GROUP), Some(&record()));
    opened.make_sole_voter(survey).unwrap();
    let forced = survey.sole_voter(NODE);
    assert!(forced.replica > ReplicaId(5));
    assert_eq!(forced.epoch.membership, 3);
    // A process that dies here has done it.
    drop(opened);

    let mut opened = reopen(dir.path());
    let surveys = opened.survey().unwrap();
    assert_eq!(surveys[0].record, forced);
    assert_eq!((surveys[0].applied.0, surveys[0].last.index.0), (4, 4));
    let engine = opened.start(Arc::new(Nobody)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let status = loop {
        let status = engine.status().remove(0);
        if status.role == RoleName::Leader && status.applied.0 == 5 {
            break status;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.term, Term(5));
    let members: Vec<_> = status
        .members
        .iter()
        .map(|one| (one.replica, one.node))
        .collect();
    assert_eq!(members, [(forced.replica, Some(NODE))]);
    engine.shutdown(Duration::from_secs(1));

    let mut opened = reopen(dir.path());
    let reader = opened.machine().reader();
    for index in [1, 2, 4] {
        let key = Bytes::from(format!("key-{index}"));
        let value = reader.get(GROUP, ShardId(2), forced.epoch, &key).unwrap();
        assert_eq!(value.as_deref(), Some(&b"value"[..]), "{index}");
    }
}

/// The log of the life before closes in the background.
fn reopen(dir: &Path) -> Opened {
    let deadline = Instant::now() + Duration::from_secs(10);
    while pontoon_wal::inspect::stat(&dir.join("log")).is_err() {
        assert!(Instant::now() < deadline, "the log stays locked");
        std::thread::sleep(Duration::from_millis(10));
    }
    open(dir)
}
