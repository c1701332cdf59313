//! Finding an old segment that can be given back by writing again what little is needed of it.
//!
//! This looks through the index and reads from the disk, so it is a chore for another thread. Meanwhile the
//! log goes on: what was gathered may have been cut, replaced or compacted when it comes to be laid, and
//! whoever lays it must ask again.

use crate::reader::{Cold, Shared};
use crate::space::Segment;
use crate::{Lsn, WalError, file::LogFile};
use pontoon_types::{Entry, GroupId, LogIndex};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// So much is read, and later laid, at once; it must not keep a batch waiting for long.
const PORTION_BYTES: usize = 1 << 20;

/// What to look for.
pub(crate) struct Search<F> {
    pub(crate) shared: Arc<Shared<F>>,
    /// The segment that is written to.
    pub(crate) active: u32,
    /// Segments that stay, whatever is in them.
    pub(crate) kept: BTreeSet<u32>,
    /// A damaged segment that is to go.
    pub(crate) condemned: Option<u32>,
    /// What an earlier search has left to do.
    pub(crate) rest: Option<Rest>,
}

/// What is needed of a segment and was not gathered yet: the last comes first.
pub(crate) struct Rest {
    segment: u32,
    /// Whether what cannot be read is left behind.
    is_condemned: bool,
    places: Vec<(Lsn, GroupId, LogIndex)>,
}

/// Some of what is needed of a segment.
pub(crate) struct Gathered {
    /// By group and index, each with where it was found.
    pub(crate) entries: Vec<(Lsn, Entry)>,
    /// What more there is.
    pub(crate) rest: Option<Rest>,
}

/// A segment of which something cannot be read back. What is left of it stays where it is.
pub(crate) struct Unreadable {
    pub(crate) segment: u32,
    pub(crate) error: WalError,
}

impl<F: LogFile> Search<F> {
    /// `None` if no segment is worth it.
    pub(crate) fn run(mut self) -> Result<Option<Gathered>, Unreadable> {
        let rest = self.rest.take();
        let chosen = || self.condemned.or_else(|| self.sparsest());
        let Some(rest) = rest.or_else(|| chosen().map(|segment| self.look_into(segment))) else {
            return Ok(None);
        };
        let segment = self.shared.segments.read().get(&rest.segment).cloned();
        match segment {
            Some(segment) => self.read_portion(&segment, rest).map(Some),
            // It was given back while nobody looked.
            None => Ok(Some(Gathered {
                entries: Vec::new(),
                rest: None,
            })),
        }
    }

    /// The segment of which the least is needed, if that is no more than half: so no more is written again
    /// than comes free.
    fn sparsest(&self) -> Option<u32> {
        let mut needed: HashMap<u32, u64> = HashMap::new();
        self.shared.index.for_each(|_, group| {
            for (segment, bytes) in group.bytes_by_segment() {
                *needed.entry(segment).or_default() += bytes;
            }
        });
        let segments = self.shared.segments.read();
        let mut worth_it: Vec<(u64, u32)> = needed
            .into_iter()
            .filter(|(segment, _)| *segment < self.active && !self.kept.contains(segment))
            .filter(|(segment, needed)| {
                segments
                    .get(segment)
                    .is_some_and(|segment| needed * 2 <= segment.bytes)
            })
            .map(|(segment, needed)| (needed, segment))
            .collect();
        worth_it.sort_unstable();
        worth_it.first().map(|(_, segment)| *segment)
    }

    fn look_into(&self, segment: u32) -> Rest {
        let mut places = Vec::new();
        self.shared.index.for_each(|id, group| {
            places.extend(group.entries_in(segment).map(|(index, at)| (at, id, index)));
        });
        places.sort_unstable_by(|one, other| other.cmp(one));
        Rest {
            segment,
            is_condemned: self.condemned == Some(segment),
            places,
        }
    }

    fn read_portion(
        &self,
        segment: &Arc<Segment<F>>,
        mut rest: Rest,
    ) -> Result<Gathered, Unreadable> {
        let mut cold = Cold::default();
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while bytes < PORTION_BYTES
            && let Some((at, group, index)) = rest.places.pop()
        {
            match cold.entry(group, index, at, Arc::clone(segment)) {
                Ok(entry) => {
                    bytes += entry.encoded_len();
                    entries.push((at, entry));
                }
                Err(_) if rest.is_condemned => {
                    self.shared.scrubs.cannot_read(group, index, at);
                }
                Err(error) => {
                    return Err(Unreadable {
                        segment: rest.segment,
                        error,
                    });
                }
            }
        }
        entries.sort_unstable_by_key(|(_, entry)| (entry.group(), entry.index()));
        Ok(Gathered {
            entries,
            rest: (!rest.places.is_empty()).then_some(rest),
        })
    }
}
