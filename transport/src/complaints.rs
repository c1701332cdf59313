//! What strangers are refused for, told without filling a log: at once when it comes first, and then ever more
//! rarely, with how often it has come meanwhile.

use std::collections::HashMap;
use std::mem::Discriminant;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::error::LinkError;

/// How long nothing is said after the first line; doubled with each one up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// So many subjects are kept apart; what is beyond has one in common.
const MAX_SUBJECTS: usize = 256;

/// What a line is about; lines about the same are repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// Something that anybody can send in any number, under any address.
    Anybody(Discriminant<LinkError>),
    /// Something that only a process can cause which is at this address.
    Process(Discriminant<LinkError>, IpAddr),
    /// A client too many.
    TooMany,
    /// One subject too many.
    Other,
}

impl Subject {
    /// The subject of a connection that failed for `error`.
    pub(crate) fn of(error: &LinkError, address: IpAddr) -> Self {
        let kind = std::mem::discriminant(error);
        match error {
            // What is said of certificates and in a hello came encrypted to whom our answers had reached.
            LinkError::OtherCluster { .. }
            | LinkError::OtherCa { .. }
            | LinkError::Expired { .. }
            | LinkError::CertificateRefused { .. }
            | LinkError::Hello { .. } => Self::Process(kind, address),
            _ => Self::Anybody(kind),
        }
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
        let subject = self.place_for(subject, now);
        let Some(repeated) = self.subjects.get_mut(&subject) else {
            let (next, wait) = (now + FIRST_WAIT, FIRST_WAIT);
            let first = Repeated {
                next,
                wait,
                untold: 0,
            };
            self.subjects.insert(subject, first);
            return Some(line.to_owned());
        };
        if now < repeated.next {
            repeated.untold += 1;
            return None;
        }
        repeated.wait = if repeated.is_over(now) {
            FIRST_WAIT
        } else {
            (repeated.wait * 2).min(LONGEST_WAIT)
        };
        repeated.next = now + repeated.wait;
        Some(match std::mem::take(&mut repeated.untold) {
            0 => line.to_owned(),
            untold => format!("{line}; and {untold} more like it since the last such line"),
        })
    }

    /// The subject itself, or the common one if there are too many.
    fn place_for(&mut self, subject: Subject, now: Instant) -> Subject {
        if self.subjects.len() >= MAX_SUBJECTS && !self.subjects.contains_key(&subject) {
            self.subjects.retain(|_, repeated| !repeated.is_over(now));
            if self.subjects.len() >= MAX_SUBJECTS {
                return Subject::Other;
            }
        }
        subject
    }
}

impl Repeated {
    /// Whether nothing has come for so long that what comes is something new.
    fn is_over(&self, now: Instant) -> bool {
        now >= self.next + self.wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "refused it";

    fn timed_out() -> Subject {
        Subject::of(&LinkError::TimedOut, [192, 0, 2, 1].into())
    }

    fn expired(last: u8) -> Subject {
        let by = crate::error::Side::Here;
        Subject::of(&LinkError::Expired { by }, [192, 0, 2, last].into())
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
    fn processes_are_kept_apart_by_their_address_and_mere_bytes_are_not() {
        let mut complaints = Complaints::default();
        let now = Instant::now();
        assert!(complaints.handle(expired(1), LINE, now).is_some());
        assert!(complaints.handle(expired(2), LINE, now).is_some());
        assert!(complaints.handle(expired(1), LINE, now).is_none());
        assert!(complaints.handle(timed_out(), LINE, now).is_some());
        let elsewhere = Subject::of(&LinkError::TimedOut, [192, 0, 2, 2].into());
        assert!(complaints.handle(elsewhere, LINE, now).is_none());
    }

    #[test]
    fn there_is_a_bound_on_what_is_kept_apart() {
        let mut complaints = Complaints::default();
        let now = Instant::now();
        let told = (0..1000_u16).filter(|host| {
            let [high, low] = host.to_be_bytes();
            let address = [192, 0, high, low].into();
            let by = crate::error::Side::Here;
            let subject = Subject::of(&LinkError::Expired { by }, address);
            complaints.handle(subject, LINE, now).is_some()
        });
        assert_eq!(told.count(), MAX_SUBJECTS + 1);
        assert_eq!(complaints.subjects.len(), MAX_SUBJECTS + 1);
    }
}
