//! A snapshot that is sent from here.

use super::message::{SnapshotBody, put_row};
use bytes::Bytes;
use pontoon_raft::Message;
use pontoon_store::{KvSnapshot, StateHash, StoreError, View};
use pontoon_types::{GroupId, Instant, NodeId, ReplicaId};
use std::collections::VecDeque;

/// Where one transfer stands.
pub(super) struct Outgoing<V> {
    pub(super) group: GroupId,
    pub(super) peer: ReplicaId,
    pub(super) to: NodeId,
    pub(super) state: State<V>,
    pub(super) began_at: Instant,
    /// Bytes of rows that were sent.
    pub(super) bytes: u64,
    /// When it is given up, unless more of it has been pulled before.
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
        /// `None` until the receiver pulls.
        cursor: Option<Box<Cursor>>,
    },
}

/// Chunks that may be under way before the receiver says that it has the first of them: one is read while another travels and a
/// third is staged. A break costs as many. If a row makes them much larger than they should be, it is fewer.
const MAX_UNDER_WAY: usize = 3;

/// A key, the hash of all rows up to it, and the bytes of the chunk that ends there.
#[derive(Clone, Default)]
struct Mark {
    key: Bytes,
    hash: StateHash,
    chunk_bytes: usize,
}

/// Where the receiver is, and where what is on its way to it ends.
#[derive(Default)]
pub(super) struct Cursor {
    /// What the receiver has. `None` until it has said so, or if that ends where no chunk from here did.
    held: Option<Mark>,
    /// As far as that is hashed here, if the receiver has it from somebody else.
    hashed: Mark,
    /// Behind the last key of this the receiver wants more; it is that of `held` if there is one.
    after: Bytes,
    /// The ends of the chunks that are under way, in order.
    under_way: VecDeque<Mark>,
    /// The last of them is the last of all.
    has_last: bool,
    /// What was under way when the receiver last pulled again: it may only have been late.
    late: VecDeque<Mark>,
    /// The last key that the receiver ever said it has.
    furthest: Bytes,
}

impl Cursor {
    /// The receiver has all rows up to `after`, and wants more. If that is not the end of a chunk under way, those are taken to be
    /// lost, and what follows is sent again. Returns whether it has come further than ever.
    pub(super) fn pulled(&mut self, after: Bytes) -> bool {
        if let Some(at) = self.under_way.iter().position(|mark| mark.key == after) {
            self.held = self.under_way.drain(..=at).next_back();
        } else {
            let known = self
                .late
                .iter()
                .chain(&self.held)
                .find(|mark| mark.key == after);
            self.held = match after.is_empty() {
                true => Some(Mark::default()),
                false => known.cloned(),
            };
            let lost = std::mem::take(&mut self.under_way);
            if !lost.is_empty() {
                self.late = lost;
            }
        }
        self.after = after;
        if self.hashed.key > self.after {
            self.hashed = Mark::default();
        }
        let is_further = self.after > self.furthest;
        if is_further {
            self.furthest = self.after.clone();
        }
        is_further
    }

    /// Whether the receiver waits for a chunk that may be sent; they should have so many bytes.
    pub(super) fn has_room(&self, chunk_bytes: usize) -> bool {
        let bytes: usize = self.under_way.iter().map(|mark| mark.chunk_bytes).sum();
        match self.under_way.len() {
            0 => true,
            some => some < MAX_UNDER_WAY && bytes < MAX_UNDER_WAY * chunk_bytes && !self.has_last,
        }
    }

    /// Whether what the receiver has has to be hashed here first.
    pub(super) fn is_unhashed(&self) -> bool {
        self.under_way.is_empty() && self.held.is_none()
    }

    /// Hashes about so many bytes more of what the receiver has from somebody else.
    fn hash_on<V: View>(
        &mut self,
        snapshot: &KvSnapshot<V>,
        max_bytes: usize,
    ) -> Result<(), StoreError> {
        let mut mark = std::mem::take(&mut self.hashed);
        let from = (!mark.key.is_empty()).then(|| mark.key.clone());
        let mut bytes = 0;
        for row in snapshot.rows(from.as_deref()) {
            let (key, value) = row?;
            if key > self.after {
                break;
            }
            if bytes >= max_bytes {
                self.hashed = mark;
                return Ok(());
            }
            bytes += key.len() + value.len();
            mark.hash.push(&key, &value);
            mark.key = key;
        }
        mark.key = self.after.clone();
        self.held = Some(mark);
        Ok(())
    }

    /// The next chunk; `None` if this turn went into hashing what the receiver has from somebody else, as many bytes of it.
    ///
    /// # Errors
    /// If a row could not be read.
    pub(super) fn chunk<V: View>(
        &mut self,
        snapshot: &KvSnapshot<V>,
        max_bytes: usize,
    ) -> Result<Option<SnapshotBody>, StoreError> {
        let Some(mut mark) = self.under_way.back().or(self.held.as_ref()).cloned() else {
            self.hash_on(snapshot, max_bytes)?;
            return Ok(None);
        };
        let after = mark.key.clone();
        let mut rows = Vec::with_capacity(max_bytes.min(1 << 20));
        self.has_last = true;
        let from = (!after.is_empty()).then_some(&after[..]);
        for row in snapshot.rows(from) {
            let (key, value) = row?;
            if rows.len() >= max_bytes {
                self.has_last = false;
                break;
            }
            put_row(&mut rows, &key, &value);
            mark.hash.push(&key, &value);
            mark.key = key;
        }
        let hash = self.has_last.then(|| mark.hash.finish());
        mark.chunk_bytes = rows.len();
        self.under_way.push_back(mark);
        Ok(Some(SnapshotBody::Chunk {
            after,
            hash,
            rows: rows.into(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_store::{KvMachine, ModelStore, ModelView, ReplicaRecord, Stager};
    use pontoon_types::{ConfState, Epoch, LogIndex, Members, ShardId};

    const CHUNK_BYTES: usize = 1_000;

    /// A state of some chunks.
    fn state() -> KvSnapshot<ModelView> {
        let mut machine = KvMachine::open(ModelStore::new(1 << 20)).unwrap();
        let (tablet, mut stager) = machine.begin_install().unwrap();
        for row in 0..100 {
            let key = format!("d{row:03}");
            stager.push(key.as_bytes(), &[7; 100]).unwrap();
        }
        stager.finish().unwrap();
        let group = GroupId(1);
        let record = ReplicaRecord {
            group,
            shard: ShardId(1),
            replica: ReplicaId(1),
            start: Bytes::new(),
            end: Bytes::new(),
            epoch: Epoch::default(),
            pieces: tablet.into(),
            conf_state: ConfState::of_voters([ReplicaId(1)]),
            members: Members::new([(ReplicaId(1), NodeId(1))]),
            descriptor: Bytes::new(),
        };
        machine.install(record, LogIndex(9)).unwrap();
        machine.snapshot(group).unwrap()
    }

    /// Sends as much as may be under way; the keys behind which each chunk ends.
    fn send(cursor: &mut Cursor, state: &KvSnapshot<ModelView>) -> Vec<Bytes> {
        let mut ends = Vec::new();
        while cursor.has_room(CHUNK_BYTES) {
            cursor.chunk(state, CHUNK_BYTES).unwrap();
            ends.extend(cursor.under_way.back().map(|mark| mark.key.clone()));
        }
        ends
    }

    #[test]
    fn a_chunk_that_was_only_late_is_known_again_when_its_end_is_pulled() {
        let state = state();
        // The first, the second or the third of them is the last that comes.
        for arrived in 0..MAX_UNDER_WAY {
            let mut cursor = Cursor::default();
            assert!(!cursor.pulled(Bytes::new()));
            let ends = send(&mut cursor, &state);
            assert_eq!(ends.len(), MAX_UNDER_WAY);
            // Nothing has come, so the same is pulled again, and again.
            for _ in 0..2 {
                assert!(!cursor.pulled(Bytes::new()), "that is no progress");
                assert!(cursor.under_way.is_empty());
            }
            assert!(cursor.pulled(ends[arrived].clone()), "it was only late");
            let held = cursor.held.as_ref().map(|mark| mark.key.clone());
            assert_eq!(
                held.as_ref(),
                Some(&ends[arrived]),
                "all rows up to there would be hashed again"
            );
            // The hash of all is right all the same.
            let mut hash = None;
            while hash.is_none() {
                let Some(SnapshotBody::Chunk {
                    after, hash: of, ..
                }) = cursor.chunk(&state, CHUNK_BYTES).unwrap()
                else {
                    panic!("no chunk");
                };
                assert!(after >= ends[arrived]);
                hash = of;
                let end = cursor.under_way[0].key.clone();
                assert!(cursor.pulled(end));
            }
            assert_eq!(hash, Some(state.hash().unwrap()));
        }
    }

    #[test]
    fn what_the_receiver_has_is_known_however_often_it_says_so() {
        let state = state();
        let mut cursor = Cursor::default();
        cursor.pulled(Bytes::new());
        let ends = send(&mut cursor, &state);
        // The answer to the first chunk was lost.
        for _ in 0..2 {
            cursor.pulled(ends[1].clone());
            let held = cursor.held.as_ref().map(|mark| &mark.key);
            assert_eq!(held, Some(&ends[1]));
        }
    }

    #[test]
    fn what_is_sent_again_meets_what_was_late_without_going_back() {
        let state = state();
        let mut cursor = Cursor::default();
        cursor.pulled(Bytes::new());
        let ends = send(&mut cursor, &state);
        cursor.pulled(Bytes::new());
        assert_eq!(send(&mut cursor, &state), ends, "the same is sent again");
        // Two late ones come, then two that were sent again, of which the receiver takes nothing.
        for end in &ends[..2] {
            assert!(cursor.pulled(end.clone()));
        }
        assert_eq!(cursor.under_way.len(), 1);
        assert!(!cursor.pulled(ends[1].clone()), "it is no further");
        let after = cursor.held.as_ref().map(|mark| mark.key.clone());
        assert_eq!(after.as_ref(), Some(&ends[1]));
        assert!(cursor.pulled(ends[2].clone()));
        assert!(!cursor.pulled(ends[1].clone()), "it has been further");
    }
}
