//! States that marks have pinned, held for a while to be compared and copied.
//!
//! A mark is an entry that changes nothing. Every replica that applies it pins its state as of exactly there, which
//! copies nothing and stops nobody, and holds it here: so replicas can be compared at one index while they serve, and a
//! copy can be taken from any of them, and be continued at another one. What nobody asks for is let go soon. A state
//! keeps the memtables of its time, also when tables have their rows: if all states keep too many (S11), those whose
//! digest is known are let go first, and then the oldest are given up.
//!
//! [`HeldStates`] remembers, and is pure; [`Work`] reads a state bit by bit. The runtime does the work on a thread of
//! its own, within a budget.

use bytes::Bytes;
use pontoon_store::keys::Space;
use pontoon_store::{KvSnapshot, Pieces, ReplicaRecord, ScanPage, StateHash, StoreError, View};
use pontoon_types::{GroupId, Instant, LogIndex, ReplicaId, TabletId};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// States held at the same time. One more, and that goes which was asked for the longest ago.
const MAX_HELD: usize = 256;
/// Digests that are remembered after their states are gone.
const MAX_DIGESTS: usize = 4096;

/// What a replica's state comes to at one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The replica.
    pub replica: ReplicaId,
    /// The hash of all that must be the same on all replicas: every row, those that are not a user's included, and the
    /// record of the shard without what is local about it.
    pub hash: u128,
    /// How many rows there are.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// Whether there is a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestState {
    /// Here it is.
    Known(Digest),
    /// It is being computed.
    Underway,
    /// The state could not be read.
    Failed,
    /// The replica holds no state at that index: it has not come there yet, was brought past it, or has let it go.
    NotHeld,
    /// The state was given up, because what is held kept too much memory.
    GivenUp,
}

type Place = (GroupId, LogIndex);

/// The states that a node holds.
pub struct HeldStates<V> {
    held_for: Duration,
    max_kept_bytes: u64,
    states: BTreeMap<Place, Held<V>>,
    digests: BTreeMap<Place, DigestState>,
    /// The places in `digests`, in the order in which they came.
    oldest: VecDeque<Place>,
    next_number: u64,
    given_up: u64,
}

struct Held<V> {
    snapshot: KvSnapshot<V>,
    expires_at: Instant,
    /// States are numbered as they come.
    number: u64,
}

/// What is held, for status and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldStats {
    /// States held.
    pub states: usize,
    /// Bytes of memory that they keep and the store would not.
    pub kept_bytes: u64,
    /// States that were given up because they kept too many, since the node started.
    pub given_up: u64,
}

impl<V> HeldStates<V> {
    /// None yet. Each is held so long after somebody has asked for it, unless all of them keep more memory than so many bytes
    /// that the store would not.
    #[must_use]
    pub const fn new(held_for: Duration, max_kept_bytes: u64) -> Self {
        Self {
            held_for,
            max_kept_bytes,
            states: BTreeMap::new(),
            digests: BTreeMap::new(),
            oldest: VecDeque::new(),
            next_number: 0,
            given_up: 0,
        }
    }
}

impl<V: View> HeldStates<V> {
    /// Holds a state from now on.
    pub fn hold(&mut self, snapshot: KvSnapshot<V>, now: Instant) {
        if self.states.len() >= MAX_HELD {
            let soonest = self.states.iter().min_by_key(|(_, held)| held.expires_at);
            if let Some(place) = soonest.map(|(place, _)| *place) {
                self.states.remove(&place);
            }
        }
        let place = (snapshot.record().group, snapshot.applied());
        let expires_at = now + self.held_for;
        let number = self.next_number;
        self.next_number += 1;
        let held = Held {
            snapshot,
            expires_at,
            number,
        };
        self.states.insert(place, held);
    }

    /// Lets go what nobody has asked for lately, and while all keep too much memory what keeps some of it: first those whose
    /// digest is known, which have served, and then the oldest, which are given up. Returns them, for it may take a while to
    /// drop them.
    #[must_use]
    pub fn let_go(&mut self, now: Instant) -> Vec<KvSnapshot<V>> {
        let expired = self.states.extract_if(.., |_, held| now >= held.expires_at);
        let mut gone: Vec<_> = expired.map(|(_, held)| held.snapshot).collect();
        while self.stats().kept_bytes > self.max_kept_bytes {
            let keeps = |held: &Held<V>| !held.snapshot.kept_memory().is_empty();
            let keeping = self.states.iter().filter(|(_, held)| keeps(held));
            let has_served =
                |place: &Place| matches!(self.digests.get(place), Some(DigestState::Known(_)));
            let first = keeping.min_by_key(|(place, held)| (!has_served(place), held.number));
            let Some(place) = first.map(|(place, _)| *place) else {
                break;
            };
            if !has_served(&place) {
                self.given_up += 1;
                self.note(place.0, place.1, DigestState::GivenUp);
            }
            gone.extend(self.states.remove(&place).map(|held| held.snapshot));
        }
        gone
    }

    /// What is held.
    #[must_use]
    pub fn stats(&self) -> HeldStats {
        let kept = self
            .states
            .values()
            .flat_map(|held| held.snapshot.kept_memory());
        // Many states keep the same.
        let kept: BTreeMap<usize, u64> = kept.collect();
        HeldStats {
            states: self.states.len(),
            kept_bytes: kept.values().sum(),
            given_up: self.given_up,
        }
    }

    /// A state, which is then held on for a while.
    ///
    /// # Errors
    /// Why there is none.
    pub fn state(
        &mut self,
        group: GroupId,
        index: LogIndex,
        now: Instant,
    ) -> Result<KvSnapshot<V>, &'static str> {
        if let Some(held) = self.states.get_mut(&(group, index)) {
            held.expires_at = now + self.held_for;
        }
        self.peek(group, index)
    }

    /// A state, for what was asked of it before.
    ///
    /// # Errors
    /// Why there is none.
    pub fn peek(&self, group: GroupId, index: LogIndex) -> Result<KvSnapshot<V>, &'static str> {
        let place = (group, index);
        let held = self.states.get(&place).map(|held| held.snapshot.clone());
        held.ok_or_else(|| match self.digests.get(&place) {
            Some(DigestState::GivenUp) => {
                "the state at that index was given up: what is held kept too much memory"
            }
            _ => "no state is held at that index",
        })
    }

    /// What a state comes to; and the work, if that must be computed first and nobody does it yet. It is held on meanwhile,
    /// as long as somebody asks.
    pub fn digest(
        &mut self,
        group: GroupId,
        index: LogIndex,
        now: Instant,
    ) -> (DigestState, Option<Work>) {
        let state = self.state(group, index, now);
        if let Some(known) = self.digests.get(&(group, index)) {
            return (*known, None);
        }
        let Ok(snapshot) = state else {
            return (DigestState::NotHeld, None);
        };
        self.note(group, index, DigestState::Underway);
        (DigestState::Underway, Some(Work::new(&snapshot)))
    }

    /// Nobody computes what a state comes to after all: it must be asked for again.
    pub fn forget(&mut self, group: GroupId, index: LogIndex) {
        let place = (group, index);
        if self.digests.get(&place) == Some(&DigestState::Underway) {
            self.digests.remove(&place);
        }
    }

    /// Remembers what a state comes to.
    pub fn note(&mut self, group: GroupId, index: LogIndex, digest: DigestState) {
        let place = (group, index);
        if self.digests.insert(place, digest).is_none() {
            self.oldest.push_back(place);
        }
        if self.oldest.len() > MAX_DIGESTS
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.digests.remove(&oldest);
        }
    }
}

/// A digest on its way. It does not hold the state that it reads.
pub struct Work {
    place: Place,
    pieces: Pieces,
    hash: StateHash,
    after: Option<Bytes>,
    rows: u64,
    bytes: u64,
}

impl Work {
    /// Begins with the record, less what is each node's own about it.
    #[must_use]
    pub fn new<V: View>(snapshot: &KvSnapshot<V>) -> Self {
        let shared = ReplicaRecord {
            replica: ReplicaId(0),
            pieces: TabletId(0).into(),
            ..snapshot.record().clone()
        };
        let mut record = Vec::new();
        shared.encode(&mut record);
        let mut hash = StateHash::default();
        hash.push(b"", &record);
        Self {
            place: (snapshot.record().group, snapshot.applied()),
            pieces: snapshot.record().pieces.clone(),
            hash,
            after: None,
            rows: 0,
            bytes: 0,
        }
    }

    /// The state that it reads.
    #[must_use]
    pub const fn place(&self) -> (GroupId, LogIndex) {
        self.place
    }

    /// Where the rows are that are read.
    #[must_use]
    pub const fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// Goes on with its state for about so many bytes of rows; the digest, if these were the last. `bytes` have been read of
    /// all rows so far.
    ///
    /// # Errors
    /// If a row could not be read.
    ///
    /// # Panics
    /// If the state is another one.
    pub fn advance<V: View>(
        &mut self,
        snapshot: &KvSnapshot<V>,
        max_bytes: u64,
    ) -> Result<Option<Digest>, StoreError> {
        let place = (snapshot.record().group, snapshot.applied());
        assert_eq!(place, self.place, "a digest goes on with another state");
        let until = self.bytes + max_bytes;
        let after = self.after.take();
        for row in snapshot.rows(after.as_deref()) {
            let (key, value) = row?;
            self.hash.push(&key, &value);
            self.rows += 1;
            self.bytes += (key.len() + value.len()) as u64;
            if self.bytes >= until {
                self.after = Some(key);
                return Ok(None);
            }
        }
        Ok(Some(Digest {
            replica: snapshot.record().replica,
            hash: self.hash.finish(),
            rows: self.rows,
            bytes: self.bytes,
        }))
    }

    /// Bytes of the rows read so far.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The user's rows of a state behind a key, or from the first on: about so many bytes, but at least one row.
///
/// # Errors
/// If a row could not be read.
pub fn page<V: View>(
    snapshot: &KvSnapshot<V>,
    after: Option<&[u8]>,
    max_bytes: usize,
) -> Result<ScanPage, StoreError> {
    const DATA: u8 = Space::Data as u8;
    // A key of a state begins with its space.
    let after = match after {
        Some(after) => [&[DATA], after].concat(),
        None => vec![DATA],
    };
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for row in snapshot.rows(Some(&after)) {
        let (key, value) = row?;
        if key.first() != Some(&DATA) {
            break;
        }
        if bytes >= max_bytes {
            return Ok(ScanPage { rows, more: true });
        }
        bytes += key.len() + value.len();
        rows.push((key.slice(1..), value));
    }
    Ok(ScanPage { rows, more: false })
}
