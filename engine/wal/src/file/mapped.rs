//! Real files, mapped. All of the crate's `unsafe` is in this file.
#![allow(unsafe_code)]

use super::{Directory, LogFile};
use crate::error::{Operation, WalError};
use crate::format::PAGE_BYTES;
use bytes::Bytes;
use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
use rustix::fs::{FallocateFlags, FlockOperation};
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

const LOCK_FILE: &str = "LOCK";
static ZEROS: [u8; FOLIO_BYTES] = [0; FOLIO_BYTES];
/// In what pieces a file is filled, and the page cache then holds it, where that has no price: writes of many pages cost
/// half as much as in folios of one page. Larger ones gain little, and small writes have to go over all of one.
const FOLIO_BYTES: usize = 64 << 10;
/// The statfs type of ext2 to ext4 (linux/magic.h).
const EXT4: u64 = 0xef53;
/// statfs types of file systems whose pages another machine can change: NFS, SMB, CIFS, SMB2, Ceph,
/// AFS (linux/magic.h and the file systems' own headers).
const NETWORK_FILE_SYSTEMS: [u64; 6] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x00c3_6400,
    0x5346_414f,
];

/// A directory of the file system, held by a lock file for as long as this lives.
#[derive(Debug)]
pub struct FsDirectory {
    path: PathBuf,
    directory: File,
    /// In what pieces its files are filled.
    fill_bytes: usize,
    is_read_only: bool,
    /// `None` if it was opened for reading and nobody has ever had a lock.
    _lock: Option<File>,
}

impl FsDirectory {
    /// Opens a directory, which is made if it is not there, and locks it.
    ///
    /// # Errors
    /// [`WalError::Locked`] if another process has it, [`WalError::NetworkFileSystem`] if it is not on
    /// a local disk, [`WalError::Io`] if the system refuses.
    pub fn open(path: &Path) -> Result<Self, WalError> {
        let name = path.display().to_string();
        std::fs::create_dir_all(path).map_err(WalError::io(Operation::Create, &name))?;
        Self::open_existing(path, false)
    }

    /// Opens a directory that must be there, to look at it: needs no permission to write, and changes nothing.
    /// Any number may look at the same time; a log is not opened meanwhile.
    ///
    /// # Errors
    /// As [`FsDirectory::open`].
    pub fn open_read_only(path: &Path) -> Result<Self, WalError> {
        Self::open_existing(path, true)
    }

    fn open_existing(path: &Path, is_read_only: bool) -> Result<Self, WalError> {
        let name = path.display().to_string();
        let directory = File::open(path).map_err(WalError::io(Operation::Open, &name))?;
        let kind = rustix::fs::fstatfs(&directory)
            .map_err(io::Error::from)
            .map_err(WalError::io(Operation::Open, &name))?
            .f_type as u64
            & 0xffff_ffff;
        if NETWORK_FILE_SYSTEMS.contains(&kind) {
            return Err(WalError::NetworkFileSystem {
                directory: path.to_owned(),
                kind,
            });
        }
        let lock = if is_read_only {
            Self::lock_to_read(path)?
        } else {
            Some(Self::lock_to_write(path)?)
        };
        Ok(Self {
            path: path.to_owned(),
            directory,
            // ext4 keeps account of what is dirty by blocks, whatever lies in one folio. Others wrote whole folios
            // in some kernels (XFS from 5.18 to 6.5), so there no folio is larger than a page.
            fill_bytes: if kind == EXT4 {
                FOLIO_BYTES
            } else {
                PAGE_BYTES
            },
            is_read_only,
            _lock: lock,
        })
    }

    fn lock_to_write(path: &Path) -> Result<File, WalError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK_FILE))
            .map_err(WalError::io(Operation::Lock, LOCK_FILE))?;
        Self::lock(path, &file, FlockOperation::NonBlockingLockExclusive)?;
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(WalError::io(Operation::Lock, LOCK_FILE))?;
        Ok(file)
    }

    fn lock_to_read(path: &Path) -> Result<Option<File>, WalError> {
        let file = match File::open(path.join(LOCK_FILE)) {
            Ok(file) => file,
            // Who writes a log has made it first.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(WalError::io(Operation::Lock, LOCK_FILE)(error)),
        };
        Self::lock(path, &file, FlockOperation::NonBlockingLockShared)?;
        Ok(Some(file))
    }

    /// The lock is the kernel's and goes with the process; the id in the file is only for people.
    fn lock(path: &Path, mut file: &File, operation: FlockOperation) -> Result<(), WalError> {
        match rustix::fs::flock(file, operation) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let read = Read::take(&mut file, 32).read_to_string(&mut text);
                let holder = read.ok().and_then(|_| text.trim().parse().ok());
                // Those who only look leave the id of who wrote last, who may be long gone.
                let is_there = |id: &u32| Path::new(&format!("/proc/{id}")).exists();
                Err(WalError::Locked {
                    directory: path.to_owned(),
                    holder: holder.filter(is_there),
                })
            }
            Err(errno) => Err(WalError::io(Operation::Lock, LOCK_FILE)(errno.into())),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Directory for FsDirectory {
    type File = MappedFile;

    fn create(&self, name: &str) -> io::Result<MappedFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let file = options.open(self.path.join(name))?;
        Ok(MappedFile::new(file, self.fill_bytes))
    }

    fn open(&self, name: &str) -> io::Result<MappedFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(!self.is_read_only);
        let file = options.open(self.path.join(name))?;
        Ok(MappedFile::new(file, self.fill_bytes))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is not one of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn salt(&self) -> u64 {
        // The standard library seeds each state from the system's randomness.
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        hasher.finish()
    }
}

/// A file that is read through a shared map, once it is attached, and written by `pwrite`.
///
/// Both see the same pages of the cache. Storing through the map would save the call, but each sync then has
/// to take the write permission from every page that was stored to, which interrupts all cores that
/// run a thread of the process, and the next store to the page faults: in a node of many threads that
/// cost more CPU per sync than everything else that the log does. It also lets the map be read-only, so
/// no stray store can ever reach the log.
///
/// The map lives as long as the file does, and views of it keep the file alive; the file is never made
/// shorter, so a mapped page always has a block behind it.
#[derive(Debug)]
pub struct MappedFile {
    file: File,
    fill_bytes: usize,
    map: OnceLock<MmapRaw>,
}

impl MappedFile {
    const fn new(file: File, fill_bytes: usize) -> Self {
        Self {
            file,
            fill_bytes,
            map: OnceLock::new(),
        }
    }

    /// The map, and a checked pointer to a range of it.
    fn mapped(&self, offset: u64, length: usize) -> Option<*const u8> {
        let map = self.map.get()?;
        let offset = usize::try_from(offset).ok()?;
        if offset.checked_add(length)? > map.len() {
            return None;
        }
        // SAFETY: the range was just checked to lie within the one allocation of the map.
        Some(unsafe { map.as_ptr().add(offset) })
    }
}

impl LogFile for MappedFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            // A file system without fallocate gets its blocks from the zeros and the sync that follow.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes zeros piece by piece, each of which becomes a folio of the page cache.
    fn zero(&self, from: u64, to: u64) -> io::Result<()> {
        // Folios that reading left behind are dropped, as far as they are clean. It is advice: where
        // it is not followed the log is slower and not wrong.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::Random);
        let mut offset = from;
        while offset < to {
            let fill_bytes = self.fill_bytes as u64;
            let piece_end = (offset / fill_bytes + 1) * fill_bytes;
            let length = (piece_end.min(to) - offset) as usize;
            self.file.write_all_at(&ZEROS[..length], offset)?;
            offset += length as u64;
        }
        Ok(())
    }

    fn attach(&self, from: u64) -> io::Result<()> {
        let map = match self.map.get() {
            Some(map) => map,
            None => {
                let length = usize::try_from(self.bytes()?).map_err(io::Error::other)?;
                let map = MmapOptions::new()
                    .len(length)
                    .map_raw_read_only(&self.file)?;
                map.advise(Advice::Random)?;
                // Whoever else attached at the same time has made the same map.
                self.map.get_or_init(|| map)
            }
        };
        let from = (from as usize / PAGE_BYTES * PAGE_BYTES).min(map.len());
        if from < map.len() {
            // Kernels before 5.14 do not know this advice; then the log's thread takes the faults.
            let _ = map.advise_range(Advice::PopulateRead, from, map.len() - from);
        }
        Ok(())
    }

    fn leave(&self) {
        if let Some(map) = self.map.get() {
            // SAFETY: the map is shared and read-only. What goes is its hold on pages of the file, which the next read
            // through it finds again, with the same bytes.
            let _ = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
        }
    }

    #[inline]
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn peek(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let Some(source) = self.mapped(offset, buffer.len()) else {
            return false;
        };
        // SAFETY: `source` has `buffer.len()` bytes in the map, which the caller knows to be laid
        // and so never written again while this file is what it is.
        unsafe { std::ptr::copy_nonoverlapping(source, buffer.as_mut_ptr(), buffer.len()) };
        true
    }

    fn view(self: &Arc<Self>, offset: u64, length: usize) -> Option<Bytes> {
        let start = self.mapped(offset, length)?;
        Some(Bytes::from_owner(View {
            _file: Arc::clone(self),
            start,
            length,
        }))
    }
}

/// A range of a map that keeps the map alive.
struct View {
    _file: Arc<MappedFile>,
    start: *const u8,
    length: usize,
}

// SAFETY: the pointer is to shared memory that is only read through it, and the file that it holds on
// to is itself `Send` and `Sync`.
unsafe impl Send for View {}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the range lies in the map of `_file`, which lives as long as this; its bytes are laid
        // and are not written again before the last handle on the file is gone.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}
