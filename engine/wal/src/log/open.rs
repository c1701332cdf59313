//! Opening: recovery, and making the disk agree with it before anybody speaks.

use super::rewrite::Rewriting;
use super::{Log, Spare, open_mark_file};
use crate::error::{Operation, WalError};
use crate::file::{Directory, LogFile};
use crate::format::PAGE_BYTES;
use crate::format::batch::FOLLOWS_DAMAGE;
use crate::format::mark::Mark;
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::index::Index;
use crate::reader::Shared;
use crate::recovery::{Recovered, RecoveredGroup, Scan, Scanned, scan};
use crate::space::{
    Chore, Done, Recycled, Segment, is_recycled, is_unfinished, segment_name, unreadable_name,
};
use crate::{LogIdentity, Lsn, WalConfig};
use pontoon_types::mutant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

impl<D: Directory> Log<D> {
    /// Opens the log of a directory, or starts one there.
    ///
    /// What lies above the durable mark is written again and synced before this returns: it may be in the
    /// page cache of a killed process and not on the disk. What was torn is overwritten with zeros.
    ///
    /// # Errors
    /// If the directory cannot be used, belongs to someone else, or was written by a newer version.
    /// Damage is not an error here: it is in [`Recovered`].
    pub fn open(
        directory: D,
        config: WalConfig,
        identity: LogIdentity,
    ) -> Result<(Self, Recovered), WalError> {
        config.check()?;
        let scan = scan(&directory, Some(identity), config.recovery_threads)?;
        let directory = Arc::new(directory);
        let recycled = tidy(&*directory, &config)?;
        let mark_file = open_mark_file(&*directory, scan.mark_exists)?;
        let highest = scan
            .segments
            .last()
            .map_or(0, |segment| segment.generation)
            .max(scan.report.durable.generation());
        let mut next_generation = highest.checked_add(1).ok_or(WalError::OutOfSegments)?;

        let Scan {
            groups,
            mut pins,
            mut segments,
            kept: of_the_log,
            last_batch,
            lost,
            sealed,
            mark,
            report,
            ..
        } = scan;
        // The witnesses of a loss must not be recycled: what is unreadable, and the batch behind it that
        // does not follow what is in front.
        let mut kept = BTreeSet::new();
        for hole in &report.damage {
            kept.extend([hole.start.generation(), hole.end.generation()]);
        }
        discard(&*directory, segments.split_off(of_the_log))?;
        let recovered = describe(&groups, report);
        let end = recovered.report.end;
        let mut table = BTreeMap::new();
        let mut tail = None;
        for segment in segments {
            let usable = !sealed && segment.generation == end.generation();
            match repair(segment, recovered.report.durable, end, usable)? {
                Some(segment) => {
                    let segment = Arc::new(segment);
                    if usable {
                        tail = Some(Arc::clone(&segment));
                    }
                    table.insert(segment.generation, segment);
                }
                None => continue,
            }
        }
        let (active, cursor) = match tail {
            Some(segment) => (segment, end.offset()),
            None => {
                let chore = Chore::Prepare {
                    directory: Arc::clone(&directory),
                    identity,
                    generation: next_generation,
                    bytes: config.segment_bytes,
                    recycled: None,
                    left: None,
                };
                next_generation += 1;
                let Done::Prepared(segment) = chore.run() else {
                    unreachable!("preparing gives a prepared segment");
                };
                let segment = Arc::new(segment?);
                table.insert(segment.generation, Arc::clone(&segment));
                (segment, SEGMENT_HEADER_BYTES as u32)
            }
        };
        if sealed {
            kept.insert(active.generation);
        }
        for segment in &kept {
            pins.add(*segment);
        }
        let quota_bytes = config.group_quota_bytes;
        let mut log = Self {
            shared: Arc::new(Shared::new(
                Index::new(groups),
                table,
                quota_bytes,
                &recovered.report.damage,
            )),
            durable: Lsn::new(active.generation, cursor),
            directory,
            config,
            identity,
            active,
            cursor,
            scratch: super::append::Scratch::default(),
            places: Vec::new(),
            last_batch: if sealed {
                (FOLLOWS_DAMAGE, 0)
            } else {
                last_batch
            },
            left: Vec::new(),
            pins,
            spare: Spare::Wanted,
            next_generation,
            recycled,
            unlisted: Vec::new(),
            unlisted_from: None,
            lost,
            kept,
            condemned: BTreeSet::new(),
            damaged: BTreeSet::new(),
            rewriting: Rewriting::Due(None),
            unneeded: VecDeque::new(),
            retiring: 0,
            mark: mark.unwrap_or(Mark {
                identity,
                sequence: 0,
                durable: Lsn::ZERO,
            }),
            mark_file,
            poisoned: None,
        };
        log.lay_checkpoint()?;
        log.sync()?;
        log.update_pressure();
        if log.mark_is_stale() {
            log.write_mark()?;
        }
        Ok((log, recovered))
    }
}

/// Removes what a stopped process left unfinished, and finds files to recycle.
fn tidy<D: Directory>(
    directory: &D,
    config: &WalConfig,
) -> Result<Vec<Recycled<D::File>>, WalError> {
    let mut recycled = Vec::new();
    let names = directory
        .list()
        .map_err(WalError::io(Operation::List, "."))?;
    for name in names {
        if is_recycled(&name) && recycled.len() < config.max_recycled {
            let file = directory
                .open(&name)
                .map_err(WalError::io(Operation::Open, &name))?;
            let bytes = file.bytes().map_err(WalError::io(Operation::Read, &name))?;
            if bytes == config.segment_bytes {
                recycled.push(Recycled {
                    name,
                    file,
                    cold: true,
                });
                continue;
            }
        }
        if is_recycled(&name) || is_unfinished(&name) {
            directory
                .remove(&name)
                .map_err(WalError::io(Operation::Remove, &name))?;
        }
    }
    Ok(recycled)
}

/// Removes segments above a cut, and spares that nothing was written to. The names must be gone for
/// good before their generations could mean anything else, and the last one first: one that stayed, when the power goes,
/// without those before it would look as if these were lost. A file without a header is only put
/// aside: it may be a segment that somebody misplaced.
fn discard<D: Directory>(directory: &D, segments: Vec<Scanned<D::File>>) -> Result<(), WalError> {
    for segment in segments.into_iter().rev() {
        let name = segment_name(segment.generation);
        if segment.header.is_some() {
            directory
                .remove(&name)
                .map_err(WalError::io(Operation::Remove, &name))?;
        } else {
            tracing::warn!(name, "a segment without a readable header is put aside");
            directory
                .rename(&name, &unreadable_name(&name))
                .map_err(WalError::io(Operation::Rename, &name))?;
        }
        directory
            .sync()
            .map_err(WalError::io(Operation::Sync, "the directory"))?;
    }
    Ok(())
}

/// Makes the disk hold what was read. `None` for a segment whose header is lost: nobody can read it.
fn repair<F: LogFile>(
    segment: Scanned<F>,
    durable: Lsn,
    end: Lsn,
    usable: bool,
) -> Result<Option<Segment<F>>, WalError> {
    let Scanned {
        generation,
        file,
        header,
        bytes,
        end: segment_end,
    } = segment;
    let name = segment_name(generation);
    let Some(header) = header else {
        return Ok(None);
    };
    let start = if durable.generation() < generation {
        0
    } else {
        durable.offset() / PAGE_BYTES as u32 * PAGE_BYTES as u32
    };
    let above_mark = durable < Lsn::new(generation, segment_end);
    if above_mark && !mutant!(TrustsPageCache) {
        let mut page = [0; PAGE_BYTES];
        let pages = (start..segment_end).step_by(PAGE_BYTES);
        for offset in pages {
            let length = PAGE_BYTES.min((segment_end - offset) as usize);
            let page = &mut page[..length];
            file.read_at(u64::from(offset), page)
                .map_err(WalError::io(Operation::Read, &name))?;
            file.write_at(u64::from(offset), page)
                .map_err(WalError::io(Operation::Write, &name))?;
        }
    }
    if above_mark || usable {
        file.sync().map_err(WalError::io(Operation::Sync, &name))?;
    }
    if usable {
        file.zero(u64::from(end.offset()), bytes)
            .map_err(WalError::io(Operation::Write, &name))?;
        file.sync().map_err(WalError::io(Operation::Sync, &name))?;
        file.attach(u64::from(end.offset()))
            .map_err(WalError::io(Operation::Map, &name))?;
    }
    Ok(Some(Segment {
        generation,
        bytes,
        seed: header.seed(),
        file: Arc::new(file),
        end: AtomicU32::new(segment_end),
    }))
}

fn describe<'a>(
    groups: impl IntoIterator<Item = (&'a pontoon_types::GroupId, &'a crate::index::GroupLog)>,
    report: crate::RecoveryReport,
) -> Recovered {
    let mut recovered = Recovered {
        report,
        ..Recovered::default()
    };
    for (id, group) in groups {
        if group.damaged {
            recovered.damaged.insert(*id);
        }
        let group = RecoveredGroup {
            hard_state: group.hard_state,
            compacted: group.compacted,
            terms: group.terms(),
            last: group.last.index,
            installed: group.installed.as_deref().cloned(),
            removed: group.removed.map(|removal| removal.replica),
            damaged: group.damaged,
        };
        recovered.groups.insert(*id, group);
    }
    recovered
}
