//! `{"key": "…", "value": "…"}`, a row a line.
//!
//! Bytes that are UTF-8 are text. Others are written as base64 (the standard alphabet, padded) in
//! `key_b64` or `value_b64`; a reader takes that form for any bytes. Other fields are errors, so
//! that a misspelt one is not a lost one.

use super::{BadLine, Row};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use serde::Deserialize;
use std::borrow::Cow;
use std::io::{self, Write};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key_b64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    value: Option<Cow<'a, str>>,
    #[serde(borrow)]
    value_b64: Option<Cow<'a, str>>,
}

/// Reads one line, without its end.
pub(super) fn parse(line: &[u8]) -> Result<Row, BadLine> {
    // The parser would also take a list of four values in the order of our fields.
    if line.trim_ascii_start().first() == Some(&b'[') {
        return Err(BadLine::NotAnObject);
    }
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| BadLine::Json {
        message: without_position(&error),
        column: error.column(),
    })?;
    let key = either("key", line.key, "key_b64", line.key_b64)?;
    if key.is_empty() {
        return Err(BadLine::EmptyKey);
    }
    Ok(Row {
        key,
        value: either("value", line.value, "value_b64", line.value_b64)?,
    })
}

/// The parser's words without "at line 1 column 9": it saw one line only, and not its number.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn either(
    field: &'static str,
    text: Option<Cow<'_, str>>,
    field_b64: &'static str,
    base64: Option<Cow<'_, str>>,
) -> Result<Bytes, BadLine> {
    match (text, base64) {
        (Some(text), None) => Ok(Bytes::from(text.into_owned())),
        (None, Some(base64)) => BASE64_STANDARD
            .decode(base64.as_bytes())
            .map(Bytes::from)
            .map_err(|_| BadLine::Base64 { field: field_b64 }),
        _ => Err(BadLine::OneOf { field }),
    }
}

/// Writes one line.
pub(super) fn write(out: &mut impl Write, key: &[u8], value: &[u8]) -> io::Result<()> {
    out.write_all(b"{")?;
    write_field(out, "key", key)?;
    out.write_all(b", ")?;
    write_field(out, "value", value)?;
    out.write_all(b"}\n")
}

/// Writes the line of a key that is not there. It is none that can be read back as a row.
pub(crate) fn write_absent(out: &mut impl Write, key: &[u8]) -> io::Result<()> {
    out.write_all(b"{")?;
    write_field(out, "key", key)?;
    out.write_all(b", \"value\": null}\n")
}

fn write_field(out: &mut impl Write, field: &str, bytes: &[u8]) -> io::Result<()> {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            write!(out, "\"{field}\": ")?;
            serde_json::to_writer(out, text).map_err(io::Error::from)
        }
        Err(_) => write!(
            out,
            "\"{field}_b64\": \"{}\"",
            BASE64_STANDARD.encode(bytes)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(key: &[u8], value: &[u8]) -> String {
        let mut line = Vec::new();
        write(&mut line, key, value).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn text_stays_text_and_bytes_become_base64() {
        assert_eq!(
            text("ключ\n".as_bytes(), b"\xff\x00"),
            "{\"key\": \"ключ\\n\", \"value_b64\": \"/wA=\"}\n"
        );
    }

    #[test]
    fn a_key_that_is_not_there_has_no_value() {
        let mut line = Vec::new();
        write_absent(&mut line, b"k").unwrap();
        assert_eq!(line, b"{\"key\": \"k\", \"value\": null}\n");
        assert_eq!(parse(&line).unwrap_err(), BadLine::OneOf { field: "value" });
    }

    #[test]
    fn base64_may_stand_for_text_too() {
        let row = parse(br#"{"value":"v","key_b64":"a2V5"}"#).unwrap();
        assert_eq!((&row.key[..], &row.value[..]), (&b"key"[..], &b"v"[..]));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let problem = |line: &str| parse(line.as_bytes()).unwrap_err();
        assert_eq!(problem(r#"{"key":"a"}"#), BadLine::OneOf { field: "value" });
        assert_eq!(
            problem(r#"{"key":"a","key_b64":"YQ==","value":""}"#),
            BadLine::OneOf { field: "key" }
        );
        assert_eq!(
            problem(r#"{"key":"a","value_b64":"%"}"#),
            BadLine::Base64 { field: "value_b64" }
        );
        assert_eq!(problem(r#"{"key":"","value":""}"#), BadLine::EmptyKey);
        assert_eq!(problem(r#"["k",null,"v",null]"#), BadLine::NotAnObject);
        let misspelt = problem(r#"{"key":"a","val":"b"}"#).to_string();
        assert!(misspelt.contains("unknown field `val`"), "{misspelt}");
        let garbage = problem("not json").to_string();
        assert!(!garbage.contains("line"), "{garbage}");
    }
}
