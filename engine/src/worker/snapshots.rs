//! What a worker has to say about snapshots: whether one is wanted, and what it means to the log.

use super::io::{OfferAnswer, SnapshotOrder, Switch};
use super::{InFlight, Worker};
use pontoon_raft::{Message, MessageBody, Snapshot};
use pontoon_store::ReplicaRecord;
use pontoon_types::{
    ConfState, GroupId, Instant, LogIndex, LogPosition, NodeId, ReplicaId, TabletId, Term, mutant,
};

/// A snapshot that is offered.
pub(super) struct Offer {
    pub(super) from: NodeId,
    pub(super) sender: ReplicaId,
    pub(super) to: ReplicaId,
    pub(super) term: Term,
    pub(super) last: LogPosition,
}

impl Worker {
    /// A state is pinned for a peer: Raft says with which message it goes there.
    pub(super) fn snapshot_pinned(
        &mut self,
        group: GroupId,
        peer: ReplicaId,
        transfer: u64,
        applied: LogIndex,
        conf_state: ConfState,
    ) {
        let message = self.usable(group).and_then(|slot| {
            self.touch(slot);
            let raft = &mut self.groups[slot].raft;
            // It was pinned after all that this worker has heard of was applied, so its term is known; unless it
            // is of a replica that was here before this one.
            let term = raft.term_at(applied).filter(|_| applied <= raft.applied());
            let Some(term) = term else {
                raft.handle_snapshot_failed(peer);
                return None;
            };
            let last = LogPosition {
                term,
                index: applied,
            };
            raft.handle_snapshot_taken(peer, Snapshot { last, conf_state })
        });
        self.orders.push(SnapshotOrder::Taken {
            transfer,
            message: message.map(Box::new),
        });
    }

    /// What became of the snapshot for a peer.
    pub(super) fn snapshot_ended(&mut self, group: GroupId, peer: ReplicaId, delivered: bool) {
        if let Some(slot) = self.usable(group) {
            let raft = &mut self.groups[slot].raft;
            if delivered {
                raft.handle_snapshot_delivered(peer);
            } else {
                raft.handle_snapshot_failed(peer);
            }
            self.touch(slot);
        }
    }

    /// Whether a snapshot is of any use, before anybody carries it.
    pub(super) fn snapshot_offered(&mut self, group: GroupId, offer: &Offer) {
        let of_use = self.usable(group).filter(|slot| {
            let group = &self.groups[*slot];
            group.raft.id() == offer.to
                && group.speaks_for(offer.sender, offer.from)
                && offer.term >= group.raft.term()
        });
        let answer = match of_use {
            None => OfferAnswer::Refused,
            Some(slot) if offer.last.index <= self.groups[slot].raft.commit() => OfferAnswer::Held,
            Some(_) => OfferAnswer::Wanted,
        };
        self.orders.push(SnapshotOrder::Answered { group, answer });
    }

    /// A snapshot is here. If Raft takes it, [`Worker::put_in_place`] is what follows; if not, `discard_unused`.
    pub(super) fn snapshot_staged(
        &mut self,
        from: NodeId,
        message: Message,
        record: Box<ReplicaRecord>,
        now: Instant,
    ) {
        let tablet = record.pieces.first();
        let slot = self.usable(record.group).filter(|slot| {
            let group = &self.groups[*slot];
            group.raft.id() == message.to && group.speaks_for(message.from, from)
        });
        let (Some(slot), MessageBody::InstallSnapshot { last, .. }) = (slot, &message.body) else {
            return self.discard(tablet);
        };
        if let Some((_, unused)) = self.groups[slot].staged.replace((*last, record)) {
            self.discard(unused.pieces.first());
        }
        let was_blank = !self.groups[slot].is_initialised();
        if let Err(error) = self.groups[slot].raft.step(message, now) {
            self.refuse(slot, from, &error, now);
        }
        if was_blank && self.groups[slot].is_initialised() {
            self.blank -= 1;
        }
        self.touch(slot);
    }

    /// Raft has taken a snapshot: the record in the log is its one commit point, and once that is durable the state
    /// machine is switched over.
    pub(super) fn put_in_place(
        &mut self,
        slot: usize,
        snapshot: &Snapshot,
        current: &mut InFlight,
    ) {
        let group = &mut self.groups[slot];
        let (last, record) = group
            .staged
            .take()
            .expect("Raft takes the snapshot that it was just given");
        assert_eq!(last, snapshot.last, "Raft takes another snapshot");
        let mut payload = Vec::new();
        record.encode(&mut payload);
        group.switched(&record, last);
        self.batch
            .install_snapshot(record.group, last, payload.into());
        let applied = last.index;
        let switch = Switch::Install { record, applied };
        if mutant!(InstallsEarly) {
            return self.switches.push(switch);
        }
        self.waiting(current).switches.push(switch);
    }

    /// What was staged and not taken.
    pub(super) fn discard_unused(&mut self, slot: usize) {
        if let Some((_, record)) = self.groups[slot].staged.take() {
            self.discard(record.pieces.first());
        }
    }

    fn discard(&mut self, tablet: TabletId) {
        self.switches.push(Switch::Discard(tablet));
    }

    /// The slot of a group that takes part.
    pub(super) fn usable(&self, group: GroupId) -> Option<usize> {
        self.slot(group)
            .filter(|slot| self.groups[*slot].failure.is_none())
    }
}
