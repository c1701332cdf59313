//! The first words on a connection.
//!
//! A hello repeats what the certificate says, so that a mix-up is found with a clear reason, and adds
//! what no certificate knows: which start of the process this is, how many lanes it sends on, and the
//! bytes that the hosts want to compare. `features` is for later versions of the same protocol: bits
//! that one side does not know are ignored by it.

use bytes::Bytes;
use pontoon_types::codec::{DecodeError, Reader, put_bytes, put_varint};
use pontoon_types::{ClusterId, NodeId};

/// The most bytes of the host's in a hello.
pub const MAX_HELLO_BYTES: usize = 64 * 1024;

/// The longest hello frame: the host's bytes and a few numbers.
pub(crate) const MAX_HELLO_FRAME_BYTES: usize = MAX_HELLO_BYTES + 128;

/// The version of the protocol between nodes; also in its ALPN name.
pub(crate) const NODE_VERSION: u64 = 1;
/// The version of the clients' protocol; also in its ALPN name.
pub(crate) const CLIENT_VERSION: u64 = 1;

/// What a node says to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeHello {
    pub(crate) version: u64,
    pub(crate) features: u64,
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) append_lanes: u8,
    pub(crate) host: Bytes,
}

impl NodeHello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.host.len());
        put_varint(&mut out, self.version);
        put_varint(&mut out, self.features);
        out.extend_from_slice(&self.cluster.0.to_le_bytes());
        put_varint(&mut out, self.node.0);
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.push(self.append_lanes);
        put_bytes(&mut out, &self.host);
        out
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let hello = Self {
            version: reader.varint()?,
            features: reader.varint()?,
            cluster: ClusterId(reader.u64()?),
            node: NodeId(reader.varint()?),
            incarnation: reader.u64()?,
            append_lanes: reader.u8()?,
            host: Bytes::copy_from_slice(reader.bytes()?),
        };
        reader.finish()?;
        Ok(hello)
    }
}

/// What a client says to a node on each stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientHello {
    pub(crate) version: u64,
    pub(crate) features: u64,
    pub(crate) cluster: ClusterId,
}

impl ClientHello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        put_varint(&mut out, self.version);
        put_varint(&mut out, self.features);
        out.extend_from_slice(&self.cluster.0.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let hello = Self {
            version: reader.varint()?,
            features: reader.varint()?,
            cluster: ClusterId(reader.u64()?),
        };
        reader.finish()?;
        Ok(hello)
    }
}

/// What a node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerHello {
    pub(crate) version: u64,
    pub(crate) features: u64,
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) max_request_bytes: u64,
}

impl ServerHello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48);
        put_varint(&mut out, self.version);
        put_varint(&mut out, self.features);
        out.extend_from_slice(&self.cluster.0.to_le_bytes());
        put_varint(&mut out, self.node.0);
        put_varint(&mut out, self.max_request_bytes);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let hello = Self {
            version: reader.varint()?,
            features: reader.varint()?,
            cluster: ClusterId(reader.u64()?),
            node: NodeId(reader.varint()?),
            max_request_bytes: reader.varint()?,
        };
        reader.finish()?;
        Ok(hello)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hellos_read_back(numbers: [u64; 5], lanes: u8, host: Vec<u8>) {
            let [features, cluster, node, incarnation, max_request_bytes] = numbers;
            let (cluster, node) = (ClusterId(cluster), NodeId(node));
            let hello = NodeHello {
                version: NODE_VERSION, features, cluster, node, incarnation,
                append_lanes: lanes, host: host.into(),
            };
            prop_assert_eq!(NodeHello::decode(&hello.encode().into()), Ok(hello));
            let hello = ClientHello { version: CLIENT_VERSION, features, cluster };
            prop_assert_eq!(ClientHello::decode(&hello.encode()), Ok(hello));
            let hello = ServerHello {
                version: CLIENT_VERSION, features, cluster, node, max_request_bytes,
            };
            prop_assert_eq!(ServerHello::decode(&hello.encode()), Ok(hello));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            // Whatever they say must fit into the bytes that are there.
            if let Ok(hello) = NodeHello::decode(&Bytes::from(bytes.clone())) {
                prop_assert!(hello.host.len() < bytes.len());
            }
            let _ = ClientHello::decode(&bytes);
            let _ = ServerHello::decode(&bytes);
        }
    }
}
