//! S8: what the clients saw is what one register per key could have shown them.
//!
//! Each key's history is checked by itself (linearizability is local: Herlihy and Wing 1990) with the
//! search of Wing and Gong (1993), Lowe's memory of visited states (2017), and two shortcuts:
//!
//! - A call that changes nothing is put in order as soon as the register's value allows it: where it
//!   stands cannot hinder what follows.
//! - A write of unknown outcome stays open for ever, for it may be done at any time or never. One whose value
//!   nobody has ever seen is left out: an order with it is also one without it.

use super::{Checked, Invariant, Violation, check_counts};
use pontoon_types::Instant;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A value by its number; 0 is no value. Every write has a number of its own.
pub type ValueId = u64;

/// What a call did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read the value.
    Read(ValueId),
    /// Set the value, or removed it.
    Write(ValueId),
    /// Found `expect` and set `set`; if the outcome is unknown: or found something else and did nothing.
    Swap {
        /// What had to be there.
        expect: ValueId,
        /// What was there afterwards.
        set: ValueId,
    },
    /// Wanted to find `expect`, found `actual` instead.
    NoSwap {
        /// What had to be there.
        expect: ValueId,
        /// What was there.
        actual: ValueId,
    },
    /// Counted up, to that number if it is known. No register does; see [`check_counts`].
    Count(Option<u64>),
}

impl Action {
    /// The register's value after it, or nothing if it cannot have happened.
    fn after(self, value: ValueId) -> Option<ValueId> {
        match self {
            Self::Read(seen) => (seen == value).then_some(value),
            Self::Write(written) => Some(written),
            Self::Swap { expect, set } => (expect == value).then_some(set),
            Self::NoSwap { expect, actual } => {
                (actual == value && expect != actual).then_some(value)
            }
            Self::Count(_) => None,
        }
    }

    const fn changes(self) -> bool {
        matches!(self, Self::Write(_) | Self::Swap { .. } | Self::Count(_))
    }
}

/// A call of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it began.
    pub began: Instant,
    /// When its answer came; none if its outcome is unknown.
    pub ended: Option<Instant>,
    /// What it did.
    pub action: Action,
}

/// All calls, by key.
#[derive(Debug, Default)]
pub struct Linearizability {
    calls: BTreeMap<u64, Vec<Call>>,
}

impl Linearizability {
    /// A call has ended, or was given up. Reads without an answer are not calls.
    pub fn call(&mut self, key: u64, call: Call) {
        self.calls.entry(key).or_default().push(call);
    }

    /// Checks every key's history.
    ///
    /// # Errors
    /// Names the first key whose history is not that of a register, with the calls around the point
    /// that no order gets past; or, if it is counted, not that of a counter.
    pub fn check(&self) -> Checked {
        for (key, calls) in &self.calls {
            let is_counted = calls
                .iter()
                .any(|call| matches!(call.action, Action::Count(_)));
            let check = if is_counted { check_counts } else { check_key };
            check(calls)
                .map_err(|what| Violation::new(Invariant::S8, format!("key {key}: {what}")))?;
        }
        Ok(())
    }

    /// How many calls there are.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.values().map(Vec::len).sum()
    }
}

/// A point of the search: which calls are in order, and the value after them.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Point {
    /// A bit per call.
    done: Vec<u64>,
    value: ValueId,
}

impl Point {
    fn holds(&self, call: usize) -> bool {
        self.done[call / 64] & (1 << (call % 64)) != 0
    }

    fn with(mut self, call: usize, value: ValueId) -> Self {
        self.done[call / 64] |= 1 << (call % 64);
        self.value = value;
        self
    }
}

/// Checks one key's history.
///
/// # Errors
/// What could not be put in order, in words.
pub fn check_key(calls: &[Call]) -> Result<(), String> {
    let calls = relevant(calls);
    let mut visited = HashSet::new();
    let mut stack = vec![Point {
        done: vec![0; calls.len().div_ceil(64)],
        value: 0,
    }];
    let (mut furthest, mut stuck_at) = (0, None);
    while let Some(point) = stack.pop() {
        // Whatever comes next must have begun before any call that is still to be put in order ended.
        let (mut first_end, mut in_order, mut next) = (None, 0, Vec::new());
        for (at, call) in calls.iter().enumerate() {
            if first_end.is_some_and(|end| call.began > end) {
                break;
            }
            if point.holds(at) {
                in_order += 1;
                continue;
            }
            first_end = first_end.into_iter().chain(call.ended).min();
            if let Some(value) = call.action.after(point.value) {
                next.push((at, value));
            }
        }
        let Some(first_end) = first_end else {
            return Ok(());
        };
        next.retain(|(at, _)| calls[*at].began <= first_end);
        if in_order >= furthest {
            furthest = in_order;
            stuck_at = Some((first_end, point.value));
        }
        let observer = next.iter().find(|(call, _)| !calls[*call].action.changes());
        let chosen = observer.map_or(&next[..], std::slice::from_ref);
        for (call, value) in chosen.iter().rev() {
            let point = point.clone().with(*call, *value);
            if visited.insert(point.clone()) {
                stack.push(point);
            }
        }
    }
    let (at, value) = stuck_at.unwrap_or_default();
    let around: Vec<_> = calls
        .iter()
        .filter(|call| call.began <= at && call.ended.is_none_or(|ended| ended >= at))
        .collect();
    Err(format!(
        "no order explains what was seen by {at:?}; after {furthest} of {} calls the value would be {value}, and these \
         were under way: {around:?}",
        calls.len()
    ))
}

/// The calls in the order in which they began, without writes of unknown outcome that nobody has seen.
fn relevant(calls: &[Call]) -> Vec<Call> {
    // A swap that may have been done and was seen has itself seen what it expected.
    let mut seen = BTreeSet::new();
    let mut before = None;
    while before != Some(seen.len()) {
        before = Some(seen.len());
        for call in calls {
            match call.action {
                Action::Read(value) | Action::NoSwap { actual: value, .. } => seen.insert(value),
                Action::Swap { expect, set } if call.ended.is_some() || seen.contains(&set) => {
                    seen.insert(expect)
                }
                Action::Swap { .. } | Action::Write(_) | Action::Count(_) => false,
            };
        }
    }
    let mut calls: Vec<Call> = calls
        .iter()
        .filter(|call| match call.action {
            Action::Write(set) | Action::Swap { set, .. } => {
                call.ended.is_some() || seen.contains(&set)
            }
            Action::Read(_) | Action::NoSwap { .. } | Action::Count(_) => true,
        })
        .copied()
        .collect();
    calls.sort_by_key(|call| call.began);
    calls
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn call(began: u64, ended: impl Into<Option<u64>>, action: Action) -> Call {
        Call {
            began: Instant::from_nanos(began),
            ended: ended.into().map(Instant::from_nanos),
            action,
        }
    }

    use Action::{NoSwap, Read, Swap, Write};

    #[test]
    fn histories_of_a_register_pass() {
        let histories: [&[Call]; 7] = [
            &[],
            &[
                call(0, 1, Read(0)),
                call(2, 3, Write(1)),
                call(4, 5, Read(1)),
            ],
            // Overlapping: the read may be before or after.
            &[
                call(0, 9, Write(1)),
                call(1, 2, Read(0)),
                call(3, 4, Read(1)),
            ],
            &[
                call(0, 9, Write(1)),
                call(0, 9, Write(2)),
                call(1, 2, Read(2)),
                call(3, 4, Read(1)),
            ],
            // An unknown write takes effect long after it was given up.
            &[
                call(0, None, Write(1)),
                call(5, 6, Read(0)),
                call(7, 8, Read(1)),
            ],
            // Two unknown calls, of which the first is seen only by the second.
            &[
                call(0, 1, Write(1)),
                call(2, None, Write(0)),
                call(3, None, Swap { expect: 0, set: 2 }),
                call(4, 5, Read(2)),
            ],
            &[
                call(0, 1, Swap { expect: 0, set: 1 }),
                call(
                    2,
                    3,
                    NoSwap {
                        expect: 0,
                        actual: 1,
                    },
                ),
                call(4, 5, Swap { expect: 1, set: 2 }),
                call(6, 7, Read(2)),
            ],
        ];
        for history in histories {
            assert_eq!(check_key(history), Ok(()), "{history:?}");
        }
    }

    #[test]
    fn histories_of_no_register_are_found() {
        let histories: [&[Call]; 7] = [
            // A stale read.
            &[
                call(0, 1, Write(1)),
                call(2, 3, Write(2)),
                call(4, 5, Read(1)),
            ],
            // A lost write.
            &[call(0, 1, Write(1)), call(2, 3, Read(0))],
            // A read of the future.
            &[call(0, 1, Read(1)), call(2, 3, Write(1))],
            // Back in time.
            &[
                call(0, 9, Write(1)),
                call(1, 2, Read(1)),
                call(3, 4, Read(0)),
            ],
            // Two swaps of the same value, both done.
            &[
                call(0, 1, Swap { expect: 0, set: 1 }),
                call(0, 1, Swap { expect: 0, set: 2 }),
            ],
            // An unknown write that comes, goes and comes again: applied twice.
            &[
                call(0, None, Write(1)),
                call(1, 2, Read(1)),
                call(3, 4, Write(2)),
                call(5, 6, Read(2)),
                call(7, 8, Read(1)),
            ],
            // A swap that failed although it found what it wanted.
            &[call(
                0,
                1,
                NoSwap {
                    expect: 0,
                    actual: 0,
                },
            )],
        ];
        for history in histories {
            assert!(check_key(history).is_err(), "{history:?}");
        }
    }

    #[test]
    fn many_calls_at_once_are_checked_in_reasonable_time() {
        let mut calls = Vec::new();
        for round in 0..40 {
            for client in 0..8 {
                let began = round * 100 + client;
                calls.push(call(began, began + 90, Write(round * 8 + client + 1)));
            }
        }
        calls.push(call(5_000, 5_001, Read(320)));
        assert_eq!(check_key(&calls), Ok(()));
        calls.push(call(5_002, 5_003, Read(312)));
        assert!(check_key(&calls).is_err());
    }

    #[test]
    fn the_key_is_named() {
        let mut checker = Linearizability::default();
        checker.call(3, call(0, 1, Write(1)));
        assert_eq!(checker.check(), Ok(()));
        checker.call(4, call(0, 1, Read(9)));
        let violation = checker.check().expect_err("nobody has written 9");
        assert_eq!(violation.invariant, Invariant::S8);
        assert!(violation.what.starts_with("key 4"));
    }
}
