//! S8 for counters: what the clients saw is what one counter per name could have shown them.
//!
//! Counts are told apart by their numbers, so no order has to be searched for. A history is one of a counter if
//!
//! - no number is given out twice,
//! - what ended before another call began has a smaller number than that, or for reads one that is not larger,
//! - and by the time that a number was seen, at least as many calls had begun as it takes to get there.

use super::{Action, Call};
use pontoon_types::Instant;

/// What a call saw of the counter, and whether it had counted up itself.
#[derive(Clone, Copy)]
struct Seen {
    began: Instant,
    ended: Instant,
    number: u64,
    counted: bool,
}

/// Checks one name's history, of counts and reads.
///
/// # Errors
/// What no counter does, in words.
pub fn check_counts(calls: &[Call]) -> Result<(), String> {
    let mut seen = Vec::new();
    let mut begun = Vec::new();
    for call in calls {
        let (number, counted) = match call.action {
            Action::Read(number) => (Some(number), false),
            Action::Count(number) => (number, true),
            other => return Err(format!("{other:?} of a counter")),
        };
        if counted {
            begun.push(call.began);
        }
        if let (Some(number), Some(ended)) = (number, call.ended) {
            let began = call.began;
            seen.push(Seen {
                began,
                ended,
                number,
                counted,
            });
        }
    }
    begun.sort_unstable();
    for one in &seen {
        let possible = begun.partition_point(|began| *began <= one.ended) as u64;
        if one.number > possible {
            return Err(format!(
                "{} at {:?}, after at most {possible} counts",
                one.number, one.ended
            ));
        }
    }
    seen.sort_unstable_by_key(|one| (one.number, !one.counted));
    if let Some(pair) = seen
        .windows(2)
        .find(|pair| pair[0].number == pair[1].number && pair[1].counted)
    {
        return Err(format!("{} was given out twice", pair[0].number));
    }
    if seen
        .first()
        .is_some_and(|one| one.counted && one.number == 0)
    {
        return Err("0 was given out".to_owned());
    }
    // From the largest number down: whoever has a smaller one must not have begun after a larger one was known.
    let mut earliest_end: Option<(Instant, u64)> = None;
    for of_number in seen.chunk_by(|one, next| one.number == next.number).rev() {
        for one in of_number {
            if let Some((ended, number)) = earliest_end
                && ended < one.began
            {
                return Err(format!(
                    "{} by a call that began at {:?}, after {number} was seen at {ended:?}",
                    one.number, one.began
                ));
            }
        }
        // Within a number its count comes first: a read of it that had ended before was too early.
        let count = of_number.iter().find(|one| one.counted);
        if let Some(count) = count
            && let Some(read) = of_number.iter().find(|one| one.ended < count.began)
        {
            return Err(format!(
                "{} was read at {:?}, and counted after that",
                read.number, read.ended
            ));
        }
        let ends = of_number.iter().map(|one| (one.ended, one.number));
        earliest_end = ends.chain(earliest_end).min();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Action::{Count, Read};
    use super::*;
    use crate::invariants::s8_linearizable::tests::call;

    #[test]
    fn histories_of_a_counter_pass() {
        let histories: [&[Call]; 4] = [
            &[],
            &[
                call(0, 1, Read(0)),
                call(2, 3, Count(Some(1))),
                call(4, 5, Read(1)),
            ],
            // Overlapping counts in either order, and a read in between.
            &[
                call(0, 9, Count(Some(2))),
                call(0, 9, Count(Some(1))),
                call(1, 8, Read(1)),
                call(10, 11, Count(Some(3))),
            ],
            // One of unknown outcome takes effect late, another never.
            &[
                call(0, None, Count(None)),
                call(0, None, Count(None)),
                call(5, 6, Read(0)),
                call(7, 8, Count(Some(2))),
            ],
        ];
        for history in histories {
            assert_eq!(check_counts(history), Ok(()), "{history:?}");
        }
    }

    #[test]
    fn what_no_counter_does_is_found() {
        let histories: [&[Call]; 7] = [
            &[call(0, 9, Count(Some(1))), call(0, 9, Count(Some(1)))],
            &[call(0, 1, Count(Some(2))), call(2, 3, Count(Some(1)))],
            &[call(0, 1, Count(Some(2)))],
            &[call(0, 1, Count(Some(1))), call(2, 3, Read(0))],
            &[call(0, 1, Read(1)), call(2, 3, Count(Some(1)))],
            &[
                call(0, 9, Count(Some(1))),
                call(0, 9, Count(Some(2))),
                call(1, 2, Read(2)),
                call(3, 4, Read(1)),
            ],
            &[call(0, 1, Count(Some(1))), call(2, 3, Action::Write(4))],
        ];
        for history in histories {
            assert!(check_counts(history).is_err(), "{history:?}");
        }
    }
}
