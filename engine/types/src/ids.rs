//! Newtypes for every number that has a meaning. A bare `u64` never crosses a public interface.

use core::fmt;

/// No term, log index or replica id gets as far, and whoever says otherwise is not believed; above it counting could overflow.
pub const MAX_COUNT: u64 = 1 << 62;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }

        impl core::str::FromStr for $name {
            type Err = core::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id! {
    /// One process with one data directory, one log and one store. Starts at 1.
    NodeId
}
id! {
    /// One Raft group. Group 1 is the meta group.
    GroupId
}
id! {
    /// A member of a group: a group's replica on some node. Never used again once it was removed,
    /// so that a wiped or removed replica is never taken for its old self.
    ReplicaId
}
id! {
    /// A key range owned by exactly one group.
    ShardId
}
id! {
    /// A local incarnation of a key range in a node's store; the prefix of every stored key.
    TabletId
}
id! {
    /// A Raft term (Raft §5.1). Term 0 is before the first election and holds no entry.
    Term
}
id! {
    /// A position in a group's log (Raft §5.3). The first entry has index 1; 0 is before it.
    LogIndex
}
id! {
    /// The number of a command within its session; with the session it names the command for good.
    Sequence
}

impl GroupId {
    /// The group that holds the cluster's map: nodes, shards, epochs.
    pub const META: Self = Self(1);
}

impl ShardId {
    /// The shard of the meta group. Its keys are the cluster's map and no user's keys.
    pub const META: Self = Self(1);
}

impl Term {
    /// The term before the first election.
    pub const ZERO: Self = Self(0);

    /// The following term.
    ///
    /// # Panics
    /// If terms have run out, after 2^64 elections.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("terms have run out"))
    }
}

impl LogIndex {
    /// The position before the first entry.
    pub const ZERO: Self = Self(0);

    /// The following index.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("log indexes have run out"))
    }

    /// The index before this one, or `None` at [`LogIndex::ZERO`].
    #[must_use]
    pub fn previous(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }
}

/// A cluster's identity, drawn at random when its certificates are made and written as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

impl core::str::FromStr for ClusterId {
    type Err = core::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_cluster_id_reads_back_from_its_text() {
        let id = ClusterId(0x00ab_cdef_0123_4567);
        assert_eq!(id.to_string(), "00abcdef01234567");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn there_is_no_index_before_zero() {
        assert_eq!(LogIndex::ZERO.previous(), None);
        assert_eq!(LogIndex(7).previous(), Some(LogIndex(6)));
        assert_eq!(LogIndex(7).next(), LogIndex(8));
    }
}
