//! A script's structure: cases, blocks, lines and what is expected after them.

use super::facts::Expectation;
use super::token::{Args, Parsed, split};
use super::word::Word;
use std::ops::RangeInclusive;

/// A line that does something, or a block of such lines.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) line: usize,
    pub(crate) action: Action,
}

#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// One word, and what it must lead to or show.
    Word(Word, Vec<Expectation>),
    /// `repeat N`: the block that many times.
    Repeat(u64, Vec<Step>),
    /// `every-order`: the block's lines in every order.
    EveryOrder(Vec<Step>),
    /// `stop-anywhere`: the first so many of the block's lines, for every number from none to all.
    StopAnywhere(Vec<Step>),
}

/// One way through a script: what stands before the first `case`, and one of the cases.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: Option<String>,
    pub(crate) steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// Every case is run with each of these.
    pub(crate) seeds: RangeInclusive<u64>,
    pub(crate) cases: Vec<Case>,
}

/// A line that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    pub(crate) line: usize,
    pub(crate) what: String,
}

struct Reader<'a> {
    lines: Vec<(usize, &'a str)>,
    at: usize,
}

impl Script {
    pub(crate) fn parse(text: &str) -> Result<Self, Flaw> {
        let lines = (1..).zip(text.lines()).collect();
        let mut reader = Reader { lines, at: 0 };
        let mut seeds = 1..=1;
        let mut preamble = Vec::new();
        let mut cases: Vec<Case> = Vec::new();
        while let Some((line, text)) = reader.next_meaningful() {
            let flaw = |what: String| Flaw { line, what };
            let mut words = text.split_whitespace();
            match words.next() {
                Some("seeds") => {
                    let range = words.next().unwrap_or_default();
                    let bounds = range.split_once("..");
                    let bounds = bounds.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                    match bounds {
                        Some((first, last)) if first <= last && words.next().is_none() => {
                            seeds = first..=last;
                        }
                        _ => return Err(flaw(format!("expected `seeds 1..100`, found `{text}`"))),
                    }
                }
                Some("case") => {
                    let name = words.collect::<Vec<_>>().join(" ");
                    if name.is_empty() {
                        return Err(flaw("expected a name after case, found nothing".to_owned()));
                    }
                    let name = Some(name);
                    let steps = preamble.clone();
                    cases.push(Case { name, steps });
                }
                Some("end") => {
                    return Err(flaw(
                        "expected a word, found an `end` of nothing".to_owned(),
                    ));
                }
                _ => {
                    let step = reader.step(line, text)?;
                    let steps = cases
                        .last_mut()
                        .map_or(&mut preamble, |case| &mut case.steps);
                    steps.push(step);
                }
            }
        }
        if cases.is_empty() {
            let (name, steps) = (None, preamble);
            cases.push(Case { name, steps });
        }
        let idle = cases.iter().find(|case| !case.steps.iter().any(asserts));
        match idle {
            Some(case) => Err(Flaw {
                line: reader.lines.len().max(1),
                what: match &case.name {
                    Some(name) => format!("expected `----` somewhere, case {name} asserts nothing"),
                    None => "expected `----` somewhere, the script asserts nothing".to_owned(),
                },
            }),
            None => Ok(Self { seeds, cases }),
        }
    }
}

fn asserts(step: &Step) -> bool {
    match &step.action {
        Action::Word(_, expected) => !expected.is_empty(),
        // A block that may run none of its lines asserts nothing for certain.
        Action::StopAnywhere(_) => false,
        Action::Repeat(_, body) | Action::EveryOrder(body) => body.iter().any(asserts),
    }
}

impl<'a> Reader<'a> {
    fn next_line(&mut self) -> Option<(usize, &'a str)> {
        let line = self.lines.get(self.at).copied();
        self.at += 1;
        line
    }

    fn next_meaningful(&mut self) -> Option<(usize, &'a str)> {
        loop {
            let (line, text) = self.next_line()?;
            let text = text.trim();
            if !text.is_empty() && !text.starts_with('#') {
                return Some((line, text));
            }
        }
    }

    fn step(&mut self, line: usize, text: &str) -> Result<Step, Flaw> {
        let flaw = |what: String| Flaw { line, what };
        let mut tokens = split(text).map_err(flaw)?;
        let word = tokens.remove(0).text;
        let mut args = Args::new(tokens);
        let block = |args: Args, usage: &str| args.finish(usage).map_err(flaw);
        let action = match word.as_str() {
            "repeat" => {
                let count = args.number("how many times").map_err(flaw)?;
                if !(1..=10_000).contains(&count) {
                    return Err(flaw(format!("expected 1 to 10000 times, found `{count}`")));
                }
                block(args, "repeat COUNT")?;
                Action::Repeat(count, self.block(line, &word)?)
            }
            "every-order" => {
                block(args, "every-order")?;
                Action::EveryOrder(self.block(line, &word)?)
            }
            "stop-anywhere" => {
                block(args, "stop-anywhere")?;
                Action::StopAnywhere(self.block(line, &word)?)
            }
            "----" => {
                return Err(flaw("expected a word before `----`, found none".to_owned()));
            }
            _ => {
                let word = Word::parse(&word, args).map_err(flaw)?;
                let expected = self.expectations(line, &word)?;
                Action::Word(word, expected)
            }
        };
        Ok(Step { line, action })
    }

    /// The lines up to `end`.
    fn block(&mut self, opened: usize, word: &str) -> Result<Vec<Step>, Flaw> {
        let mut steps = Vec::new();
        loop {
            match self.next_meaningful() {
                Some((_, "end")) if steps.is_empty() => {
                    let what = format!("expected lines between {word} and its end, found none");
                    return Err(Flaw { line: opened, what });
                }
                Some((_, "end")) => return Ok(steps),
                Some((line, text)) => {
                    let first = text.split_whitespace().next().unwrap_or_default();
                    if matches!(first, "case" | "seeds") {
                        let what = format!("expected the end of {word} first, found `{first}`");
                        return Err(Flaw { line, what });
                    }
                    steps.push(self.step(line, text)?);
                }
                None => {
                    let what =
                        format!("expected an `end` of this {word}, found the end of the script");
                    return Err(Flaw { line: opened, what });
                }
            }
        }
    }

    /// What stands between a `----` right after the word and the next empty line.
    fn expectations(&mut self, word_line: usize, word: &Word) -> Result<Vec<Expectation>, Flaw> {
        let next = self.lines.get(self.at).map(|(_, text)| text.trim());
        if next != Some("----") {
            if word.observes() {
                let what = "expected `----` and what is to be seen, because this word only looks"
                    .to_owned();
                return Err(Flaw {
                    line: word_line,
                    what,
                });
            }
            return Ok(Vec::new());
        }
        self.at += 1;
        let mut expected = Vec::new();
        while let Some((line, text)) = self.next_line() {
            let text = text.trim();
            if text.is_empty() {
                break;
            }
            if text.starts_with('#') {
                continue;
            }
            let one = parse_expectation(line, text, word).map_err(|what| Flaw { line, what })?;
            expected.push(one);
        }
        match expected.is_empty() {
            true => Err(Flaw {
                line: word_line + 1,
                what: "expected what is to be seen after `----`, found nothing".to_owned(),
            }),
            false => Ok(expected),
        }
    }
}

fn parse_expectation(line: usize, text: &str, word: &Word) -> Parsed<Expectation> {
    Expectation::parse(line, text, word.shape())
}
