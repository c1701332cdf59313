//! `pontoon node`: run a node.

use crate::config::{self, ByteSize, NodeSettings, defaults};
use crate::error::Error;
use crate::output::{Output, counted};
use crate::sample;
use crate::server::{Server, ServerConfig};
use clap::Args;
use pontoon_engine::EngineConfig;
use pontoon_shard_router::cut_at_samples;
use pontoon_store::{Compression, LsmSettings};
use pontoon_types::NodeId;
use pontoon_wal::{SyncMode, WalConfig};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Run a node.
///
/// Every node of a cluster is started with the same --peers. At first start the nodes agree on the
/// cut of the key space and keep it in the cluster; from then on --shards, --split-sample and
/// --replication are not looked at. SIGINT or SIGTERM drains and stops the node; SIGKILL loses
/// nothing that was acknowledged. Logs go to stderr; one line on stdout says when the node is ready.
///
/// Every setting can also stand in a TOML file, under the name of its flag. Flags win.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pontoon node --id 1 --data-dir /var/lib/pontoon --listen 0.0.0.0:7001 --certs /etc/pontoon \\
      --peers 1=a.example:7001,2=b.example:7001,3=c.example:7001
  pontoon node --config /etc/pontoon/node.toml --log debug

A file:
  id = 1
  data-dir = \"/var/lib/pontoon\"
  listen = \"0.0.0.0:7001\"
  certs = \"/etc/pontoon\"
  peers = [\"1=a.example:7001\", \"2=b.example:7001\", \"3=c.example:7001\"]
  max-log-bytes = \"8GiB\"")]
pub struct NodeArgs {
    /// TOML file with settings.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Drain and stop as well when stdin ends, as it does with the process that started this one.
    #[arg(long, hide = true)]
    pub until_stdin_ends: bool,

    /// Settings given as flags.
    #[command(flatten)]
    pub settings: NodeSettings,
}

/// Runs the verb.
///
/// # Errors
/// If the node could not start, or had to stop.
pub fn run(args: NodeArgs) -> Result<(), Error> {
    let settings = match &args.config {
        Some(path) => args.settings.or(NodeSettings::from_file(path)?),
        None => args.settings,
    };
    super::start_logging(settings.log.as_deref(), "info")?;
    let config = server_config(settings)?;
    let parent = args.until_stdin_ends;
    super::start_runtime()?.block_on(serve(config, parent))
}

async fn serve(config: ServerConfig, until_stdin_ends: bool) -> Result<(), Error> {
    let node = config.id.0;
    let failed = |source| Error::Server { node, source };
    let waiting = |source| Error::System {
        action: "wait for signals",
        source,
    };
    // Before the start, so that a signal that comes during it is not the process's sudden end.
    let mut terminate = signal(SignalKind::terminate()).map_err(waiting)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(waiting)?;

    let mut orphaned = std::pin::pin!(stdin_ended(until_stdin_ends));

    let server = tokio::select! {
        server = Server::start(config) => server.map_err(failed)?,
        () = &mut orphaned => return Ok(()),
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Err(Error::Interrupted),
    };
    Output::new(false).line(&format!(
        "node {node} ready on {}, {}",
        server.local_addr(),
        counted(server.shards() as u64, "shard"),
    ))?;
    tokio::select! {
        error = server.failed() => return Err(failed(error)),
        () = &mut orphaned => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!(node, "draining");
    server.shutdown().await.map_err(failed)?;
    tracing::info!(node, "stopped");
    Ok(())
}

/// Waits for the end of stdin, or for ever if that is not asked for.
async fn stdin_ended(is_awaited: bool) {
    if !is_awaited {
        return std::future::pending().await;
    }
    let (ended, end) = tokio::sync::oneshot::channel();
    // A thread of its own, which a runtime that ends does not wait for.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = ended.send(());
    });
    let _ = end.await;
}

/// Completes the settings; names what is missing or cannot be.
pub(crate) fn server_config(settings: NodeSettings) -> Result<ServerConfig, Error> {
    // Those of a file have been checked with it, so this one is a flag.
    let checked = settings.check();
    checked.map_err(|error| Error::Usage(format!("--{error}")))?;
    let limits = settings.limits();
    let id = NodeId(required(settings.id, "id")?);
    let log = log_config(&settings);
    let peers = required(settings.peers, "peers")?.0;
    if !peers.iter().any(|(peer, _)| *peer == id) {
        return Err(Error::Usage(format!("node {id} is not among --peers")));
    }
    let shards = settings.shards.unwrap_or(defaults::SHARDS);
    if let Some(replication) = settings.replication
        && replication > peers.len()
    {
        return Err(Error::Usage(format!(
            "--replication is {replication}, with {} in --peers",
            counted(peers.len() as u64, "node")
        )));
    }
    let rate = |rate: Option<ByteSize>| rate.and_then(|rate| NonZeroU64::new(rate.0));
    let store = LsmSettings::default();
    let scrub_interval = match settings.scrub_interval_hours {
        None => store.scrub_interval,
        Some(0) => None,
        Some(hours) => Some(Duration::from_secs(hours.saturating_mul(3600))),
    };
    let flush_interval = match settings.flush_interval_minutes {
        None => EngineConfig::default().flush_interval,
        Some(0) => None,
        Some(minutes) => Some(Duration::from_secs(minutes.saturating_mul(60))),
    };
    let split_keys = match &settings.split_sample {
        Some(path) => {
            let sample = sample::keys_of_file(path, None)?;
            let cut = cut_at_samples(sample, shards);
            if cut.is_short() {
                tracing::warn!(
                    wanted = shards,
                    shards = cut.shards(),
                    "the sample has too few keys for so many shards"
                );
            }
            Some(cut.split_keys)
        }
        None => None,
    };
    let size = size_of;
    Ok(ServerConfig {
        id,
        data_dir: required(settings.data_dir, "data-dir")?,
        listen: required(settings.listen, "listen")?,
        certs: required(settings.certs, "certs")?,
        peers,
        shards: split_keys.as_ref().map_or(shards, |keys| keys.len() + 1),
        split_keys,
        replication: settings.replication,
        workers: settings.workers.unwrap_or_else(defaults::workers),
        limits,
        log,
        election_timeout_ms: settings
            .election_timeout_ms
            .unwrap_or(defaults::ELECTION_TIMEOUT_MS),
        heartbeat_interval_ms: settings
            .heartbeat_interval_ms
            .unwrap_or(defaults::HEARTBEAT_INTERVAL_MS),
        lease_reads: settings.lease_reads.unwrap_or(defaults::LEASE_READS),
        max_clock_drift_percent: settings
            .max_clock_drift_percent
            .unwrap_or(defaults::MAX_CLOCK_DRIFT_PERCENT),
        election_rank: settings
            .election_rank
            .unwrap_or(defaults::ELECTION_RANK)
            .into(),
        memtable_bytes: size(settings.memtable_bytes, defaults::MEMTABLE_BYTES),
        max_memtables: settings.max_memtables.unwrap_or(defaults::MAX_MEMTABLES),
        block_cache_bytes: size(settings.block_cache_bytes, defaults::BLOCK_CACHE_BYTES),
        compression: match settings.compression {
            Some(config::Compression::None) => Compression::None,
            Some(config::Compression::Lz4) | None => Compression::Lz4,
        },
        flush_interval,
        compaction_bytes_per_second: rate(settings.compaction_rate),
        scrub_interval,
        scrub_bytes_per_second: rate(settings.scrub_rate).unwrap_or(store.scrub_bytes_per_second),
        snapshot_bytes_per_second: rate(settings.snapshot_rate).unwrap_or(defaults::SNAPSHOT_RATE),
        log_tail_entries: settings
            .log_tail_entries
            .unwrap_or(defaults::LOG_TAIL_ENTRIES),
        held_for: defaults::HELD_FOR,
    })
}

fn log_config(settings: &NodeSettings) -> WalConfig {
    let default = WalConfig::default();
    let sync = settings.sync.map_or(default.sync, |when| when.0);
    if sync != SyncMode::Always {
        tracing::warn!(
            "--sync is not \"always\": a power cut may lose acknowledged writes and promises (S6 and S7 do not hold)"
        );
    }
    WalConfig {
        segment_bytes: size_of(settings.segment_bytes, default.segment_bytes),
        max_bytes: size_of(settings.max_log_bytes, defaults::MAX_LOG_BYTES),
        recovery_bytes: size_of(settings.recovery_bytes, default.recovery_bytes),
        group_quota_bytes: size_of(settings.group_quota_bytes, default.group_quota_bytes),
        sync,
        hung_after: (settings.hung_disk_ms).map_or(default.hung_after, Duration::from_millis),
        ..default
    }
}

fn size_of(size: Option<ByteSize>, default: u64) -> u64 {
    size.map_or(default, |size| size.0)
}

fn required<T>(setting: Option<T>, name: &str) -> Result<T, Error> {
    setting.ok_or_else(|| {
        Error::Usage(format!(
            "--{name} is needed, as a flag or as \"{name}\" in the --config file"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> NodeSettings {
        NodeSettings {
            id: Some(2),
            data_dir: Some("d".into()),
            listen: Some("127.0.0.1:7002".parse().unwrap()),
            certs: Some("c".into()),
            peers: Some("1=a:1,2=b:2".parse().unwrap()),
            ..NodeSettings::default()
        }
    }

    fn problem(settings: NodeSettings) -> String {
        server_config(settings).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let config = server_config(settings()).unwrap();
        assert_eq!(config.shards, 64);
        assert_eq!(config.log.segment_bytes, 64 << 20);
        assert_eq!(config.split_keys, None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let without_id = NodeSettings {
            id: None,
            ..settings()
        };
        assert!(problem(without_id).contains("--id is needed"));
    }

    #[test]
    fn a_node_must_be_among_its_peers() {
        let stranger = NodeSettings {
            id: Some(3),
            ..settings()
        };
        assert!(problem(stranger).contains("node 3 is not among --peers"));
    }

    #[test]
    fn more_replicas_than_nodes_are_refused() {
        let greedy = NodeSettings {
            replication: Some(3),
            ..settings()
        };
        assert!(problem(greedy).contains("--replication is 3, with 2 nodes"));
    }

    #[test]
    fn settings_that_would_stop_the_store_are_refused() {
        let one_memtable = NodeSettings {
            max_memtables: Some(1),
            ..settings()
        };
        assert!(problem(one_memtable).contains("--max-memtables is 1"));
        let no_scrubbing = NodeSettings {
            scrub_rate: Some(ByteSize(0)),
            ..settings()
        };
        assert!(problem(no_scrubbing).contains("--scrub-rate is 0"));
        let no_compaction = NodeSettings {
            compaction_rate: Some(ByteSize(0)),
            ..settings()
        };
        assert!(problem(no_compaction).contains("--compaction-rate is 0"));
        let no_snapshots = NodeSettings {
            snapshot_rate: Some(ByteSize(0)),
            ..settings()
        };
        assert!(problem(no_snapshots).contains("--snapshot-rate is 0"));
    }

    #[test]
    fn a_sample_decides_where_to_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sample.tsv");
        std::fs::write(&path, "a\t\nb\t\nc\t\nd\t\n").unwrap();
        let sampled = NodeSettings {
            split_sample: Some(path),
            shards: Some(2),
            ..settings()
        };
        let config = server_config(sampled).unwrap();
        assert_eq!(config.split_keys.unwrap(), ["c"]);
    }
}
