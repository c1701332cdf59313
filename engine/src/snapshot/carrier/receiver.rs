//! What the carrier does for snapshots that come in.

use super::{Carrier, Errand, MAX_RECORD_BYTES, ROOM_PAUSE};
use crate::snapshot::incoming::{self, ChunkError, Incoming, Staging};
use crate::snapshot::message::{End, SnapshotBody};
use crate::worker::{Input, OfferAnswer};
use bytes::Bytes;
use pontoon_raft::{Message, MessageBody};
use pontoon_store::{ReplicaRecord, Store, StoreError};
use pontoon_types::{GroupId, Instant, NodeId, TabletId};

impl<S: Store> Carrier<S> {
    pub(super) fn offered(
        &mut self,
        from: NodeId,
        group: GroupId,
        transfer: u64,
        message: Message,
        record: &[u8],
        now: Instant,
    ) {
        let MessageBody::InstallSnapshot { last, conf_state } = &message.body else {
            return; // The decoder has seen to it.
        };
        let last = *last;
        if now < self.no_room_until {
            return self.say_end(from, group, transfer, End::Refused);
        }
        if record.len() > MAX_RECORD_BYTES {
            tracing::warn!(%from, %group, bytes = record.len(), "refused a snapshot with a record that is too long");
            return self.say_end(from, group, transfer, End::Refused);
        }
        let record = match ReplicaRecord::decode(group, record) {
            Ok(record) if record.conf_state == **conf_state => record,
            Ok(_) => {
                tracing::warn!(%from, %group, "refused a snapshot of other members than it says");
                return self.say_end(from, group, transfer, End::Refused);
            }
            Err(error) => {
                tracing::warn!(%from, %group, %error, "refused a snapshot with an unreadable record");
                return self.say_end(from, group, transfer, End::Refused);
            }
        };
        if let Some(one) = self.incoming.get_mut(&group) {
            let is_same = one.last == last && one.message.to == message.to;
            let is_stuck = one.pull_at == Instant::FAR_FUTURE;
            if is_same && (one.from, one.transfer) == (from, transfer) {
                return; // It was offered twice.
            }
            if is_same && matches!(one.state, incoming::State::Receiving(_)) {
                // Whoever offers it last sends the rest.
                (one.from, one.transfer) = (from, transfer);
                *one.message = message;
                one.expires_at = now + self.settings.patience;
                return self.pull(group, now);
            }
            let is_newer = message.term > one.message.term || message.to > one.message.to;
            if !(is_stuck || is_newer || one.from == from) {
                return self.say_end(from, group, transfer, End::Refused);
            }
            self.give_up_incoming(group);
        }
        if self.incoming.len() >= self.settings.max_incoming {
            return self.say_end(from, group, transfer, End::Refused);
        }
        let (to, term) = (message.to, message.term);
        let sender = message.from;
        self.incoming.insert(
            group,
            Incoming {
                from,
                transfer,
                message: Box::new(message),
                last,
                record,
                state: incoming::State::Asking,
                began_at: now,
                bytes: 0,
                pull_at: now + self.settings.retry,
                expires_at: now + self.settings.patience,
            },
        );
        let input = Input::SnapshotOffered {
            group,
            from,
            sender,
            to,
            term,
            last,
        };
        self.tell(group, input);
    }

    pub(super) fn answered(&mut self, group: GroupId, answer: OfferAnswer) {
        let Some(one) = self.incoming.get_mut(&group) else {
            return;
        };
        if !matches!(one.state, incoming::State::Asking) {
            return;
        }
        let how = match answer {
            OfferAnswer::Wanted => {
                one.state = incoming::State::Opening;
                return self.errands.push(Errand::Open { group });
            }
            // The sender has not heard that it arrived: what the replica holds it finds out by probing.
            OfferAnswer::Held => End::Delivered,
            OfferAnswer::Refused => End::Refused,
        };
        let (from, transfer) = (one.from, one.transfer);
        self.incoming.remove(&group);
        self.say_end(from, group, transfer, how);
    }

    pub(super) fn opened(
        &mut self,
        group: GroupId,
        opened: Result<(TabletId, S::Stager), StoreError>,
        now: Instant,
    ) {
        let waits = |one: &&mut Incoming<S::Stager>| matches!(one.state, incoming::State::Opening);
        match (opened, self.incoming.get_mut(&group).filter(waits)) {
            (Ok((tablet, stager)), Some(one)) => {
                one.state = incoming::State::Receiving(Box::new(Staging::new(tablet, stager)));
                self.pull(group, now);
            }
            (Ok((tablet, _)), None) => self.errands.push(Errand::Discard { tablet }),
            (Err(error), Some(one)) => {
                tracing::error!(%group, %error, "no room for a snapshot");
                let (from, transfer) = (one.from, one.transfer);
                self.incoming.remove(&group);
                self.no_room_until = now + ROOM_PAUSE;
                self.say_end(from, group, transfer, End::Refused);
            }
            (Err(_), None) => {}
        }
    }

    pub(super) fn pull(&mut self, group: GroupId, now: Instant) {
        let Some(one) = self.incoming.get_mut(&group) else {
            return;
        };
        if let incoming::State::Receiving(staging) = &one.state {
            let after = staging.after.clone();
            one.pull_at = now + self.settings.retry;
            let (from, transfer) = (one.from, one.transfer);
            self.send(from, group, transfer, SnapshotBody::Pull { after });
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a chunk, taken apart")]
    pub(super) fn chunk(
        &mut self,
        from: NodeId,
        group: GroupId,
        transfer: u64,
        after: &Bytes,
        hash: Option<u128>,
        rows: &Bytes,
        now: Instant,
    ) {
        let is_it = |one: &&mut Incoming<S::Stager>| (one.from, one.transfer) == (from, transfer);
        let Some(one) = self.incoming.get_mut(&group).filter(is_it) else {
            return;
        };
        let incoming::State::Receiving(staging) = &mut one.state else {
            return;
        };
        match staging.take(after, rows) {
            Ok(()) => {}
            Err(ChunkError::NotNext) => return,
            Err(error) => return self.break_off(group, &error, now),
        }
        self.counters.received_bytes += rows.len() as u64;
        one.bytes += rows.len() as u64;
        one.expires_at = now + self.settings.patience;
        // A node that receives from several has one budget for all of them.
        self.budget.charge(rows.len(), now);
        match hash {
            Some(hash) => self.finish_incoming(group, hash, now),
            None if self.budget.opens_at(now) <= now => self.pull(group, now),
            None => one.pull_at = self.budget.opens_at(now),
        }
    }

    pub(super) fn finish_incoming(&mut self, group: GroupId, hash: u128, now: Instant) {
        let Some(one) = self.incoming.remove(&group) else {
            return;
        };
        let incoming::State::Receiving(staging) = one.state else {
            return;
        };
        let tablet = staging.tablet;
        match staging.finish(hash) {
            Ok(tablet) => {
                self.counters.received += 1;
                let record = ReplicaRecord {
                    replica: one.message.to,
                    pieces: tablet.into(),
                    ..one.record
                };
                let input = Input::SnapshotStaged {
                    from: one.from,
                    message: one.message,
                    record: Box::new(record),
                };
                self.tell(group, input);
                self.say_end(one.from, group, one.transfer, End::Delivered);
            }
            Err(error) => {
                self.report(group, one.from, &error, now);
                self.errands.push(Errand::Discard { tablet });
                self.counters.given_up += 1;
                self.say_end(one.from, group, one.transfer, End::Refused);
            }
        }
    }

    pub(super) fn break_off(&mut self, group: GroupId, error: &ChunkError, now: Instant) {
        if let Some(one) = self.incoming.get(&group) {
            let (from, transfer) = (one.from, one.transfer);
            self.report(group, from, error, now);
            self.give_up_incoming(group);
            self.say_end(from, group, transfer, End::Refused);
        }
    }

    pub(super) fn report(
        &mut self,
        group: GroupId,
        from: NodeId,
        error: &ChunkError,
        now: Instant,
    ) {
        match error {
            ChunkError::NotNext => {}
            ChunkError::Wrong(what) => {
                tracing::error!(%group, %from, what, "broke off a snapshot");
            }
            ChunkError::Store(error) => {
                tracing::error!(%group, %from, %error, "cannot store a snapshot; broke it off");
                self.no_room_until = now + ROOM_PAUSE;
            }
        }
    }

    pub(super) fn give_up_incoming(&mut self, group: GroupId) {
        if let Some(one) = self.incoming.remove(&group) {
            self.counters.given_up += 1;
            if let incoming::State::Receiving(staging) = one.state {
                let tablet = staging.tablet;
                drop(staging);
                self.errands.push(Errand::Discard { tablet });
            }
        }
    }
}
