//! Chunks: rows in immutable files that are named by what is in them.

use super::BackupError;
use crate::error::Error;
use bytes::Bytes;
use pontoon_types::codec::{Reader, put_bytes};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// What every chunk begins with: what it is, and the version.
const MAGIC: &[u8] = b"pontoon chunk 1\n";

/// A chunk that is being filled.
///
/// It ends behind a row whose key says so: the same rows are cut in the same places, whatever changes elsewhere. On average
/// that is after the usual number of bytes; after four times as many it ends in any case.
pub(super) struct Cutter {
    bytes: Vec<u8>,
    rows: u64,
    usual_bytes: usize,
}

/// A chunk that is full.
pub(super) struct Full {
    pub(super) bytes: Vec<u8>,
    pub(super) rows: u64,
}

impl Cutter {
    pub(super) fn new(usual_bytes: usize) -> Self {
        Self {
            bytes: MAGIC.to_vec(),
            rows: 0,
            usual_bytes,
        }
    }

    /// Takes the next row; a chunk, if it ends with it.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> Option<Full> {
        let before = self.bytes.len();
        put_bytes(&mut self.bytes, key);
        put_bytes(&mut self.bytes, value);
        self.rows += 1;
        let row_bytes = (self.bytes.len() - before) as u64;
        // A row ends its chunk with a likelihood in proportion to its length.
        let share = (u64::MAX / self.usual_bytes as u64).saturating_mul(row_bytes);
        let ends = xxh3_64(key) < share || self.bytes.len() >= 4 * self.usual_bytes;
        if ends { self.finish() } else { None }
    }

    /// What is left behind the last cut.
    pub(super) fn finish(&mut self) -> Option<Full> {
        if self.rows == 0 {
            return None;
        }
        Some(Full {
            bytes: std::mem::replace(&mut self.bytes, MAGIC.to_vec()),
            rows: std::mem::take(&mut self.rows),
        })
    }
}

/// The rows of a chunk.
pub(super) fn rows(bytes: &Bytes) -> Option<Vec<(Bytes, Bytes)>> {
    let rest = bytes.slice_ref(bytes.strip_prefix(MAGIC)?);
    let mut reader = Reader::new(&rest);
    let mut rows = Vec::new();
    while !reader.is_empty() {
        let key = rest.slice_ref(reader.bytes().ok()?);
        rows.push((key, rest.slice_ref(reader.bytes().ok()?)));
    }
    Some(rows)
}

/// The SHA-256 of bytes, 64 hex digits. A user chooses what is in a chunk, so no weaker hash will do.
pub(super) fn name_of(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |mut name, byte| {
            let _ = write!(name, "{byte:02x}");
            name
        })
}

/// Makes the folders of a backup directory, and their names durable.
pub(super) fn make_dirs(dir: &Path) -> Result<(), Error> {
    let above = dir.ancestors().skip(1);
    let above = above.map(|path| {
        if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        }
    });
    let mut to_sync = vec![dir];
    for path in above {
        to_sync.push(path);
        if path.exists() {
            break; // Below it everything may be new.
        }
    }
    for folder in ["chunks", "backups"] {
        let path = dir.join(folder);
        fs::create_dir_all(&path).map_err(Error::file("create", &path))?;
    }
    to_sync.into_iter().try_for_each(sync_dir)
}

pub(super) fn path_of(dir: &Path, name: &str) -> PathBuf {
    let shelf = name.get(..2).unwrap_or("00");
    dir.join("chunks").join(shelf).join(name)
}

/// Reads a chunk, if it is what its name says and as long as it should be.
pub(super) fn read(dir: &Path, name: &str, length: u64) -> Result<Bytes, Error> {
    let path = path_of(dir, name);
    let mut bytes = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(length + 1).read_to_end(&mut bytes))
        .map_err(Error::file("read", &path))?;
    if bytes.len() as u64 != length || name_of(&bytes) != name {
        let what = "its contents are not those that its name stands for";
        return Err(BackupError::Damaged { path, what }.into());
    }
    Ok(bytes.into())
}

/// Keeps a chunk; durable, but for its name, when this returns. Whether it had to be written: one that is there and whole is
/// left as it is.
pub(super) fn keep(dir: &Path, name: &str, bytes: &[u8]) -> Result<bool, Error> {
    let path = path_of(dir, name);
    if fs::read(&path).is_ok_and(|there| there == bytes) {
        // Somebody may have put it there a moment ago.
        let synced = File::open(&path).and_then(|file| file.sync_all());
        synced.map_err(Error::file("sync", &path))?;
        return Ok(false);
    }
    write_whole(&path, bytes)?;
    Ok(true)
}

/// Makes the names of all chunks durable that a backup speaks of.
pub(super) fn sync_names<'a>(
    dir: &Path,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), Error> {
    let mut shelves: Vec<PathBuf> =
        (names.filter_map(|name| Some(path_of(dir, name).parent()?.to_owned()))).collect();
    shelves.sort_unstable();
    shelves.dedup();
    for shelf in shelves {
        sync_dir(&shelf)?;
    }
    sync_dir(&dir.join("chunks"))
}

/// Writes a file beside its place, syncs it, and moves it there.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
    let mut file =
        tempfile::NamedTempFile::new_in(parent).map_err(Error::file("create", parent))?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_all())
        .map_err(Error::file("write", path))?;
    let placed = file.persist(path);
    placed.map_err(|error| Error::file("create", path)(error.error))?;
    Ok(())
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(path: &Path) -> Result<(), Error> {
    let synced = File::open(path).and_then(|dir| dir.sync_all());
    synced.map_err(Error::file("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(rows: impl Iterator<Item = (u32, u8)>) -> Vec<String> {
        let mut cutter = Cutter::new(4 << 10);
        let mut names = Vec::new();
        for (key, value) in rows {
            let full = cutter.push(&key.to_be_bytes(), &[value; 90]);
            names.extend(full.map(|full| name_of(&full.bytes)));
        }
        names.extend(cutter.finish().map(|full| name_of(&full.bytes)));
        names
    }

    #[test]
    fn a_changed_removed_or_added_row_changes_one_chunk() {
        let before = cut((0..20_000).map(|key| (key, 1)));
        assert!(
            (200..1000).contains(&before.len()),
            "{} chunks",
            before.len()
        );
        let changes: [Vec<String>; 3] = [
            cut((0..20_000).map(|key| (key, 1 + u8::from(key == 9_000)))),
            cut((0..20_000).filter(|key| *key != 9_000).map(|key| (key, 1))),
            cut((0..20_001).map(|key| (key, 1))),
        ];
        for after in changes {
            let new = after.iter().filter(|name| !before.contains(name)).count();
            assert!((1..=2).contains(&new), "{new} new chunks");
        }
    }

    #[test]
    fn rows_read_back_and_no_chunk_grows_without_bound() {
        let mut cutter = Cutter::new(1 << 10);
        let mut pushed = Vec::new();
        let mut read = Vec::new();
        let mut take = |full: Option<Full>| {
            if let Some(full) = full {
                assert!(full.bytes.len() < 5 << 10, "{} bytes", full.bytes.len());
                let rows = rows(&full.bytes.into()).unwrap();
                assert_eq!(rows.len() as u64, full.rows);
                read.extend(rows);
            }
        };
        for key in 0..5_000_u32 {
            let row = (
                Bytes::from(key.to_be_bytes().to_vec()),
                Bytes::from(vec![7; 50]),
            );
            take(cutter.push(&row.0, &row.1));
            pushed.push(row);
        }
        take(cutter.finish());
        assert!(cutter.finish().is_none());
        assert_eq!(read, pushed);
        assert!(super::rows(&Bytes::from_static(b"something else")).is_none());
    }

    #[test]
    fn a_chunk_that_is_damaged_is_refused_and_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = [MAGIC, b"\x01k\x01v"].concat();
        let name = name_of(&bytes);
        assert!(keep(dir.path(), &name, &bytes).unwrap());
        assert!(!keep(dir.path(), &name, &bytes).unwrap(), "it is there");
        let path = path_of(dir.path(), &name);
        let mut damaged = bytes.clone();
        damaged[18] ^= 1;
        fs::write(&path, damaged).unwrap();
        let refused = read(dir.path(), &name, bytes.len() as u64)
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("is damaged") && refused.contains(&name),
            "{refused}"
        );
        assert!(keep(dir.path(), &name, &bytes).unwrap());
        assert_eq!(
            &read(dir.path(), &name, bytes.len() as u64).unwrap()[..],
            &bytes
        );
    }
}
