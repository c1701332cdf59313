//! A disk in memory that behaves like the worst real one: it keeps nothing that was not synced, or any
//! part of it.
//!
//! Every file has what is durable and what the page cache holds. A crash ([`MemoryDisk::crash`]) keeps,
//! of each page written since the last sync, the old bytes, the new ones, or sectors of both; of each change
//! of names since the last directory sync, a prefix. A failed sync drops the dirty state of its pages, as
//! Linux may: they stay readable, are never written, and later syncs succeed.

use super::{Directory, LogFile};
use crate::format::PAGE_BYTES;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

const SECTOR_BYTES: usize = 512;

/// A simulated disk with one directory. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u64, Content>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending_names: Vec<NameChange>,
    next_file: u64,
    salts: u64,
    capacity: Option<u64>,
    syncs: u64,
    failing_sync: Option<u64>,
    operations: u64,
    recycled: u64,
    power_ends_at: Option<u64>,
    #[cfg(test)]
    before_writes: BeforeWrites,
}

/// What a test does before each write.
#[cfg(test)]
#[derive(Clone, Default)]
struct BeforeWrites(Option<Arc<dyn Fn() + Send + Sync>>);

#[cfg(test)]
impl std::fmt::Debug for BeforeWrites {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BeforeWrites").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Content {
    durable: Vec<u8>,
    cached: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// Pages that give an error when they are read.
    bad: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

/// A small generator, so that a crash is a function of its seed.
struct Dice(u64);

impl Dice {
    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

impl MemoryDisk {
    /// An empty disk without bounds.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Has something done before each write from now on.
    #[cfg(test)]
    pub(crate) fn before_writes(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.state.lock().before_writes = BeforeWrites(Some(Arc::new(hook)));
    }

    /// Cuts the power: what remains is on the disk that is returned. Handles on the old disk go on
    /// with their own copy and reach nothing.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let state = self.state.lock();
        let mut dice = Dice(seed);
        let mut names = state.durable_names.clone();
        let kept = dice.roll(state.pending_names.len() as u64 + 1) as usize;
        for change in &state.pending_names[..kept] {
            change.apply(&mut names);
        }
        let mut files = BTreeMap::new();
        for id in names.values() {
            let content = &state.files[id];
            let mut bytes = content.durable.clone();
            if content.cached.len() != bytes.len() && dice.roll(2) == 0 {
                bytes.resize(content.cached.len(), 0);
            }
            for &page in &content.dirty {
                let fate = dice.roll(3);
                for at in (page * PAGE_BYTES..(page + 1) * PAGE_BYTES).step_by(SECTOR_BYTES) {
                    let end = (at + SECTOR_BYTES).min(content.cached.len());
                    let keep = fate == 1 || fate == 2 && dice.roll(2) == 0;
                    if keep && at < end && end <= bytes.len() {
                        bytes[at..end].copy_from_slice(&content.cached[at..end]);
                    }
                }
            }
            let content = Content {
                durable: bytes.clone(),
                cached: bytes,
                dirty: BTreeSet::new(),
                bad: content.bad.clone(),
            };
            files.insert(*id, content);
        }
        Self {
            state: Arc::new(Mutex::new(State {
                files,
                durable_names: names.clone(),
                names,
                next_file: state.next_file,
                salts: state.salts,
                capacity: state.capacity,
                ..State::default()
            })),
        }
    }

    /// Bounds the bytes that files can have together; `None` lifts the bound.
    pub fn limit(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// Makes the file sync that comes after `successes` more fail, once.
    pub fn fail_sync_after(&self, successes: u64) {
        let mut state = self.state.lock();
        state.failing_sync = Some(state.syncs + successes);
    }

    /// Lets `operations` more changes happen (writes, allocations, syncs, changes of names); all after them
    /// fail and change nothing. What the power cut leaves is then told by [`MemoryDisk::crash`].
    pub fn cut_power_after(&self, operations: u64) {
        let mut state = self.state.lock();
        state.power_ends_at = Some(state.operations + operations);
    }

    /// How many changes were made.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// How many times a file was renamed from a name that starts with `recycled-`: put to use again.
    #[must_use]
    pub fn recycled(&self) -> u64 {
        self.state.lock().recycled
    }

    /// How many file syncs were asked for.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// Changes bytes of a file behind everybody's back, on the disk and in the cache: what a bad sector or
    /// a stray write does. `false` if there is no such file or range.
    pub fn corrupt(&self, name: &str, offset: usize, change: impl FnOnce(&mut [u8])) -> bool {
        let mut state = self.state.lock();
        let Some(id) = state.names.get(name).copied() else {
            return false;
        };
        let Some(content) = state.files.get_mut(&id) else {
            return false;
        };
        if offset >= content.cached.len() || content.durable.len() != content.cached.len() {
            return false;
        }
        change(&mut content.cached[offset..]);
        let cached = content.cached.clone();
        content.durable[offset..].copy_from_slice(&cached[offset..]);
        true
    }

    /// Flips bits of one byte of a file, on the disk and in the cache. `false` if there is no such byte.
    pub fn flip(&self, name: &str, offset: usize, bits: u8) -> bool {
        let mut state = self.state.lock();
        let Some(id) = state.names.get(name).copied() else {
            return false;
        };
        let Some(content) = state.files.get_mut(&id) else {
            return false;
        };
        let Some(byte) = content.cached.get_mut(offset) else {
            return false;
        };
        *byte ^= bits;
        if let Some(byte) = content.durable.get_mut(offset) {
            *byte ^= bits;
        }
        true
    }

    /// Makes a page of a file a bad block, until it is written: whoever reads it gets an error. `false` if there is no such file.
    pub fn break_page(&self, name: &str, page: usize) -> bool {
        let mut state = self.state.lock();
        let Some(id) = state.names.get(name).copied() else {
            return false;
        };
        let content = state.files.get_mut(&id);
        content.is_some_and(|content| content.bad.insert(page))
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used()
    }

    /// What a reader of the file sees; `None` if there is none.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let id = state.names.get(name)?;
        Some(state.files.get(id)?.cached.clone())
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create(name, id) => {
                names.insert(name.clone(), *id);
            }
            Self::Rename(from, to) => {
                if let Some(id) = names.remove(from) {
                    names.insert(to.clone(), id);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl State {
    /// Counts one change, unless the power is off.
    fn operate(&mut self) -> io::Result<()> {
        if self.power_ends_at.is_some_and(|end| self.operations >= end) {
            return Err(io::Error::other("the power is off"));
        }
        self.operations += 1;
        Ok(())
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    fn used(&self) -> u64 {
        let linked = self.names.values().map(|id| &self.files[id]);
        linked.map(|content| content.cached.len() as u64).sum()
    }
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))
}

impl Directory for MemoryDisk {
    type File = MemoryFile;

    fn create(&self, name: &str) -> io::Result<MemoryFile> {
        let mut state = self.state.lock();
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.operate()?;
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(id, Content::default());
        state.change_name(NameChange::Create(name.to_owned(), id));
        Ok(MemoryFile {
            disk: Arc::clone(&self.state),
            id,
        })
    }

    fn open(&self, name: &str) -> io::Result<MemoryFile> {
        let state = self.state.lock();
        let id = *state.names.get(name).ok_or_else(|| not_found(name))?;
        Ok(MemoryFile {
            disk: Arc::clone(&self.state),
            id,
        })
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state.lock().names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.names.contains_key(from) {
            return Err(not_found(from));
        }
        state.operate()?;
        state.recycled += u64::from(from.starts_with("recycled-"));
        state.change_name(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.names.contains_key(name) {
            return Err(not_found(name));
        }
        state.operate()?;
        state.change_name(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        state.durable_names = state.names.clone();
        state.pending_names.clear();
        Ok(())
    }

    fn salt(&self) -> u64 {
        let mut state = self.state.lock();
        state.salts += 1;
        Dice(state.salts).roll(u64::MAX)
    }
}

/// A file of a [`MemoryDisk`].
#[derive(Clone, Debug)]
pub struct MemoryFile {
    disk: Arc<Mutex<State>>,
    id: u64,
}

impl MemoryFile {
    fn with<T>(&self, f: impl FnOnce(&mut Content) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.lock();
        match state.files.get_mut(&self.id) {
            Some(content) => f(content),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl LogFile for MemoryFile {
    fn bytes(&self) -> io::Result<u64> {
        self.with(|content| Ok(content.cached.len() as u64))
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.operate()?;
        let used = state.used();
        let limit = state.capacity.unwrap_or(u64::MAX);
        let Some(content) = state.files.get_mut(&self.id) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let more = bytes.saturating_sub(content.cached.len() as u64);
        if used.saturating_add(more) > limit {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if more > 0 {
            content.cached.resize(bytes as usize, 0);
        }
        Ok(())
    }

    fn zero(&self, from: u64, to: u64) -> io::Result<()> {
        self.write_at(from, &vec![0; to.saturating_sub(from) as usize])
    }

    fn leave(&self) {}

    fn attach(&self, _from: u64) -> io::Result<()> {
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        #[cfg(test)]
        {
            let before = self.disk.lock().before_writes.0.clone();
            before.inspect(|hook| hook());
        }
        self.disk.lock().operate()?;
        self.with(|content| {
            let offset = offset as usize;
            let end = offset + bytes.len();
            let Some(target) = content.cached.get_mut(offset..end) else {
                return Err(io::ErrorKind::StorageFull.into());
            };
            target.copy_from_slice(bytes);
            let pages = offset / PAGE_BYTES..=(end - 1) / PAGE_BYTES;
            content.bad.retain(|page| !pages.contains(page));
            content.dirty.extend(pages);
            Ok(())
        })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.with(|content| {
            let offset = offset as usize;
            let pages = offset / PAGE_BYTES..(offset + buffer.len()).div_ceil(PAGE_BYTES);
            if content.bad.range(pages).next().is_some() {
                return Err(io::Error::other("simulated bad block"));
            }
            match content.cached.get(offset..offset + buffer.len()) {
                Some(source) => {
                    buffer.copy_from_slice(source);
                    Ok(())
                }
                None => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        })
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.operate()?;
        let number = state.syncs;
        state.syncs += 1;
        let fails = state.failing_sync == Some(number);
        let Some(content) = state.files.get_mut(&self.id) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let dirty = std::mem::take(&mut content.dirty);
        if fails {
            return Err(io::Error::other("simulated failure of a sync"));
        }
        content.durable.resize(content.cached.len(), 0);
        for page in dirty {
            let start = page * PAGE_BYTES;
            let end = (start + PAGE_BYTES).min(content.cached.len());
            content.durable[start..end].copy_from_slice(&content.cached[start..end]);
        }
        Ok(())
    }

    fn peek(&self, offset: u64, buffer: &mut [u8]) -> bool {
        self.read_at(offset, buffer).is_ok()
    }

    fn view(self: &Arc<Self>, offset: u64, length: usize) -> Option<Bytes> {
        self.with(|content| {
            let bytes = content.cached.get(offset as usize..);
            let bytes = bytes.and_then(|bytes| bytes.get(..length));
            Ok(bytes.map(Bytes::copy_from_slice))
        })
        .ok()?
    }
}
