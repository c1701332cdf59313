//! Requests that name a node or a shard, and no key: how a node is, a group's members, states to compare.

use crate::link::LinkFailure;
use crate::protocol::{
    DigestState, MemberStep, Response, encode_digest, encode_mark, encode_members, encode_page,
    encode_status,
};
use crate::routing::{Access, Attempt, Verdict};
use crate::scan::Row;
use crate::shell::{Ending, not_done};
use crate::{Client, ClientError, Setback, UnknownCause};
use bytes::Bytes;
use pontoon_shard_router::NodeDescriptor;
use pontoon_transport::{ChannelError, LinkError};
use pontoon_types::{Instant, LogIndex, NodeId, ShardId};
use tokio::task::JoinSet;

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
        encode_status(&mut request);
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
    /// [`ClientError::UnknownOutcome`] if it may have been made. Otherwise it was surely not: it was refused, because it
    /// makes no sense for the present members or another one is under way; or no leader was found in time.
    pub async fn change_members(
        &self,
        shard: ShardId,
        steps: &[MemberStep],
    ) -> Result<(), ClientError> {
        let mut request = Vec::new();
        encode_members(&mut request, shard, steps);
        match self.ask_leader(shard, request, Repeat::No).await? {
            (_, Response::Written) => Ok(()),
            (node, _) => Err(ClientError::UnknownOutcome {
                shard,
                node,
                cause: UnknownCause::Unexpected,
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
        encode_mark(&mut request, shard);
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
        encode_digest(&mut request, shard, index);
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
        encode_page(&mut request, shard, index, max_bytes, after);
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
    /// outcome. What may have been done is asked of another only if it may be done twice; otherwise its outcome is
    /// unknown.
    async fn ask_leader(
        &self,
        shard: ShardId,
        request: Vec<u8>,
        repeat: Repeat,
    ) -> Result<(NodeId, Response), ClientError> {
        let clock = &self.shell.clock;
        let mut attempt = Attempt::new(Access::Write, clock.now() + self.timeout);
        let nodes: Vec<NodeId> = self.nodes().into_iter().map(|node| node.node).collect();
        let mut turn = nodes.iter().copied().cycle();
        let mut hinted = None;
        loop {
            let Some(node) = hinted.take().or_else(|| turn.next()) else {
                return Err(ClientError::NoEndpoints);
            };
            attempt.sent_to(shard, node);
            let setback = match self
                .try_once(node, request.clone(), attempt.deadline)
                .await?
            {
                Ending::Answered(Response::Refused { code, text }) => {
                    return Err(ClientError::Refused { node, code, text });
                }
                Ending::Answered(Response::NotLeader { leader }) => {
                    hinted = leader.filter(|leader| nodes.contains(leader) && *leader != node);
                    Setback::NotLeader { node, leader }
                }
                Ending::Answered(Response::NotHere) => Setback::NotHere { node },
                Ending::Answered(Response::Overloaded { .. }) => Setback::Overloaded { node },
                Ending::Answered(Response::Unavailable { text }) => {
                    Setback::Unavailable { node, text }
                }
                Ending::Answered(Response::StaleEpoch { .. }) => Setback::StaleEpoch { node },
                Ending::Answered(response) if response.is_outcome() => {
                    return Ok((node, response));
                }
                Ending::Unanswered(failure) if failure.is_surely_not_sent() => {
                    Setback::Unreachable { node }
                }
                _ if repeat == Repeat::Yes => Setback::NoAnswer { node },
                ending => {
                    let cause = ending.into_cause();
                    return Err(ClientError::UnknownOutcome { shard, node, cause });
                }
            };
            let (now, random) = (clock.now(), rand::random());
            let verdict = match hinted {
                Some(_) => attempt.again_soon(setback, now, random),
                None => attempt.again(setback, now, random),
            };
            match verdict {
                Verdict::Retry { after } => self.shell.pause(after).await,
                _ => return Err(not_done(&attempt, self.timeout)),
            }
        }
    }

    async fn ask(
        &self,
        node: NodeId,
        request: Vec<u8>,
        until: Instant,
    ) -> Result<Response, ClientError> {
        let failure = match self.try_once(node, request, until).await? {
            Ending::Answered(response) => return Ok(response),
            Ending::Unreadable(source) => return Err(ClientError::Protocol { node, source }),
            Ending::Unanswered(failure) => failure,
        };
        let address = self.shell.address(node);
        Err(ClientError::Node {
            node,
            address: address.ok_or(ClientError::UnknownNode { node })?,
            source: match failure {
                LinkFailure::TimedOut { sent: false } => ChannelError::NotSent(LinkError::TimedOut),
                LinkFailure::TimedOut { sent: true } => {
                    ChannelError::MayHaveBeenSent(LinkError::TimedOut)
                }
                LinkFailure::Down(error) => ChannelError::NotSent(error),
                LinkFailure::Channel(error) => error,
            },
        })
    }

    async fn try_once(
        &self,
        node: NodeId,
        request: Vec<u8>,
        until: Instant,
    ) -> Result<Ending, ClientError> {
        let shell = &self.shell;
        let link = {
            let mut shared = shell.shared.lock();
            if !shared.addresses.contains_key(&node) {
                return Err(ClientError::UnknownNode { node });
            }
            shell.link(&mut shared, node)
        };
        Ok(Ending::of(shell.send(&link, request.into(), until).await))
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
