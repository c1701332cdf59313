//! Between the engine and the transport: frames out, frames in, and what peers say when they connect.

use super::Node;
use super::bootstrap::Hello;
use bytes::Bytes;
use pontoon_engine::frame::{Frame, Lane};
use pontoon_engine::{EngineError, Host};
use pontoon_store::ReplicaRecord;
use pontoon_transport::{NodeHandler, PeerEvent, Transport};
use pontoon_types::{GroupId, NodeId};
use std::sync::{Arc, OnceLock, Weak};
use tokio::sync::mpsc::UnboundedSender;

/// Carries the engine's frames to the transport, and its failure to the node.
pub(super) struct Outlet {
    pub(super) transport: Arc<Transport>,
    pub(super) failures: UnboundedSender<EngineError>,
    pub(super) links: Arc<NodeLinks>,
}

impl Host for Outlet {
    fn send(&self, to: NodeId, worker: usize, lane: Lane, frame: Frame) {
        let lane = match lane {
            Lane::Control => pontoon_transport::Lane::Control,
            Lane::Append => pontoon_transport::Lane::Append(worker as u8),
            Lane::Snapshot => pontoon_transport::Lane::Snapshot,
        };
        let mut message = pontoon_transport::Frame::new();
        for chunk in frame.chunks {
            message.push(chunk);
        }
        // Not connected or a full queue: the frame is lost, and Raft repairs that. Both are counted by
        // the transport.
        let _ = self.transport.send(to, lane, message);
    }

    fn replica_changed(&self, group: GroupId, record: Option<&ReplicaRecord>) {
        if let Some(node) = self.links.node() {
            node.replica_changed(group, record);
        }
    }

    fn failed(&self, error: EngineError) {
        let _ = self.failures.send(error);
    }
}

/// Something that a peer said when it connected.
pub(super) struct Heard {
    pub(super) peer: NodeId,
    pub(super) hello: Bytes,
}

/// Takes in what other nodes send.
pub(super) struct NodeLinks {
    /// What this node says of itself; set before the transport is bound and again after bootstrap.
    pub(super) hello: parking_lot::RwLock<Bytes>,
    /// Where hellos go while this node is blank.
    pub(super) heard: UnboundedSender<Heard>,
    /// The running node, once it runs.
    pub(super) node: OnceLock<Weak<Node>>,
}

impl NodeLinks {
    fn node(&self) -> Option<Arc<Node>> {
        self.node.get()?.upgrade()
    }
}

impl NodeHandler for NodeLinks {
    fn handle_frame(&self, from: NodeId, lane: pontoon_transport::Lane, frame: Bytes) {
        // A peer that was quicker at bootstrapping speaks before this node can listen.
        let Some(node) = self.node() else { return };
        match lane {
            pontoon_transport::Lane::Snapshot => node.engine().receive_snapshot(from, frame),
            _ => node.engine().receive(from, frame),
        }
    }

    fn handle_peer(&self, peer: NodeId, event: PeerEvent) {
        match event {
            PeerEvent::Connected { hello, .. } => {
                if let Some(node) = self.node() {
                    node.forced.note_connected(peer);
                }
                let _ = self.heard.send(Heard { peer, hello });
            }
            PeerEvent::Disconnected { reason } => {
                tracing::info!(node = %peer, %reason, "disconnected");
                if let Some(node) = self.node() {
                    node.engine().peer_lost(peer);
                }
            }
        }
    }

    fn hello(&self, _to: NodeId) -> Bytes {
        self.hello.read().clone()
    }

    fn check_hello(&self, _from: NodeId, _incarnation: u64, hello: &Bytes) -> Result<(), String> {
        Hello::decode(hello)
            .map(|_| ())
            .map_err(|error| error.to_string())
    }
}
