//! Keys sampled from a file, so that shards can be cut where the data is.

use crate::error::Error;
use crate::formats::{Format, ReadError, Reader};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// The most keys that are kept; plenty for thousands of shards.
const MAX_KEYS: usize = 65_536;

/// The format of a data file: what was asked for, or what its ending says.
///
/// # Errors
/// If neither tells.
pub fn format_of(path: &Path, format: Option<Format>) -> Result<Format, Error> {
    format
        .or_else(|| Format::of_path(path))
        .ok_or_else(|| Error::UnknownFormat {
            path: path.to_owned(),
        })
}

/// Opens a data file.
///
/// # Errors
/// If it cannot be opened, or nothing tells its format.
pub fn open(path: &Path, format: Option<Format>) -> Result<Reader<BufReader<File>>, Error> {
    let format = format_of(path, format)?;
    let file = File::open(path).map_err(Error::file("open", path))?;
    Ok(Reader::new(BufReader::with_capacity(1 << 18, file), format))
}

/// Keys of a file: all of them, or of a large file a uniform sample. The same file gives the same
/// keys, because every node of a cluster must come to the same cut. Bad lines are passed over here;
/// whoever loads the file names them.
///
/// # Errors
/// If the file cannot be read or has no key.
pub fn keys_of_file(path: &Path, format: Option<Format>) -> Result<Vec<Bytes>, Error> {
    let keys = reservoir(open(path, format)?, MAX_KEYS).map_err(Error::file("read", path))?;
    if keys.is_empty() {
        let problem = format!("{}: no key to cut the key space at", path.display());
        return Err(Error::Usage(problem));
    }
    Ok(keys)
}

/// Reservoir sampling (Vitter's algorithm R) with a fixed seed.
fn reservoir(
    reader: Reader<BufReader<File>>,
    max_keys: usize,
) -> Result<Vec<Bytes>, std::io::Error> {
    let mut rng = StdRng::seed_from_u64(0);
    let mut keys = Vec::new();
    let mut seen = 0_usize;
    for row in reader {
        let key = match row {
            Ok(row) => row.key,
            Err(ReadError::BadLine { .. }) => continue,
            Err(ReadError::Io(error)) => return Err(error),
        };
        seen += 1;
        if keys.len() < max_keys {
            keys.push(key);
        } else if let Some(place) = keys.get_mut(rng.random_range(0..seen)) {
            *place = key;
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    #[test]
    fn a_small_file_gives_all_its_keys_and_a_large_one_a_fair_sample() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.tsv");
        let mut text = String::from("a bad line\n");
        for row in 0..10_000 {
            writeln!(text, "{row:05}\tx").unwrap();
        }
        std::fs::write(&path, text).unwrap();
        assert_eq!(keys_of_file(&path, None).unwrap().len(), 10_000);
        let sample = || reservoir(open(&path, None).unwrap(), 100).unwrap();
        assert_eq!(sample(), sample());
        let upper = sample()
            .iter()
            .filter(|key| key[..] >= b"05000"[..])
            .count();
        assert!((30..70).contains(&upper), "{upper}");
    }

    #[test]
    fn a_file_without_keys_or_format_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.txt");
        std::fs::write(&path, "").unwrap();
        let error = keys_of_file(&path, None).unwrap_err().to_string();
        assert!(error.contains("--format"), "{error}");
        let error = keys_of_file(&path, Some(Format::Tsv)).unwrap_err();
        assert!(error.to_string().contains("no key"), "{error}");
    }
}
