//! The whole map: from key to shard to nodes.

use crate::{MapError, NodeDescriptor, ShardDescriptor};
use bytes::Bytes;
use core::ops::Bound;
use pontoon_types::{ClusterId, GroupId, NodeId, ShardId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// The nodes, the meta shard and the user shards of a cluster.
///
/// Its ranges never overlap. They also leave no gap, unless single descriptors were [applied]. Shards are
/// shared, so that a request can keep hold of the descriptor by which it was routed.
///
/// [applied]: ClusterMap::apply
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterMap {
    cluster: ClusterId,
    version: u64,
    nodes: BTreeMap<NodeId, NodeDescriptor>,
    meta: Arc<ShardDescriptor>,
    /// User shards by their first key.
    shards: BTreeMap<Bytes, Arc<ShardDescriptor>>,
    /// Where in `shards` a shard is.
    starts: HashMap<ShardId, Bytes>,
}

/// What became of a descriptor given to [`ClusterMap::apply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is in the map now, and what it replaced is not.
    Newer,
    /// The map had the same or a newer one; nothing changed.
    Known,
}

impl ClusterMap {
    /// A map of these nodes and shards, the meta shard among them.
    ///
    /// # Errors
    /// If the meta shard is missing, a shard or group is listed twice, a replica is on a node that is not
    /// listed, or some key has no shard or two.
    pub fn new(
        cluster: ClusterId,
        version: u64,
        nodes: impl IntoIterator<Item = NodeDescriptor>,
        shards: impl IntoIterator<Item = ShardDescriptor>,
    ) -> Result<Self, MapError> {
        let nodes = nodes.into_iter().map(|node| (node.node, node)).collect();
        let mut meta = None;
        let mut users = Vec::new();
        let (mut shard_ids, mut groups) = (HashSet::new(), HashSet::new());
        for descriptor in shards {
            let (shard, group) = (descriptor.shard, descriptor.group);
            if !shard_ids.insert(shard) {
                return Err(MapError::ShardTwice { shard });
            }
            if !groups.insert(group) {
                return Err(MapError::GroupTwice { group });
            }
            check_replicas(&descriptor, &nodes)?;
            if shard == ShardId::META {
                meta = Some(descriptor);
            } else {
                users.push(Arc::new(descriptor));
            }
        }
        let meta = meta.filter(|meta| meta.group == GroupId::META);
        let meta = Arc::new(meta.ok_or(MapError::NoMeta)?);
        users.sort_unstable_by(|a, b| a.start.cmp(&b.start));
        check_ranges(&users)?;
        let starts = users.iter().map(|s| (s.shard, s.start.clone())).collect();
        let shards = users.into_iter().map(|s| (s.start.clone(), s)).collect();
        Ok(Self {
            cluster,
            version,
            nodes,
            meta,
            shards,
            starts,
        })
    }

    /// The cluster.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Counts the changes of the map in the meta group. A copy with a lower number is older.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The shard of the map itself.
    #[must_use]
    pub const fn meta(&self) -> &Arc<ShardDescriptor> {
        &self.meta
    }

    /// How many user shards there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Whether there is no user shard; a map that was read whole has at least one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// The user shards in key order.
    pub fn shards(&self) -> impl DoubleEndedIterator<Item = &Arc<ShardDescriptor>> {
        self.shards.values()
    }

    /// The shard with this id, the meta shard included.
    #[must_use]
    pub fn shard(&self, shard: ShardId) -> Option<&Arc<ShardDescriptor>> {
        if shard == ShardId::META {
            return Some(&self.meta);
        }
        self.starts.get(&shard).and_then(|at| self.shards.get(at))
    }

    /// The nodes, ascending by id.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = &NodeDescriptor> {
        self.nodes.values()
    }

    /// The node with this id.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<&NodeDescriptor> {
        self.nodes.get(&node)
    }

    /// The user shard that owns `key`; `None` only in a gap left by [`ClusterMap::apply`].
    #[must_use]
    pub fn route(&self, key: &[u8]) -> Option<&Arc<ShardDescriptor>> {
        let up_to = (Bound::Unbounded, Bound::Included(key));
        let (_, shard) = self.shards.range::<[u8], _>(up_to).next_back()?;
        shard.contains(key).then_some(shard)
    }

    /// The user shards with keys in `[from, to)`, in key order; without `to`, up to the last.
    pub fn route_range<'a>(
        &'a self,
        from: &'a [u8],
        to: Option<&'a [u8]>,
    ) -> impl DoubleEndedIterator<Item = &'a Arc<ShardDescriptor>> + 'a {
        // An empty range must not reach the BTreeMap, which panics on one whose bounds are turned.
        let is_empty = to.is_some_and(|to| to <= from);
        let end = if is_empty { Some(from) } else { to };
        let first = self.route(from).filter(|_| !is_empty);
        let rest = self.shards.range::<[u8], _>((
            if is_empty {
                Bound::Included(from)
            } else {
                Bound::Excluded(from)
            },
            end.map_or(Bound::Unbounded, Bound::Excluded),
        ));
        first.into_iter().chain(rest.map(|(_, shard)| shard))
    }

    /// Takes in a descriptor that came from anywhere: it replaces every shard that it overlaps and its
    /// own older self, if it is newer than all of them (see the crate's page on epochs). Nodes that it
    /// names need not be known.
    ///
    /// What a replaced shard covered beyond the new one is a gap afterwards.
    pub fn apply(&mut self, descriptor: ShardDescriptor) -> Applied {
        if descriptor.shard == ShardId::META {
            if descriptor.group != GroupId::META || !descriptor.is_newer_than(&self.meta) {
                return Applied::Known;
            }
            self.meta = Arc::new(descriptor);
            return Applied::Newer;
        }
        let end = descriptor.end.clone();
        let overlapped = self.route_range(&descriptor.start, end.as_deref());
        let own = self.shard(descriptor.shard);
        let replaced: Vec<_> = overlapped.chain(own).cloned().collect();
        if !replaced.iter().all(|old| descriptor.is_newer_than(old)) {
            return Applied::Known;
        }
        for old in replaced {
            self.shards.remove(&old.start);
            self.starts.remove(&old.shard);
        }
        let start = descriptor.start.clone();
        self.starts.insert(descriptor.shard, start.clone());
        self.shards.insert(start, Arc::new(descriptor));
        Applied::Newer
    }

    /// Replaces this copy by one that was read from the meta group, and keeps what this one knew better:
    /// a shard may tell of its own split before the meta group has heard of it. An older copy than this
    /// one changes nothing but what it knows better.
    pub fn refresh(&mut self, read: Self) {
        let older = if read.version >= self.version {
            core::mem::replace(self, read)
        } else {
            read
        };
        self.apply_shared(older.meta);
        for (_, shard) in older.shards {
            self.apply_shared(shard);
        }
    }

    fn apply_shared(&mut self, shard: Arc<ShardDescriptor>) {
        // Most are the same in both; do not copy those.
        let known = self.shard(shard.shard);
        if known.is_some_and(|known| known.epoch >= shard.epoch) {
            return;
        }
        self.apply(Arc::unwrap_or_clone(shard));
    }
}

fn check_replicas(
    descriptor: &ShardDescriptor,
    nodes: &BTreeMap<NodeId, NodeDescriptor>,
) -> Result<(), MapError> {
    let mut on = descriptor.replicas.iter().map(|replica| replica.node);
    match on.find(|node| !nodes.contains_key(node)) {
        None => Ok(()),
        Some(node) => Err(MapError::UnknownNode {
            shard: descriptor.shard,
            node,
        }),
    }
}

/// Checks that the shards, given in order of their starts, cover every key exactly once.
fn check_ranges<'a>(
    shards: impl IntoIterator<Item = &'a Arc<ShardDescriptor>>,
) -> Result<(), MapError> {
    let first = Bytes::new();
    let (mut after, mut next) = (None, Some(&first));
    for shard in shards {
        if next != Some(&shard.start) {
            return Err(MapError::Ranges { after });
        }
        after = Some(shard.shard);
        next = shard.end.as_ref();
    }
    match (next, after) {
        (None, Some(_)) => Ok(()),
        _ => Err(MapError::Ranges { after }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::tests::shard;
    use crate::{Manifest, cut_at_samples, cut_evenly};
    use pontoon_types::Epoch;
    use proptest::prelude::*;

    fn map_of(split_keys: Vec<Bytes>) -> ClusterMap {
        let nodes = (1..=3).map(|n| (NodeId(n), format!("host{n}:7700")));
        let manifest = Manifest::new(ClusterId(3), nodes, split_keys, None).unwrap();
        manifest.initial_map()
    }

    fn is_disjoint(map: &ClusterMap) -> bool {
        let shards: Vec<_> = map.shards().collect();
        shards.windows(2).all(|pair| !pair[0].overlaps(pair[1]))
            && shards.iter().all(|s| map.shard(s.shard) == Some(*s))
            && map.starts.len() == map.shards.len()
    }

    proptest! {
        #[test]
        fn every_key_has_exactly_one_shard(
            samples: Vec<Vec<u8>>, shards in 1usize..30, keys: Vec<Vec<u8>>,
        ) {
            let map = map_of(cut_at_samples(&samples, shards).split_keys);
            prop_assert_eq!(check_ranges(map.shards.values()), Ok(()));
            for key in keys.iter().chain(&samples) {
                let owners: Vec<_> = map.shards().filter(|s| s.contains(key)).collect();
                prop_assert_eq!(owners.len(), 1);
                prop_assert_eq!(map.route(key), Some(owners[0]));
            }
        }

        #[test]
        fn a_range_is_routed_to_the_shards_that_it_touches(
            shards in 1usize..30, from: Vec<u8>, to: Option<Vec<u8>>,
        ) {
            let map = map_of(cut_evenly(shards));
            let to = to.as_deref();
            let touches = |s: &Arc<ShardDescriptor>| {
                let range = ShardDescriptor {
                    start: from.clone().into(),
                    end: to.map(Bytes::copy_from_slice),
                    ..ShardDescriptor::clone(s)
                };
                to.is_none_or(|to| *from < *to) && s.overlaps(&range)
            };
            let expected: Vec<_> = map.shards().filter(|s| touches(s)).collect();
            let routed: Vec<_> = map.route_range(&from, to).collect();
            prop_assert_eq!(routed, expected);
        }

        /// Told in any order, with repeats, a cache ends at the same place.
        #[test]
        fn a_cache_may_be_told_news_in_any_order(
            history in split_history(), order in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let (descriptors, last) = history;
            let mut cache = map_of(vec![]);
            for at in order {
                cache.apply(at.get(&descriptors).clone());
                prop_assert!(is_disjoint(&cache));
            }
            for descriptor in descriptors {
                cache.apply(descriptor);
                prop_assert!(is_disjoint(&cache));
            }
            let shards: Vec<_> = cache.shards().map(|s| ShardDescriptor::clone(s)).collect();
            prop_assert_eq!(shards, last);
            prop_assert_eq!(check_ranges(cache.shards.values()), Ok(()));
        }

        #[test]
        fn a_refresh_keeps_what_the_cache_knew_better(
            history in split_history(), told in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let (descriptors, last) = history;
            let mut cache = map_of(vec![]);
            for descriptor in &descriptors {
                cache.apply(descriptor.clone());
            }
            // The meta group lags behind: it has heard of a part only.
            let mut read = map_of(vec![]);
            for at in told {
                read.apply(at.get(&descriptors).clone());
            }
            read.version = 2;
            cache.refresh(read);
            prop_assert_eq!(cache.version(), 2);
            let shards: Vec<_> = cache.shards().map(|s| ShardDescriptor::clone(s)).collect();
            prop_assert_eq!(shards, last);
        }
    }

    /// Random splits and membership changes: every descriptor that ever was, and those of the end.
    fn split_history() -> impl Strategy<Value = (Vec<ShardDescriptor>, Vec<ShardDescriptor>)> {
        let step = (
            any::<prop::sample::Index>(),
            any::<bool>(),
            prop::collection::vec(any::<u8>(), 1..4),
        );
        prop::collection::vec(step, 1..20).prop_map(|steps| {
            let mut live = vec![ShardDescriptor::clone(
                map_of(vec![]).shards().next().unwrap(),
            )];
            let mut all = live.clone();
            for (next_id, (which, split, key)) in (100..).zip(steps) {
                let at = which.index(live.len());
                let key = Bytes::from(key);
                if split && live[at].contains(&key) && key > live[at].start {
                    live[at].epoch.range += 1;
                    let mut child = live[at].clone();
                    live[at].end = Some(key.clone());
                    child.start = key;
                    child.shard = ShardId(next_id);
                    child.group = GroupId(next_id);
                    all.push(child.clone());
                    live.insert(at + 1, child);
                } else {
                    live[at].epoch.membership += 1;
                }
                all.push(live[at].clone());
            }
            (all, live)
        })
    }

    #[test]
    fn half_a_split_leaves_a_gap_that_the_other_half_fills() {
        let mut map = map_of(vec![]);
        let parent = map.route(b"q").unwrap().shard;
        let left = shard(parent.0, b"", Some(b"m"), 2);
        assert_eq!(map.apply(left.clone()), Applied::Newer);
        assert_eq!(map.apply(left), Applied::Known);
        assert_eq!(map.route(b"q"), None);
        assert!(check_ranges(map.shards.values()).is_err());
        assert_eq!(map.apply(shard(9, b"m", None, 2)), Applied::Newer);
        assert_eq!(map.route(b"q").map(|s| s.shard), Some(ShardId(9)));
        assert_eq!(check_ranges(map.shards.values()), Ok(()));
    }

    #[test]
    fn a_merge_replaces_both_and_their_old_news_stay_old() {
        let mut map = map_of(vec![Bytes::from_static(b"m")]);
        let parts: Vec<_> = map.shards().map(|s| ShardDescriptor::clone(s)).collect();
        let mut merged = parts[0].clone();
        merged.end = None;
        merged.epoch.range = 2;
        assert_eq!(map.apply(merged), Applied::Newer);
        for part in parts {
            assert_eq!(map.apply(part), Applied::Known);
        }
        assert_eq!((map.len(), check_ranges(map.shards.values())), (1, Ok(())));
    }

    #[test]
    fn the_meta_shard_is_never_a_users_shard() {
        let mut map = map_of(vec![]);
        let mut meta = ShardDescriptor::clone(map.meta());
        assert_eq!(map.apply(meta.clone()), Applied::Known);
        meta.epoch = Epoch {
            range: 1,
            membership: 2,
        };
        assert_eq!(map.apply(meta.clone()), Applied::Newer);
        assert_eq!(map.shard(ShardId::META).map(|m| m.epoch), Some(meta.epoch));
        assert_ne!(map.route(b"node/").map(|s| s.shard), Some(ShardId::META));
    }

    #[test]
    fn a_map_that_is_not_whole_is_refused_with_the_place() {
        let nodes = || {
            (1..=3).map(|n| NodeDescriptor {
                node: NodeId(n),
                address: format!("host{n}:7700"),
            })
        };
        let new = |shards: Vec<ShardDescriptor>| {
            let mut meta = shard(1, b"", None, 1);
            meta.group = GroupId::META;
            ClusterMap::new(ClusterId(1), 1, nodes(), [meta].into_iter().chain(shards))
        };
        assert!(new(vec![shard(2, b"", None, 1)]).is_ok());
        assert_eq!(new(vec![]), Err(MapError::Ranges { after: None }));
        let late = vec![shard(2, b"a", None, 1)];
        assert_eq!(new(late), Err(MapError::Ranges { after: None }));
        for second in [
            shard(3, b"n", None, 1),
            shard(3, b"l", None, 1),
            shard(3, b"", None, 1),
        ] {
            let shards = vec![shard(2, b"", Some(b"m"), 1), second];
            assert!(matches!(new(shards), Err(MapError::Ranges { .. })));
        }
        let ends = vec![shard(2, b"", Some(b"m"), 1)];
        let after = Some(ShardId(2));
        assert_eq!(new(ends), Err(MapError::Ranges { after }));
        let mut stray = shard(2, b"", None, 1);
        stray.replicas[0].node = NodeId(9);
        assert_eq!(
            new(vec![stray]),
            Err(MapError::UnknownNode {
                shard: ShardId(2),
                node: NodeId(9)
            })
        );
        let mut twice = shard(3, b"m", None, 1);
        twice.group = GroupId(2);
        let shards = vec![shard(2, b"", Some(b"m"), 1), twice];
        let group = GroupId(2);
        assert_eq!(new(shards), Err(MapError::GroupTwice { group }));
    }

    #[test]
    fn a_million_shards_route_in_the_time_of_a_few_comparisons() {
        // Not a stopwatch: each lookup must touch few shards, and a million of lookups among a million
        // shards must end. A scan per lookup would need 10^12 comparisons.
        let map = map_of(cut_evenly(1_000_000));
        assert_eq!(map.len(), 1_000_000);
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..1_000_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let key = x.to_be_bytes();
            let shard = map.route(&key).unwrap();
            assert!(shard.contains(&key));
        }
    }
}
