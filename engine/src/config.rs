//! The engine's settings.

use crate::error::EngineError;
use crate::snapshot::SnapshotSettings;
use pontoon_wal::WalConfig;
use std::time::Duration;

/// The most workers: as many append lanes as a connection between two nodes has.
const MAX_WORKERS: usize = 15;

/// Who ranks last stands for election some ten election timeouts after its leader is gone, if nobody else does.
const MAX_ELECTION_RANK: u32 = 10;

/// Settings of one node's engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// How many workers share the groups, at least 1. Group `g` belongs to worker `g % workers`.
    pub workers: usize,
    /// Elections start after a random time in `[t, 2t)` without a leader.
    pub election_timeout: Duration,
    /// How often a leader that has nothing else to say is heard.
    pub heartbeat_interval: Duration,
    /// Whether leaders serve reads under a lease, without asking a quorum. Off unless asked for: then nothing but
    /// speed depends on clocks, and a round of confirmation is shared by all reads of a cycle. It must be the
    /// same on all nodes, as must be `election_timeout`.
    pub lease_reads: bool,
    /// By how much the clocks of nodes may drift against each other, for leases.
    pub max_clock_drift_percent: u8,
    /// How willing this node is to lead, from 0, the most, to 10. With every step its replicas wait one
    /// `election_timeout` more before they stand for election, so that those who rank before them stand first.
    /// What it leads it keeps, whoever comes back.
    pub election_rank: u32,
    /// Per group: entry bytes proposed and not yet committed, before `Overloaded`.
    pub max_uncommitted_bytes: usize,
    /// Per worker: bytes handed to the log and not yet synced, and entry bytes committed and not yet
    /// applied. Over either, proposals get `Overloaded` and appends from peers are dropped, to be sent
    /// again later.
    pub max_backlog_bytes: usize,
    /// Per worker: inputs that wait for it, and reads that are not answered yet, before requests get `Overloaded`; and frames of
    /// peers, before others are dropped.
    pub max_queued_inputs: usize,
    /// Per worker: bytes in either, beyond which the same happens.
    pub max_queued_bytes: usize,
    /// How often the store's progress is taken to cut the log.
    pub compaction_interval: Duration,
    /// After so long the store flushes what it has, however little, so that the log of groups that are seldom written to is
    /// cut, too; `None`: only when there is much.
    pub flush_interval: Option<Duration>,
    /// Per group: entries that are kept for followers who lag, after the store has them durably. Who is further
    /// behind gets a snapshot, and all that follows on it is kept while that brings him up. A full log keeps none, and
    /// neither does a group over its quota; with 0, nobody is waited for.
    pub log_tail_entries: u64,
    /// How long a state that a mark has pinned is held after somebody has asked for it. Whoever copies one asks again and
    /// again, however slow he is.
    pub held_for: Duration,
    /// How snapshots travel.
    pub snapshots: SnapshotSettings,
    /// The log's settings.
    pub wal: WalConfig,
    /// Seeds the election jitter, so that a run can be repeated. No two lives of a node may have the same: it
    /// also tells apart what they have asked.
    pub seed: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            workers: 2,
            election_timeout: Duration::from_millis(750),
            heartbeat_interval: Duration::from_millis(150),
            lease_reads: false,
            max_clock_drift_percent: 10,
            election_rank: 0,
            max_uncommitted_bytes: 16 << 20,
            max_backlog_bytes: 64 << 20,
            max_queued_inputs: 64 << 10,
            max_queued_bytes: 64 << 20,
            compaction_interval: Duration::from_secs(1),
            flush_interval: Some(Duration::from_secs(600)),
            log_tail_entries: 4096,
            held_for: Duration::from_secs(60),
            snapshots: SnapshotSettings::default(),
            wal: WalConfig::default(),
            seed: 0,
        }
    }
}

impl EngineConfig {
    /// Checks that the settings can work together.
    ///
    /// # Errors
    /// Names the first setting that cannot.
    pub fn validate(&self) -> Result<(), EngineError> {
        let wrong = |setting, problem: &str| {
            Err(EngineError::Config {
                setting,
                problem: problem.to_owned(),
            })
        };
        if self.workers == 0 || self.workers > MAX_WORKERS {
            return wrong("workers", "must be between 1 and 15");
        }
        if self.heartbeat_interval.is_zero() {
            return wrong("heartbeat-interval-ms", "must be above 0");
        }
        if self.election_timeout < 2 * self.heartbeat_interval {
            return wrong(
                "election-timeout-ms",
                "must be at least twice heartbeat-interval-ms",
            );
        }
        if self.max_clock_drift_percent >= 100 {
            return wrong("max-clock-drift-percent", "must be below 100");
        }
        if self.election_rank > MAX_ELECTION_RANK {
            return wrong("election-rank", "must be at most 10");
        }
        Ok(self.wal.check()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let default = EngineConfig::default;
        assert!(default().validate().is_ok());
        for (setting, wrong) in [
            (
                "workers",
                EngineConfig {
                    workers: 0,
                    ..default()
                },
            ),
            (
                "election-timeout-ms",
                EngineConfig {
                    election_timeout: default().heartbeat_interval,
                    ..default()
                },
            ),
            (
                "max-clock-drift-percent",
                EngineConfig {
                    max_clock_drift_percent: 100,
                    ..default()
                },
            ),
            (
                "election-rank",
                EngineConfig {
                    election_rank: 11,
                    ..default()
                },
            ),
            (
                "segment-bytes",
                EngineConfig {
                    wal: WalConfig {
                        segment_bytes: 0,
                        ..WalConfig::default()
                    },
                    ..default()
                },
            ),
        ] {
            let error = wrong.validate().unwrap_err().to_string();
            assert!(error.contains(setting), "{error}");
        }
    }
}
