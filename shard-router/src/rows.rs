//! The map as rows of the meta group, which is an ordinary key-value group.
//!
//! ```text
//! key                       value
//! map/version               version u8 1, cluster u64, map version varint
//! node/<node id, 8 bytes>   node descriptor
//! shard/<shard id, 8 bytes> shard descriptor, the meta shard's own included
//! ```
//!
//! Rows with other prefixes are none of the map's and are passed over, so that a newer build may keep more
//! in the meta group. Ids in keys are big-endian, so that byte order is their order. Readers scan the whole key space of
//! [`ShardId::META`] page by page and hand the rows to [`map_from_rows`]. The map may change between two
//! pages; the checks then find ranges that do not meet, and the reader scans again.
//!
//! Whoever writes the first map puts the version row in the last batch: rows without it are a map that
//! is still being written.

use crate::{ClusterMap, DescriptorError, MapError, NodeDescriptor, ShardDescriptor};
use bytes::Bytes;
use pontoon_types::codec::{DecodeError, Reader, put_varint};
use pontoon_types::{ClusterId, NodeId, ShardId};

/// The key of the row that holds the cluster's id and counts the changes of the map.
pub const VERSION_KEY: &[u8] = b"map/version";
const NODE_PREFIX: &[u8] = b"node/";
const SHARD_PREFIX: &[u8] = b"shard/";
const VERSION: u8 = 1;

/// A row of the meta group: key and value.
pub type Row = (Bytes, Bytes);

/// The key of a node's row.
#[must_use]
pub fn node_key(node: NodeId) -> Bytes {
    [NODE_PREFIX, &node.0.to_be_bytes()].concat().into()
}

/// The key of a shard's row.
#[must_use]
pub fn shard_key(shard: ShardId) -> Bytes {
    [SHARD_PREFIX, &shard.0.to_be_bytes()].concat().into()
}

/// A node's row.
#[must_use]
pub fn node_row(node: &NodeDescriptor) -> Row {
    let mut value = Vec::new();
    node.encode(&mut value);
    (node_key(node.node), value.into())
}

/// A shard's row.
#[must_use]
pub fn shard_row(shard: &ShardDescriptor) -> Row {
    let mut value = Vec::new();
    shard.encode(&mut value);
    (shard_key(shard.shard), value.into())
}

/// The version row.
#[must_use]
pub fn version_row(cluster: ClusterId, version: u64) -> Row {
    let mut value = vec![VERSION];
    value.extend_from_slice(&cluster.0.to_le_bytes());
    put_varint(&mut value, version);
    (Bytes::from_static(VERSION_KEY), value.into())
}

/// Every row of a map, in the order in which a first map is written: nodes, the meta shard, user shards,
/// and last the version row.
pub fn rows_of(map: &ClusterMap) -> impl Iterator<Item = Row> + '_ {
    let shards = core::iter::once(map.meta()).chain(map.shards());
    map.nodes()
        .map(node_row)
        .chain(shards.map(|shard| shard_row(shard)))
        .chain([version_row(map.cluster(), map.version())])
}

/// The map that these rows, in any order, make.
///
/// # Errors
/// If an id in a key or a value cannot be read, the version row is missing, or the map is not whole (see
/// [`ClusterMap::new`]).
pub fn map_from_rows(rows: impl IntoIterator<Item = Row>) -> Result<ClusterMap, MapError> {
    let mut version = None;
    let (mut nodes, mut shards) = (Vec::new(), Vec::new());
    for (key, value) in rows {
        let read = if key == VERSION_KEY {
            read_version(&value).map(|read| version = Some(read))
        } else if let Some(id) = id_after(NODE_PREFIX, &key) {
            NodeDescriptor::decode(&value)
                .and_then(|node| own_key(node.node.0, id).map(|()| nodes.push(node)))
        } else if let Some(id) = id_after(SHARD_PREFIX, &key) {
            ShardDescriptor::decode(&value)
                .and_then(|shard| own_key(shard.shard.0, id).map(|()| shards.push(shard)))
        } else if key.starts_with(NODE_PREFIX) || key.starts_with(SHARD_PREFIX) {
            return Err(MapError::Key { key });
        } else {
            continue;
        };
        read.map_err(|source| MapError::Row { key, source })?;
    }
    let (cluster, version) = version.ok_or(MapError::NoVersion)?;
    ClusterMap::new(cluster, version, nodes, shards)
}

fn id_after(prefix: &[u8], key: &[u8]) -> Option<u64> {
    let id = key.strip_prefix(prefix)?;
    Some(u64::from_be_bytes(id.try_into().ok()?))
}

fn own_key(own: u64, filed_under: u64) -> Result<(), DescriptorError> {
    if own == filed_under {
        return Ok(());
    }
    let what = "the descriptor is filed under another id";
    Err(DecodeError::Invalid { what }.into())
}

fn read_version(value: &[u8]) -> Result<(ClusterId, u64), DescriptorError> {
    let mut reader = Reader::new(value);
    match reader.u8()? {
        VERSION => {}
        version => return Err(DescriptorError::UnknownVersion { version }),
    }
    let cluster = ClusterId(reader.u64()?);
    let version = reader.varint()?;
    reader.finish()?;
    Ok((cluster, version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Manifest, cut_evenly};
    use proptest::prelude::*;

    fn map(shards: usize) -> ClusterMap {
        let nodes = (1..=5).map(|n| (NodeId(n), format!("host{n}:7700")));
        let manifest = Manifest::new(ClusterId(3), nodes, cut_evenly(shards), None);
        manifest.unwrap().initial_map()
    }

    proptest! {
        #[test]
        fn a_map_reads_back_from_its_rows(shards in 1usize..300) {
            let map = map(shards);
            let mut rows: Vec<_> = rows_of(&map).collect();
            rows.sort();
            prop_assert_eq!(map_from_rows(rows), Ok(map));
        }

        #[test]
        fn a_missing_row_is_found_out(shards in 1usize..50, lost: prop::sample::Index) {
            let mut rows: Vec<_> = rows_of(&map(shards)).collect();
            let (key, _) = rows.remove(lost.index(rows.len()));
            // A node without replicas may be missing; nothing else may.
            let idle = key.starts_with(NODE_PREFIX) && shards < 5;
            prop_assert!(idle || map_from_rows(rows).is_err(), "{:?}", key);
        }

        #[test]
        fn damaged_rows_are_errors_and_never_panics(
            shards in 1usize..20, at: prop::sample::Index, value: Vec<u8>,
        ) {
            let mut rows: Vec<_> = rows_of(&map(shards)).collect();
            let at = at.index(rows.len());
            rows[at].1 = value.into();
            prop_assert!(map_from_rows(rows).is_err());
        }
    }

    #[test]
    fn rows_without_the_version_are_a_map_still_being_written() {
        let map = map(4);
        let rows = rows_of(&map).filter(|(key, _)| key != VERSION_KEY);
        assert_eq!(map_from_rows(rows), Err(MapError::NoVersion));
        assert_eq!(rows_of(&map).last().unwrap().0, VERSION_KEY);
    }

    #[test]
    fn a_row_under_another_key_is_refused() {
        let mut rows: Vec<_> = rows_of(&map(2)).collect();
        rows[0].0 = node_key(NodeId(77));
        assert!(matches!(map_from_rows(rows), Err(MapError::Row { .. })));
        let stray = (Bytes::from_static(b"node/x"), Bytes::new());
        let map = map(2);
        let rows = rows_of(&map).chain([stray]);
        assert!(matches!(map_from_rows(rows), Err(MapError::Key { .. })));
    }

    #[test]
    fn rows_of_a_newer_build_are_passed_over() {
        let newer = (Bytes::from_static(b"settings/x"), Bytes::new());
        let map = map(2);
        let rows = rows_of(&map).chain([newer]);
        assert_eq!(map_from_rows(rows), Ok(map.clone()));
    }

    #[test]
    fn keys_sort_by_id_with_the_version_first() {
        let keys = [
            Bytes::from_static(VERSION_KEY),
            node_key(NodeId(2)),
            node_key(NodeId(256)),
            shard_key(ShardId(1)),
            shard_key(ShardId(300)),
        ];
        assert!(keys.is_sorted());
    }
}
