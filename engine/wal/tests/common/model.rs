//! What the log should hold, as a plain map, and a run of changes drawn from a seed.

use super::{IDENTITY, config, hard_state, position};
use pontoon_types::{Entry, EntryKind, GroupId, HardState, LogIndex, LogPosition, ReplicaId, Term};
use pontoon_wal::{
    BatchBuilder, Directory, InstalledSnapshot, Log, LogReader, Recovered, SealedBatch, WalConfig,
};
use std::collections::BTreeMap;

pub const SEGMENT: u64 = 32 << 10;

/// So small that the log often writes again what it needs of old segments.
pub fn small_config() -> WalConfig {
    WalConfig {
        recovery_bytes: 3 * SEGMENT,
        ..config(SEGMENT)
    }
}

/// SplitMix64, so that a run is a function of its seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelGroup {
    pub hard_state: HardState,
    pub compacted: LogPosition,
    pub last: LogPosition,
    pub installed: Option<InstalledSnapshot>,
    pub removed: Option<ReplicaId>,
    pub entries: BTreeMap<u64, Entry>,
}

impl ModelGroup {
    fn terms(&self) -> Vec<(LogIndex, Term)> {
        let mut runs: Vec<(LogIndex, Term)> = Vec::new();
        for entry in self.entries.values() {
            if runs.last().is_none_or(|(_, term)| *term != entry.term()) {
                runs.push((entry.index(), entry.term()));
            }
        }
        runs
    }

    fn term_at(&self, index: u64) -> Term {
        match self.entries.get(&index) {
            Some(entry) => entry.term(),
            None => self.compacted.term,
        }
    }
}

/// The groups, as of some batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub groups: BTreeMap<u64, ModelGroup>,
}

impl Model {
    /// Draws a batch, applies it here and returns it.
    pub fn batch(&mut self, dice: &mut Dice, groups: u64) -> SealedBatch {
        let mut batch = BatchBuilder::new();
        for _ in 0..=dice.roll(4) {
            let id = 1 + dice.roll(groups);
            let group = self.groups.entry(id).or_default();
            match dice.roll(10) {
                0..=5 => {
                    for _ in 0..=dice.roll(3) {
                        append(&mut batch, id, group, dice);
                    }
                }
                6 => {
                    // A new leader cuts what was not committed, and writes at least one entry.
                    let cut = 1 + dice.roll(6);
                    let floor = group.compacted.index.0;
                    let keep = group.last.index.0.saturating_sub(cut).max(floor);
                    group.entries.retain(|index, _| *index <= keep);
                    group.last = LogPosition {
                        term: group.term_at(keep),
                        index: LogIndex(keep),
                    };
                    group.hard_state.term =
                        Term(group.hard_state.term.0.max(group.last.term.0) + 1);
                    append(&mut batch, id, group, dice);
                    batch.hard_state(GroupId(id), &group.hard_state);
                }
                7 => {
                    let term = group.hard_state.term.0 + dice.roll(2);
                    let vote = (dice.roll(2) == 0).then_some(dice.roll(9));
                    group.hard_state = hard_state(term, vote, group.last.index.0);
                    batch.hard_state(GroupId(id), &group.hard_state);
                }
                8 => {
                    let span = group.last.index.0 - group.compacted.index.0;
                    let index = group.compacted.index.0 + dice.roll(span + 1);
                    let up_to = LogPosition {
                        term: group.term_at(index),
                        index: LogIndex(index),
                    };
                    compact(&mut batch, id, group, up_to);
                }
                _ => match dice.roll(10) {
                    0 => {
                        // Beyond the log.
                        let ahead = group.last.index.0 + 1 + dice.roll(20);
                        let term = group.last.term.0.max(group.hard_state.term.0);
                        compact(&mut batch, id, group, position(term, ahead));
                        group.entries.clear();
                        group.last = group.compacted;
                    }
                    1..=3 => install(&mut batch, id, group, dice),
                    4 => {
                        let replica = ReplicaId(1 + dice.roll(20));
                        batch.tombstone(GroupId(id), replica);
                        *group = ModelGroup {
                            removed: group.removed.max(Some(replica)),
                            ..ModelGroup::default()
                        };
                    }
                    _ => append(&mut batch, id, group, dice),
                },
            }
        }
        batch.seal()
    }

    /// Whether a recovered log holds exactly this, of the groups for which `counts` says yes.
    pub fn matches<F: pontoon_wal::LogFile>(
        &self,
        recovered: &Recovered,
        reader: &LogReader<F>,
        counts: impl Fn(u64) -> bool,
    ) -> Result<(), String> {
        for (id, group) in &self.groups {
            if !counts(*id) {
                continue;
            }
            let Some(found) = recovered.groups.get(&GroupId(*id)) else {
                if *group == ModelGroup::default() {
                    continue;
                }
                return Err(format!("group {id} is missing"));
            };
            if (found.hard_state, found.compacted, found.last)
                != (group.hard_state, group.compacted, group.last.index)
                || found.terms != group.terms()
                || found.installed != group.installed
                || found.removed != group.removed
            {
                return Err(format!("group {id}: found {found:?}, not {group:?}"));
            }
            let (Some(first), Some(last)) =
                (group.entries.keys().next(), group.entries.keys().last())
            else {
                continue;
            };
            let read = reader
                .read(GroupId(*id), LogIndex(*first), LogIndex(*last), usize::MAX)
                .map_err(|error| error.to_string())?;
            if !read.iter().eq(group.entries.values()) {
                return Err(format!("group {id}: other entries"));
            }
        }
        for id in recovered.groups.keys() {
            if !self.groups.contains_key(&id.0) {
                return Err(format!("group {id} was never written"));
            }
        }
        Ok(())
    }
}

fn append(batch: &mut BatchBuilder, id: u64, group: &mut ModelGroup, dice: &mut Dice) {
    let index = group.last.index.next();
    let size = match dice.roll(12) {
        0 => 5_000 + dice.roll(4_000),
        1..=3 => 500 + dice.roll(1_000),
        _ => dice.roll(200),
    };
    let term = Term(group.hard_state.term.0.max(group.last.term.0).max(1));
    let payload: Vec<u8> = (0..size).map(|_| dice.roll(256) as u8).collect();
    let entry = Entry::encode(GroupId(id), term, index, EntryKind::Command, &payload);
    batch.append(&entry);
    group.last = entry.position();
    group.entries.insert(index.0, entry);
}

/// Within the log or beyond it: it is empty afterwards.
fn install(batch: &mut BatchBuilder, id: u64, group: &mut ModelGroup, dice: &mut Dice) {
    let span = group.last.index.0 - group.compacted.index.0;
    let index = group.compacted.index.0 + dice.roll(span + 20);
    let term = group.last.term.0.max(group.hard_state.term.0);
    let payload: Vec<u8> = (0..dice.roll(3_000))
        .map(|_| dice.roll(256) as u8)
        .collect();
    let snapshot = InstalledSnapshot {
        last: position(term, index),
        payload: payload.into(),
    };
    batch.install_snapshot(GroupId(id), snapshot.last, snapshot.payload.clone());
    group.entries.clear();
    group.compacted = snapshot.last;
    group.last = snapshot.last;
    group.installed = Some(snapshot);
}

fn compact(batch: &mut BatchBuilder, id: u64, group: &mut ModelGroup, up_to: LogPosition) {
    batch.compact(GroupId(id), up_to);
    group
        .installed
        .take_if(|installed| installed.last.index <= up_to.index);
    group.compacted = up_to;
    group.entries.retain(|index, _| *index > up_to.index.0);
}

/// A log with what it should hold after each of its batches, and how many are surely durable.
pub struct Run<D: Directory> {
    pub log: Log<D>,
    /// The state after each batch since `open`, the first being what was recovered.
    pub states: Vec<Model>,
    pub durable: usize,
}

impl<D: Directory> Run<D> {
    pub fn new(disk: D) -> Self {
        let (log, recovered) = Log::open(disk, small_config(), IDENTITY).unwrap();
        assert!(recovered.groups.is_empty());
        Self::from(log, Model::default())
    }

    pub fn from(log: Log<D>, model: Model) -> Self {
        Self {
            log,
            states: vec![model],
            durable: 0,
        }
    }

    /// Makes up to `batches` batches; ends early when the disk fails.
    pub fn go(&mut self, dice: &mut Dice, batches: usize, groups: u64) -> bool {
        for _ in 0..batches {
            let mut next = self.states.last().unwrap().clone();
            let batch = next.batch(dice, groups);
            // It may become durable from the moment in which the first byte is laid.
            self.states.push(next);
            if self.log.append(&batch).is_err() {
                return false;
            }
            if dice.roll(3) == 0 {
                if self.log.sync().is_err() {
                    return false;
                }
                self.durable = self.states.len() - 1;
            }
            if dice.roll(8) == 0 && self.log.maintain().is_err() {
                return false;
            }
            if dice.roll(16) == 0 && self.log.write_mark().is_err() {
                return false;
            }
        }
        true
    }

    /// Which of the states a recovered log is in; it must be one that may be there.
    pub fn find<F: pontoon_wal::LogFile>(
        &self,
        recovered: &Recovered,
        reader: &LogReader<F>,
    ) -> usize {
        let mut errors = Vec::new();
        for at in self.durable..self.states.len() {
            match self.states[at].matches(recovered, reader, |_| true) {
                Ok(()) => return at,
                Err(error) => errors.push(error),
            }
        }
        panic!(
            "none of the states {}..{} was recovered: {errors:#?}\n{:?}",
            self.durable,
            self.states.len(),
            recovered.report
        );
    }
}
