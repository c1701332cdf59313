//! Reading entries back, from any thread, without the log's thread.

mod cold;

pub(crate) use cold::Cold;

use crate::Lsn;
use crate::error::WalError;
use crate::file::LogFile;
use crate::format::record::{RECORD_HEADER_BYTES, RecordHeader};
use crate::index::{GroupLog, Index};
use crate::quota::{OverQuota, Quota};
use crate::recovery::Damage;
use crate::scrub::{LogDamage, Scrubs};
use crate::space::{Segment, segment_name};
use crate::stats::{Counters, LogWaits, Pressure, WalStats};
use bytes::Bytes;
use parking_lot::RwLock;
use pontoon_types::{Entry, GroupId, LogIndex, mutant};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

/// Segments back from the newest that are read through their maps. Their pages are in memory with all
/// likelihood; older ones go through `pread`, so that a bad block is an error and not a signal.
const HOT_SEGMENTS: u32 = 2;

/// What the log's owner shares with its readers.
pub(crate) struct Shared<F> {
    pub(crate) index: Index,
    pub(crate) segments: RwLock<BTreeMap<u32, Arc<Segment<F>>>>,
    pub(crate) counters: Counters,
    pub(crate) no_room: AtomicBool,
    pub(crate) over_bound: AtomicBool,
    pub(crate) quota: Quota,
    /// Below this, what the index names has been written; entries are in the index a little earlier.
    pub(crate) written: AtomicU64,
    /// Below this, everything is durable.
    pub(crate) durable: AtomicU64,
    pub(crate) scrubs: Scrubs,
}

impl<F> Shared<F> {
    pub(crate) fn new(
        index: Index,
        segments: BTreeMap<u32, Arc<Segment<F>>>,
        quota_bytes: u64,
        known_damage: &[Damage],
    ) -> Self {
        Self {
            quota: Quota::new(quota_bytes, &index),
            index,
            segments: RwLock::new(segments),
            counters: Counters::default(),
            no_room: AtomicBool::new(false),
            over_bound: AtomicBool::new(false),
            written: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            scrubs: Scrubs::new(known_damage),
        }
    }

    /// Where an entry is, unless it is still being written. The index is locked for it.
    fn readable(&self, log: &GroupLog, index: LogIndex) -> Option<Lsn> {
        let written = Lsn(self.written.load(Acquire));
        log.position_of(index).filter(|at| *at < written)
    }

    pub(crate) fn pressure(&self) -> Pressure {
        if self.no_room.load(Relaxed) || self.over_bound.load(Relaxed) {
            Pressure::Full
        } else {
            Pressure::Ok
        }
    }

    pub(crate) fn stats(&self) -> WalStats {
        let counters = &self.counters;
        WalStats {
            syncs: counters.syncs.load(Relaxed),
            batches: counters.batches.load(Relaxed),
            records: counters.records.load(Relaxed),
            entries: counters.entries.load(Relaxed),
            bytes: counters.bytes.load(Relaxed),
            segments_live: counters.segments_live.load(Relaxed),
            segments_recycled: counters.segments_recycled.load(Relaxed),
            live_bytes: counters.live_bytes.load(Relaxed),
            groups: self.index.len() as u64,
            groups_over_quota: self.quota.groups_over() as u64,
            entries_rewritten: counters.rewritten.load(Relaxed),
            hangs: 0,
            hanging: None,
            scrub: self.scrubs.counters(),
        }
    }

    pub(crate) fn damage(&self) -> Vec<LogDamage> {
        let segments = self.segments.read();
        self.scrubs
            .found(|generation| segments.contains_key(&generation))
    }

    pub(crate) fn unreadable(&self) -> BTreeMap<GroupId, Vec<LogIndex>> {
        self.scrubs.unreadable(&self.index)
    }
}

/// Reads entries. Cheap to clone; entries may keep their segment from being recycled, so do not hold
/// on to them longer than it takes to use them.
pub struct LogReader<F> {
    shared: Arc<Shared<F>>,
}

impl<F> Clone for LogReader<F> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<F: LogFile> LogReader<F> {
    pub(crate) const fn new(shared: Arc<Shared<F>>) -> Self {
        Self { shared }
    }

    pub(crate) fn stats(&self) -> WalStats {
        self.shared.stats()
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared<F>> {
        &self.shared
    }

    pub(crate) fn waits(&self) -> LogWaits {
        let counters = &self.shared.counters;
        let batches = counters.announced.load(Relaxed);
        LogWaits {
            batches,
            waited: Duration::from_micros(counters.waited_us.load(Relaxed)),
            waiting: (counters.submitted.load(Relaxed)).saturating_sub(batches),
        }
    }

    pub(crate) fn count_submitted(&self) {
        self.shared.counters.submitted.fetch_add(1, Relaxed);
    }

    pub(crate) fn pressure(&self) -> Pressure {
        self.shared.pressure()
    }

    pub(crate) fn over_quota(&self) -> Vec<OverQuota> {
        self.shared.quota.over(&self.shared.index)
    }

    /// Reads a group's entries from `from` to `to`, both included: as many as fit in `max_bytes` of
    /// envelopes, but at least one. They may not be durable yet.
    ///
    /// # Errors
    /// [`WalError::Compacted`] or [`WalError::Unavailable`] if the log does not hold `from`, or it is still being written;
    /// [`WalError::Damaged`] if what is there is not the entry.
    pub fn read(
        &self,
        group: GroupId,
        from: LogIndex,
        to: LogIndex,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, WalError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut index = from;
        let mut cold = Cold::default();
        // Positions are fetched in runs, so that no lock is held over a read.
        while index <= to && bytes < max_bytes.max(1) {
            let positions = match self.positions(group, index, to) {
                Ok(positions) => positions,
                Err(error) if entries.is_empty() => return Err(error),
                // The log was cut or compacted meanwhile: what was read before holds.
                Err(_) => break,
            };
            for at in positions {
                let entry = match self.entry(group, index, at, &mut cold) {
                    Ok(entry) => entry,
                    Err(error) => {
                        self.note(group, index, at, &error);
                        return if entries.is_empty() {
                            Err(error)
                        } else {
                            Ok(entries)
                        };
                    }
                };
                bytes += entry.encoded_len();
                if bytes > max_bytes && !entries.is_empty() {
                    return Ok(entries);
                }
                entries.push(entry);
                index = index.next();
            }
        }
        Ok(entries)
    }

    /// Takes note of what is not where the index has it: the group must do without, and its segment is to be looked through.
    fn note(&self, group: GroupId, index: LogIndex, at: Lsn, error: &WalError) {
        if matches!(error, WalError::Compacted { .. }) {
            return;
        }
        if self.shared.scrubs.cannot_read(group, index, at) {
            tracing::error!(%group, %index, %error, "an entry of the log cannot be read");
            self.shared.scrubs.suspect(at.generation());
        }
    }

    fn positions(
        &self,
        group: GroupId,
        from: LogIndex,
        to: LogIndex,
    ) -> Result<Vec<Lsn>, WalError> {
        const RUN: u64 = 256;
        let groups = self.shared.index.lock();
        let Some(log) = groups.get(group) else {
            return Err(WalError::Unavailable {
                group,
                last: LogIndex::ZERO,
            });
        };
        if from < log.first() {
            let first = log.first();
            return Err(WalError::Compacted { group, first });
        }
        let last = to.0.min(from.0.saturating_add(RUN - 1));
        let positions: Vec<Lsn> = (from.0..=last)
            .map_while(|index| self.shared.readable(log, LogIndex(index)))
            .collect();
        if positions.is_empty() && from <= to {
            let last = log.last.index.min(LogIndex(from.0.saturating_sub(1)));
            return Err(WalError::Unavailable { group, last });
        }
        Ok(positions)
    }

    fn entry(
        &self,
        group: GroupId,
        index: LogIndex,
        mut at: Lsn,
        cold: &mut Cold<F>,
    ) -> Result<Entry, WalError> {
        let segment = loop {
            let segments = self.shared.segments.read();
            let newest = segments.keys().next_back().copied().unwrap_or_default();
            let Some(segment) = segments.get(&at.generation()) else {
                drop(segments);
                at = self.moved(group, index, at)?;
                continue;
            };
            let segment = Arc::clone(segment);
            if at.generation().saturating_add(HOT_SEGMENTS) > newest {
                break segment;
            }
            drop(segments);
            return cold.entry(group, index, at, segment);
        };
        let mut header = [0; RECORD_HEADER_BYTES];
        let offset = u64::from(at.offset());
        if segment.file.peek(offset, &mut header) {
            let header = RecordHeader::decode(&header);
            let payload_at = offset + RECORD_HEADER_BYTES as u64;
            if let Some(bytes) = segment.file.view(payload_at, header.length as usize) {
                return check_entry(bytes, group, index, at);
            }
        }
        cold.entry(group, index, at, segment)
    }
}

impl<F> LogReader<F> {
    /// Where an entry is now whose segment went between a look into the index and one for the segment: it was
    /// written again, or it is compacted.
    fn moved(&self, group: GroupId, index: LogIndex, from: Lsn) -> Result<Lsn, WalError> {
        let groups = self.shared.index.lock();
        let log = groups.get(group);
        let position = log.and_then(|log| self.shared.readable(log, index));
        position.filter(|at| *at != from).ok_or_else(|| {
            let first = index.next();
            WalError::Compacted { group, first }
        })
    }
}

/// The entry, if the bytes are the one that the index names. The checksum is checked here once more:
/// what is read back goes to peers and to the state machine.
fn check_entry(bytes: Bytes, group: GroupId, index: LogIndex, at: Lsn) -> Result<Entry, WalError> {
    let decoded = if mutant!(ReadsBackUnverified) {
        Entry::decode_unverified(bytes)
    } else {
        Entry::decode(bytes)
    };
    match decoded {
        Ok(entry) if entry.group() == group && entry.index() == index => Ok(entry),
        _ => Err(damaged(group, at)),
    }
}

#[cold]
fn damaged(group: GroupId, at: Lsn) -> WalError {
    WalError::Damaged {
        file: segment_name(at.generation()),
        offset: at.offset(),
        groups: vec![group],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchBuilder, Log, LogIdentity, MemoryDisk, WalConfig};
    use pontoon_types::{ClusterId, EntryKind, LogPosition, NodeId, Term};

    const SEGMENT: u64 = 16 << 10;

    fn entry(group: u64, index: u64) -> Entry {
        let (group, index) = (GroupId(group), LogIndex(index));
        Entry::encode(group, Term(1), index, EntryKind::Command, &[7; 2_000])
    }

    /// One that soon holds too much.
    fn small_log(disk: &MemoryDisk) -> Log<MemoryDisk> {
        let config = WalConfig {
            segment_bytes: SEGMENT,
            max_bytes: 16 * SEGMENT,
            recovery_bytes: 2 * SEGMENT,
            ..WalConfig::default()
        };
        let identity = LogIdentity {
            cluster: ClusterId(1),
            node: NodeId(1),
        };
        Log::open(disk.clone(), config, identity).unwrap().0
    }

    #[test]
    fn what_is_being_written_is_not_there_yet_and_what_is_written_again_where_it_was() {
        const KEPT: u64 = 2;
        let disk = MemoryDisk::new();
        let mut log = small_log(&disk);
        let mut batch = BatchBuilder::new();
        for index in 1..=KEPT {
            batch.append(&entry(1, index));
        }
        log.append(&batch.seal()).unwrap();
        // Between what is said in the index and what is in the file.
        let (reader, looks) = (log.reader(), Arc::new(AtomicU64::new(0)));
        let looked = Arc::clone(&looks);
        disk.before_writes(move || {
            let kept = reader.read(GroupId(1), LogIndex(1), LogIndex(KEPT), usize::MAX);
            assert_eq!(kept.unwrap().len() as u64, KEPT);
            let groups = reader.shared.index.lock();
            let last = groups.get(GroupId(2)).map(|group| group.last.index);
            drop(groups);
            let Some(last) = last else { return };
            match reader.read(GroupId(2), last, last, usize::MAX) {
                Ok(entries) => assert_eq!(entries.len(), 1),
                Err(WalError::Unavailable { last: there, .. }) => {
                    looked.fetch_add(1, Relaxed);
                    assert!(there < last);
                }
                Err(error) => panic!("{error}"),
            }
        });
        for index in 1..40 {
            batch.append(&entry(2, index));
            if index > 1 {
                batch.compact(GroupId(2), entry(2, index - 1).position());
            }
            // Something stays in each segment, so that there is too much.
            batch.append(&entry(10 + index, 1));
            log.append(&batch.seal()).unwrap();
            log.sync().unwrap();
            log.maintain().unwrap();
        }
        // The hook keeps the disk that keeps it.
        disk.before_writes(|| ());
        assert!(looks.load(Relaxed) >= 39);
        let positions = log
            .reader()
            .positions(GroupId(1), LogIndex(1), LogIndex(KEPT));
        let is_moved = |at: &Lsn| at.generation() > 2;
        assert!(
            positions.unwrap().iter().all(is_moved),
            "they were not written again"
        );
    }

    #[test]
    fn an_entry_that_was_written_again_is_found_from_where_it_was() {
        let mut log = small_log(&MemoryDisk::new());
        let reader = log.reader();
        let mut batch = BatchBuilder::new();
        batch.append(&entry(1, 1));
        log.append(&batch.seal()).unwrap();
        let first = LogIndex(1);
        let old = reader.positions(GroupId(1), first, first).unwrap()[0];
        for index in 1..40 {
            batch.append(&entry(2, index));
            let up_to = entry(2, index).position();
            batch.compact(GroupId(2), up_to);
            // Something stays in each segment, so that there is too much.
            batch.append(&entry(10 + index, 1));
            log.append(&batch.seal()).unwrap();
            log.sync().unwrap();
            log.maintain().unwrap();
        }
        let segments = reader.shared.segments.read();
        assert!(!segments.contains_key(&old.generation()), "it stays");
        drop(segments);
        let read = |at| reader.entry(GroupId(1), first, at, &mut Cold::default());
        assert_eq!(read(old).unwrap(), entry(1, 1));
        let mut batch = BatchBuilder::new();
        batch.compact(
            GroupId(1),
            LogPosition {
                term: Term(1),
                index: first,
            },
        );
        log.append(&batch.seal()).unwrap();
        assert!(matches!(read(old), Err(WalError::Compacted { .. })));
    }
}
