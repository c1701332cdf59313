//! What a program calls.

use crate::discover;
use crate::link::LinkFailure;
use crate::protocol::{
    DigestState, MemberStep, Response, encode_digest, encode_mark, encode_members, encode_page,
    encode_status,
};
use crate::request::Ask;
use crate::scan::{Row, Scan};
use crate::shell::{Answer, Shell};
use crate::{ClientConfig, ClientError, Setback, UnknownCause};
use bytes::Bytes;
use core::time::Duration;
use pontoon_shard_router::{ClusterMap, NodeDescriptor};
use pontoon_transport::{ChannelError, LinkError};
use pontoon_types::codec::varint_len;
use pontoon_types::{
    ClusterId, Command, Epoch, Instant, LogIndex, Mutation, NodeId, Operation, Request, SessionId,
    ShardId,
};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Between two tries to find the leader of a group whose members are to change.
const MEMBERS_PAUSE: Duration = Duration::from_millis(100);

/// Whether what may have been done may be asked for again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Yes,
    No,
}

/// A connection to a cluster. Cheap to clone; clones share connections, map and session.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) shell: Arc<Shell>,
    pub(crate) timeout: Duration,
}

/// What a compare-and-swap came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CasOutcome {
    /// The value was as expected and is the new one now.
    Swapped,
    /// The value was another and stays.
    NotSwapped {
        /// What it was.
        actual: Option<Bytes>,
    },
}

impl Client {
    /// Looks for a node among the endpoints and learns from it where the others are. The map is read when
    /// the first request needs it, so that a cluster without a quorum can still be asked for its status.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::Connect`] with what each endpoint came to, if none led to a node in time.
    pub async fn connect(config: ClientConfig) -> Result<Self, ClientError> {
        let timeout = config.request_timeout;
        let shell = discover::connect(config).await?;
        Ok(Self { shell, timeout })
    }

    /// The same client, whose requests may take `timeout`, tries and pauses included.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        let shell = self.shell.clone();
        Self { shell, timeout }
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.shell.cluster
    }

    /// The session under which this client and its clones number their commands.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.shell.session
    }

    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// [`ClientError::UnknownOutcome`] if it may have been done; any other if it was surely not.
    pub async fn put(&self, key: &[u8], value: &[u8]) -> Result<(), ClientError> {
        self.write(vec![Mutation::Put { key, value }]).await
    }

    /// Removes `key`, which need not be there.
    ///
    /// # Errors
    /// [`ClientError::UnknownOutcome`] if it may have been done; any other if it was surely not.
    pub async fn delete(&self, key: &[u8]) -> Result<(), ClientError> {
        self.write(vec![Mutation::Delete { key }]).await
    }

    /// Makes all mutations at once and in order, or none. All keys must be of one shard; an empty batch
    /// is done.
    ///
    /// # Errors
    /// [`ClientError::UnknownOutcome`] if it may have been done; any other if it was surely not,
    /// [`ClientError::BatchSpansShards`] among them.
    pub async fn write_batch(&self, mutations: &[Mutation<'_>]) -> Result<(), ClientError> {
        if mutations.is_empty() {
            return Ok(());
        }
        self.write(mutations.to_vec()).await
    }

    async fn write(&self, mutations: Vec<Mutation<'_>>) -> Result<(), ClientError> {
        let answer = self.command(Operation::Write(mutations)).await?;
        match answer.response {
            Response::Written => Ok(()),
            _ => Err(answer.unknown()),
        }
    }

    /// Sets `key` to `set` if its value is `expect`; `None` stands for "no value" on both sides.
    ///
    /// # Errors
    /// [`ClientError::UnknownOutcome`] if it may have been done; any other if it was surely not.
    pub async fn compare_and_swap(
        &self,
        key: &[u8],
        expect: Option<&[u8]>,
        set: Option<&[u8]>,
    ) -> Result<CasOutcome, ClientError> {
        let operation = Operation::CompareAndSwap { key, expect, set };
        let answer = self.command(operation).await?;
        match answer.response {
            Response::Swapped => Ok(CasOutcome::Swapped),
            Response::NotSwapped { actual } => Ok(CasOutcome::NotSwapped { actual }),
            _ => Err(answer.unknown()),
        }
    }

    async fn command(&self, operation: Operation<'_>) -> Result<Answer, ClientError> {
        let command = Command {
            request: Request {
                shard: ShardId(0),
                epoch: Epoch::default(),
                session: self.shell.session,
                sequence: self.shell.next_sequence(),
            },
            operation,
        };
        let limits = &self.shell.config.limits;
        limits.check(&command)?;
        let payload_bytes = payload_bytes(&command.operation);
        // The head comes on top, but its length depends on the shard; the node looks at the whole.
        limits.check_length(payload_bytes)?;
        let mut ask = Ask::Command {
            command,
            payload_bytes,
        };
        self.shell.execute(&mut ask, self.timeout).await
    }

    /// The value of `key`, linearizably: every write that was acknowledged before is seen.
    ///
    /// # Errors
    /// If the shard could not be read in time, or the key is over the limit.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ClientError> {
        self.shell.config.limits.check_key(key)?;
        let answer = self
            .shell
            .execute(&mut Ask::Get { key }, self.timeout)
            .await?;
        match answer.response {
            Response::Value(value) => Ok(value),
            _ => Err(answer.unexpected("a value")),
        }
    }

    /// At most `limit` rows of `[from, to)` in key order; without `to`, up to the last key. All of them
    /// are held in memory; see [`Client::scan_pages`] for as many as there are.
    ///
    /// # Errors
    /// If a shard could not be read in time.
    pub async fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, ClientError> {
        let mut scan = self.scan_pages(from, to);
        let mut rows = Vec::new();
        while rows.len() < limit {
            let left = u32::try_from(limit - rows.len()).unwrap_or(u32::MAX);
            let max_rows = left.min(self.shell.config.scan_page_rows);
            match scan.next_page_of(max_rows).await? {
                Some(page) => rows.extend(page),
                None => break,
            }
        }
        rows.truncate(limit);
        Ok(rows)
    }

    /// All rows of `[from, to)` in key order, a page at a time; without `to`, up to the last key.
    #[must_use]
    pub fn scan_pages(&self, from: &[u8], to: Option<&[u8]>) -> Scan {
        Scan::new(self, from, to)
    }

    /// The map as it is in the meta group now. The client's own copy learns from it.
    ///
    /// # Errors
    /// If the meta group could not be read in time, or what it holds is no map.
    pub async fn map(&self) -> Result<ClusterMap, ClientError> {
        let deadline = self.shell.clock.now() + self.timeout;
        let map = self.shell.read_map(deadline).await?;
        self.shell.shared.lock().handle_map(map.clone());
        Ok(map)
    }

    /// The nodes that this client knows, by what it heard last; asks nobody.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeDescriptor> {
        let shared = self.shell.shared.lock();
        let nodes = shared.addresses.iter();
        nodes
            .map(|(node, address)| NodeDescriptor {
                node: *node,
                address: address.clone(),
            })
            .collect()
    }

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

/// How many bytes the mutations, or the key and the values of a swap, have in the encoded command.
fn payload_bytes(operation: &Operation<'_>) -> usize {
    const TAG_BYTES: usize = 1;
    let prefixed = |bytes: &[u8]| varint_len(bytes.len() as u64) + bytes.len();
    match operation {
        Operation::Write(mutations) => {
            let bytes = mutations.iter().map(|mutation| match mutation {
                Mutation::Put { key, value } => TAG_BYTES + prefixed(key) + prefixed(value),
                Mutation::Delete { key } => TAG_BYTES + prefixed(key),
            });
            bytes.sum()
        }
        Operation::CompareAndSwap { key, expect, set } => {
            let sides = [expect, set].into_iter();
            prefixed(key)
                + sides
                    .map(|s| TAG_BYTES + s.map_or(0, prefixed))
                    .sum::<usize>()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_command_is_known_before_it_is_encoded() {
        let long = vec![7; 300];
        let mutations = vec![
            Mutation::Put {
                key: b"key",
                value: &long,
            },
            Mutation::Delete { key: &long },
        ];
        let swap = Operation::CompareAndSwap {
            key: b"key",
            expect: None,
            set: Some(&long),
        };
        for operation in [Operation::Write(mutations), swap] {
            let expected = payload_bytes(&operation);
            let is_write = matches!(operation, Operation::Write(_));
            let request = Request {
                shard: ShardId(1),
                epoch: Epoch::default(),
                session: SessionId(1),
                sequence: pontoon_types::Sequence(1),
            };
            let mut bytes = Vec::new();
            Command { request, operation }.encode(&mut bytes);
            // Version, five numbers and the operation's tag go before it, and a write's count.
            let head_bytes = 7 + usize::from(is_write);
            assert_eq!(bytes.len(), head_bytes + expected);
        }
    }
}
