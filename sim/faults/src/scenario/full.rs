//! The disk has no room left: that is said before anything is written, nothing stops, and it passes by itself.

use super::{Figures, add, wait};
use crate::disk::{Image, Mount, Scratch, mount_tmpfs};
use crate::failure::{Failure, must};
use crate::ledger::{Book, Ledger};
use crate::load::{self, Heard, IDENTITY, Life};
use crossbeam_channel::Receiver;
use pontoon_types::{Entry, EntryKind, GroupId, LogIndex, Term};
use pontoon_wal::{
    BatchBuilder, FsDirectory, Log, Pressure, SealedBatch, Ticket, Wal, WalConfig, WalError,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const GROUP: u64 = 1;
const ENTRY_BYTES: usize = 24 << 10;
/// More than one segment.
const BALLAST_BYTES: u64 = 512 << 10;
const TMPFS_BYTES: u64 = 2 << 20;
const IMAGE_BYTES: u64 = 5 << 20;
/// Long enough for the log to make a segment, or to try again.
const PATIENCE: Duration = Duration::from_secs(4);

pub(super) fn run(scratch: &Scratch, seed: u64, figures: &mut Figures) -> Result<(), Failure> {
    let mount = mount_tmpfs(scratch, TMPFS_BYTES)?;
    fill(&mount, seed, figures)?;
    mount.unmount()?;
    let image = Image::make(scratch, IMAGE_BYTES)?;
    let mount = image.mount()?;
    fill(&mount, seed, figures)?;
    mount.unmount()
}

fn fill(mount: &Mount, seed: u64, figures: &mut Figures) -> Result<(), Failure> {
    core(mount, seed, figures)?;
    let ballast = mount.path().join("ballast");
    std::fs::write(&ballast, vec![1; BALLAST_BYTES as usize])
        .map_err(Failure::system("write a ballast file"))?;
    let mut ledger = Ledger::new(1, 1);
    let (life, recovered) =
        Life::open(&mount.log(), config(), 1).map_err(Failure::log("opening a log with room"))?;
    ledger.check(&life.wal, &recovered)?;
    let mut book = ledger.books.pop().expect("one writer has one book");
    let mut client = Client {
        dice: StdRng::seed_from_u64(seed),
        ear: life
            .ears
            .into_iter()
            .next()
            .expect("one writer has one ear"),
        wal: life.wal,
    };

    // Somebody else makes room.
    client.write_until_full(mount, &mut book)?;
    client.reads(&mut book)?;
    std::fs::remove_file(&ballast).map_err(Failure::system("remove the ballast"))?;
    client.all_is_acknowledged(&mut book, "after room was made")?;
    add(figures, "resumed_after_others_made_room", 1);

    // The log makes room, by a compaction that cannot wait for those that wait for it.
    client.write_until_full(mount, &mut book)?;
    client.reads(&mut book)?;
    client.compact(&mut book);
    client.all_is_acknowledged(&mut book, "after a compaction")?;
    add(figures, "resumed_after_compaction", 1);

    // Not a byte is left, and the log is closed and opened again.
    client.write_until_full(mount, &mut book)?;
    fill_up(&ballast)?;
    let Client { wal, ear, .. } = client;
    wal.shutdown().map_err(Failure::log("closing a full log"))?;
    let told = ear
        .try_iter()
        .any(|heard| matches!(heard, Heard::Failed(WalError::ShutDown)));
    must(told, || {
        "what waits for room was not told of the end".to_owned()
    })?;
    ledger.books.push(book);
    match Life::open(&mount.log(), config(), 1) {
        Ok((life, _)) => {
            add(figures, "opened_without_room", 1);
            let closed = life.wal.shutdown();
            closed.map_err(Failure::log("closing a full log"))?;
        }
        Err(WalError::NoSpace { .. }) => add(figures, "refused_to_open_without_room", 1),
        Err(error) => must(false, || {
            format!("opening a log on a full disk says: {error}")
        })?,
    }
    std::fs::remove_file(&ballast).map_err(Failure::system("remove the ballast"))?;
    let (life, recovered) = Life::open(&mount.log(), config(), 1)
        .map_err(Failure::log("opening a log that has room again"))?;
    let checked = ledger.check(&life.wal, &recovered)?;
    add(figures, "entries_read_and_compared", checked.entries);
    let acknowledged = ledger.acknowledged_records();
    add(figures, "acknowledged_records", acknowledged);
    add(figures, "lost", 0);
    add(figures, "file_systems", 1);
    life.wal.shutdown().map_err(Failure::log("closing the log"))
}

fn config() -> WalConfig {
    WalConfig {
        // The disk is the bound.
        max_bytes: 1 << 30,
        ..load::config()
    }
}

/// One group's entries through the log's thread.
struct Client {
    dice: StdRng,
    ear: Receiver<Heard>,
    wal: Wal,
}

impl Client {
    /// Until the log says that there is no room, and some batches wait for it.
    fn write_until_full(&mut self, mount: &Mount, book: &mut Book) -> Result<(), Failure> {
        const WAITING: usize = 3;
        let began = Instant::now();
        while self.wal.pressure() == Pressure::Ok || book.under_way() < WAITING {
            must(began.elapsed() < 10 * PATIENCE, || {
                "the disk does not get full".to_owned()
            })?;
            let mut batch = BatchBuilder::new();
            batch.append(&next_entry(&mut self.dice, book));
            self.submit(book, batch.seal());
            // One that is laid is acknowledged long before.
            let heard = self.ear.recv_timeout(Duration::from_millis(100));
            for heard in heard.into_iter().chain(self.ear.try_iter()) {
                note(heard, book)?;
            }
        }
        let free = mount.free_bytes()?;
        let segment = config().segment_bytes;
        must(free < segment + BALLAST_BYTES / 8, || {
            format!("the log says that it is full, and {free} bytes are free")
        })?;
        // Nobody is told of success, or of a failure, however long it lasts.
        wait(250);
        let waiting = book.under_way();
        for heard in self.ear.try_iter() {
            note(heard, book)?;
        }
        must(book.under_way() == waiting, || {
            "a batch without room was acknowledged".to_owned()
        })
    }

    fn submit(&mut self, book: &mut Book, batch: SealedBatch) {
        let sequence = book.submit(&batch);
        self.wal.submit(
            batch,
            Ticket {
                worker: 0,
                sequence,
            },
        );
    }

    /// Everything that is durable, and that only.
    fn reads(&mut self, book: &mut Book) -> Result<(), Failure> {
        let group = book.acknowledged(GROUP);
        let (first, last) = (group.compacted.index.next(), group.last().index);
        let read = self.wal.read(GroupId(GROUP), first, last, usize::MAX);
        let read = read.map_err(Failure::log("reading from a full log"))?;
        must(read.iter().eq(group.entries.values()), || {
            "a full log reads other entries".to_owned()
        })
    }

    fn compact(&mut self, book: &mut Book) {
        let up_to = book.acknowledged(GROUP).last();
        let mut batch = BatchBuilder::new();
        batch.compact(GroupId(GROUP), up_to);
        self.submit(book, batch.seal());
    }

    fn all_is_acknowledged(&mut self, book: &mut Book, when: &str) -> Result<(), Failure> {
        while book.under_way() > 0 {
            match self.ear.recv_timeout(PATIENCE) {
                Ok(heard) => note(heard, book)?,
                Err(_) => must(false, || {
                    format!("{} batches still wait {when}", book.under_way())
                })?,
            }
        }
        Ok(())
    }
}

fn note(heard: Heard, book: &mut Book) -> Result<(), Failure> {
    match heard {
        Heard::Durable(sequence) => book.acknowledge(sequence),
        Heard::Failed(source) => Err(Failure::Log {
            doing: "writing to a full disk",
            source,
        }),
    }
}

fn next_entry(dice: &mut StdRng, book: &mut Book) -> Entry {
    let index = book.submitted(GROUP).last().index.next();
    entry(dice, index)
}

fn entry(dice: &mut StdRng, index: LogIndex) -> Entry {
    let mut payload = vec![0; ENTRY_BYTES];
    dice.fill_bytes(&mut payload);
    Entry::encode(GroupId(GROUP), Term(1), index, EntryKind::Command, &payload)
}

/// Takes what room is left, to the last byte.
fn fill_up(path: &Path) -> Result<(), Failure> {
    let mut file = File::create(path).map_err(Failure::system("make a ballast file"))?;
    let mut piece = 64 << 10;
    while piece > 0 {
        match file.write(&vec![1; piece]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => piece /= 2,
            Err(error) => return Err(Failure::system("write a ballast file")(error)),
        }
    }
    // On ext4 some of it may not have found its blocks yet.
    let _ = file.sync_all();
    Ok(())
}

/// The core alone, without threads: the error is typed, and not a byte of the log has changed.
fn core(mount: &Mount, seed: u64, figures: &mut Figures) -> Result<(), Failure> {
    let path = mount.path().join("core");
    let directory = FsDirectory::open(&path).map_err(Failure::log("opening a directory"))?;
    let (mut log, _) = Log::open(directory, config(), IDENTITY)
        .map_err(Failure::log("opening a log with room"))?;
    let mut dice = StdRng::seed_from_u64(seed);
    let mut written = Vec::new();
    loop {
        match log.maintain() {
            Ok(()) | Err(WalError::NoSpace { .. }) => {}
            Err(source) => {
                let doing = "making a segment on a full disk";
                return Err(Failure::Log { doing, source });
            }
        }
        let next = entry(&mut dice, LogIndex(written.len() as u64 + 1));
        let mut batch = BatchBuilder::new();
        batch.append(&next);
        let (batch, end) = (batch.seal(), log.end());
        match log.append(&batch) {
            Ok(_) => written.push(next),
            Err(WalError::NoSpace { .. }) => {
                // Once more, to look at every byte before and after.
                let before = segments(&path)?;
                let again = log.append(&batch);
                let is_typed = matches!(again, Err(WalError::NoSpace { .. }));
                must(is_typed, || format!("tried again it says {again:?}"))?;
                let is_as_before = log.end() == end && segments(&path)? == before;
                must(is_as_before, || {
                    "an append without room has written something".to_owned()
                })?;
                break;
            }
            Err(source) => {
                let doing = "appending to a full log";
                return Err(Failure::Log { doing, source });
            }
        }
        log.sync().map_err(Failure::log("syncing"))?;
    }
    let last = LogIndex(written.len() as u64);
    let read = log
        .reader()
        .read(GroupId(GROUP), LogIndex(1), last, usize::MAX);
    let read = read.map_err(Failure::log("reading from a full log"))?;
    must(read == written, || {
        "a full log reads other entries".to_owned()
    })?;
    add(figures, "entries_read_and_compared", read.len() as u64);
    add(figures, "typed_errors", 1);
    drop((read, log));
    std::fs::remove_dir_all(&path).map_err(Failure::system("remove a log"))
}

/// All segments, byte for byte.
fn segments(log: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, Failure> {
    let entries = std::fs::read_dir(log).map_err(Failure::system("list the log"))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    paths.sort();
    let bytes = |path: PathBuf| {
        let bytes = std::fs::read(&path).map_err(Failure::system("read the log"))?;
        Ok((path, bytes))
    };
    paths.into_iter().map(bytes).collect()
}
