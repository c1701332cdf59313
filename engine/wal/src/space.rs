//! Segments come and go: names, preparing one ahead, and taking back what nobody needs.
//!
//! Preparing, retiring and searching are slow, so they are **chores** that another thread can do: the log hands out a
//! [`Chore`] and gets its result back. A caller without threads runs them in place.

use crate::LogIdentity;
use crate::error::{Operation, WalError};
use crate::file::{Directory, LogFile};
use crate::format::checksum::Seed;
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::gather::{Gathered, Search, Unreadable};
use pontoon_types::mutant;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// The durable mark's file.
pub(crate) const MARK_FILE: &str = "durable.mark";
const SUFFIX: &str = ".seg";
const RECYCLED: &str = "recycled-";
const PREPARING: &str = "preparing-";

/// The name of a segment's file.
pub(crate) fn segment_name(generation: u32) -> String {
    format!("{generation:010}{SUFFIX}")
}

/// The generation of a segment's file, if it is one.
pub(crate) fn segment_of(name: &str) -> Option<u32> {
    let number = name.strip_suffix(SUFFIX)?;
    let well_formed = number.len() == 10 && number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse().ok().filter(|_| well_formed)
}

/// Where a file goes that has a segment's name and is not that segment.
pub(crate) fn unreadable_name(name: &str) -> String {
    format!("unreadable-{name}")
}

pub(crate) fn is_recycled(name: &str) -> bool {
    name.starts_with(RECYCLED)
}

pub(crate) fn is_unfinished(name: &str) -> bool {
    name.starts_with(PREPARING)
}

/// A segment that is open for writing or reading.
pub(crate) struct Segment<F> {
    pub(crate) generation: u32,
    pub(crate) bytes: u64,
    pub(crate) seed: Seed,
    pub(crate) file: Arc<F>,
    /// Where its last batch ends, once it is full.
    pub(crate) end: AtomicU32,
}

/// A file that can become a segment without asking the disk for room.
pub(crate) struct Recycled<F> {
    pub(crate) name: String,
    pub(crate) file: F,
    /// Whether its pages in the cache may be in large folios, as after a restart. Then it is zeroed
    /// again; otherwise its old content stays, which never verifies.
    pub(crate) cold: bool,
}

/// Slow work that the log wants done.
pub(crate) enum Chore<D: Directory> {
    /// Make the next segment.
    Prepare {
        directory: Arc<D>,
        identity: LogIdentity,
        generation: u32,
        bytes: u64,
        recycled: Option<Recycled<D::File>>,
        /// What is full since the last time.
        left: Option<Arc<D::File>>,
    },
    /// Take back a segment that holds nothing needed and that nobody reads any more.
    Retire {
        directory: Arc<D>,
        generation: u32,
        file: D::File,
        keep: bool,
    },
    /// Gather what is needed of a segment that could go without it.
    Gather(Search<D::File>),
}

/// What came of a chore.
pub(crate) enum Done<F> {
    Prepared(Result<Segment<F>, WalError>),
    Retired(Result<Option<Recycled<F>>, WalError>),
    Gathered(Result<Option<Gathered>, Unreadable>),
}

impl<D: Directory> Chore<D> {
    pub(crate) fn run(self) -> Done<D::File> {
        match self {
            Self::Prepare {
                directory,
                identity,
                generation,
                bytes,
                recycled,
                left,
            } => {
                if let Some(left) = left {
                    left.leave();
                }
                Done::Prepared(prepare(&*directory, identity, generation, bytes, recycled))
            }
            Self::Retire {
                directory,
                generation,
                file,
                keep,
            } => Done::Retired(retire(&*directory, generation, file, keep)),
            Self::Gather(search) => Done::Gathered(search.run()),
        }
    }
}

/// Makes a segment: all blocks, a header, synced, and only then under its name.
fn prepare<D: Directory>(
    directory: &D,
    identity: LogIdentity,
    generation: u32,
    bytes: u64,
    recycled: Option<Recycled<D::File>>,
) -> Result<Segment<D::File>, WalError> {
    let name = segment_name(generation);
    let header = SegmentHeader {
        identity,
        generation,
        salt: directory.salt(),
        bytes,
    };
    let (file, unfinished) = match recycled {
        Some(Recycled {
            name: old,
            file,
            cold,
            ..
        }) => {
            if cold {
                file.zero(0, bytes)
                    .map_err(WalError::io(Operation::Write, &old))?;
            }
            (file, old)
        }
        None => {
            let unfinished = format!("{PREPARING}{name}");
            let file = directory
                .create(&unfinished)
                .map_err(WalError::io(Operation::Create, &name))?;
            let filled = file
                .allocate(bytes)
                .and_then(|()| file.zero(0, bytes))
                .map_err(WalError::io(Operation::Allocate, &name));
            if let Err(error) = filled {
                // The blocks it got must not keep others from finding room.
                let _ = directory.remove(&unfinished);
                return Err(error);
            }
            (file, unfinished)
        }
    };
    file.write_at(0, &header.encode())
        .map_err(WalError::io(Operation::Write, &name))?;
    file.sync().map_err(WalError::io(Operation::Sync, &name))?;
    file.attach(SEGMENT_HEADER_BYTES as u64)
        .map_err(WalError::io(Operation::Map, &name))?;
    directory
        .rename(&unfinished, &name)
        .map_err(WalError::io(Operation::Rename, &name))?;
    if !mutant!(NamesUnsynced) {
        directory
            .sync()
            .map_err(WalError::io(Operation::Sync, "the directory"))?;
    }
    Ok(Segment {
        generation,
        bytes,
        seed: header.seed(),
        file: Arc::new(file),
        end: AtomicU32::new(0),
    })
}

fn retire<D: Directory>(
    directory: &D,
    generation: u32,
    file: D::File,
    keep: bool,
) -> Result<Option<Recycled<D::File>>, WalError> {
    let name = segment_name(generation);
    let recycled = format!("{RECYCLED}{name}");
    if keep {
        directory
            .rename(&name, &recycled)
            .map_err(WalError::io(Operation::Rename, &name))?;
    } else {
        directory
            .remove(&name)
            .map_err(WalError::io(Operation::Remove, &name))?;
    }
    directory
        .sync()
        .map_err(WalError::io(Operation::Sync, "the directory"))?;
    Ok(keep.then_some(Recycled {
        name: recycled,
        file,
        cold: false,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_segments_have_a_segments_name() {
        assert_eq!(segment_of(&segment_name(42)), Some(42));
        assert_eq!(segment_of(&segment_name(u32::MAX)), Some(u32::MAX));
        for name in [
            "LOCK",
            MARK_FILE,
            "1.seg",
            "recycled-0000000001.seg",
            "+000000001.seg",
        ] {
            assert_eq!(segment_of(name), None, "{name}");
        }
    }
}
