//! What was written and what was acknowledged, and whether a log holds it.
//!
//! Every writer has groups of its own and keeps a [`Book`]. The log keeps the order in which a writer submits,
//! so after a crash its groups must be, all of them together, as they were after one of its batches: the last
//! acknowledged one or a later one. Only what compacts may have gone ahead. They are compared byte for byte, so anything that comes back of a
//! recycled segment, and anything that nobody wrote, is a difference as well as anything lost.

use crate::failure::Failure;
use bytes::Bytes;
use pontoon_types::{Entry, GroupId, HardState, LogIndex, LogPosition, Term};
use pontoon_wal::{Record, Recovered, RecoveredGroup, SealedBatch, Wal};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

/// A group as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) hard_state: HardState,
    pub(crate) compacted: LogPosition,
    pub(crate) entries: BTreeMap<LogIndex, Entry>,
}

impl Group {
    pub(crate) fn last(&self) -> LogPosition {
        let last = self.entries.values().next_back();
        last.map_or(self.compacted, Entry::position)
    }

    pub(crate) fn term_at(&self, index: LogIndex) -> Term {
        let entry = self.entries.get(&index);
        entry.map_or(self.compacted.term, Entry::term)
    }

    fn apply(&mut self, record: &Record) {
        match record {
            Record::Entry(entry) => {
                self.entries.split_off(&entry.index());
                self.entries.insert(entry.index(), entry.clone());
            }
            Record::HardState(_, state) => self.hard_state = *state,
            Record::Compact(_, up_to) => {
                self.entries = self.entries.split_off(&up_to.index.next());
                self.compacted = *up_to;
            }
            Record::SnapshotInstall(..) | Record::Tombstone(..) => {
                unreachable!("the writers write neither")
            }
        }
    }
}

/// What one writer wrote.
pub(crate) struct Book {
    pub(crate) groups: RangeInclusive<u64>,
    /// As of the last acknowledged batch.
    acknowledged: BTreeMap<u64, Group>,
    /// As of the last submitted one.
    submitted: BTreeMap<u64, Group>,
    /// What was submitted since the last acknowledged one.
    under_way: VecDeque<(u64, Vec<Record>)>,
    next: u64,
    /// Records of batches that were acknowledged, since the book was begun.
    pub(crate) acknowledged_records: u64,
}

impl Book {
    fn new(groups: RangeInclusive<u64>) -> Self {
        Self {
            groups,
            acknowledged: BTreeMap::new(),
            submitted: BTreeMap::new(),
            under_way: VecDeque::new(),
            next: 0,
            acknowledged_records: 0,
        }
    }

    /// A group as it will be when everything that was submitted is durable.
    pub(crate) fn submitted(&mut self, group: u64) -> &mut Group {
        self.submitted.entry(group).or_default()
    }

    /// A group as everybody may rely on it.
    pub(crate) fn acknowledged(&mut self, group: u64) -> &Group {
        self.acknowledged.entry(group).or_default()
    }

    /// The last entry of a group that is durable and that nothing under way cuts. Only up to there may a
    /// compaction go, as it may overtake what waits.
    pub(crate) fn settled(&mut self, group: u64) -> LogPosition {
        let last = self.acknowledged(group).last();
        let submitted = self.submitted(group);
        if last.index > submitted.compacted.index && submitted.term_at(last.index) == last.term {
            last
        } else {
            submitted.compacted
        }
    }

    /// How many batches are not acknowledged.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Notes a batch on its way to the log and gives it its number. Its records are applied to
    /// [`Book::submitted`].
    pub(crate) fn submit(&mut self, batch: &SealedBatch) -> u64 {
        let sequence = self.next;
        self.next += 1;
        let records = batch.records().to_vec();
        apply(&mut self.submitted, &records);
        self.under_way.push_back((sequence, records));
        sequence
    }

    /// A batch was acknowledged; they are in the order in which they were submitted.
    pub(crate) fn acknowledge(&mut self, sequence: u64) -> Result<(), Failure> {
        match self.under_way.pop_front() {
            Some((next, records)) if next == sequence => {
                self.acknowledged_records += records.len() as u64;
                apply(&mut self.acknowledged, &records);
                Ok(())
            }
            other => {
                let next = other.map(|(next, _)| next);
                let how = format!("batch {sequence} was acknowledged, and the next is {next:?}");
                Err(Failure::Broken(how))
            }
        }
    }

    /// Finds the batch after which its groups are as they were found.
    fn check(&mut self, found: BTreeMap<u64, Group>, checked: &mut Checked) -> Result<(), Failure> {
        let mut state = self.acknowledged.clone();
        let mut under_way = std::mem::take(&mut self.under_way);
        let first = differs(&state, &under_way, &found);
        while differs(&state, &under_way, &found).is_some() {
            let Some((_, records)) = under_way.pop_front() else {
                let id = first.unwrap_or_default();
                let expected = self.acknowledged.get(&id);
                return Err(difference(id, expected, &found[&id], &self.groups));
            };
            apply(&mut state, &records);
            checked.unacknowledged_survivors += 1;
        }
        for group in found.values() {
            checked.entries += group.entries.len() as u64;
            checked.groups += 1;
        }
        self.acknowledged.clone_from(&found);
        self.submitted = found;
        Ok(())
    }
}

/// A group that is not as it should be after some batch, with others under way behind that.
///
/// Of those, what only compacts may have overtaken some that waited for a segment, so it may be there too.
fn differs(
    state: &BTreeMap<u64, Group>,
    under_way: &VecDeque<(u64, Vec<Record>)>,
    found: &BTreeMap<u64, Group>,
) -> Option<u64> {
    let only_compacts = |records: &&Vec<Record>| {
        let mut records = records.iter();
        records.all(|record| matches!(record, Record::Compact(..)))
    };
    let is_as = |id: u64, found: &Group| {
        let mut group = state.get(&id).cloned().unwrap_or_default();
        let overtaking = under_way.iter().map(|(_, records)| records);
        let overtaking = overtaking.filter(only_compacts).flatten();
        let mut overtaking = overtaking.filter(|record| record.group().0 == id);
        group == *found
            || overtaking.any(|record| {
                group.apply(record);
                group == *found
            })
    };
    let mut groups = found.iter();
    let different = groups.find(|(id, found)| !is_as(**id, found));
    different.map(|(id, _)| *id)
}

/// The books of all writers.
pub(crate) struct Ledger {
    pub(crate) books: Vec<Book>,
}

/// What a check has compared.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Checked {
    /// Groups whose hard state, compaction and end were compared.
    pub(crate) groups: u64,
    /// Entries that were read back and compared.
    pub(crate) entries: u64,
    /// Batches that survived without having been acknowledged.
    pub(crate) unacknowledged_survivors: u64,
}

impl Ledger {
    /// Of so many writers with so many groups each.
    pub(crate) fn new(writers: u64, groups: u64) -> Self {
        let range = |writer| writer * groups + 1..=(writer + 1) * groups;
        Self {
            books: (0..writers)
                .map(|writer| Book::new(range(writer)))
                .collect(),
        }
    }

    pub(crate) fn acknowledged_records(&self) -> u64 {
        let records = self.books.iter().map(|book| book.acknowledged_records);
        records.sum()
    }

    /// Whether a log that was opened holds what it must, and nothing else. From then on that is what counts.
    pub(crate) fn check(&mut self, wal: &Wal, recovered: &Recovered) -> Result<Checked, Failure> {
        let report = &recovered.report;
        if !report.damage.is_empty() || !recovered.damaged.is_empty() {
            let how = format!("the log believes that it is damaged: {report:?}");
            return Err(Failure::Broken(how));
        }
        let all: u64 = self
            .books
            .iter()
            .map(|book| *book.groups.end())
            .max()
            .unwrap_or(0);
        if let Some(alien) = recovered
            .groups
            .keys()
            .find(|id| !(1..=all).contains(&id.0))
        {
            return Err(Failure::Broken(format!("nobody wrote to group {alien}")));
        }
        let mut checked = Checked::default();
        for book in &mut self.books {
            let mut found = BTreeMap::new();
            for id in book.groups.clone() {
                let group = match recovered.groups.get(&GroupId(id)) {
                    Some(group) => read(wal, GroupId(id), group)?,
                    None => Group::default(),
                };
                found.insert(id, group);
            }
            book.check(found, &mut checked)?;
        }
        Ok(checked)
    }
}

fn apply(groups: &mut BTreeMap<u64, Group>, records: &[Record]) {
    for record in records {
        groups.entry(record.group().0).or_default().apply(record);
    }
}

fn read(wal: &Wal, id: GroupId, recovered: &RecoveredGroup) -> Result<Group, Failure> {
    let first = recovered.compacted.index.next();
    let mut group = Group {
        hard_state: recovered.hard_state,
        compacted: recovered.compacted,
        entries: BTreeMap::new(),
    };
    if recovered.last >= first {
        let entries = wal
            .read(id, first, recovered.last, usize::MAX)
            .map_err(Failure::log("reading back what was recovered"))?;
        for entry in entries {
            // It lies in the log's map, which must not outlive the mount.
            let bytes = Bytes::copy_from_slice(entry.as_bytes());
            let copy = Entry::decode(bytes);
            let copy = copy.map_err(|error| Failure::Broken(format!("group {id}: {error}")))?;
            group.entries.insert(copy.index(), copy);
        }
    }
    Ok(group)
}

/// Says what is lost and what is too much.
fn difference(
    id: u64,
    expected: Option<&Group>,
    found: &Group,
    groups: &RangeInclusive<u64>,
) -> Failure {
    let expected = expected.cloned().unwrap_or_default();
    let not_in = |one: &Group, other: &Group| {
        let missing =
            |(index, entry): &(&LogIndex, &Entry)| other.entries.get(index) != Some(*entry);
        one.entries.iter().filter(missing).count()
    };
    Failure::Broken(format!(
        "group {id} (of the writer of {groups:?}) is as after none of the batches since the last acknowledged one: \
         {} acknowledged entries are not there, {} others are; \
         acknowledged: {:?}, compacted {:?}, last {:?}; found: {:?}, compacted {:?}, last {:?}",
        not_in(&expected, found),
        not_in(found, &expected),
        expected.hard_state,
        expected.compacted,
        expected.last(),
        found.hard_state,
        found.compacted,
        found.last(),
    ))
}
