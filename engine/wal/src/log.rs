//! The log itself: one owner, no threads, no clock, any [`Directory`].
//!
//! The owner appends sealed batches, syncs, and runs the chores that the log asks for. Production does
//! that on the log's thread ([`crate::Wal`]); the simulator does it step by step, with the same code.

mod append;
mod open;
mod rewrite;

use crate::error::{Operation, WalError};
use crate::file::{Directory, LogFile};
use crate::format::mark::{MARK_FILE_BYTES, Mark};
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::index::{Pins, Place};
use crate::reader::Shared;
use crate::scrub::LogDamage;
use crate::space::{Chore, Done, MARK_FILE, Recycled, Segment};
use crate::stats::{Pressure, WalStats};
use crate::{LogIdentity, LogReader, LogScrubber, Lsn, OverQuota, WalConfig};
use append::Scratch;
use pontoon_types::{GroupId, LogIndex, mutant};
use rewrite::Rewriting;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};

/// A log that one owner drives.
///
/// ```
/// use pontoon_types::{ClusterId, Entry, EntryKind, GroupId, LogIndex, NodeId, Term};
/// use pontoon_wal::{BatchBuilder, Log, LogIdentity, MemoryDisk, WalConfig};
///
/// let identity = LogIdentity { cluster: ClusterId(7), node: NodeId(1) };
/// let disk = MemoryDisk::new();
/// let config = WalConfig { segment_bytes: 64 << 10, ..WalConfig::default() };
/// let (mut log, _) = Log::open(disk.clone(), config.clone(), identity)?;
///
/// let mut batch = BatchBuilder::new();
/// batch.append(&Entry::encode(GroupId(2), Term(1), LogIndex(1), EntryKind::Command, b"payload"));
/// let end = log.append(&batch.seal())?;
/// assert_eq!(log.sync()?, end);
///
/// // The power fails; what was synced is there again.
/// let (log, recovered) = Log::open(disk.crash(1), config, identity)?;
/// assert_eq!(recovered.groups[&GroupId(2)].last, LogIndex(1));
/// let entries = log.reader().read(GroupId(2), LogIndex(1), LogIndex(1), 1024)?;
/// assert_eq!(entries[0].payload(), b"payload");
/// # Ok::<(), pontoon_wal::WalError>(())
/// ```
pub struct Log<D: Directory> {
    directory: Arc<D>,
    config: WalConfig,
    identity: LogIdentity,
    shared: Arc<Shared<D::File>>,
    active: Arc<Segment<D::File>>,
    /// Where the next batch goes in `active`.
    cursor: u32,
    /// Where batches are put together; kept for its memory.
    scratch: Scratch,
    /// Where the groups of a batch are; kept for its memory.
    places: Vec<Place>,
    /// The last batch and its header's checksum.
    last_batch: (Lsn, u32),
    durable: Lsn,
    /// Segments that were left since the last sync, and are not synced yet.
    left: Vec<Arc<Segment<D::File>>>,
    pins: Pins,
    spare: Spare<D::File>,
    next_generation: u32,
    recycled: Vec<Recycled<D::File>>,
    /// Segments that nothing needs, but that what is durable still lists as part of the log.
    unlisted: Vec<Arc<Segment<D::File>>>,
    /// When this is durable, they are not listed any more.
    unlisted_from: Option<Lsn>,
    /// Segments that recovery missed. They stay listed, so that it is known for good.
    lost: Vec<u32>,
    /// Segments that stay, because they are the witnesses of a loss or cannot be read.
    kept: BTreeSet<u32>,
    /// Damaged segments: what can still be read of them is to be written again, so that they can go.
    condemned: BTreeSet<u32>,
    /// Those that were condemned and are still there; their files are not used again.
    damaged: BTreeSet<u32>,
    rewriting: Rewriting,
    /// Segments that nothing needs; some may still be read.
    unneeded: VecDeque<Arc<Segment<D::File>>>,
    /// Retirements that are under way and will give a file to recycle.
    retiring: usize,
    mark_file: D::File,
    mark: Mark,
    poisoned: Option<WalError>,
}

/// The segment after the active one.
enum Spare<F> {
    /// Nobody is making it yet.
    Wanted,
    /// It is being made elsewhere.
    Coming,
    /// It could not be made; someone must ask again.
    Failed,
    Ready(Arc<Segment<F>>),
}

impl<D: Directory> Log<D> {
    /// Everything below is durable.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// Where the next batch goes, or would without a new segment.
    #[must_use]
    pub fn end(&self) -> Lsn {
        Lsn::new(self.active.generation, self.cursor)
    }

    /// A handle that reads entries from any thread.
    #[must_use]
    pub fn reader(&self) -> LogReader<D::File> {
        LogReader::new(Arc::clone(&self.shared))
    }

    /// Reads what is durable and checks it, from any thread.
    #[must_use]
    pub fn scrubber(&self) -> LogScrubber<D::File> {
        LogScrubber::new(Arc::clone(&self.shared))
    }

    /// The damage that was found since the log was opened, in segments that are still there.
    #[must_use]
    pub fn damage(&self) -> Vec<LogDamage> {
        self.shared.damage()
    }

    /// The entries that cannot be read and that their groups have still in the log. Their segments stay until the groups
    /// are compacted beyond them, or removed.
    #[must_use]
    pub fn unreadable(&self) -> BTreeMap<GroupId, Vec<LogIndex>> {
        self.shared.unreadable()
    }

    /// The groups that hold more of the log than their quota, and what of it.
    #[must_use]
    pub fn over_quota(&self) -> Vec<OverQuota> {
        self.shared.quota.over(&self.shared.index)
    }

    /// What was counted since the log was opened.
    #[must_use]
    pub fn stats(&self) -> WalStats {
        self.shared.stats()
    }

    /// Whether there is room for proposals.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        self.shared.pressure()
    }

    /// Makes everything that was appended durable and returns the position up to which that is.
    ///
    /// # Errors
    /// If a sync fails, and from then on always: what is on the disk is then not known.
    pub fn sync(&mut self) -> Result<Lsn, WalError> {
        self.check()?;
        let end = self.end();
        if !self.is_dirty() {
            return Ok(end);
        }
        for segment in std::mem::take(&mut self.left) {
            self.sync_segment(&segment)?;
        }
        let active = Arc::clone(&self.active);
        self.sync_segment(&active)?;
        self.durable = end;
        self.shared.durable.store(end.0, Release);
        if end.generation() > self.mark.durable.generation() {
            // Should the new segment be lost as a whole, nothing in the others says that there was more.
            self.write_mark()?;
        }
        if self.unlisted_from.is_some_and(|from| from <= end) {
            self.unneeded.extend(self.unlisted.drain(..));
        }
        self.take_back()?;
        self.leave_oversized()?;
        Ok(end)
    }

    fn sync_segment(&mut self, segment: &Segment<D::File>) -> Result<(), WalError> {
        let mut result = segment.file.sync();
        if mutant!(RepeatsFailedSync) {
            result = result.or_else(|_| segment.file.sync());
        }
        self.shared.counters.syncs.fetch_add(1, Relaxed);
        result.map_err(|error| {
            let name = crate::space::segment_name(segment.generation);
            self.poison(WalError::io(Operation::Sync, &name)(error))
        })
    }

    /// Whether something was laid that is not durable.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.durable != self.end()
    }

    /// Counts batches that were announced, and how long they waited.
    pub(crate) fn count_waits(&self, batches: u64, waited_us: u64) {
        let counters = &self.shared.counters;
        counters.announced.fetch_add(batches, Relaxed);
        counters.waited_us.fetch_add(waited_us, Relaxed);
    }

    /// Whether a segment was left that is not synced yet.
    pub(crate) fn has_left_a_segment(&self) -> bool {
        !self.left.is_empty()
    }

    /// Whether the second place of the durable mark is behind.
    #[must_use]
    pub fn mark_is_stale(&self) -> bool {
        self.mark.durable != self.durable
    }

    /// Writes the durable mark to its second place; to be called soon after the last sync before a pause.
    ///
    /// # Errors
    /// If it cannot be written and synced; the log is then poisoned.
    pub fn write_mark(&mut self) -> Result<(), WalError> {
        self.check()?;
        let mark = Mark {
            identity: self.identity,
            sequence: self.mark.sequence + 1,
            durable: self.durable,
        };
        let written = self
            .mark_file
            .write_at(mark.offset(), &mark.encode())
            .map_err(WalError::io(Operation::Write, MARK_FILE))
            .and_then(|()| {
                let synced = self.mark_file.sync();
                synced.map_err(WalError::io(Operation::Sync, MARK_FILE))
            });
        written.map_err(|error| self.poison(error))?;
        self.mark = mark;
        Ok(())
    }

    /// Does all chores at once, for an owner without other threads.
    ///
    /// # Errors
    /// [`WalError::NoSpace`] if there is no room for the next segment; the log then goes on with what
    /// it has.
    pub fn maintain(&mut self) -> Result<(), WalError> {
        self.retry_chores();
        self.lay_rewritten()?;
        while let Some(chore) = self.poll_chore() {
            self.handle_chore(chore.run())?;
        }
        Ok(())
    }

    /// Whether there is a chore to be done. One that failed for want of room is not counted: it may be tried
    /// again after a while.
    #[must_use]
    pub fn has_chores(&self) -> bool {
        let any = matches!(self.spare, Spare::Wanted)
            || self.has_unneeded()
            || self.wants_to_gather()
            || self.wants_to_rewrite()
            || self.wants_to_leave_damage() && self.has_spare();
        any && self.poisoned.is_none()
    }

    /// The next chore, if there is one; its result must come back by [`Log::handle_chore`].
    pub(crate) fn poll_chore(&mut self) -> Option<Chore<D>> {
        if self.poisoned.is_some() {
            return None;
        }
        for _ in 0..self.unneeded.len() {
            let segment = self.unneeded.pop_front()?;
            let (generation, bytes) = (segment.generation, segment.bytes);
            match Arc::try_unwrap(segment) {
                Ok(segment) => match Arc::try_unwrap(segment.file) {
                    Ok(file) => {
                        let is_sound = !self.damaged.remove(&generation);
                        let keep = is_sound
                            && bytes == self.config.segment_bytes
                            && self.recycled.len() + self.retiring < self.config.max_recycled;
                        self.retiring += usize::from(keep);
                        return Some(Chore::Retire {
                            directory: Arc::clone(&self.directory),
                            generation,
                            file,
                            keep,
                        });
                    }
                    // Entries that were read from it are still in someone's hands.
                    Err(file) => self
                        .unneeded
                        .push_back(Arc::new(Segment { file, ..segment })),
                },
                Err(segment) => self.unneeded.push_back(segment),
            }
        }
        if matches!(self.spare, Spare::Wanted) {
            let chore = self.prepare_chore(self.config.segment_bytes).ok()?;
            self.spare = Spare::Coming;
            return Some(chore);
        }
        self.gather_chore()
    }

    fn prepare_chore(&mut self, bytes: u64) -> Result<Chore<D>, WalError> {
        let generation = self.next_generation;
        self.next_generation = generation.checked_add(1).ok_or(WalError::OutOfSegments)?;
        let recycled = if bytes == self.config.segment_bytes {
            self.recycled.pop()
        } else {
            None
        };
        self.shared
            .counters
            .segments_recycled
            .store(self.recycled.len() as u64, Relaxed);
        let segments = self.shared.segments.read();
        let left = segments.range(..self.active.generation).next_back();
        Ok(Chore::Prepare {
            directory: Arc::clone(&self.directory),
            identity: self.identity,
            generation,
            bytes,
            recycled,
            left: left.map(|(_, segment)| Arc::clone(&segment.file)),
        })
    }

    /// Takes the result of a chore.
    ///
    /// # Errors
    /// What kept the chore from being done. The log goes on, and a failed preparation is asked for again
    /// after [`Log::retry_chores`]; but when the disk itself fails the log is poisoned, as nothing that waits for
    /// the segment would ever be told.
    pub(crate) fn handle_chore(&mut self, done: Done<D::File>) -> Result<(), WalError> {
        match done {
            Done::Prepared(Ok(segment)) => {
                let segment = Arc::new(segment);
                if segment.generation > self.active.generation {
                    self.spare = Spare::Ready(segment);
                } else {
                    // A larger one overtook it.
                    self.spare = Spare::Wanted;
                    self.unneeded.push_back(segment);
                }
                self.shared.no_room.store(false, Relaxed);
            }
            Done::Prepared(Err(error)) => {
                self.spare = Spare::Failed;
                if !error.may_pass() {
                    return Err(self.poison(error));
                }
                self.shared.no_room.store(true, Relaxed);
                self.update_pressure();
                return Err(error);
            }
            Done::Retired(Ok(recycled)) => {
                if let Some(file) = recycled {
                    self.retiring -= 1;
                    self.recycled.push(file);
                }
                self.shared
                    .counters
                    .segments_recycled
                    .store(self.recycled.len() as u64, Relaxed);
                self.retry_chores();
            }
            Done::Retired(Err(error)) => {
                self.retiring = self.retiring.saturating_sub(1);
                return Err(error);
            }
            Done::Gathered(gathered) => self.handle_gathered(gathered),
        }
        self.update_pressure();
        Ok(())
    }

    /// Lets a chore that failed be tried again.
    pub(crate) fn retry_chores(&mut self) {
        if matches!(self.spare, Spare::Failed) {
            self.spare = Spare::Wanted;
        }
    }

    /// Whether a spare is being made elsewhere.
    pub(crate) fn spare_is_coming(&self) -> bool {
        matches!(self.spare, Spare::Coming)
    }

    /// Whether there is no spare and none coming.
    #[must_use]
    pub fn spare_failed(&self) -> bool {
        matches!(self.spare, Spare::Failed)
    }

    /// Whether segments wait for their last reader.
    pub(crate) fn has_unneeded(&self) -> bool {
        !self.unneeded.is_empty()
    }

    /// Goes on in a segment of the usual size when nothing is needed in a larger one. By itself a segment is
    /// left when it is full; but one larger than the bound keeps the log full, so that nothing comes any
    /// more that could fill it.
    fn leave_oversized(&mut self) -> Result<(), WalError> {
        let active = &self.active;
        let usual = self.config.segment_bytes;
        if active.bytes <= usual || self.pins.holds(active.generation) {
            return Ok(());
        }
        // Behind a checkpoint that is larger than a usual segment the next one would be hardly smaller.
        let least = SEGMENT_HEADER_BYTES as u64 + self.checkpoint_bytes();
        if active.bytes <= 2 * least {
            return Ok(());
        }
        match self.roll(0) {
            Err(WalError::NoSpace { .. }) => Ok(()), // It is tried again after the next sync.
            rolled => rolled,
        }
    }

    /// Takes segments out of the table in which no group needs anything. Only after a sync: what made
    /// them unneeded, and the checkpoint of the active segment, are durable then. Their files go only when it
    /// is durable too that the log is without them; else they would be missed.
    fn take_back(&mut self) -> Result<(), WalError> {
        let active = self.active.generation;
        let pins = &self.pins;
        let mut segments = self.shared.segments.write();
        if segments
            .keys()
            .all(|held| *held == active || pins.holds(*held))
        {
            return Ok(());
        }
        let gone: Vec<u32> = segments
            .keys()
            .copied()
            .filter(|held| *held != active && !pins.holds(*held))
            .collect();
        for generation in gone {
            self.unlisted.extend(segments.remove(&generation));
        }
        drop(segments);
        self.update_pressure();
        self.lay_segments()?;
        if mutant!(SegmentsGoEarly) {
            self.unneeded.extend(self.unlisted.drain(..));
        }
        Ok(())
    }

    fn update_pressure(&self) {
        let segments = self.shared.segments.read();
        let live: u64 = segments.values().map(|segment| segment.bytes).sum();
        let counters = &self.shared.counters;
        counters.segments_live.store(segments.len() as u64, Relaxed);
        counters.live_bytes.store(live, Relaxed);
        let full = live + 2 * self.config.segment_bytes > self.config.max_bytes;
        self.shared.over_bound.store(full, Relaxed);
    }

    fn check(&self) -> Result<(), WalError> {
        match &self.poisoned {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// Stops the log for good and returns what everybody gets from now on.
    fn poison(&mut self, cause: WalError) -> WalError {
        let error = WalError::Poisoned {
            durable: self.durable,
            cause: Arc::new(cause),
        };
        tracing::error!(%error, "the log stops");
        self.poisoned.get_or_insert(error).clone()
    }
}

/// Opens the mark's file, or makes it.
fn open_mark_file<D: Directory>(directory: &D, exists: bool) -> Result<D::File, WalError> {
    let file = if exists {
        directory.open(MARK_FILE)
    } else {
        directory.create(MARK_FILE)
    };
    let file = file.map_err(WalError::io(Operation::Create, MARK_FILE))?;
    let bytes = file
        .bytes()
        .map_err(WalError::io(Operation::Read, MARK_FILE))?;
    if bytes < MARK_FILE_BYTES {
        file.allocate(MARK_FILE_BYTES)
            .and_then(|()| file.zero(bytes, MARK_FILE_BYTES))
            .map_err(WalError::io(Operation::Allocate, MARK_FILE))?;
    }
    Ok(file)
}
