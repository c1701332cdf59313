//! Which values of a setting make sense, whatever the others are.

use super::{ByteSize, NodeSettings};
use pontoon_types::{ENTRY_HEADER_BYTES, MAX_ENTRY_BYTES};
use std::ops::RangeInclusive;
use thiserror::Error;

/// A setting whose value makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{name} is {value}; {why}")]
pub(crate) struct OutOfBounds {
    /// The setting.
    pub(crate) name: &'static str,
    value: u64,
    why: &'static str,
}

type Bound = (&'static str, Option<u64>, RangeInclusive<u64>, &'static str);

const ABOVE_0: RangeInclusive<u64> = 1..=u64::MAX;

impl NodeSettings {
    /// Checks every setting by itself.
    ///
    /// # Errors
    /// Names the first one whose value makes no sense.
    pub(crate) fn check(&self) -> Result<(), OutOfBounds> {
        let bounds = self.bounds_of_sizes().into_iter();
        for (name, value, allowed, why) in bounds.chain(self.bounds_of_numbers()) {
            if let Some(value) = value.filter(|value| !allowed.contains(value)) {
                return Err(OutOfBounds { name, value, why });
            }
        }
        Ok(())
    }

    fn bounds_of_numbers(&self) -> [Bound; 10] {
        let number = |number: Option<usize>| number.map(|number| number as u64);
        [
            ("id", self.id, ABOVE_0, "node ids begin at 1"),
            (
                "shards",
                number(self.shards),
                ABOVE_0,
                "at least 1 is needed",
            ),
            (
                "replication",
                number(self.replication),
                ABOVE_0,
                "at least 1 is needed",
            ),
            (
                "workers",
                number(self.workers),
                1..=15,
                "it must be from 1 to 15",
            ),
            (
                "hung-disk-ms",
                self.hung_disk_ms,
                ABOVE_0,
                "it must be above 0",
            ),
            (
                "election-timeout-ms",
                self.election_timeout_ms,
                ABOVE_0,
                "it must be above 0",
            ),
            (
                "heartbeat-interval-ms",
                self.heartbeat_interval_ms,
                ABOVE_0,
                "it must be above 0",
            ),
            (
                "max-clock-drift-percent",
                self.max_clock_drift_percent.map(u64::from),
                0..=99,
                "it must be below 100",
            ),
            (
                "election-rank",
                self.election_rank.map(u64::from),
                0..=10,
                "it must be from 0 to 10",
            ),
            (
                "max-memtables",
                number(self.max_memtables),
                2..=u64::MAX,
                "one is written while another is flushed, so at least 2 are needed",
            ),
        ]
    }

    fn bounds_of_sizes(&self) -> [Bound; 8] {
        let above_0 =
            |name, size: Option<ByteSize>, why| (name, size.map(|size| size.0), ABOVE_0, why);
        [
            above_0(
                "max-key-bytes",
                self.max_key_bytes,
                "then no key could be written",
            ),
            (
                "max-command-bytes",
                self.max_command_bytes.map(|size| size.0),
                1..=(MAX_ENTRY_BYTES - ENTRY_HEADER_BYTES) as u64,
                "a command must fit into an entry of the log, which has at most 16 MiB with its header",
            ),
            above_0(
                "recovery-bytes",
                self.recovery_bytes,
                "then the whole log would be written again and again",
            ),
            above_0(
                "group-quota-bytes",
                self.group_quota_bytes,
                "then no group could have a log",
            ),
            above_0(
                "memtable-bytes",
                self.memtable_bytes,
                "then every write would be flushed",
            ),
            above_0(
                "compaction-rate",
                self.compaction_rate,
                "leave it out for an unbounded rate",
            ),
            above_0(
                "scrub-rate",
                self.scrub_rate,
                "set scrub-interval-hours to 0 to scrub nothing",
            ),
            above_0(
                "snapshot-rate",
                self.snapshot_rate,
                "then no replica could be brought up",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_given_is_within_its_bounds() {
        assert_eq!(NodeSettings::default().check(), Ok(()));
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_value() {
        let settings = NodeSettings {
            workers: Some(16),
            ..NodeSettings::default()
        };
        let error = settings.check().unwrap_err().to_string();
        assert_eq!(error, "workers is 16; it must be from 1 to 15");
        let settings = NodeSettings {
            max_command_bytes: Some(ByteSize(16 << 20)),
            ..NodeSettings::default()
        };
        let error = settings.check().unwrap_err().to_string();
        assert!(error.starts_with("max-command-bytes is 16777216; a command must fit"));
    }
}
