//! What can be seen, and what a script expects to see.
//!
//! An observer sees *facts*: flags such as `leader` and values such as `term=3`. An expectation names
//! those that matter; each of them must hold, and the others are left open. Logs and machines are *lists*
//! and are compared whole.

use super::token::{Parsed, position, runs};
use std::fmt;

/// What is true of one thing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    flags: Vec<String>,
    values: Vec<(&'static str, String)>,
}

impl Facts {
    pub(crate) fn flag(&mut self, name: impl Into<String>) -> &mut Self {
        self.flags.push(name.into());
        self
    }

    pub(crate) fn flag_if(&mut self, name: &str, holds: bool) -> &mut Self {
        if holds {
            self.flag(name);
        }
        self
    }

    pub(crate) fn value(&mut self, key: &'static str, value: impl ToString) -> &mut Self {
        self.values.push((key, value.to_string()));
        self
    }

    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|name| name == flag)
    }

    pub(crate) fn is(&self, key: &str, wanted: &str) -> bool {
        let found = self.values.iter().find(|(name, _)| *name == key);
        found.is_some_and(|(_, found)| compare(found, Relation::Equal, wanted))
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self
            .values
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        let all: Vec<String> = self.flags.iter().cloned().chain(values).collect();
        f.write_str(&all.join(" "))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Equal,
    Unequal,
    Less,
    AtMost,
    More,
    AtLeast,
}

/// One thing that must hold.
#[derive(Clone, Debug)]
enum Test {
    Flag {
        name: String,
        holds: bool,
    },
    Value {
        key: String,
        relation: Relation,
        wanted: String,
    },
}

/// The facts that a word's observations are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vocabulary {
    pub(crate) flags: &'static [&'static str],
    pub(crate) keys: &'static [&'static str],
}

impl Test {
    fn parse(text: &str, known: Vocabulary) -> Parsed<Self> {
        let unknown = |name: &str| {
            let all: Vec<&str> = known.flags.iter().chain(known.keys).copied().collect();
            Err(format!(
                "expected one of {}, found `{name}`",
                all.join(", ")
            ))
        };
        let signs = [
            ("!=", Relation::Unequal),
            ("<=", Relation::AtMost),
            (">=", Relation::AtLeast),
            ("=", Relation::Equal),
            ("<", Relation::Less),
            (">", Relation::More),
        ];
        for (sign, relation) in signs {
            let Some((key, wanted)) = text.split_once(sign) else {
                continue;
            };
            if !known.keys.contains(&key) {
                return unknown(key);
            }
            let (key, wanted) = (key.to_owned(), wanted.to_owned());
            let ordered = !matches!(relation, Relation::Equal | Relation::Unequal);
            if wanted.is_empty() || (ordered && Order::of(&wanted).is_none()) {
                return Err(format!(
                    "expected a number or position after {key}{sign}, found `{wanted}`"
                ));
            }
            return Ok(Self::Value {
                key,
                relation,
                wanted,
            });
        }
        let (name, holds) = text
            .strip_prefix('!')
            .map_or((text, true), |name| (name, false));
        if !known.flags.contains(&name) {
            return unknown(name);
        }
        let name = name.to_owned();
        Ok(Self::Flag { name, holds })
    }

    fn holds(&self, facts: &Facts) -> bool {
        match self {
            Self::Flag { name, holds } => facts.has(name) == *holds,
            Self::Value {
                key,
                relation,
                wanted,
            } => {
                let found = facts.values.iter().find(|(name, _)| name == key);
                found.is_some_and(|(_, found)| compare(found, *relation, wanted))
            }
        }
    }
}

/// What can be ordered: numbers, and positions by term before index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Number(u64),
    Position(u64, u64),
}

impl Order {
    fn of(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse() {
            return Some(Self::Number(number));
        }
        let (term, index) = position(text).ok()?;
        Some(Self::Position(term, index))
    }
}

fn compare(found: &str, relation: Relation, wanted: &str) -> bool {
    let same = found == wanted || (runs(found).is_some() && runs(found) == runs(wanted));
    let order = Order::of(found).zip(Order::of(wanted));
    match (relation, order) {
        (Relation::Equal, _) => same,
        (Relation::Unequal, _) => !same,
        (_, None) => false,
        (Relation::Less, Some((found, wanted))) => found < wanted,
        (Relation::AtMost, Some((found, wanted))) => found <= wanted,
        (Relation::More, Some((found, wanted))) => found > wanted,
        (Relation::AtLeast, Some((found, wanted))) => found >= wanted,
    }
}

/// How a word's observations are laid out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// The facts of one thing: a word's outcome.
    One(Vocabulary),
    /// Facts by name: `1,2: follower term=3`.
    Named(Vocabulary),
    /// Messages in order, all of them: `1->2 append prev=1/1`.
    Messages(Vocabulary),
    /// Lists by name, whole: `all: 1/1..4 3/5`.
    Lists,
}

/// What was seen.
#[derive(Clone, Debug)]
pub(crate) enum Observed {
    One(Facts),
    Named(Vec<(String, Facts)>),
    Messages(Vec<(String, Facts)>),
    Lists(Vec<(String, Vec<String>)>),
}

/// A line after `----`.
#[derive(Clone, Debug)]
pub(crate) struct Expectation {
    pub(crate) line: usize,
    text: String,
    /// Whom it is about; empty for all.
    names: Vec<String>,
    tests: Vec<Test>,
    list: Vec<String>,
}

impl Expectation {
    pub(crate) fn parse(line: usize, text: &str, shape: Shape) -> Parsed<Self> {
        let text = text.trim().to_owned();
        let mut words: Vec<String> = super::token::split(&text)?
            .into_iter()
            .map(|token| token.text)
            .collect();
        let mut names = Vec::new();
        let vocabulary = match shape {
            Shape::One(vocabulary) => Some(vocabulary),
            Shape::Messages(_) if words == ["none"] => None,
            Shape::Messages(vocabulary) => {
                let ends = words.remove(0);
                if !ends.contains("->") {
                    return Err(format!(
                        "expected a message such as 1->3 append, or none, found `{ends}`"
                    ));
                }
                names.push(ends);
                Some(vocabulary)
            }
            Shape::Named(_) | Shape::Lists => {
                let Some(name) = words[0].strip_suffix(':') else {
                    let found = &words[0];
                    return Err(format!(
                        "expected whom this is about, such as `1:` or `all:`, found `{found}`"
                    ));
                };
                if name != "all" {
                    names = super::token::ids(name)?
                        .iter()
                        .map(u64::to_string)
                        .collect();
                }
                if words.len() == 1 {
                    return Err(format!("expected what holds of {name}, found nothing"));
                }
                words.remove(0);
                match shape {
                    Shape::Named(vocabulary) => Some(vocabulary),
                    _ => None,
                }
            }
        };
        let tests = match vocabulary {
            Some(known) => words
                .iter()
                .map(|word| Test::parse(word, known))
                .collect::<Parsed<_>>()?,
            None => Vec::new(),
        };
        Ok(Self {
            line,
            text,
            names,
            tests,
            list: words,
        })
    }

    fn fits(&self, facts: &Facts) -> bool {
        self.tests.iter().all(|test| test.holds(facts))
    }

    fn is_about(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|one| one == name)
    }
}

/// What was found where something else was expected.
#[derive(Debug)]
pub(crate) struct Mismatch {
    pub(crate) line: usize,
    pub(crate) expected: String,
    pub(crate) found: String,
}

/// Holds what was seen against what was expected.
pub(crate) fn check(expected: &[Expectation], observed: &Observed) -> Result<(), Mismatch> {
    let mismatch = |expectation: &Expectation, found: String| {
        Err(Mismatch {
            line: expectation.line,
            expected: expectation.text.clone(),
            found,
        })
    };
    match observed {
        Observed::One(facts) => match expected.iter().find(|one| !one.fits(facts)) {
            Some(one) => mismatch(one, facts.to_string()),
            None => Ok(()),
        },
        Observed::Named(all) => {
            for one in expected {
                let mut about = all.iter().filter(|(name, _)| one.is_about(name)).peekable();
                for name in &one.names {
                    if !all.iter().any(|(known, _)| known == name) {
                        return mismatch(one, format!("nothing called {name}"));
                    }
                }
                if about.peek().is_none() {
                    return mismatch(one, "nothing".to_owned());
                }
                if let Some((name, facts)) = about.find(|(_, facts)| !one.fits(facts)) {
                    return mismatch(one, format!("{name}: {facts}"));
                }
            }
            Ok(())
        }
        Observed::Messages(all) => check_messages(expected, all),
        Observed::Lists(all) => {
            for one in expected {
                let about: Vec<_> = all.iter().filter(|(name, _)| one.is_about(name)).collect();
                for name in &one.names {
                    if !about.iter().any(|(known, _)| known == name) {
                        return mismatch(one, format!("nothing called {name}"));
                    }
                }
                let Some((_, first)) = about.first() else {
                    return mismatch(one, "nothing".to_owned());
                };
                let wanted = if one.list == ["same"] {
                    first
                } else {
                    &one.list
                };
                if let Some((name, list)) =
                    about.iter().find(|(_, list)| !equal_lists(list, wanted))
                {
                    return mismatch(one, format!("{name}: {}", show(list)));
                }
            }
            Ok(())
        }
    }
}

fn show(list: &[String]) -> String {
    match list.is_empty() {
        true => "none".to_owned(),
        false => list.join(" "),
    }
}

fn equal_lists(found: &[String], wanted: &[String]) -> bool {
    let (found, wanted) = (show(found), show(wanted));
    found == wanted || runs(&found).is_some_and(|found| Some(found) == runs(&wanted))
}

fn check_messages(expected: &[Expectation], all: &[(String, Facts)]) -> Result<(), Mismatch> {
    let wanted: Vec<&Expectation> = expected.iter().filter(|one| one.list != ["none"]).collect();
    let found = all.iter().map(|(ends, facts)| format!("{ends} {facts}"));
    let found: Vec<String> = found.collect();
    let at = wanted
        .iter()
        .zip(all)
        .find(|(one, (ends, facts))| !one.names.contains(ends) || !one.fits(facts));
    let wrong = match at {
        Some((one, _)) => Some(*one),
        None if wanted.len() != all.len() => expected.last(),
        None => None,
    };
    match wrong {
        None => Ok(()),
        Some(one) => Err(Mismatch {
            line: one.line,
            expected: expected
                .iter()
                .map(|one| one.text.as_str())
                .collect::<Vec<_>>()
                .join("\n             "),
            found: match found.is_empty() {
                true => "none".to_owned(),
                false => found.join("\n             "),
            },
        }),
    }
}
