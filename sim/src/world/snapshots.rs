//! Snapshots on their way: the carrier of each process, with what production does around it on threads.

use super::process::worker_of;
use super::{Event, World};
use crate::invariants::Checked;
use bytes::Bytes;
use pontoon_engine::frame::{Frame, Lane};
use pontoon_engine::snapshot::{CarrierInput, Errand};
use pontoon_store::ModelStore;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// How long the carrier takes to look into its mailbox, in microseconds.
const WAKE_MICROS: (u64, u64) = (1, 200);

impl World {
    /// Puts something into the mailbox of a node's carrier.
    pub(super) fn tell_carrier(&mut self, at: usize, input: CarrierInput<ModelStore>) {
        let after = self.dice.micros(WAKE_MICROS);
        let life = self.nodes[at].life;
        self.plan(
            after,
            Event::Carry {
                node: at,
                life,
                input: Some(Box::new(input)),
            },
        );
    }

    /// The carrier takes in something, or looks what is due.
    pub(super) fn carry(
        &mut self,
        at: usize,
        life: u64,
        input: Option<Box<CarrierInput<ModelStore>>>,
    ) -> Checked {
        let now = self.now;
        let node = &mut self.nodes[at];
        let local = node.clock.at(now);
        let paused_until = node.paused_until;
        let Some(process) = node.process.as_mut().filter(|_| node.life == life) else {
            return Ok(());
        };
        if now < paused_until {
            let event = Event::Carry {
                node: at,
                life,
                input,
            };
            self.plan_at(paused_until, event);
            return Ok(());
        }
        if let Some(input) = input {
            process.carrier.handle(*input, local);
        }
        process.carrier.handle_timeout(local);
        let errands: Vec<_> = process.carrier.errands().collect();
        self.trace
            .event(now, 16, &[at as u64, errands.len() as u64]);
        for errand in errands {
            self.run_errand(at, life, errand)?;
        }
        self.plan_carrier(at);
        Ok(())
    }

    fn plan_carrier(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let (clock, life) = (node.clock, node.life);
        let Some(process) = &mut node.process else {
            return;
        };
        let due = process.carrier.next_deadline(clock.at(self.now));
        let due = due.map(|due| clock.when(due).max(self.now + Duration::from_micros(1)));
        // One look is planned at a time; one that comes too early plans the next.
        if let Some(due) = due
            && process
                .carrier_due
                .is_none_or(|planned| due < planned || planned <= self.now)
        {
            process.carrier_due = Some(due);
            let event = Event::Carry {
                node: at,
                life,
                input: None,
            };
            self.plan_at(due, event);
        }
    }

    fn run_errand(&mut self, at: usize, life: u64, errand: Errand) -> Checked {
        let id = self.nodes[at].id;
        let now = self.now;
        let Some(process) = self.process(at, life) else {
            return Ok(());
        };
        match errand {
            Errand::Pin { group, transfer } => {
                let snapshot = process.stage.pin(group);
                self.tell_carrier(at, CarrierInput::Pinned { transfer, snapshot });
            }
            Errand::Open { group } => {
                let opened = process.stage.machine().begin_install();
                self.tell_carrier(at, CarrierInput::Opened { group, opened });
            }
            Errand::Discard { tablet } => {
                process.stage.machine().discard(tablet);
            }
            Errand::Tell { group, input } => {
                self.trace.line(now, || format!("n{id} carrier: {input:?}"));
                self.tell(at, worker_of(group), input);
            }
            Errand::Send { to, frame } => self.send_snapshot(at, to.0 as usize - 1, &frame),
        }
        Ok(())
    }

    fn send_snapshot(&mut self, from: usize, to: usize, frame: &Frame) {
        let frame = frame.to_bytes();
        let stream = (from, to, 0, Lane::Snapshot);
        let Self {
            network,
            profile,
            dice,
            faults,
            ..
        } = self;
        for arrival in network.send(stream, self.now, profile, dice, faults) {
            let frame = frame.clone();
            self.plan_at(arrival, Event::SnapshotFrame { from, to, frame });
        }
    }

    /// A frame of another node's carrier arrives.
    pub(super) fn receive_snapshot(&mut self, from: usize, to: usize, frame: Bytes) -> Checked {
        let numbers = [from as u64, to as u64, xxh3_64(&frame)];
        self.trace.event(self.now, 17, &numbers);
        if self.nodes[to].process.is_some() {
            let from = self.nodes[from].id;
            self.tell_carrier(to, CarrierInput::Frame { from, frame });
        }
        Ok(())
    }
}
