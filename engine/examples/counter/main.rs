//! A replicated counter service: an engine with a state machine of one's own.
//!
//! ```text
//! cargo run --release -p pontoon-engine --example counter
//! ```
//!
//! Three nodes in one process, each with a log and a store on the disk, hand each other their frames by plain calls; a real
//! service puts its own network in the place of [`Wires`]. Clients count up, the node that leads is taken away in the
//! middle, and at the end every number was given out once.

mod counters;

use bytes::Bytes;
use counters::Counters;
use parking_lot::RwLock;
use pontoon_engine::frame::{Frame, Lane};
use pontoon_engine::{Engine, EngineConfig, EngineError, Host, Opened, Reply, RoleName, Waiter};
use pontoon_store::{LsmSettings, Outcome, ReplicaRecord};
use pontoon_types::{
    ClusterId, ConfState, Epoch, GroupId, Members, NodeId, ReplicaId, ShardId, TabletId,
};
use std::error::Error;
use std::sync::{Arc, mpsc};
use std::time::Duration;

const GROUP: GroupId = GroupId(1);
const NODES: [u64; 3] = [1, 2, 3];

/// The engines that run; `None` for one that has been taken away.
type Engines = Arc<RwLock<Vec<Option<Arc<Engine>>>>>;

/// Brings the frames of one node to the others.
struct Wires {
    from: NodeId,
    engines: Engines,
}

impl Host for Wires {
    fn send(&self, to: NodeId, _: usize, lane: Lane, frame: Frame) {
        let engines = self.engines.read();
        if let Some(Some(engine)) = engines.get(to.0 as usize - 1) {
            let bytes = Bytes::from(frame.chunks.concat());
            match lane {
                Lane::Snapshot => engine.receive_snapshot(self.from, bytes),
                Lane::Append | Lane::Control => engine.receive(self.from, bytes),
            }
        }
    }

    fn failed(&self, error: EngineError) {
        eprintln!("node {} cannot go on: {error}", self.from);
        std::process::exit(1);
    }
}

fn replica_on(node: NodeId) -> ReplicaRecord {
    ReplicaRecord {
        group: GROUP,
        shard: ShardId(1),
        replica: ReplicaId(node.0),
        start: Bytes::new(),
        end: Bytes::new(),
        epoch: Epoch {
            range: 1,
            membership: 1,
        },
        pieces: TabletId(1).into(),
        conf_state: ConfState::of_voters(NODES.map(ReplicaId)),
        members: Members::new(NODES.map(|id| (ReplicaId(id), NodeId(id)))),
        descriptor: Bytes::new(),
    }
}

/// Counts up by whoever leads. Asks again if that was not done, and if nobody knows: then a number may go to nobody, which
/// `unknown` counts.
fn count_up(
    engines: &Engines,
    name: &'static str,
    unknown: &mut u64,
) -> Result<u64, Box<dyn Error>> {
    for at in (0..NODES.len()).cycle() {
        let engine = engines.read()[at].clone();
        let Some(engine) = engine else { continue };
        let (answer, answered) = mpsc::channel();
        let waiter = Waiter::new(move |reply| drop(answer.send(reply)));
        engine.propose(GROUP, Bytes::from_static(name.as_bytes()), waiter);
        match answered.recv()? {
            Reply::Applied(Outcome::Answered(count)) => {
                return Ok(std::str::from_utf8(&count)?.parse()?);
            }
            Reply::NotLeader { .. } | Reply::Overloaded { .. } | Reply::Unavailable { .. } => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Reply::Unknown => *unknown += 1,
            other => return Err(format!("{other:?}").into()),
        }
    }
    unreachable!("the nodes are asked for ever")
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let engines: Engines = Arc::new(RwLock::new(vec![None; NODES.len()]));
    for (at, node) in NODES.map(NodeId).into_iter().enumerate() {
        let path = directory.path().join(format!("node-{node}"));
        let config = EngineConfig {
            seed: node.0,
            ..EngineConfig::default()
        };
        let settings = LsmSettings::default();
        let mut opened = Opened::open_with(&path, ClusterId(1), node, config, settings, Counters)?;
        opened.machine().bootstrap(&[replica_on(node)], &[])?;
        let host = Wires {
            from: node,
            engines: engines.clone(),
        };
        let engine = opened.start(Arc::new(host))?;
        engines.write()[at] = Some(Arc::new(engine));
    }
    let (mut counts, mut unknown) = (Vec::new(), 0);
    for _ in 0..500 {
        counts.push(count_up(&engines, "visitors", &mut unknown)?);
    }
    let leads = |engine: &Engine| {
        engine
            .status()
            .iter()
            .any(|group| group.role == RoleName::Leader)
    };
    let running: Vec<_> = engines.read().clone();
    // Between two leaders there may be none for a moment.
    let leader = loop {
        match running.iter().flatten().position(|engine| leads(engine)) {
            Some(leader) => break leader,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let gone = engines.write()[leader].take();
    println!(
        "{} counted; node {} is taken away",
        counts.len(),
        leader + 1
    );
    gone.ok_or("it runs")?.shutdown(Duration::ZERO);
    for _ in 0..500 {
        counts.push(count_up(&engines, "visitors", &mut unknown)?);
    }
    let last = counts.last().copied().unwrap_or_default();
    let is_right = counts.is_sorted_by(|one, next| one < next)
        && counts[0] >= 1
        && (1000..=1000 + unknown).contains(&last);
    if !is_right {
        return Err(format!("{counts:?}, with {unknown} of unknown outcome").into());
    }
    println!("1000 counted, the last was {last}: no number was given out twice");
    engines.write().clear();
    for engine in running.into_iter().flatten() {
        engine.shutdown(Duration::ZERO);
    }
    Ok(())
}
