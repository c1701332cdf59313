//! Replaying the groups' records on several threads: a group belongs to one of them.

use super::Damage;
use super::replay::{Groups, Replay, Step};
use crate::index::Pins;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::thread::{Scope, ScopedJoinHandle};

/// So many records are handed over at once.
const PORTION: usize = 4096;
/// So many portions may wait for a thread.
const WAITING: usize = 4;

/// Where records go.
pub(super) enum Lanes<'scope> {
    Here(Replay),
    Threads(Vec<Lane<'scope>>),
}

pub(super) struct Lane<'scope> {
    portion: Vec<Step>,
    sender: Sender<Vec<Step>>,
    /// Memory that comes back.
    spares: Receiver<Vec<Step>>,
    thread: ScopedJoinHandle<'scope, Replay>,
}

impl<'scope> Lanes<'scope> {
    /// With no threads, all is done by the caller.
    pub(super) fn new(scope: &'scope Scope<'scope, '_>, threads: usize) -> Self {
        if threads == 0 {
            return Self::Here(Replay::of_every(1));
        }
        let lanes = (0..threads).map(|_| {
            let (sender, portions) = bounded::<Vec<Step>>(WAITING);
            let (used, spares) = bounded(WAITING + 1);
            let thread = scope.spawn(move || {
                let mut replay = Replay::of_every(threads as u64);
                for mut portion in portions {
                    replay.take_all(&mut portion);
                    let _ = used.try_send(portion); // Not needed any more at the end.
                }
                replay
            });
            Lane {
                portion: Vec::with_capacity(PORTION),
                sender,
                spares,
                thread,
            }
        });
        Self::Threads(lanes.collect())
    }

    #[inline]
    pub(super) fn take(&mut self, step: Step) {
        match self {
            Self::Here(replay) => replay.take(step),
            Self::Threads(lanes) => {
                let at = step.group.0 % lanes.len() as u64;
                let lane = &mut lanes[at as usize];
                lane.portion.push(step);
                if lane.portion.len() == PORTION {
                    let next = lane.spares.try_recv();
                    let next = next.unwrap_or_else(|_| Vec::with_capacity(PORTION));
                    let full = std::mem::replace(&mut lane.portion, next);
                    // A thread that has died is noticed when it is joined.
                    let _ = lane.sender.send(full);
                }
            }
        }
    }

    /// What all the records come to, with every group marked that is not proven whole.
    pub(super) fn finish(self, damage: &[Damage]) -> (Groups, Pins) {
        let lanes = match self {
            Self::Here(replay) => return replay.finish(damage),
            Self::Threads(lanes) => lanes,
        };
        let replays: Vec<_> = lanes
            .into_iter()
            .map(|lane| {
                let _ = lane.sender.send(lane.portion);
                drop(lane.sender);
                joined(lane.thread)
            })
            .collect();
        std::thread::scope(|scope| {
            let finishing = replays.into_iter();
            let finishing: Vec<_> = finishing
                .map(|replay| scope.spawn(|| replay.finish(damage)))
                .collect();
            let (mut groups, mut pins) = (Groups::default(), Pins::default());
            for thread in finishing {
                let (some, their_pins) = joined(thread);
                groups.extend(some);
                pins.merge(their_pins);
            }
            (groups, pins)
        })
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
