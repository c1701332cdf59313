//! The tablets of a node: new ones for snapshots that come in, and the reclaiming of those that nobody needs.
//!
//! An id is used once for as long as rows of it may exist, also over crashes. Ids are therefore set aside in blocks,
//! durably, before one of a block is used. What a tablet holds that no record refers to, and that is not being staged, is
//! garbage: left by a crash, by a snapshot that took another's place, by a replica that has left. It is removed a little at
//! a time. Nothing has to be noted about it, for it is found again by looking which tablets there are.

use super::KvMachine;
use crate::keys::{self, LOCAL_TABLET};
use crate::{Store, StoreError, View, WriteBatch};
use pontoon_types::TabletId;
use pontoon_types::codec::DecodeError;
use std::collections::{BTreeSet, VecDeque};

/// How many ids are set aside at once.
const BLOCK: u64 = 1024;

/// Behind every key.
const LAST_KEY: [u8; 1] = [u8::MAX];

/// The named row that holds the first id that was never set aside.
const ROW: &str = "next-tablet";

/// Which tablets there are, beside those that records refer to.
#[derive(Debug, Default)]
pub(super) struct Tablets {
    /// The next id.
    next: u64,
    /// The first id that is not set aside.
    end: u64,
    /// Those of snapshots on their way, until they are installed or discarded.
    staging: BTreeSet<TabletId>,
    garbage: VecDeque<TabletId>,
    /// Up to which id it is known which tablets are garbage; `None`: all are.
    searched: Option<TabletId>,
}

impl Tablets {
    /// A snapshot has taken the place of what was in `old`.
    pub(super) fn installed(&mut self, tablet: TabletId, old: Option<TabletId>) {
        self.staging.remove(&tablet);
        self.garbage.extend(old.filter(|old| *old != tablet));
    }

    pub(super) fn is_garbage(&mut self, tablet: TabletId) {
        self.staging.remove(&tablet);
        self.garbage.push_back(tablet);
    }
}

impl<S: Store> KvMachine<S> {
    pub(super) fn open_tablets(&mut self) -> Result<(), StoreError> {
        let set_aside = match self.get_local(ROW)? {
            None => 0,
            Some(row) => {
                let damaged = StoreError::DamagedRow {
                    row: "the next tablet".to_owned(),
                    source: DecodeError::Invalid {
                        what: "not a tablet",
                    },
                };
                let bytes = (&row[..]).try_into().map_err(|_| damaged)?;
                u64::from_be_bytes(bytes)
            }
        };
        let used = self.replicas().map(|record| record.tablet.0 + 1).max();
        self.tablets.next = set_aside.max(used.unwrap_or(1));
        self.tablets.end = self.tablets.next;
        self.tablets.searched = Some(LOCAL_TABLET);
        Ok(())
    }

    /// Makes a tablet for a snapshot that comes in, and what takes in its rows. Nothing refers to it until it is
    /// [installed](KvMachine::install); if that does not come, it is to be [discarded](KvMachine::discard).
    ///
    /// Now and then this waits for the disk, to set aside more ids.
    ///
    /// # Errors
    /// If the store cannot write.
    pub fn begin_install(&mut self) -> Result<(TabletId, S::Stager), StoreError> {
        if self.tablets.next == self.tablets.end {
            // A replica that was made known since may have an id of its own.
            let used = self.replicas().map(|record| record.tablet.0 + 1).max();
            let next = self.tablets.next.max(used.unwrap_or(1));
            let end = next + BLOCK;
            self.put_local(ROW, &end.to_be_bytes())?;
            (self.tablets.next, self.tablets.end) = (next, end);
        }
        let tablet = TabletId(self.tablets.next);
        let stager = self.store_mut().stager(tablet)?;
        self.tablets.next += 1;
        self.tablets.staging.insert(tablet);
        Ok((tablet, stager))
    }

    /// A tablet that was begun is not needed.
    ///
    /// # Errors
    /// None at present.
    pub fn discard(&mut self, tablet: TabletId) -> Result<(), StoreError> {
        self.tablets.is_garbage(tablet);
        Ok(())
    }

    /// Removes up to `max_rows` rows that nobody needs. Returns whether there may be more. To be called again and
    /// again while there is nothing better to do, and not before all that the log says was installed has been.
    ///
    /// # Errors
    /// If the store cannot read or write.
    pub fn reclaim(&mut self, max_rows: usize) -> Result<bool, StoreError> {
        let Some(&tablet) = self.tablets.garbage.front() else {
            return self.search_garbage();
        };
        let view = self.store().view();
        let (from, to) = (keys::tablet_prefix(tablet), keys::tablet_end(tablet));
        let mut batch = WriteBatch::new();
        for row in view.range(&from, &to).take(max_rows) {
            let (key, _) = row?;
            batch.delete_stored(&key);
        }
        if batch.len() < max_rows {
            self.tablets.garbage.pop_front();
        }
        self.store_mut().write(&mut batch)?;
        Ok(true)
    }

    /// Looks at the next tablet that has rows. Returns whether there was one.
    fn search_garbage(&mut self) -> Result<bool, StoreError> {
        let Some(searched) = self.tablets.searched else {
            return Ok(false);
        };
        let view = self.store().view();
        let from = keys::tablet_end(searched);
        let next = view.range(&from, &LAST_KEY).next().transpose()?;
        self.tablets.searched = next.and_then(|(key, _)| keys::tablet_of(&key));
        let Some(tablet) = self.tablets.searched else {
            return Ok(false);
        };
        let is_used = self.tablets.staging.contains(&tablet)
            || self.replicas().any(|record| record.tablet == tablet);
        if !is_used {
            self.tablets.garbage.push_back(tablet);
        }
        Ok(true)
    }
}
