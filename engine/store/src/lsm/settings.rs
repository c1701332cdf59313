//! What can be set of the store on disk, and how the tree is told.

use lsm_tree::compaction::filter::{Context, Factory};
use lsm_tree::compaction::{CompactionFilter, ItemAccessor, Verdict};
use lsm_tree::config::CompressionPolicy;
use lsm_tree::{Cache, CompressionType, Config, SequenceNumberCounter};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How blocks of tables are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// With LZ4, except for tables fresh from a flush, which are soon merged.
    #[default]
    Lz4,
}

/// Settings of an [`LsmStore`](crate::LsmStore). Together they bound its memory: at most
/// `memtable_bytes * (max_sealed_memtables + 1)`, plus one batch and the block cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LsmSettings {
    /// A memtable of this size is sealed and flushed. It also bounds what the log must replay after
    /// a crash.
    pub memtable_bytes: u64,
    /// How many sealed memtables may wait for the disk before writes wait too.
    pub max_sealed_memtables: usize,
    /// How long a write waits for that before it fails with
    /// [`StoreError::Stalled`](crate::StoreError::Stalled).
    pub max_stall: Duration,
    /// Memory for blocks of tables that were read.
    pub block_cache_bytes: u64,
    /// How blocks of tables are compressed.
    pub compression: Compression,
}

impl Default for LsmSettings {
    fn default() -> Self {
        Self {
            memtable_bytes: 32 << 20,
            max_sealed_memtables: 3,
            max_stall: Duration::from_secs(10),
            block_cache_bytes: 64 << 20,
            compression: Compression::default(),
        }
    }
}

impl LsmSettings {
    pub(super) fn configure(
        &self,
        path: &Path,
        seqno: SequenceNumberCounter,
        visible: SequenceNumberCounter,
    ) -> Config {
        let policy = match self.compression {
            Compression::None => CompressionPolicy::disabled(),
            Compression::Lz4 => {
                CompressionPolicy::new([CompressionType::None, CompressionType::Lz4])
            }
        };
        Config::new(path, seqno, visible)
            .use_cache(Arc::new(Cache::with_capacity_bytes(self.block_cache_bytes)))
            .data_block_compression_policy(policy)
    }
}

/// Breaks off a compaction under way when the store stops. A merge of some gigabytes takes longer
/// than anyone wants to wait for a shutdown, and the tree offers no other way: its own stop signal
/// makes it commit what it has merged so far, without the rest.
pub(super) struct CompactionStop(pub(super) Arc<AtomicBool>);

impl Factory for CompactionStop {
    fn name(&self) -> &'static str {
        "stop"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(StopFilter(Arc::clone(&self.0)))
    }
}

struct StopFilter(Arc<AtomicBool>);

impl CompactionFilter for StopFilter {
    fn filter_item(&mut self, _: ItemAccessor<'_>, _: &Context) -> lsm_tree::Result<Verdict> {
        if self.0.load(Ordering::Relaxed) {
            Err(io::Error::new(io::ErrorKind::Interrupted, "the store stops").into())
        } else {
            Ok(Verdict::Keep)
        }
    }
}
