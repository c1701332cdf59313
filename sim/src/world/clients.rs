//! Clients: each makes one call at a time, led by the real client's routing core.

use super::process::Asker;
use super::service::Service;
use super::{Event, World, unexpected};
use crate::faults::Fault;
use crate::invariants::{Action, Call, Checked, Invariant, Violation};
use bytes::Bytes;
use pontoon_client::protocol::Response;
use pontoon_client::routing::{Access, Attempt, ChannelFailure, Place, Router, Target, Verdict};
use pontoon_engine::Reply;
use pontoon_engine::worker::{Input, Read, ReadQuery};
use pontoon_shard_router::{ClusterMap, ShardDescriptor};
use pontoon_store::Outcome;
use pontoon_types::{
    Command, Epoch, Instant, Mutation, Operation, Request, Sequence, SessionId, ShardId,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a call may take when everything works again.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a read waits for an answer before it asks again.
const READ_TRY_TIMEOUT: Duration = Duration::from_millis(600);
/// What an overloaded node asks for.
const RETRY_AFTER: Duration = Duration::from_millis(20);
/// How long a message of or to a client is under way, in microseconds.
const DELAY_MICROS: (u64, u64) = (50, 1_000);
/// How long it takes to notice a broken connection, in microseconds.
const NOTICE_MICROS: (u64, u64) = (100, 50_000);

/// A client's call, and which of its tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TryId {
    call: u64,
    number: u64,
}

/// What a call does. Values go by their numbers; 0 is no value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Get,
    Put(u64),
    Delete,
    Swap {
        expect: u64,
        set: u64,
    },
    /// The counter is counted up. The number is filling, as in a value.
    Count(u64),
}

pub(super) struct Client {
    router: Router,
    calls: u64,
    pending: Option<Pending>,
    /// What it last saw under each key.
    seen: BTreeMap<u64, u64>,
}

struct Pending {
    id: TryId,
    key: u64,
    kind: Kind,
    began: Instant,
    attempt: Attempt,
    /// The node that was asked and has not answered.
    asked: Option<usize>,
    shard: Option<Arc<ShardDescriptor>>,
    is_probe: bool,
}

impl Client {
    pub(super) fn new(map: &ClusterMap) -> Self {
        let mut router = Router::new((**map.meta()).clone());
        router.handle_map(map.clone());
        Self {
            router,
            calls: 0,
            pending: None,
            seen: BTreeMap::new(),
        }
    }

    pub(super) const fn is_idle(&self) -> bool {
        self.pending.is_none()
    }
}

/// A key of a group, in bytes; `group` counts user groups from 0.
pub(super) fn key_of(group: usize, key: u64) -> Bytes {
    format!("g{group:05}/{key:05}").into()
}

/// Keys by number: of which group, and which one there.
const KEYS: u64 = 100_000;

pub(super) fn key_bytes(key: u64) -> Bytes {
    key_of((key / KEYS) as usize, key % KEYS)
}

/// A value's number, then as much filling as this number asks for.
fn value_bytes(value: u64, longest: u64) -> Vec<u8> {
    let length = 8 + value.wrapping_mul(0x9e37_79b9_7f4a_7c15) % longest;
    let mut bytes = value.to_be_bytes().to_vec();
    bytes.resize(length as usize, value as u8);
    bytes
}

pub(super) fn value_id(value: Option<&Bytes>) -> Result<u64, Violation> {
    let Some(value) = value else { return Ok(0) };
    let id = value.first_chunk().map(|id| u64::from_be_bytes(*id));
    let sound = id.filter(|id| value[8..].iter().all(|byte| *byte == *id as u8));
    sound.ok_or_else(|| {
        let what = format!("a client read a value that nobody has written: {value:x?}");
        Violation::new(Invariant::S8, what)
    })
}

impl World {
    fn timeout(&self, is_probe: bool) -> Duration {
        if is_probe {
            PROBE_TIMEOUT
        } else {
            CALL_TIMEOUT
        }
    }

    /// A client begins its next call.
    pub(super) fn client_next(&mut self, client: usize) -> Checked {
        if !self.clients[client].is_idle() {
            return Ok(());
        }
        let number = self.clients[client].calls + 1;
        let value = (client as u64 + 1) << 32 | number;
        let is_probe = self.healed;
        let (key, kind) = if is_probe {
            let Some((key, writes)) = self.probes.pop_front() else {
                return Ok(());
            };
            let kind = match (writes, self.service) {
                (false, _) => Kind::Get,
                (true, Service::KeyValue) => Kind::Put(value),
                (true, Service::Counters) => Kind::Count(value),
            };
            (key, kind)
        } else {
            self.draw_call(client, value)
        };
        let access = if matches!(kind, Kind::Get) {
            Access::Read
        } else {
            Access::Write
        };
        let deadline = self.now + self.timeout(is_probe);
        let id = TryId {
            call: number,
            number: 0,
        };
        let state = &mut self.clients[client];
        state.calls = number;
        state.pending = Some(Pending {
            id,
            key,
            kind,
            began: self.now,
            attempt: Attempt::new(access, deadline),
            asked: None,
            shard: None,
            is_probe,
        });
        self.trace
            .event(self.now, 20, &[client as u64, number, key]);
        self.trace.line(self.now, || {
            format!("c{client} call {number}: {kind:?} key {key}")
        });
        self.client_try(client, id)
    }

    fn draw_call(&mut self, client: usize, value: u64) -> (u64, Kind) {
        let group = self.dice.below(self.scale.groups as u64);
        let key = group * KEYS + self.dice.below(self.profile.keys_per_group);
        let seen = self.clients[client]
            .seen
            .get(&key)
            .copied()
            .unwrap_or_default();
        let kind = match (self.dice.below(10), self.service) {
            (4..7, _) => Kind::Get,
            (_, Service::Counters) => Kind::Count(value),
            (0..4, _) => Kind::Put(value),
            (7..9, _) => Kind::Swap {
                expect: seen,
                set: value,
            },
            _ => Kind::Delete,
        };
        (key, kind)
    }

    /// The calls that show that every group works again: a write to each, then a read of every key.
    pub(super) fn plan_probes(&mut self) {
        let groups = 0..self.scale.groups as u64;
        let writes = groups.clone().map(|group| (group * KEYS, true));
        let keys = self.profile.keys_per_group;
        let reads = groups.flat_map(|group| (0..keys).map(move |key| (group * KEYS + key, false)));
        self.probes = writes.chain(reads).collect();
        for client in 0..self.clients.len() {
            self.plan(Duration::from_millis(1), Event::ClientNext { client });
        }
    }

    fn pending(&mut self, client: usize, id: TryId) -> Option<&mut Pending> {
        let pending = self.clients[client].pending.as_mut();
        pending.filter(|pending| pending.id == id)
    }

    /// A client tries where its router says.
    pub(super) fn client_try(&mut self, client: usize, id: TryId) -> Checked {
        let (now, random) = (self.now, self.dice.roll());
        let state = &mut self.clients[client];
        let Some(pending) = state.pending.as_mut().filter(|pending| pending.id == id) else {
            return Ok(());
        };
        pending.id.number += 1;
        let id = pending.id;
        let key = key_bytes(pending.key);
        match state
            .router
            .target(Place::Key(&key), &mut pending.attempt, now)
        {
            Target::Send { node, shard } => {
                let place = node.0 as usize - 1;
                pending.asked = Some(place);
                pending.shard = Some(shard);
                let until = match pending.kind {
                    Kind::Get => READ_TRY_TIMEOUT,
                    _ => PROBE_TIMEOUT,
                };
                let left = (pending.began
                    + if pending.is_probe {
                        PROBE_TIMEOUT
                    } else {
                        CALL_TIMEOUT
                    })
                    - now;
                self.plan(until.min(left), Event::TimedOut { client, id });
                let delay = self.dice.micros(DELAY_MICROS);
                if self.nodes[place].process.is_none() {
                    self.plan(
                        delay,
                        Event::Broken {
                            client,
                            id,
                            sent: false,
                        },
                    );
                } else if self.loses_message() {
                    self.trace
                        .line(now, || format!("c{client} -> n{node}: lost"));
                } else {
                    self.plan(
                        delay,
                        Event::Request {
                            client,
                            id,
                            node: place,
                        },
                    );
                }
                Ok(())
            }
            Target::RefreshMap => {
                let verdict = pending.attempt.handle_no_map(now, random);
                self.follow(client, id, verdict, None)
            }
            Target::Spans { .. } => Err(unexpected("a call for one key spans shards".to_owned())),
        }
    }

    fn loses_message(&mut self) -> bool {
        let lost = !self.healed && self.dice.chance(self.profile.drop_chance);
        if lost {
            self.faults.count(Fault::Drop);
        }
        lost
    }

    /// A client's request arrives at a node.
    pub(super) fn request(&mut self, client: usize, id: TryId, node: usize) -> Checked {
        self.trace.event(
            self.now,
            21,
            &[client as u64, id.call, id.number, node as u64],
        );
        let longest = self.profile.value_bytes;
        let waiter = self.nodes[node]
            .process
            .as_ref()
            .map(|process| process.waiter(Asker::Client(client, id)));
        let Some(pending) = self.pending(client, id) else {
            return Ok(());
        };
        let Some(waiter) = waiter else {
            return self.broken(client, id, true);
        };
        let shard = pending
            .shard
            .clone()
            .expect("a try that was sent has a shard");
        let (group, key) = (shard.group, key_bytes(pending.key));
        let input = match pending.kind {
            Kind::Get => Input::Read {
                group,
                read: Read {
                    shard: shard.shard,
                    epoch: shard.epoch,
                    query: ReadQuery::Get { key },
                    waiter,
                },
            },
            kind => Input::Propose {
                group,
                command: encode(client, id.call, &shard, kind, &key, longest),
                waiter,
            },
        };
        self.tell(node, (group.0 % super::WORKERS as u64) as usize, input);
        Ok(())
    }

    /// A node has an answer for a client.
    pub(super) fn reply(&mut self, at: usize, client: usize, id: TryId, reply: Reply) -> Checked {
        let command = (client as u64 + 1, id.call);
        if let Reply::Applied(Outcome::Written | Outcome::Swapped | Outcome::Answered(_)) = reply {
            self.observer.acknowledges(command)?;
        }
        let response = match reply {
            Reply::Applied(Outcome::Written) => Response::Written,
            Reply::Applied(Outcome::Swapped) => Response::Swapped,
            Reply::Applied(Outcome::NotSwapped { actual }) => Response::NotSwapped { actual },
            Reply::Value(value) => Response::Value(value),
            Reply::Applied(Outcome::Answered(count)) => Response::Value(Some(count)),
            Reply::NotLeader { leader } => Response::NotLeader { leader },
            Reply::Overloaded { .. } => Response::Overloaded {
                retry_after: RETRY_AFTER,
            },
            Reply::Unavailable { reason } => Response::Unavailable {
                text: reason.to_owned(),
            },
            Reply::Unknown => Response::UnknownOutcome,
            // Replicas come and go.
            Reply::NoReplica { .. } => Response::NotHere,
            // The ranges never change here, and every entry that somebody waits for is applied now.
            Reply::Applied(_) | Reply::Rows(_) | Reply::StaleRead | Reply::Refused { .. } => {
                return Err(unexpected(format!(
                    "node {} answers {command:?} with {reply:?}",
                    at + 1
                )));
            }
        };
        if self.loses_message() {
            return Ok(());
        }
        let delay = self.dice.micros(DELAY_MICROS);
        let response = Box::new(response);
        self.plan(
            delay,
            Event::Answer {
                client,
                id,
                response,
            },
        );
        Ok(())
    }

    /// An answer reaches its client.
    pub(super) fn answer(&mut self, client: usize, id: TryId, response: &Response) -> Checked {
        let (now, random) = (self.now, self.dice.roll());
        self.trace
            .event(now, 22, &[client as u64, id.call, id.number]);
        self.trace.line(now, || {
            format!("c{client} call {} try {}: {response:?}", id.call, id.number)
        });
        let state = &mut self.clients[client];
        let Some(pending) = state.pending.as_mut().filter(|pending| pending.id == id) else {
            return Ok(());
        };
        let verdict = state
            .router
            .handle_response(&mut pending.attempt, response, now, random);
        self.follow(client, id, verdict, Some(response))
    }

    /// A client notices that its connection broke.
    pub(super) fn broken(&mut self, client: usize, id: TryId, sent: bool) -> Checked {
        let failure = if sent {
            ChannelFailure::MayHaveBeenSent
        } else {
            ChannelFailure::NotSent
        };
        self.failure(client, id, failure)
    }

    /// A try's time is over.
    pub(super) fn timed_out(&mut self, client: usize, id: TryId) -> Checked {
        self.failure(client, id, ChannelFailure::TimedOut)
    }

    fn failure(&mut self, client: usize, id: TryId, failure: ChannelFailure) -> Checked {
        let (now, random) = (self.now, self.dice.roll());
        let state = &mut self.clients[client];
        let Some(pending) = state.pending.as_mut().filter(|pending| pending.id == id) else {
            return Ok(());
        };
        if pending.asked.is_none() {
            return Ok(()); // It waits for its next try.
        }
        self.trace
            .event(now, 23, &[client as u64, id.call, id.number]);
        self.trace.line(now, || {
            format!("c{client} call {} try {}: {failure:?}", id.call, id.number)
        });
        let verdict = state
            .router
            .handle_failure(&mut pending.attempt, failure, now, random);
        self.follow(client, id, verdict, None)
    }

    /// Does what the router decided.
    fn follow(
        &mut self,
        client: usize,
        id: TryId,
        verdict: Verdict,
        response: Option<&Response>,
    ) -> Checked {
        if let Some(pending) = self.pending(client, id) {
            pending.asked = None;
        }
        match verdict {
            Verdict::Retry { after } => self.plan(after, Event::ClientTry { client, id }),
            Verdict::RefreshMap { after } => {
                // The map never changes here, so it is read from nowhere.
                let map = self.map.clone();
                self.clients[client].router.handle_map(map);
                self.plan(after, Event::ClientTry { client, id });
            }
            Verdict::Done | Verdict::Deadline | Verdict::Unknown => {
                self.end_call(client, verdict == Verdict::Deadline, response)?;
            }
            Verdict::Fail => {
                return Err(unexpected(format!(
                    "call {id:?} of client {client} is refused: {response:?}"
                )));
            }
        }
        Ok(())
    }

    fn end_call(&mut self, client: usize, refused: bool, response: Option<&Response>) -> Checked {
        let state = &mut self.clients[client];
        let Some(Pending {
            id,
            key,
            kind,
            began,
            is_probe,
            shard,
            ..
        }) = state.pending.take()
        else {
            return Ok(());
        };
        let think = self.dice.micros(self.profile.think_micros);
        self.plan(think, Event::ClientNext { client });
        if is_probe && matches!(response, None | Some(Response::UnknownOutcome)) {
            // A node that was stopping when everything healed may still have taken it with it. Asked
            // again; that it succeeds in bounded time is looked at elsewhere.
            self.probes.push_back((key, !matches!(kind, Kind::Get)));
        }
        if refused {
            let writes = !matches!(kind, Kind::Get);
            return if writes {
                self.observer.once.refused((client as u64 + 1, id.call))
            } else {
                Ok(())
            };
        }
        let (action, seen) = match (kind, response) {
            (Kind::Get, Some(Response::Value(value))) => {
                let seen = value_id(value.as_ref())?;
                (Action::Read(seen), Some(seen))
            }
            (Kind::Put(value), Some(Response::Written)) => (Action::Write(value), Some(value)),
            (Kind::Delete, Some(Response::Written)) => (Action::Write(0), Some(0)),
            (Kind::Swap { expect, set }, Some(Response::Swapped)) => {
                (Action::Swap { expect, set }, Some(set))
            }
            (Kind::Swap { expect, .. }, Some(Response::NotSwapped { actual })) => {
                let actual = value_id(actual.as_ref())?;
                (Action::NoSwap { expect, actual }, Some(actual))
            }
            (Kind::Get, None | Some(Response::UnknownOutcome)) => return Ok(()),
            (Kind::Put(value), None | Some(Response::UnknownOutcome)) => {
                (Action::Write(value), None)
            }
            (Kind::Delete, None | Some(Response::UnknownOutcome)) => (Action::Write(0), None),
            (Kind::Count(_), Some(Response::Value(Some(count)))) => {
                let number = std::str::from_utf8(count)
                    .ok()
                    .and_then(|text| text.parse().ok());
                let number = number
                    .ok_or_else(|| unexpected(format!("a count is answered with {count:x?}")))?;
                (Action::Count(Some(number)), Some(number))
            }
            (Kind::Count(_), None | Some(Response::UnknownOutcome)) => (Action::Count(None), None),
            (Kind::Swap { expect, set }, None | Some(Response::UnknownOutcome)) => {
                (Action::Swap { expect, set }, None)
            }
            (kind, response) => {
                return Err(unexpected(format!(
                    "{kind:?} is answered with {response:?}"
                )));
            }
        };
        let ended = seen.map(|_| self.now);
        if seen.is_some()
            && let Some(shard) = shard
        {
            self.plan_audits(shard.group, key);
        }
        self.history.call(
            key,
            Call {
                began,
                ended,
                action,
            },
        );
        if let Some(seen) = seen {
            self.clients[client].seen.insert(key, seen);
        }
        Ok(())
    }

    /// A process is gone: its clients notice, and so do its peers, most of the time.
    pub(super) fn lose_connections(&mut self, at: usize) {
        for client in 0..self.clients.len() {
            let asked = self.clients[client].pending.as_ref();
            let id = asked
                .filter(|pending| pending.asked == Some(at))
                .map(|pending| pending.id);
            if let Some(id) = id {
                let after = self.dice.micros(NOTICE_MICROS);
                self.plan(
                    after,
                    Event::Broken {
                        client,
                        id,
                        sent: true,
                    },
                );
            }
        }
        for node in (0..self.nodes.len()).filter(|node| *node != at) {
            if !self.dice.chance(200_000) {
                let after = self.dice.micros(NOTICE_MICROS);
                self.plan(after, Event::PeerLost { node, peer: at });
            }
        }
    }
}

/// A command that writes a value under one key, as any session may ask any shard.
pub(super) fn encode_put(
    session: u64,
    call: u64,
    (shard, epoch): (ShardId, Epoch),
    key: &[u8],
    value: u64,
    longest: u64,
) -> Bytes {
    let value = &value_bytes(value, longest);
    let request = Request {
        shard,
        epoch,
        session: SessionId(session),
        sequence: Sequence(call),
    };
    let operation = Operation::Write(vec![Mutation::Put { key, value }]);
    let mut command = Vec::new();
    Command { request, operation }.encode(&mut command);
    command.into()
}

fn encode(
    client: usize,
    call: u64,
    shard: &ShardDescriptor,
    kind: Kind,
    key: &[u8],
    longest: u64,
) -> Bytes {
    let bytes = |value| value_bytes(value, longest);
    let (value, expected);
    let operation = match kind {
        Kind::Put(id) | Kind::Count(id) => {
            value = bytes(id);
            Operation::Write(vec![Mutation::Put { key, value: &value }])
        }
        Kind::Swap { expect, set } => {
            (expected, value) = (bytes(expect), bytes(set));
            Operation::CompareAndSwap {
                key,
                expect: (expect != 0).then_some(&expected),
                set: Some(&value),
            }
        }
        Kind::Delete | Kind::Get => Operation::Write(vec![Mutation::Delete { key }]),
    };
    let request = Request {
        shard: shard.shard,
        epoch: shard.epoch,
        session: SessionId(client as u64 + 1),
        sequence: Sequence(call),
    };
    let mut command = Vec::new();
    Command { request, operation }.encode(&mut command);
    command.into()
}
