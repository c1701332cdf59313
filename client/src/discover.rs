//! Finding the cluster: the first node, the meta group, the map.

use crate::link::LinkFailure;
use crate::protocol::{Hints, Response, ScanRange, encode_hints};
use crate::request::Ask;
use crate::routing::Place;
use crate::shell::{Shell, channel_config};
use crate::{ClientConfig, ClientError, EndpointError, EndpointFailure};
use bytes::Bytes;
use core::time::Duration;
use pontoon_shard_router::{ClusterMap, MapError, rows};
use pontoon_transport::{Channel, ClientTransport};
use pontoon_types::{Instant, NodeId, ShardId};
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The pause between two rounds over all endpoints, and between two readings of a map that is changing.
const PAUSE: Duration = Duration::from_millis(100);
/// How long one node is waited for when several could tell.
const HINTS_TIMEOUT: Duration = Duration::from_secs(1);

/// Asks all endpoints at once and takes the first that answers; again until `connect_timeout` is over,
/// unless no endpoint can ever be right.
pub(crate) async fn connect(config: ClientConfig) -> Result<Arc<Shell>, ClientError> {
    if config.endpoints.is_empty() {
        return Err(ClientError::NoEndpoints);
    }
    let transport = ClientTransport::new(config.identity.clone(), channel_config(&config));
    let started = tokio::time::Instant::now();
    let mut failures: Vec<EndpointFailure> = Vec::new();
    loop {
        let left = config.connect_timeout.saturating_sub(started.elapsed());
        let round = ask_endpoints(&config.endpoints, &transport);
        match timeout(left, round).await {
            Ok(Ok((channel, hints))) => {
                return Ok(Arc::new(Shell::new(config, transport, channel, &hints)));
            }
            Ok(Err(found)) => failures = found,
            Err(_) if failures.is_empty() => {
                failures = config.endpoints.iter().map(|e| timed_out(e)).collect();
            }
            Err(_) => {}
        }
        let is_hopeless = failures.iter().all(|failure| failure.reason.is_final());
        if is_hopeless || started.elapsed() + PAUSE >= config.connect_timeout {
            return Err(ClientError::Connect { failures });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn timed_out(endpoint: &str) -> EndpointFailure {
    EndpointFailure {
        endpoint: endpoint.to_owned(),
        reason: EndpointError::TimedOut,
    }
}

async fn ask_endpoints(
    endpoints: &[String],
    transport: &ClientTransport,
) -> Result<(Channel, Hints), Vec<EndpointFailure>> {
    let mut asked = JoinSet::new();
    for endpoint in endpoints {
        let (endpoint, transport) = (endpoint.clone(), transport.clone());
        asked.spawn(async move {
            let result = ask_endpoint(&endpoint, &transport).await;
            result.map_err(|reason| EndpointFailure { endpoint, reason })
        });
    }
    let mut failures = Vec::new();
    while let Some(result) = asked.join_next().await {
        match result {
            // Dropping the set gives up the others.
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(failure)) => failures.push(failure),
            Err(ended) => {
                // Nobody cancels them, so it is a panic, unless the runtime ends with us in it.
                if let Ok(panic) = ended.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
    failures.sort_by_key(|failure| endpoints.iter().position(|e| *e == failure.endpoint));
    Err(failures)
}

async fn ask_endpoint(
    endpoint: &str,
    transport: &ClientTransport,
) -> Result<(Channel, Hints), EndpointError> {
    let channel = transport.connect(endpoint).await?;
    let answer = timeout(HINTS_TIMEOUT, channel.request(hints_request())).await;
    let answer = answer.map_err(|_| EndpointError::TimedOut)??;
    let hints = read_hints(&answer)?;
    if hints.node != channel.node() {
        return Err(EndpointError::Unexpected);
    }
    Ok((channel, hints))
}

fn hints_request() -> Bytes {
    let mut request = Vec::new();
    encode_hints(&mut request);
    request.into()
}

fn read_hints(answer: &Bytes) -> Result<Hints, EndpointError> {
    match Response::decode(answer)? {
        Response::Hints(hints) if hints.meta.shard == ShardId::META => Ok(hints),
        Response::Refused { text, .. } | Response::Unavailable { text } => {
            Err(EndpointError::NotReady { text })
        }
        _ => Err(EndpointError::Unexpected),
    }
}

impl Shell {
    /// Makes the router wiser before `ask` is tried again: reads the map, or if it is the map that cannot
    /// be read, asks around who holds it. `seen` is what [`Shared::refreshes`](crate::shell::Shared)
    /// said when the need arose: if somebody else has refreshed since, that will do.
    pub(crate) async fn refresh(
        self: &Arc<Self>,
        ask: &Ask<'_>,
        seen: u64,
        deadline: Instant,
    ) -> Result<(), ClientError> {
        if matches!(ask.place(), Place::Meta) {
            self.refresh_hints().await;
            return Ok(());
        }
        let until = self.clock.to_runtime(deadline);
        // If the time is over, the caller finds out when it looks at its deadline.
        let Ok(_turn) = tokio::time::timeout_at(until, self.refreshing.lock()).await else {
            return Ok(());
        };
        if self.shared.lock().refreshes != seen {
            return Ok(());
        }
        // Reading the map is itself a request, which may need hints: hence the box.
        let map = Box::pin(self.read_map(deadline)).await?;
        self.shared.lock().handle_map(map);
        Ok(())
    }

    /// The map as it is in the meta group now.
    pub(crate) async fn read_map(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<ClusterMap, ClientError> {
        loop {
            let problem = match self.read_map_once(deadline).await? {
                Ok(map) if map.cluster() == self.cluster => return Ok(map),
                Ok(map) => MapError::OtherCluster {
                    expected: self.cluster,
                    found: map.cluster(),
                },
                Err(problem) => problem,
            };
            // It is being written, or changed between two pages.
            if self.clock.now() + PAUSE >= deadline {
                return Err(problem.into());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn read_map_once(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<Result<ClusterMap, MapError>, ClientError> {
        let mut all = Vec::new();
        let mut from = Bytes::new();
        loop {
            let mut ask = Ask::ScanMap(ScanRange {
                from,
                to: None,
                max_rows: self.config.scan_page_rows,
                max_bytes: self.config.scan_page_bytes,
            });
            let left = deadline.saturating_since(self.clock.now());
            let answer = self.execute(&mut ask, left).await?;
            let Response::Rows { rows: page, more } = answer.response else {
                return Err(answer.unexpected("rows of the map"));
            };
            all.extend(page);
            match all.last() {
                Some((last, _)) if more => from = successor(last),
                None if more => return Err(answer_without_rows(answer.node)),
                _ => return Ok(rows::map_from_rows(all)),
            }
        }
    }

    /// Asks the nodes, one after the other, who holds the meta group, until one tells.
    async fn refresh_hints(self: &Arc<Self>) {
        let nodes: Vec<NodeId> = self.shared.lock().addresses.keys().copied().collect();
        let first = rand::random_range(0..nodes.len().max(1));
        for node in nodes.iter().cycle().skip(first).take(nodes.len()) {
            match self.request_hints(*node).await {
                Ok(hints) if hints.cluster == self.cluster => {
                    return self.shared.lock().handle_hints(&hints);
                }
                Ok(hints) => tracing::warn!(%node, cluster = %hints.cluster, "foreign hints"),
                Err(error) => tracing::debug!(%node, %error, "no hints"),
            }
        }
    }

    async fn request_hints(self: &Arc<Self>, node: NodeId) -> Result<Hints, EndpointError> {
        let until = self.clock.now() + HINTS_TIMEOUT;
        let link = self.link(&mut self.shared.lock(), node);
        let answer = self.send(&link, hints_request(), until).await;
        read_hints(&answer.map_err(|failure| match failure {
            LinkFailure::TimedOut { .. } => EndpointError::TimedOut,
            LinkFailure::Down(error) => error.into(),
            LinkFailure::Channel(error) => error.into(),
        })?)
    }
}

/// The lowest key above `key`.
pub(crate) fn successor(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

fn answer_without_rows(node: NodeId) -> ClientError {
    ClientError::UnexpectedAnswer {
        node,
        expected: "at least one row before the rest",
    }
}
