//! What can be set of the store on disk, and how the tree is told.

use super::pace::CompactionPace;
use lsm_tree::config::CompressionPolicy;
use lsm_tree::{Cache, CompressionType, Config, SequenceNumberCounter};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
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
/// [`LsmSettings::write_memory_bytes`], plus one batch, the block cache, and what views [keep](crate::View::kept_memory).
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
    /// How many bytes of rows compactions merge in a second at most. Too few, and tables pile up: reads look into more
    /// of them, and the disk holds more of what is out of date.
    pub compaction_bytes_per_second: Option<NonZeroU64>,
    /// How often all tables are read and held against their checksums; `None`: never.
    pub scrub_interval: Option<Duration>,
    /// How many bytes are read for that in a second at most, and for what else shares the
    /// [budget](crate::LsmMonitor::scrub_budget).
    pub scrub_bytes_per_second: NonZeroU64,
}

/// A week.
const SCRUB_INTERVAL: Duration = Duration::from_secs(7 * 24 * 3600);
const SCRUB_BYTES_PER_SECOND: NonZeroU64 = NonZeroU64::MIN.saturating_add((16 << 20) - 1);

impl Default for LsmSettings {
    fn default() -> Self {
        Self {
            memtable_bytes: 32 << 20,
            max_sealed_memtables: 3,
            max_stall: Duration::from_secs(10),
            block_cache_bytes: 64 << 20,
            compression: Compression::default(),
            compaction_bytes_per_second: None,
            scrub_interval: Some(SCRUB_INTERVAL),
            scrub_bytes_per_second: SCRUB_BYTES_PER_SECOND,
        }
    }
}

impl LsmSettings {
    /// What all memtables together may take, in bytes.
    #[must_use]
    pub const fn write_memory_bytes(&self) -> u64 {
        let most = self.max_sealed_memtables as u64 + 1;
        self.memtable_bytes.saturating_mul(most)
    }

    pub(super) fn configure(
        &self,
        path: &Path,
        seqno: SequenceNumberCounter,
        visible: SequenceNumberCounter,
        stopping: Arc<AtomicBool>,
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
            .with_compaction_filter_factory(Some(Arc::new(CompactionPace {
                stopping,
                bytes_per_second: self.compaction_bytes_per_second,
            })))
    }
}
