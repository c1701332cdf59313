//! What strangers are refused for, told without filling a log: at once when it comes first, and then ever more
//! rarely, with how often it has come meanwhile; and of all that strangers can cause, about one line a second.
//!
//! Whoever wants to hide somebody else's refusal must not be able to, so what a line is about is told apart by what
//! it takes to cause it: a spoofed packet, an address that our answers reach, or a certificate of ours. What is said
//! of a holder of one waits for nobody else. (A peer without a valid one is also told of when this node dials it.)

use std::collections::HashMap;
use std::mem::Discriminant;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::error::{LinkError, Side};
use crate::gate::network;
use crate::name::PeerName;

/// How long nothing is said after the first line; doubled with each one up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// So many networks are kept apart, by what they do; what is beyond has one subject in common.
const MAX_NETWORKS: usize = 256;

/// What strangers can cause in all: so many lines at once, and then one in this time. Repetitions leave some of the
/// former to what is new, or those who began early would hide who begins late.
const LINES_AT_ONCE: u32 = 16;
const REPETITIONS_AT_ONCE: u32 = 8;
const LINE_EVERY: Duration = Duration::from_secs(1);

/// What a line is about; lines about the same are repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// Something that anybody can send in any number, under any address.
    Anybody(Discriminant<LinkError>),
    /// Something that only a process can cause which our answers reach in this network.
    Process(Discriminant<LinkError>, IpAddr),
    /// Something that only a process can cause which has this certificate of ours.
    Member(Discriminant<LinkError>, PeerName),
    /// A client too many, with a certificate of ours.
    TooMany,
    /// One network too many.
    Other,
}

impl Subject {
    /// The subject of a handshake that failed for `error`.
    pub(crate) fn of(error: &LinkError, address: IpAddr) -> Self {
        let kind = std::mem::discriminant(error);
        match error {
            // A certificate comes encrypted for whom our answers reached. What the other side says of ours may
            // be an alert in a first packet, which needs no answer of ours.
            LinkError::OtherCa { by: Side::Here }
            | LinkError::Expired { by: Side::Here }
            | LinkError::CertificateRefused { by: Side::Here, .. } => {
                Self::Process(kind, network(address))
            }
            _ => Self::Anybody(kind),
        }
    }

    /// The subject of a connection that failed for `error` when its certificate had been found to be `name`'s.
    pub(crate) fn of_member(error: &LinkError, name: PeerName) -> Self {
        Self::Member(std::mem::discriminant(error), name)
    }

    fn is_of_strangers(self) -> bool {
        match self {
            Self::Anybody(_) | Self::Process(..) | Self::Other => true,
            Self::Member(..) | Self::TooMany => false,
        }
    }
}

#[derive(Debug)]
struct Repeated {
    /// When the next line may come, and for how long none may after it.
    next: Instant,
    wait: Duration,
    /// When it came last.
    seen: Instant,
    /// Whether there was a line yet, and what came since the last one.
    was_told: bool,
    untold: u64,
}

/// The lines of a door.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    subjects: HashMap<Subject, Repeated>,
    ceiling: Ceiling,
}

impl Complaints {
    /// The line to log, if it is time for one.
    pub(crate) fn handle(&mut self, subject: Subject, line: &str, now: Instant) -> Option<String> {
        let subject = self.place_for(subject, now);
        let repeated = self.subjects.entry(subject).or_insert(Repeated {
            next: now,
            wait: FIRST_WAIT,
            seen: now,
            was_told: false,
            untold: 0,
        });
        // The common subject never gets rarer: the next in it is mostly somebody else.
        let is_new = !repeated.was_told || repeated.is_over(now) || subject == Subject::Other;
        let at_once = if is_new {
            LINES_AT_ONCE
        } else {
            REPETITIONS_AT_ONCE
        };
        repeated.seen = now;
        let is_time = now >= repeated.next;
        if !is_time || (subject.is_of_strangers() && !self.ceiling.has_room(now, at_once)) {
            repeated.untold += 1;
            return None;
        }
        if is_new {
            repeated.wait = FIRST_WAIT;
        }
        repeated.next = now + repeated.wait;
        repeated.wait = (repeated.wait * 2).min(LONGEST_WAIT);
        repeated.was_told = true;
        Some(match std::mem::take(&mut repeated.untold) {
            0 => line.to_owned(),
            untold => format!("{line}; and {untold} more like it before"),
        })
    }

    /// The subject itself, or the common one if there are too many networks. The other subjects are few: kinds of
    /// errors, and names that the cluster's CA has signed.
    fn place_for(&mut self, subject: Subject, now: Instant) -> Subject {
        if !matches!(subject, Subject::Process(..)) || self.subjects.contains_key(&subject) {
            return subject;
        }
        if self.networks() >= MAX_NETWORKS {
            self.subjects.retain(|_, repeated| !repeated.is_over(now));
            if self.networks() >= MAX_NETWORKS {
                return Subject::Other;
            }
        }
        subject
    }

    fn networks(&self) -> usize {
        let subjects = self.subjects.keys();
        subjects
            .filter(|subject| matches!(subject, Subject::Process(..)))
            .count()
    }
}

impl Repeated {
    /// Whether nothing has come for so long that what comes is something new.
    fn is_over(&self, now: Instant) -> bool {
        now >= self.next.max(self.seen) + self.wait
    }
}

/// The bound on the lines of all strangers together.
#[derive(Debug, Default)]
struct Ceiling {
    /// When all lines are to be had again.
    full_at: Option<Instant>,
}

impl Ceiling {
    /// Takes a line, if one of so many at once is still to be had.
    fn has_room(&mut self, now: Instant, at_once: u32) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + LINE_EVERY;
        let has_room = full_at <= now + LINE_EVERY * at_once;
        if has_room {
            self.full_at = Some(full_at);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_types::{ClusterId, NodeId};

    const LINE: &str = "refused it";

    fn timed_out() -> Subject {
        Subject::of(&LinkError::TimedOut, [192, 0, 2, 1].into())
    }

    fn expired_at(address: IpAddr) -> Subject {
        Subject::of(&LinkError::Expired { by: Side::Here }, address)
    }

    fn expired(last: u8) -> Subject {
        expired_at([192, 0, 2, last].into())
    }

    fn host(number: u16) -> Subject {
        let [high, low] = number.to_be_bytes();
        expired_at([192, 0, high, low].into())
    }

    fn member(node: u64) -> Subject {
        let (cluster, node) = (ClusterId(1), NodeId(node));
        let reason = "it is not one of this node's peers".to_owned();
        Subject::of_member(
            &LinkError::Hello { reason },
            PeerName::Node { cluster, node },
        )
    }

    /// So many networks, each of which comes now.
    fn crowd(complaints: &mut Complaints, networks: u16, now: Instant) -> usize {
        let crowd = (0..networks).map(host);
        crowd
            .filter(|subject| complaints.handle(*subject, LINE, now).is_some())
            .count()
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
    fn processes_are_kept_apart_by_their_network_and_mere_bytes_are_not() {
        let mut complaints = Complaints::default();
        let now = Instant::now();
        assert!(complaints.handle(expired(1), LINE, now).is_some());
        assert!(complaints.handle(expired(2), LINE, now).is_some());
        assert!(complaints.handle(expired(1), LINE, now).is_none());
        assert!(complaints.handle(timed_out(), LINE, now).is_some());
        let elsewhere = Subject::of(&LinkError::TimedOut, [192, 0, 2, 2].into());
        assert!(complaints.handle(elsewhere, LINE, now).is_none());
        let v6 = |text: &str| expired_at(text.parse().unwrap());
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::2"));
        assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
        assert_eq!(v6("::ffff:192.0.2.1"), expired(1));
    }

    #[test]
    fn what_a_first_packet_can_cause_is_nobodys_in_particular() {
        let (by, reason) = (Side::There, String::new());
        let (wanted, ours) = (ClusterId(1), ClusterId(2));
        for error in [
            LinkError::OtherCa { by },
            LinkError::Expired { by },
            LinkError::CertificateRefused { by, reason },
            LinkError::OtherClusterWanted { wanted, ours },
        ] {
            let subject = Subject::of(&error, [192, 0, 2, 1].into());
            assert!(matches!(subject, Subject::Anybody(_)), "{error}");
        }
    }

    #[test]
    fn there_is_a_bound_on_what_is_kept_apart() {
        let mut complaints = Complaints::default();
        crowd(&mut complaints, 1000, Instant::now());
        assert_eq!(complaints.subjects.len(), MAX_NETWORKS + 1);
    }

    #[test]
    fn a_crowd_has_about_a_line_a_second_and_what_is_above_is_told_later() {
        let mut complaints = Complaints::default();
        let began = Instant::now();
        let at = |tenths: u64| began + Duration::from_millis(tenths * 100);
        let told: usize = (0..1000)
            .map(|tenths| crowd(&mut complaints, 200, at(tenths)))
            .sum();
        assert!(
            (100..=100 + LINES_AT_ONCE as usize).contains(&told),
            "{told}"
        );
        let last = complaints.handle(host(199), LINE, at(2000)).unwrap();
        assert!(last.contains("and 1000 more like it"), "{last}");
    }

    #[test]
    fn who_comes_late_is_not_hidden_by_those_who_have_been_told_of() {
        let mut complaints = Complaints::default();
        let began = Instant::now();
        let others = MAX_NETWORKS as u16 - 1;
        let at = |second| began + Duration::from_secs(second);
        for second in 0..300 {
            crowd(&mut complaints, others, at(second));
        }
        crowd(&mut complaints, others, at(300));
        assert!(complaints.handle(host(5000), LINE, at(300)).is_some());
    }

    #[test]
    fn a_network_too_many_is_told_of_as_often_as_at_first() {
        let mut complaints = Complaints::default();
        let began = Instant::now();
        let told = (0..3600).filter(|second| {
            let now = began + Duration::from_secs(*second);
            crowd(&mut complaints, MAX_NETWORKS as u16, now);
            complaints.handle(host(5000), LINE, now).is_some()
        });
        let told: Vec<u64> = told.collect();
        assert!(told[0] < 300, "{told:?}");
        let longest = told.windows(2).map(|two| two[1] - two[0]).max();
        assert_eq!(longest, Some(FIRST_WAIT.as_secs()), "{told:?}");
    }

    #[test]
    fn a_crowd_does_not_hide_a_holder_of_a_certificate() {
        let mut complaints = Complaints::default();
        let now = Instant::now();
        crowd(&mut complaints, 1000, now);
        assert!(complaints.handle(host(5000), LINE, now).is_none());
        assert!(complaints.handle(member(4), LINE, now).is_some());
        assert!(complaints.handle(member(5), LINE, now).is_some());
        assert!(complaints.handle(member(4), LINE, now).is_none());
        assert!(complaints.handle(Subject::TooMany, LINE, now).is_some());
    }
}
