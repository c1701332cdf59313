//! A batch that is larger than the whole log may be.

use pontoon_types::{ClusterId, Entry, EntryKind, GroupId, LogIndex, LogPosition, NodeId, Term};
use pontoon_wal::{BatchBuilder, Log, LogIdentity, MemoryDisk, Pressure, WalConfig};

const GROUP: GroupId = GroupId(1);

#[test]
fn a_segment_larger_than_the_bound_goes_once_nothing_in_it_is_needed() {
    let config = WalConfig {
        segment_bytes: 16 << 10,
        max_bytes: 64 << 10,
        ..WalConfig::default()
    };
    let identity = LogIdentity {
        cluster: ClusterId(1),
        node: NodeId(1),
    };
    let (mut log, _) = Log::open(MemoryDisk::new(), config, identity).unwrap();
    let mut batch = BatchBuilder::new();
    for index in 1..=50 {
        let payload = [7; 3_000];
        let index = LogIndex(index);
        let entry = Entry::encode(GROUP, Term(1), index, EntryKind::Command, &payload);
        batch.append(&entry);
    }
    log.append(&batch.seal()).unwrap();
    log.sync().unwrap();
    assert_eq!(log.pressure(), Pressure::Full);

    let mut batch = BatchBuilder::new();
    let up_to = LogPosition {
        term: Term(1),
        index: LogIndex(50),
    };
    batch.compact(GROUP, up_to);
    log.append(&batch.seal()).unwrap();
    // As its owner does it: a sync as long as something is laid, and the chores.
    for _ in 0..3 {
        log.sync().unwrap();
        log.maintain().unwrap();
    }
    assert_eq!(log.pressure(), Pressure::Ok);
    assert_eq!(log.stats().segments_live, 1);
}
