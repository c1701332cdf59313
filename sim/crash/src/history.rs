//! What the clients asked for and what they saw, by key.

use bytes::Bytes;
use parking_lot::Mutex;
use pontoon_sim::invariants::{Action, Call, Invariant, ValueId, Violation, check_key};
use pontoon_types::Instant;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// All calls of all clients. A write is noted before it is sent, as one of unknown outcome; so the
/// history can be checked at any moment, whatever is under way.
#[derive(Debug)]
pub(crate) struct History {
    began: std::time::Instant,
    calls: Mutex<BTreeMap<u64, Vec<Option<Call>>>>,
    last_value: AtomicU64,
    pub(crate) counts: Counts,
}

/// How many calls came to what.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) removals: AtomicU64,
    pub(crate) swaps: AtomicU64,
    /// Swaps that found something else than they wanted.
    pub(crate) not_swapped: AtomicU64,
    /// Writes, removals and swaps that may have been done or not.
    pub(crate) unknown: AtomicU64,
    /// Those that were surely not.
    pub(crate) refused: AtomicU64,
    /// Reads without an answer.
    pub(crate) unread: AtomicU64,
}

impl Counts {
    /// Calls that succeeded.
    pub(crate) fn done(&self) -> u64 {
        let done = [
            &self.reads,
            &self.writes,
            &self.removals,
            &self.swaps,
            &self.not_swapped,
        ];
        done.iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum::<u64>()
    }
}

/// A write that is noted and has no answer yet.
#[derive(Debug)]
pub(crate) struct Pending {
    key: u64,
    place: usize,
}

impl History {
    pub(crate) fn new() -> Self {
        Self {
            began: std::time::Instant::now(),
            calls: Mutex::default(),
            last_value: AtomicU64::new(0),
            counts: Counts::default(),
        }
    }

    pub(crate) fn now(&self) -> Instant {
        let nanos = self.began.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// A value that no other write has.
    pub(crate) fn new_value(&self) -> ValueId {
        self.last_value.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A write, a removal or a swap is about to be sent.
    pub(crate) fn begin(&self, key: u64, action: Action) -> Pending {
        let mut calls = self.calls.lock();
        let of_key = calls.entry(key).or_default();
        of_key.push(Some(Call {
            began: self.now(),
            ended: None,
            action,
        }));
        let place = of_key.len() - 1;
        Pending { key, place }
    }

    /// It was done; or, of a swap, `instead` was.
    pub(crate) fn done(&self, pending: &Pending, instead: Option<Action>) {
        let now = self.now();
        if let Some(call) = self.of(pending, &mut self.calls.lock()) {
            call.ended = Some(now);
            call.action = instead.unwrap_or(call.action);
        }
    }

    /// It was surely not done.
    pub(crate) fn refused(&self, pending: &Pending) {
        if let Some(of_key) = self.calls.lock().get_mut(&pending.key) {
            of_key[pending.place] = None;
        }
    }

    /// A read that began then has been answered.
    pub(crate) fn read(&self, key: u64, began: Instant, value: ValueId) {
        let call = Call {
            began,
            ended: Some(self.now()),
            action: Action::Read(value),
        };
        self.calls.lock().entry(key).or_default().push(Some(call));
    }

    fn of<'a>(
        &self,
        pending: &Pending,
        calls: &'a mut BTreeMap<u64, Vec<Option<Call>>>,
    ) -> Option<&'a mut Call> {
        calls.get_mut(&pending.key)?[pending.place].as_mut()
    }

    /// Every key that was ever used.
    pub(crate) fn keys(&self) -> Vec<u64> {
        self.calls.lock().keys().copied().collect()
    }

    /// Checks the histories of these keys, and says how many calls are in them.
    ///
    /// # Errors
    /// Names the first key that no register explains.
    pub(crate) fn check(&self, keys: &[u64]) -> Result<u64, Violation> {
        let mut checked = 0;
        for key in keys {
            let calls: Vec<Call> = match self.calls.lock().get(key) {
                Some(calls) => calls.iter().flatten().copied().collect(),
                None => continue,
            };
            check_key(&calls)
                .map_err(|what| Violation::new(Invariant::S8, format!("key {key}: {what}")))?;
            checked += calls.len() as u64;
        }
        Ok(checked)
    }
}

/// The bytes that stand for a value: of many lengths, and whole only if every byte is right.
pub(crate) fn bytes_of(value: ValueId) -> Bytes {
    let mut bytes = format!("{value}:").into_bytes();
    // One in fifty fills some pages of the log.
    let most = if value.is_multiple_of(50) {
        20_000
    } else {
        600
    };
    let filler = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let length = (filler >> 32) % most;
    bytes.extend((0..length).map(|at| (filler >> (at % 8 * 8)) as u8));
    bytes.into()
}

/// The value that these bytes stand for.
///
/// # Errors
/// If they are no value's.
pub(crate) fn value_of(key: u64, bytes: Option<&[u8]>) -> Result<ValueId, Violation> {
    let Some(bytes) = bytes else {
        return Ok(0);
    };
    let number = bytes.split(|byte| *byte == b':').next();
    let number = number.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    match number {
        Some(value) if bytes_of(value) == bytes => Ok(value),
        _ => {
            let what = format!("key {key} holds {} bytes that nobody wrote", bytes.len());
            Err(Violation::new(Invariant::S8, what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_by_all_of_its_bytes() {
        for value in 1..500 {
            let bytes = bytes_of(value);
            assert_eq!(value_of(1, Some(&bytes)), Ok(value));
            let mut damaged = bytes.to_vec();
            *damaged.last_mut().expect("no value is empty") ^= 1;
            assert!(value_of(1, Some(&damaged)).is_err());
        }
        assert_eq!(value_of(1, None), Ok(0));
    }

    #[test]
    fn a_history_can_be_checked_while_calls_are_under_way() {
        let history = History::new();
        let first = history.begin(1, Action::Write(1));
        let began = history.now();
        history.read(1, began, 1);
        assert_eq!(history.check(&[1]), Ok(2));
        history.done(&first, None);
        let lost = history.begin(1, Action::Write(2));
        history.done(&lost, None);
        assert_eq!(history.check(&[1]), Ok(3));
        history.read(1, history.now(), 1);
        assert!(history.check(&[1]).is_err());
    }

    #[test]
    fn what_was_refused_must_not_be_seen() {
        let history = History::new();
        let refused = history.begin(1, Action::Write(1));
        history.refused(&refused);
        history.read(1, history.now(), 0);
        assert_eq!(history.check(&[1]), Ok(1));
        history.read(1, history.now(), 1);
        assert!(history.check(&[1]).is_err());
    }
}
