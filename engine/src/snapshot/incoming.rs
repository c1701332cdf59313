//! A snapshot that comes in.

use super::message::rows;
use bytes::Bytes;
use pontoon_raft::Message;
use pontoon_store::keys::{MAX_STORED_KEY_BYTES, Space};
use pontoon_store::{ReplicaRecord, Stager, StateHash};
use pontoon_types::{Instant, LogPosition, NodeId, TabletId};

/// Where one transfer stands.
pub(super) struct Incoming<S> {
    /// Who sends it, and by which number.
    pub(super) from: NodeId,
    pub(super) transfer: u64,
    pub(super) message: Box<Message>,
    /// What it is of.
    pub(super) last: LogPosition,
    /// The sender's record; what is local about it is replaced when all is here.
    pub(super) record: ReplicaRecord,
    pub(super) state: State<S>,
    pub(super) began_at: Instant,
    /// Bytes of rows that are here.
    pub(super) bytes: u64,
    /// When the next pull goes out if no chunk comes before.
    pub(super) pull_at: Instant,
    /// When it is given up, unless a chunk comes before.
    pub(super) expires_at: Instant,
}

pub(super) enum State<S> {
    /// The worker is asked whether it is wanted.
    Asking,
    /// The apply stage makes room for it.
    Opening,
    /// Rows come in.
    Receiving(Box<Staging<S>>),
}

/// The rows that are here.
pub(super) struct Staging<S> {
    pub(super) tablet: TabletId,
    stager: S,
    /// The last key that is here; empty: none.
    pub(super) after: Bytes,
    hash: StateHash,
}

/// What is wrong with a chunk.
#[derive(Debug)]
pub(super) enum ChunkError {
    /// It does not follow what is here: it was sent twice, or late.
    NotNext,
    /// It is not what a correct sender sends.
    Wrong(&'static str),
    /// The store does not take it.
    Store(pontoon_store::StoreError),
}

impl<S: Stager> Staging<S> {
    pub(super) fn new(tablet: TabletId, stager: S) -> Self {
        Self {
            tablet,
            stager,
            after: Bytes::new(),
            hash: StateHash::default(),
        }
    }

    /// Takes in the rows behind the last key.
    pub(super) fn take(&mut self, after: &Bytes, bytes: &Bytes) -> Result<(), ChunkError> {
        if *after != self.after {
            return Err(ChunkError::NotNext);
        }
        for row in rows(bytes) {
            let (key, value) = row.map_err(|_| ChunkError::Wrong("a row is cut short"))?;
            let is_row = key.first() == Some(&(Space::Data as u8));
            if !is_row || key.len() > MAX_STORED_KEY_BYTES {
                return Err(ChunkError::Wrong("a row has a key that no replica's has"));
            }
            if key <= &self.after[..] {
                return Err(ChunkError::Wrong("its rows are out of order"));
            }
            self.stager.push(key, value).map_err(ChunkError::Store)?;
            self.hash.push(key, value);
            self.after = bytes.slice_ref(key);
        }
        // Not a slice any more: it would keep the chunk alive.
        self.after = Bytes::copy_from_slice(&self.after);
        Ok(())
    }

    /// All rows are here: compares and makes them durable.
    pub(super) fn finish(self, hash: u128) -> Result<TabletId, ChunkError> {
        if self.hash.finish() != hash {
            return Err(ChunkError::Wrong("its rows are not those that were sent"));
        }
        self.stager.finish().map_err(ChunkError::Store)?;
        Ok(self.tablet)
    }
}
