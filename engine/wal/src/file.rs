//! Files as the log sees them: names in one directory, bytes at offsets, and syncs.
//!
//! [`FsDirectory`] is the real one, with files that are mapped; [`MemoryDisk`] is the simulator's, which
//! forgets and tears what was not synced. Nothing above this module knows which of them it has.

mod mapped;
mod memory;

pub use mapped::{FsDirectory, MappedFile};
pub use memory::{MemoryDisk, MemoryFile};

use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// A directory that belongs to one log.
///
/// Creating, renaming and removing are durable only after [`Directory::sync`].
pub trait Directory: Send + Sync + 'static {
    /// Its files.
    type File: LogFile;

    /// Creates an empty file.
    ///
    /// # Errors
    /// If the name is taken or the system refuses.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// If there is none or the system refuses.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// The names of all files, in any order.
    ///
    /// # Errors
    /// If the system refuses.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Gives a file another name, in place of a file that had it.
    ///
    /// # Errors
    /// If the system refuses.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name.
    ///
    /// # Errors
    /// If there is none or the system refuses.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all changes of names durable.
    ///
    /// # Errors
    /// If the system could not; then nothing is known about them.
    fn sync(&self) -> io::Result<()>;

    /// A number that no earlier call has returned, with all likelihood: the salt of a segment.
    fn salt(&self) -> u64;
}

/// A file of a log. Any number of threads may use one at the same time, as long as nobody writes
/// what others read.
pub trait LogFile: Send + Sync + 'static {
    /// Its length in bytes.
    ///
    /// # Errors
    /// If the system refuses.
    fn bytes(&self) -> io::Result<u64>;

    /// Makes the file `bytes` long and gives it all its blocks, so that no later write can find the
    /// disk full. What they hold reads as zero.
    ///
    /// # Errors
    /// `StorageFull` if there are not so many; whatever else the system says.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Overwrites a range with zeros, in a way that leaves it fit for small writes.
    ///
    /// # Errors
    /// If the system refuses.
    fn zero(&self, from: u64, to: u64) -> io::Result<()>;

    /// Gets the file ready for use from `from` on: mapped and in memory.
    ///
    /// # Errors
    /// If the system refuses.
    fn attach(&self, from: u64) -> io::Result<()>;

    /// Nothing more is laid in it for now: its map need not be in memory any more. What is read all the same comes back.
    fn leave(&self);

    /// Writes within the file's length. Not durable before [`LogFile::sync`].
    ///
    /// # Errors
    /// If the range is outside the file or the system refuses.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Fills `buffer` from `offset`, by a call that reports a bad block as an error.
    ///
    /// # Errors
    /// If the file ends before, or the system refuses.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Makes durable what was written and allocated.
    ///
    /// # Errors
    /// If the system could not. What was written since the last sync is then lost or not; a later
    /// sync that succeeds says nothing about it.
    fn sync(&self) -> io::Result<()>;

    /// Copies from memory without a call into the system; `false` if the file is not in memory.
    fn peek(&self, offset: u64, buffer: &mut [u8]) -> bool;

    /// The bytes of a range in place, without a copy, if the file is mapped. The caller must know
    /// that nobody will write them as long as the file is what it is now.
    fn view(self: &Arc<Self>, offset: u64, length: usize) -> Option<Bytes>;
}
