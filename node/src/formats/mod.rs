//! Rows in files: a key and a value a line, read and written without loss.
//!
//! Two formats, because two kinds of tools feed a store: [`tsv`] for `cut`, `sort` and `join`,
//! and [`ndjson`] for everything that speaks JSON. Both carry every sequence of bytes, and what
//! was dumped can be loaded again. Reading is line by line in bounded memory; a bad line is an
//! error of its own, with its number, and the reader stands behind it, ready for the next one, so
//! that going on or stopping is the caller's decision. Empty lines are passed over. A line may end
//! with CR LF, and the file may begin with a byte order mark, as files from Windows do; neither is
//! part of a row.

pub mod ndjson;
pub mod tsv;

use bytes::Bytes;
use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use thiserror::Error;

/// The longest line that is read. The largest value, doubled by escapes, and some room.
pub const MAX_LINE_BYTES: usize = 16 << 20;

/// U+FEFF in UTF-8, with which some programs begin a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A file's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `key<TAB>value`, with `\t`, `\n`, `\r` and `\\` escaped.
    Tsv,
    /// One object a line: `{"key": "…", "value": "…"}`, or `key_b64` and `value_b64` for bytes
    /// that are not UTF-8.
    Ndjson,
}

impl Format {
    /// The format that a file's ending stands for.
    #[must_use]
    pub fn of_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "tsv" => Some(Self::Tsv),
            "ndjson" | "jsonl" => Some(Self::Ndjson),
            _ => None,
        }
    }

    /// Reads one line, without its end.
    fn parse(self, line: &[u8]) -> Result<Row, BadLine> {
        match self {
            Self::Tsv => tsv::parse(line),
            Self::Ndjson => ndjson::parse(line),
        }
    }

    /// Begins a file whose first row has this key. What is only looked at needs no beginning.
    ///
    /// # Errors
    /// If writing fails.
    pub fn begin(self, out: &mut impl Write, first_key: &[u8]) -> io::Result<()> {
        match self {
            Self::Tsv => tsv::begin(out, first_key),
            Self::Ndjson => Ok(()),
        }
    }

    /// Writes one line, with its end.
    ///
    /// # Errors
    /// If writing fails.
    pub fn write(self, out: &mut impl Write, key: &[u8], value: &[u8]) -> io::Result<()> {
        match self {
            Self::Tsv => tsv::write(out, key, value),
            Self::Ndjson => ndjson::write(out, key, value),
        }
    }
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The key; never empty when read from a file.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadLine {
    /// No tab in a TSV line.
    #[error("no tab between key and value (is it TSV?)")]
    NoTab,
    /// More than one tab in a TSV line.
    #[error("a second tab at byte {at}; a tab inside a value is written \\t")]
    SecondTab {
        /// Its position, from 1.
        at: usize,
    },
    /// A backslash that no escape begins with.
    #[error(
        "unknown escape at byte {at}; only \\t, \\n, \\r and \\\\ are known, a backslash is written \\\\"
    )]
    Escape {
        /// Its position, from 1.
        at: usize,
    },
    /// The key is empty.
    #[error("the key is empty")]
    EmptyKey,
    /// A list, where an object is needed.
    #[error("a list, and not an object with \"key\" and \"value\"")]
    NotAnObject,
    /// Not the JSON object it should be.
    #[error("{message} at column {column}")]
    Json {
        /// What the parser says.
        message: String,
        /// Where, from 1.
        column: usize,
    },
    /// Neither or both of a field and its `_b64` form.
    #[error("exactly one of \"{field}\" and \"{field}_b64\" is needed")]
    OneOf {
        /// The field.
        field: &'static str,
    },
    /// Text that is not base64.
    #[error("\"{field}\" is not base64")]
    Base64 {
        /// The field.
        field: &'static str,
    },
    /// Longer than [`MAX_LINE_BYTES`].
    #[error("longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
}

/// Why the next row could not be had.
#[derive(Debug, Error)]
pub enum ReadError {
    /// A line is bad; the reader can go on.
    #[error("line {line}: {problem}")]
    BadLine {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        problem: BadLine,
    },
    /// The file could not be read; the reader is at its end.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads rows, line by line.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    format: Format,
    max_line_bytes: usize,
    line: u64,
    bytes: u64,
    buffer: Vec<u8>,
    ended: bool,
}

impl<R: BufRead> Reader<R> {
    /// A reader of `input`.
    pub fn new(input: R, format: Format) -> Self {
        Self::with_max_line_bytes(input, format, MAX_LINE_BYTES)
    }

    fn with_max_line_bytes(input: R, format: Format, max_line_bytes: usize) -> Self {
        Self {
            input,
            format,
            max_line_bytes,
            line: 0,
            bytes: 0,
            buffer: Vec::new(),
            ended: false,
        }
    }

    /// The number of the line last read.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Bytes of input read so far.
    pub fn bytes_read(&self) -> u64 {
        self.bytes
    }

    /// Takes the next line into the buffer, without its end and the file's byte order mark. `None` at the end of
    /// the input.
    fn next_line(&mut self) -> io::Result<Option<Result<(), BadLine>>> {
        self.buffer.clear();
        // A line of the limit with its CR LF; what fills this without an end is longer.
        let limit = self.max_line_bytes as u64 + 2;
        let read = (&mut self.input)
            .take(limit)
            .read_until(b'\n', &mut self.buffer)?;
        if read == 0 {
            return Ok(None);
        }
        self.bytes += read as u64;
        self.line += 1;
        let has_ended = self.buffer.pop_if(|byte| *byte == b'\n').is_some();
        self.buffer.pop_if(|byte| *byte == b'\r');
        if self.buffer.len() > self.max_line_bytes {
            if !has_ended {
                self.bytes += self.input.skip_until(b'\n')? as u64;
            }
            return Ok(Some(Err(BadLine::TooLong {
                limit: self.max_line_bytes,
            })));
        }
        if self.line == 1 && self.buffer.starts_with(BYTE_ORDER_MARK) {
            self.buffer.drain(..BYTE_ORDER_MARK.len());
        }
        Ok(Some(Ok(())))
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Row, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let parsed = match self.next_line() {
                Ok(None) => {
                    self.ended = true;
                    return None;
                }
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error.into()));
                }
                Ok(Some(Ok(()))) if self.buffer.is_empty() => continue,
                Ok(Some(line)) => line.and_then(|()| self.format.parse(&self.buffer)),
            };
            return Some(parsed.map_err(|problem| ReadError::BadLine {
                line: self.line,
                problem,
            }));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(format: Format, text: &[u8]) -> Vec<Result<Row, ReadError>> {
        Reader::new(text, format).collect()
    }

    fn row(key: &[u8], value: &[u8]) -> Row {
        Row {
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
        }
    }

    fn written(format: Format, rows: &[Row]) -> Vec<u8> {
        let mut text = Vec::new();
        if let Some(first) = rows.first() {
            format.begin(&mut text, &first.key).unwrap();
        }
        for row in rows {
            format.write(&mut text, &row.key, &row.value).unwrap();
        }
        text
    }

    proptest! {
        #[test]
        fn what_was_written_reads_back(
            rows: Vec<(Vec<u8>, Vec<u8>)>,
            tsv: bool,
        ) {
            let format = if tsv { Format::Tsv } else { Format::Ndjson };
            let rows: Vec<_> = rows.into_iter().filter(|(key, _)| !key.is_empty()).collect();
            let rows: Vec<_> = rows.iter().map(|(key, value)| row(key, value)).collect();
            let text = written(format, &rows);
            let back: Vec<_> = read(format, &text).into_iter().map(Result::unwrap).collect();
            prop_assert_eq!(back, rows);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_every_line_is_accounted_for(text: Vec<u8>, tsv: bool) {
            let format = if tsv { Format::Tsv } else { Format::Ndjson };
            let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
            let lines = text.split_inclusive(|byte| *byte == b'\n');
            let lines = lines.filter(|line| !matches!(*line, b"\n" | b"\r\n" | b"\r")).count();
            prop_assert_eq!(read(format, text).len(), lines);
        }
    }

    #[test]
    fn a_bad_line_is_named_by_its_number_and_the_rest_goes_on() {
        let rows = read(Format::Tsv, b"a\t1\n\nnothing here\nb\t2");
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0].as_ref().unwrap(), &row(b"a", b"1"));
        let error = rows[1].as_ref().unwrap_err().to_string();
        assert!(error.starts_with("line 3: no tab"), "{error}");
        assert_eq!(rows[2].as_ref().unwrap(), &row(b"b", b"2"));
    }

    #[test]
    fn files_from_windows_are_read_as_they_are_meant() {
        for (format, text) in [
            (Format::Tsv, "\u{feff}a\t1\r\n\r\nb\t\r\nc\t3\r"),
            (
                Format::Ndjson,
                "\u{feff}{\"key\": \"a\", \"value\": \"1\"}\r\n\r\n\
                 {\"key\": \"b\", \"value\": \"\"}\r\n{\"key\": \"c\", \"value\": \"3\"}",
            ),
        ] {
            let rows: Vec<_> = read(format, text.as_bytes())
                .into_iter()
                .map(Result::unwrap)
                .collect();
            assert_eq!(rows, [row(b"a", b"1"), row(b"b", b""), row(b"c", b"3")]);
        }
    }

    #[test]
    fn rows_that_look_like_a_files_trimmings_read_back() {
        for format in [Format::Tsv, Format::Ndjson] {
            let rows = [
                row("\u{feff}".as_bytes(), b"\r"),
                row("\u{feff}k".as_bytes(), b"\r\r"),
                row(b"\r", b""),
            ];
            for rows in [&rows[..], &rows[1..], &rows[2..]] {
                let text = written(format, rows);
                let back: Vec<_> = read(format, &text)
                    .into_iter()
                    .map(Result::unwrap)
                    .collect();
                assert_eq!(back, rows);
            }
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_in_bounded_memory() {
        let text = b"key\tmuch too long\nk\tv\n";
        let mut reader = Reader::with_max_line_bytes(&text[..], Format::Tsv, 8);
        assert!(matches!(
            reader.next(),
            Some(Err(ReadError::BadLine {
                line: 1,
                problem: BadLine::TooLong { limit: 8 }
            }))
        ));
        assert_eq!(reader.next().unwrap().unwrap(), row(b"k", b"v"));
        assert!(reader.next().is_none());
        assert_eq!(reader.bytes_read(), text.len() as u64);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_read_whatever_ends_it() {
        for end in ["", "\r", "\n", "\r\n"] {
            let of = |line: &str| {
                let text = format!("{line}{end}");
                let mut reader = Reader::with_max_line_bytes(text.as_bytes(), Format::Tsv, 8);
                let first = reader.next().unwrap();
                assert!(reader.next().is_none(), "{text:?}");
                assert_eq!(reader.bytes_read(), text.len() as u64, "{text:?}");
                first
            };
            assert_eq!(of("key\tfour").unwrap(), row(b"key", b"four"));
            for longer in ["key\tseven", "key\tsevens", "key\tfour\r\r"] {
                let error = of(longer).unwrap_err().to_string();
                assert_eq!(error, "line 1: longer than 8 bytes", "{longer:?}");
            }
        }
    }

    #[test]
    fn the_ending_tells_the_format() {
        assert_eq!(Format::of_path(Path::new("a/b.tsv")), Some(Format::Tsv));
        assert_eq!(Format::of_path(Path::new("b.jsonl")), Some(Format::Ndjson));
        assert_eq!(Format::of_path(Path::new("b.csv")), None);
        assert_eq!(Format::of_path(Path::new("tsv")), None);
    }
}
