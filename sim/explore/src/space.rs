//! The space of all states within bounds, as stateright walks it.

use crate::broken::{Broken, Checked, Invariant};
use crate::node::{Done, NOW, Node};
use crate::state::{State, VOTERS, id_of, place_of};
use pontoon_raft::{Raft, Role};
use serde::Serialize;
use stateright::{Model, Property};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How far the space reaches. Within it nothing is left out: every loss, every order, every crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Bounds {
    /// The last term in which anybody campaigns.
    pub(crate) terms: u64,
    /// Messages in flight at a time.
    pub(crate) in_flight: usize,
    /// Proposals, on whoever leads. Beside them every leader appends one entry of its own, so this and
    /// `terms` bound the log.
    pub(crate) proposals: u8,
    /// Crashes, each with any part of what was on its way to the disk.
    pub(crate) crashes: u8,
    /// Messages that come twice.
    pub(crate) repeats: u8,
    /// Heartbeats, of whoever leads.
    pub(crate) heartbeats: u8,
}

/// What may happen next. Places are those of the state before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A replica campaigns, or heartbeats if it leads.
    Timeout { at: usize },
    /// Somebody proposes.
    Propose { at: usize },
    /// The oldest write of a replica is durable.
    Sync { at: usize },
    /// A replica crashes with so much of what was under way on its disk, and starts again.
    Crash { at: usize, written: usize },
    /// A message comes.
    Deliver { message: usize },
    /// A message comes, and will come again.
    Repeat { message: usize },
    /// A message is lost.
    Drop { message: usize },
}

/// All that can become of three blank replicas within bounds.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    bounds: Bounds,
    blank: State,
}

impl Space {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let blank = State::blank();
        Self { bounds, blank }
    }

    /// The action in words.
    pub(crate) fn describe(state: &State, action: Action) -> String {
        let message = |message: usize| {
            let message = &state.network[message].message;
            let (from, to, term) = (message.from, message.to, message.term);
            format!("{from} -> {to}, term {term}: {:?}", message.body)
        };
        match action {
            Action::Timeout { at } if state.nodes[at].raft.role() == Role::Leader => {
                format!("{} heartbeats", id_of(at))
            }
            Action::Timeout { at } => format!("{} campaigns", id_of(at)),
            Action::Propose { at } => format!("{} takes a proposal", id_of(at)),
            Action::Sync { at } => format!("{} has its oldest write on disk", id_of(at)),
            Action::Crash { at, written } => {
                let of = state.nodes[at].unwritten();
                let id = id_of(at);
                format!("{id} crashes with {written} of {of} writes on disk, and starts again")
            }
            Action::Deliver { message: at } => format!("comes     {}", message(at)),
            Action::Repeat { message: at } => format!("comes, and stays  {}", message(at)),
            Action::Drop { message: at } => format!("is lost   {}", message(at)),
        }
    }

    /// Whether a replica's steps are left to another one that nothing tells from it: exchanging the two
    /// gives the same state, so what follows here follows there under other names.
    fn is_mirrored(&self, state: &State, at: usize) -> bool {
        let is_blank = |at: usize| state.nodes[at].digest == self.blank.nodes[at].digest;
        is_blank(at) && (0..at).any(|other| is_blank(other) && state.is_symmetric(other, at))
    }

    fn push_steps(&self, state: &State, at: usize, actions: &mut Vec<Action>) {
        let (node, bounds, spent) = (&state.nodes[at], &self.bounds, &state.spent);
        let leads = node.raft.role() == Role::Leader;
        let may_time_out = if leads {
            spent.heartbeats < bounds.heartbeats
        } else {
            node.raft.term().0 < bounds.terms
        };
        if may_time_out {
            actions.push(Action::Timeout { at });
        }
        if leads && spent.proposals < bounds.proposals {
            actions.push(Action::Propose { at });
        }
        if node.unwritten() > 0 {
            actions.push(Action::Sync { at });
        }
        if spent.crashes < bounds.crashes {
            let crash = |written| Action::Crash { at, written };
            actions.extend((0..=node.unwritten()).map(crash));
        }
    }
}

impl Model for Space {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.blank.clone()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        let mirrored: [bool; VOTERS] = std::array::from_fn(|at| self.is_mirrored(state, at));
        for at in (0..VOTERS).filter(|at| !mirrored[*at]) {
            self.push_steps(state, at, actions);
        }
        for (message, envelope) in state.network.iter().enumerate() {
            if mirrored[place_of(envelope.message.to)] || state.is_repeated(message) {
                continue;
            }
            actions.push(Action::Deliver { message });
            actions.push(Action::Drop { message });
            if state.spent.repeats < self.bounds.repeats {
                actions.push(Action::Repeat { message });
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Timeout { at } => {
                let leads = state.nodes[at].raft.role() == Role::Leader;
                next.spent.heartbeats += u8::from(leads);
                next.step(at, guarded(|node| node.act(time_out)));
            }
            Action::Propose { at } => {
                next.spent.proposals += 1;
                next.step(at, guarded(|node| node.act(propose)));
            }
            Action::Sync { at } => next.step(at, guarded(Node::sync)),
            Action::Crash { at, written } => {
                next.spent.crashes += 1;
                next.step(at, guarded(|node| node.crash(written)));
            }
            Action::Drop { message } => {
                next.network.remove(message);
            }
            Action::Deliver { message } | Action::Repeat { message } => {
                if action == (Action::Deliver { message }) {
                    next.network.remove(message);
                } else {
                    next.spent.repeats += 1;
                }
                let message = state.network[message].message.clone();
                let at = place_of(message.to);
                let deliver = |raft: &mut Raft| {
                    let refused = |error| Broken::new(Invariant::Accepted, format!("{error}"));
                    raft.step(message, NOW).map_err(refused)
                };
                next.step(at, guarded(|node| node.act(deliver)));
            }
        }
        Some(next)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.network.len() <= self.bounds.in_flight
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn always<const INVARIANT: usize>(_: &Space, state: &State) -> bool {
            let broken = state.broken.as_ref().map(|broken| broken.invariant);
            broken != Some(ALL[INVARIANT])
        }
        use Invariant::*;
        const ALL: [Invariant; 10] = [S1, S2, S3, S4, S5, S6, S7, S10, Accepted, Asserted];
        let holds = |at: usize, condition| Property::always(ALL[at].name(), condition);
        vec![
            holds(0, always::<0>),
            holds(1, always::<1>),
            holds(2, always::<2>),
            holds(3, always::<3>),
            holds(4, always::<4>),
            holds(5, always::<5>),
            holds(6, always::<6>),
            holds(7, always::<7>),
            holds(8, always::<8>),
            holds(9, always::<9>),
            Property::sometimes("a leader is elected", |_, state: &State| {
                state.leaders().count() == 1
            }),
            Property::sometimes("two lead, of different terms", |_, state: &State| {
                state.leaders().count() == 2
            }),
            Property::sometimes("an entry is committed", |_, state: &State| {
                state.history.has_committed()
            }),
            Property::sometimes("everybody has applied it", |_, state: &State| {
                state.nodes.iter().all(|node| node.applied.0 > 0)
            }),
            Property::sometimes(
                "a later term commits an earlier one's entry",
                |_, state: &State| state.history.has_committed_inherited(),
            ),
            Property::sometimes(
                "a later leader replaces a conflicting suffix",
                |_, state: &State| state.nodes.iter().any(|node| node.overwrites()),
            ),
        ]
    }
}

impl State {
    fn leaders(&self) -> impl Iterator<Item = &Node> {
        let nodes = self.nodes.iter().map(|node| &**node);
        nodes.filter(|node| node.raft.role() == Role::Leader)
    }
}

/// A step in which the core's own assertions are caught.
fn guarded(
    step: impl FnOnce(&mut Node) -> Checked<Done>,
) -> impl FnOnce(&mut Node) -> Checked<Done> {
    move |node| {
        catch_unwind(AssertUnwindSafe(|| step(node))).unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<String>().cloned();
            let plain = || {
                panic
                    .downcast_ref::<&str>()
                    .map(|words| (*words).to_owned())
            };
            let how = words.or_else(plain).unwrap_or_default();
            Err(Broken::new(Invariant::Asserted, how))
        })
    }
}

/// Whatever the replica waits for comes now.
fn time_out(raft: &mut Raft) -> Checked {
    if let Some(at) = raft.next_deadline() {
        raft.handle_timeout(at);
    }
    Ok(())
}

fn propose(raft: &mut Raft) -> Checked {
    let refused = |error| Broken::new(Invariant::Accepted, format!("{error}"));
    raft.propose(b"x", NOW).map(drop).map_err(refused)
}
