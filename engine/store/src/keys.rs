//! How rows are named: `tablet id (1 to 9 bytes) | space (1 byte) | the key`.
//!
//! A tablet is a local incarnation of a key range (`docs/architecture.md`): a split shares it, an
//! installed snapshot gets a new one, so nothing old can come back into a live range. Which half of a split has a row is
//! told by its key: in a shared tablet there is no room for rows that are not a user's.
//!
//! Ids below 240 are one byte. A larger one is `0xf0 + n - 1` and its `n` bytes, the highest first,
//! without zeros before them. Ids so written sort as the numbers do, which keeps a tablet's rows together
//! and in key order, and they are short: the memtable holds keys of up to 20 bytes in place, and finds
//! its way along a longer one only by a look elsewhere.
//!
//! Tablet 0 belongs to the node itself: applied indexes, replica records and named local rows.

use pontoon_types::{GroupId, TabletId};
use std::ops::Deref;

/// The most bytes before the key: the tablet and the space.
pub const MAX_KEY_PREFIX_BYTES: usize = 10;

/// The first byte of ids that take more than one.
const LONG_IDS: u8 = 0xf0;

/// The longest key that the store takes in a tablet. The tables hold lengths of stored keys in 16
/// bits; what clients may send is a setting below this.
pub const MAX_STORED_KEY_BYTES: usize = u16::MAX as usize - MAX_KEY_PREFIX_BYTES;

/// The tablet of the node's own rows. Never a shard's.
pub const LOCAL_TABLET: TabletId = TabletId(0);

/// What a row is within its tablet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Space {
    /// Local: the applied index of a group; the key is the group's id, big-endian.
    Applied = b'a',
    /// A user's rows.
    Data = b'd',
    /// Local: a named row of the node, such as its identity.
    Named = b'n',
    /// Local: a replica's record; the key is the group's id, big-endian.
    Replica = b'r',
}

/// What the rows of a tablet, or of one space of it, begin with.
#[derive(Clone, Copy, Debug)]
pub struct Prefix {
    bytes: [u8; MAX_KEY_PREFIX_BYTES],
    len: usize,
}

impl Deref for Prefix {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for Prefix {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// The prefix that all rows of one space of one tablet share.
#[must_use]
pub fn prefix(tablet: TabletId, space: Space) -> Prefix {
    prefix_of(tablet, space as u8)
}

/// The first prefix behind every row of one space of one tablet.
#[must_use]
pub fn prefix_end(tablet: TabletId, space: Space) -> Prefix {
    prefix_of(tablet, space as u8 + 1)
}

/// The prefix that all rows of a tablet share: its id.
#[must_use]
pub fn tablet_prefix(tablet: TabletId) -> Prefix {
    let mut prefix = prefix_of(tablet, 0);
    prefix.len -= 1;
    prefix
}

/// The first key behind every row of a tablet.
#[must_use]
pub fn tablet_end(tablet: TabletId) -> Prefix {
    prefix_of(tablet, u8::MAX)
}

/// The tablet of a stored key, or `None` if it cannot be one.
#[must_use]
pub fn tablet_of(stored: &[u8]) -> Option<TabletId> {
    let (first, rest) = stored.split_first()?;
    let Some(more) = first.checked_sub(LONG_IDS) else {
        return Some(TabletId(u64::from(*first)));
    };
    let id = rest
        .get(..usize::from(more) + 1)
        .filter(|id| id.len() <= 8)?;
    let id = id.iter().fold(0, |id, byte| id << 8 | u64::from(*byte));
    Some(TabletId(id))
}

fn prefix_of(tablet: TabletId, space: u8) -> Prefix {
    let mut bytes = [0; MAX_KEY_PREFIX_BYTES];
    let id = tablet.0.to_be_bytes();
    let space_at = if tablet.0 < u64::from(LONG_IDS) {
        bytes[0] = id[7];
        1
    } else {
        let id = &id[tablet.0.leading_zeros() as usize / 8..];
        bytes[0] = LONG_IDS + id.len() as u8 - 1;
        bytes[1..=id.len()].copy_from_slice(id);
        1 + id.len()
    };
    bytes[space_at] = space;
    Prefix {
        bytes,
        len: space_at + 1,
    }
}

/// A whole stored key.
#[must_use]
pub fn stored_key(tablet: TabletId, space: Space, key: &[u8]) -> Vec<u8> {
    let prefix = prefix(tablet, space);
    let mut stored = Vec::with_capacity(prefix.len() + key.len());
    stored.extend_from_slice(&prefix);
    stored.extend_from_slice(key);
    stored
}

/// The key of a group's row in one of the local spaces that are keyed by group.
pub(crate) fn group_key(space: Space, group: GroupId) -> Vec<u8> {
    stored_key(LOCAL_TABLET, space, &group.0.to_be_bytes())
}

/// The group named by a key that [`group_key`] made, or `None` for any other key.
pub(crate) fn group_of(stored: &[u8]) -> Option<GroupId> {
    let key = stored.get(prefix(LOCAL_TABLET, Space::Replica).len()..)?;
    Some(GroupId(u64::from_be_bytes(key.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ids of every length.
    fn tablet() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0..64_u32).prop_map(|(id, shift)| id >> shift)
    }

    proptest! {
        #[test]
        fn stored_keys_sort_by_tablet_then_space_then_key(
            a in (tablet(), any::<bool>(), any::<Vec<u8>>()),
            b in (tablet(), any::<bool>(), any::<Vec<u8>>()),
        ) {
            let space = |data| if data { Space::Data } else { Space::Named };
            let stored = |(tablet, data, key): &(u64, bool, Vec<u8>)| {
                stored_key(TabletId(*tablet), space(*data), key)
            };
            // Data sorts before Named, and `true` after `false`.
            let (left, right) = ((a.0, !a.1, &a.2), (b.0, !b.1, &b.2));
            prop_assert_eq!(stored(&a).cmp(&stored(&b)), left.cmp(&right));
        }

        #[test]
        fn a_space_ends_before_its_end(tablet in tablet(), key: Vec<u8>) {
            let tablet = TabletId(tablet);
            let stored = stored_key(tablet, Space::Data, &key);
            prop_assert!(*stored >= *prefix(tablet, Space::Data));
            prop_assert!(*stored < *prefix_end(tablet, Space::Data));
            prop_assert!(*stored > *tablet_prefix(tablet) && *stored < *tablet_end(tablet));
            prop_assert_eq!(tablet_of(&stored), Some(tablet));
        }

        #[test]
        fn no_key_of_another_tablet_is_within_one(one in tablet(), other in tablet(), key: Vec<u8>) {
            prop_assume!(one != other);
            let stored = stored_key(TabletId(other), Space::Data, &key);
            let (start, end) = (tablet_prefix(TabletId(one)), tablet_end(TabletId(one)));
            prop_assert!(*stored < *start || *stored >= *end);
        }
    }

    #[test]
    fn a_group_reads_back_from_its_key() {
        let key = group_key(Space::Applied, GroupId(7));
        assert_eq!(group_of(&key), Some(GroupId(7)));
        assert_eq!(group_of(&key[..9]), None);
    }

    #[test]
    fn few_tablets_cost_few_bytes() {
        let len = |tablet| prefix(TabletId(tablet), Space::Data).len();
        assert_eq!([0, 239, 240, 255, 256, 65_535].map(len), [2, 2, 3, 3, 4, 4]);
        assert_eq!(len(u64::MAX), MAX_KEY_PREFIX_BYTES);
    }
}
