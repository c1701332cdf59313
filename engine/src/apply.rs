//! The apply stage: executes what is committed, across groups, and answers those who wait.
//!
//! Like a worker it is synchronous and deterministic; the runtime runs it on the apply thread, which is
//! the only one that writes to the store.

use crate::reply::{Reply, Waiter};
use crate::worker::{ApplyBatch, Read, ReadQuery, Switch};
use pontoon_store::{
    KeyValue, KvReader, KvSnapshot, Machine, Outcome, Pieces, ReadError, ScanLimits, StateMachine,
    Store, StoreError, View,
};
use pontoon_types::{Entry, EntryKind, GroupId, LogIndex};
use std::collections::{HashSet, VecDeque};

/// What is answered to a read of rows that cannot be read.
const UNREADABLE: Reply = Reply::Unavailable {
    reason: "the store could not be read",
};

/// Gathers what the workers handed over and applies it as one batch.
pub struct ApplyStage<S: Store, M = KeyValue> {
    machine: Machine<S, M>,
    entries: Vec<Entry>,
    waiters: Vec<(usize, Waiter)>,
    reads: Vec<(GroupId, Read)>,
    /// What happens between entries, and before which of `entries`.
    between: VecDeque<(usize, Between)>,
    /// The states that marks have pinned.
    marked: Vec<KvSnapshot<S::View>>,
    /// So many of `entries` are applied.
    applied: usize,
    outcomes: Vec<Outcome>,
    progress: Vec<Progress>,
    /// Groups whose replica has come, has left or has other members.
    changed: Vec<GroupId>,
    /// Groups whose replica cannot go on, because what it would have to read is damaged. Nothing of them is applied or read
    /// until a snapshot takes the replica's place, or it leaves.
    lost: HashSet<GroupId>,
    /// Those that are new, and where their replicas' rows are.
    newly_lost: Vec<(GroupId, Pieces)>,
}

/// What happens between two entries.
#[derive(Clone)]
enum Between {
    /// A state changes other than by entries.
    Switch(Switch),
    /// The entry before is a mark: the state is pinned as of there, whatever follows in the same batch.
    Pin(GroupId, LogIndex),
}

/// How far one worker's groups have come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Which worker to tell.
    pub worker: usize,
    /// The last applied index of each group that moved.
    pub indexes: Vec<(GroupId, LogIndex)>,
    /// The bytes of the entries, to be given back to the worker's allowance.
    pub bytes: usize,
}

/// Reads whose entries are applied, with a view in which they are.
pub struct DueReads<V> {
    reader: KvReader<V>,
    reads: Vec<(GroupId, Read)>,
}

impl<S: Store, M: StateMachine> ApplyStage<S, M> {
    /// A stage around a state machine.
    #[must_use]
    pub fn new(machine: Machine<S, M>) -> Self {
        Self {
            machine,
            entries: Vec::new(),
            waiters: Vec::new(),
            reads: Vec::new(),
            between: VecDeque::new(),
            marked: Vec::new(),
            applied: 0,
            outcomes: Vec::new(),
            progress: Vec::new(),
            changed: Vec::new(),
            lost: HashSet::new(),
            newly_lost: Vec::new(),
        }
    }

    /// The state machine.
    pub fn machine(&mut self) -> &mut Machine<S, M> {
        &mut self.machine
    }

    /// Takes in what a worker handed over.
    pub fn gather(&mut self, worker: usize, mut batch: ApplyBatch) {
        let start = self.entries.len();
        if !batch.entries.is_empty() || !batch.switches.is_empty() {
            let mut progress = Progress {
                worker,
                bytes: batch.bytes,
                indexes: Vec::new(),
            };
            for switch in batch.switches.drain(..) {
                if let Switch::Install { record, applied } = &switch {
                    progress.indexes.push((record.group, *applied));
                }
                self.between.push_back((start, Between::Switch(switch)));
            }
            for (at, entry) in batch.entries.iter().enumerate() {
                let (group, index) = (entry.group(), entry.index());
                if entry.kind() == EntryKind::Mark {
                    let pin = Between::Pin(group, index);
                    self.between.push_back((start + at + 1, pin));
                }
                match progress.indexes.last_mut() {
                    Some(last) if last.0 == group => last.1 = index,
                    _ => progress.indexes.push((group, index)),
                }
            }
            self.progress.push(progress);
        }
        self.entries.append(&mut batch.entries);
        self.waiters.extend(
            batch
                .waiters
                .drain(..)
                .map(|(at, waiter)| (start + at, waiter)),
        );
        self.reads.append(&mut batch.reads);
    }

    /// Applies what was gathered, then answers. How far each worker's groups have come by that tells
    /// [`ApplyStage::progress`]. A group that cannot go on because of damage costs no other: [`ApplyStage::take_lost`] names
    /// it, and its entries count as handled there, but not in the store.
    ///
    /// # Errors
    /// If the store failed, and the node must stop; who has not been answered then gets no answer. After
    /// [`StoreError::Stalled`] the call may be repeated, and goes on where it was.
    pub fn run(&mut self) -> Result<(), StoreError> {
        while let Some((at, between)) = self.between.front().cloned() {
            self.apply(at)?;
            match between {
                Between::Switch(switch) => self.switch(switch)?,
                Between::Pin(group, index) => self.pin_marked(group, index),
            }
            self.between.pop_front();
        }
        self.apply(self.entries.len())?;
        self.entries.clear();
        self.applied = 0;
        Ok(())
    }

    /// How far each worker's groups have come with the last [`ApplyStage::run`].
    pub fn progress(&mut self) -> std::vec::Drain<'_, Progress> {
        self.progress.drain(..)
    }

    /// Applies the entries up to a place, and answers those who wait for them.
    fn apply(&mut self, to: usize) -> Result<(), StoreError> {
        let from = self.applied;
        if from == to {
            return Ok(());
        }
        self.execute(from, to)?;
        let entries = &self.entries[from..to];
        assert_eq!(
            self.outcomes.len(),
            entries.len(),
            "every entry has an outcome"
        );
        for (entry, outcome) in entries.iter().zip(&self.outcomes) {
            if matches!(outcome, Outcome::MembersChanged(_)) {
                self.changed.push(entry.group());
            }
        }
        let due = self.waiters.partition_point(|(at, _)| *at < to);
        for (at, waiter) in self.waiters.drain(..due) {
            if self.lost.contains(&self.entries[at].group()) {
                continue; // It is committed, and what comes of it only the others know: "unknown".
            }
            let outcome = std::mem::replace(&mut self.outcomes[at - from], Outcome::None);
            waiter.reply(Reply::Applied(outcome));
        }
        self.applied = to;
        Ok(())
    }

    /// Executes the entries of a range, except for those of lost groups.
    fn execute(&mut self, from: usize, to: usize) -> Result<(), StoreError> {
        loop {
            let entries = &self.entries[from..to];
            let applied = if self.lost.is_empty() {
                self.machine.apply(entries, &mut self.outcomes)
            } else {
                let others = entries
                    .iter()
                    .filter(|one| !self.lost.contains(&one.group()));
                let others: Vec<_> = others.cloned().collect();
                self.machine.apply(&others, &mut self.outcomes)
            };
            match applied {
                // Nothing has been applied, of any group.
                Err(error) if error.is_damage() => match error.group() {
                    Some(group) => self.lose(group, &error),
                    None => return Err(error),
                },
                applied => {
                    applied?;
                    break;
                }
            }
        }
        if !self.lost.is_empty() {
            let mut outcomes = std::mem::take(&mut self.outcomes).into_iter();
            let of = |entry: &Entry| match self.lost.contains(&entry.group()) {
                true => Some(Outcome::None),
                false => outcomes.next(),
            };
            self.outcomes = self.entries[from..to].iter().map_while(of).collect();
        }
        Ok(())
    }

    fn lose(&mut self, group: GroupId, error: &StoreError) {
        tracing::error!(%group, %error, "a replica cannot apply its log");
        self.lost.insert(group);
        let record = self.machine.replica(group);
        let pieces = record.map(|record| record.pieces.clone());
        self.newly_lost.extend(pieces.map(|pieces| (group, pieces)));
    }

    /// The groups that were lost since the last call, and where their replicas' rows are. Their workers are to hear
    /// of it before they hear of any progress.
    pub fn take_lost(&mut self) -> Vec<(GroupId, Pieces)> {
        std::mem::take(&mut self.newly_lost)
    }

    fn switch(&mut self, switch: Switch) -> Result<(), StoreError> {
        match switch {
            Switch::Install { record, applied } => {
                let group = record.group;
                self.changed.push(group);
                self.machine.install(*record, applied)?;
                self.lost.remove(&group);
                Ok(())
            }
            Switch::Remove(group) => {
                self.changed.push(group);
                self.machine.remove(group)?;
                self.lost.remove(&group);
                Ok(())
            }
            Switch::Discard(tablet) => {
                self.machine.discard(tablet);
                Ok(())
            }
        }
    }

    /// An entry that was applied in an earlier life of the process may be a mark; that state is gone.
    fn pin_marked(&mut self, group: GroupId, index: LogIndex) {
        let pinned = self.machine.snapshot(group);
        let is_there = |pinned: &KvSnapshot<_>| pinned.applied() == index;
        self.marked.extend(pinned.filter(is_there));
    }

    /// The states that marks have pinned since the last call.
    pub fn take_marked(&mut self) -> Vec<KvSnapshot<S::View>> {
        std::mem::take(&mut self.marked)
    }

    /// The groups whose replica has come, has left or has other members since the last call.
    pub fn changed(&mut self) -> Vec<GroupId> {
        std::mem::take(&mut self.changed)
    }

    /// Pins the state of a group as it is now, for a snapshot. `None` if there is no replica of it.
    #[must_use]
    pub fn pin(&self, group: GroupId) -> Option<KvSnapshot<S::View>> {
        self.machine.snapshot(group)
    }

    /// The reads that became due with the last [`ApplyStage::run`], if there are any.
    pub fn take_reads(&mut self) -> Option<DueReads<S::View>> {
        let mut reads = std::mem::take(&mut self.reads);
        if !self.lost.is_empty() {
            // What they waited for is not applied.
            for (_, read) in reads.extract_if(.., |(group, _)| self.lost.contains(group)) {
                read.refuse(UNREADABLE);
            }
        }
        if reads.is_empty() {
            return None;
        }
        Some(DueReads {
            reader: self.machine.reader(),
            reads,
        })
    }
}

impl<V: View> DueReads<V> {
    /// Serves and answers every read.
    pub fn serve(self) {
        self.serve_noting(|_, _| ());
    }

    /// The same; names each group of which a read has met damage, and where its replica's rows are.
    pub fn serve_noting(self, mut damaged: impl FnMut(GroupId, &Pieces)) {
        for (group, read) in self.reads {
            let reply = serve(&self.reader, group, &read).unwrap_or_else(|error| match error {
                ReadError::StaleEpoch { .. } | ReadError::OutOfRange { .. } => Reply::StaleRead,
                ReadError::UnknownGroup { group } => Reply::NoReplica { group },
                ReadError::Store(error) => {
                    tracing::error!(%group, %error, "a read failed");
                    if let Some(record) = self.reader.replica(group).filter(|_| error.is_damage()) {
                        damaged(group, &record.pieces);
                    }
                    UNREADABLE
                }
            });
            read.waiter.reply(reply);
        }
    }
}

fn serve<V: View>(reader: &KvReader<V>, group: GroupId, read: &Read) -> Result<Reply, ReadError> {
    let (shard, epoch) = (read.shard, read.epoch);
    match &read.query {
        ReadQuery::Get { key } => reader.get(group, shard, epoch, key).map(Reply::Value),
        ReadQuery::Scan {
            from,
            to,
            max_rows,
            max_bytes,
        } => {
            let limits = ScanLimits {
                rows: *max_rows,
                bytes: *max_bytes,
            };
            reader
                .scan(group, shard, epoch, (from, to), limits)
                .map(Reply::Rows)
        }
    }
}
