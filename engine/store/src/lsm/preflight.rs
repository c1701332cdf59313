//! Looking over the tree's files before the tree does.
//!
//! ```text
//! current       version (u64), XXH3-128 of the manifest (u128), checksum type (0)
//! v<version>    the manifest, an archive; its section "tables" names the tables of each level
//! tables/<id>   a table, an archive of blocks with checksums of their own
//!
//! archive       sections, directory, trailer
//! directory     "TOC!", count (u32), per section: offset (u64), length (u64), name (u16 length)
//! trailer       "SFA!", version (1), checksum type (0), XXH3-128 of the directory (u128),
//!               offset of the directory (u64), its length (u64)
//! ```
//!
//! All numbers are little-endian. The format is that of `lsm-tree` 3 and `sfa` 1; a newer one would
//! come with a major version of those crates, and with another version byte in the trailer.
//!
//! The tree has the manifest's checksum at hand but does not compare it, and reserves memory for as
//! many directory entries as the bytes say before it verifies them. Both are done right here. It costs
//! one small read per table.

use crate::StoreError;
use pontoon_types::codec::{DecodeError, Reader};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

const TRAILER_BYTES: u64 = 38;
pub(super) const TABLE_DIRECTORY: &str = "tables";

/// Verifies the manifest and the directory of every table it names.
pub(super) fn verify(path: &Path) -> Result<(), StoreError> {
    let current = path.join("current");
    let pointer = match fs::read(&current) {
        Ok(bytes) => bytes,
        // A new store.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unreadable(&current, error)),
    };
    let (version, checksum) = read_pointer(&pointer).map_err(|what| damaged(&current, what))?;
    let manifest_path = path.join(format!("v{version}"));
    let manifest = fs::read(&manifest_path).map_err(|error| unreadable(&manifest_path, error))?;
    if xxh3_128(&manifest) != checksum {
        return Err(damaged(
            &manifest_path,
            "its checksum is not the one in `current`",
        ));
    }
    let tables = table_ids(&manifest).map_err(|what| damaged(&manifest_path, what))?;
    for table in tables {
        let path = path.join(TABLE_DIRECTORY).join(table.to_string());
        verify_table(&path)?;
    }
    Ok(())
}

/// The version that the next opening goes by; `None`: there is none yet.
pub(super) fn newest_version(path: &Path) -> Result<Option<u64>, StoreError> {
    let current = path.join("current");
    match fs::read(&current) {
        Ok(bytes) => match read_pointer(&bytes) {
            Ok((version, _)) => Ok(Some(version)),
            Err(what) => Err(damaged(&current, what)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&current, error)),
    }
}

fn read_pointer(bytes: &[u8]) -> Result<(u64, u128), &'static str> {
    let mut reader = Reader::new(bytes);
    let mut read = || {
        let version = reader.u64()?;
        let checksum = u128_of(&mut reader)?;
        let kind = reader.u8()?;
        reader.finish().map(|()| (version, checksum, kind))
    };
    match read() {
        Ok((version, checksum, 0)) => Ok((version, checksum)),
        Ok(_) => Err("an unknown kind of checksum"),
        Err(_) => Err("not a version and a checksum"),
    }
}

/// The tables that a manifest names.
fn table_ids(manifest: &[u8]) -> Result<Vec<u64>, &'static str> {
    let len = manifest.len() as u64;
    let split = len
        .checked_sub(TRAILER_BYTES)
        .ok_or("no room for a trailer")?;
    let trailer = Trailer::read(&manifest[split as usize..], len)?;
    let directory = &manifest[trailer.offset as usize..split as usize];
    let (offset, length) = find_section(directory, b"tables").ok_or("no list of tables")?;
    let section = offset
        .checked_add(length)
        .filter(|end| *end <= trailer.offset);
    section.ok_or("its list of tables is out of bounds")?;
    let bytes = &manifest[offset as usize..(offset + length) as usize];
    read_tables(&mut Reader::new(bytes)).map_err(|_| "its list of tables ends early")
}

fn read_tables(reader: &mut Reader<'_>) -> Result<Vec<u64>, DecodeError> {
    let mut ids = Vec::new();
    for _level in 0..reader.u8()? {
        for _run in 0..reader.u8()? {
            for _table in 0..reader.u32()? {
                ids.push(reader.u64()?);
                // The checksum's kind, the checksum of the whole file and a number for ingestion.
                reader.take(1 + 16 + 8)?;
            }
        }
    }
    Ok(ids)
}

fn verify_table(path: &Path) -> Result<(), StoreError> {
    let unreadable = |error| unreadable(path, error);
    let file = File::open(path).map_err(unreadable)?;
    let len = file.metadata().map_err(unreadable)?.len();
    let mut bytes = [0; TRAILER_BYTES as usize];
    let split = len
        .checked_sub(TRAILER_BYTES)
        .ok_or(damaged(path, "no room for a trailer"))?;
    file.read_exact_at(&mut bytes, split).map_err(unreadable)?;
    let trailer = Trailer::read(&bytes, len).map_err(|what| damaged(path, what))?;
    // Bounded by the file's length.
    let mut directory = vec![0; (split - trailer.offset) as usize];
    file.read_exact_at(&mut directory, trailer.offset)
        .map_err(unreadable)?;
    if xxh3_128(&directory) == trailer.checksum {
        Ok(())
    } else {
        Err(damaged(path, "its directory's checksum does not match"))
    }
}

struct Trailer {
    checksum: u128,
    /// Where the directory begins; it ends where the trailer begins.
    offset: u64,
}

impl Trailer {
    /// Reads the last bytes of an archive of `archive_len` bytes.
    fn read(bytes: &[u8], archive_len: u64) -> Result<Self, &'static str> {
        let mut reader = Reader::new(bytes);
        let mut read = || {
            let head = reader.take(6)?;
            let checksum = u128_of(&mut reader)?;
            Ok::<_, DecodeError>((head, checksum, reader.u64()?, reader.u64()?))
        };
        let Ok((head, checksum, offset, length)) = read() else {
            return Err("its trailer ends early");
        };
        if head != b"SFA!\x01\x00" {
            return Err("it does not end in a known trailer");
        }
        let sum = offset
            .checked_add(length)
            .and_then(|end| end.checked_add(TRAILER_BYTES));
        if sum == Some(archive_len) {
            Ok(Self { checksum, offset })
        } else {
            Err("its directory is out of bounds")
        }
    }
}

/// Offset and length of a section.
fn find_section(directory: &[u8], name: &[u8]) -> Option<(u64, u64)> {
    let mut reader = Reader::new(directory);
    if reader.take(4).ok()? != b"TOC!" {
        return None;
    }
    for _ in 0..reader.u32().ok()? {
        let (offset, length) = (reader.u64().ok()?, reader.u64().ok()?);
        let name_len = reader.u16().ok()?;
        if reader.take(name_len.into()).ok()? == name {
            return Some((offset, length));
        }
    }
    None
}

fn u128_of(reader: &mut Reader<'_>) -> Result<u128, DecodeError> {
    let (low, high) = (reader.u64()?, reader.u64()?);
    Ok(u128::from(high) << 64 | u128::from(low))
}

fn damaged(path: &Path, what: &'static str) -> StoreError {
    StoreError::DamagedFile {
        path: path.into(),
        what,
    }
}

fn unreadable(path: &Path, error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::NotFound => damaged(path, "it is missing"),
        io::ErrorKind::UnexpectedEof => damaged(path, "it ends early"),
        _ => StoreError::Io {
            operation: "read a file",
            path: path.into(),
            source: Arc::new(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, len: u64) {
            let _ = read_pointer(&bytes);
            let _ = table_ids(&bytes);
            let _ = Trailer::read(&bytes, len);
            let _ = find_section(&bytes, b"tables");
            let _ = read_tables(&mut Reader::new(&bytes));
        }

        /// With a trailer that is in order, so that what is inside is looked at too.
        #[test]
        fn an_arbitrary_archive_never_panics(sections: Vec<u8>, directory: Vec<u8>) {
            let mut bytes = sections.clone();
            bytes.extend(b"TOC!");
            bytes.extend(&directory);
            bytes.extend(b"SFA!\x01\x00");
            bytes.extend([0; 16]);
            bytes.extend((sections.len() as u64).to_le_bytes());
            bytes.extend((4 + directory.len() as u64).to_le_bytes());
            let _ = table_ids(&bytes);
        }
    }

    #[test]
    fn a_new_directory_is_in_order() {
        let dir = tempfile::tempdir().unwrap();
        verify(dir.path()).unwrap();
        verify(&dir.path().join("not there yet")).unwrap();
    }
}
