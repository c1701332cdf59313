//! Looking at the log of a stopped node, for `pontoon wal verify`, `pontoon wal stat` and `pontoon wal dump`.
//!
//! All take the lock, so that a running node is refused, and change nothing else.

mod record;

pub use record::{Content, LoggedRecord};

use crate::WalConfig;
use crate::recovery::{Scan, scan, scan_records};
use crate::space::segment_name;
use crate::{
    Damage, FsDirectory, LogIdentity, Lsn, MappedFile, RecordKind, RecoveryReport, WalError,
};
use pontoon_types::GroupId;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

/// What a log holds.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Whose log it is; `None` if no file says so.
    pub identity: Option<LogIdentity>,
    /// Its segments, oldest first.
    pub segments: Vec<SegmentReport>,
    /// Whole batches.
    pub batches: u64,
    /// Records in them, by kind.
    pub records: BTreeMap<RecordKind, u64>,
    /// Its groups, by id.
    pub groups: BTreeMap<GroupId, GroupReport>,
    /// Groups that have lost something durable, or may have.
    pub damaged_groups: BTreeSet<GroupId>,
    /// What was durable and cannot be read; the first is the place to look at.
    pub damage: Vec<Damage>,
    /// Segments that the log had and that are not there, oldest first. There may have been others before the last one,
    /// if that is among them.
    pub missing_segments: Vec<String>,
    /// Bytes of batches that were torn by a crash; opening the log cuts them.
    pub torn_bytes: u64,
    /// Bytes of batches, needed or not.
    pub bytes: u64,
    /// Bytes of the segments that hold something needed, and of the last one.
    pub live_bytes: u64,
    /// The highest position that anything says was durable.
    pub durable: Lsn,
    /// Where the log ends.
    pub end: Lsn,
    /// Whether the second place of the durable mark could be read.
    pub mark_found: bool,
}

impl Report {
    /// Whether everything that was durable can be read.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty() && self.damaged_groups.is_empty()
    }

    /// The damage in segments that are there.
    pub fn damage_within(&self) -> impl Iterator<Item = &Damage> {
        let missing = &self.missing_segments;
        let ends_early = missing.contains(&segment_name(self.durable.generation()));
        let damage = self.damage.iter();
        damage.filter(move |damage| {
            let is_end_of_missing = ends_early && damage.start == self.end;
            !is_end_of_missing && !missing.contains(&damage.file)
        })
    }
}

/// One segment of a [`Report`].
#[derive(Clone, Debug)]
pub struct SegmentReport {
    /// The file's name.
    pub file: String,
    /// Its generation.
    pub generation: u32,
    /// The length of the file.
    pub bytes: u64,
    /// Where its last whole batch ends.
    pub used_bytes: u64,
    /// Whether an entry in it is needed.
    pub needed: bool,
}

/// One group of a [`Report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupReport {
    /// Its first index that is held, or would be.
    pub first: pontoon_types::LogIndex,
    /// Its last index.
    pub last: pontoon_types::LogIndex,
    /// Its term.
    pub term: pontoon_types::Term,
    /// How many entries are held.
    pub entries: u64,
    /// The last entry of an installed snapshot whose payload is still kept.
    pub installed: Option<pontoon_types::LogIndex>,
    /// The highest of its replicas that is gone for good.
    pub removed: Option<pontoon_types::ReplicaId>,
}

/// Checks every byte that was durable and reports what was found, damage and all.
///
/// # Errors
/// If the directory holds no log, is in use, or was written by a newer version.
pub fn verify(directory: &Path) -> Result<Report, WalError> {
    let disk = FsDirectory::open_read_only(directory)?;
    report(
        directory,
        scan(&disk, None, WalConfig::default().recovery_threads)?,
    )
}

/// How much of what there is.
///
/// # Errors
/// As [`verify`].
pub fn stat(directory: &Path) -> Result<Report, WalError> {
    verify(directory)
}

/// Shows every record that a start of the node would believe, oldest first, and then says what [`verify`] does.
/// `None` if `visit` broke off before the end: what was not read cannot be judged.
///
/// # Errors
/// As [`verify`].
pub fn dump(
    directory: &Path,
    mut visit: impl FnMut(&LoggedRecord) -> ControlFlow<()>,
) -> Result<Option<Report>, WalError> {
    let disk = FsDirectory::open_read_only(directory)?;
    let mut flow = ControlFlow::Continue(());
    let scan = scan_records(&disk, None, 0, |seen| {
        // A kind from a newer version ends the scan with an error that names it.
        if let Some(record) = LoggedRecord::of(seen) {
            flow = visit(&record);
        }
        flow
    })?;
    if flow.is_break() {
        return Ok(None);
    }
    report(directory, scan).map(Some)
}

fn report(directory: &Path, scan: Scan<MappedFile>) -> Result<Report, WalError> {
    if scan.segments.is_empty() && !scan.mark_exists {
        return Err(WalError::NotALog {
            directory: directory.to_owned(),
        });
    }
    let missing_segments = missing_segments(&scan);
    let RecoveryReport {
        batches,
        records,
        bytes,
        torn_bytes,
        durable,
        end,
        mark_found,
        damage,
        ..
    } = scan.report;
    let mut report = Report {
        identity: scan.identity,
        batches,
        records,
        damage,
        missing_segments,
        torn_bytes,
        bytes,
        durable,
        end,
        mark_found,
        ..Report::default()
    };
    for segment in &scan.segments {
        let needed = scan.pins.holds(segment.generation);
        if needed || segment.generation == end.generation() {
            report.live_bytes += segment.bytes;
        }
        report.segments.push(SegmentReport {
            file: segment_name(segment.generation),
            generation: segment.generation,
            bytes: segment.bytes,
            used_bytes: u64::from(segment.end),
            needed,
        });
    }
    for (id, group) in &scan.groups {
        if group.damaged {
            report.damaged_groups.insert(*id);
        }
        let group = GroupReport {
            first: group.first(),
            last: group.last.index,
            term: group.hard_state.term,
            entries: group.len() as u64,
            installed: group.installed.as_ref().map(|snapshot| snapshot.last.index),
            removed: group.removed.map(|removal| removal.replica),
        };
        report.groups.insert(*id, group);
    }
    Ok(report)
}

/// Those that the log lists, and the one that was written to last.
fn missing_segments(scan: &Scan<MappedFile>) -> Vec<String> {
    let durable = scan.report.durable.generation();
    let is_there = |generation| {
        let mut segments = scan.segments.iter();
        segments.any(|segment| segment.generation == generation)
    };
    let mut missing: BTreeSet<u32> = scan.lost.iter().copied().collect();
    if durable > 0 && !is_there(durable) {
        missing.insert(durable);
    }
    missing.into_iter().map(segment_name).collect()
}
