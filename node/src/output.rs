//! What an operator sees.
//!
//! Results go to stdout, everything else to stderr. Progress is drawn only where somebody looks:
//! when stdout is no terminal, or with `--json`, nothing is; but rows that go to a file or a pipe
//! are no reason to be silent ([`Stdout`]). Writing to a closed pipe is an error like any other,
//! never a panic.

use crate::error::Error;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

/// Where results and progress go.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Results as one JSON object on the last line.
    pub json: bool,
    draws: bool,
}

/// What a verb prints to stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdout {
    /// What came of it, at the end.
    Results,
    /// Rows, all the time.
    Rows,
    /// Nothing.
    Nothing,
}

impl Output {
    /// For a verb with or without `--json`.
    #[must_use]
    pub fn new(json: bool) -> Self {
        Self {
            draws: !json && Self::of(Stdout::Results).draws,
            json,
        }
    }

    /// For a verb without `--json`, by what it prints to stdout.
    #[must_use]
    pub fn of(stdout: Stdout) -> Self {
        let on_terminal = std::io::stdout().is_terminal();
        Self {
            json: false,
            draws: std::io::stderr().is_terminal() && stdout.leaves_room(on_terminal),
        }
    }

    /// Prints a line, or several, to stdout.
    ///
    /// # Errors
    /// If stdout cannot be written, for one because nobody reads it.
    pub fn line(self, text: &str) -> Result<(), Error> {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{text}")
            .and_then(|()| stdout.flush())
            .map_err(Error::Stdout)
    }

    /// Prints something as one line of JSON.
    ///
    /// # Errors
    /// As [`Self::line`].
    ///
    /// # Panics
    /// Never: numbers and text can always be written.
    pub fn json(self, what: &impl serde::Serialize) -> Result<(), Error> {
        self.line(&serde_json::to_string(what).expect("numbers and text can always be written"))
    }

    /// Writes bytes to stdout as they are.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn bytes(self, bytes: &[u8]) -> Result<(), Error> {
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .map_err(Error::Stdout)
    }

    /// Says in one word what was done.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn outcome(self, outcome: &str) -> Result<(), Error> {
        if self.json {
            let object = serde_json::json!({ "outcome": outcome });
            return self.line(&object.to_string());
        }
        self.line(outcome)
    }

    /// Tells what is being done, unless a program reads the result.
    pub fn note(self, text: &str) {
        if !self.json {
            let mut stderr = std::io::stderr().lock();
            // Nobody is left to be told that stderr is gone.
            let _ = writeln!(stderr, "{text}");
        }
    }

    /// A bar that fills up to `length`, in `unit`: "rows", or "B" for bytes.
    #[must_use]
    pub fn bar(self, length: u64, unit: &str, message: &str) -> ProgressBar {
        let amount = if unit == "B" {
            "{bytes}/{total_bytes}, {binary_bytes_per_sec}".to_owned()
        } else {
            format!("{{human_pos}}/{{human_len}} {unit}")
        };
        self.draw(
            length,
            &format!("{{msg}} [{{bar:30}}] {amount}, {{eta}} left"),
            message,
        )
    }

    /// A sign of life with a text that changes.
    #[must_use]
    pub fn spinner(self, message: &str) -> ProgressBar {
        let bar = self.draw(0, "{spinner} {msg}", message);
        if self.draws {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        bar
    }

    fn draw(self, length: u64, template: &str, message: &str) -> ProgressBar {
        let target = if self.draws {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template(template).expect("templates are constants");
        ProgressBar::with_draw_target(Some(length), target)
            .with_style(style.progress_chars("=> "))
            .with_message(message.to_owned())
    }
}

impl Stdout {
    /// Whether what is drawn on a terminal would be seen there, and run into nothing.
    const fn leaves_room(self, is_on_terminal: bool) -> bool {
        match self {
            Self::Results => is_on_terminal,
            // Those that pass by are progress enough.
            Self::Rows => !is_on_terminal,
            Self::Nothing => true,
        }
    }
}

/// A table without lines; an empty header is none.
#[must_use]
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    if !header.is_empty() {
        table.set_header(header);
    }
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// `1234567` as `1,234,567`; small numbers with one digit behind the point.
#[must_use]
pub fn count(number: f64) -> String {
    if number.abs() < 10.0 && number.fract() != 0.0 {
        return format!("{number:.1}");
    }
    let digits = format!("{number:.0}");
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 row`, `1,234 rows`.
#[must_use]
pub fn counted(number: u64, one: &str) -> String {
    let number_text = count(number as f64);
    match one {
        _ if number == 1 => format!("{number_text} {one}"),
        "batch" => format!("{number_text} batches"),
        "entry" => format!("{number_text} entries"),
        _ => format!("{number_text} {one}s"),
    }
}

/// The word that goes with a number: `has` with 1, `have` with others.
#[must_use]
pub const fn agreeing(number: usize, one: &'static str, many: &'static str) -> &'static str {
    if number == 1 { one } else { many }
}

/// Microseconds in the unit that reads best.
#[must_use]
pub fn micros(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} µs"),
        1000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

/// Bytes in the unit that reads best.
#[must_use]
pub fn bytes(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{size:.0} B"),
        _ => format!("{size:.1} {}", units[unit]),
    }
}

/// Bytes as text for a message: UTF-8 as it is, with control characters escaped and cut to a
/// length that fits a line; else base64.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    const LONGEST: usize = 60;
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("base64 {}", BASE64_STANDARD.encode(bytes)),
    };
    if text.chars().count() <= LONGEST {
        return text;
    }
    let cut: String = text.chars().take(LONGEST).collect();
    format!("{cut}… ({} bytes)", bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(1_234_567.2), "1,234,567");
        assert_eq!(count(999.0), "999");
        assert_eq!(count(1.25), "1.2");
        assert_eq!(counted(1, "row"), "1 row");
        assert_eq!(counted(0, "row"), "0 rows");
        assert_eq!(counted(1, "batch"), "1 batch");
        assert_eq!(counted(2, "batch"), "2 batches");
        assert_eq!(counted(1_000, "entry"), "1,000 entries");
        assert_eq!(agreeing(1, "has", "have"), "has");
        assert_eq!(agreeing(0, "has", "have"), "have");
        assert_eq!(micros(999), "999 µs");
        assert_eq!(micros(1500), "1.5 ms");
        assert_eq!(micros(2_340_000), "2.34 s");
        assert_eq!(bytes(10.0), "10 B");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(64.0 * 1024.0 * 1024.0), "64.0 MiB");
    }

    #[test]
    fn rows_that_do_not_go_to_the_terminal_leave_it_to_the_progress() {
        for (stdout, on_terminal, redirected) in [
            (Stdout::Results, true, false),
            (Stdout::Rows, false, true),
            (Stdout::Nothing, true, true),
        ] {
            assert_eq!(stdout.leaves_room(true), on_terminal, "{stdout:?}");
            assert_eq!(stdout.leaves_room(false), redirected, "{stdout:?}");
        }
    }

    #[test]
    fn any_bytes_can_be_named_in_one_line() {
        assert_eq!(printable(b"key"), "\"key\"");
        assert_eq!(printable(b"a\nb"), "\"a\\nb\"");
        assert_eq!(printable(b"\xff"), "base64 /w==");
        let long = printable(&[b'x'; 5000]);
        assert!(
            long.ends_with("… (5000 bytes)") && long.len() < 100,
            "{long}"
        );
    }

    #[test]
    fn a_table_has_no_trailing_blanks() {
        let rows = vec![
            vec!["1".to_owned(), "long text".to_owned()],
            vec!["2".to_owned(), "x".to_owned()],
        ];
        let text = table(&["node", "what"], rows);
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().all(|line| !line.ends_with(' ')), "{text:?}");
    }
}
