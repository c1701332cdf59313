//! Arbitrary bytes in place of a log's files: an answer, and no more memory than they ask for.
//!
//! The first byte says how many segments, and which of them get their checksums put right, so that what they say is
//! believed. What is left over is the durable mark.
#![no_main]

#[path = "../../engine/wal/tests/common/forge.rs"]
mod forge;

use libfuzzer_sys::fuzz_target;
use pontoon_types::{ClusterId, NodeId};
use pontoon_wal::{Directory, Log, LogFile, LogIdentity, MemoryDisk, WalConfig};

const IDENTITY: LogIdentity = LogIdentity {
    cluster: ClusterId(1),
    node: NodeId(1),
};

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else {
        return;
    };
    let segments = usize::from(first & 3) + 1;
    let length = data.len() / segments;
    let (bytes, mark) = data.split_at(length * segments);
    let disk = MemoryDisk::new();
    for (number, bytes) in bytes.chunks(length.max(1)).enumerate() {
        let (generation, mut bytes) = (number as u32 + 1, bytes.to_vec());
        if first & (4 << number) != 0 {
            forge::segment(&mut bytes, generation, IDENTITY.cluster.0, IDENTITY.node.0);
        }
        put(&disk, &format!("{generation:010}.seg"), &bytes);
    }
    put(&disk, "durable.mark", mark);
    let config = WalConfig {
        segment_bytes: 32 << 10,
        max_bytes: 1 << 20,
        recovery_threads: 1,
        ..WalConfig::default()
    };
    // What was opened once can be opened again.
    if Log::open(disk.clone(), config.clone(), IDENTITY).is_ok() {
        let again = Log::open(disk, config, IDENTITY).map(drop);
        assert!(again.is_ok(), "{again:?}");
    }
});

fn put(disk: &MemoryDisk, name: &str, bytes: &[u8]) {
    let file = disk.create(name).expect("the name is not taken");
    let written = file
        .allocate(bytes.len() as u64)
        .and_then(|()| file.write_at(0, bytes));
    written.expect("the disk has no bound");
}
