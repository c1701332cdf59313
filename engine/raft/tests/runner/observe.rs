//! What the observers see.

use super::facts::{Facts, Observed};
use super::message;
use super::token::{Nodes, show_runs};
use super::word::Word;
use super::world::World;
use crate::harness::{Node, index};
use pontoon_raft::{ProgressMode, Role};
use pontoon_types::{Entry, EntryKind, Instant, LogPosition, ReplicaId};

fn id_or_none(id: Option<ReplicaId>) -> String {
    id.map_or_else(|| "none".to_owned(), |id| id.to_string())
}

fn show(position: LogPosition) -> String {
    format!("{}/{}", position.term, position.index)
}

fn members(ids: &[ReplicaId]) -> String {
    let ids: Vec<String> = ids.iter().map(ReplicaId::to_string).collect();
    format!("({})", ids.join(","))
}

impl World {
    /// What a word that only looks sees.
    pub(crate) fn observe(&self, word: &Word) -> Result<Observed, String> {
        let named = |nodes, of: fn(&Node) -> Facts| -> Result<Observed, String> {
            let ids = self.ids(nodes)?;
            let one = |id: u64| (id.to_string(), of(self.cluster.node(id)));
            Ok(Observed::Named(ids.into_iter().map(one).collect()))
        };
        let lists = |nodes, of: fn(&Node) -> Vec<String>| -> Result<Observed, String> {
            let ids = self.ids(nodes)?;
            let one = |id: u64| Ok((id.to_string(), of(self.up(id)?)));
            let all: Result<_, String> = ids.into_iter().map(one).collect();
            Ok(Observed::Lists(all?))
        };
        match word {
            Word::RaftState(nodes) => self.states(nodes),
            Word::Disk(nodes) => named(nodes, disk),
            Word::RaftLog(nodes) => lists(nodes, log),
            Word::Machine(nodes) => lists(nodes, machine),
            Word::HandedOut(nodes) => lists(nodes, handed_out),
            Word::Status(node) => self.status(*node),
            Word::Reads(node) => self.reads(*node),
            Word::Messages { filter, held } => {
                let queue = match held {
                    true => &self.cluster.held,
                    false => &self.cluster.network,
                };
                let meant = queue.iter().filter(|message| filter.matches(message));
                let seen = meant.map(|message| (message::ends(message), message::facts(message)));
                Ok(Observed::Messages(seen.collect()))
            }
            Word::Delivered(filter) => {
                let delivered = self.cluster.delivered.iter();
                let count = delivered.filter(|message| filter.matches(message)).count();
                let mut facts = Facts::default();
                facts.value("count", count);
                Ok(Observed::One(facts))
            }
            Word::Writes => Ok(Observed::One(self.writes())),
            _ => unreachable!("{word:?} does not observe"),
        }
    }

    fn states(&self, nodes: &Nodes) -> Result<Observed, String> {
        let one = |id: u64| {
            let node = self.cluster.node(id);
            (id.to_string(), state(node, self.cluster.clock(id)))
        };
        Ok(Observed::Named(
            self.ids(nodes)?.into_iter().map(one).collect(),
        ))
    }

    fn status(&self, id: u64) -> Result<Observed, String> {
        let raft = self.up(id)?.raft();
        if raft.role() != Role::Leader {
            return Err(format!("node {id} does not lead"));
        }
        let mut all = Vec::new();
        for peer in self.cluster.nodes.keys() {
            let Some(view) = raft.progress(ReplicaId(*peer)) else {
                continue;
            };
            let mut facts = Facts::default();
            facts.flag(match view.mode {
                ProgressMode::Probe => "probe",
                ProgressMode::Pipeline => "pipeline",
                ProgressMode::Snapshot => "snapshot",
            });
            facts
                .value("match", view.matched)
                .value("inflight", view.inflight)
                .value("inflight-bytes", view.inflight_bytes);
            all.push((peer.to_string(), facts));
        }
        Ok(Observed::Named(all))
    }

    /// Every read that was asked of this node in its present life.
    fn reads(&self, id: u64) -> Result<Observed, String> {
        let node = self.up(id)?;
        let mut all = Vec::new();
        for read in &node.reads {
            let mut facts = Facts::default();
            facts.flag("answered").value("index", read.index);
            all.push((read.context.to_string(), facts));
        }
        for context in &node.refused {
            let mut facts = Facts::default();
            facts.flag("refused");
            all.push((context.to_string(), facts));
        }
        for context in self.cluster.invariants.reads_waiting(id) {
            if !node.refused.contains(&context) {
                let mut facts = Facts::default();
                facts.flag("waiting");
                all.push((context.to_string(), facts));
            }
        }
        Ok(Observed::Named(all))
    }

    /// The clients' view: what was acknowledged must be everywhere, what was not may be everywhere or
    /// nowhere. Nodes that are down do not count.
    fn writes(&self) -> Facts {
        let states: Vec<Vec<&Entry>> = self
            .cluster
            .nodes
            .values()
            .filter(|node| node.raft.is_some())
            .map(|node| node.state().collect())
            .collect();
        let (mut acknowledged, mut open, mut lost, mut partial) = (0, 0, 0, 0);
        for write in &self.cluster.writes {
            let holders = states
                .iter()
                .filter(|state| state.contains(&&write.entry))
                .count();
            if write.acknowledged {
                acknowledged += 1;
                lost += usize::from(holders < states.len());
            } else {
                open += 1;
                partial += usize::from(0 < holders && holders < states.len());
            }
        }
        let mut facts = Facts::default();
        facts
            .value("acknowledged", acknowledged)
            .value("open", open);
        facts.value("lost", lost).value("partial", partial);
        facts
    }
}

fn state(node: &Node, now: Instant) -> Facts {
    let mut facts = Facts::default();
    let Some(raft) = &node.raft else {
        facts.flag("down");
        return facts;
    };
    if raft.is_stopped() {
        facts.flag("stopped");
    } else {
        facts.flag(match raft.role() {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::PreCandidate => "pre-candidate",
        });
    }
    facts.flag_if("idle", raft.is_idle());
    facts.flag_if("lease", raft.holds_lease(now));
    let conf = raft.conf_state();
    facts
        .value("term", raft.term())
        .value("vote", id_or_none(raft.vote()))
        .value("lead", id_or_none(raft.leader()))
        .value("commit", raft.commit())
        .value("applied", raft.applied())
        .value("durable", raft.durable())
        .value("first", raft.first_index())
        .value("last", show(raft.last_position()))
        .value("uncommitted", raft.uncommitted_bytes())
        .value("cached", raft.cached_bytes())
        .value("voters", members(&conf.voters))
        .value("outgoing", members(&conf.outgoing))
        .value("learners", members(&conf.learners))
        .value("transferee", id_or_none(raft.transferee()));
    facts
}

fn disk(node: &Node) -> Facts {
    let hard_state = node.disk.hard_state;
    let last = node
        .disk
        .log
        .last()
        .map_or(LogPosition::ZERO, Entry::position);
    let overwritten = node.first_overwritten;
    let mut facts = Facts::default();
    facts
        .value("term", hard_state.term)
        .value("vote", id_or_none(hard_state.vote))
        .value("commit", hard_state.commit)
        .value("applied", node.disk.machine.applied())
        .value("last", show(last))
        .value("pending", node.pending.len())
        .value(
            "overwritten",
            overwritten.map_or_else(|| "none".to_owned(), |at| at.to_string()),
        );
    facts
}

fn log(node: &Node) -> Vec<String> {
    let raft = node.raft();
    let indexes = raft.first_index().0..=raft.last_position().index.0;
    show_runs(indexes.map(|at| (raft.term_at(index(at)).unwrap().0, at)))
}

/// The commands, without the empty entries between them.
fn machine(node: &Node) -> Vec<String> {
    let commands = node
        .state()
        .filter(|entry| entry.kind() == EntryKind::Command);
    commands
        .map(|entry| String::from_utf8_lossy(entry.payload()).into_owned())
        .collect()
}

fn handed_out(node: &Node) -> Vec<String> {
    show_runs(
        node.machine
            .iter()
            .map(|entry| (entry.term().0, entry.index().0)),
    )
}
