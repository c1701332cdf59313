//! Requests that name a node or a shard, and no key: how a node is, a group's members, states to compare.

use crate::link::LinkFailure;
use crate::protocol::{
    DigestState, MemberStep, Response, encode_digest, encode_mark, encode_members, encode_page,
    encode_status,
};
use crate::scan::Row;
use crate::{Client, ClientError, Setback, UnknownCause};
use bytes::Bytes;
use core::time::Duration;
use pontoon_shard_router::NodeDescriptor;
use pontoon_transport::{ChannelError, LinkError};
use pontoon_types::{Instant, LogIndex, NodeId, ShardId};
use tokio::task::JoinSet;

/// Between two tries to find the leader of a group whose members are to change.
const MEMBERS_PAUSE: Duration = Duration::from_millis(100);

/// Whether what may have been done may be asked for again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Yes,
    No,
}

impl Client {
    /// How `node` is, by its own words: JSON that the node's crate describes.
    ///
    /// # Errors
    /// If the node is not known, cannot be reached or does not answer in time.
    pub async fn status(&self, node: NodeId) -> Result<Bytes, ClientError> {
        let mut request = Vec::new();
        encode_status(&mut request, self.timeout);
        let until = self.shell.clock.now() + self.timeout;
        match self.ask(node, request, until).await? {
            Response::Status(status) => Ok(status),
            Response::Refused { code, text } => Err(ClientError::Refused { node, code, text }),
            _ => Err(ClientError::UnexpectedAnswer {
                node,
                expected: "its status",
            }),
        }
    }

    /// Changes the members of a shard's group, in one step; several changes go through a joint configuration. Returns
    /// when the change is applied. The group's leader is looked for until the timeout.
    ///
    /// # Errors
    /// If the change was refused, because it makes no sense for the present members or another one is under way; or if
    /// no leader was found in time. If a node was asked and did not answer, the change may have been made.
    pub async fn change_members(
        &self,
        shard: ShardId,
        steps: &[MemberStep],
    ) -> Result<(), ClientError> {
        let mut request = Vec::new();
        encode_members(&mut request, self.timeout, shard, steps);
        match self.ask_leader(shard, request, Repeat::No).await? {
            (_, Response::Written) => Ok(()),
            (node, _) => Err(ClientError::UnexpectedAnswer {
                node,
                expected: "what came of a change of members",
            }),
        }
    }

    /// Puts a mark into the log of a shard's group, and returns its index: every replica that comes to it holds its state as of
    /// exactly there for a while, to be compared ([`Client::digest`]) or copied ([`Client::page`]). What was
    /// acknowledged before is in it. The group's leader is looked for until the timeout.
    ///
    /// # Errors
    /// If no leader was found in time.
    pub async fn mark(&self, shard: ShardId) -> Result<LogIndex, ClientError> {
        let mut request = Vec::new();
        encode_mark(&mut request, self.timeout, shard);
        // One more of them changes nothing.
        match self.ask_leader(shard, request, Repeat::Yes).await? {
            (_, Response::Marked(index)) => Ok(index),
            (node, _) => Err(ClientError::UnexpectedAnswer {
                node,
                expected: "the index of a mark",
            }),
        }
    }

    /// What the state of a shard's replica on `node` comes to at a mark. The first call starts the computation;
    /// it is done when a later one says so.
    ///
    /// # Errors
    /// If the node cannot be reached, or has no replica of the shard.
    pub async fn digest(
        &self,
        node: NodeId,
        shard: ShardId,
        index: LogIndex,
    ) -> Result<DigestState, ClientError> {
        let mut request = Vec::new();
        encode_digest(&mut request, self.timeout, shard, index);
        match self.ask_one(node, shard, request).await? {
            Response::Digest(digest) => Ok(digest),
            _ => Err(ClientError::UnexpectedAnswer {
                node,
                expected: "a digest",
            }),
        }
    }

    /// Rows of the state that a shard's replica on `node` holds at a mark, in key order, behind a key or from the first on;
    /// and whether there are more behind them.
    ///
    /// # Errors
    /// If the node cannot be reached, or holds no such state.
    pub async fn page(
        &self,
        node: NodeId,
        shard: ShardId,
        index: LogIndex,
        after: Option<&[u8]>,
        max_bytes: u32,
    ) -> Result<(Vec<Row>, bool), ClientError> {
        let mut request = Vec::new();
        encode_page(&mut request, self.timeout, shard, index, max_bytes, after);
        match self.ask_one(node, shard, request).await? {
            Response::Rows { rows, more } => Ok((rows, more)),
            _ => Err(ClientError::UnexpectedAnswer {
                node,
                expected: "rows of a state",
            }),
        }
    }

    /// Asks one node for something of its replica of a shard.
    async fn ask_one(
        &self,
        node: NodeId,
        shard: ShardId,
        request: Vec<u8>,
    ) -> Result<Response, ClientError> {
        let clock = &self.shell.clock;
        let (began, until) = (clock.now(), clock.now() + self.timeout);
        let last = match self.ask(node, request, until).await? {
            Response::Refused { code, text } => {
                return Err(ClientError::Refused { node, code, text });
            }
            Response::NotHere => Setback::NotHere { node },
            Response::Overloaded { .. } => Setback::Overloaded { node },
            Response::Unavailable { text } => Setback::Unavailable { node, text },
            Response::UnknownOutcome => Setback::NoAnswer { node },
            response => return Ok(response),
        };
        let waited = clock.now() - began;
        Err(ClientError::Unavailable {
            shard,
            waited,
            last,
        })
    }

    /// Asks the leader of a shard's group, which is looked for until the timeout, and returns its answer if it is an
    /// outcome. If a node was asked and did not answer, it may have done what was asked; it is asked of another only if it
    /// may be done twice.
    async fn ask_leader(
        &self,
        shard: ShardId,
        request: Vec<u8>,
        repeat: Repeat,
    ) -> Result<(NodeId, Response), ClientError> {
        let clock = &self.shell.clock;
        let (began, until) = (clock.now(), clock.now() + self.timeout);
        let nodes: Vec<NodeId> = self.nodes().into_iter().map(|node| node.node).collect();
        let mut turn = nodes.iter().cycle();
        let mut hinted = None;
        let mut last = None;
        while clock.now() < until {
            let Some(node) = hinted.take().or_else(|| turn.next().copied()) else {
                break;
            };
            match self.ask(node, request.clone(), until).await {
                Ok(response) if response.is_outcome() => return Ok((node, response)),
                Ok(Response::Refused { code, text }) => {
                    return Err(ClientError::Refused { node, code, text });
                }
                Ok(Response::NotLeader { leader }) => {
                    hinted = leader.filter(|leader| nodes.contains(leader) && *leader != node);
                    last = Some(Setback::NotLeader { node, leader });
                }
                Ok(Response::UnknownOutcome) if repeat == Repeat::Yes => {
                    last = Some(Setback::NoAnswer { node });
                }
                Ok(Response::UnknownOutcome) => {
                    let cause = UnknownCause::Proposed;
                    return Err(ClientError::UnknownOutcome { shard, node, cause });
                }
                Ok(Response::NotHere) => last = Some(Setback::NotHere { node }),
                Ok(Response::Overloaded { .. }) => last = Some(Setback::Overloaded { node }),
                Ok(Response::Unavailable { text }) => {
                    last = Some(Setback::Unavailable { node, text });
                }
                Ok(_) => {
                    return Err(ClientError::UnexpectedAnswer {
                        node,
                        expected: "what its leader did",
                    });
                }
                // Nothing was asked of a node that cannot be reached.
                Err(ClientError::Node {
                    source: ChannelError::NotSent(_),
                    ..
                }) => last = Some(Setback::Unreachable { node }),
                Err(ClientError::Node { .. }) if repeat == Repeat::Yes => {
                    last = Some(Setback::NoAnswer { node });
                }
                Err(error) => return Err(error),
            }
            if hinted.is_none() {
                tokio::time::sleep(MEMBERS_PAUSE).await;
            }
        }
        let waited = clock.now() - began;
        match last {
            Some(last) => Err(ClientError::Unavailable {
                shard,
                waited,
                last,
            }),
            None => Err(ClientError::NoEndpoints),
        }
    }

    async fn ask(
        &self,
        node: NodeId,
        request: Vec<u8>,
        until: Instant,
    ) -> Result<Response, ClientError> {
        let shell = &self.shell;
        let address = shell.address(node);
        let address = address.ok_or(ClientError::UnknownNode { node })?;
        let link = shell.link(&mut shell.shared.lock(), node);
        let answer = shell.send(&link, request.into(), until).await;
        let answer = answer.map_err(|failure| ClientError::Node {
            node,
            address,
            source: match failure {
                LinkFailure::TimedOut { sent: false } => ChannelError::NotSent(LinkError::TimedOut),
                LinkFailure::TimedOut { sent: true } => {
                    ChannelError::MayHaveBeenSent(LinkError::TimedOut)
                }
                LinkFailure::Down(error) => ChannelError::NotSent(error),
                LinkFailure::Channel(error) => error,
            },
        })?;
        Response::decode(&answer).map_err(|source| ClientError::Protocol { node, source })
    }

    /// How all known nodes are, asked at the same time, ascending by id.
    pub async fn statuses(&self) -> Vec<(NodeDescriptor, Result<Bytes, ClientError>)> {
        let mut asked = JoinSet::new();
        for node in self.nodes() {
            let client = self.clone();
            asked.spawn(async move {
                let status = client.status(node.node).await;
                (node, status)
            });
        }
        let mut statuses = asked.join_all().await;
        statuses.sort_by_key(|(node, _)| node.node);
        statuses
    }
}
