//! What a node notes about itself, in a row of its own store.
//!
//! ```text
//! version   u8      1
//! cluster   u64
//! node      varint
//! nonce     u64
//! member    u8      1 once it has bootstrapped, and then
//!   manifest        length-prefixed
//!   peers           count, then per peer: node id varint, nonce u64
//! ```

use super::ServerError;
use super::bootstrap::{Hello, Nonce};
use pontoon_engine::Opened;
use pontoon_shard_router::{Manifest, ManifestError, ManifestHash};
use pontoon_store::{KvMachine, Store};
use pontoon_types::codec::{DecodeError, Reader, put_bytes, put_varint};
use pontoon_types::{ClusterId, NodeId};
use std::collections::BTreeMap;
use std::path::Path;
use thiserror::Error;

const VERSION: u8 = 1;

/// Why the bytes in the row are no identity.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// A version that this build does not know.
    #[error(
        "its version {version} is unknown to this build; start the build that wrote it, or a newer one"
    )]
    UnknownVersion {
        /// The version found.
        version: u8,
    },
    /// The bytes end early, run on, or hold a value outside its range.
    #[error("it is damaged: {0}")]
    Encoding(#[from] DecodeError),
    /// What the cluster was begun with cannot be read.
    #[error("what the cluster was begun with: {0}")]
    Manifest(#[from] ManifestError),
}

/// Who a node is, for the life of its data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    pub(super) nonce: Nonce,
    /// Once it has bootstrapped: from what, and with whom.
    pub(super) members: Option<(Manifest, BTreeMap<NodeId, Nonce>)>,
}

impl Identity {
    /// The name of its row.
    pub(super) const ROW: &'static str = "identity";

    /// The identity in the store; none if the store is blank.
    pub(super) fn load<S: Store>(
        machine: &KvMachine<S>,
        cluster: ClusterId,
        node: NodeId,
        data_dir: &Path,
    ) -> Result<Option<Self>, ServerError> {
        let Some(row) = machine.get_local(Self::ROW)? else {
            return Ok(None);
        };
        let found = Self::decode(&row).map_err(|source| ServerError::Identity {
            path: data_dir.to_owned(),
            source,
        })?;
        if found.node != node || found.cluster != cluster {
            return Err(ServerError::OtherNode {
                path: data_dir.to_owned(),
                node: found.node,
                cluster: found.cluster,
                wanted_node: node,
                wanted_cluster: cluster,
            });
        }
        Ok(Some(found))
    }

    /// The identity in the store; a blank store gets one.
    pub(super) fn load_or_create<S: Store>(
        machine: &mut KvMachine<S>,
        cluster: ClusterId,
        node: NodeId,
        data_dir: &Path,
    ) -> Result<Self, ServerError> {
        if let Some(found) = Self::load(machine, cluster, node, data_dir)? {
            return Ok(found);
        }
        let identity = Self {
            cluster,
            node,
            nonce: Nonce(rand::random()),
            members: None,
        };
        machine.put_local(Self::ROW, &identity.encode())?;
        Ok(identity)
    }

    /// Log and store must both be there or both be new. A log without a store has lost the state that its
    /// entries were applied to; a store without a log has forgotten its votes and what it acknowledged.
    pub(super) fn check_log(&self, opened: &Opened, data_dir: &Path) -> Result<(), ServerError> {
        let log_is_new = opened.recovered().report.segments == 0;
        let path = data_dir.to_owned();
        match &self.members {
            Some(_) if log_is_new => Err(ServerError::StoreWithoutLog { path }),
            None if !opened.recovered().groups.is_empty() => {
                Err(ServerError::LogWithoutStore { path })
            }
            _ => Ok(()),
        }
    }

    /// What this node says when it connects; `manifest` is the one it was started from.
    pub(super) fn hello(&self, manifest: ManifestHash) -> Hello {
        match &self.members {
            Some((manifest, members)) => Hello {
                manifest: manifest.hash(),
                nonce: self.nonce,
                member_with: Some(members.clone()),
            },
            None => Hello {
                manifest,
                nonce: self.nonce,
                member_with: None,
            },
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.cluster.0.to_le_bytes());
        put_varint(&mut out, self.node.0);
        out.extend_from_slice(&self.nonce.0.to_le_bytes());
        out.push(u8::from(self.members.is_some()));
        if let Some((manifest, members)) = &self.members {
            let mut encoded = Vec::new();
            manifest.encode(&mut encoded);
            put_bytes(&mut out, &encoded);
            put_varint(&mut out, members.len() as u64);
            for (node, nonce) in members {
                put_varint(&mut out, node.0);
                out.extend_from_slice(&nonce.0.to_le_bytes());
            }
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, IdentityError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(IdentityError::UnknownVersion { version });
        }
        let (cluster, node) = (ClusterId(reader.u64()?), NodeId(reader.varint()?));
        let nonce = Nonce(reader.u64()?);
        let members = if reader.flag()? {
            let manifest = Manifest::decode(reader.bytes()?)?;
            let count = reader.count(9)?;
            let mut members = BTreeMap::new();
            for _ in 0..count {
                members.insert(NodeId(reader.varint()?), Nonce(reader.u64()?));
            }
            Some((manifest, members))
        } else {
            None
        };
        reader.finish()?;
        Ok(Self {
            cluster,
            node,
            nonce,
            members,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_store::ModelStore;

    const CLUSTER: ClusterId = ClusterId(0xabc);

    fn load(
        machine: &mut KvMachine<ModelStore>,
        cluster: ClusterId,
        node: u64,
    ) -> Result<Identity, ServerError> {
        Identity::load_or_create(machine, cluster, NodeId(node), Path::new("data"))
    }

    #[test]
    fn an_identity_is_kept_and_never_another_nodes() {
        let mut machine = KvMachine::open(ModelStore::new(1 << 20)).unwrap();
        let first = load(&mut machine, CLUSTER, 1).unwrap();
        let again = load(&mut machine, CLUSTER, 1).unwrap();
        assert_eq!(first, again);
        let other = load(&mut machine, CLUSTER, 2).unwrap_err();
        assert!(other.to_string().contains("node 1"), "{other}");
        let elsewhere = load(&mut machine, ClusterId(1), 1);
        assert!(matches!(elsewhere, Err(ServerError::OtherNode { .. })));
    }

    fn member() -> Identity {
        let nodes = [(NodeId(1), "a:1".to_owned()), (NodeId(2), "b:1".to_owned())];
        let manifest = Manifest::new(CLUSTER, nodes, vec![], None).unwrap();
        let members = [(NodeId(2), Nonce(7))].into_iter().collect();
        Identity {
            cluster: CLUSTER,
            node: NodeId(1),
            nonce: Nonce(3),
            members: Some((manifest, members)),
        }
    }

    #[test]
    fn a_members_identity_reads_back() {
        let identity = member();
        assert_eq!(Identity::decode(&identity.encode()).unwrap(), identity);
    }

    #[test]
    fn an_identity_that_cannot_be_read_is_not_blamed_on_the_settings() {
        let sound = member().encode();
        let mut manifest = Vec::new();
        let (first, _) = member().members.unwrap();
        first.encode(&mut manifest);
        let at = sound
            .windows(manifest.len())
            .position(|part| part == manifest);
        for (place, line) in [
            (0, "its version 255 is unknown"),
            (at.unwrap(), "manifest version 255 is unknown"),
        ] {
            let mut bytes = sound.clone();
            bytes[place] = 255;
            let mut machine = KvMachine::open(ModelStore::new(1 << 20)).unwrap();
            machine.put_local(Identity::ROW, &bytes).unwrap();
            let error = load(&mut machine, CLUSTER, 1).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("data") && text.contains(line), "{text}");
            assert!(!error.is_of_settings(), "{text}");
        }
    }
}
