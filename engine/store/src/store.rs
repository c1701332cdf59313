//! The two traits that the state machine stands on, and what every store keeps to.

use crate::{Durability, Piece, Stager, StoreError, WriteBatch};
use bytes::Bytes;
use pontoon_types::{GroupId, LogIndex, TabletId};

/// A stored key and its value. Both share memory with the store and are cheap to clone.
pub type Row = (Bytes, Bytes);

/// An ordered, multi-version map from bytes to bytes, without a log of its own.
///
/// It is owned by one apply thread, the only one that writes and rotates. What it promises:
///
/// - A batch's rows and applied indexes become visible together, and reach the disk together.
/// - After a crash it holds exactly the batches up to some point in their order, and that point is at
///   least the last finished flush. [`Store::applied`] says which one; the Raft log has the rest.
/// - A view never changes, whatever is written, flushed or compacted after it was taken.
pub trait Store: Send + 'static {
    /// A pinned version.
    type View: View;
    /// What takes in the rows of a tablet that nothing refers to yet.
    type Stager: Stager;

    /// Applies a batch and empties it. It is visible when this returns, and durable after a later
    /// flush has finished. May wait for a flush if too much memory waits for the disk.
    ///
    /// # Errors
    /// If memory is full and the disk does not take it, or the store has failed; the batch is then
    /// untouched, and so is the store.
    fn write(&mut self, batch: &mut WriteBatch) -> Result<(), StoreError>;

    /// The newest value of a row, for the apply thread itself.
    ///
    /// # Errors
    /// If the row could not be read.
    fn get(&self, stored_key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Pins the present version, for a read.
    fn view(&self) -> Self::View;

    /// Holds the present version, for long: as far as the store can, it keeps nothing but what the version consists of.
    fn hold(&self) -> Self::View {
        self.view()
    }

    /// Up to where `group` has been applied; zero if it is unknown. After opening, this is what was
    /// durable.
    fn applied(&self, group: GroupId) -> LogIndex;

    /// [`Store::applied`] of every group, in their order.
    fn all_applied(&self) -> Vec<(GroupId, LogIndex)>;

    /// Tells what is durable, from any thread.
    fn durability(&self) -> Durability;

    /// What was written just now is durable once [`Durability::generation`] has come to this.
    fn generation(&self) -> u64;

    /// Hands everything written so far to the next flush, and does not wait for it. The store does so
    /// by itself when a memtable is full; whoever wants to cut the log of idle groups asks for it.
    ///
    /// # Errors
    /// If the store has failed.
    fn rotate(&mut self) -> Result<(), StoreError>;

    /// Begins to take in the rows of a new tablet, beside everything else.
    ///
    /// # Errors
    /// If the store has failed, or the process cannot do more.
    fn stager(&mut self, tablet: TabletId) -> Result<Self::Stager, StoreError>;

    /// Begins to give back the space of tablets, or parts of them, that nothing refers to any more, where it can be had without
    /// reading rows. That goes on in the background, and not before everything written so far is durable: a crash must not
    /// bring back a reference to what is gone by then. Some rows stay, and some that were deleted may be back.
    ///
    /// # Errors
    /// If the store has failed.
    fn drop_pieces(&mut self, pieces: &[Piece]) -> Result<(), StoreError>;

    /// Whether that is still going on.
    fn is_dropping(&self) -> bool;

    /// Makes everything written so far durable before it returns.
    ///
    /// # Errors
    /// If that was not possible; the log still has it.
    fn flush(&mut self) -> Result<(), StoreError>;
}

/// An immutable version of a store, from which any thread may read.
///
/// While it lives it keeps memory and files alive: keep a [`Store::view`] for a batch of reads, and what [`Store::hold`] gives for
/// one transfer that makes progress, not longer.
pub trait View: Clone + Send + Sync + 'static {
    /// What it keeps in memory that the store itself has let go: parts, which other views may share, each with a name of its
    /// own and its bytes.
    fn kept_memory(&self) -> Vec<(usize, u64)> {
        Vec::new()
    }

    /// The value of a row.
    ///
    /// # Errors
    /// If it could not be read.
    fn get(&self, stored_key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// The rows from `from` up to, and without, `to`, in key order.
    ///
    /// # Errors
    /// An item is an error if the row there could not be read; what follows it is not to be trusted.
    fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> impl Iterator<Item = Result<Row, StoreError>> + Send + use<'a, Self>;
}
