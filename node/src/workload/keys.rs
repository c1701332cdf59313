//! The keys of a workload's rows.

use super::fnv64;
use bytes::Bytes;

/// How a row's number becomes a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStyle {
    /// 16 bytes: a hash of the number, so that the keys of any rows lie evenly over the whole key
    /// space, then the number, so that no two rows share a key.
    Hashed,
    /// YCSB's `user` and the hash in decimal (`CoreWorkload.buildKeyName`, hashed insert order).
    Ycsb,
}

impl KeyStyle {
    /// The key of a row.
    #[must_use]
    pub fn key(self, row: u64) -> Bytes {
        match self {
            Self::Hashed => {
                let mut key = [0; 16];
                key[..8].copy_from_slice(&scatter(row).to_be_bytes());
                key[8..].copy_from_slice(&row.to_be_bytes());
                Bytes::copy_from_slice(&key)
            }
            Self::Ycsb => Bytes::from(format!("user{}", fnv64(row))),
        }
    }

    /// Keys of `count` rows spread over `rows`: what split keys are chosen from.
    #[must_use]
    pub fn sample(self, rows: u64, count: u64) -> Vec<Bytes> {
        let step = (rows / count.max(1)).max(1);
        (0..rows)
            .step_by(step as usize)
            .map(|row| self.key(row))
            .collect()
    }
}

/// The output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). FNV will not do here:
/// it leaves whole stretches of the upper bits unused.
const fn scatter(row: u64) -> u64 {
    let mut hash = row.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn hashed_keys_have_16_bytes_and_lie_evenly_over_the_key_space() {
        const ROWS: u64 = 64_000;
        let mut shards = [0_u32; 64];
        for row in 0..ROWS {
            let key = KeyStyle::Hashed.key(row);
            assert_eq!(key.len(), 16);
            shards[usize::from(key[0] / 4)] += 1;
        }
        let (least, most) = (shards.iter().min().unwrap(), shards.iter().max().unwrap());
        assert!(*least > 800 && *most < 1200, "{shards:?}");
    }

    #[test]
    fn no_two_rows_share_a_key() {
        for style in [KeyStyle::Hashed, KeyStyle::Ycsb] {
            let keys: HashSet<Bytes> = (0..10_000).map(|row| style.key(row)).collect();
            assert_eq!(keys.len(), 10_000);
        }
    }

    #[test]
    fn ycsb_keys_are_the_published_ones() {
        assert_eq!(&KeyStyle::Ycsb.key(0)[..], b"user6284781860667377211");
    }

    #[test]
    fn a_sample_spans_all_rows() {
        let keys = KeyStyle::Ycsb.sample(1000, 10);
        assert_eq!(keys.len(), 10);
        assert_eq!(keys[9], KeyStyle::Ycsb.key(900));
        assert_eq!(KeyStyle::Ycsb.sample(3, 10).len(), 3);
    }
}
