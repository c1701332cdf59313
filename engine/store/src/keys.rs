//! How rows are named: `tablet id (u64, big-endian) | space (1 byte) | the key`.
//!
//! A tablet is a local incarnation of a key range (`docs/architecture.md`): a split shares it, an
//! installed snapshot gets a new one, so nothing old can come back into a live range. Big-endian ids
//! keep a tablet's rows together and in key order. The space byte leaves room in every tablet for
//! rows that are not a user's, such as sessions.
//!
//! Tablet 0 belongs to the node itself: applied indexes, replica records and named local rows.

use pontoon_types::{GroupId, TabletId};

/// Bytes before the key: the tablet and the space.
pub const KEY_PREFIX_BYTES: usize = 9;

/// The longest key that the store takes in a tablet. The tables hold lengths of stored keys in 16
/// bits; what clients may send is a setting below this.
pub const MAX_STORED_KEY_BYTES: usize = u16::MAX as usize - KEY_PREFIX_BYTES;

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

/// The prefix that all rows of one space of one tablet share.
#[must_use]
pub const fn prefix(tablet: TabletId, space: Space) -> [u8; KEY_PREFIX_BYTES] {
    let [a, b, c, d, e, f, g, h] = tablet.0.to_be_bytes();
    [a, b, c, d, e, f, g, h, space as u8]
}

/// The first prefix behind every row of one space of one tablet.
#[must_use]
pub const fn prefix_end(tablet: TabletId, space: Space) -> [u8; KEY_PREFIX_BYTES] {
    let [a, b, c, d, e, f, g, h] = tablet.0.to_be_bytes();
    [a, b, c, d, e, f, g, h, space as u8 + 1]
}

/// A whole stored key.
#[must_use]
pub fn stored_key(tablet: TabletId, space: Space, key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(KEY_PREFIX_BYTES + key.len());
    stored.extend_from_slice(&prefix(tablet, space));
    stored.extend_from_slice(key);
    stored
}

/// The key of a group's row in one of the local spaces that are keyed by group.
pub(crate) fn group_key(space: Space, group: GroupId) -> [u8; KEY_PREFIX_BYTES + 8] {
    let mut key = [0; KEY_PREFIX_BYTES + 8];
    let (head, tail) = key.split_at_mut(KEY_PREFIX_BYTES);
    head.copy_from_slice(&prefix(LOCAL_TABLET, space));
    tail.copy_from_slice(&group.0.to_be_bytes());
    key
}

/// The group named by a key that [`group_key`] made, or `None` for any other key.
pub(crate) fn group_of(stored: &[u8]) -> Option<GroupId> {
    let tail = stored.get(KEY_PREFIX_BYTES..)?;
    Some(GroupId(u64::from_be_bytes(tail.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stored_keys_sort_by_tablet_then_space_then_key(
            a: (u64, bool, Vec<u8>), b: (u64, bool, Vec<u8>),
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
        fn a_space_ends_before_its_end(tablet: u64, key: Vec<u8>) {
            let tablet = TabletId(tablet);
            let stored = stored_key(tablet, Space::Data, &key);
            prop_assert!(stored.as_slice() >= prefix(tablet, Space::Data).as_slice());
            prop_assert!(stored.as_slice() < prefix_end(tablet, Space::Data).as_slice());
        }
    }

    #[test]
    fn a_group_reads_back_from_its_key() {
        let key = group_key(Space::Applied, GroupId(7));
        assert_eq!(group_of(&key), Some(GroupId(7)));
        assert_eq!(group_of(&key[..12]), None);
    }
}
