//! A node's settings, from flags and from a TOML file.
//!
//! Both are read into the same struct, so a setting has one name: `--election-timeout-ms 500` and
//! `election-timeout-ms = 500`. What the flags leave out is taken from the file, and what both
//! leave out has a default. A key that the file has and we do not know is an error with its line,
//! because a setting that is silently ignored is worse than none.

mod bounds;

use crate::error::Error;
use clap::{Args, ValueEnum};
use pontoon_types::{Limits, NodeId};
use pontoon_wal::SyncMode;
use serde::{Deserialize, Deserializer, de};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Every setting of a node; what is `None` was not given.
#[derive(Clone, Debug, Default, PartialEq, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NodeSettings {
    /// This node's id, one of those in --peers.
    #[arg(long, value_name = "N")]
    pub id: Option<u64>,

    /// Directory of this node's log and store; made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// UDP address to listen on, for nodes and clients alike.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,

    /// Directory with ca.pem, node-N.pem and node-N.key, as `pontoon certs` writes them.
    #[arg(long, value_name = "DIR")]
    pub certs: Option<PathBuf>,

    /// All nodes of the cluster, this one included, with the addresses under which they are
    /// reached: 1=HOST:PORT,2=HOST:PORT,…
    #[arg(long, value_name = "N=ADDR,…")]
    pub peers: Option<Peers>,

    /// Shards to cut the key space into when the cluster starts for the first time.
    ///
    /// Read only then, and the same on every node; from then on the cluster keeps its own map.
    /// [default: 64]
    #[arg(long, value_name = "N")]
    pub shards: Option<usize>,

    /// Cut at keys sampled from this file (.tsv or .ndjson) instead of evenly.
    ///
    /// For keys that begin alike, as most texts do: an even cut would put them into few shards.
    /// Read at first start only; give every node the same file.
    #[arg(long, value_name = "FILE")]
    pub split_sample: Option<PathBuf>,

    /// Replicas of each shard, at first start. [default: 3, or as many as there are nodes]
    #[arg(long, value_name = "N")]
    pub replication: Option<usize>,

    /// Threads that run groups. [default: half as many as there are cores, 1 to 8]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,

    /// Longest key that is taken. [default: 4KiB]
    #[arg(long, value_name = "BYTES")]
    pub max_key_bytes: Option<ByteSize>,

    /// Longest value that is taken. [default: 1MiB]
    #[arg(long, value_name = "BYTES")]
    pub max_value_bytes: Option<ByteSize>,

    /// Longest command (an atomic batch) that is taken; below 16MiB. [default: 4MiB]
    #[arg(long, value_name = "BYTES")]
    pub max_command_bytes: Option<ByteSize>,

    /// Size of a segment of the log. [default: 64MiB]
    #[arg(long, value_name = "BYTES")]
    pub segment_bytes: Option<ByteSize>,

    /// Bound on the whole log; near it, writes are refused as overloaded. [default: 4GiB]
    #[arg(long, value_name = "BYTES")]
    pub max_log_bytes: Option<ByteSize>,

    /// How much of the log a restart should have to read at most: above it, what little is needed of old segments is written
    /// again so that they can go. [default: 1GiB]
    #[arg(long, value_name = "BYTES")]
    pub recovery_bytes: Option<ByteSize>,

    /// How much of the log one group may take before its state is flushed so that its log can be cut, without a tail
    /// for replicas that lag. A replica must be brought up before so much is written to its shard. [default: 256MiB]
    #[arg(long, value_name = "BYTES")]
    pub group_quota_bytes: Option<ByteSize>,

    /// When the log syncs: "always", before anything is acknowledged; at an interval such as "100ms"; or "os", when
    /// a segment is full.
    ///
    /// Only with "always" does an acknowledged write survive a power cut. With the others a killed process still
    /// loses nothing, but a node that loses power forgets what it promised, votes included, and a cluster
    /// may lose acknowledged writes. [default: always]
    #[arg(long, value_name = "WHEN")]
    pub sync: Option<SyncWhen>,

    /// After how long a write or sync that does not return is reported: in the log, and in the status. [default: 10000]
    #[arg(long, value_name = "MS")]
    pub hung_disk_ms: Option<u64>,

    /// A follower stands for election after one to two of these without its leader. [default: 750]
    #[arg(long, value_name = "MS")]
    pub election_timeout_ms: Option<u64>,

    /// How often a leader is heard that has nothing to say. [default: 150]
    #[arg(long, value_name = "MS")]
    pub heartbeat_interval_ms: Option<u64>,

    /// Whether leaders serve reads under a lease, which rests on clocks, instead of asking a quorum. The same
    /// on all nodes. [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub lease_reads: Option<bool>,

    /// By how much the clocks of nodes may drift against each other, for leases. [default: 10]
    #[arg(long, value_name = "PERCENT")]
    pub max_clock_drift_percent: Option<u8>,

    /// How willing this node is to lead, from 0, the most, to 10. With every step it waits one election timeout more
    /// before it stands for election, so that those who rank before it stand first; what it leads it
    /// keeps, whoever comes back. [default: 0]
    #[arg(long, value_name = "N")]
    pub election_rank: Option<u8>,

    /// Size at which the store flushes its table in memory. [default: 32MiB]
    #[arg(long, value_name = "BYTES")]
    pub memtable_bytes: Option<ByteSize>,

    /// How many such tables there may be, the one that takes writes included, before writes wait for the disk.
    ///
    /// Times --memtable-bytes, this is the store's memory for writes. [default: 4]
    #[arg(long, value_name = "N")]
    pub max_memtables: Option<usize>,

    /// Size of the store's block cache. [default: 64MiB]
    #[arg(long, value_name = "BYTES")]
    pub block_cache_bytes: Option<ByteSize>,

    /// How the store's tables are compressed; of each as it is written, so it may be changed at any start.
    /// [default: lz4]
    #[arg(long, value_name = "HOW")]
    pub compression: Option<Compression>,

    /// After how long the store flushes what it has, however little, so that the log of shards that are seldom written to is
    /// cut; 0: only when there is much. [default: 10]
    #[arg(long, value_name = "MINUTES")]
    pub flush_interval_minutes: Option<u64>,

    /// Bytes per second that the store merges in the background at most. [default: unbounded]
    #[arg(long, value_name = "BYTES")]
    pub compaction_rate: Option<ByteSize>,

    /// How often all tables of the store and all of the log are read and held against their checksums; 0: never.
    /// [default: 168]
    #[arg(long, value_name = "HOURS")]
    pub scrub_interval_hours: Option<u64>,

    /// Bytes per second that are read for that at most, of both together. [default: 16MiB]
    #[arg(long, value_name = "BYTES")]
    pub scrub_rate: Option<ByteSize>,

    /// Bytes per second that this node moves in snapshots at most, over all that it sends and receives, so that bringing
    /// up a replica leaves room for everything else. Begins with 64 MiB, and gives way to writes. [default: 1GiB]
    #[arg(long, value_name = "BYTES")]
    pub snapshot_rate: Option<ByteSize>,

    /// Entries of each group that the log keeps for replicas that lag, once the store has them. Who is further
    /// behind gets a snapshot, and all that follows on it is kept meanwhile; a full log keeps none. [default: 4096]
    #[arg(long, value_name = "N")]
    pub log_tail_entries: Option<u64>,

    /// What to log, as in RUST_LOG: error, warn, info, debug or trace, also by part, for example
    /// "info,pontoon_transport=debug". Goes to stderr. [default: RUST_LOG, else info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// How the store's tables are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all.
    None,
    /// With LZ4, but for those fresh from memory.
    Lz4,
}

/// Defaults of the settings that have one.
pub mod defaults {
    use std::num::NonZero;

    /// Threads that run groups: half as many as there are cores, as the other half is for the network, the
    /// log and applying. Each makes batches and frames of its own, so two that have to share a core do the
    /// same work in twice as many pieces.
    #[must_use]
    pub fn workers() -> usize {
        half_of_the_cores().min(8)
    }

    /// Threads that wait for the network. With more, connections wake up more threads for fewer packets
    /// each, and take the cores from the engine.
    #[must_use]
    pub fn network_threads() -> usize {
        half_of_the_cores()
    }

    fn half_of_the_cores() -> usize {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        (cores / 2).max(1)
    }

    /// Shards at first start.
    pub const SHARDS: usize = 64;
    /// Bound on the log.
    pub const MAX_LOG_BYTES: u64 = 4 << 30;
    /// Election timeout.
    pub const ELECTION_TIMEOUT_MS: u64 = 750;
    /// Heartbeat interval.
    pub const HEARTBEAT_INTERVAL_MS: u64 = 150;
    /// Whether reads are served under leases: not, so that nothing but speed depends on clocks.
    pub const LEASE_READS: bool = false;
    /// Drift of clocks.
    pub const MAX_CLOCK_DRIFT_PERCENT: u8 = 10;
    /// How willing a node is to lead: all alike.
    pub const ELECTION_RANK: u8 = 0;
    /// Size of the store's table in memory.
    pub const MEMTABLE_BYTES: u64 = 32 << 20;
    /// How many there may be.
    pub const MAX_MEMTABLES: usize = 4;
    /// Size of the store's cache.
    pub const BLOCK_CACHE_BYTES: u64 = 64 << 20;
    /// `--snapshot-rate`.
    pub const SNAPSHOT_RATE: NonZero<u64> = NonZero::new(1 << 30).unwrap();
    /// `--log-tail-entries`.
    pub const LOG_TAIL_ENTRIES: u64 = 4096;
    /// How long a state is held for who compares or copies it: far longer than any pause between two pages.
    pub const HELD_FOR: std::time::Duration = std::time::Duration::from_secs(60);
}

impl NodeSettings {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// If it cannot be read, is not TOML, or has an unknown key or a wrong value; with the line.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
        Self::from_toml(&text, path)
    }

    fn from_toml(text: &str, path: &Path) -> Result<Self, Error> {
        let wrong = |at: usize, message: String| {
            let before = &text.as_bytes()[..at.min(text.len())];
            Error::Config {
                path: path.to_owned(),
                line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
                message: message.replace('\n', "; "),
            }
        };
        let settings: Self = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            wrong(at, error.message().to_owned())
        })?;
        match settings.check() {
            Ok(()) => Ok(settings),
            Err(error) => Err(wrong(place_of(error.name, text), error.to_string())),
        }
    }

    /// These settings, and where they say nothing, the others.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        // Written out, so that a new field cannot be forgotten.
        Self {
            id: self.id.or(other.id),
            data_dir: self.data_dir.or(other.data_dir),
            listen: self.listen.or(other.listen),
            certs: self.certs.or(other.certs),
            peers: self.peers.or(other.peers),
            shards: self.shards.or(other.shards),
            split_sample: self.split_sample.or(other.split_sample),
            replication: self.replication.or(other.replication),
            workers: self.workers.or(other.workers),
            max_key_bytes: self.max_key_bytes.or(other.max_key_bytes),
            max_value_bytes: self.max_value_bytes.or(other.max_value_bytes),
            max_command_bytes: self.max_command_bytes.or(other.max_command_bytes),
            segment_bytes: self.segment_bytes.or(other.segment_bytes),
            max_log_bytes: self.max_log_bytes.or(other.max_log_bytes),
            recovery_bytes: self.recovery_bytes.or(other.recovery_bytes),
            group_quota_bytes: self.group_quota_bytes.or(other.group_quota_bytes),
            sync: self.sync.or(other.sync),
            hung_disk_ms: self.hung_disk_ms.or(other.hung_disk_ms),
            election_timeout_ms: self.election_timeout_ms.or(other.election_timeout_ms),
            heartbeat_interval_ms: self.heartbeat_interval_ms.or(other.heartbeat_interval_ms),
            lease_reads: self.lease_reads.or(other.lease_reads),
            max_clock_drift_percent: self
                .max_clock_drift_percent
                .or(other.max_clock_drift_percent),
            election_rank: self.election_rank.or(other.election_rank),
            memtable_bytes: self.memtable_bytes.or(other.memtable_bytes),
            max_memtables: self.max_memtables.or(other.max_memtables),
            block_cache_bytes: self.block_cache_bytes.or(other.block_cache_bytes),
            compression: self.compression.or(other.compression),
            flush_interval_minutes: self.flush_interval_minutes.or(other.flush_interval_minutes),
            compaction_rate: self.compaction_rate.or(other.compaction_rate),
            scrub_interval_hours: self.scrub_interval_hours.or(other.scrub_interval_hours),
            scrub_rate: self.scrub_rate.or(other.scrub_rate),
            snapshot_rate: self.snapshot_rate.or(other.snapshot_rate),
            log_tail_entries: self.log_tail_entries.or(other.log_tail_entries),
            log: self.log.or(other.log),
        }
    }

    /// The limits, with defaults.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let or = |size: Option<ByteSize>, default: usize| {
            size.map_or(default, |size| {
                usize::try_from(size.0).unwrap_or(usize::MAX)
            })
        };
        let default = Limits::default();
        Limits {
            max_key_bytes: or(self.max_key_bytes, default.max_key_bytes),
            max_value_bytes: or(self.max_value_bytes, default.max_value_bytes),
            max_command_bytes: or(self.max_command_bytes, default.max_command_bytes),
        }
    }
}

/// Where a key stands in a TOML text that has it.
fn place_of(key: &str, text: &str) -> usize {
    let table = toml::de::DeTable::parse(text);
    let key = table.as_ref().ok().and_then(|table| {
        let (key, _) = table.get_ref().get_key_value(key)?;
        Some(key.span().start)
    });
    key.unwrap_or(0)
}

/// Whether an address is of the form `HOST:PORT`.
pub(crate) fn is_host_and_port(address: &str) -> bool {
    let parts = address.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// The nodes of a cluster with their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers(pub Vec<(NodeId, String)>);

impl FromStr for Peers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(
            text.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty()),
        )
    }
}

impl Peers {
    fn parse<'a>(parts: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut peers: Vec<(NodeId, String)> = Vec::new();
        for part in parts {
            let wrong = || format!("\"{part}\" is not of the form N=HOST:PORT");
            let (id, address) = part.split_once('=').ok_or_else(wrong)?;
            let id: NodeId = id.trim().parse().map_err(|_| wrong())?;
            if id.0 == 0 {
                return Err("node ids begin at 1".to_owned());
            }
            let address = address.trim();
            if !is_host_and_port(address) {
                return Err(wrong());
            }
            if peers.iter().any(|(other, _)| *other == id) {
                return Err(format!("node {id} is named twice"));
            }
            peers.push((id, address.to_owned()));
        }
        if peers.is_empty() {
            return Err("no node is named".to_owned());
        }
        peers.sort_by_key(|(id, _)| *id);
        Ok(Self(peers))
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (id, address)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{id}={address}")?;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Peers {
    /// As on the command line, or as a list of its parts.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected \"1=HOST:PORT,…\" or a list of \"1=HOST:PORT\""
        )]
        enum Form {
            Text(String),
            List(Vec<String>),
        }
        match Form::deserialize(deserializer)? {
            Form::Text(text) => text.parse(),
            Form::List(list) => Self::parse(list.iter().map(String::as_str)),
        }
        .map_err(de::Error::custom)
    }
}

/// When the log syncs: `always`, `os`, or an interval such as `100ms` or `2s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncWhen(pub SyncMode);

impl FromStr for SyncWhen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not when to sync; write always, os, 100ms or 2s");
        let milliseconds = match text {
            "always" => return Ok(Self(SyncMode::Always)),
            "os" => return Ok(Self(SyncMode::Os)),
            _ => match (text.strip_suffix("ms"), text.strip_suffix('s')) {
                (Some(digits), _) => digits.parse().ok(),
                (None, Some(digits)) => digits.parse().ok().and_then(|s: u64| s.checked_mul(1000)),
                (None, None) => None,
            },
        };
        let interval = milliseconds.filter(|ms| *ms > 0).ok_or_else(wrong)?;
        Ok(Self(SyncMode::Interval(Duration::from_millis(interval))))
    }
}

impl fmt::Display for SyncWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            SyncMode::Always => f.write_str("always"),
            SyncMode::Interval(interval) => write!(f, "{}ms", interval.as_millis()),
            SyncMode::Os => f.write_str("os"),
        }
    }
}

impl<'de> Deserialize<'de> for SyncWhen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A number of bytes: `65536`, `64KiB`, `64MiB`, `1GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not a size; write 65536, 64KiB, 64MiB or 1GiB");
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let shift = match &text[digits.len()..] {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err(wrong()),
        };
        let number: u64 = digits.trim().parse().map_err(|_| wrong())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    /// A number of bytes, or text as on the command line.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected a number of bytes or a size such as \"64MiB\""
        )]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(number) => Ok(Self(number)),
            Form::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        settings: NodeSettings,
    }

    fn toml(text: &str) -> Result<NodeSettings, String> {
        NodeSettings::from_toml(text, Path::new("node.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = toml("id = 1\n\n# a comment\nshard = 3\n").unwrap_err();
        assert!(
            error.starts_with("node.toml:4: unknown field `shard`"),
            "{error}"
        );
        assert!(!error.contains('\n'));
    }

    #[test]
    fn a_wrong_value_is_named_with_its_line() {
        let error = toml("id = 1\nsegment-bytes = \"64MB\"\n").unwrap_err();
        assert!(
            error.starts_with("node.toml:2: \"64MB\" is not a size"),
            "{error}"
        );
        let error = toml("peers = [\"1=a:1\", \"1=b:2\"]").unwrap_err();
        assert!(
            error.contains("node.toml:1: node 1 is named twice"),
            "{error}"
        );
    }

    #[test]
    fn a_value_out_of_its_bounds_is_named_with_its_line() {
        for (line, why) in [
            ("id = 0", "id is 0; node ids begin at 1"),
            ("workers = 0", "workers is 0; it must be from 1 to 15"),
            ("\"max-memtables\" = 1", "max-memtables is 1; one is"),
            ("scrub-rate = '0MiB'", "scrub-rate is 0; set"),
        ] {
            let error = toml(&format!("# a comment\n\n{line}\nshards = 1\n")).unwrap_err();
            let expected = format!("node.toml:3: {why}");
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn every_flag_is_a_key_of_the_file_with_the_same_name() {
        use clap::CommandFactory as _;
        let command = Flags::command();
        let flags: Vec<&str> = command
            .get_arguments()
            .filter_map(clap::Arg::get_long)
            .filter(|name| *name != "help")
            .collect();
        assert!(flags.len() >= 24, "{flags:?}");
        for flag in flags {
            // No setting is a table, so the key must be known and the value wrong.
            let error = toml(&format!("[{flag}]\n")).unwrap_err();
            assert!(!error.contains("unknown field"), "{flag}: {error}");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_nothing() {
        let flags = Flags::parse_from([
            "node",
            "--id=2",
            "--peers=2=b:2,1=a:1",
            "--segment-bytes=1MiB",
            "--listen=127.0.0.1:7001",
        ]);
        let file = toml("id = 1\nshards = 5\nsegment-bytes = 7\nmax-key-bytes = \"8KiB\"").unwrap();
        let settings = flags.settings.or(file);
        assert_eq!(settings.id, Some(2));
        assert_eq!(settings.shards, Some(5));
        assert_eq!(settings.segment_bytes, Some(ByteSize(1 << 20)));
        assert_eq!(settings.limits().max_key_bytes, 8 << 10);
        assert_eq!(settings.limits().max_value_bytes, 1 << 20);
        assert_eq!(settings.peers.unwrap().to_string(), "1=a:1,2=b:2");
    }

    #[test]
    fn every_setting_of_a_file_is_kept_when_the_flags_are_silent() {
        let file = toml(
            "id = 1\ndata-dir = 'd'\nlisten = '[::1]:1'\ncerts = 'c'\n\
             peers = '1=h:1'\nshards = 2\nsplit-sample = 's.tsv'\nreplication = 1\nworkers = 3\n\
             max-key-bytes = 1\nmax-value-bytes = 2\nmax-command-bytes = 3\nsegment-bytes = 4\n\
             max-log-bytes = 5\nrecovery-bytes = 6\ngroup-quota-bytes = 7\nsync = '2s'\n\
             hung-disk-ms = 8\nelection-timeout-ms = 6\nheartbeat-interval-ms = 7\n\
             lease-reads = true\nmax-clock-drift-percent = 5\nelection-rank = 1\n\
             memtable-bytes = 8\nmax-memtables = 3\nblock-cache-bytes = 9\n\
             compression = 'none'\nflush-interval-minutes = 3\ncompaction-rate = '64MiB'\n\
             scrub-interval-hours = 24\nscrub-rate = '1MiB'\n\
             snapshot-rate = '7MiB'\nlog-tail-entries = 11\nlog = 'debug'\n",
        )
        .unwrap();
        assert_eq!(NodeSettings::default().or(file.clone()), file);
        assert_eq!(file.clone().or(NodeSettings::default()), file);
    }

    #[test]
    fn peers_that_make_no_sense_are_refused() {
        for text in [
            "",
            "1",
            "x=a:1",
            "1=a",
            "1=:1",
            "1=a:99999",
            "0=a:1",
            "1=a:1,1=b:1",
        ] {
            assert!(text.parse::<Peers>().is_err(), "{text}");
        }
        assert_eq!("1=[::1]:7".parse::<Peers>().unwrap().0[0].1, "[::1]:7");
    }

    #[test]
    fn when_to_sync_is_read_and_shown() {
        for text in ["always", "os", "100ms"] {
            assert_eq!(text.parse::<SyncWhen>().unwrap().to_string(), text);
        }
        assert_eq!("2s".parse::<SyncWhen>().unwrap().to_string(), "2000ms");
        for text in [
            "",
            "never",
            "0ms",
            "-1s",
            "ms",
            "99999999999999999999s",
            "5m",
        ] {
            assert!(text.parse::<SyncWhen>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_units_of_1024() {
        assert_eq!("64MiB".parse(), Ok(ByteSize(64 << 20)));
        assert_eq!("17".parse(), Ok(ByteSize(17)));
        for text in ["", "MiB", "1MB", "-1", "99999999999GiB", "1.5GiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
