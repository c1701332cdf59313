//! What strangers are refused for, told without filling a log: at once when it comes first, and then ever more
//! rarely, with how often it has come meanwhile.
//!
//! Strangers are not told apart by their addresses, which a first packet may name as it likes; so there are only as many
//! lines as there are things to be refused for. What is said of a holder of a certificate is kept apart from that, or
//! strangers could hide it. (A peer without a valid one is also told of when this node dials it.)

use std::collections::HashMap;
use std::mem::Discriminant;
use std::time::{Duration, Instant};

use crate::error::{LinkError, Side};
use crate::name::PeerName;

/// How long nothing is said after the first line; doubled with each one up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// What a line is about; lines about the same are repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// A handshake that failed, and who found the fault, if it is one of certificates: what the other side says of ours
    /// may be said by anybody in a first packet, and must not hide what was found here.
    Stranger(Discriminant<LinkError>, Option<Side>),
    /// A connection that failed when its certificate had been found to be of the cluster.
    Member(Discriminant<LinkError>, PeerName),
    /// A client too many, with a certificate of the cluster.
    TooMany,
}

impl Subject {
    pub(crate) fn of_stranger(error: &LinkError) -> Self {
        let by = match error {
            LinkError::OtherCa { by }
            | LinkError::Expired { by }
            | LinkError::CertificateRefused { by, .. } => Some(*by),
            _ => None,
        };
        Self::Stranger(std::mem::discriminant(error), by)
    }

    pub(crate) fn of_member(error: &LinkError, name: PeerName) -> Self {
        Self::Member(std::mem::discriminant(error), name)
    }
}

#[derive(Debug)]
struct Repeated {
    /// When the next line may come, and how long that was made to be.
    next: Instant,
    wait: Duration,
    /// What came meanwhile.
    untold: u64,
}

/// The lines of a door.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    subjects: HashMap<Subject, Repeated>,
}

impl Complaints {
    /// The line to log, if it is time for one.
    pub(crate) fn handle(&mut self, subject: Subject, line: &str, now: Instant) -> Option<String> {
        let repeated = self.subjects.entry(subject).or_insert(Repeated {
            next: now,
            wait: Duration::ZERO,
            untold: 0,
        });
        if now < repeated.next {
            repeated.untold += 1;
            return None;
        }
        // When nothing has come for so long, what comes is something new.
        let is_new = now >= repeated.next + repeated.wait;
        repeated.wait = match is_new {
            true => FIRST_WAIT,
            false => (repeated.wait * 2).min(LONGEST_WAIT),
        };
        repeated.next = now + repeated.wait;
        Some(match std::mem::take(&mut repeated.untold) {
            0 => line.to_owned(),
            untold => format!("{line}; and {untold} more like it since the last such line"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_types::{ClusterId, NodeId};

    const LINE: &str = "refused it";

    fn timed_out() -> Subject {
        Subject::of_stranger(&LinkError::TimedOut)
    }

    fn member(node: u64) -> Subject {
        let (cluster, node) = (ClusterId(1), NodeId(node));
        Subject::of_member(&LinkError::TimedOut, PeerName::Node { cluster, node })
    }

    #[test]
    fn what_comes_again_and_again_is_told_ever_more_rarely() {
        let mut complaints = Complaints::default();
        let began = Instant::now();
        let told: Vec<u64> = (0..3600)
            .filter(|second| {
                let now = began + Duration::from_secs(*second);
                complaints.handle(timed_out(), LINE, now).is_some()
            })
            .collect();
        assert_eq!(told, [0, 10, 30, 70, 150, 310, 630, 1230, 1830, 2430, 3030]);
    }

    #[test]
    fn what_was_not_told_is_counted_and_after_a_quiet_time_all_is_new() {
        let mut complaints = Complaints::default();
        let began = Instant::now();
        let mut at =
            |second| complaints.handle(timed_out(), LINE, began + Duration::from_secs(second));
        assert_eq!(at(0).as_deref(), Some(LINE));
        assert_eq!((at(1), at(2)), (None, None));
        assert!(at(10).unwrap().contains("and 2 more like it"));
        assert_eq!(at(1000).as_deref(), Some(LINE));
        assert_eq!(at(1010).as_deref(), Some(LINE));
    }

    #[test]
    fn what_the_other_side_says_does_not_hide_what_was_found_here() {
        let mut complaints = Complaints::default();
        let now = Instant::now();
        let mut expired = |by| {
            let subject = Subject::of_stranger(&LinkError::Expired { by });
            complaints.handle(subject, LINE, now)
        };
        assert!(expired(Side::There).is_some());
        assert!(expired(Side::Here).is_some());
        assert!(expired(Side::Here).is_none());
    }

    #[test]
    fn strangers_do_not_hide_a_holder_of_a_certificate() {
        let mut complaints = Complaints::default();
        let now = Instant::now();
        assert!(complaints.handle(timed_out(), LINE, now).is_some());
        assert!(complaints.handle(timed_out(), LINE, now).is_none());
        assert!(complaints.handle(member(4), LINE, now).is_some());
        assert!(complaints.handle(member(5), LINE, now).is_some());
        assert!(complaints.handle(member(4), LINE, now).is_none());
        assert!(complaints.handle(Subject::TooMany, LINE, now).is_some());
    }
}
