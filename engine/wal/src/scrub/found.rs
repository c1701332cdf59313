//! What was found out about a log's damage, by whoever reads it.

use crate::Lsn;
use crate::index::Index;
use crate::recovery::Damage;
use crate::space::segment_name;
use parking_lot::Mutex;
use pontoon_types::{GroupId, LogIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// A place in a running log that does not hold what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDamage {
    /// The file.
    pub file: String,
    /// Where it starts.
    pub start: Lsn,
    /// The next position that can be read again.
    pub end: Lsn,
    /// The groups that have a needed entry or their newest record there, by id; if it is one entry, its group, needed or not.
    pub groups: Vec<GroupId>,
}

/// What scrubbing has counted since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogScrubCounters {
    /// How often everything was read.
    pub passes: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Damaged places that were found.
    pub damaged: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) passes: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) damaged: AtomicU64,
}

/// What the log's owner, its readers and its scrubber know of damage.
#[derive(Default)]
pub(crate) struct Scrubs {
    pub(crate) counters: Counters,
    /// What opening the log has found and reported. It stays, so that it is known for good.
    old: Vec<(Lsn, Lsn)>,
    found: Mutex<BTreeMap<Lsn, LogDamage>>,
    /// Segments in which somebody has met damage.
    suspects: Mutex<BTreeSet<u32>>,
    /// Entries that could not be read where the index has them.
    unreadable: Mutex<BTreeSet<(GroupId, LogIndex, Lsn)>>,
}

impl Scrubs {
    pub(crate) fn new(known: &[Damage]) -> Self {
        Self {
            old: known.iter().map(|hole| (hole.start, hole.end)).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn counters(&self) -> LogScrubCounters {
        let Counters {
            passes,
            bytes,
            damaged,
        } = &self.counters;
        LogScrubCounters {
            passes: passes.load(Relaxed),
            bytes: bytes.load(Relaxed),
            damaged: damaged.load(Relaxed),
        }
    }

    /// Somebody has met damage in a segment.
    pub(crate) fn suspect(&self, segment: u32) {
        self.suspects.lock().insert(segment);
    }

    pub(super) fn pop_suspect(&self) -> Option<u32> {
        self.suspects.lock().pop_first()
    }

    /// Takes note of damage; `None` if it was known.
    pub(super) fn note(
        &self,
        index: &Index,
        start: Lsn,
        end: Lsn,
        group: Option<GroupId>,
    ) -> Option<LogDamage> {
        let mut old = self.old.iter();
        if old.any(|(from, to)| (*from..*to).contains(&start)) {
            return None;
        }
        let mut found = self.found.lock();
        if found.contains_key(&start) {
            return None;
        }
        let groups = group.map_or_else(|| groups_in(index, start, end), |group| vec![group]);
        let damage = LogDamage {
            file: segment_name(start.generation()),
            start,
            end,
            groups,
        };
        tracing::error!(
            file = damage.file,
            offset = start.offset(),
            bytes = end.0 - start.0,
            groups = ?damage.groups,
            "the log is damaged"
        );
        self.counters.damaged.fetch_add(1, Relaxed);
        found.insert(start, damage.clone());
        Some(damage)
    }

    /// The damage that was found in segments that are still there.
    pub(crate) fn found(&self, is_there: impl Fn(u32) -> bool) -> Vec<LogDamage> {
        let mut found = self.found.lock();
        found.retain(|start, _| is_there(start.generation()));
        found.values().cloned().collect()
    }

    /// An entry cannot be read where the index has it; returns whether that is new.
    pub(crate) fn cannot_read(&self, group: GroupId, index: LogIndex, at: Lsn) -> bool {
        self.unreadable.lock().insert((group, index, at))
    }

    /// The entries that cannot be read and that their groups have still in the log.
    pub(crate) fn unreadable(&self, index: &Index) -> BTreeMap<GroupId, Vec<LogIndex>> {
        let mut unreadable = self.unreadable.lock();
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        if unreadable.is_empty() {
            return all;
        }
        let groups = index.lock();
        unreadable.retain(|(group, index, at)| {
            let log = groups.get(*group);
            log.and_then(|log| log.position_of(*index)) == Some(*at)
        });
        for (group, index, _) in &*unreadable {
            all.entry(*group).or_default().push(*index);
        }
        all
    }
}

/// The groups that have a needed entry or their newest record in a place.
fn groups_in(index: &Index, start: Lsn, end: Lsn) -> Vec<GroupId> {
    let place = start..end;
    let mut groups = Vec::new();
    index.for_each(|id, group| {
        let mut entries = group.entries_in(start.generation());
        if place.contains(&group.link) || entries.any(|(_, at)| place.contains(&at)) {
            groups.push(id);
        }
    });
    groups.sort_unstable();
    groups
}
