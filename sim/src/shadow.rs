//! What a node's log must hold, kept beside the real one.
//!
//! The simulator watches every batch that goes into a log. From that alone it knows, without asking the
//! log, what is durable, what was laid, and therefore which states a crash may leave.

use pontoon_types::{Entry, GroupId, HardState, LogIndex, LogPosition, ReplicaId, Term};
use pontoon_wal::{Record, Recovered, RecoveredGroup};
use std::collections::{BTreeMap, VecDeque};

/// The part of an entry that tells it from every other: its term and its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The entry's term.
    pub term: Term,
    /// Its CRC32C.
    pub checksum: u32,
}

impl Stamp {
    /// The stamp of an entry.
    #[must_use]
    pub fn of(entry: &Entry) -> Self {
        Self {
            term: entry.term(),
            checksum: entry.checksum(),
        }
    }
}

/// One group's log on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShadowLog {
    /// The latest hard state.
    pub hard_state: HardState,
    /// The position up to which it is compacted.
    pub compacted: LogPosition,
    /// The entries behind that.
    pub entries: VecDeque<Stamp>,
    /// The last installed snapshot, until a compaction ends it.
    pub installed: Option<LogPosition>,
    /// The highest replica that is gone for good.
    pub removed: Option<ReplicaId>,
}

impl ShadowLog {
    /// The last index.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        LogIndex(self.compacted.index.0 + self.entries.len() as u64)
    }

    /// The stamp at an index that is held.
    #[must_use]
    pub fn stamp_at(&self, index: LogIndex) -> Option<Stamp> {
        let at = index.0.checked_sub(self.compacted.index.0 + 1)?;
        self.entries.get(at as usize).copied()
    }

    /// The term at an index that is held, or the one that compaction remembers.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.compacted.index {
            return Some(self.compacted.term);
        }
        self.stamp_at(index).map(|stamp| stamp.term)
    }

    /// Takes in a record. An entry replaces what is at its index and behind it.
    pub fn take(&mut self, record: &ShadowRecord) {
        match record {
            ShadowRecord::Entry(index, stamp) => {
                let at = index.0.saturating_sub(self.compacted.index.0 + 1) as usize;
                self.entries.truncate(at);
                self.entries.push_back(*stamp);
            }
            ShadowRecord::HardState(state) => self.hard_state = *state,
            ShadowRecord::Compact(up_to) => self.compact(*up_to),
            ShadowRecord::Install(last) => {
                self.entries.clear();
                self.compacted = *last;
                self.installed = Some(*last);
            }
            ShadowRecord::Remove(replica) => {
                *self = Self {
                    removed: self.removed.max(Some(*replica)),
                    ..Self::default()
                };
            }
        }
    }

    fn compact(&mut self, up_to: LogPosition) {
        self.installed.take_if(|last| last.index <= up_to.index);
        if up_to.index <= self.compacted.index {
            return;
        }
        if self.term_at(up_to.index) == Some(up_to.term) {
            let gone = up_to.index.0 - self.compacted.index.0;
            self.entries.drain(..gone as usize);
        } else {
            self.entries.clear();
        }
        self.compacted = up_to;
    }

    /// Where runs of one term start, as recovery tells it.
    fn terms(&self) -> Vec<(LogIndex, Term)> {
        let mut terms: Vec<(LogIndex, Term)> = Vec::new();
        let first = self.compacted.index.0 + 1;
        for (index, stamp) in (first..).zip(&self.entries) {
            if terms.last().is_none_or(|last| last.1 != stamp.term) {
                terms.push((LogIndex(index), stamp.term));
            }
        }
        terms
    }

    fn matches(&self, recovered: &RecoveredGroup) -> bool {
        recovered.hard_state == self.hard_state
            && recovered.compacted == self.compacted
            && recovered.last == self.last()
            && recovered.terms == self.terms()
            && recovered.installed.as_ref().map(|found| found.last) == self.installed
            && recovered.removed == self.removed
    }
}

/// A record as the shadow keeps it.
#[derive(Clone, Copy, Debug)]
pub enum ShadowRecord {
    /// An entry at an index.
    Entry(LogIndex, Stamp),
    /// A hard state.
    HardState(HardState),
    /// A compaction.
    Compact(LogPosition),
    /// A snapshot took the log's place.
    Install(LogPosition),
    /// A replica is gone for good.
    Remove(ReplicaId),
}

impl From<&Record> for ShadowRecord {
    fn from(record: &Record) -> Self {
        match record {
            Record::Entry(entry) => Self::Entry(entry.index(), Stamp::of(entry)),
            Record::HardState(_, state) => Self::HardState(*state),
            Record::Compact(_, up_to) => Self::Compact(*up_to),
            Record::SnapshotInstall(_, last, _) => Self::Install(*last),
            Record::Tombstone(_, replica) => Self::Remove(*replica),
        }
    }
}

/// A node's whole log.
#[derive(Clone, Debug, Default)]
pub struct ShadowNode {
    /// What a sync has finished for.
    durable: BTreeMap<GroupId, ShadowLog>,
    /// All that was laid, durable or not.
    laid: BTreeMap<GroupId, ShadowLog>,
    /// The batches in `laid` that are not in `durable`, oldest first.
    pending: VecDeque<Vec<(GroupId, ShadowRecord)>>,
}

impl ShadowNode {
    /// A group's durable log.
    #[must_use]
    pub fn durable(&self, group: GroupId) -> Option<&ShadowLog> {
        self.durable.get(&group)
    }

    /// A group's log with what is not durable yet.
    #[must_use]
    pub fn laid(&self, group: GroupId) -> Option<&ShadowLog> {
        self.laid.get(&group)
    }

    /// Takes in a record of the batch that is being laid.
    pub fn lay(&mut self, group: GroupId, record: ShadowRecord) {
        self.laid.entry(group).or_default().take(&record);
        if self.pending.is_empty() {
            self.pending.push_back(Vec::new());
        }
        if let Some(batch) = self.pending.back_mut() {
            batch.push((group, record));
        }
    }

    /// Ends the batch that is being laid.
    pub fn end_batch(&mut self) {
        self.pending.push_back(Vec::new());
    }

    /// A sync has finished: all that was laid is durable.
    pub fn sync(&mut self) {
        for batch in self.pending.drain(..) {
            for (group, record) in batch {
                self.durable.entry(group).or_default().take(&record);
            }
        }
    }

    /// After a crash: what recovery found must be what was durable with the first few of the batches
    /// that were not, each whole. Returns how many those are, and takes the state over. Groups that are
    /// quarantined for damage are left out, and forgotten.
    ///
    /// # Errors
    /// The first group that has no such state, in words.
    pub fn recover(&mut self, recovered: &Recovered) -> Result<usize, String> {
        let is_lost = |group: &GroupId| recovered.is_quarantined(*group);
        let mut state = std::mem::take(&mut self.durable);
        state.retain(|group, _| !is_lost(group));
        let mut first_difference = None;
        let mut batches = std::mem::take(&mut self.pending).into_iter();
        let mut kept = 0;
        loop {
            match difference(&state, recovered) {
                None => break,
                Some(difference) => first_difference.get_or_insert(difference),
            };
            let Some(batch) = batches.next() else {
                return Err(first_difference.unwrap_or_default());
            };
            kept += usize::from(!batch.is_empty());
            for (group, record) in batch.into_iter().filter(|(group, _)| !is_lost(group)) {
                state.entry(group).or_default().take(&record);
            }
        }
        self.laid = state.clone();
        self.durable = state;
        Ok(kept)
    }
}

/// In what a recovered log is another than the expected one.
fn difference(state: &BTreeMap<GroupId, ShadowLog>, recovered: &Recovered) -> Option<String> {
    let (nothing, empty) = (RecoveredGroup::default(), ShadowLog::default());
    let strays = recovered.groups.keys();
    let strays = strays.filter(|g| !state.contains_key(g) && !recovered.is_quarantined(**g));
    for group in state.keys().chain(strays) {
        let expected = state.get(group).unwrap_or(&empty);
        let found = recovered.groups.get(group).unwrap_or(&nothing);
        if !expected.matches(found) {
            let (last, terms) = (expected.last(), expected.terms());
            let (state, compacted) = (expected.hard_state, expected.compacted);
            return Some(format!(
                "group {group}: durable was {state:?}, compacted {compacted:?}, last {last}, terms {terms:?}; \
                 recovered is {found:?}"
            ));
        }
    }
    None
}
