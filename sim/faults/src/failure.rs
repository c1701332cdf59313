//! Why a scenario did not hold, or could not be tried.

use pontoon_wal::WalError;
use std::io;
use thiserror::Error;

/// What a scenario ends with when it does not hold.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// A promise was broken.
    #[error("{0}")]
    Broken(String),
    /// The log refused what it must be able to do.
    #[error("while {doing}: {source}")]
    Log {
        doing: &'static str,
        #[source]
        source: WalError,
    },
    /// A node or the cluster refused what it must be able to do.
    #[error("while {doing}: {source}")]
    Node {
        doing: &'static str,
        #[source]
        source: Box<pontoon::error::Error>,
    },
    /// The machine would not do what the scenario needs.
    #[error("cannot {doing}: {source}")]
    System {
        doing: String,
        #[source]
        source: io::Error,
    },
    /// A tool said no.
    #[error("`{command}` failed: {said}")]
    Tool { command: String, said: String },
    /// A tool is not there.
    #[error("{tool} is not installed; on Debian: apt-get install {package}")]
    Missing {
        tool: &'static str,
        package: &'static str,
    },
}

impl Failure {
    pub(crate) fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::System { doing, source }
    }

    pub(crate) fn node<E: Into<pontoon::error::Error>>(
        doing: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |source| {
            let source = Box::new(source.into());
            Self::Node { doing, source }
        }
    }

    /// Whether something did not hold, and not only could not be tried.
    pub(crate) const fn is_broken(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::Log { .. } | Self::Node { .. })
    }

    pub(crate) fn log(doing: &'static str) -> impl FnOnce(WalError) -> Self {
        move |source| Self::Log { doing, source }
    }
}

/// Breaks off unless something holds that must.
pub(crate) fn must(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds {
        Ok(())
    } else {
        Err(Failure::Broken(otherwise()))
    }
}
