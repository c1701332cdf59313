//! The state machine of 64 groups on a store, and the puts that come next.

use crate::{EPOCH, command, key, record};
use pontoon_store::{KvMachine, KvReader, Outcome, ReadError, ScanLimits, Store};
use pontoon_types::{Entry, EntryKind, GroupId, LogIndex, ReplicaId, ShardId, Term};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// A machine with rows in it. Keys are drawn at random from a bounded set, so that a bench may go on
/// for as long as it likes.
pub struct MachineFixture<S: Store> {
    machine: KvMachine<S>,
    last: Vec<LogIndex>,
    value: Vec<u8>,
    rng: StdRng,
    outcomes: Vec<Outcome>,
}

impl<S: Store> MachineFixture<S> {
    /// How many groups there are.
    pub const GROUPS: u64 = 64;
    /// How many keys each of them has.
    pub const KEYS: u64 = 1024;
    /// The length of each value.
    pub const VALUE_BYTES: usize = 128;

    /// A machine on an empty store, with every key written once.
    ///
    /// # Panics
    /// If the store fails.
    #[must_use]
    pub fn new(store: S) -> Self {
        let mut machine = KvMachine::open(store).expect("an empty store can be read");
        let groups = (1..=Self::GROUPS).map(GroupId);
        let records: Vec<_> = groups.map(|g| record(g, ReplicaId(1), 1)).collect();
        machine.bootstrap(&records, &[]).expect("the store writes");
        let mut fixture = Self {
            machine,
            last: vec![LogIndex::ZERO; Self::GROUPS as usize],
            value: vec![7; Self::VALUE_BYTES],
            rng: StdRng::seed_from_u64(1),
            outcomes: Vec::new(),
        };
        for number in 0..Self::KEYS {
            let groups = (1..=Self::GROUPS).map(GroupId);
            let entries: Vec<_> = groups.map(|group| fixture.entry(group, number)).collect();
            fixture.apply(&entries);
        }
        fixture
    }

    fn entry(&mut self, group: GroupId, number: u64) -> Entry {
        let last = &mut self.last[group.0 as usize - 1];
        *last = last.next();
        let payload = command(group, key(number).as_bytes(), &self.value);
        Entry::encode(group, Term(1), *last, EntryKind::Command, &payload)
    }

    /// The next `count` puts, those of one group together, as a cycle hands them over.
    #[must_use]
    pub fn next_entries(&mut self, count: u64) -> Vec<Entry> {
        let first: u64 = self.rng.random_range(0..Self::GROUPS);
        let groups = count.min(Self::GROUPS);
        (0..count)
            .map(|at| {
                let group = (first + at * groups / count) % Self::GROUPS;
                let number = self.rng.random_range(0..Self::KEYS);
                self.entry(GroupId(group + 1), number)
            })
            .collect()
    }

    /// Applies entries in one batch.
    ///
    /// # Panics
    /// If the store fails.
    pub fn apply(&mut self, entries: &[Entry]) {
        let applied = self.machine.apply(entries, &mut self.outcomes);
        applied.expect("the store writes");
        assert_eq!(self.outcomes.last(), Some(&Outcome::Written));
    }

    /// The store below.
    pub fn store_mut(&mut self) -> &mut S {
        self.machine.store_mut()
    }

    /// Pins the present version.
    #[must_use]
    pub fn reader(&self) -> KvReader<S::View> {
        self.machine.reader()
    }

    /// Keys that are there, at random, with their groups.
    #[must_use]
    pub fn some_keys(&mut self, count: usize) -> Vec<(GroupId, String)> {
        let mut draw = || {
            let group = GroupId(self.rng.random_range(1..=Self::GROUPS));
            (group, key(self.rng.random_range(0..Self::KEYS / 2)))
        };
        (0..count).map(|_| draw()).collect()
    }
}

/// Reads one key and says whether it is there.
///
/// # Errors
/// If the read is refused.
pub fn get<V: pontoon_store::View>(
    reader: &KvReader<V>,
    group: GroupId,
    key: &str,
) -> Result<bool, ReadError> {
    let value = reader.get(group, ShardId(group.0), EPOCH, key.as_bytes())?;
    Ok(value.is_some())
}

/// Reads up to `rows` rows from a key on and returns how many there were.
///
/// # Errors
/// If the read is refused.
pub fn scan<V: pontoon_store::View>(
    reader: &KvReader<V>,
    group: GroupId,
    from: &str,
    rows: usize,
) -> Result<usize, ReadError> {
    let limits = ScanLimits {
        rows,
        bytes: usize::MAX,
    };
    let range = (from.as_bytes(), &b""[..]);
    let page = reader.scan(group, ShardId(group.0), EPOCH, range, limits)?;
    Ok(page.rows.len())
}
