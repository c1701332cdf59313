//! Requests of clients: checked, routed to a group, answered.
//!
//! A request is looked at on the transport's thread and handed to the group's worker at once; its answer
//! is encoded by whichever thread has it. Nothing here waits.

use super::Node;
use bytes::Bytes;
use parking_lot::RwLock;
use pontoon_client::protocol::{
    Digest, DigestState, MAX_SCAN_BYTES, MemberStep, RefusalCode, Request, Response, ScanRange,
};
use pontoon_engine::worker::{Read, ReadQuery};
use pontoon_engine::{Reply, Waiter};
use pontoon_shard_router::{DescriptorError, ShardDescriptor};
use pontoon_store::{Outcome, ReplicaRecord};
use pontoon_transport::{ClientHandler, Responder};
use pontoon_types::{Command, Epoch, ShardId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What a client is told to wait before it tries again when a bound was reached.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Rows in one page of a scan, at most.
const MAX_SCAN_ROWS: u32 = 100_000;

/// Answers the clients of a node.
pub(super) struct ClientRequests {
    pub(super) node: Arc<Node>,
}

impl ClientHandler for ClientRequests {
    fn handle_request(&self, responder: Responder, body: Bytes) {
        match Request::decode(&body) {
            Ok(request) => self.serve(responder, request),
            Err(error) => {
                let code = RefusalCode::Malformed;
                answer(
                    responder,
                    &Response::Refused {
                        code,
                        text: error.to_string(),
                    },
                );
            }
        }
    }
}

/// Answers while the node is not there: before it has found its peers, and when it has stopped.
pub(super) struct Reception(RwLock<Desk>);

enum Desk {
    Open(ClientRequests),
    /// With what is said to who comes.
    Closed(String),
}

impl Default for Reception {
    fn default() -> Self {
        Self(RwLock::new(Desk::Closed("the node is starting".to_owned())))
    }
}

impl Reception {
    /// The node waits for these peers.
    pub(super) fn waits_for(&self, peers: &str) {
        let text = format!("the node is starting: its first start waits for {peers}");
        *self.0.write() = Desk::Closed(text);
    }

    /// The node has found all of them.
    pub(super) fn starts(&self) {
        *self.0.write() = Desk::Closed("the node is starting".to_owned());
    }

    /// From now on requests are served.
    pub(super) fn open(&self, requests: ClientRequests) {
        *self.0.write() = Desk::Open(requests);
    }

    /// From now on requests are turned away, and the node is let go.
    pub(super) fn close(&self) {
        *self.0.write() = Desk::Closed("the node is stopping".to_owned());
    }
}

impl ClientHandler for Reception {
    fn handle_request(&self, responder: Responder, body: Bytes) {
        match &*self.0.read() {
            Desk::Open(requests) => requests.handle_request(responder, body),
            Desk::Closed(text) => {
                let text = text.clone();
                answer(responder, &Response::Unavailable { text });
            }
        }
    }
}

fn answer(responder: Responder, response: &Response) {
    responder.respond_bytes(encoded(response));
}

fn encoded(response: &Response) -> Bytes {
    let mut out = Vec::with_capacity(64);
    response.encode(&mut out);
    out.into()
}

/// Waits for the workers, so it must not run on the transport's thread.
fn status(node: &Node) -> Response {
    match serde_json::to_vec(&node.status()) {
        Ok(json) => Response::Status(json.into()),
        Err(error) => Response::Unavailable {
            text: error.to_string(),
        },
    }
}

impl ClientRequests {
    fn serve(&self, responder: Responder, request: Request) {
        match request {
            Request::Command(command) => self.write(responder, command),
            Request::Get { shard, epoch, key } => {
                if let Err(error) = self.node.limits.check_key(&key) {
                    return refuse(responder, RefusalCode::TooLarge, error.to_string());
                }
                self.read(responder, shard, epoch, key.clone(), ReadQuery::Get { key });
            }
            Request::Scan {
                shard,
                epoch,
                range,
            } => {
                let ScanRange {
                    from,
                    to,
                    max_rows,
                    max_bytes,
                } = range;
                let query = ReadQuery::Scan {
                    from: from.clone(),
                    to: to.unwrap_or_default(),
                    max_rows: max_rows.clamp(1, MAX_SCAN_ROWS) as usize,
                    max_bytes: max_bytes.min(MAX_SCAN_BYTES) as usize,
                };
                self.read(responder, shard, epoch, from, query);
            }
            Request::Hints => {
                let hints = self.node.hints();
                answer(responder, &Response::Hints(hints));
            }
            Request::Members { shard, steps } => match self.node.replica(shard) {
                Some(replica) => {
                    let group = replica.record.group;
                    let steps = steps.into_iter().map(step).collect();
                    let waiter = waiter(responder, replica);
                    self.node.engine().change_members(group, steps, waiter);
                }
                None => answer(responder, &Response::NotHere),
            },
            Request::Mark { shard } => match self.node.replica(shard) {
                Some(replica) => {
                    let group = replica.record.group;
                    self.node.engine().mark(group, waiter(responder, replica));
                }
                None => answer(responder, &Response::NotHere),
            },
            Request::Digest { shard, index } => {
                let response = match self.node.replica(shard) {
                    Some(replica) => {
                        let digest = self.node.engine().digest(replica.record.group, index);
                        Response::Digest(digest_state(digest))
                    }
                    None => Response::NotHere,
                };
                answer(responder, &response);
            }
            Request::Page {
                shard,
                index,
                max_bytes,
                after,
            } => match self.node.replica(shard) {
                Some(replica) => {
                    let group = replica.record.group;
                    let max_bytes = max_bytes.min(MAX_SCAN_BYTES) as usize;
                    let waiter = waiter(responder, replica);
                    let engine = self.node.engine();
                    engine.page(group, index, after, max_bytes, waiter);
                }
                None => answer(responder, &Response::NotHere),
            },
            Request::Status => {
                let node = self.node.clone();
                tokio::spawn(async move {
                    let make = {
                        let node = node.clone();
                        move || encoded(&status(&node))
                    };
                    if let Some(status) = node.statuses.get(make).await {
                        responder.respond_bytes(status);
                    }
                });
            }
        }
    }

    fn write(&self, responder: Responder, encoded: Bytes) {
        let limits = &self.node.limits;
        if let Err(error) = limits.check_length(encoded.len()) {
            return refuse(responder, RefusalCode::TooLarge, error.to_string());
        }
        let command = match Command::decode(&encoded) {
            Ok(command) => command,
            Err(error) => return refuse(responder, RefusalCode::Malformed, error.to_string()),
        };
        if let Err(error) = limits.check(&command) {
            return refuse(responder, RefusalCode::TooLarge, error.to_string());
        }
        let (shard, epoch) = (command.request.shard, command.request.epoch);
        if shard == ShardId::META {
            let text = "the cluster's map is not written by clients".to_owned();
            return refuse(responder, RefusalCode::Forbidden, text);
        }
        let replica = match self.current(shard, epoch) {
            Ok(replica) => replica,
            Err(response) => return answer(responder, &response),
        };
        if let Some(key) = command
            .operation
            .keys()
            .find(|key| !replica.record.contains(key))
        {
            let text = format!(
                "key {:?} is outside the range of shard {shard}",
                key.escape_ascii()
            );
            return refuse(responder, RefusalCode::OutOfRange, text);
        }
        let group = replica.record.group;
        self.node
            .engine()
            .propose(group, encoded, waiter(responder, replica));
    }

    fn read(
        &self,
        responder: Responder,
        shard: ShardId,
        epoch: Epoch,
        first_key: Bytes,
        query: ReadQuery,
    ) {
        let replica = match self.current(shard, epoch) {
            Ok(replica) => replica,
            Err(response) => return answer(responder, &response),
        };
        if !replica.record.contains(&first_key) {
            let text = format!("the key is outside the range of shard {shard}");
            return refuse(responder, RefusalCode::OutOfRange, text);
        }
        let group = replica.record.group;
        let waiter = waiter(responder, replica);
        self.node.engine().read(
            group,
            Read {
                shard,
                epoch,
                query,
                waiter,
            },
        );
    }

    /// The local replica of a shard, if the request was routed by its present range; otherwise what to
    /// answer.
    fn current(&self, shard: ShardId, epoch: Epoch) -> Result<Arc<Replica>, Box<Response>> {
        match self.node.replica(shard) {
            Some(replica) if replica.record.is_current(shard, epoch) => Ok(replica),
            Some(replica) => Err(Box::new(replica.stale())),
            None => Err(Box::new(Response::NotHere)),
        }
    }
}

fn refuse(responder: Responder, code: RefusalCode, text: String) {
    answer(responder, &Response::Refused { code, text });
}

/// A shard's replica on this node.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) record: ReplicaRecord,
    pub(super) descriptor: ShardDescriptor,
}

impl Replica {
    /// A replica by its record. The descriptor in it is of the range; who the members are, the record itself says.
    pub(super) fn new(record: &ReplicaRecord) -> Result<Self, DescriptorError> {
        let mut descriptor = ShardDescriptor::decode(&record.descriptor)?;
        let conf = &record.conf_state;
        // A lost replica and the one that comes in its place are on the same node.
        let mut nodes = BTreeSet::new();
        let members = [&conf.voters, &conf.outgoing, &conf.learners];
        let placed = members.into_iter().flatten().filter_map(|&replica| {
            let node = record.members.node_of(replica)?;
            let is_first = nodes.insert(node);
            is_first.then_some(pontoon_shard_router::Replica { replica, node })
        });
        let placed: Vec<_> = placed.collect();
        if !placed.is_empty() {
            descriptor.replicas = placed;
        }
        descriptor.epoch = record.epoch;
        Ok(Self {
            record: record.clone(),
            descriptor,
        })
    }

    fn stale(&self) -> Response {
        Response::StaleEpoch {
            descriptors: vec![self.descriptor.clone()],
        }
    }
}

const fn step(step: MemberStep) -> pontoon_engine::worker::MemberStep {
    use pontoon_engine::worker::MemberStep as Step;
    match step {
        MemberStep::AddLearner(node) => Step::AddLearner(node),
        MemberStep::AddVoter(node) => Step::AddVoter(node),
        MemberStep::Demote(node) => Step::Demote(node),
        MemberStep::Remove(node) => Step::Remove(node),
    }
}

fn digest_state(digest: pontoon_engine::held::DigestState) -> DigestState {
    use pontoon_engine::held::DigestState as Held;
    match digest {
        Held::NotHeld => DigestState::NotHeld,
        Held::Underway => DigestState::Underway,
        Held::Failed => DigestState::Failed,
        Held::GivenUp => DigestState::GivenUp,
        Held::Known(digest) => DigestState::Known(Digest {
            replica: digest.replica,
            rows: digest.rows,
            bytes: digest.bytes,
            hash: digest.hash,
        }),
    }
}

fn waiter(responder: Responder, replica: Arc<Replica>) -> Waiter {
    Waiter::new(move |reply| answer(responder, &response(reply, &replica)))
}

/// The client's answer from the engine's.
fn response(reply: Reply, replica: &Replica) -> Response {
    let refused = |code, text: &str| Response::Refused {
        code,
        text: text.to_owned(),
    };
    match reply {
        Reply::Applied(outcome) => match outcome {
            Outcome::Written | Outcome::MembersChanged(_) => Response::Written,
            Outcome::Marked(index) => Response::Marked(index),
            Outcome::MembersUnchanged => refused(
                RefusalCode::Members,
                "the members are others by now, and the change makes no sense any more",
            ),
            Outcome::Swapped => Response::Swapped,
            Outcome::NotSwapped { actual } => Response::NotSwapped { actual },
            Outcome::StaleEpoch => replica.stale(),
            Outcome::OutOfRange => refused(RefusalCode::OutOfRange, "a key is outside the range"),
            Outcome::Malformed => refused(RefusalCode::Malformed, "not a command"),
            // A proposal is applied by the life of the process that made it, so neither happens to one;
            // if it did, what came of it would not be known.
            Outcome::None | Outcome::Answered(_) | Outcome::AlreadyApplied => {
                Response::UnknownOutcome
            }
        },
        Reply::Value(value) => Response::Value(value),
        Reply::Rows(page) => Response::Rows {
            rows: page.rows,
            more: page.more,
        },
        Reply::StaleRead => replica.stale(),
        Reply::NotLeader { leader } => Response::NotLeader { leader },
        Reply::Overloaded { .. } => Response::Overloaded {
            retry_after: RETRY_AFTER,
        },
        Reply::NoReplica { .. } => Response::NotHere,
        Reply::Unavailable { reason } => Response::Unavailable {
            text: reason.to_owned(),
        },
        Reply::Refused { reason } => refused(RefusalCode::Members, &reason),
        Reply::Unknown => Response::UnknownOutcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_types::{ConfState, GroupId, Members, NodeId, ReplicaId, TabletId};

    #[test]
    fn who_is_replaced_on_its_own_node_is_named_once() {
        let epoch = Epoch {
            range: 1,
            membership: 2,
        };
        let nodes = [(1, 1), (2, 2), (3, 3), (4, 2)];
        let placed = |(replica, node)| (ReplicaId(replica), NodeId(node));
        let mut conf_state = ConfState::of_voters([1, 2, 3].map(ReplicaId));
        conf_state.learners = vec![ReplicaId(4)];
        let descriptor = ShardDescriptor {
            shard: ShardId(1),
            group: GroupId(1),
            start: Bytes::new(),
            end: None,
            epoch,
            replicas: vec![pontoon_shard_router::Replica {
                replica: ReplicaId(1),
                node: NodeId(1),
            }],
        };
        let mut encoded = Vec::new();
        descriptor.encode(&mut encoded);
        let record = ReplicaRecord {
            group: GroupId(1),
            shard: ShardId(1),
            replica: ReplicaId(1),
            start: Bytes::new(),
            end: Bytes::new(),
            epoch,
            pieces: TabletId(1).into(),
            conf_state,
            members: Members::new(nodes.map(placed)),
            descriptor: encoded.into(),
        };
        let replica = Replica::new(&record).unwrap();
        let mut told = Vec::new();
        replica.descriptor.encode(&mut told);
        let heard = ShardDescriptor::decode(&told).unwrap();
        let named: Vec<_> = heard.replicas.iter().map(|one| one.replica.0).collect();
        assert_eq!(named, [1, 2, 3]);
    }
}
