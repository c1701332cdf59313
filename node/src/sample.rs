//! Keys sampled from a file, so that shards can be cut where the data is.

use crate::error::Error;
use crate::formats::{Format, ReadError, Reader, Row};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::fs::File;
use std::io::BufReader;
use std::os::fd::AsFd as _;
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

/// The rows that come on standard input.
///
/// # Errors
/// If nothing tells their format, or there is no standard input.
pub fn open_stdin(format: Option<Format>) -> Result<Reader<BufReader<File>>, Error> {
    let format = format.ok_or_else(|| {
        Error::Usage("standard input has no ending that tells its format; give --format".to_owned())
    })?;
    let stdin = std::io::stdin().as_fd().try_clone_to_owned();
    let file = File::from(stdin.map_err(Error::file("open", "stdin"))?);
    Ok(Reader::new(BufReader::with_capacity(1 << 18, file), format))
}

/// Keys of a file: all of them, or of a large file a uniform sample. The same file gives the same
/// keys, because every node of a cluster must come to the same cut. Bad lines are passed over.
///
/// # Errors
/// If the file cannot be read or has no key.
pub fn keys_of_file(path: &Path, format: Option<Format>) -> Result<Vec<Bytes>, Error> {
    let rows = open(path, format)?;
    keys_of_rows(path, rows.filter(|row| !is_bad_line(row)))
}

/// The same of a file that is to be loaded afterwards.
///
/// # Errors
/// As [`keys_of_file`]; and at the first bad line.
pub fn keys_of_file_to_load(path: &Path) -> Result<Vec<Bytes>, Error> {
    keys_of_rows(path, open(path, None)?)
}

/// Why a row of the file at `path` could not be had, as an error of the command line.
pub fn read_error(path: &Path, error: ReadError) -> Error {
    match error {
        ReadError::Io(source) => Error::file("read", path)(source),
        ReadError::BadLine { line, problem } => Error::BadLine {
            path: path.to_owned(),
            line,
            problem,
            hint: "",
        },
    }
}

const fn is_bad_line(row: &Result<Row, ReadError>) -> bool {
    matches!(row, Err(ReadError::BadLine { .. }))
}

fn keys_of_rows(
    path: &Path,
    rows: impl Iterator<Item = Result<Row, ReadError>>,
) -> Result<Vec<Bytes>, Error> {
    let keys = reservoir(rows, MAX_KEYS).map_err(|error| read_error(path, error))?;
    if keys.is_empty() {
        let problem = format!("{}: no key to cut the key space at", path.display());
        return Err(Error::Usage(problem));
    }
    Ok(keys)
}

/// Reservoir sampling (Vitter's algorithm R) with a fixed seed.
fn reservoir(
    rows: impl Iterator<Item = Result<Row, ReadError>>,
    max_keys: usize,
) -> Result<Vec<Bytes>, ReadError> {
    let mut rng = StdRng::seed_from_u64(0);
    let mut keys = Vec::new();
    for (before, row) in rows.enumerate() {
        let key = row?.key;
        if keys.len() < max_keys {
            keys.push(key);
        } else if let Some(place) = keys.get_mut(rng.random_range(0..before + 1)) {
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
        let mut text = String::new();
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
    fn a_bad_line_is_passed_over_unless_the_file_is_to_be_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.tsv");
        std::fs::write(&path, "a\t1\na bad line\nb\t2\n").unwrap();
        assert_eq!(keys_of_file(&path, None).unwrap(), ["a", "b"]);
        let error = keys_of_file_to_load(&path).unwrap_err().to_string();
        assert!(error.contains("rows.tsv:2: no tab"), "{error}");
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
