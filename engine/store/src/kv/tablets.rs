//! The tablets of a node: new ones for snapshots that come in, and the reclaiming of those that nobody needs.
//!
//! An id is used once for as long as rows of it may exist, also over crashes. Ids are therefore set aside in blocks,
//! durably, before one of a block is used; the next block while half of one is left, so that nobody waits for the disk. What a
//! tablet holds that no record refers to, and that is not being staged, is garbage: left by a crash, by a snapshot that took another's place, by a replica that has left. That may be all of a tablet,
//! or the part that one replica had of it, while others have the rest. Nothing has to be noted about it, for it is found again
//! by looking which rows there are beside those that records refer to.
//!
//! It goes in two steps. The store lets go of what it can without reading it, which is nearly all of a big piece; that
//! may bring rows back which had been deleted. Then the rows that are left are deleted, a few at a time. In this order nothing
//! stays, and a crash in between only means that the piece is found again.
//!
//! What is garbage stays so: a record's pieces are made of those of records that go, or of a new tablet, and of nothing else.

use super::{Machine, StateMachine};
use crate::keys::{self, LOCAL_TABLET, Space};
use crate::{LsmStore, Piece, ReplicaRecord, Shed, Store, StoreError, View, WriteBatch};
use bytes::Bytes;
use itertools::Itertools;
use pontoon_types::codec::DecodeError;
use pontoon_types::{GroupId, TabletId, mutant};
use std::collections::{BTreeSet, VecDeque};

/// How many ids are set aside at once.
const BLOCK: u64 = 1024;

/// Behind every key.
const LAST_KEY: [u8; 1] = [u8::MAX];

/// The named row that holds the first id that was never set aside.
pub(super) const NEXT_TABLET: &str = "next-tablet";

/// Which tablets there are, beside those that records refer to.
#[derive(Debug, Default)]
pub(super) struct Tablets {
    /// The next id.
    next: u64,
    /// The first id that is not set aside.
    end: u64,
    /// More of them, which are not known to be set aside durably.
    ahead: Option<Ahead>,
    /// Those of snapshots on their way, until they are installed or discarded.
    staging: BTreeSet<TabletId>,
    garbage: BTreeSet<Piece>,
    /// Those that the store has let go of, with what is left of them.
    leftovers: VecDeque<Leftover>,
    /// Up to which stored key it is known what is garbage; `None`: of everything.
    searched: Option<Vec<u8>>,
}

/// Ids up to, and without, `end` are set aside once the store's durability has come to that generation.
#[derive(Debug)]
struct Ahead {
    end: u64,
    generation: u64,
}

/// What is left of a piece.
#[derive(Debug)]
struct Leftover {
    piece: Piece,
    /// Before this, nothing is. Looking there again would lead over all the rows just deleted.
    from: Vec<u8>,
}

impl Tablets {
    /// Whether a tablet is on its way, and so nobody refers to it.
    pub(super) fn is_staging(&self, tablet: TabletId) -> bool {
        self.staging.contains(&tablet)
    }

    /// A tablet has come, or is not needed.
    pub(super) fn end_staging(&mut self, tablet: TabletId) {
        self.staging.remove(&tablet);
    }

    /// Nobody refers to these any more.
    pub(super) fn are_garbage(&mut self, pieces: impl IntoIterator<Item = Piece>) {
        self.garbage.extend(pieces);
    }

    /// What is garbage, in order; neighbours as one.
    fn take_garbage(&mut self) -> Vec<Piece> {
        Piece::united(std::mem::take(&mut self.garbage))
    }

    /// Whether no tablet here has had this id, nor a higher one.
    pub(super) const fn is_new(&self, tablet: TabletId) -> bool {
        tablet.0 >= self.next
    }

    /// The first id that may not be used without setting it aside, if tablets up to `highest` are in use from here on.
    pub(super) fn end_above(&self, highest: TabletId) -> Option<u64> {
        let end = highest.0 + 1;
        (end > self.written()).then_some(end)
    }

    /// The first id that is not set aside as of what is written, durable or not.
    fn written(&self) -> u64 {
        self.ahead.as_ref().map_or(self.end, |ahead| ahead.end)
    }

    /// So much of the store is durable.
    fn reach(&mut self, generation: u64) {
        if let Some(ahead) = self.ahead.take_if(|ahead| ahead.generation <= generation) {
            self.end = self.end.max(ahead.end);
        }
    }

    /// Tablets up to `highest` are in use that did not come from here.
    pub(super) fn skip(&mut self, highest: TabletId) {
        self.next = self.next.max(highest.0 + 1);
        self.end = self.end.max(self.next);
    }
}

impl<S: Store, M: StateMachine> Machine<S, M> {
    pub(super) fn open_tablets(&mut self) -> Result<(), StoreError> {
        let set_aside = match self.get_local(NEXT_TABLET)? {
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
        // To look at the records would not do: the replica with the highest tablet may have left, and not yet its rows.
        self.tablets.next = set_aside.max(1);
        self.tablets.end = self.tablets.next;
        self.tablets.searched = Some(keys::tablet_end(LOCAL_TABLET).to_vec());
        Ok(())
    }

    /// Makes a tablet for a snapshot that comes in, and what takes in its rows. Nothing refers to it until it is
    /// [installed](Machine::install); if that does not come, it is to be [discarded](Machine::discard).
    ///
    /// This waits for the disk only if no ids are set aside: at first, unless [that was done](Machine::set_tablets_aside), and
    /// where half a block is used before what was written meanwhile is flushed.
    ///
    /// # Errors
    /// If the store cannot write.
    pub fn begin_install(&mut self) -> Result<(TabletId, S::Stager), StoreError> {
        self.tablets.reach(self.durability().generation());
        if self.tablets.end - self.tablets.next <= BLOCK / 2 && self.tablets.ahead.is_none() {
            self.write_ahead()?;
        }
        if self.tablets.next == self.tablets.end {
            self.store_mut().flush()?;
            self.tablets.reach(self.durability().generation());
        }
        let Tablets { next, end, .. } = self.tablets;
        assert!(
            next < end,
            "tablet {next} is used, and {end} is the first not set aside"
        );
        let tablet = TabletId(next);
        let stager = self.store_mut().stager(tablet)?;
        self.tablets.next += 1;
        self.tablets.staging.insert(tablet);
        Ok((tablet, stager))
    }

    /// Begins to set ids of tablets aside for the snapshots to come, and does not wait for the disk.
    ///
    /// # Errors
    /// If the store cannot write.
    pub fn set_tablets_aside(&mut self) -> Result<(), StoreError> {
        self.write_ahead()?;
        self.store_mut().rotate()
    }

    fn write_ahead(&mut self) -> Result<(), StoreError> {
        let end = self.tablets.written() + BLOCK;
        if mutant!(TabletsUsedTwice) {
            self.tablets.end = end;
            return Ok(());
        }
        let mut batch = WriteBatch::new();
        let (name, value) = (NEXT_TABLET.as_bytes(), end.to_be_bytes());
        batch.put(LOCAL_TABLET, Space::Named, name, &value);
        self.store_mut().write(&mut batch)?;
        let generation = self.store().generation();
        self.tablets.ahead = Some(Ahead { end, generation });
        Ok(())
    }

    /// A tablet that was begun is not needed. Its stager must have finished or been dropped: what it brings later
    /// would stay until the next life of the node.
    pub fn discard(&mut self, tablet: TabletId) {
        self.tablets.end_staging(tablet);
        self.tablets.are_garbage([Piece::whole(tablet)]);
    }

    /// Goes on with removing what nobody needs, up to `max_rows` rows at once. Returns whether there is more to do, be it
    /// only later. To be called again and again while there is nothing better to do, and not before all that the
    /// log says was installed or removed has been.
    ///
    /// What cannot be read stays, until the node's next life: nobody needs it, and damage is not to cost more than whom it
    /// befell.
    ///
    /// # Errors
    /// If the store cannot write.
    ///
    /// # Panics
    /// If `max_rows` is 0: nothing would ever be done.
    pub fn reclaim(&mut self, max_rows: usize) -> Result<bool, StoreError> {
        assert!(max_rows > 0, "reclaiming 0 rows at once never ends");
        if self.store().is_dropping() {
            return Ok(true);
        }
        if !self.tablets.leftovers.is_empty() {
            self.remove_leftovers(max_rows)?;
            return Ok(true);
        }
        if self.tablets.searched.is_some() {
            self.search_garbage(max_rows);
            return Ok(true);
        }
        if self.tablets.garbage.is_empty() {
            return Ok(false);
        }
        // All at once, as each time takes a flush.
        let garbage = self.tablets.take_garbage();
        if let Err(error) = self.store_mut().drop_pieces(&garbage) {
            self.tablets.are_garbage(garbage);
            return Err(error);
        }
        let leftovers = garbage.into_iter().map(|piece| Leftover {
            from: piece.stored_start(),
            piece,
        });
        self.tablets.leftovers.extend(leftovers);
        Ok(true)
    }

    /// What somebody refers to, in order.
    fn live_pieces(&self) -> Vec<Piece> {
        let records = self.replicas().flat_map(|record| record.pieces.iter());
        let staging = self.tablets.staging.iter();
        let mut live: Vec<_> = records
            .chain(staging.map(|tablet| Piece::whole(*tablet)))
            .collect();
        live.sort_unstable();
        live
    }

    fn remove_leftovers(&mut self, max_rows: usize) -> Result<(), StoreError> {
        let Some(Leftover { piece, from }) = self.tablets.leftovers.front() else {
            return Ok(());
        };
        let view = self.store().view();
        let mut batch = WriteBatch::new();
        let (mut last, mut is_readable) = (None, true);
        for row in view.range(from, &piece.stored_end()).take(max_rows) {
            match row {
                Ok((key, _)) => {
                    batch.delete_stored(&key);
                    last = Some(key);
                }
                Err(error) => {
                    tracing::warn!(tablet = %piece.tablet, %error, "what is left of a tablet stays, it cannot be read");
                    is_readable = false;
                    break;
                }
            }
        }
        // It would keep memtables that are flushed while the write waits for room.
        drop(view);
        let is_rest = !is_readable || batch.len() < max_rows;
        self.store_mut().write(&mut batch)?;
        if is_rest {
            self.tablets.leftovers.pop_front();
        } else if let (Some(last), Some(leftover)) = (last, self.tablets.leftovers.front_mut()) {
            leftover.from = last.to_vec();
        }
        Ok(())
    }

    /// Looks at the next pieces that have rows.
    fn search_garbage(&mut self, max_pieces: usize) {
        let live = self.live_pieces();
        let view = self.store().view();
        for _ in 0..max_pieces {
            let Some(from) = self.tablets.searched.take() else {
                return;
            };
            let key = match view.range(&from, &LAST_KEY).next() {
                Some(Ok((key, _))) => key,
                Some(Err(error)) => {
                    tracing::warn!(%error, "rows that nobody needs are not looked for further");
                    return;
                }
                None => return,
            };
            let at = live.partition_point(|piece| *piece.stored_end() <= *key);
            let next = live.get(at);
            let searched = match (next, keys::tablet_of(&key)) {
                (Some(piece), _) if *piece.stored_start() <= *key => piece.stored_end(),
                (_, Some(tablet)) => {
                    let is_of_it = |piece: &&Piece| piece.tablet == tablet;
                    let before = live[..at].last().filter(is_of_it);
                    let unneeded = Piece {
                        tablet,
                        start: before.map_or_else(Bytes::new, |piece| piece.end.clone()),
                        end: next
                            .filter(is_of_it)
                            .map_or_else(Bytes::new, |piece| piece.start.clone()),
                    };
                    let end = unneeded.stored_end();
                    self.tablets.garbage.insert(unneeded);
                    end
                }
                (_, None) => return,
            };
            // A row with a key that no tablet's has would lead back to where the search was.
            self.tablets.searched = Some(searched).filter(|searched| *searched > from);
        }
    }
}

/// A group whose replica would have rows in common with another one's, if there is any.
pub(super) fn first_shared<'a>(
    records: impl Iterator<Item = &'a ReplicaRecord>,
) -> Option<GroupId> {
    let pieces =
        |record: &'a ReplicaRecord| record.pieces.iter().map(|piece| (piece, record.group));
    let mut pieces: Vec<_> = records.flat_map(pieces).collect();
    pieces.sort_unstable();
    let mut pairs = pieces.iter().tuple_windows();
    pairs.find_map(|((one, _), (next, group))| one.overlaps(next).then_some(*group))
}

impl<M: StateMachine> Machine<LsmStore, M> {
    /// Goes on with getting rid of damaged tables, see [`LsmStore::shed`]; with another one only if told to `begin`. When one
    /// has gone, there may be something to [reclaim](Machine::reclaim) again.
    ///
    /// # Errors
    /// If the store cannot write.
    pub fn shed(&mut self, begin: bool) -> Result<Shed, StoreError> {
        let live = begin.then(|| self.live_pieces());
        let shed = self.store_mut().shed(live)?;
        if shed == Shed::Done {
            // What could not be read, and so stayed, may be readable now.
            self.tablets.searched = Some(keys::tablet_end(LOCAL_TABLET).to_vec());
        }
        Ok(shed)
    }
}
