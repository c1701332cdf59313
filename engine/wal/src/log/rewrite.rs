//! Writing forward what is still needed of an old segment, so that it can go.
//!
//! A rewritten entry is a record of its own kind. It says nothing new: it never cuts its group's log, and it
//! is laid only if the entry that it copies is still the one at its index. So in the log's order it comes
//! before everything that could replace it. A checkpoint of its group follows in the same batch: the segment
//! that goes may be the one that tells where the log ends.

use super::Log;
use super::append::Laying;
use crate::WalError;
use crate::file::Directory;
use crate::format::batch::{BATCH_HEADER_BYTES, BatchKind};
use crate::format::record::{RecordKind, record_bytes};
use crate::gather::{Gathered, Rest, Search, Unreadable};
use crate::space::Chore;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// How far the rewriting is.
pub(super) enum Rewriting {
    /// There is nothing to do until the log has grown by a segment.
    Resting,
    /// The next portion is to be gathered, if the log is over its bound.
    Due(Option<Rest>),
    /// It is being gathered elsewhere.
    Gathering,
    /// It is there and waits for being laid.
    Gathered(Gathered),
}

impl<D: Directory> Log<D> {
    /// Has a damaged segment go: what can be read of it is written again. What cannot be read keeps it until nobody needs
    /// that any more ([`Log::unreadable`]). One with damage that was found when the log was opened stays all the same.
    pub fn condemn(&mut self, segment: u32) {
        if self.shared.segments.read().contains_key(&segment) && self.damaged.insert(segment) {
            self.condemned.insert(segment);
        }
    }

    /// Whether to go on in another segment: the present one is damaged, or has no room to say that a damaged one is gone.
    pub(super) fn wants_to_leave_damage(&self) -> bool {
        let mut unlisted = self.unlisted.iter();
        self.condemned.contains(&self.active.generation)
            || self.unlisted_from.is_none()
                && unlisted.any(|segment| self.damaged.contains(&segment.generation))
    }

    /// Goes on in another segment because of damage, as soon as one is ready. Its checkpoint has all that is needed of the
    /// present one but entries, and says which segments there are.
    fn leave_damage(&mut self) -> Result<(), WalError> {
        if !self.wants_to_leave_damage() || !self.has_spare() {
            return Ok(());
        }
        match self.roll(0) {
            Err(WalError::NoSpace { .. }) => Ok(()), // It is tried again.
            rolled => rolled,
        }
    }

    /// A damaged segment to be looked into, if there is one.
    fn next_condemned(&self) -> Option<u32> {
        let mut condemned = self.condemned.iter().copied();
        condemned.find(|segment| *segment != self.active.generation)
    }

    /// Whether a search is to be made: there is damage, or the log is more than a recovery should have to read.
    pub(super) fn wants_to_gather(&self) -> bool {
        match &self.rewriting {
            Rewriting::Due(Some(_)) => true,
            Rewriting::Due(None) => {
                self.next_condemned().is_some() || self.needed_bytes() > self.rewrite_above()
            }
            Rewriting::Resting => self.next_condemned().is_some(),
            Rewriting::Gathering | Rewriting::Gathered(_) => false,
        }
    }

    /// Whether something was gathered, and there may be room for it.
    pub(super) fn wants_to_rewrite(&self) -> bool {
        matches!(self.rewriting, Rewriting::Gathered(_)) && !self.spare_failed()
    }

    fn rewrite_above(&self) -> u64 {
        self.config.recovery_bytes.min(self.config.max_bytes / 2)
    }

    /// Bytes of the segments that will not go by themselves.
    fn needed_bytes(&self) -> u64 {
        let segments = self.shared.segments.read();
        segments
            .values()
            .filter(|segment| {
                let generation = segment.generation;
                generation == self.active.generation || self.pins.holds(generation)
            })
            .map(|segment| segment.bytes)
            .sum()
    }

    pub(super) fn gather_chore(&mut self) -> Option<Chore<D>> {
        if !self.wants_to_gather() {
            if let Rewriting::Due(None) = self.rewriting {
                self.rewriting = Rewriting::Resting;
            }
            return None;
        }
        let before = std::mem::replace(&mut self.rewriting, Rewriting::Gathering);
        let rest = match before {
            Rewriting::Due(rest) => rest,
            _ => None,
        };
        let condemned = self.next_condemned().filter(|_| rest.is_none());
        if let Some(segment) = condemned {
            self.condemned.remove(&segment);
        }
        Some(Chore::Gather(Search {
            shared: Arc::clone(&self.shared),
            active: self.active.generation,
            kept: self.kept.clone(),
            condemned,
            rest,
        }))
    }

    pub(super) fn handle_gathered(&mut self, gathered: Result<Option<Gathered>, Unreadable>) {
        self.rewriting = match gathered {
            Ok(Some(gathered)) => Rewriting::Gathered(gathered),
            Ok(None) => Rewriting::Resting,
            Err(Unreadable { segment, error }) => {
                tracing::error!(segment, %error, "a segment cannot be written again");
                self.kept.insert(segment);
                self.shared.scrubs.suspect(segment);
                Rewriting::Due(None)
            }
        };
    }

    /// Lays what was gathered, unless it needs a segment that is not ready.
    ///
    /// # Errors
    /// If the log has failed.
    pub(crate) fn lay_rewritten(&mut self) -> Result<(), WalError> {
        self.check()?;
        self.leave_damage()?;
        let Rewriting::Gathered(gathered) = &self.rewriting else {
            return Ok(());
        };
        let bytes = self.rewritten_bytes(gathered);
        if self.must_wait(bytes) {
            return Ok(());
        }
        match self.make_room(bytes) {
            Ok(()) => {}
            Err(WalError::NoSpace { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        let before = std::mem::replace(&mut self.rewriting, Rewriting::Due(None));
        let Rewriting::Gathered(Gathered { entries, rest }) = before else {
            return Ok(());
        };
        self.rewriting = Rewriting::Due(rest);
        let laid = self.lay_copies(&entries);
        laid.map_err(|error| self.poison(error))
    }

    /// What it takes at most.
    fn rewritten_bytes(&self, gathered: &Gathered) -> u64 {
        let mut bytes = BATCH_HEADER_BYTES;
        for (_, entry) in &gathered.entries {
            bytes += record_bytes(entry.encoded_len());
        }
        let groups: BTreeSet<_> = gathered
            .entries
            .iter()
            .map(|(_, entry)| entry.group())
            .collect();
        for group in groups {
            if let Some(state) = self.shared.index.lock().get(group) {
                bytes += record_bytes(state.state_bytes());
            }
        }
        bytes as u64
    }

    fn lay_copies(
        &mut self,
        entries: &[(crate::Lsn, pontoon_types::Entry)],
    ) -> Result<(), WalError> {
        let segment = Arc::clone(&self.active);
        let shared = Arc::clone(&self.shared);
        let mut lay = Laying::new(&segment, self.cursor, std::mem::take(&mut self.scratch));
        let mut payload = Vec::new();
        let mut copies = Vec::new();
        for of_group in entries.chunk_by(|one, other| one.1.group() == other.1.group()) {
            let group = of_group[0].1.group();
            let groups = shared.index.lock();
            let Some(state) = groups.get(group) else {
                continue;
            };
            let (mut link, before) = (state.link, copies.len());
            for (from, entry) in of_group {
                if state.holds(entry.index(), *from) {
                    link = lay.entry(RecordKind::Rewrite, group, link, entry.as_bytes());
                    copies.push((link, entry));
                }
            }
            if copies.len() > before {
                let state = state.state();
                payload.clear();
                state.encode(&mut payload);
                lay.small(RecordKind::Checkpoint, state.flags(), group, link, &payload);
            }
        }
        if copies.is_empty() {
            return Ok(());
        }
        self.finish_batch(lay, BatchKind::Checkpoint)?;
        // Not before they are written: who reads meanwhile finds the entries where they were.
        for of_group in copies.chunk_by(|one, other| one.1.group() == other.1.group()) {
            let mut groups = shared.index.lock();
            let state = groups.get_mut(of_group[0].1.group());
            let state = state.expect("only the log's owner takes groups away");
            for (to, entry) in of_group {
                let bytes = record_bytes(entry.encoded_len()) as u64;
                state.rewrite(entry.index(), *to, bytes, &mut self.pins);
                state.link = *to;
            }
        }
        let copied = copies.len() as u64;
        shared.counters.rewritten.fetch_add(copied, Relaxed);
        Ok(())
    }
}
