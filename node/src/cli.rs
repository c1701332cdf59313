//! The command line: its verbs, and the options that several of them share.

use crate::config::is_host_and_port;
use crate::error::Error;
use crate::verbs::{
    backup, bench, cas, certs, delete, demo, dump, get, load, members, node, put, recover, restore,
    scan, status, verify, wal,
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "pontoon",
    version,
    about = "A sharded multi-Raft storage engine",
    long_about = "Pontoon is a replicated, ordered key-value store: the key space is cut into \
                  shards, every shard is a Raft group, and all groups of a node share one log.",
    after_help = "\
Start here:
  pontoon demo                     a cluster of three nodes in this process, loaded and proved

Three nodes of your own, on one machine:
  pontoon certs --out certs --nodes 1,2,3
  P=1=127.0.0.1:7001,2=127.0.0.1:7002,3=127.0.0.1:7003
  pontoon node --id 1 --data-dir n1 --listen 127.0.0.1:7001 --certs certs --peers $P &
  pontoon node --id 2 --data-dir n2 --listen 127.0.0.1:7002 --certs certs --peers $P &
  pontoon node --id 3 --data-dir n3 --listen 127.0.0.1:7003 --certs certs --peers $P &
  export PONTOON_ENDPOINTS=127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003 PONTOON_CERTS=certs
  pontoon put greeting hello
  pontoon get greeting
  pontoon status

Exit codes: 0 done, 1 not done or not found, 2 wrong usage."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

impl Cli {
    /// Reads the command line of this process. A mistake ends it, with how it is meant.
    #[must_use]
    pub fn of_process() -> Self {
        Self::try_parse().unwrap_or_else(|error| with_environment(error).exit())
    }
}

/// Says what may stand in the environment, if just that is missing.
fn with_environment(mut error: clap::Error) -> clap::Error {
    let missing = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(missing))
            if error.kind() == ErrorKind::MissingRequiredArgument =>
        {
            missing
        }
        _ => return error,
    };
    let variables = [
        ("--endpoints", "PONTOON_ENDPOINTS"),
        ("--certs", "PONTOON_CERTS"),
    ];
    let is_missing = |flag: &str| missing.iter().any(|argument| argument.starts_with(flag));
    let tips = variables.into_iter().filter(|(flag, _)| is_missing(flag));
    let tips: Vec<_> = tips
        .map(|(flag, name)| format!("{flag} may be set in the environment as {name}").into())
        .collect();
    if tips.is_empty() {
        return error;
    }
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    error
}

fn endpoint(text: &str) -> Result<String, String> {
    let text = text.trim();
    if is_host_and_port(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("\"{text}\" is not of the form HOST:PORT"))
    }
}

/// What to do.
// A comment on a variant would take the place of the verb's own help, so there is none.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum Verb {
    Demo(demo::DemoArgs),
    Certs(certs::CertsArgs),
    Node(Box<node::NodeArgs>),
    Put(put::PutArgs),
    Get(get::GetArgs),
    Delete(delete::DeleteArgs),
    Cas(cas::CasArgs),
    Scan(scan::ScanArgs),
    Load(load::LoadArgs),
    Dump(dump::DumpArgs),
    Bench(bench::BenchArgs),
    Status(status::StatusArgs),
    Members(members::MembersArgs),
    Verify(verify::VerifyArgs),
    Backup(backup::BackupArgs),
    Restore(restore::RestoreArgs),
    Recover(recover::RecoverArgs),
    Wal(wal::WalArgs),
}

/// How a cluster is reached.
#[derive(Clone, Debug, Args)]
pub struct ClusterOptions {
    /// Addresses of some or all nodes; any one that answers is enough.
    #[arg(
        long,
        env = "PONTOON_ENDPOINTS",
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        value_parser = endpoint,
        required = true
    )]
    pub endpoints: Vec<String>,

    /// Directory with ca.pem, client.pem and client.key, as `pontoon certs` writes them.
    #[arg(long, env = "PONTOON_CERTS", value_name = "DIR")]
    pub certs: PathBuf,

    /// How long a request may take, with all its retries.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout_ms: u64,
}

impl ClusterOptions {
    /// How long a request may take.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// How keys and values are written on the command line and printed.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct BytesOptions {
    /// Keys and values are base64, given and printed; for bytes that are not UTF-8.
    #[arg(long)]
    pub b64: bool,
}

impl BytesOptions {
    /// The bytes that an argument stands for.
    ///
    /// # Errors
    /// If it must be base64 and is not.
    pub fn read(self, argument: &str) -> Result<Bytes, Error> {
        if !self.b64 {
            return Ok(Bytes::copy_from_slice(argument.as_bytes()));
        }
        BASE64_STANDARD
            .decode(argument)
            .map(Bytes::from)
            .map_err(|_| Error::Usage(format!("\"{argument}\" is not base64, and --b64 was given")))
    }

    /// The bytes of an argument that need not be given.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_optional(self, argument: Option<&str>) -> Result<Option<Bytes>, Error> {
        argument.map(|argument| self.read(argument)).transpose()
    }

    /// Bytes as they are printed.
    #[must_use]
    pub fn show(self, bytes: &[u8]) -> String {
        if self.b64 {
            BASE64_STANDARD.encode(bytes)
        } else {
            String::from_utf8_lossy(bytes).into_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_and_every_flag_is_explained() {
        fn check(verb: &clap::Command, name: &str) {
            let about = verb.get_long_about().or(verb.get_about());
            let about = about.map(ToString::to_string).unwrap_or_default();
            let ends_and_goes_on = about.contains(". ") || about.contains(".\n");
            assert!(ends_and_goes_on, "{name}, in one sentence: {about}");
            for argument in verb.get_arguments().filter(|one| !one.is_hide_set()) {
                let help = argument.get_help().map(ToString::to_string);
                let words = help.iter().flat_map(|help| help.split_whitespace());
                assert!(words.count() > 0, "{name}: {argument}");
            }
            for below in verb.get_subcommands() {
                check(below, &format!("{name} {}", below.get_name()));
            }
        }
        for verb in Cli::command().get_subcommands() {
            check(verb, verb.get_name());
        }
    }

    fn parse(line: &str) -> Result<Verb, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.verb)
    }

    #[test]
    fn the_lines_of_the_manual_are_understood() {
        for line in [
            "pontoon demo",
            "pontoon demo --nodes 3 --shards 64 --clients 64 --seconds 10 --value-bytes 128 \
             --load f.tsv --data-dir d --kill --json",
            "pontoon certs --out certs --nodes 1,2,3",
            "pontoon node --id 1 --data-dir d --listen 127.0.0.1:1 --certs c --peers 1=a:1,2=b:2 \
             --shards 4 --config f.toml",
            "pontoon put k v --endpoints a:1,b:2 --certs c",
            "pontoon get k --endpoints a:1 --certs c",
            "pontoon delete k --endpoints a:1 --certs c",
            "pontoon cas k --expect a --set b --endpoints a:1 --certs c",
            "pontoon scan --from a --to b --limit 3 --endpoints a:1 --certs c",
            "pontoon load f --format tsv --on-error skip --endpoints a:1 --certs c",
            "pontoon dump --format ndjson --out f --endpoints a:1 --certs c",
            "pontoon bench --endpoints a:1 --certs c --workload ycsb-e --clients 8 --seconds 5 \
             --value-bytes 100 --keys 1000 --json",
            "pontoon bench --workload ycsb-a --keys 100000 --write-sample ycsb.tsv",
            "pontoon status --endpoints a:1 --certs c --shards --json",
            "pontoon verify --endpoints a:1 --certs c --patience 5 --json",
            "pontoon backup --to d --endpoints a:1 --certs c --patience 5 --json",
            "pontoon restore --from d --backup i --force --endpoints a:1 --certs c --json",
            "pontoon recover --data-dir d --lost 2,3 --groups 3,7 --dry-run --json",
            "pontoon recover --data-dir d --lost 2 --i-accept-data-loss",
            "pontoon wal verify d",
            "pontoon wal stat d",
            "pontoon wal dump d --group 2 --from 3:0x1040 --limit 5 --json --payloads",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "pontoon",
            "pontoon put k --endpoints a:1 --certs c",
            "pontoon demo --nodes 0",
            "pontoon demo --shards 0",
            "pontoon bench --workload ycsb-g --endpoints a:1 --certs c",
            "pontoon certs --out c --nodes 0",
            "pontoon node --peers 1",
            "pontoon get k --endpoints a --certs c",
            "pontoon get k --endpoints a:1, --certs c",
            "pontoon get k --endpoints a:1 --certs c --timeout-ms 0",
            "pontoon recover --data-dir d",
            "pontoon recover --data-dir d --lost two",
            "pontoon recover --data-dir d --lost 2 --dry-run --i-accept-data-loss",
            "pontoon wal dump d --from segment",
            "pontoon wal dump d --payloads",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_cannot_stand_in_the_environment_is_told_as_clap_does() {
        let error = || parse("pontoon put k --endpoints a:1 --certs c").unwrap_err();
        let told = with_environment(error()).to_string();
        assert_eq!(told, error().to_string());
    }

    #[test]
    fn endpoints_are_parted_by_commas() {
        match parse("pontoon get k --endpoints a:1,b:2 --certs c").unwrap() {
            Verb::Get(get) => assert_eq!(get.cluster.endpoints, ["a:1", "b:2"]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_are_text_or_base64() {
        let text = BytesOptions { b64: false };
        let b64 = BytesOptions { b64: true };
        assert_eq!(&text.read("aGk=").unwrap()[..], b"aGk=");
        assert_eq!(&b64.read("aGk=").unwrap()[..], b"hi");
        assert_eq!(b64.show(b"hi"), "aGk=");
        assert!(b64.read("%").is_err());
    }
}
