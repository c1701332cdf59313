//! What a program calls.

use crate::discover;
use crate::protocol::Response;
use crate::request::Ask;
use crate::scan::{Row, Scan};
use crate::shell::{Answer, Shell};
use crate::{ClientConfig, ClientError};
use bytes::Bytes;
use core::time::Duration;
use pontoon_shard_router::{ClusterMap, NodeDescriptor};
use pontoon_types::codec::varint_len;
use pontoon_types::{ClusterId, Command, Epoch, Mutation, Operation, Request, SessionId, ShardId};
use std::sync::Arc;

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
