//! The small things that a line is made of: words, numbers, lists, positions, runs.

use std::collections::VecDeque;

/// What a line should have said instead, without file and line: its reader adds those.
pub(crate) type Parsed<T> = Result<T, String>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    /// `"like this"`: never an option or a keyword.
    pub(crate) quoted: bool,
}

/// Splits a line at its spaces, except within `(...)` and `"..."`. A `#` that begins a word begins a
/// comment.
pub(crate) fn split(line: &str) -> Parsed<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '#' {
            break;
        }
        if let Some(inner) = rest.strip_prefix('"') {
            let Some((text, after)) = inner.split_once('"') else {
                return Err(format!("a quote that never ends: {rest}"));
            };
            tokens.push(Token {
                text: text.to_owned(),
                quoted: true,
            });
            rest = after.trim_start();
            continue;
        }
        let mut depth = 0usize;
        let end = rest.find(|c: char| {
            match c {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && c.is_whitespace()
        });
        if end.is_none() && depth > 0 {
            return Err(format!("a parenthesis that never closes: {rest}"));
        }
        let (text, after) = rest.split_at(end.unwrap_or(rest.len()));
        tokens.push(Token {
            text: text.to_owned(),
            quoted: false,
        });
        rest = after.trim_start();
    }
    Ok(tokens)
}

fn expected<T>(what: &str, found: &str) -> Parsed<T> {
    Err(format!("expected {what}, found `{found}`"))
}

pub(crate) fn number(text: &str, what: &str) -> Parsed<u64> {
    text.parse().or_else(|_| expected(what, text))
}

pub(crate) fn on_off(text: &str) -> Parsed<bool> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => expected("on or off", text),
    }
}

/// The parts of `(a, b, c)` or `a,b,c`.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let inner = text
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
        .unwrap_or(text);
    inner
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|part| !part.is_empty())
}

/// `1`, `1,2,5`, `(1, 2, 5)`, `1..5`, and mixtures; `()` is empty.
pub(crate) fn ids(text: &str) -> Parsed<Vec<u64>> {
    let what = "node numbers such as 2, (1,2,3) or 1..5";
    let mut ids = Vec::new();
    for part in parts(text) {
        let (first, last) = part.split_once("..").unwrap_or((part, part));
        let bounds = first.parse::<u64>().ok().zip(last.parse::<u64>().ok());
        match bounds {
            Some((first, last)) if 0 < first && first <= last && last < 1000 => {
                ids.extend(first..=last);
            }
            _ => return expected(what, text),
        }
    }
    if ids.is_empty() && text != "()" {
        return expected(what, text);
    }
    Ok(ids)
}

/// `t/i`, an entry's term and index.
pub(crate) fn position(text: &str) -> Parsed<(u64, u64)> {
    let halves = text.split_once('/');
    let numbers = halves.and_then(|(term, index)| Some((term.parse().ok()?, index.parse().ok()?)));
    match numbers {
        Some(position) => Ok(position),
        None => expected("a position such as 2/7 (term/index)", text),
    }
}

/// The terms of a log, `(1x10,4x2,5)`: ten entries of term 1, two of term 4, one of term 5.
pub(crate) fn terms(text: &str) -> Parsed<Vec<u64>> {
    let mut terms = Vec::new();
    for part in parts(text) {
        let (term, count) = part.split_once('x').unwrap_or((part, "1"));
        match term.parse::<u64>().ok().zip(count.parse::<u64>().ok()) {
            Some((term, count)) if count <= 100_000 => {
                terms.extend((0..count).map(|_| term));
            }
            _ => return expected("the terms of a log such as (1x10,4x2,5)", text),
        }
    }
    Ok(terms)
}

/// Positions written as runs: `1/1..10 4/11`, with commas or spaces between; `none` for none.
pub(crate) fn runs(text: &str) -> Option<Vec<(u64, u64)>> {
    let mut positions = Vec::new();
    for part in parts(text).filter(|part| *part != "none") {
        let (term, indexes) = part.split_once('/')?;
        let (first, last) = indexes.split_once("..").unwrap_or((indexes, indexes));
        let (term, first, last): (u64, u64, u64) =
            (term.parse().ok()?, first.parse().ok()?, last.parse().ok()?);
        if first > last || last - first > 100_000 {
            return None;
        }
        positions.extend((first..=last).map(|index| (term, index)));
    }
    Some(positions)
}

/// The shortest text that [`runs`] reads as these positions.
pub(crate) fn show_runs(positions: impl IntoIterator<Item = (u64, u64)>) -> Vec<String> {
    let mut runs: Vec<(u64, u64, u64)> = Vec::new();
    for (term, index) in positions {
        match runs.last_mut() {
            Some((of, _, last)) if *of == term && *last + 1 == index => *last = index,
            _ => runs.push((term, index, index)),
        }
    }
    let show = |(term, first, last)| match first == last {
        true => format!("{term}/{first}"),
        false => format!("{term}/{first}..{last}"),
    };
    runs.into_iter().map(show).collect()
}

/// Which nodes a word is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Nodes {
    All,
    These(Vec<u64>),
}

/// What stands behind a word.
#[derive(Clone, Debug)]
pub(crate) struct Args {
    plain: VecDeque<Token>,
    options: Vec<(String, String)>,
}

impl Args {
    pub(crate) fn new(tokens: Vec<Token>) -> Self {
        let (mut plain, mut options) = (VecDeque::new(), Vec::new());
        for token in tokens {
            match token.text.split_once('=') {
                Some((key, value)) if !token.quoted => {
                    options.push((key.to_owned(), value.to_owned()));
                }
                _ => plain.push_back(token),
            }
        }
        Self { plain, options }
    }

    pub(crate) fn plain(&mut self, what: &str) -> Parsed<String> {
        let token = self.plain.pop_front();
        token.map_or_else(|| expected(what, "nothing"), |token| Ok(token.text))
    }

    pub(crate) fn maybe_plain(&mut self) -> Option<String> {
        self.plain.pop_front().map(|token| token.text)
    }

    pub(crate) fn number(&mut self, what: &str) -> Parsed<u64> {
        let text = self.plain(what)?;
        number(&text, what)
    }

    pub(crate) fn node(&mut self) -> Parsed<u64> {
        self.number("a node's number")
    }

    pub(crate) fn nodes(&mut self) -> Parsed<Nodes> {
        let text = self.plain("nodes: all, or numbers such as 2, 1,2 or 1..5")?;
        match text.as_str() {
            "all" => Ok(Nodes::All),
            text => ids(text).map(Nodes::These),
        }
    }

    /// All nodes, unless it says which.
    pub(crate) fn nodes_or_all(&mut self) -> Parsed<Nodes> {
        match self.plain.is_empty() {
            true => Ok(Nodes::All),
            false => self.nodes(),
        }
    }

    /// Whether the bare keyword `name` is there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        self.take_if(|text| text == name).is_some()
    }

    /// The first bare word that is wanted.
    pub(crate) fn take_if(&mut self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let is_wanted = |token: &Token| !token.quoted && wanted(&token.text);
        let at = self.plain.iter().position(is_wanted)?;
        self.plain.remove(at).map(|token| token.text)
    }

    pub(crate) fn option(&mut self, key: &str) -> Option<String> {
        let at = self.options.iter().position(|(name, _)| name == key)?;
        Some(self.options.remove(at).1)
    }

    pub(crate) fn number_option(&mut self, key: &str) -> Parsed<Option<u64>> {
        let value = self.option(key);
        let what = format!("a number after {key}=");
        value.map(|value| number(&value, &what)).transpose()
    }

    pub(crate) fn position_option(&mut self, key: &str) -> Parsed<Option<(u64, u64)>> {
        self.option(key).map(|value| position(&value)).transpose()
    }

    /// Nothing may be left over: what is not understood must not be skipped.
    pub(crate) fn finish(self, usage: &str) -> Parsed<()> {
        let option = self.options.first().map(|(key, _)| format!("{key}="));
        let plain = self.plain.front().map(|token| token.text.clone());
        match option.or(plain) {
            Some(left) => Err(format!("expected `{usage}`, found `{left}`")),
            None => Ok(()),
        }
    }
}
