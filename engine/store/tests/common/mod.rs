//! What the integration tests share: entries to apply, and both stores behind one face.
#![allow(dead_code, reason = "each test binary uses its part")]

use bytes::Bytes;
use pontoon_store::{
    KvMachine, KvReader, LsmSettings, LsmStore, ModelStore, Outcome, ReplicaRecord, Row,
    ScanLimits, Store, View,
};
use pontoon_types::{
    Command, ConfState, Entry, EntryKind, Epoch, GroupId, LogIndex, Members, Mutation, NodeId,
    Operation, ReplicaId, Request, Sequence, SessionId, ShardId, TabletId, Term,
};
use std::collections::BTreeMap;

pub(crate) const EPOCH: Epoch = Epoch {
    range: 3,
    membership: 5,
};
pub(crate) const NO_LIMIT: ScanLimits = ScanLimits {
    rows: usize::MAX,
    bytes: usize::MAX,
};

/// A store that can be opened, crashed and opened again.
pub(crate) trait Harness {
    type Store: Store;
    fn new() -> Self;
    fn open(&mut self) -> Self::Store;
    /// The process dies; the next one opens the store.
    fn crash(&mut self, store: Self::Store) -> Self::Store;
    /// Lets background work come to rest, where there is any.
    fn settle(store: &Self::Store);
}

pub(crate) struct Lsm(pub tempfile::TempDir);

impl Harness for Lsm {
    type Store = LsmStore;

    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn open(&mut self) -> LsmStore {
        LsmStore::open(self.0.path(), LsmSettings::default()).unwrap()
    }

    fn crash(&mut self, store: LsmStore) -> LsmStore {
        // Dropping stops the threads and flushes nothing.
        drop(store);
        self.open()
    }

    fn settle(store: &LsmStore) {
        store.wait_for_compaction().unwrap();
    }
}

pub(crate) struct Model;

impl Harness for Model {
    type Store = ModelStore;

    fn new() -> Self {
        Self
    }

    fn open(&mut self) -> ModelStore {
        ModelStore::new(usize::MAX)
    }

    fn crash(&mut self, store: ModelStore) -> ModelStore {
        store.crash()
    }

    fn settle(_: &ModelStore) {}
}

/// A memtable has little more than one batch, and of those that are sealed a crash finds some flushed.
pub(crate) struct Torn(usize);

impl Harness for Torn {
    type Store = ModelStore;

    fn new() -> Self {
        Self(0)
    }

    fn open(&mut self) -> ModelStore {
        ModelStore::new(1)
    }

    fn crash(&mut self, mut store: ModelStore) -> ModelStore {
        self.0 += 7;
        for _ in 0..self.0 % (1 + store.sealed_memtables()) {
            store.finish_flush();
        }
        store.crash()
    }

    fn settle(_: &ModelStore) {}
}

/// Group g owns shard 10 g with the keys from "g" up to "g~", in tablet 100 g.
pub(crate) fn record(group: u64) -> ReplicaRecord {
    ReplicaRecord {
        group: GroupId(group),
        shard: ShardId(10 * group),
        replica: ReplicaId(1),
        start: Bytes::from(format!("{group}")),
        end: Bytes::from(format!("{group}~")),
        epoch: EPOCH,
        pieces: TabletId(100 * group).into(),
        conf_state: ConfState::of_voters([1, 2, 3].map(ReplicaId)),
        members: Members::new([1, 2, 3].map(|id| (ReplicaId(id), NodeId(id)))),
        descriptor: Bytes::from(format!("descriptor of {group}")),
    }
}

pub(crate) fn machine<H: Harness>(harness: &mut H, groups: u64) -> KvMachine<H::Store> {
    let mut machine = KvMachine::open(harness.open()).unwrap();
    let records: Vec<_> = (1..=groups).map(record).collect();
    machine.bootstrap(&records, &[]).unwrap();
    machine
}

pub(crate) fn reopen<H: Harness>(
    harness: &mut H,
    machine: KvMachine<H::Store>,
) -> KvMachine<H::Store> {
    KvMachine::open(harness.crash(machine.into_store())).unwrap()
}

pub(crate) fn entry(group: u64, index: u64, kind: EntryKind, payload: &[u8]) -> Entry {
    Entry::encode(GroupId(group), Term(1), LogIndex(index), kind, payload)
}

pub(crate) fn command(
    group: u64,
    index: u64,
    shard: ShardId,
    epoch: Epoch,
    operation: Operation<'_>,
) -> Entry {
    let request = Request {
        shard,
        epoch,
        session: SessionId(9),
        sequence: Sequence(index),
    };
    let mut payload = Vec::new();
    Command { request, operation }.encode(&mut payload);
    entry(group, index, EntryKind::Command, &payload)
}

pub(crate) fn operation(group: u64, index: u64, operation: Operation<'_>) -> Entry {
    command(group, index, ShardId(10 * group), EPOCH, operation)
}

pub(crate) fn put(group: u64, index: u64, key: &str, value: &str) -> Entry {
    let (key, value) = (key.as_bytes(), value.as_bytes());
    operation(
        group,
        index,
        Operation::Write(vec![Mutation::Put { key, value }]),
    )
}

pub(crate) fn delete(group: u64, index: u64, key: &str) -> Entry {
    let key = key.as_bytes();
    operation(
        group,
        index,
        Operation::Write(vec![Mutation::Delete { key }]),
    )
}

pub(crate) fn swap(
    group: u64,
    index: u64,
    key: &str,
    expect: Option<&str>,
    set: Option<&str>,
) -> Entry {
    let key = key.as_bytes();
    let (expect, set) = (expect.map(str::as_bytes), set.map(str::as_bytes));
    operation(group, index, Operation::CompareAndSwap { key, expect, set })
}

pub(crate) fn apply<S: Store>(machine: &mut KvMachine<S>, entries: &[Entry]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    machine.apply(entries, &mut outcomes).unwrap();
    assert_eq!(outcomes.len(), entries.len());
    outcomes
}

/// All rows of a group.
pub(crate) fn rows<V: View>(reader: &KvReader<V>, group: u64) -> BTreeMap<String, String> {
    let from = format!("{group}");
    let range = (from.as_bytes(), &b""[..]);
    let page = reader
        .scan(GroupId(group), ShardId(10 * group), EPOCH, range, NO_LIMIT)
        .unwrap();
    assert!(!page.more);
    assert!(page.rows.is_sorted());
    page.rows
        .into_iter()
        .map(|(key, value)| (text(&key), text(&value)))
        .collect()
}

/// Everything in a version, local rows included.
pub(crate) fn dump<V: View>(view: &V) -> Vec<Row> {
    view.range(&[], &[0xff; 9])
        .map(|row| row.unwrap())
        .collect()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
