//! A directory whose rows were named otherwise is refused, not taken for a blank one.

use lsm_tree::{AbstractTree as _, Config, SequenceNumberCounter};
use pontoon_store::{LsmSettings, LsmStore, StoreError};

#[test]
fn rows_with_the_names_of_an_earlier_build_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let counters = <(SequenceNumberCounter, SequenceNumberCounter)>::default();
    let tree = Config::new(directory.path(), counters.0, counters.1)
        .open()
        .unwrap();
    // Its named rows: eight bytes of tablet 0, the space, the name.
    tree.insert(b"\0\0\0\0\0\0\0\0nidentity", b"a node", 1);
    tree.flush_active_memtable(0).unwrap();
    drop(tree);
    let opened = LsmStore::open(directory.path(), LsmSettings::default());
    assert!(matches!(opened, Err(StoreError::OldFormat { .. })));
}
