//! The store on disk is held to the model: the same random operations, the same rows ever after.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod common;

use common::{Harness, Lsm, Model, dump};
use pontoon_store::keys::{Space, stored_key};
use pontoon_store::{LsmStore, LsmView, ModelStore, ModelView, Store, View, WriteBatch};
use pontoon_types::{GroupId, LogIndex, TabletId};
use proptest::prelude::*;

/// Group 1 counts batches, so that its applied index names a point in the run.
const COUNTER: GroupId = GroupId(1);

#[derive(Clone, Debug)]
enum Op {
    /// Rows over a few keys of two tablets, a value or a delete each.
    Write(Vec<(u8, Option<u16>)>),
    Rotate,
    Flush,
    Compact,
    Crash,
    TakeView,
    Hold,
    DropOldestView,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => prop::collection::vec((0..40u8, any::<Option<u16>>()), 0..12).prop_map(Op::Write),
        2 => Just(Op::Rotate),
        2 => Just(Op::Flush),
        1 => Just(Op::Compact),
        1 => Just(Op::Crash),
        1 => Just(Op::TakeView),
        2 => Just(Op::Hold),
        1 => Just(Op::DropOldestView),
    ]
}

fn key(number: u8) -> (TabletId, Vec<u8>) {
    // Keys of several lengths, one of them empty and some the prefix of others.
    (
        TabletId(1 + u64::from(number % 2)),
        vec![b'k'; usize::from(number / 2)],
    )
}

struct Pair {
    harness: Lsm,
    lsm: LsmStore,
    model: ModelStore,
    views: Vec<(LsmView, ModelView)>,
    batches: u64,
}

impl Pair {
    fn new() -> Self {
        let mut harness = Lsm::new();
        let (lsm, model) = (harness.open(), Model.open());
        Self {
            harness,
            lsm,
            model,
            views: Vec::new(),
            batches: 0,
        }
    }

    fn run(mut self, op: Op) -> Self {
        match op {
            Op::Write(rows) => {
                self.batches += 1;
                let mut batch = WriteBatch::new();
                for store in 0..2 {
                    for (number, value) in &rows {
                        let (tablet, key) = key(*number);
                        match value {
                            Some(value) => {
                                let value = vec![*number; usize::from(*value % 999)];
                                batch.put(tablet, Space::Data, &key, &value);
                            }
                            None => batch.delete(tablet, Space::Data, &key),
                        }
                    }
                    batch.set_applied(COUNTER, LogIndex(self.batches));
                    batch.set_applied(GroupId(2 + self.batches % 3), LogIndex(self.batches));
                    if store == 0 {
                        self.lsm.write(&mut batch).unwrap();
                    } else {
                        self.model.write(&mut batch).unwrap();
                    }
                    assert!(batch.is_empty());
                }
            }
            Op::Rotate => {
                self.lsm.rotate().unwrap();
                self.model.rotate().unwrap();
            }
            Op::Flush => {
                self.lsm.flush().unwrap();
                self.model.flush().unwrap();
                assert_eq!(self.lsm.durability().all(), self.model.durability().all());
            }
            Op::Compact => self.lsm.wait_for_compaction().unwrap(),
            Op::Crash => {
                let promised = self.lsm.durability().applied(COUNTER);
                self.views.clear();
                self.lsm = self.harness.crash(self.lsm);
                let found = self.lsm.applied(COUNTER);
                assert!(
                    found >= promised,
                    "durable up to {promised}, {found} after the crash"
                );
                // Production's flushes run by themselves; let the model's disk be as fast.
                while self.model.durability().applied(COUNTER) < found {
                    assert!(
                        self.model.finish_flush(),
                        "{found} is no point between memtables"
                    );
                }
                self.model = self.model.crash();
                self.batches = found.0;
            }
            Op::TakeView => self.views.push((self.lsm.view(), self.model.view())),
            Op::Hold => self.views.push((self.lsm.hold(), self.model.hold())),
            Op::DropOldestView => {
                if !self.views.is_empty() {
                    self.views.remove(0);
                }
            }
        }
        self
    }

    fn check(&self) {
        assert_eq!(self.lsm.all_applied(), self.model.all_applied());
        let present = (self.lsm.view(), self.model.view());
        for number in 0..40 {
            let (tablet, key) = key(number);
            let stored = stored_key(tablet, Space::Data, &key);
            assert_eq!(
                self.lsm.get(&stored).unwrap(),
                self.model.get(&stored).unwrap()
            );
            for (lsm, model) in self.views.iter().chain([&present]) {
                assert_eq!(lsm.get(&stored).unwrap(), model.get(&stored).unwrap());
            }
        }
        for (lsm, model) in self.views.iter().chain([&present]) {
            let mut rows = dump(lsm);
            // The model keeps applied indexes beside its rows.
            rows.retain(|(key, _)| key[0] != 0);
            assert_eq!(rows, dump(model));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_on_disk_is_the_model(ops in prop::collection::vec(op(), 1..60)) {
        let mut pair = Pair::new();
        for op in ops {
            pair = pair.run(op);
            pair.check();
        }
        pair.run(Op::Crash).check();
    }
}
