//! Which shard owns a key, which group replicates that shard, and on which nodes.
//!
//! This crate is pure: it owns the words and the arithmetic of the map and does no I/O.
//!
//! - [`ShardDescriptor`] and [`NodeDescriptor`] are the facts: a key range with its epoch, its group
//!   and its replicas; a node with its address. Each has one hand-laid, versioned encoding, and
//!   decoding it is bounded by the bytes at hand and refuses what no cluster can mean.
//! - [`Manifest`] is what an operator starts a cluster from. From it follows, on every node alike and
//!   without a word exchanged, the initial map, and a [`ManifestHash`] by which blank nodes make sure
//!   that they mean the same cluster.
//! - [`ClusterMap`] is the whole map. Its truth lives in the **meta group**, as plain rows of an
//!   ordinary key-value shard (see [`rows`]); every other copy, in a node or a client, is a cache.
//! - [`cut_evenly`] and [`cut_at_samples`] choose the borders at the first start.
//!
//! # Epochs decide, not arrival
//!
//! A shard's [`Epoch`](pontoon_types::Epoch) counts changes of its range and of its membership. A split
//! gives the parent and the child the parent's next range epoch, a merge gives the survivor one above
//! both; so of two descriptors whose ranges overlap the one with the higher range epoch is newer,
//! whatever their ids, and of two descriptors of one shard the one with the higher epoch is newer. That
//! is all [`ClusterMap::apply`] looks at, and it is why a cache may be told old news in any order
//! (invariant S9: at every moment a key has one owning epoch).
//!
//! A map that was read whole is **total**: every key has exactly one shard. A cache to which single
//! descriptors were applied stays **disjoint**, but may have gaps (the left half of a split was heard
//! of, the right half not yet); [`ClusterMap::route`] then answers `None` and the map is read again.

mod cut;
mod descriptor;
mod error;
mod manifest;
mod map;
pub mod rows;

pub use cut::{SampledCut, cut_at_samples, cut_evenly};
pub use descriptor::{NodeDescriptor, Replica, ShardDescriptor};
pub use error::{DescriptorError, ManifestError, MapError};
pub use manifest::{DEFAULT_REPLICATION, Manifest, ManifestHash};
pub use map::{Applied, ClusterMap};
