//! A log in a directory: append for two groups, wait until it is on the disk, and read it back in another life.
//!
//! `cargo run -p pontoon-wal --example append_and_read -- DIR`; each run adds an entry to either group.

use pontoon_types::{ClusterId, Entry, EntryKind, GroupId, LogIndex, NodeId, Term};
use pontoon_wal::{BatchBuilder, LogIdentity, Wal, WalConfig, WalError};
use std::path::PathBuf;
use std::sync::Arc;

fn main() -> Result<(), WalError> {
    let directory = PathBuf::from(std::env::args().nth(1).expect("the directory of the log"));
    let identity = LogIdentity {
        cluster: ClusterId(1),
        node: NodeId(1),
    };
    let (wal, recovered) = Wal::open(&directory, WalConfig::default(), identity, Arc::new(()))?;
    let mut batch = BatchBuilder::new();
    for group in [GroupId(1), GroupId(2)] {
        let last = (recovered.groups.get(&group)).map_or(LogIndex::ZERO, |found| found.last);
        let (term, kind) = (Term(1), EntryKind::Command);
        batch.append(&Entry::encode(group, term, last.next(), kind, b"hello"));
    }
    let durable = wal.append(batch.seal()).wait()?; // One write and one sync for both groups.
    println!("everything below {durable} is durable");
    for group in [GroupId(1), GroupId(2)] {
        for entry in wal.read(group, LogIndex(1), LogIndex(u64::MAX), 1 << 20)? {
            println!("{group}: {} {:?}", entry.index(), entry.payload());
        }
    }
    wal.shutdown()
}
