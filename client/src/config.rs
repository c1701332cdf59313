//! What a client must be told, and what it may be told.

use core::time::Duration;
use pontoon_transport::TlsIdentity;
use pontoon_types::Limits;

/// How a [`Client`](crate::Client) finds and treats its cluster.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `host:port` of some nodes, at least one; the others are learnt from whichever answers first.
    pub endpoints: Vec<String>,
    /// The client's certificate and key, and the CA of the cluster.
    pub identity: TlsIdentity,
    /// The largest key, value and command. What is over them is refused here, before it is sent; the
    /// nodes have limits of their own. Default: those of a cluster with default settings.
    pub limits: Limits,
    /// How long a request may take, tries and pauses included, unless a
    /// [clone](crate::Client::with_timeout) says otherwise. Default 5 s.
    pub request_timeout: Duration,
    /// How long [`Client::connect`](crate::Client::connect) looks for a node that answers. Default 5 s.
    pub connect_timeout: Duration,
    /// How long a read waits for one node before it asks another. Default 2 s.
    pub read_try_timeout: Duration,
    /// A node that was asked and has given no answer for this long is passed over by new requests, but for
    /// one in each such time. Default 1 s.
    pub stall_timeout: Duration,
    /// A connection on which not even acknowledgements arrive for this long is given up, and what was
    /// sent on it and not answered becomes an unknown outcome. Default 2 s.
    pub dead_timeout: Duration,
    /// The most rows that one answer to a scan may hold. Default 1,024.
    pub scan_page_rows: u32,
    /// The most bytes of keys and values in one answer to a scan, unless one row is larger; with
    /// one page in memory at a time, the bound on what a scan needs. Default 1 MiB.
    pub scan_page_bytes: u32,
}

impl ClientConfig {
    /// The defaults, for a cluster that is reached by these endpoints with this identity.
    #[must_use]
    pub fn new(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        identity: TlsIdentity,
    ) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            identity,
            limits: Limits::default(),
            request_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            read_try_timeout: Duration::from_secs(2),
            stall_timeout: Duration::from_secs(1),
            dead_timeout: Duration::from_secs(2),
            scan_page_rows: 1_024,
            scan_page_bytes: 1 << 20,
        }
    }
}
