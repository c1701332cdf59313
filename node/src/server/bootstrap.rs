//! How a blank node becomes a member of a new cluster, and never by mistake.
//!
//! A node whose directory is blank may take part only in the first start of a cluster: if it had been a
//! member before, then its votes and acknowledgements of that time are forgotten, and voting again could
//! elect two leaders. So a blank node bootstraps only when every listed peer
//!
//! - is blank as well and was started from the same manifest, or
//! - has just bootstrapped from the same manifest, **with this very node**.
//!
//! For the second case every blank node draws a nonce and keeps it in its directory before it says a
//! word, and every node that bootstraps notes the nonces of all its peers. A directory that was wiped has
//! another nonce than the one the others have noted.
//!
//! The decision is pure; the server feeds it what peers say when they connect.

use pontoon_shard_router::ManifestHash;
use pontoon_types::NodeId;
use pontoon_types::codec::{DecodeError, Reader, put_varint};
use std::collections::BTreeMap;
use thiserror::Error;

const VERSION: u8 = 1;

/// Drawn at random by a blank node and kept for the life of its data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce(pub u64);

/// What a node says of itself on every new connection.
///
/// ```text
/// version   u8      1
/// manifest  u128    its hash
/// nonce     u64
/// member    u8      1 if it has bootstrapped, and then
///   peers   count, then per peer: node id varint, nonce u64
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The manifest that it was started from, or is a member by.
    pub manifest: ManifestHash,
    /// Its own nonce.
    pub nonce: Nonce,
    /// Once it has bootstrapped: the nonces with which its peers did.
    pub member_with: Option<BTreeMap<NodeId, Nonce>>,
}

impl Hello {
    /// The encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.manifest.0.to_le_bytes());
        out.extend_from_slice(&self.nonce.0.to_le_bytes());
        out.push(u8::from(self.member_with.is_some()));
        if let Some(peers) = &self.member_with {
            put_varint(&mut out, peers.len() as u64);
            for (node, nonce) in peers {
                put_varint(&mut out, node.0);
                out.extend_from_slice(&nonce.0.to_le_bytes());
            }
        }
        out
    }

    /// Reads what [`Hello::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes are not exactly one hello of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(DecodeError::Invalid {
                what: "unknown version of a hello",
            });
        }
        let (low, high) = (reader.u64()?, reader.u64()?);
        let manifest = ManifestHash(u128::from(low) | (u128::from(high) << 64));
        let nonce = Nonce(reader.u64()?);
        let member_with = if reader.flag()? {
            let count = reader.count(9)?;
            let mut peers = BTreeMap::new();
            for _ in 0..count {
                peers.insert(NodeId(reader.varint()?), Nonce(reader.u64()?));
            }
            Some(peers)
        } else {
            None
        };
        reader.finish()?;
        Ok(Self {
            manifest,
            nonce,
            member_with,
        })
    }
}

/// Why a node must not take part.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BootstrapError {
    /// The nodes were told different things.
    #[error(
        "node {peer} was started with another manifest than this one ({theirs} against {ours}): \
         cluster, --peers, --shards, split keys and replication must be the same on every node"
    )]
    OtherManifest {
        /// The peer.
        peer: NodeId,
        /// This node's manifest.
        ours: ManifestHash,
        /// The peer's.
        theirs: ManifestHash,
    },
    /// This node was a member before and has lost its directory.
    #[error(
        "node {peer} says that this node was a member of the cluster before, but this data \
         directory is blank: start it with its old directory. (A node that has lost its data must \
         be removed from the cluster and added anew.)"
    )]
    WasMember {
        /// The peer.
        peer: NodeId,
    },
}

/// Collects what peers say, for a node that is still blank.
#[derive(Debug)]
pub struct Bootstrap {
    id: NodeId,
    manifest: ManifestHash,
    nonce: Nonce,
    peers: BTreeMap<NodeId, Option<Nonce>>,
}

impl Bootstrap {
    /// For the blank node `id`; `peers` are all other nodes of the manifest.
    #[must_use]
    pub fn new(
        id: NodeId,
        manifest: ManifestHash,
        nonce: Nonce,
        peers: impl IntoIterator<Item = NodeId>,
    ) -> Self {
        let peers = peers.into_iter().map(|peer| (peer, None)).collect();
        Self {
            id,
            manifest,
            nonce,
            peers,
        }
    }

    /// Takes in what a peer says.
    ///
    /// # Errors
    /// If this node must not take part.
    pub fn hear(&mut self, peer: NodeId, hello: &Hello) -> Result<(), BootstrapError> {
        let Some(heard) = self.peers.get_mut(&peer) else {
            return Ok(());
        };
        if hello.manifest != self.manifest {
            let (ours, theirs) = (self.manifest, hello.manifest);
            return Err(BootstrapError::OtherManifest { peer, ours, theirs });
        }
        if let Some(members) = &hello.member_with
            && members.get(&self.id) != Some(&self.nonce)
        {
            return Err(BootstrapError::WasMember { peer });
        }
        *heard = Some(hello.nonce);
        Ok(())
    }

    /// The peers that have not been heard yet.
    pub fn missing(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.peers
            .iter()
            .filter(|(_, nonce)| nonce.is_none())
            .map(|(peer, _)| *peer)
    }

    /// All peers with their nonces, once every one has been heard: this node may bootstrap.
    #[must_use]
    pub fn complete(&self) -> Option<BTreeMap<NodeId, Nonce>> {
        self.peers
            .iter()
            .map(|(peer, nonce)| nonce.map(|nonce| (*peer, nonce)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: ManifestHash = ManifestHash(7 << 100);

    fn blank(nonce: u64) -> Hello {
        Hello {
            manifest: MANIFEST,
            nonce: Nonce(nonce),
            member_with: None,
        }
    }

    fn member(nonce: u64, peers: &[(u64, u64)]) -> Hello {
        let peers = peers
            .iter()
            .map(|(node, nonce)| (NodeId(*node), Nonce(*nonce)))
            .collect();
        Hello {
            member_with: Some(peers),
            ..blank(nonce)
        }
    }

    fn node_1() -> Bootstrap {
        Bootstrap::new(NodeId(1), MANIFEST, Nonce(10), [NodeId(2), NodeId(3)])
    }

    #[test]
    fn a_hello_reads_back() {
        for hello in [blank(3), member(3, &[(1, 10), (2, u64::MAX)])] {
            let bytes = hello.encode();
            assert_eq!(Hello::decode(&bytes), Ok(hello));
            assert!(Hello::decode(&bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn a_node_waits_for_every_peer() {
        let mut node = node_1();
        node.hear(NodeId(2), &blank(20)).unwrap();
        assert_eq!(node.complete(), None);
        assert_eq!(node.missing().collect::<Vec<_>>(), [NodeId(3)]);
        node.hear(NodeId(3), &blank(30)).unwrap();
        let expected = [(NodeId(2), Nonce(20)), (NodeId(3), Nonce(30))];
        assert_eq!(node.complete(), Some(expected.into_iter().collect()));
    }

    #[test]
    fn a_peer_that_was_quicker_is_no_obstacle() {
        let mut node = node_1();
        node.hear(NodeId(2), &member(20, &[(1, 10), (3, 30)]))
            .unwrap();
        node.hear(NodeId(3), &blank(30)).unwrap();
        assert!(node.complete().is_some());
    }

    #[test]
    fn a_wiped_node_never_comes_back_as_its_old_self() {
        let mut node = node_1();
        let refused = node.hear(NodeId(2), &member(20, &[(1, 99), (3, 30)]));
        assert_eq!(refused, Err(BootstrapError::WasMember { peer: NodeId(2) }));
    }

    #[test]
    fn another_manifest_is_refused() {
        let mut node = node_1();
        let other = Hello {
            manifest: ManifestHash(8),
            ..blank(20)
        };
        assert!(matches!(
            node.hear(NodeId(2), &other),
            Err(BootstrapError::OtherManifest { .. })
        ));
    }
}
