//! The result, for people and for programs.

use crate::pairs::Bounded;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde_json::{Value, json};

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Section {
    Floor,
    Writers,
    Peer,
    Append,
    Recovery,
    Groups,
}

impl Section {
    fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Writers => "writers",
            Self::Peer => "raft-engine",
            Self::Append => "append",
            Self::Recovery => "recovery",
            Self::Groups => "groups",
        }
    }
}

/// What the two values of a row are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Nanos,
    Micros,
    Millis,
    PerSecond,
    GibPerSecond,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Nanos => "ns",
            Self::Micros => "µs",
            Self::Millis => "ms",
            Self::PerSecond => "/s",
            Self::GibPerSecond => "GiB/s",
        }
    }

    fn format(self, value: f64) -> String {
        let digits = if value < 10.0 { 2 } else { 0 };
        format!("{value:.digits$} {}", self.name())
    }
}

/// What a ratio is meant to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Aim {
    /// The median.
    AtLeast(f64),
    /// The median.
    AtMost(f64),
    /// The lower bound.
    LowAtLeast(f64),
    /// The lower bound: more, and not by chance.
    Above(f64),
    /// The upper bound: if less, then it may be by chance.
    NotBelow(f64),
}

impl Aim {
    fn is_met(self, ratio: &Bounded) -> bool {
        match self {
            Self::AtLeast(limit) => ratio.median >= limit,
            Self::AtMost(limit) => ratio.median <= limit,
            Self::LowAtLeast(limit) => ratio.low >= limit,
            Self::Above(limit) => ratio.low > limit,
            Self::NotBelow(limit) => ratio.high >= limit,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(limit) => format!("at least {limit}"),
            Self::AtMost(limit) => format!("at most {limit}"),
            Self::LowAtLeast(limit) => format!("low at least {limit}"),
            Self::Above(limit) => format!("low above {limit}"),
            Self::NotBelow(limit) => format!("high at least {limit}"),
        }
    }
}

/// One figure.
pub(crate) struct Row {
    pub(crate) section: Section,
    case: String,
    what: &'static str,
    unit: Unit,
    log: f64,
    beside: f64,
    ratio: Bounded,
    aim: Option<Aim>,
}

impl Row {
    /// A row without its figures.
    pub(crate) fn new(section: Section, case: &str, what: &'static str, unit: Unit) -> Self {
        Self {
            section,
            case: case.to_owned(),
            what,
            unit,
            log: f64::NAN,
            beside: f64::NAN,
            ratio: Bounded::of([]),
            aim: None,
        }
    }

    /// The log's value and that of what stands beside it: medians of the windows.
    pub(crate) fn values<W>(
        mut self,
        windows: &[W],
        log: impl Fn(&W) -> f64,
        beside: impl Fn(&W) -> f64,
    ) -> Self {
        self.log = Bounded::of(windows.iter().map(log)).median;
        self.beside = Bounded::of(windows.iter().map(beside)).median;
        self
    }

    /// Their ratio, pair by pair.
    pub(crate) fn ratio<W>(mut self, windows: &[W], ratio: impl Fn(&W) -> f64) -> Self {
        self.ratio = Bounded::of(windows.iter().map(ratio));
        self
    }

    pub(crate) fn aim(mut self, aim: Aim) -> Self {
        self.aim = Some(aim);
        self
    }

    fn is_met(&self) -> Option<bool> {
        self.aim.map(|aim| aim.is_met(&self.ratio))
    }
}

/// Prints the table.
pub(crate) fn print(rows: &[Row]) {
    println!(
        "The log beside its floor and raft-engine 0.4.2 on recycled files; records of 128 B where nothing else is said"
    );
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_header([
        "beside", "case", "figure", "log", "beside", "ratio", "low", "high", "pairs", "aim", "met",
    ]);
    for row in rows {
        let met = row
            .is_met()
            .map_or("", |met| if met { "yes" } else { "NO" });
        table.add_row([
            row.section.name().to_owned(),
            row.case.clone(),
            row.what.to_owned(),
            row.unit.format(row.log),
            row.unit.format(row.beside),
            format!("{:.2}", row.ratio.median),
            format!("{:.2}", row.ratio.low),
            format!("{:.2}", row.ratio.high),
            row.ratio.count.to_string(),
            row.aim.map(Aim::text).unwrap_or_default(),
            met.to_owned(),
        ]);
    }
    println!("{table}");
    println!(
        "Values are medians of the windows, ratios the medians of the pairs' own; low and high bound the"
    );
    println!("median with 95% each. CPU is the whole process's, the kernel's part of it included.");
}

/// The same as one JSON object.
pub(crate) fn json(rows: &[Row], recovery_mib: u64) -> Value {
    let figures: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "section": row.section.name(),
                "case": row.case,
                "figure": row.what,
                "unit": row.unit.name(),
                "log": row.log,
                "beside": row.beside,
                "ratio": row.ratio.json(),
                "aim": row.aim.map(Aim::text),
                "met": row.is_met(),
            })
        })
        .collect();
    json!({
        "bench": "log",
        "peer_version": "raft-engine 0.4.2",
        "recovery_mib": recovery_mib,
        "figures": figures,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_is_about_the_median_or_the_bound_that_it_names() {
        let ratio = Bounded {
            low: 0.8,
            median: 1.0,
            high: 1.2,
            count: 20,
        };
        assert!(Aim::AtLeast(1.0).is_met(&ratio) && !Aim::AtLeast(1.1).is_met(&ratio));
        assert!(Aim::AtMost(1.0).is_met(&ratio) && !Aim::AtMost(0.9).is_met(&ratio));
        assert!(Aim::LowAtLeast(0.8).is_met(&ratio) && !Aim::LowAtLeast(0.9).is_met(&ratio));
        assert!(Aim::Above(0.7).is_met(&ratio) && !Aim::Above(0.8).is_met(&ratio));
        assert!(Aim::NotBelow(1.2).is_met(&ratio) && !Aim::NotBelow(1.3).is_met(&ratio));
    }
}
