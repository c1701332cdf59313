//! What others bring: the requests of clients and operators, and the frames of peers.

use super::members::ASK_AFTER;
use super::{STOPPING, Worker};
use crate::error::FrameError;
use crate::frame::{FrameReader, Item};
use crate::reply::{Reply, Waiter};
use crate::status::Loss;
use crate::worker::Read;
use bytes::Bytes;
use pontoon_raft::{Message, MessageBody, ProposeError, Role, StepError};
use pontoon_types::{GroupId, Instant, LogPosition, NodeId, mutant};

impl Worker {
    pub(super) fn propose(
        &mut self,
        group: GroupId,
        command: &Bytes,
        waiter: Waiter,
        now: Instant,
    ) {
        match self.proposable(group) {
            Ok(slot) => {
                let proposed = self.groups[slot].raft.propose(command, now);
                self.proposed(slot, proposed, waiter);
            }
            Err(reply) => waiter.reply(reply),
        }
    }

    pub(super) fn mark(&mut self, group: GroupId, waiter: Waiter, now: Instant) {
        match self.proposable(group) {
            Ok(slot) => {
                let proposed = self.groups[slot].raft.propose_mark(now);
                self.proposed(slot, proposed, waiter);
            }
            Err(reply) => waiter.reply(reply),
        }
    }

    /// The slot of a group that something may be proposed to now; or what to answer.
    fn proposable(&mut self, group: GroupId) -> Result<usize, Reply> {
        let slot = self.slot(group).ok_or(Reply::NoReplica { group })?;
        let replica = &self.groups[slot];
        if let Some(reason) = replica.failure {
            return Err(Reply::Unavailable { reason });
        }
        // Whoever asks here is to ask elsewhere, however much room there is.
        if replica.raft.role() != Role::Leader {
            return Err(Reply::NotLeader {
                leader: replica.leader(),
            });
        }
        if self.stopping {
            return Err(STOPPING);
        }
        if self.log_is_full {
            return Err(Reply::Overloaded {
                reason: "the log is full",
            });
        }
        if self.is_backed_up() {
            return Err(Reply::Overloaded {
                reason: "too much waits to be synced or applied",
            });
        }
        self.counters.proposals += 1;
        Ok(slot)
    }

    /// Notes who waits for what was proposed, or says why it was not.
    pub(super) fn proposed(
        &mut self,
        slot: usize,
        proposed: Result<LogPosition, ProposeError>,
        waiter: Waiter,
    ) {
        let group = &mut self.groups[slot];
        match proposed {
            Ok(position) => {
                group.proposed(position, waiter);
                self.touch(slot);
            }
            Err(error) => waiter.reply(group.refusal(&error)),
        }
    }

    pub(super) fn read(&mut self, group: GroupId, read: Read, now: Instant) {
        let Some(slot) = self.slot(group) else {
            return read.waiter.reply(Reply::NoReplica { group });
        };
        self.counters.reads += 1;
        self.groups[slot].ask_read(read, now);
        self.touch(slot);
    }

    /// What cannot be handed over stays here; who asked sees by the group's status.
    pub(super) fn transfer(&mut self, group: GroupId, to: NodeId, now: Instant) {
        let Some(slot) = self.slot(group) else { return };
        let group = &mut self.groups[slot];
        let Some(replica) = group.replica_on(to) else {
            return;
        };
        if let Err(error) = group.raft.transfer_leadership(replica, now) {
            tracing::debug!(group = %group.id(), %to, %error, "did not hand the leadership over");
        }
        self.touch(slot);
    }

    pub(super) fn stop(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.stopping, true) {
            self.leave_all(now);
        }
    }

    /// Hands over whatever is led here.
    pub(super) fn leave_all(&mut self, now: Instant) {
        for slot in 0..self.groups.len() {
            if self.groups[slot].leave(now) {
                self.touch(slot);
            }
        }
    }

    pub(super) fn receive(&mut self, from: NodeId, frame: Bytes, now: Instant) {
        let mut reader = match FrameReader::new(frame) {
            Ok(reader) => reader,
            Err(error) => return self.bad_frame(from, &error),
        };
        loop {
            match reader.next_item() {
                Ok(Some((group, Item::Message(message)))) => self.step(from, group, message, now),
                Ok(Some((group, Item::Lost(replica, life)))) => {
                    self.hear_lost(from, group, replica, life, now);
                }
                Ok(Some((group, Item::Fresh(replica, life)))) => {
                    self.hear_fresh(group, replica, life);
                }
                Ok(Some((group, Item::Gone(replica, committed)))) => {
                    self.hear_gone(from, group, replica, committed);
                }
                Ok(Some((group, Item::Question(replica)))) => {
                    self.hear_question(from, group, replica, now);
                }
                Ok(Some((group, Item::Damaged(replica, term)))) => {
                    self.hear_damaged(from, group, replica, term);
                }
                Ok(Some((group, Item::Spared(replica, term)))) => {
                    self.hear_spared(from, group, replica, term, now);
                }
                Ok(None) => return,
                Err(error) => return self.bad_frame(from, &error),
            }
        }
    }

    fn bad_frame(&mut self, from: NodeId, error: &FrameError) {
        self.counters.bad_frames += 1;
        tracing::warn!(%from, %error, "dropped the rest of a frame");
    }

    fn step(&mut self, from: NodeId, group: GroupId, message: Message, now: Instant) {
        let Some(slot) = self.addressed(from, group, &message, now) else {
            return;
        };
        self.counters.messages += 1;
        let is_backed_up = self.is_backed_up();
        let log_is_full = self.log_is_full;
        let group = &mut self.groups[slot];
        // A peer speaks for its own replicas only; its node is proven by its certificate.
        if !group.speaks_for(message.from, from) && !mutant!(AnyoneSpeaks) {
            return;
        }
        if matches!(&message.body, MessageBody::InstallSnapshot { .. }) {
            return; // It speaks of data that the carrier brings, together with it.
        }
        if group.node_of(message.from).is_none() {
            group.meet(message.from, from);
            self.others.insert(from);
        }
        // A voter waits for a leader; who answers when it stands for election may have left as well.
        if group.ask_at.is_some() && !group.is_voter() {
            group.has_asked = false;
            group.ask_later(now, ASK_AFTER * self.config.election_timeout);
        }
        self.tell_if_gone(slot, from, &message);
        let group = &mut self.groups[slot];
        let is_append =
            matches!(&message.body, MessageBody::Append { entries, .. } if !entries.is_empty());
        if is_append && (is_backed_up || log_is_full && group.will_make_room()) {
            // The leader will send it again. Its heartbeats go through, so nobody is deposed.
            self.counters.dropped_appends += 1;
            return;
        }
        if let Err(error) = group.raft.step(message, now) {
            self.refuse(slot, from, &error, now);
        }
        self.touch(slot);
    }

    /// A message that cannot be followed. One that contradicts what is committed stops the group, and
    /// only the group (scenario R3): its replica neither votes nor acknowledges any more.
    pub(super) fn refuse(&mut self, slot: usize, from: NodeId, error: &StepError, now: Instant) {
        let group = &mut self.groups[slot];
        if error.is_fatal() {
            tracing::error!(group = %group.id(), %from, %error, "stopped a replica");
            self.lose(slot, Loss::Contradicted, now);
        } else {
            tracing::debug!(group = %group.id(), %from, %error, "refused a message");
        }
    }
}
