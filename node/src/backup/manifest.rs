//! What a backup is made of.

use super::{BackupError, chunks};
use crate::error::Error;
use crate::status::KeyRange;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The version of what stands in a manifest.
const FORMAT: u32 = 1;

/// Digits of the SHA-256 of a manifest that are in its name.
const PROOF_DIGITS: usize = 16;

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this record.
    pub format: u32,
    /// The cluster that it is of, 16 hex digits.
    pub cluster: String,
    /// When it was begun, in seconds since 1970, UTC, by the clock of who took it.
    pub begun_s: u64,
    /// The shards, in the order of keys.
    pub shards: Vec<BackedUpShard>,
}

/// A shard in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackedUpShard {
    /// The shard.
    pub shard: u64,
    /// Its keys.
    pub range: KeyRange,
    /// The applied index of which it is.
    pub index: u64,
    /// The rows, in key order.
    pub chunks: Vec<ChunkOf>,
}

/// A chunk in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkOf {
    /// The SHA-256 of the file, which is its name.
    pub sha256: String,
    /// The length of the file.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
}

/// The longest chunk that is read: far more than the longest value and what comes with it.
const MAX_CHUNK_BYTES: u64 = 1 << 30;

impl ChunkOf {
    /// Whether it names a file of a backup, and not another path, or memory without end.
    fn is_sane(&self) -> bool {
        let digits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        self.sha256.len() == 64
            && self.sha256.bytes().all(digits)
            && self.bytes <= MAX_CHUNK_BYTES
            && self.rows <= self.bytes
    }
}

impl Manifest {
    /// A manifest without shards.
    #[must_use]
    pub const fn new(cluster: String, begun_s: u64) -> Self {
        Self {
            format: FORMAT,
            cluster,
            begun_s,
            shards: Vec::new(),
        }
    }

    /// All chunks, in key order.
    pub fn chunks(&self) -> impl Iterator<Item = &ChunkOf> {
        self.shards.iter().flat_map(|shard| &shard.chunks)
    }

    /// The rows of all shards.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.chunks().map(|chunk| chunk.rows).sum()
    }

    /// The bytes of all chunks.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.chunks().map(|chunk| chunk.bytes).sum()
    }

    /// Writes it into a directory, whose chunks are durable; it is durable when this returns. Its id.
    ///
    /// # Errors
    /// If the disk does not take it.
    ///
    /// # Panics
    /// Never: numbers and text can always be written.
    pub fn write(&self, dir: &Path) -> Result<String, Error> {
        let text = serde_json::to_vec(self).expect("numbers and text can always be written");
        let id = format!("{}-{}", stamp(self.begun_s), proof(&text));
        chunks::write_whole(&path_of(dir, &id), &text)?;
        chunks::sync_dir(&dir.join("backups"))?;
        chunks::sync_dir(dir)?;
        Ok(id)
    }

    /// Reads a backup of a directory: the one of this id, or the latest. Its id comes with it.
    ///
    /// # Errors
    /// If there is none, or the file is not what its name says.
    pub fn read(dir: &Path, id: Option<&str>) -> Result<(String, Self), Error> {
        let known = known(dir)?;
        let Some(latest) = known.last() else {
            let dir = dir.to_owned();
            return Err(BackupError::None { dir }.into());
        };
        let id = id.unwrap_or(latest).to_owned();
        if !known.contains(&id) {
            return Err(BackupError::Unknown {
                id,
                dir: dir.to_owned(),
                known: known.join(", "),
            }
            .into());
        }
        let path = path_of(dir, &id);
        let text = fs::read(&path).map_err(Error::file("read", &path))?;
        let damaged = |what| BackupError::Damaged {
            path: path.clone(),
            what,
        };
        if !id.ends_with(&proof(&text)) {
            return Err(damaged("its contents are not those that its name stands for").into());
        }
        let manifest: Self = serde_json::from_slice(&text)
            .map_err(|_| damaged("it is no record of a backup that this build can read"))?;
        if manifest.format != FORMAT {
            return Err(damaged("it is of another version of Pontoon").into());
        }
        if !manifest.chunks().all(ChunkOf::is_sane) {
            return Err(damaged("it names a chunk that no backup has").into());
        }
        Ok((id, manifest))
    }
}

fn proof(text: &[u8]) -> String {
    let mut name = chunks::name_of(text);
    name.truncate(PROOF_DIGITS);
    name
}

fn path_of(dir: &Path, id: &str) -> PathBuf {
    dir.join("backups").join(format!("{id}.json"))
}

/// The ids of all backups of a directory, the oldest first.
fn known(dir: &Path) -> Result<Vec<String>, Error> {
    let path = dir.join("backups");
    let files = match fs::read_dir(&path) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("read", &path)(error)),
    };
    let mut ids = Vec::new();
    for file in files {
        let name = file.map_err(Error::file("read", &path))?.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".json"));
        ids.extend(id.map(str::to_owned));
    }
    ids.sort_unstable();
    Ok(ids)
}

/// A time as text that sorts as it does: `20261127T065501Z`.
pub(crate) fn stamp(seconds: u64) -> String {
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    // Days since the first of March of the year 0, in eras of 400 years (H. Hinnant, "chrono-compatible low-level date
    // algorithms").
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_they_should() {
        assert_eq!(stamp(0), "19700101T000000Z");
        assert_eq!(stamp(951_782_399), "20000228T235959Z");
        assert_eq!(stamp(951_782_400), "20000229T000000Z");
        assert_eq!(stamp(1_795_762_501), "20261127T065501Z");
    }

    #[test]
    fn the_latest_is_read_unless_another_is_named_and_a_changed_byte_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = Manifest::read(dir.path(), None).unwrap_err().to_string();
        assert!(refused.starts_with("there is no backup in"), "{refused}");
        let first = Manifest::new("07".to_owned(), 1_000);
        let second = Manifest::new("07".to_owned(), 2_000);
        let second_id = second.write(dir.path()).unwrap();
        let first_id = first.write(dir.path()).unwrap();
        let read = |id: Option<&str>| Manifest::read(dir.path(), id);
        assert_eq!(read(None).unwrap(), (second_id.clone(), second));
        assert_eq!(read(Some(&first_id)).unwrap().1, first);
        let refused = read(Some("other")).unwrap_err().to_string();
        assert!(
            refused.contains(&first_id) && refused.contains(&second_id),
            "{refused}"
        );
        let path = path_of(dir.path(), &first_id);
        let text = fs::read_to_string(&path).unwrap().replace("1000", "1001");
        fs::write(&path, text).unwrap();
        let refused = read(Some(&first_id)).unwrap_err().to_string();
        assert!(refused.contains("is damaged"), "{refused}");
    }

    #[test]
    fn a_manifest_that_names_another_file_or_an_endless_one_is_refused() {
        let good = ChunkOf {
            sha256: chunks::name_of(b"rows"),
            bytes: 1 << 20,
            rows: 7,
        };
        let dir = tempfile::tempdir().unwrap();
        let read = |chunk: ChunkOf| {
            let mut manifest = Manifest::new("07".to_owned(), 1_000);
            manifest.shards.push(BackedUpShard {
                shard: 2,
                range: KeyRange::default(),
                index: 9,
                chunks: vec![chunk],
            });
            let id = manifest.write(dir.path()).unwrap();
            Manifest::read(dir.path(), Some(&id)).map(drop)
        };
        assert!(read(good.clone()).is_ok());
        let named = |sha256: &str| ChunkOf {
            sha256: sha256.to_owned(),
            ..good.clone()
        };
        for bad in [
            named("/dev/zero"),
            named("../../etc/passwd"),
            named(&good.sha256.to_uppercase()),
            ChunkOf {
                bytes: u64::MAX,
                ..good.clone()
            },
            ChunkOf {
                rows: u64::MAX,
                ..good.clone()
            },
        ] {
            assert!(read(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
