//! Leader leases: reads without any message, paid for with a promise about clocks (thesis §6.4.1).
//!
//! With [`Config::lease`](crate::Config::lease) a leader that a quorum has answered lately gives out its commit
//! index for reads at once. That is linearizable (S8) as long as nobody else can have been elected
//! meanwhile, and nobody can, because of a *promise* that every voter makes when it hears its leader: for
//! one election timeout from then on, by its own clock, it votes for nobody and does not campaign
//! (stickiness; thesis §4.2.3). The lease is what is left of the promises of a quorum.
//!
//! # Why it is safe
//!
//! Let a leader of term T read at a moment when it holds the lease, and suppose that somebody was elected in a
//! later term before that moment. Both quorums have a voter *v* in common. Take the first such election.
//!
//! - *v* answered a round of messages of term T, so it did that before it voted in a later term. It had the
//!   message then, which was sent when the round began or later, at *s* by the leader's clock. The lease counts
//!   from *s*: from when was asked, not from when the answer came, because only the former is before the
//!   promise. It may not matter to the leader how long the answer took.
//! - *v* kept its promise for an election timeout by its own clock. While that passes, the leader's clock moves
//!   on by at least that timeout less the stated drift, which is how long the lease lasts. So *v*'s vote
//!   came after the lease's end, and the read, which was within it, before *v*'s vote. That is a contradiction.
//!
//! This takes more than stickiness had to keep until there were leases:
//!
//! - *A promise outlives the term.* A voter that meets a newer term forgets its leader, but not what it has
//!   promised: else whoever raises terms could free a voter that the lease counts on.
//! - *A promise outlives the process.* A replica that restarts cannot know what it has promised, and so promises
//!   an election timeout from its start. One that has never been in any term has promised nothing.
//! - *Who promised does not campaign either*, not even when told from outside.
//! - *A transfer of the leadership beats stickiness*, so the lease is given up before the message leaves
//!   that starts one, and for the rest of the term, because that message may be late. The permission is of use
//!   only in the term that it was given in, so it cannot be turned against a later leader.
//! - *Quorums must overlap.* They are counted over the members of the moment of the read, both halves of a
//!   joint configuration, and whoever is elected acts by these or by their neighbours in the log (see
//!   `membership`). The lease starts anew with every change, so it never spans two.
//! - *A new leader knows what is committed* only once it has committed an entry of its term; reads wait for it,
//!   with a lease as without.
//! - *Time is read at use.* The lease is compared with the time that came with the read or after it, so a process
//!   that stood still finds its lease over. Therefore the contract: `now` is read after what came in was taken
//!   out of its queue, from a clock that goes on while the machine sleeps. That holds for voters as well,
//!   whose promise would begin before they heard.
//!
//! What only says that somebody is alive ([`Raft::handle_peer_contact`]) renews no lease: it was not asked for
//! at a known time. What only extends a promise ([`Raft::handle_leader_contact`]) can do no harm.
//!
//! # What it rests on
//!
//! All members must have the same election timeout and check their quorum, and their clocks must keep to the
//! stated drift. If they do not, reads may be stale; nothing else depends on time.

use crate::raft::{Raft, Role};
use core::time::Duration;
use pontoon_types::{Instant, mutant};

/// A leader's lease. One renewal is under way at a time, which is enough as long as a quorum answers
/// within a lease, and takes the same memory however long none does.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(crate) struct Lease {
    /// The round whose confirmation renews the lease, and when it began.
    renewal: Option<(u64, Instant)>,
    /// When the last round began that a quorum of the present members has answered.
    since: Option<Instant>,
    /// Somebody was told to campaign in this term.
    given_up: bool,
}

impl Lease {
    /// There is none for the rest of the term.
    pub(crate) fn give_up(&mut self) {
        if !mutant!(LeaseOutlivesTransfer) {
            *self = Self {
                given_up: true,
                ..Self::default()
            };
        }
    }

    /// The members are others now, and none of them has answered yet.
    pub(crate) fn start_anew(&mut self) {
        if !mutant!(LeaseOutlivesMembers) {
            (self.renewal, self.since) = (None, None);
        }
    }

    /// A round is under way that would renew it.
    pub(crate) fn awaits_confirmation(&self) -> bool {
        self.renewal.is_some()
    }

    /// A quorum of the present members has answered this round, and with it every earlier one.
    pub(crate) fn confirm(&mut self, round: u64, now: Instant) {
        if let Some((of, began)) = self.renewal
            && of <= round
        {
            self.since = Some(if mutant!(LeaseFromAnswer) { now } else { began });
            self.renewal = None;
        }
    }
}

impl Raft {
    /// Whether this replica leads and may serve reads at `now` without asking anybody.
    #[must_use]
    pub fn holds_lease(&self, now: Instant) -> bool {
        let now = self.clock.max(now);
        let until = self.lease.since.map(|at| at + self.lease_duration());
        self.role == Role::Leader
            && self.has_committed_own()
            && until.is_some_and(|until| now < until || mutant!(LeaseUnchecked))
    }

    /// How much of an election timeout is certain to be left of it on this clock while it passes on any other.
    fn lease_duration(&self) -> Duration {
        let timeout = self.config.election_timeout;
        if mutant!(LeaseIgnoresDrift) {
            return timeout;
        }
        timeout * (100 - u32::from(self.config.max_clock_drift_percent)) / 100
    }

    /// Has the Heartbeats that are about to leave begin a round for the lease, unless one is still
    /// under way that could renew it.
    pub(crate) fn renew_lease(&mut self) {
        if !self.config.lease || self.lease.given_up {
            return;
        }
        let duration = self.lease_duration();
        let is_under_way = |(_, began): (u64, Instant)| self.clock < began + duration;
        if !self.lease.renewal.is_some_and(is_under_way) {
            self.lease.renewal = Some((self.reads.next_round(), self.clock));
        }
    }

    /// Hears the leader, and promises it not to help anybody else for an election timeout.
    pub(crate) fn hear_leader(&mut self) {
        self.promised_until = self.clock + self.config.election_timeout;
        self.restart_election_timer();
    }

    /// Whether this replica refuses everybody but the leader that it follows or is.
    pub(crate) fn is_sticky(&self) -> bool {
        let is_bound = self.role == Role::Leader || self.clock < self.promised_until;
        self.config.check_quorum && is_bound && !mutant!(StickinessDropped)
    }
}
