//! Explores one space to its end, or to the first thing that is broken.

use crate::broken::Broken;
use crate::space::{Bounds, Space};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use stateright::report::{ReportData, ReportDiscovery, Reporter};
use stateright::{Checker, DiscoveryClassification, HasDiscoveries, Model};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// What a space turned out to hold.
pub(crate) struct Explored {
    bounds: Bounds,
    /// States reached, by every way to them.
    reached: usize,
    /// Different ones.
    unique: usize,
    /// Steps of the longest way that was needed to a new one.
    depth: usize,
    took: Duration,
    /// What never happened, and should have.
    never: Vec<&'static str>,
    /// What was broken, and how it came to that.
    pub(crate) broken: Option<(Broken, Vec<String>)>,
}

pub(crate) fn explore(bounds: Bounds, threads: u16) -> Explored {
    let began = Instant::now();
    let checker = Space::new(bounds)
        .checker()
        .threads(threads.into())
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join_and_report(&mut Progress::new(bounds));
    let found = checker.discoveries();
    let properties = checker.model().properties();
    let is_failure = |name: &str| {
        let classification = checker.discovery_classification(name);
        matches!(classification, DiscoveryClassification::Counterexample)
    };
    let never = properties
        .iter()
        .filter(|property| property.expectation == stateright::Expectation::Sometimes)
        .map(|property| property.name)
        .filter(|name| !found.contains_key(name));
    let never = never.collect();
    let shortest = found
        .into_iter()
        .filter(|(name, _)| is_failure(name))
        .map(|(_, path)| path.into_vec())
        .min_by_key(Vec::len);
    let broken = shortest.and_then(|path| {
        let broken = path.last()?.0.broken.as_deref()?.clone();
        let steps = path
            .iter()
            .filter_map(|(state, action)| Some(Space::describe(state, (*action)?)));
        Some((broken, steps.collect()))
    });
    Explored {
        bounds,
        reached: checker.state_count(),
        unique: checker.unique_state_count(),
        depth: checker.max_depth(),
        took: began.elapsed(),
        never,
        broken,
    }
}

impl Explored {
    /// Whether nothing is broken and all happened that should.
    pub(crate) fn is_good(&self) -> bool {
        self.broken.is_none() && self.never.is_empty()
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "bounds": self.bounds,
            "states_reached": self.reached,
            "states_unique": self.unique,
            "depth": self.depth,
            "seconds": self.took.as_secs_f64(),
            "never": self.never,
            "broken": self.broken.as_ref().map(|(broken, _)| broken.to_string()),
            "steps": self.broken.as_ref().map(|(_, steps)| steps),
        })
    }
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} states, reached {} times, depth {}, {:.1} s",
            self.bounds,
            self.unique,
            self.reached,
            self.depth,
            self.took.as_secs_f64()
        )?;
        if let Some((broken, steps)) = &self.broken {
            write!(f, "\n  BROKEN after {} steps: {broken}", steps.len())?;
            for (number, step) in (1..).zip(steps) {
                write!(f, "\n  {number:>3}  {step}")?;
            }
        } else if !self.never.is_empty() {
            write!(f, "\n  TOO SMALL: never: {}", self.never.join("; "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            terms,
            in_flight,
            proposals,
            crashes,
            repeats,
            heartbeats,
        } = self;
        write!(f, "terms {terms}, in flight {in_flight}")?;
        for (count, what) in [
            (proposals, "proposals"),
            (crashes, "crashes"),
            (repeats, "repeats"),
            (heartbeats, "heartbeats"),
        ] {
            if *count > 0 {
                write!(f, ", {what} {count}")?;
            }
        }
        Ok(())
    }
}

/// One line on stderr that tells how far the exploration is; nothing if nobody watches.
struct Progress {
    line: ProgressBar,
    bounds: Bounds,
}

impl Progress {
    fn new(bounds: Bounds) -> Self {
        let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}");
        let style = style.expect("the template is well formed");
        let line = ProgressBar::new_spinner().with_style(style);
        Self { line, bounds }
    }
}

impl Reporter<Space> for Progress {
    fn report_checking(&mut self, data: ReportData) {
        if data.done {
            return self.line.finish_and_clear();
        }
        let (unique, depth) = (data.unique_states, data.max_depth);
        let message = format!("{}: {unique} states, depth {depth}", self.bounds);
        self.line.set_message(message);
        self.line.tick();
    }

    fn report_discoveries(&mut self, _: &Space, _: BTreeMap<&'static str, ReportDiscovery<Space>>) {
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_term_is_safe_and_the_same_size_for_any_number_of_threads() {
        let bounds = Bounds {
            terms: 1,
            in_flight: 2,
            proposals: 0,
            crashes: 1,
            repeats: 0,
            heartbeats: 0,
        };
        let [one, two] = [1, 2].map(|threads| explore(bounds, threads));
        assert!(one.broken.is_none() && two.broken.is_none(), "{one}\n{two}");
        assert_eq!((one.unique, one.reached), (two.unique, two.reached));
        assert!(!one.never.contains(&"an entry is committed"), "{one}");
    }
}
