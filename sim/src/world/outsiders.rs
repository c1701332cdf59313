//! Those who do not play by the rules: requests that no client of ours would send, bytes that no peer of
//! ours would send, and reads that try whether a deposed leader still answers.

use super::process::{Asker, worker_of};
use super::{Event, World, clients};
use crate::faults::Fault;
use crate::invariants::{Action, Call, Checked, Claim, no_effect, refused};
use bytes::Bytes;
use pontoon_engine::Reply;
use pontoon_engine::frame::{FrameBuilder, FrameReader, Origin};
use pontoon_engine::worker::{Input, Read, ReadQuery};
use pontoon_raft::{Message, MessageBody};
use pontoon_shard_router::ShardDescriptor;
use pontoon_store::Outcome;
use pontoon_types::{GroupId, LogIndex, LogPosition, NodeId, ReplicaId, ShardId, Term};
use std::sync::Arc;

/// A key of every group that only floods write, so that no history has it.
pub(super) const FLOODED_KEY: u64 = 99_999;
/// Sessions of floods begin here.
const FIRST_FLOOD: u64 = 1 << 40;
/// A node that is no part of the cluster.
const STRANGER: NodeId = NodeId(999);

impl World {
    /// Somebody has just learnt what a key holds. From now on no replica may say anything older, and the
    /// one that led before is the likeliest to do so.
    pub(super) fn plan_audits(&mut self, group: GroupId, key: u64) {
        for node in self.observer.recent_leaders(group) {
            let after = self.dice.micros((1, 300));
            let node = node.0 as usize - 1;
            self.plan(after, Event::Audit { node, group, key });
        }
    }

    /// Asks a node for a key, whoever leads.
    pub(super) fn audit(&mut self, at: usize, group: GroupId, key: u64) -> Checked {
        let asker = Asker::Audit {
            key,
            began: self.now,
        };
        let bytes = clients::key_bytes(key);
        let Some(shard) = self.map.route(&bytes) else {
            return Ok(());
        };
        let claim = Claim {
            group,
            shard: shard.shard,
            epoch: shard.epoch,
            key: bytes,
        };
        self.ask(at, &claim, asker);
        Ok(())
    }

    fn ask(&mut self, at: usize, claim: &Claim, asker: Asker) {
        let Some(process) = &self.nodes[at].process else {
            return;
        };
        let group = claim.group;
        let read = Read {
            shard: claim.shard,
            epoch: claim.epoch,
            query: ReadQuery::Get {
                key: claim.key.clone(),
            },
            waiter: process.waiter(asker),
        };
        self.tell(at, worker_of(group), Input::Read { group, read });
    }

    fn propose(&mut self, at: usize, group: GroupId, command: Bytes, asker: Asker) {
        if let Some(process) = &self.nodes[at].process {
            let waiter = process.waiter(asker);
            let input = Input::Propose {
                group,
                command,
                waiter,
            };
            self.tell(at, worker_of(group), input);
        }
    }

    /// What a process answers to one of those who are no clients.
    pub(super) fn answer_outsider(&mut self, at: usize, asker: Asker, reply: &Reply) -> Checked {
        let node = self.nodes[at].id;
        match (asker, reply) {
            (Asker::Audit { key, began }, Reply::Value(value)) => {
                let action = Action::Read(clients::value_id(value.as_ref())?);
                let ended = Some(self.now);
                let call = Call {
                    began,
                    ended,
                    action,
                };
                self.trace.line(self.now, || {
                    format!("n{node} answers an audit of key {key}: {action:?}")
                });
                self.history.call(key, call);
            }
            (
                Asker::Astray(claim),
                Reply::Value(_)
                | Reply::Applied(Outcome::Written | Outcome::Swapped | Outcome::Answered(_)),
            ) => self.ownership.served(node, &claim)?,
            (Asker::Flood(command), Reply::Applied(Outcome::Written | Outcome::Answered(_))) => {
                self.observer.acknowledges(command)?;
            }
            (Asker::Nonsense, reply) => refused(node, reply)?,
            _ => {}
        }
        Ok(())
    }

    /// Requests that were routed by a map that is not this cluster's, or to another group than it says.
    pub(super) fn send_astray(&mut self, at: usize) {
        for _ in 0..8 {
            let key = clients::key_of(self.dice.below(self.scale.groups as u64) as usize, 0);
            let Some(right) = self.map.route(&key).cloned() else {
                return;
            };
            let mut claim = Claim {
                group: right.group,
                shard: right.shard,
                epoch: right.epoch,
                key,
            };
            match self.dice.below(4) {
                0 => claim.epoch.range += 1,
                1 => claim.epoch.range = claim.epoch.range.wrapping_sub(1),
                2 => claim.shard = ShardId(claim.shard.0 + 1_000),
                _ => {
                    // The right shard and epoch for the group, but not the key's.
                    let others: Vec<_> = self.map.shards().cloned().collect();
                    let other = self.dice.pick(&others);
                    if other.group == right.group {
                        claim.shard = ShardId(claim.shard.0 + 1_000);
                    } else {
                        (claim.group, claim.shard) = (other.group, other.shard);
                        claim.epoch = other.epoch;
                    }
                }
            }
            let asker = Asker::Astray(claim.clone());
            let at = self.likely_leader(claim.group).unwrap_or(at);
            if self.dice.flip() {
                self.ask(at, &claim, asker);
            } else {
                let session = FIRST_FLOOD + self.outsiders;
                self.outsiders += 1;
                let command =
                    clients::encode_put(session, 1, (claim.shard, claim.epoch), &claim.key, 99, 16);
                self.propose(at, claim.group, command, asker);
            }
        }
    }

    /// Far more proposals than usual, all at once.
    pub(super) fn flood(&mut self, at: usize) {
        let number = self.dice.below(self.scale.groups as u64);
        let key = clients::key_of(number as usize, FLOODED_KEY);
        let Some(shard) = self.map.route(&key).cloned() else {
            return;
        };
        let session = FIRST_FLOOD + self.outsiders;
        self.outsiders += 1;
        let at = self.likely_leader(shard.group).unwrap_or(at);
        for call in 1..=self.dice.between(50, 300) {
            let route = (shard.shard, shard.epoch);
            let command = clients::encode_put(session, call, route, &key, call, 3_000);
            let asker = Asker::Flood((session, call));
            self.propose(at, shard.group, command, asker);
        }
    }

    fn shard_of(&self, group: GroupId) -> Option<Arc<ShardDescriptor>> {
        let mut shards = self.map.shards().chain([self.map.meta()]);
        shards.find(|shard| shard.group == group).cloned()
    }

    fn likely_leader(&self, group: GroupId) -> Option<usize> {
        let node = self.observer.recent_leaders(group).into_iter().next()?;
        Some(node.0 as usize - 1)
    }

    /// Bytes that a correct peer or client never sends.
    pub(super) fn send_hostile_bytes(&mut self, at: usize) -> Checked {
        if self.nodes[at].process.is_none() || self.now < self.nodes[at].paused_until {
            return Ok(());
        }
        self.faults.count(Fault::HostileBytes);
        self.tampering = true;
        for _ in 0..4 {
            let garbage = self.garbage();
            let from = self.nodes[self.dice.below(self.nodes.len() as u64) as usize].id;
            self.hand_hostile(at, from, garbage, "garbage")?;
            self.forge(at)?;
        }
        let groups = self.observer.groups_of(self.nodes[at].id);
        let Some(group) = groups.get(self.dice.below(groups.len().max(1) as u64) as usize) else {
            return Ok(());
        };
        let nonsense = self.garbage();
        self.propose(at, *group, nonsense, Asker::Nonsense);
        let group = *group;
        if let Some(shard) = self.shard_of(group) {
            let claim = Claim {
                group,
                shard: shard.shard,
                epoch: shard.epoch,
                key: vec![b'g'; self.dice.below(100_000) as usize].into(),
            };
            self.ask(at, &claim, Asker::Nonsense);
        }
        Ok(())
    }

    /// Bytes of no frame and no command: wherever a kind is looked for, there is none.
    fn garbage(&mut self) -> Bytes {
        let mut bytes: Vec<u8> = (0..self.dice.below(200))
            .map(|_| self.dice.roll() as u8)
            .collect();
        if self.dice.flip() {
            let front = [1, 0, super::WORKERS as u8, 200];
            let length = front.len().min(bytes.len());
            bytes[..length].copy_from_slice(&front[..length]);
        } else if let Some(first) = bytes.first_mut() {
            *first |= 0x80;
        }
        bytes.into()
    }

    /// A message that would do great harm, from a node that does not hold the replica in whose name it
    /// speaks.
    fn forge(&mut self, at: usize) -> Checked {
        let node = self.nodes[at].id;
        let Some(process) = &self.nodes[at].process else {
            return Ok(());
        };
        let replicas = process.status();
        if replicas.is_empty() {
            return Ok(());
        }
        let own = self.dice.pick(&replicas).clone();
        let others = own.members.iter().filter(|one| one.replica != own.replica);
        let others: Vec<_> = others
            .filter_map(|one| Some((one.replica, one.node?)))
            .collect();
        if others.is_empty() {
            return Ok(());
        }
        let (named, named_node) = *self.dice.pick(&others);
        let liars = self.nodes.iter().map(|node| node.id).chain([STRANGER]);
        let liars: Vec<NodeId> = liars.filter(|liar| *liar != named_node).collect();
        let from = *self.dice.pick(&liars);
        let (group, to) = (own.group, own.replica);
        let (term, last) = self.observer.end_of(node, group);
        let message = self.forged(named, to, term, last);
        let worker = worker_of(group) as u8;
        let workers = super::WORKERS as u8;
        let mut builder = FrameBuilder::new(Origin { worker, workers });
        builder.push(group, &message);
        let frame = builder.finish().to_bytes();
        self.hand_hostile(at, from, frame, "a forged message")
    }

    fn forged(&mut self, from: ReplicaId, to: ReplicaId, term: Term, last: LogIndex) -> Message {
        let newer = Term(term.0 + 3);
        let (term, body) = match self.dice.below(4) {
            0 => (
                term,
                MessageBody::AppendResponse {
                    matched: last,
                    read_round: 0,
                },
            ),
            1 => {
                let body = MessageBody::VoteResponse {
                    granted: true,
                    pre: false,
                    committed: LogPosition::ZERO,
                };
                (term, body)
            }
            2 => {
                let (commit, matched_by_all) = (last, last);
                let body = MessageBody::Heartbeat {
                    commit,
                    matched_by_all,
                    read_round: 0,
                };
                (newer, body)
            }
            _ => (newer, MessageBody::HeartbeatResponse { read_round: 0 }),
        };
        Message {
            from,
            to,
            term,
            body,
        }
    }

    /// Damages an entry of a frame that is on its way, and lets the copy arrive first.
    pub(super) fn tamper(&mut self, from: usize, to: usize, frame: &Bytes) -> Checked {
        let Ok(mut reader) = FrameReader::new(frame.clone()) else {
            return Ok(());
        };
        while let Ok(Some((group, message))) = reader.next_message() {
            let MessageBody::Append { entries, .. } = &message.body else {
                continue;
            };
            let lengths: usize = entries.iter().map(|entry| entry.encoded_len()).sum();
            if lengths == 0 || self.nodes[to].process.is_none() {
                continue;
            }
            let worker = worker_of(group) as u8;
            let workers = super::WORKERS as u8;
            let mut builder = FrameBuilder::new(Origin { worker, workers });
            builder.push(group, &message);
            // The entries are the end of the frame.
            let mut bytes = builder.finish().to_bytes().to_vec();
            let at = bytes.len() - 1 - self.dice.below(lengths as u64) as usize;
            bytes[at] ^= 1 << self.dice.below(8);
            self.tampering = false;
            let from = self.nodes[from].id;
            return self.hand_hostile(to, from, bytes.into(), "a damaged entry");
        }
        Ok(())
    }

    /// Gives a worker a frame that it must refuse as a whole, and looks whether that changed anything.
    fn hand_hostile(&mut self, at: usize, from: NodeId, frame: Bytes, what: &str) -> Checked {
        let (now, id) = (self.now, self.nodes[at].id);
        let local = self.nodes[at].clock.at(now);
        self.trace.line(now, || {
            format!("n{id} gets {what} from n{from}: {} bytes", frame.len())
        });
        self.trace
            .event(now, 15, &[id.0, from.0, frame.len() as u64]);
        let Some(process) = &mut self.nodes[at].process else {
            return Ok(());
        };
        for worker in 0..super::WORKERS {
            let frame = frame.clone();
            let (before, after) = process.hand(worker, Input::Frame { from, frame }, local);
            no_effect(id, what, &before, &after)?;
        }
        Ok(())
    }
}
