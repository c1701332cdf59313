//! What went wrong, in one line: what, where, and what to do about it.
//!
//! Every verb ends in this one enum, and [`crate::run`] prints it as `error: …` on stderr. The
//! errors of the crates below are written for that line; what is added here is the file, the
//! address or the verb they concern.

use crate::formats::BadLine;
use crate::server::ServerError;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use thiserror::Error;

/// Why a verb failed.
#[derive(Debug, Error)]
pub enum Error {
    /// A file or directory could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried: "read", "create" …
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Standard output could not be written.
    #[error("cannot write to standard output: {0}")]
    Stdout(#[source] io::Error),
    /// A process or a thread could not be started or watched.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Arguments that are each right and together wrong.
    #[error("{0}")]
    Usage(String),
    /// A configuration file with a mistake.
    #[error("{}:{line}: {message}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A line of a data file is bad.
    #[error("{}:{line}: {problem}{hint}", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        problem: BadLine,
        /// What to do about it, if there is something.
        hint: &'static str,
    },
    /// A row of a data file could not be written.
    #[error("{}:{line}: {source}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// Why.
        source: Box<pontoon_client::ClientError>,
    },
    /// A data file whose format nobody said.
    #[error(
        "{}: cannot tell the format from the ending, which is neither .tsv nor .ndjson \
         (`load` takes --format)",
        path.display()
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// Certificates could not be made or read.
    #[error(transparent)]
    Certificates(#[from] pontoon_transport::TlsError),
    /// The cluster did not do what was asked.
    #[error(transparent)]
    Client(#[from] pontoon_client::ClientError),
    /// A node did not start, or stopped.
    #[error("node {node}: {source}")]
    Server {
        /// The node.
        node: u64,
        /// Why.
        source: ServerError,
    },
    /// The data directory of a stopped node could not be worked on.
    #[error(transparent)]
    Stopped(ServerError),
    /// The log of a stopped node could not be read.
    #[error("log in {}: {source}", path.display())]
    Log {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: pontoon_wal::WalError,
    },
    /// There is no such key.
    #[error("no such key: {key}")]
    NoSuchKey {
        /// The key, printable.
        key: String,
    },
    /// A compare-and-swap met another value.
    #[error("not swapped: {actual}")]
    NotSwapped {
        /// What is there, in words.
        actual: String,
    },
    /// Something acknowledged is not there, or something is there that nobody wrote.
    #[error("{missing} of {acked} acknowledged writes are missing or wrong; {first}")]
    Verification {
        /// Acknowledged writes.
        acked: u64,
        /// Those that are missing or wrong.
        missing: u64,
        /// The first finding, in words.
        first: String,
    },
    /// A backup could not be taken or brought back.
    #[error(transparent)]
    Backup(#[from] crate::backup::BackupError),
    /// The cluster is not whole.
    #[error("{0}")]
    Unhealthy(String),
    /// The user interrupted.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// An error of a file or directory; for `map_err`.
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    /// What the process ends with: 2 for arguments and settings that are wrong, as the parser of the command
    /// line does, 1 for everything else.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::Config { .. } | Self::UnknownFormat { .. } => ExitCode::from(2),
            Self::Server { source, .. } if source.is_of_settings() => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }

    /// Whether it only says that nobody reads our output any more (`pontoon dump | head`), which
    /// is no failure.
    #[must_use]
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Stdout(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }
}
