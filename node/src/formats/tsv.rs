//! `key<TAB>value`, a row a line.
//!
//! A tab is written `\t`, a line feed `\n`, a carriage return `\r` and a backslash `\\`; every other
//! byte stands for itself, so text in any encoding passes through unharmed. Nothing else may follow a
//! backslash, so that a file whose author knew other rules is an error and not another key.

use super::{BYTE_ORDER_MARK, BadLine, Row};
use bytes::Bytes;
use std::io::{self, Write};

/// Reads one line, without its end.
pub(super) fn parse(line: &[u8]) -> Result<Row, BadLine> {
    let tab = line
        .iter()
        .position(|byte| *byte == b'\t')
        .ok_or(BadLine::NoTab)?;
    let value = &line[tab + 1..];
    if let Some(second) = value.iter().position(|byte| *byte == b'\t') {
        return Err(BadLine::SecondTab {
            at: tab + 1 + second + 1,
        });
    }
    if tab == 0 {
        return Err(BadLine::EmptyKey);
    }
    Ok(Row {
        key: unescape(&line[..tab], 0)?,
        value: unescape(value, tab + 1)?,
    })
}

/// Resolves escapes; `offset` is where `text` begins in its line.
fn unescape(text: &[u8], offset: usize) -> Result<Bytes, BadLine> {
    if !text.contains(&b'\\') {
        return Ok(Bytes::copy_from_slice(text));
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter().enumerate();
    while let Some((at, &byte)) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next() {
                Some((_, b't')) => b'\t',
                Some((_, b'n')) => b'\n',
                Some((_, b'r')) => b'\r',
                Some((_, b'\\')) => b'\\',
                _ => {
                    return Err(BadLine::Escape {
                        at: offset + at + 1,
                    });
                }
            },
            byte => byte,
        });
    }
    Ok(plain.into())
}

/// Begins a file whose first row has this key.
pub(super) fn begin(out: &mut impl Write, first_key: &[u8]) -> io::Result<()> {
    if first_key.starts_with(BYTE_ORDER_MARK) {
        // Behind an empty line it does not begin the file, where it would not be taken for the key's.
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Writes one line.
pub(super) fn write(out: &mut impl Write, key: &[u8], value: &[u8]) -> io::Result<()> {
    write_escaped(out, key)?;
    out.write_all(b"\t")?;
    write_escaped(out, value)?;
    out.write_all(b"\n")
}

fn write_escaped(out: &mut impl Write, mut text: &[u8]) -> io::Result<()> {
    while let Some(at) = text
        .iter()
        .position(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b'\\'))
    {
        out.write_all(&text[..at])?;
        out.write_all(match text[at] {
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            _ => b"\\\\",
        })?;
        text = &text[at + 1..];
    }
    out.write_all(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_stand_for_tab_ends_of_lines_and_backslash() {
        let row = parse(b"a\\tb\tc\\r\\nd\\\\").unwrap();
        assert_eq!(&row.key[..], b"a\tb");
        assert_eq!(&row.value[..], b"c\r\nd\\");
        let mut line = Vec::new();
        write(&mut line, &row.key, &row.value).unwrap();
        assert_eq!(line, b"a\\tb\tc\\r\\nd\\\\\n");
    }

    #[test]
    fn every_other_byte_stands_for_itself() {
        let row = parse(b"\xff\r\t\x00\r").unwrap();
        assert_eq!(&row.key[..], b"\xff\r");
        assert_eq!(&row.value[..], b"\x00\r");
    }

    #[test]
    fn an_empty_value_is_a_value() {
        assert_eq!(&parse(b"k\t").unwrap().value[..], b"");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        assert_eq!(parse(b"key"), Err(BadLine::NoTab));
        assert_eq!(parse(b"\tvalue"), Err(BadLine::EmptyKey));
        assert_eq!(parse(b"k\tv\tw"), Err(BadLine::SecondTab { at: 4 }));
        assert_eq!(parse(b"k\ta\\x"), Err(BadLine::Escape { at: 4 }));
        assert_eq!(parse(b"k\\\tv"), Err(BadLine::Escape { at: 2 }));
    }
}
