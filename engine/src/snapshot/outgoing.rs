//! A snapshot that is sent from here.

use super::message::{SnapshotBody, put_row};
use bytes::Bytes;
use pontoon_raft::Message;
use pontoon_store::{KvSnapshot, StateHash, StoreError, View};
use pontoon_types::{GroupId, Instant, NodeId, ReplicaId};

/// Where one transfer stands.
pub(super) struct Outgoing<V> {
    pub(super) group: GroupId,
    pub(super) peer: ReplicaId,
    pub(super) to: NodeId,
    pub(super) state: State<V>,
    /// When it is given up, unless something happens before.
    pub(super) expires_at: Instant,
}

pub(super) enum State<V> {
    /// The apply stage pins it.
    Pinning,
    /// It is pinned; whether it is still wanted is the worker's to say.
    Taking(KvSnapshot<V>),
    /// The receiver knows of it, or soon will.
    Offered {
        snapshot: KvSnapshot<V>,
        message: Box<Message>,
        /// When it is offered again; `None` once it is being pulled.
        offer_at: Option<Instant>,
        /// What was pulled and has to wait for the budget.
        pulled: Option<Bytes>,
        cursor: Box<Cursor>,
    },
}

/// A key, and the hash of all rows up to it.
#[derive(Clone, Default)]
struct Mark {
    key: Bytes,
    hash: StateHash,
}

/// Where the last chunk began and ended.
#[derive(Clone, Default)]
pub(super) struct Cursor {
    before: Mark,
    after: Mark,
}

impl Cursor {
    /// The chunk behind `after`.
    ///
    /// # Errors
    /// If a row could not be read.
    pub(super) fn chunk<V: View>(
        &mut self,
        snapshot: &KvSnapshot<V>,
        after: Bytes,
        max_bytes: usize,
    ) -> Result<SnapshotBody, StoreError> {
        let mut mark = if after == self.after.key {
            self.after.clone()
        } else if after == self.before.key {
            self.before.clone()
        } else {
            // The receiver has this from somebody else: what it holds is hashed here too.
            let mut mark = Mark::default();
            for row in snapshot.rows(None) {
                let (key, value) = row?;
                if key > after {
                    break;
                }
                mark.hash.push(&key, &value);
            }
            mark.key = after.clone();
            mark
        };
        self.before = mark.clone();
        let mut rows = Vec::with_capacity(max_bytes.min(1 << 20));
        let mut is_last = true;
        let from = (!after.is_empty()).then_some(&after[..]);
        for row in snapshot.rows(from) {
            let (key, value) = row?;
            if rows.len() >= max_bytes {
                is_last = false;
                break;
            }
            put_row(&mut rows, &key, &value);
            mark.hash.push(&key, &value);
            mark.key = key;
        }
        let hash = is_last.then(|| mark.hash.finish());
        self.after = mark;
        Ok(SnapshotBody::Chunk {
            after,
            hash,
            rows: rows.into(),
        })
    }
}
