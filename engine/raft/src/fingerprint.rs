//! What tells two replicas apart for somebody who explores every order of events.

use crate::raft::Raft;
use core::hash::{Hash, Hasher};

impl Raft {
    /// Feeds `hasher` with all that decides what this replica will do, time aside.
    ///
    /// Of two replicas with the same settings that feed it the same, both give the same answers to the same
    /// calls from here on, if nothing that they do depends on when it happens: `check_quorum`
    /// and `lease` are off, and timeouts are made to come instead of waited for. The clock, the deadlines
    /// and the randomness behind them are left out, as is how many persists there were: who acknowledges them in
    /// order needs no more than which are on their way.
    pub fn fingerprint(&self, hasher: &mut impl Hasher) {
        // Without `..`: whoever adds a field decides here whether it tells replicas apart.
        let Self {
            config: _,
            conf,
            conf_changes,
            conf_is_news,
            rng: _,
            clock: _,
            term,
            vote,
            role,
            leader,
            log,
            durability,
            matched_by_all,
            promised_until: _,
            told_in,
            election_deadline: _,
            campaign_waits,
            heartbeat_deadline: _,
            quorum_deadline: _,
            transfer,
            lease,
            votes,
            peers,
            reads,
            outbox,
            ack,
            heartbeat_due,
            snapshot,
            hint_due,
            apply_fetch,
            apply_fetched,
            stopped,
            settled: _, // It spares a poll that brings nothing.
        } = self;
        (conf, conf_changes, conf_is_news).hash(hasher);
        (term, vote, role, leader, told_in).hash(hasher);
        (log, durability, matched_by_all).hash(hasher);
        (campaign_waits, heartbeat_due, hint_due, stopped).hash(hasher);
        (votes, peers, reads, transfer, lease).hash(hasher);
        (outbox, ack, snapshot, apply_fetch, apply_fetched).hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Ready, Restored};
    use core::time::Duration;
    use pontoon_types::{ConfState, GroupId, Instant, ReplicaId};

    fn fingerprint(raft: &Raft) -> u64 {
        struct Fnv(u64);
        impl Hasher for Fnv {
            fn write(&mut self, bytes: &[u8]) {
                for byte in bytes {
                    self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
                }
            }
            fn finish(&self) -> u64 {
                self.0
            }
        }
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        raft.fingerprint(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn events_tell_replicas_apart_and_time_alone_does_not() {
        let mut config = Config::new(GroupId(1), ReplicaId(1));
        (config.pre_vote, config.check_quorum) = (false, false);
        let blank = Restored::blank(ConfState::of_voters([1, 2, 3].map(ReplicaId)));
        let start = |now| Raft::new(config.clone(), blank.clone(), now).unwrap();
        let later = Instant::ZERO + Duration::from_millis(1);
        let (mut one, mut other) = (start(Instant::ZERO), start(later));
        assert_eq!(fingerprint(&one), fingerprint(&other));
        one.campaign(later);
        assert_ne!(fingerprint(&one), fingerprint(&other));
        let polled = |raft: &mut Raft| raft.poll_ready(&mut Ready::default());
        assert!(polled(&mut one));
        other.campaign(later);
        assert_ne!(fingerprint(&one), fingerprint(&other), "before the persist");
        assert!(polled(&mut other));
        assert_eq!(fingerprint(&one), fingerprint(&other));
    }
}
