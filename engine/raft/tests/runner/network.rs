//! What the words about messages do.

use super::facts::{Facts, Observed};
use super::message::{self, Filter};
use super::refusal::refused_step;
use super::token::Nodes;
use super::word::{Order, Word};
use super::world::World;
use crate::harness::{Fate, TICK};
use pontoon_raft::{Message, Role, StepError};

impl World {
    pub(crate) fn perform_network(&mut self, word: &Word) -> Result<Observed, String> {
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
                let mut dropped = take(&mut self.cluster.network, filter);
                dropped.extend(take(&mut self.cluster.held, filter));
                for message in dropped {
                    self.cluster.lost(&message);
                }
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
                        self.cluster.lose(at);
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
