//! What the carrier does for snapshots that are sent from here.

use super::{Carrier, Errand};
use crate::snapshot::message::{End, SnapshotBody};
use crate::snapshot::outgoing::{self, Cursor, Outgoing};
use crate::worker::Input;
use pontoon_raft::Message;
use pontoon_store::{KvSnapshot, Store};
use pontoon_types::{GroupId, Instant, NodeId, ReplicaId};

impl<S: Store> Carrier<S> {
    pub(super) fn wanted(&mut self, group: GroupId, peer: ReplicaId, to: NodeId, now: Instant) {
        // What an earlier request has left is of no use: Raft asks again only when it was told of its end.
        let left = |out: &Outgoing<S::View>| out.group == group && out.peer == peer;
        self.outgoing.retain(|_, out| !left(out));
        self.waiting
            .retain(|want| (want.0, want.1) != (group, peer));
        self.waiting.push_back((group, peer, to));
        self.begin_waiting(now);
    }

    /// Begins what waits, as far as the limit allows. One that nobody wants any more by then is pinned and let go.
    pub(super) fn begin_waiting(&mut self, now: Instant) {
        while self.outgoing.len() < self.settings.max_outgoing {
            // A node takes only so many at once, and one that takes none must not keep the others waiting.
            let has_room = |to: NodeId| {
                let there = self.outgoing.values().filter(|out| out.to == to);
                there.count() < self.settings.max_incoming
            };
            let Some(at) = self.waiting.iter().position(|want| has_room(want.2)) else {
                return;
            };
            let Some((group, peer, to)) = self.waiting.remove(at) else {
                return;
            };
            self.begin(group, peer, to, now);
        }
    }

    pub(super) fn begin(&mut self, group: GroupId, peer: ReplicaId, to: NodeId, now: Instant) {
        let transfer = self.next_transfer;
        self.next_transfer += 1;
        self.outgoing.insert(
            transfer,
            Outgoing {
                group,
                peer,
                to,
                state: outgoing::State::Pinning,
                began_at: now,
                bytes: 0,
                expires_at: now + self.settings.patience,
            },
        );
        self.errands.push(Errand::Pin { group, transfer });
    }

    pub(super) fn pinned(&mut self, transfer: u64, snapshot: Option<KvSnapshot<S::View>>) {
        let Some(out) = self.outgoing.get_mut(&transfer) else {
            return;
        };
        let (group, peer) = (out.group, out.peer);
        match snapshot {
            Some(snapshot) => {
                let (applied, conf_state) =
                    (snapshot.applied(), snapshot.record().conf_state.clone());
                out.state = outgoing::State::Taking(snapshot);
                let input = Input::SnapshotPinned {
                    group,
                    peer,
                    transfer,
                    applied,
                    conf_state,
                };
                self.tell(group, input);
            }
            None => self.fail_outgoing(transfer),
        }
    }

    pub(super) fn taken(&mut self, transfer: u64, message: Option<Box<Message>>, now: Instant) {
        let Some(out) = self.outgoing.remove(&transfer) else {
            return;
        };
        let (outgoing::State::Taking(snapshot), Some(message)) = (out.state, message) else {
            return;
        };
        let state = outgoing::State::Offered {
            snapshot,
            message,
            offer_at: Some(now),
            cursor: None,
        };
        self.outgoing.insert(transfer, Outgoing { state, ..out });
        self.drive_outgoing(transfer, now);
    }

    /// Offers what has to be offered, and sends the next chunk, when the receiver and the budget allow.
    pub(super) fn drive_outgoing(&mut self, transfer: u64, now: Instant) {
        let Some(out) = self.outgoing.get_mut(&transfer) else {
            return;
        };
        if out.expires_at <= now {
            tracing::info!(group = %out.group, to = %out.to, "nobody takes a snapshot; gave it up");
            return self.fail_outgoing(transfer);
        }
        let (group, to) = (out.group, out.to);
        let outgoing::State::Offered {
            snapshot,
            message,
            offer_at,
            cursor,
        } = &mut out.state
        else {
            return;
        };
        if offer_at.is_some_and(|at| at <= now) {
            *offer_at = Some(now + self.settings.retry);
            let mut record = Vec::new();
            snapshot.record().encode(&mut record);
            let body = SnapshotBody::Offer {
                message: (**message).clone(),
                record: record.into(),
            };
            return self.send(to, group, transfer, body);
        }
        let chunk_bytes = self.settings.chunk_bytes;
        let has_room = |cursor: &&mut Cursor| cursor.has_room(chunk_bytes);
        let cursor = cursor.as_deref_mut().filter(has_room);
        // Hashing moves nothing, and the receiver does not wait for ever: it takes its turns, and no part of the budget.
        let may_go_on =
            |cursor: &&mut Cursor| cursor.is_unhashed() || self.budget.opens_at(now) <= now;
        let Some(cursor) = cursor.filter(may_go_on) else {
            return;
        };
        match cursor.chunk(snapshot, chunk_bytes) {
            Ok(None) => {}
            Ok(Some(body)) => {
                self.last_served = transfer;
                if let SnapshotBody::Chunk { rows, .. } = &body {
                    self.budget.charge(rows.len(), now);
                    self.counters.sent_bytes += rows.len() as u64;
                    out.bytes += rows.len() as u64;
                }
                self.send(to, group, transfer, body);
            }
            Err(error) => {
                tracing::error!(%group, %error, "cannot read what a snapshot is to hold");
                let pieces = snapshot.record().pieces.clone();
                if error.is_damage() {
                    let is_stuck = false;
                    self.tell(
                        group,
                        Input::StateDamaged {
                            group,
                            pieces,
                            is_stuck,
                        },
                    );
                }
                self.say_end(to, group, transfer, End::Gone);
                self.fail_outgoing(transfer);
            }
        }
    }

    pub(super) fn fail_outgoing(&mut self, transfer: u64) {
        if let Some(Outgoing { group, peer, .. }) = self.outgoing.remove(&transfer) {
            self.counters.given_up += 1;
            self.tell(group, Input::SnapshotFailed { group, peer });
        }
    }
}
