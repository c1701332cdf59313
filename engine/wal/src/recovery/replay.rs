//! The groups' state, rebuilt record by record.

use super::Damage;
use crate::Lsn;
use crate::format::record::{
    Extent, Malformed, RecordKind, RecordView, decode_extent, decode_hard_state, record_bytes,
};
use crate::format::state::{
    FLAG_DAMAGED, FLAG_INSTALLED, GroupState, InstalledSnapshot, Removal, decode_tombstone,
};
use crate::index::{GroupHasher, GroupLog, Pins, Place, Places, Sequenced};
use pontoon_types::{
    ENTRY_HEADER_BYTES, GroupId, HardState, LogIndex, LogPosition, ReplicaId, Term, mutant,
};
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;

/// What one record does to its group.
pub(super) struct Step {
    pub(super) group: GroupId,
    at: Lsn,
    previous: Lsn,
    says_damaged: bool,
    change: Change,
}

enum Change {
    /// Nothing but the record's header can be believed.
    Unreadable,
    Entry(LogPosition, u32),
    Rewrite(LogPosition, u32),
    HardState(HardState),
    Compact {
        extent: Extent,
        keeps_installed: bool,
    },
    Checkpoint(Box<GroupState>),
    Install(Box<InstalledSnapshot>),
    Tombstone(ReplicaId),
}

impl Step {
    /// Reads a record of a group that lies at `at`. Of a `rotten` entry only the header can be believed. Returns also whether
    /// the payload is what its kind asks for.
    pub(super) fn decode(
        kind: RecordKind,
        view: &RecordView<'_>,
        at: Lsn,
        rotten: bool,
    ) -> (Self, bool) {
        let change = if rotten {
            Ok(Change::Unreadable)
        } else {
            Change::decode(kind, view)
        };
        let is_sound = change.is_ok();
        let step = Self {
            group: view.header.group,
            at,
            previous: view.header.previous,
            says_damaged: view.header.flags & FLAG_DAMAGED != 0,
            change: change.unwrap_or(Change::Unreadable),
        };
        (step, is_sound)
    }
}

impl Change {
    fn decode(kind: RecordKind, view: &RecordView<'_>) -> Result<Self, Malformed> {
        let (header, payload) = (&view.header, view.payload);
        Ok(match kind {
            RecordKind::Entry | RecordKind::Rewrite => {
                let (owner, position) = entry_position(payload).ok_or(Malformed)?;
                let is_no_index = [LogIndex::ZERO, LogIndex(u64::MAX)].contains(&position.index);
                if owner != header.group || is_no_index {
                    return Err(Malformed);
                }
                let bytes = record_bytes(payload.len()) as u32;
                if kind == RecordKind::Rewrite && !mutant!(RewriteCuts) {
                    Self::Rewrite(position, bytes)
                } else {
                    Self::Entry(position, bytes)
                }
            }
            RecordKind::HardState => Self::HardState(decode_hard_state(payload)?),
            RecordKind::Compact => Self::Compact {
                extent: decode_extent(payload)?,
                keeps_installed: header.flags & FLAG_INSTALLED != 0,
            },
            RecordKind::Checkpoint => {
                Self::Checkpoint(Box::new(GroupState::decode(header.flags, payload)?))
            }
            RecordKind::SnapshotInstall => {
                Self::Install(Box::new(InstalledSnapshot::decode(payload)?))
            }
            RecordKind::Tombstone => Self::Tombstone(decode_tombstone(payload)?),
            RecordKind::Segments => return Err(Malformed), // It is of no group.
        })
    }
}

/// Groups, as of the records seen so far.
pub(super) struct Replay {
    /// Ids that are so far apart are looked up as if they were neighbours.
    stride: u64,
    places: Places,
    groups: Vec<(GroupId, ReplayedGroup)>,
}

/// So many groups are brought into the cache at once.
const TOUCHED: usize = 32;

impl Replay {
    /// Of every so-many-th group: the same one of each stride.
    pub(super) fn of_every(stride: u64) -> Self {
        Self {
            stride,
            places: Places::default(),
            groups: Vec::new(),
        }
    }

    /// Takes in steps in order. With many groups nearly every one waits for memory, several times over; so what a few steps
    /// will need is looked at first, in loops short enough for the processor to wait for all of it at once.
    pub(super) fn take_all(&mut self, steps: &mut Vec<Step>) {
        let mut places = Vec::with_capacity(TOUCHED);
        let mut drain = steps.drain(..);
        while !drain.as_slice().is_empty() {
            let few = drain.as_slice().iter().take(TOUCHED);
            places.clear();
            places.extend(few.map(|step| self.locate(step)));
            let mut touched = 0;
            for place in &places {
                touched ^= self.at(*place).link.0;
            }
            for place in &places {
                touched ^= self.at(*place).tail();
            }
            std::hint::black_box(touched);
            for (place, step) in places.iter().zip(drain.by_ref()) {
                self.at(*place).take(step);
            }
        }
    }

    pub(super) fn take(&mut self, step: Step) {
        let place = self.locate(&step);
        self.at(place).take(step);
    }

    fn at(&mut self, place: Place) -> &mut ReplayedGroup {
        &mut self.groups[place.number()].1
    }

    fn locate(&mut self, step: &Step) -> Place {
        let near = GroupId(step.group.0 / self.stride);
        self.places.get(near).unwrap_or_else(|| {
            self.groups.push((step.group, ReplayedGroup::default()));
            self.places.add(near)
        })
    }

    /// What the log's index starts from, with every group marked that is not proven whole.
    pub(super) fn finish(self, damage: &[Damage]) -> (Groups, Pins) {
        let mut pins = Pins::default();
        let mut groups = Groups::default();
        for (id, group) in self.groups {
            let is_hit = group.damaged_at > group.since()
                || damage.iter().any(|hole| match hole.group {
                    Some(hit) => hit == id && hole.start > group.since(),
                    None => group.seen < hole.end || group.is_cut_off_by(hole),
                });
            let mut group = group.finish(&mut pins);
            group.damaged |= is_hit;
            groups.insert(id, group);
        }
        (groups, pins)
    }
}

/// The groups of a log.
pub(crate) type Groups = HashMap<GroupId, GroupLog, BuildHasherDefault<GroupHasher>>;

/// A group while its records are read.
///
/// Segments in which nothing was needed any more are gone, and with them entries that a later record cuts
/// or compacts. So what is seen on the way may have holes, and may hold entries of a history whose
/// cut is gone. Both are settled by the last record: a segment went only after what made it
/// unneeded was durable. A hole that is left at the end is a loss.
#[derive(Default)]
struct ReplayedGroup {
    hard_state: HardState,
    compacted: LogPosition,
    /// Where the log ends, by the last record that says so.
    last: LogPosition,
    link: Lsn,
    /// The group's newest record of any kind.
    seen: Lsn,
    /// Records that a checkpoint names as the group's last before it, and that were not met: they
    /// were in segments that went, or are missing.
    unmet: Vec<Lsn>,
    /// The newest record by which it was known that the group has lost something.
    damaged_at: Lsn,
    installed: Option<InstalledSnapshot>,
    removed: Option<Removal>,
    /// Stretches without holes, ascending and not adjacent.
    parts: Vec<Part>,
}

fn contains(hole: &Damage, at: Lsn) -> bool {
    hole.group.is_none() && hole.start <= at && at < hole.end
}

struct Part {
    first: u64,
    entries: VecDeque<Found>,
}

/// An entry: what of it the index needs.
#[derive(Clone, Copy)]
struct Found {
    term: Term,
    at: Lsn,
    bytes: u32,
}

impl Part {
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }
}

impl ReplayedGroup {
    fn take(&mut self, step: Step) {
        let at = step.at;
        if step.says_damaged {
            self.damaged_at = at;
        }
        self.seen = at;
        if let Change::Checkpoint(state) = step.change {
            self.checkpoint_after(step.previous);
            return self.checkpoint(*state);
        }
        if step.previous != self.link {
            // Segments start with a checkpoint, so nothing but a loss can break the chain here.
            self.damaged_at = at;
        }
        self.link = at;
        let found = |position: LogPosition, bytes| Found {
            term: position.term,
            at,
            bytes,
        };
        match step.change {
            Change::Unreadable | Change::Checkpoint(_) => {}
            Change::Entry(position, bytes) => self.entry(position, found(position, bytes)),
            Change::Rewrite(position, bytes) => {
                self.rewrite(position.index.0, found(position, bytes));
            }
            Change::HardState(state) => self.hard_state = state,
            Change::Compact {
                extent,
                keeps_installed,
            } => {
                self.extent(&extent);
                if !keeps_installed {
                    self.installed = None;
                }
            }
            Change::Install(snapshot) => self.install(*snapshot),
            Change::Tombstone(replica) => self.remove(replica, at),
        }
    }

    /// Where the present replica's life starts. What was lost before that is no loss.
    fn since(&self) -> Lsn {
        self.removed.map_or(Lsn::ZERO, |removal| removal.at)
    }

    /// Where its last entry is.
    fn tail(&self) -> u64 {
        let last = self.parts.last().and_then(|part| part.entries.back());
        last.map_or(0, |entry| entry.at.0)
    }

    /// Goes on behind a checkpoint whose group had its last record at `previous`.
    fn checkpoint_after(&mut self, previous: Lsn) {
        if previous != self.link {
            self.unmet.push(previous);
            self.link = previous;
        }
    }

    /// Whether a record of the group was in `hole`.
    fn is_cut_off_by(&self, hole: &Damage) -> bool {
        let mut unmet = self.unmet.iter().filter(|at| **at > self.since());
        unmet.any(|at| contains(hole, *at))
    }

    fn checkpoint(&mut self, state: GroupState) {
        self.hard_state = state.hard_state;
        self.removed = state.removed;
        self.installed = state.installed;
        self.extent(&state.extent);
    }

    fn install(&mut self, snapshot: InstalledSnapshot) {
        self.parts.clear();
        self.compacted = snapshot.last;
        self.last = snapshot.last;
        self.installed = Some(snapshot);
    }

    fn remove(&mut self, replica: ReplicaId, at: Lsn) {
        *self = Self {
            link: self.link,
            seen: self.seen,
            removed: Some(Removal::of(self.removed, replica, at)),
            ..Self::default()
        };
    }

    fn entry(&mut self, position: LogPosition, entry: Found) {
        let index = position.index.0;
        self.cut_from(index);
        match self.parts.last_mut() {
            Some(part) if part.end() == index => part.entries.push_back(entry),
            _ => self.parts.push(Part {
                first: index,
                entries: VecDeque::from([entry]),
            }),
        }
        self.last = position;
    }

    /// Takes in the copy of an entry that was the one at its index when the copy was made. What is known at
    /// that index is the same one, or one that it had replaced; nothing else changes.
    fn rewrite(&mut self, index: u64, entry: Found) {
        let next = self.parts.partition_point(|part| part.first <= index);
        let at = match next.checked_sub(1) {
            Some(at) if index < self.parts[at].end() => {
                let offset = index - self.parts[at].first;
                self.parts[at].entries[offset as usize] = entry;
                return;
            }
            Some(at) if index == self.parts[at].end() => {
                self.parts[at].entries.push_back(entry);
                at
            }
            _ => {
                let entries = VecDeque::from([entry]);
                let first = index;
                self.parts.insert(next, Part { first, entries });
                next
            }
        };
        if let Some(next) = self.parts.get(at + 1)
            && next.first == index + 1
        {
            let next = self.parts.remove(at + 1);
            self.parts[at].entries.extend(next.entries);
        }
    }

    fn extent(&mut self, extent: &Extent) {
        self.compacted = extent.compacted;
        self.forget_to(extent.compacted.index.0);
        self.cut_from(extent.last.index.0 + 1);
        self.last = extent.last;
    }

    fn cut_from(&mut self, index: u64) {
        while let Some(part) = self.parts.last_mut()
            && part.end() > index
        {
            if part.first >= index {
                self.parts.pop();
            } else {
                part.entries.truncate((index - part.first) as usize);
            }
        }
    }

    fn forget_to(&mut self, index: u64) {
        let whole = self.parts.partition_point(|part| part.end() <= index + 1);
        self.parts.drain(..whole);
        if let Some(part) = self.parts.first_mut()
            && part.first <= index
        {
            part.entries.drain(..(index + 1 - part.first) as usize);
            part.first = index + 1;
        }
    }

    /// The stretch that reaches the end; a group that has another before it has lost what is between.
    fn finish(mut self, pins: &mut Pins) -> GroupLog {
        let last = self.parts.pop();
        let first = LogIndex(
            last.as_ref()
                .map_or(self.last.index.0 + 1, |part| part.first),
        );
        let mut group = GroupLog::starting_at(first, self.compacted);
        for (offset, entry) in last.into_iter().flat_map(|part| part.entries).enumerate() {
            let position = LogPosition {
                term: entry.term,
                index: LogIndex(first.0 + offset as u64),
            };
            let sequenced = group.append(position, entry.at, u64::from(entry.bytes), pins);
            assert_eq!(
                sequenced,
                Sequenced::Yes,
                "entries of one stretch follow each other"
            );
        }
        group.hard_state = self.hard_state;
        group.link = self.link;
        group.installed = self.installed.map(Box::new);
        group.removed = self.removed;
        group.damaged = !self.parts.is_empty()
            || first != self.compacted.index.next()
            || group.last != self.last;
        group
    }
}

/// Whose an entry is and where it belongs, from its envelope.
fn entry_position(envelope: &[u8]) -> Option<(GroupId, LogPosition)> {
    let header: &[u8; ENTRY_HEADER_BYTES] = envelope.first_chunk()?;
    let number = |at| crate::format::u64_at(header, at);
    let position = LogPosition {
        term: Term(number(16)),
        index: LogIndex(number(24)),
    };
    Some((GroupId(number(8)), position))
}
