//! A script at work: what each word does to the group.

use super::choices::Choices;
use super::facts::{Facts, Observed, check};
use super::refusal::{refused_proposal, refused_read, refused_start, refused_transfer};
use super::script::{Action, Case, Step};
use super::setup::{Settings, Setup};
use super::token::Nodes;
use super::word::{CompactTo, Word, Written};
use crate::harness::{Cluster, Node, StartError, TICK, index};
use pontoon_raft::{Message, ProposeError};
use pontoon_types::{LogPosition, ReplicaId};

/// Why a run failed, and where.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) line: usize,
    pub(crate) what: String,
}

pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) choices: Choices,
    /// The line at work, for failures that come as panics.
    pub(crate) line: usize,
}

impl World {
    pub(crate) fn new(choices: Choices) -> Self {
        Self {
            cluster: Cluster::default(),
            choices,
            line: 0,
        }
    }

    pub(crate) fn run(&mut self, case: &Case) -> Result<(), Failure> {
        self.run_steps(&case.steps)
    }

    fn run_steps(&mut self, steps: &[Step]) -> Result<(), Failure> {
        steps.iter().try_for_each(|step| self.run_step(step))
    }

    fn run_step(&mut self, step: &Step) -> Result<(), Failure> {
        self.line = step.line;
        match &step.action {
            Action::Repeat(count, body) => (0..*count).try_for_each(|_| self.run_steps(body)),
            Action::EveryOrder(body) => {
                let mut left: Vec<&Step> = body.iter().collect();
                while !left.is_empty() {
                    let step = left.remove(self.choices.choose(left.len()));
                    self.run_step(step)?;
                }
                Ok(())
            }
            Action::StopAnywhere(body) => {
                let count = self.choices.choose(body.len() + 1);
                self.run_steps(&body[..count])
            }
            Action::Word(word, expected) => {
                let failure = |line, what| Err(Failure { line, what });
                let observed = match self.perform(word) {
                    Ok(observed) => observed,
                    Err(what) => return failure(step.line, what),
                };
                if expected.is_empty() {
                    return match &observed {
                        Observed::One(facts) if facts.has("refused") && !word.asks() => {
                            failure(step.line, format!("expected: ok\n   found: {facts}"))
                        }
                        _ => Ok(()),
                    };
                }
                match check(expected, &observed) {
                    Ok(()) => Ok(()),
                    Err(mismatch) => failure(
                        mismatch.line,
                        format!(
                            "expected: {}\n   found: {}",
                            mismatch.expected, mismatch.found
                        ),
                    ),
                }
            }
        }
    }

    /// The nodes that are meant; all of them must exist.
    pub(crate) fn ids(&self, nodes: &Nodes) -> Result<Vec<u64>, String> {
        match nodes {
            Nodes::All if self.cluster.nodes.is_empty() => Err("there are no nodes yet".to_owned()),
            Nodes::All => Ok(self.cluster.nodes.keys().copied().collect()),
            Nodes::These(ids) => {
                let missing = ids.iter().find(|id| !self.cluster.nodes.contains_key(id));
                missing.map_or_else(
                    || Ok(ids.clone()),
                    |id| Err(format!("there is no node {id}")),
                )
            }
        }
    }

    /// A node that is up.
    pub(crate) fn up(&self, id: u64) -> Result<&Node, String> {
        let node = self.cluster.nodes.get(&id);
        let node = node.ok_or_else(|| format!("there is no node {id}"))?;
        match node.raft.is_some() {
            true => Ok(node),
            false => Err(format!("node {id} is down")),
        }
    }

    fn node_mut(&mut self, id: u64) -> &mut Node {
        self.cluster.nodes.get_mut(&id).unwrap()
    }

    fn perform(&mut self, word: &Word) -> Result<Observed, String> {
        let mut outcome = Facts::default();
        outcome.flag("ok");
        if !matches!(word, Word::AddNodes { .. }) {
            // The group is complete now, if it was not before.
            self.cluster.check();
        }
        match word {
            Word::AddNodes { count, setup } => {
                if let Err(error) = self.add_nodes(*count, setup) {
                    outcome = refused_start(error);
                }
            }
            Word::Set { nodes, settings } => {
                for id in self.ids(nodes)? {
                    self.set(id, settings);
                }
            }
            Word::Campaign(nodes) => {
                for id in self.ids(nodes)? {
                    self.up(id)?;
                    self.cluster.campaign(id);
                }
            }
            Word::Tick { count, nodes } => self.tick(*count, nodes)?,
            Word::Run(count) => self.cluster.advance(TICK * *count),
            Word::Pause(nodes) => {
                for id in self.ids(nodes)? {
                    self.cluster.pause(id);
                }
            }
            Word::Resume(nodes) => {
                for id in self.ids(nodes)? {
                    self.cluster.resume(id);
                }
            }
            Word::Propose { node, data, bytes } => {
                outcome = self.propose(*node, data.as_deref(), *bytes)?;
            }
            Word::ProposeConfChange { node, change } => {
                self.up(*node)?;
                outcome = proposed(self.cluster.propose_conf_change(*node, change));
            }
            Word::TransferLeadership { node, to } => {
                self.up(*node)?;
                if let Err(error) = self.cluster.transfer_leadership(*node, *to) {
                    outcome = refused_transfer(error);
                }
            }
            Word::ReadIndex {
                node,
                context,
                forward,
            } => {
                self.up(*node)?;
                let asked = match forward {
                    true => self.cluster.forward_read_index(*node, *context),
                    false => self.cluster.read_index(*node, *context),
                };
                if let Err(error) = asked {
                    outcome = refused_read(error);
                }
            }
            Word::ReportUnreachable { node, peer } => {
                self.up(*node)?;
                let raft = self.node_mut(*node).raft.as_mut().unwrap();
                raft.handle_unreachable(ReplicaId(*peer));
                self.cluster.check();
            }
            Word::Compact { node, up_to } => {
                let raft = self.up(*node)?.raft();
                let up_to = match *up_to {
                    CompactTo::Index(at) => index(at),
                    CompactTo::Tail(entries) => raft.compactable(entries),
                };
                self.cluster.compact(*node, up_to);
            }
            Word::ProcessReady(nodes) => {
                for id in self.ids(nodes)? {
                    self.cluster.process(id);
                }
            }
            Word::AckAppend { nodes, count } => {
                for id in self.ids(nodes)? {
                    self.up(id)?;
                    if !self.cluster.make_durable(id, *count) {
                        return Err(format!("node {id} has no append on its way to the disk"));
                    }
                }
            }
            Word::Snapshot(node) => {
                if self.up(*node)?.snapshots_asked.is_empty() {
                    return Err(format!("node {node} was asked for no snapshot"));
                }
                self.cluster.take_snapshots(*node);
            }
            Word::AckApply(nodes) => {
                for id in self.ids(nodes)? {
                    self.up(id)?;
                    self.node_mut(id).acknowledge_applied();
                    self.cluster.check();
                }
            }
            Word::Stabilize(nodes) => self.stabilize(nodes)?,
            Word::Flush(nodes) => {
                for id in self.ids(nodes)? {
                    self.up(id)?;
                    self.node_mut(id).flush();
                }
            }
            Word::Crash { nodes, written } => {
                for id in self.ids(nodes)? {
                    self.crash(id, *written)?;
                }
            }
            Word::Restart(nodes) => {
                for id in self.ids(nodes)? {
                    if let Err(error) = self.cluster.try_restart(id) {
                        outcome = refused_start(error);
                    }
                }
            }
            Word::Damage {
                node,
                index,
                noticed,
            } => self.damage(*node, *index, *noticed)?,
            _ => return self.perform_network(word),
        }
        Ok(Observed::One(outcome))
    }

    fn add_nodes(&mut self, count: u64, setup: &Setup) -> Result<(), StartError> {
        let first = self
            .cluster
            .nodes
            .keys()
            .next_back()
            .map_or(1, |last| last + 1);
        let ids: Vec<u64> = (first..first + count).collect();
        for id in &ids {
            let options = setup.options(&ids, self.choices.seed);
            self.cluster.add_unchecked(*id, options)?;
            self.set(*id, &setup.settings);
        }
        Ok(())
    }

    fn set(&mut self, id: u64, settings: &Settings) {
        let now = self.cluster.now;
        let node = self.node_mut(id);
        if let Some(held) = settings.appends_held {
            node.disk_held = held;
        }
        if let Some(held) = settings.applies_held {
            node.apply_held = held;
        }
        if let Some(held) = settings.snapshots_held {
            node.snapshots_held = held;
        }
        if let Some(percent) = settings.clock_percent {
            node.clock.set_speed(percent, now);
        }
    }

    /// Moves clocks, and rings what is due; nothing is processed or delivered.
    fn tick(&mut self, count: u32, nodes: &Nodes) -> Result<(), String> {
        let ids = self.ids(nodes)?;
        for _ in 0..count {
            if *nodes == Nodes::All {
                self.cluster.now = self.cluster.now + TICK;
            } else {
                for id in &ids {
                    self.node_mut(*id).clock.skip(TICK);
                }
            }
            self.cluster.fire_timeouts();
        }
        Ok(())
    }

    fn propose(&mut self, id: u64, data: Option<&str>, bytes: usize) -> Result<Facts, String> {
        self.up(id)?;
        let number = self.cluster.writes.len() + 1;
        let mut payload = data.map_or_else(|| format!("w{number}"), str::to_owned);
        while payload.len() < bytes {
            payload.push('.');
        }
        let bytes = payload.as_bytes();
        Ok(proposed(self.cluster.propose_bytes(id, bytes)))
    }

    /// Processes and delivers, among these nodes only, until nothing is left to do.
    fn stabilize(&mut self, nodes: &Nodes) -> Result<(), String> {
        let ids = self.ids(nodes)?;
        if *nodes == Nodes::All {
            self.cluster.settle();
            return Ok(());
        }
        for _ in 0..100_000 {
            let mut acted = false;
            for id in &ids {
                acted |= self.cluster.process(*id);
            }
            let within =
                |message: &Message| ids.contains(&message.to.0) && ids.contains(&message.from.0);
            while let Some(at) = self.cluster.network.iter().position(within) {
                self.cluster.deliver(at);
                acted = true;
            }
            if !acted {
                return Ok(());
            }
        }
        Err("the nodes do not come to rest".to_owned())
    }

    fn crash(&mut self, id: u64, written: Written) -> Result<(), String> {
        let pending = self.up(id)?.pending.len();
        let written = match written {
            Written::First(count) if count > pending => {
                return Err(format!(
                    "node {id} has {pending} appends on their way to the disk"
                ));
            }
            Written::First(count) => count,
            Written::Random => self.choices.dice.below(pending as u64 + 1) as usize,
            Written::Every => self.choices.choose(pending + 1),
        };
        self.cluster.crash(id, written);
        Ok(())
    }

    /// Takes everything from `index` on off the disk of a node that is down. Who notices does not start it
    /// again; who does not takes the end of what can be read for the end of the log.
    fn damage(&mut self, id: u64, index: u64, noticed: bool) -> Result<(), String> {
        let node = self
            .cluster
            .nodes
            .get_mut(&id)
            .ok_or_else(|| format!("there is no node {id}"))?;
        if node.raft.is_some() {
            return Err(format!("node {id} is up"));
        }
        if index == 0 || index > node.disk.log.len() as u64 {
            return Err(format!("node {id} has no entry {index} on its disk"));
        }
        node.disk.log.truncate(index as usize - 1);
        node.damaged = true;
        node.quarantined |= noticed;
        Ok(())
    }
}

fn proposed(result: Result<LogPosition, ProposeError>) -> Facts {
    match result {
        Ok(LogPosition { term, index }) => {
            let mut facts = Facts::default();
            facts.flag("ok").value("at", format!("{term}/{index}"));
            facts
        }
        Err(error) => refused_proposal(error),
    }
}
