//! A script at work: what each word does to the group.

use super::choices::Choices;
use super::facts::{Facts, Observed, check};
use super::message::{self, Filter};
use super::script::{Action, Case, Step};
use super::setup::{Settings, Setup};
use super::token::Nodes;
use super::word::{Order, Word, Written};
use crate::harness::{Cluster, Fate, Node, TICK, index};
use pontoon_raft::{
    ConfChangeRefusal, ConfigError, Message, ProposeError, ReadError, Role, StepError,
};
use pontoon_types::ReplicaId;

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
            Word::AddNodes { count, setup } => self.add_nodes(*count, setup)?,
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
            Word::Run(count) => self.cluster.advance(TICK * *count as u32),
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
            Word::ReadIndex { node, context } => {
                self.up(*node)?;
                if let Err(error) = self.cluster.read_index(*node, *context) {
                    outcome = refused_read(error);
                }
            }
            Word::ReportUnreachable { node, peer } => {
                self.up(*node)?;
                let raft = self.node_mut(*node).raft.as_mut().unwrap();
                raft.handle_unreachable(ReplicaId(*peer));
                self.cluster.check();
            }
            Word::Compact { node, index: up_to } => {
                self.up(*node)?;
                self.cluster.compact(*node, index(*up_to));
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

    fn perform_network(&mut self, word: &Word) -> Result<Observed, String> {
        let mut outcome = Facts::default();
        outcome.flag("ok");
        match word {
            Word::Deliver {
                filter,
                order,
                repeats,
            } => {
                if let Err(error) = self.deliver(filter, *order, *repeats)? {
                    outcome = refused_step(error);
                }
            }
            Word::Drop(filter) => {
                take(&mut self.cluster.network, filter);
                take(&mut self.cluster.held, filter);
            }
            Word::Hold(filter) => {
                self.cluster.rules.extend(filter.rules(Fate::Hold));
                let taken = take(&mut self.cluster.network, filter);
                self.cluster.held.extend(taken);
            }
            Word::Release { filter, copy } => {
                let taken = match copy {
                    true => copies(&self.cluster.held, filter),
                    false => take(&mut self.cluster.held, filter),
                };
                if taken.is_empty() {
                    return Err("no such message is held".to_owned());
                }
                self.cluster.network.extend(taken);
            }
            Word::Duplicate(filter) => {
                let copied = copies(&self.cluster.network, filter);
                if copied.is_empty() {
                    return Err("no such message is on the network".to_owned());
                }
                self.cluster.network.extend(copied);
            }
            Word::Cut(filter) => self.cluster.rules.extend(filter.rules(Fate::Drop)),
            Word::Isolate(nodes) => {
                for id in self.ids(nodes)? {
                    self.cluster.isolate(id);
                }
            }
            Word::Partition(sides) => {
                let pairs = sides.iter().enumerate().flat_map(|(at, side)| {
                    let others = sides[at + 1..].iter().flatten();
                    others.flat_map(move |other| side.iter().map(move |one| (*one, *other)))
                });
                for (one, other) in pairs {
                    self.cluster.cut(one, other);
                }
            }
            Word::Heal => self.cluster.heal(),
            Word::Send(message) => {
                self.ids(&Nodes::These(vec![message.to.0]))?;
                self.cluster.network.push(message.clone());
            }
            Word::Ask(message) => outcome = self.ask(message)?,
            Word::Mark => self.cluster.delivered.clear(),
            Word::RandomSteps { count, drops } => self.random_steps(*count, *drops),
            _ => return self.observe(word),
        }
        Ok(Observed::One(outcome))
    }

    fn add_nodes(&mut self, count: u64, setup: &Setup) -> Result<(), String> {
        let first = self
            .cluster
            .nodes
            .keys()
            .next_back()
            .map_or(1, |last| last + 1);
        let ids: Vec<u64> = (first..first + count).collect();
        for id in &ids {
            let options = setup.options(&ids, self.choices.seed);
            self.cluster.add_unchecked(*id, options);
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
        if let Some(percent) = settings.clock_percent {
            node.clock.set_speed(percent, now);
        }
    }

    /// Moves clocks, and rings what is due; nothing is processed or delivered.
    fn tick(&mut self, count: u64, nodes: &Nodes) -> Result<(), String> {
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
        let mut facts = Facts::default();
        match self.cluster.propose_bytes(id, payload.as_bytes()) {
            Ok(at) => facts
                .flag("ok")
                .value("at", format!("{}/{}", at.term, at.index)),
            Err(error) => return Ok(refused_proposal(error)),
        };
        Ok(facts)
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

    fn deliver(
        &mut self,
        filter: &Filter,
        order: Order,
        repeats: bool,
    ) -> Result<Result<(), StepError>, String> {
        let mut left = take(&mut self.cluster.network, filter);
        if left.is_empty() {
            return Err("no such message is on the network".to_owned());
        }
        let all = left.clone();
        let mut refused = Ok(());
        while !left.is_empty() {
            let at = match order {
                Order::AsSent => 0,
                Order::Reversed => left.len() - 1,
                Order::Shuffled => self.choices.dice.below(left.len() as u64) as usize,
                Order::Every => self.choices.choose(left.len()),
            };
            let mut batch = vec![left.remove(at)];
            if repeats && self.choices.dice.chance(40) {
                let again = self.choices.dice.below(all.len() as u64) as usize;
                batch.push(all[again].clone());
            }
            for message in batch {
                let delivered = self.cluster.hand_over(message);
                refused = refused.and(delivered);
            }
        }
        Ok(refused)
    }

    /// Hands a message over, lets its receiver work, and takes what it answers off the network.
    fn ask(&mut self, message: &Message) -> Result<Facts, String> {
        let (from, to) = (message.from, message.to);
        self.up(to.0)?;
        if let Err(error) = self.cluster.step(message.clone()) {
            return Ok(refused_step(error));
        }
        self.cluster.process(to.0);
        let answers = |answer: &Message| answer.from == to && answer.to == from;
        let at = self.cluster.network.iter().rposition(answers);
        Ok(match at {
            Some(at) => message::facts(&self.cluster.network.remove(at)),
            None => {
                let mut silent = Facts::default();
                silent.flag("silent");
                silent
            }
        })
    }

    /// Whatever the seed says: messages in a wrong order or not at all, nodes that work or do not, disks that
    /// get done, writes, time.
    fn random_steps(&mut self, count: u64, drops: u64) {
        let ids: Vec<u64> = self.cluster.nodes.keys().copied().collect();
        for _ in 0..count {
            let dice = &mut self.choices.dice;
            let id = ids[dice.below(ids.len() as u64) as usize];
            let queued = self.cluster.network.len() as u64;
            match dice.below(10) {
                0..=3 if queued > 0 => {
                    let at = dice.below(queued.min(8)) as usize;
                    if dice.chance(drops) {
                        self.cluster.network.remove(at);
                    } else {
                        self.cluster.deliver(at);
                    }
                }
                0..=5 => {
                    self.cluster.process(id);
                }
                6 | 7 => {
                    self.cluster.make_durable(id, 1);
                }
                8 => {
                    let leader = self.cluster.leader();
                    let leads = |id: &u64| self.cluster.raft(*id).role() == Role::Leader;
                    if let Some(leader) = leader.filter(leads) {
                        let payload = format!("w{}", self.cluster.writes.len() + 1);
                        // Refused is as good: what matters is what becomes of those that were taken.
                        let _ = self.cluster.propose_bytes(leader, payload.as_bytes());
                    }
                }
                _ => {
                    self.cluster.now = self.cluster.now + TICK / 4;
                    self.cluster.fire_timeouts();
                }
            }
        }
    }
}

/// Takes the messages that are meant, in order.
fn take(messages: &mut Vec<Message>, filter: &Filter) -> Vec<Message> {
    messages
        .extract_if(.., |message| filter.matches(message))
        .collect()
}

fn copies(messages: &[Message], filter: &Filter) -> Vec<Message> {
    messages
        .iter()
        .filter(|message| filter.matches(message))
        .cloned()
        .collect()
}

fn refused(why: &str) -> Facts {
    let mut facts = Facts::default();
    facts.flag("refused").flag(why);
    facts
}

fn lead(facts: &mut Facts, leader: Option<ReplicaId>) {
    facts.value(
        "lead",
        leader.map_or_else(|| "none".to_owned(), |id| id.to_string()),
    );
}

fn refused_proposal(error: ProposeError) -> Facts {
    match error {
        ProposeError::NotLeader { leader } => {
            let mut facts = refused("not-leader");
            lead(&mut facts, leader);
            facts
        }
        ProposeError::Overloaded {
            uncommitted_bytes,
            limit_bytes,
        } => {
            let mut facts = refused("overloaded");
            facts
                .value("uncommitted", uncommitted_bytes)
                .value("limit", limit_bytes);
            facts
        }
        ProposeError::TooLarge { limit_bytes, .. } => {
            let mut facts = refused("too-large");
            facts.value("limit", limit_bytes);
            facts
        }
        ProposeError::ConfChange(refusal) => refused(match refusal {
            ConfChangeRefusal::Pending { .. } => "pending",
            ConfChangeRefusal::TermNotCommitted { .. } => "term-not-committed",
            ConfChangeRefusal::Invalid(_) => "invalid",
        }),
        ProposeError::Stopped => refused("stopped"),
    }
}

fn refused_read(error: ReadError) -> Facts {
    match error {
        ReadError::NotLeader { leader } => {
            let mut facts = refused("not-leader");
            lead(&mut facts, leader);
            facts
        }
        ReadError::Overloaded { waiting } => {
            let mut facts = refused("overloaded");
            facts.value("waiting", waiting);
            facts
        }
        ReadError::Stopped => refused("stopped"),
    }
}

fn refused_step(error: StepError) -> Facts {
    match error {
        StepError::Misdirected { .. } => refused("misdirected"),
        StepError::Malformed { .. } => refused("malformed"),
        StepError::TwoLeaders { known, .. } => {
            let mut facts = refused("two-leaders");
            lead(&mut facts, Some(known));
            facts
        }
        StepError::CommittedConflict { index, .. } => {
            let mut facts = refused("committed-conflict");
            facts.value("index", index);
            facts
        }
        StepError::LogLost {
            acknowledged, last, ..
        } => {
            let mut facts = refused("log-lost");
            facts
                .value("acknowledged", acknowledged)
                .value("last", last);
            facts
        }
        StepError::Stopped { .. } => refused("stopped"),
    }
}

fn refused_start(error: crate::harness::StartError) -> Facts {
    match error {
        crate::harness::StartError::Quarantined => refused("quarantined"),
        crate::harness::StartError::Config(ConfigError::CommitPastLog { commit, last }) => {
            let mut facts = refused("commit-past-log");
            facts.value("acknowledged", commit).value("last", last);
            facts
        }
        crate::harness::StartError::Config(other) => {
            panic!("a disk that no replica writes: {other}")
        }
    }
}
