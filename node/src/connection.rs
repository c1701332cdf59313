//! From the options of a verb to a client.

use crate::cli::ClusterOptions;
use crate::error::Error;
use pontoon_client::{Client, ClientConfig};
use pontoon_transport::{TlsIdentity, Who};
use pontoon_types::Limits;
use std::path::Path;
use std::time::Duration;

impl ClusterOptions {
    /// Connects to whichever node answers first.
    ///
    /// # Errors
    /// If a certificate file is missing or wrong, or no node answers.
    pub async fn connect(&self) -> Result<Client, Error> {
        connect(&self.endpoints, &self.certs, self.timeout()).await
    }
}

/// Connects with the client's certificate in `certs`.
///
/// # Errors
/// As [`ClusterOptions::connect`].
pub async fn connect(
    endpoints: &[String],
    certs: &Path,
    timeout: Duration,
) -> Result<Client, Error> {
    let identity = TlsIdentity::load(certs, Who::Client)?;
    let mut config = ClientConfig::new(endpoints, identity);
    config.request_timeout = timeout;
    config.connect_timeout = timeout;
    // What is too large is for the nodes to say: their settings may be other than our defaults,
    // and their answer names the setting.
    config.limits = Limits {
        max_key_bytes: usize::MAX,
        max_value_bytes: usize::MAX,
        max_command_bytes: usize::MAX,
    };
    Ok(Client::connect(config).await?)
}
