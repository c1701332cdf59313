//! Where the key space is cut at the first start.

use bytes::Bytes;

/// The borders of `shards` shards that share the byte space evenly: the first eight bytes of a key, read
/// as a big-endian number, are cut into equal parts. There is one border fewer than shards, and 0 shards
/// count as 1.
///
/// This suits keys whose first bytes are spread evenly (hashes, random ids). Keys that share a prefix
/// (`user…`) would all land in one shard; for those, sample some and use [`cut_at_samples`].
#[must_use]
pub fn cut_evenly(shards: usize) -> Vec<Bytes> {
    let border = |i: usize| {
        let at = ((i as u128) << 64) / shards as u128;
        let bytes = (at as u64).to_be_bytes();
        // Trailing zeros order nothing that a shorter border would not, and cost space in every map.
        let len = 8 - (at as u64).trailing_zeros() as usize / 8;
        Bytes::copy_from_slice(&bytes[..len])
    };
    (1..shards).map(border).collect()
}

/// What [`cut_at_samples`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampledCut {
    /// The borders, ascending: one fewer than shards.
    pub split_keys: Vec<Bytes>,
    /// How many shards were asked for.
    pub wanted_shards: usize,
}

impl SampledCut {
    /// How many shards the borders make.
    #[must_use]
    pub const fn shards(&self) -> usize {
        self.split_keys.len() + 1
    }

    /// Whether there are fewer shards than were asked for, because there were too few distinct keys.
    #[must_use]
    pub const fn is_short(&self) -> bool {
        self.shards() < self.wanted_shards
    }
}

/// The borders of `shards` shards that share the distinct keys among `samples` evenly. The samples may
/// come in any order and repeat; empty ones are left out, as no key is empty. With fewer distinct keys
/// than shards, every key gets a shard of its own and the result [says so](SampledCut::is_short).
///
/// A border is the shortest key that parts its two neighbours in the sample: the map stays small even
/// if the keys are long.
#[must_use]
pub fn cut_at_samples<K: AsRef<[u8]>>(
    samples: impl IntoIterator<Item = K>,
    shards: usize,
) -> SampledCut {
    let mut samples: Vec<K> = samples.into_iter().collect();
    samples.retain(|key| !key.as_ref().is_empty());
    samples.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
    samples.dedup_by(|a, b| a.as_ref() == b.as_ref());
    let wanted_shards = shards.max(1);
    let possible = wanted_shards.min(samples.len()).max(1);
    // `possible` is at most the number of samples, so these positions are at least 1 and ascend.
    let position = |i: usize| (i as u128 * samples.len() as u128 / possible as u128) as usize;
    let split_keys = (1..possible)
        .map(position)
        .map(|at| shortest_border(samples[at - 1].as_ref(), samples[at].as_ref()))
        .collect();
    SampledCut {
        split_keys,
        wanted_shards,
    }
}

/// The shortest prefix of `above` that is greater than `below`, given `below < above`.
fn shortest_border(below: &[u8], above: &[u8]) -> Bytes {
    let shared = below.iter().zip(above).take_while(|(a, b)| a == b).count();
    Bytes::copy_from_slice(&above[..=shared])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ascends(keys: &[Bytes]) -> bool {
        keys.iter().all(|key| !key.is_empty()) && keys.windows(2).all(|pair| pair[0] < pair[1])
    }

    proptest! {
        #[test]
        fn even_borders_ascend(shards in 0usize..5000) {
            let borders = cut_evenly(shards);
            prop_assert_eq!(borders.len(), shards.saturating_sub(1));
            prop_assert!(ascends(&borders));
        }

        #[test]
        fn sampled_borders_share_the_distinct_keys_evenly(
            samples: Vec<Vec<u8>>, shards in 0usize..40,
        ) {
            let distinct: std::collections::BTreeSet<_> =
                samples.iter().filter(|key| !key.is_empty()).collect();
            let cut = cut_at_samples(&samples, shards);
            prop_assert!(ascends(&cut.split_keys));
            prop_assert_eq!(cut.shards(), shards.min(distinct.len()).max(1));
            prop_assert_eq!(cut.is_short(), distinct.len() < shards && shards > 1);
            let shard_of = |key: &[u8]| cut.split_keys.partition_point(|border| border[..] <= *key);
            let mut counts = vec![0usize; cut.shards()];
            for key in &distinct {
                counts[shard_of(key)] += 1;
            }
            let (most, least) = (counts.iter().max(), counts.iter().min());
            prop_assert!(most.unwrap() - least.unwrap() <= 1, "{:?}", counts);
        }
    }

    #[test]
    fn four_even_shards_are_cut_at_the_quarters() {
        assert_eq!(cut_evenly(4), [&b"\x40"[..], b"\x80", b"\xc0"]);
        assert!(cut_evenly(1).is_empty() && cut_evenly(0).is_empty());
    }

    #[test]
    fn borders_are_no_longer_than_needed() {
        let cut = cut_at_samples(["user1999", "user1000", "user2345", "user2999"], 2);
        assert_eq!(cut.split_keys, [&b"user2"[..]]);
    }

    #[test]
    fn too_few_distinct_keys_make_fewer_shards_and_say_so() {
        let cut = cut_at_samples(["a", "a", "b", ""], 16);
        assert_eq!((cut.shards(), cut.is_short()), (2, true));
        assert_eq!(cut_at_samples([""; 3], 4).shards(), 1);
    }
}
