//! What clients were told, held against what is there.
//!
//! While a load runs, every write is noted before it is sent and again when it ended: as
//! acknowledged, refused, or of unknown outcome. Afterwards [`History::check`] says for a key and
//! what was read from it whether that can be the truth:
//!
//! - an **acknowledged** write must be there, unless a write of the same key that ended after it
//!   began, or has no known end, may have overwritten it;
//! - a write of **unknown outcome** may be there or not, and may still come at any later time;
//! - a **refused** write must not be there.
//!
//! This is what linearizability asks of the last read of a register. Time is a counter that every
//! beginning and every end advances, so "ended before it began" is exact, not measured.
//!
//! Memory is bounded by the keys and not by the writes: when a write is acknowledged, all writes
//! of its key that were acknowledged before it began can never be read again, and are forgotten.
//! Only unknown outcomes stay. Of a value its 64-bit hash is kept.

use indexmap::IndexMap;
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::xxh3_64;

/// What a write was to leave at its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Effect(Option<u64>);

impl Effect {
    fn of(value: Option<&[u8]>) -> Self {
        Self(value.map(xxh3_64))
    }
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The cluster said that it is done.
    Acknowledged,
    /// Nobody knows.
    Unknown,
    /// The cluster said that it is not done and never will be.
    Refused,
}

/// A write on its way; give it back to [`History::end`].
#[derive(Debug)]
#[must_use = "a write that never ends counts as unknown for ever"]
pub struct Pending {
    began: u64,
    shelf: usize,
    place: usize,
}

/// A write that a read may still return.
#[derive(Clone, Debug)]
struct Candidate {
    began: u64,
    /// `None`: on its way, or of unknown outcome.
    ended: Option<u64>,
    effect: Effect,
}

#[derive(Debug, Default)]
struct Register {
    candidates: SmallVec<[Candidate; 2]>,
    /// Acknowledged writes of this key, forgotten ones too.
    acknowledged: u64,
    /// When the latest of the acknowledged writes began: whatever ended before is overwritten.
    overwritten_before: u64,
    checked: bool,
}

/// What a key says about its acknowledged writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What was read can be the truth.
    Right,
    /// An acknowledged write is gone: nothing is there.
    Lost,
    /// Another value is there than any that may be: an overwritten one, a refused one, or one that
    /// nobody wrote.
    Wrong,
    /// Something is there, and nobody wrote this key.
    Unexpected,
}

/// The record of all writes; shared by all clients.
#[derive(Debug)]
pub struct History {
    clock: AtomicU64,
    shelves: Vec<Mutex<Shelf>>,
}

/// The registers of some of the keys. A register stays in its place, beside its key if that is short.
type Shelf = IndexMap<SmallVec<[u8; 24]>, Register>;

/// Counts of a whole history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Writes of unknown outcome.
    pub unknown: u64,
    /// Keys that were written.
    pub keys: u64,
}

const SHELVES: usize = 64;

impl Default for History {
    fn default() -> Self {
        Self {
            clock: AtomicU64::new(1),
            shelves: (0..SHELVES).map(|_| Mutex::default()).collect(),
        }
    }
}

impl History {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn shelf_of(key: &[u8]) -> usize {
        xxh3_64(key) as usize % SHELVES
    }

    fn shelf(&self, key: &[u8]) -> &Mutex<Shelf> {
        &self.shelves[Self::shelf_of(key)]
    }

    /// A write is about to be sent: `value` to `key`, or its removal.
    pub fn begin(&self, key: &[u8], value: Option<&[u8]>) -> Pending {
        let effect = Effect::of(value);
        let number = Self::shelf_of(key);
        let mut shelf = self.shelves[number].lock();
        let began = self.now();
        let candidate = Candidate {
            began,
            ended: None,
            effect,
        };
        let entry = shelf.entry(SmallVec::from_slice(key));
        let place = entry.index();
        entry.or_default().candidates.push(candidate);
        Pending {
            began,
            shelf: number,
            place,
        }
    }

    /// The write has ended.
    ///
    /// # Panics
    /// If it did not begin here.
    pub fn end(&self, pending: Pending, outcome: Outcome) {
        let mut shelf = self.shelves[pending.shelf].lock();
        let now = self.now();
        let register = &mut shelf[pending.place];
        let place = register
            .candidates
            .iter()
            .position(|candidate| candidate.began == pending.began)
            .expect("a write on its way is kept");
        match outcome {
            Outcome::Unknown => {}
            Outcome::Refused => {
                register.candidates.swap_remove(place);
            }
            Outcome::Acknowledged => {
                register.candidates[place].ended = Some(now);
                register.acknowledged += 1;
                register.overwritten_before = register.overwritten_before.max(pending.began);
                let last_began = register.overwritten_before;
                register
                    .candidates
                    .retain(|candidate| candidate.ended.is_none_or(|ended| ended >= last_began));
            }
        }
    }

    /// Whether `found` can be what a read returns that began after every write ended. Call it once
    /// for each key.
    pub fn check(&self, key: &[u8], found: Option<&[u8]>) -> Verdict {
        let mut shelf = self.shelf(key).lock();
        let Some(register) = shelf.get_mut(key) else {
            return match found {
                Some(_) => Verdict::Unexpected,
                None => Verdict::Right,
            };
        };
        register.checked = true;
        let effect = Effect::of(found);
        let possible = register
            .candidates
            .iter()
            .any(|candidate| candidate.effect == effect);
        match found {
            _ if possible => Verdict::Right,
            // Keys are absent before they are first written.
            None if register.acknowledged == 0 => Verdict::Right,
            None => Verdict::Lost,
            Some(_) => Verdict::Wrong,
        }
    }

    /// Acknowledged writes of one key.
    pub fn acknowledged(&self, key: &[u8]) -> u64 {
        self.shelf(key)
            .lock()
            .get(key)
            .map_or(0, |register| register.acknowledged)
    }

    /// Keys that [`Self::check`] was not called for.
    pub fn unchecked_keys(&self) -> Vec<Box<[u8]>> {
        let mut keys = Vec::new();
        for shelf in &self.shelves {
            let shelf = shelf.lock();
            let unchecked = shelf.iter().filter(|(_, register)| !register.checked);
            keys.extend(unchecked.map(|(key, _)| Box::from(&key[..])));
        }
        keys
    }

    /// Counts over all keys. Writes still on their way count as unknown.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for shelf in &self.shelves {
            for register in shelf.lock().values() {
                tally.keys += 1;
                tally.acknowledged += register.acknowledged;
                let unknown = register.candidates.iter().filter(|one| one.ended.is_none());
                tally.unknown += unknown.count() as u64;
            }
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Acknowledged, Refused, Unknown};

    fn write(history: &History, value: &str, outcome: Outcome) {
        let pending = history.begin(b"k", Some(value.as_bytes()));
        history.end(pending, outcome);
    }

    fn check(history: &History, found: Option<&str>) -> Verdict {
        history.check(b"k", found.map(str::as_bytes))
    }

    #[test]
    fn an_acknowledged_write_must_be_there() {
        let history = History::default();
        write(&history, "a", Acknowledged);
        assert_eq!(check(&history, Some("a")), Verdict::Right);
        assert_eq!(check(&history, None), Verdict::Lost);
        assert_eq!(check(&history, Some("x")), Verdict::Wrong);
    }

    #[test]
    fn a_stale_value_is_wrong() {
        let history = History::default();
        write(&history, "old", Acknowledged);
        write(&history, "new", Acknowledged);
        assert_eq!(check(&history, Some("new")), Verdict::Right);
        assert_eq!(check(&history, Some("old")), Verdict::Wrong);
        assert_eq!(history.acknowledged(b"k"), 2);
    }

    #[test]
    fn an_unknown_write_may_be_there_or_not() {
        let history = History::default();
        write(&history, "a", Acknowledged);
        write(&history, "b", Unknown);
        assert_eq!(check(&history, Some("a")), Verdict::Right);
        assert_eq!(check(&history, Some("b")), Verdict::Right);
        assert_eq!(check(&history, None), Verdict::Lost);
    }

    #[test]
    fn an_unknown_write_may_come_late() {
        let history = History::default();
        write(&history, "late", Unknown);
        write(&history, "a", Acknowledged);
        write(&history, "b", Acknowledged);
        assert_eq!(check(&history, Some("late")), Verdict::Right);
        assert_eq!(check(&history, Some("b")), Verdict::Right);
        assert_eq!(check(&history, Some("a")), Verdict::Wrong);
        assert_eq!(history.tally().unknown, 1);
    }

    #[test]
    fn a_key_with_unknown_writes_only_may_be_absent() {
        let history = History::default();
        write(&history, "a", Unknown);
        assert_eq!(check(&history, None), Verdict::Right);
    }

    #[test]
    fn a_refused_write_must_not_be_there() {
        let history = History::default();
        write(&history, "a", Acknowledged);
        write(&history, "no", Refused);
        assert_eq!(check(&history, Some("no")), Verdict::Wrong);
        assert_eq!(check(&history, Some("a")), Verdict::Right);
    }

    #[test]
    fn of_writes_at_the_same_time_either_may_be_last() {
        let history = History::default();
        let first = history.begin(b"k", Some(b"1"));
        let second = history.begin(b"k", Some(b"2"));
        history.end(second, Acknowledged);
        history.end(first, Acknowledged);
        assert_eq!(check(&history, Some("1")), Verdict::Right);
        assert_eq!(check(&history, Some("2")), Verdict::Right);
        write(&history, "3", Acknowledged);
        assert_eq!(check(&history, Some("1")), Verdict::Wrong);
        assert_eq!(check(&history, Some("2")), Verdict::Wrong);
        assert_eq!(check(&history, Some("3")), Verdict::Right);
    }

    #[test]
    fn an_early_end_does_not_hide_behind_a_long_write() {
        // `long` spans both others; `old` ended before `new` began.
        let history = History::default();
        let long = history.begin(b"k", Some(b"long"));
        write(&history, "old", Acknowledged);
        write(&history, "new", Acknowledged);
        history.end(long, Acknowledged);
        assert_eq!(check(&history, Some("old")), Verdict::Wrong);
        assert_eq!(check(&history, Some("new")), Verdict::Right);
        assert_eq!(check(&history, Some("long")), Verdict::Right);
    }

    #[test]
    fn a_removal_is_a_write() {
        let history = History::default();
        write(&history, "a", Acknowledged);
        let pending = history.begin(b"k", None);
        history.end(pending, Acknowledged);
        assert_eq!(check(&history, None), Verdict::Right);
        assert_eq!(check(&history, Some("a")), Verdict::Wrong);
    }

    #[test]
    fn a_row_that_nobody_wrote_is_unexpected() {
        let history = History::default();
        assert_eq!(history.check(b"other", Some(b"x")), Verdict::Unexpected);
        assert_eq!(history.check(b"other", None), Verdict::Right);
    }

    #[test]
    fn keys_that_were_not_checked_are_named() {
        let history = History::default();
        write(&history, "a", Acknowledged);
        assert_eq!(history.unchecked_keys(), vec![Box::from(*b"k")]);
        check(&history, Some("a"));
        assert!(history.unchecked_keys().is_empty());
    }

    #[test]
    fn what_was_overwritten_is_forgotten() {
        let history = History::default();
        for round in 0..1000 {
            write(&history, &round.to_string(), Acknowledged);
        }
        let shelf = history.shelf(b"k").lock();
        assert_eq!(shelf.len(), 1);
        assert_eq!(shelf[0].candidates.len(), 1);
        assert_eq!(shelf[0].acknowledged, 1000);
    }
}
