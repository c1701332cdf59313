//! Whom a damaged table concerns.

use crate::keys::{self, LOCAL_TABLET};
use crate::{Piece, Pieces};
use lsm_tree::coding::Decode;
use lsm_tree::table::block::Header;
use lsm_tree::table::block::decoder::ParsedItem;
use lsm_tree::table::{Block, DataBlock};
use lsm_tree::{AbstractTree, AnyTree, Slice, Table};
use pontoon_types::TabletId;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::path::PathBuf;
use xxhash_rust::xxh3::xxh3_128;

/// A table that does not hold what was written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedTable {
    /// Its file.
    pub path: PathBuf,
    /// Where the first block that cannot be read begins in the file; `None` if all rows can, and what leads to them cannot.
    pub offset: Option<u64>,
    /// The first and the last tablet that it has rows of.
    pub tablets: (TabletId, TabletId),
    /// The stored keys of which some rows may not be readable. All others can be read.
    pub lost: Vec<Range<Vec<u8>>>,
    /// Whether all attempts to get rid of it have failed. It stays until the next opening, and then it is tried again.
    pub is_stuck: bool,
}

impl DamagedTable {
    /// Whether rows of a replica with these pieces may not be readable.
    #[must_use]
    pub fn has_lost(&self, pieces: &Pieces) -> bool {
        pieces.iter().any(|piece| self.has_lost_some_of(&piece))
    }

    /// Whether it may have lost rows of the node's own. No peer has those: the node has to be replaced.
    #[must_use]
    pub fn has_lost_local_rows(&self) -> bool {
        self.has_lost_some_of(&Piece::whole(LOCAL_TABLET))
    }

    /// The tablets at both ends of what may be lost: no keys, for the log.
    pub(super) fn lost_tablets(&self) -> impl Iterator<Item = [Option<TabletId>; 2]> {
        let lost = self.lost.iter();
        lost.map(|lost| [&lost.start, &lost.end].map(|key| keys::tablet_of(key)))
    }

    pub(super) fn has_lost_some_of(&self, piece: &Piece) -> bool {
        let (start, end) = (
            keys::tablet_prefix(piece.tablet),
            keys::tablet_end(piece.tablet),
        );
        let in_tablet = |lost: &&Range<Vec<u8>>| *lost.start < *end && *start < *lost.end;
        let mut lost = self.lost.iter().filter(in_tablet);
        lost.any(|lost| lost.start < piece.stored_end() && piece.stored_start() < lost.end)
    }
}

/// The tables that a read looked into which met damage at the first key from `from` on: in every run, the first that has
/// any up to `to`.
pub(super) fn suspects(tree: &AnyTree, from: &[u8], to: &[u8]) -> Vec<Table> {
    let version = tree.current_version();
    let runs = version.iter_levels().flat_map(|level| level.iter());
    runs.filter_map(|run| {
        let mut tables = run.iter();
        let first = tables.find(|table| **table.metadata.key_range.max() >= *from)?;
        (**first.metadata.key_range.min() <= *to).then(|| first.clone())
    })
    .collect()
}

/// The file that such a read could not read; the tree's error does not say. `None` if it cannot be told, because what leads to a
/// single row is damaged, or it has gone.
pub(super) fn culprit(tree: &AnyTree, from: &[u8], to: &[u8]) -> Option<PathBuf> {
    let is_unreadable = |table: &Table| {
        let mut rows = table.range(Slice::from(from)..=Slice::from(to));
        // Behind the first key there is nothing that it has read.
        let read = rows.find(|row| !matches!(row, Ok(row) if *row.key.user_key == *from));
        matches!(read, Some(Err(_)))
    };
    let mut tables = suspects(tree, from, to).into_iter();
    let table = tables.find(is_unreadable)?;
    Some(table.path.to_path_buf())
}

/// Finds out which rows of a damaged table can be read.
pub(super) fn locate(table: &Table) -> DamagedTable {
    let keys = &table.metadata.key_range;
    // The tree has only keys that were made here; one that were not would concern everybody.
    let first = keys::tablet_of(keys.min()).unwrap_or(LOCAL_TABLET);
    let last = keys::tablet_of(keys.max()).unwrap_or(TabletId(u64::MAX));
    let mut search = Search {
        table,
        lost: Vec::new(),
        good: None,
        bad_from: None,
        at: 0,
        offset: None,
    };
    // What cannot be read from some point on is lost from there on.
    if search.run().is_err() {
        search.offset.get_or_insert(search.at);
        search.lose_until(behind(keys.max()));
    } else if search.bad_from.is_some() {
        search.lose_until(behind(keys.max()));
    }
    let mut lost = search.lost;
    if lost.is_empty() {
        // It is not in the rows, but in what leads to them.
        lost.push(keys.min().to_vec()..behind(keys.max()));
    }
    DamagedTable {
        path: table.path.to_path_buf(),
        offset: search.offset,
        tablets: (first, last),
        lost,
        is_stuck: false,
    }
}

/// The first key behind one.
fn behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

struct Search<'a> {
    table: &'a Table,
    lost: Vec<Range<Vec<u8>>>,
    /// The last block that is in order, as it is on the disk.
    good: Option<Vec<u8>>,
    /// The last row before a block that is not. Whoever has it must read on to know that it is the last.
    bad_from: Option<Vec<u8>>,
    /// Where the block begins that is looked at.
    at: u64,
    /// Where the first one begins that is not in order.
    offset: Option<u64>,
}

impl Search<'_> {
    /// Goes through the blocks with rows, which lie one behind the other from the beginning of the file.
    fn run(&mut self) -> io::Result<()> {
        let file = File::open(&*self.table.path)?;
        let len = file.metadata()?.len();
        let mut file = BufReader::with_capacity(256 << 10, file);
        for _ in 0..self.table.metadata.data_block_count {
            let mut block = vec![0; Header::serialized_len()];
            file.read_exact(&mut block)?;
            // Where the next block begins only the header knows.
            let header = Header::decode_from(&mut &block[..]).map_err(io::Error::other)?;
            if u64::from(header.data_length) > len {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let front = block.len();
            block.resize(front + header.data_length as usize, 0);
            file.read_exact(&mut block[front..])?;
            let began = self.at;
            self.at += block.len() as u64;
            if xxh3_128(&block[front..]) != header.checksum.into_u128() {
                self.offset.get_or_insert(began);
                self.bad_from.get_or_insert(self.last_good());
                continue;
            }
            if self.bad_from.is_some() {
                let end = self.first_key(&block).map(|next| self.lost_before(&next));
                self.lose_until(end.unwrap_or_else(|| behind(self.table.metadata.key_range.max())));
            }
            self.good = Some(block);
        }
        Ok(())
    }

    fn lose_until(&mut self, end: Vec<u8>) {
        let start = self.bad_from.take().unwrap_or_else(|| self.last_good());
        self.lost.push(start..end);
    }

    /// Where the rows end that may be lost, if the next one that is not is at `next`.
    fn lost_before(&self, next: &Slice) -> Vec<u8> {
        // For a key up to the last one of a damaged block the table's index leads there.
        let leads_to_next = |from: &[u8]| {
            let first = self.table.range(Slice::from(from)..).next();
            matches!(first, Some(Ok(row)) if row.key.user_key == *next)
        };
        let tablet = keys::tablet_of(next).map(keys::tablet_prefix);
        match tablet.filter(|tablet| leads_to_next(tablet)) {
            Some(tablet) => tablet.to_vec(),
            None if leads_to_next(next) => next.to_vec(),
            // Newer versions of that row are.
            None => behind(next),
        }
    }

    /// The last row that could be read, or the table's first.
    fn last_good(&self) -> Vec<u8> {
        let block = self.good.as_deref().and_then(|block| self.decode(block));
        let key = block.and_then(|block| {
            let last = block.iter().next_back()?;
            Some(last.materialize(&block.inner.data).key.user_key)
        });
        let key = key.as_ref().unwrap_or(self.table.metadata.key_range.min());
        key.to_vec()
    }

    fn first_key(&self, block: &[u8]) -> Option<Slice> {
        let block = self.decode(block)?;
        let first = block.iter().next()?;
        Some(first.materialize(&block.inner.data).key.user_key)
    }

    fn decode(&self, mut block: &[u8]) -> Option<DataBlock> {
        let compression = self.table.metadata.data_block_compression;
        Some(DataBlock::new(
            Block::from_reader(&mut block, compression).ok()?,
        ))
    }
}
