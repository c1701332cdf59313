//! What all tasks of a node's transport share.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use pontoon_types::{ClusterId, NodeId};
use quinn::{Endpoint, TransportConfig};
use tokio::sync::watch;

use crate::config::Limits;
use crate::gate::Gate;
use crate::identity::TlsIdentity;
use crate::peer::Peer;
use crate::stats::{ClientCounters, Counter};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) append_lanes: u8,
    pub(crate) identity: TlsIdentity,
    pub(crate) limits: Limits,
    /// Gone once the transport has been shut down, so that the port is free again.
    pub(crate) endpoint: Mutex<Option<Endpoint>>,
    pub(crate) dial_config: Arc<TransportConfig>,
    pub(crate) peers: BTreeMap<NodeId, Arc<Peer>>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) client_counters: Arc<ClientCounters>,
    pub(crate) handshakes_failed: Counter,
    pub(crate) connections_refused: Counter,
}

impl Shared {
    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint.lock().clone()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }
}
