//! What the integration tests share.
#![allow(dead_code, unreachable_pub)]

pub mod forge;
pub mod model;

use pontoon_types::{
    ClusterId, Entry, EntryKind, GroupId, HardState, LogIndex, LogPosition, NodeId, ReplicaId, Term,
};
use pontoon_wal::{
    BatchBuilder, DurabilityListener, LogIdentity, SealedBatch, Ticket, WalConfig, WalError,
};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

pub const IDENTITY: LogIdentity = LogIdentity {
    cluster: ClusterId(0xc0ffee),
    node: NodeId(1),
};

pub fn config(segment_bytes: u64) -> WalConfig {
    WalConfig {
        segment_bytes,
        max_bytes: 64 * segment_bytes,
        // Most of the tests recover thousands of times.
        recovery_threads: 0,
        ..WalConfig::default()
    }
}

pub fn entry(group: u64, term: u64, index: u64, payload: &[u8]) -> Entry {
    Entry::encode(
        GroupId(group),
        Term(term),
        LogIndex(index),
        EntryKind::Command,
        payload,
    )
}

pub fn batch_of(entries: &[Entry]) -> SealedBatch {
    let mut batch = BatchBuilder::new();
    for entry in entries {
        batch.append(entry);
    }
    batch.seal()
}

pub fn hard_state(term: u64, vote: Option<u64>, commit: u64) -> HardState {
    HardState {
        term: Term(term),
        vote: vote.map(ReplicaId),
        commit: LogIndex(commit),
    }
}

pub fn position(term: u64, index: u64) -> LogPosition {
    LogPosition {
        term: Term(term),
        index: LogIndex(index),
    }
}

/// What a listener heard.
#[derive(Debug)]
pub enum Heard {
    Durable(Vec<Ticket>),
    Failed(WalError),
}

/// Passes on what it hears.
pub struct Ear(mpsc::Sender<Heard>);

impl DurabilityListener for Ear {
    fn durable(&self, tickets: &[Ticket]) {
        let _ = self.0.send(Heard::Durable(tickets.to_vec()));
    }

    fn failed(&self, error: &WalError) {
        let _ = self.0.send(Heard::Failed(error.clone()));
    }
}

pub fn ear() -> (Arc<Ear>, mpsc::Receiver<Heard>) {
    let (sender, receiver) = mpsc::channel();
    (Arc::new(Ear(sender)), receiver)
}

/// Waits until `count` tickets were announced.
pub fn await_tickets(heard: &mpsc::Receiver<Heard>, count: usize) -> Vec<Ticket> {
    let mut all = Vec::new();
    while all.len() < count {
        match heard.recv_timeout(Duration::from_secs(60)) {
            Ok(Heard::Durable(tickets)) => all.extend(tickets),
            other => panic!("heard {other:?} after {} of {count} tickets", all.len()),
        }
    }
    all
}
