//! What a load generator asks for: operations, keys and values.
//!
//! The mixes and distributions of YCSB are those of its publication (Cooper et al., *Benchmarking
//! Cloud Serving Systems with YCSB*, SoCC 2010) and of the files `workloads/workload{a..f}` and
//! the class `CoreWorkload` of its reference implementation. They are written down in one table,
//! [`Workload::mix`]. Everything here is a function of a seed; nothing here does I/O.
//!
//! Two differences are forced by a run that is bounded by time and not by a number of operations,
//! and by a store whose rows are single values:
//!
//! - workload E draws the start of a scan from the rows loaded before the run; the reference adds
//!   twice the expected number of inserts to the key space, which is not known here;
//! - a row is one value of ten fields, so a write of one field must read the row first. An update is
//!   a blind write, as in the publication, and therefore of the whole row (the reference's
//!   `writeallfields`); a read-modify-write changes one field of what it has read. Where the
//!   reference's bindings of plain key-value stores read before they update, `--update-one-field` does.

mod distribution;
mod keys;
mod values;

pub use distribution::{Chooser, Inserts, fnv64};
pub use keys::KeyStyle;
pub use values::{FIELDS, Row, ValueMaker};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::sync::Arc;

/// A workload by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// Only writes, keys uniform: the standard run.
    Put,
    /// Only linearizable reads, keys uniform.
    Get,
    /// 50% read, 50% update, zipfian.
    YcsbA,
    /// 95% read, 5% update, zipfian.
    YcsbB,
    /// Only reads, zipfian.
    YcsbC,
    /// 95% read of the latest, 5% insert.
    YcsbD,
    /// 95% scan of 1 to 100 rows, 5% insert, zipfian.
    YcsbE,
    /// 50% read, 50% read-modify-write, zipfian.
    YcsbF,
}

/// Percentages of each operation; their sum is 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Reads of one row.
    pub read: u32,
    /// Changes of one row.
    pub update: u32,
    /// New rows.
    pub insert: u32,
    /// Scans.
    pub scan: u32,
    /// Reads followed by an update of the same row, measured as one.
    pub read_modify_write: u32,
}

/// How the rows of an operation are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// All rows alike.
    Uniform,
    /// A few rows are hot, and they are scattered over the key space.
    Zipfian,
    /// The rows inserted last are hot.
    Latest,
}

/// The longest scan of workload E; the length is uniform from 1.
pub const MAX_SCAN_ROWS: usize = 100;

/// One operation; rows are named by number, see [`KeyStyle::key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read a row.
    Read(u64),
    /// Change a row.
    Update(u64),
    /// Add the row with this number; tell [`Inserts::finished`] when it ended.
    Insert(u64),
    /// Read so many rows from this one on.
    Scan(u64, usize),
    /// Read a row, then change it.
    ReadModifyWrite(u64),
}

impl Workload {
    /// What it consists of.
    #[must_use]
    pub const fn mix(self) -> Mix {
        const fn mix(read: u32, update: u32, insert: u32, scan: u32, rmw: u32) -> Mix {
            Mix {
                read,
                update,
                insert,
                scan,
                read_modify_write: rmw,
            }
        }
        match self {
            Self::Put => mix(0, 100, 0, 0, 0),
            Self::Get | Self::YcsbC => mix(100, 0, 0, 0, 0),
            Self::YcsbA => mix(50, 50, 0, 0, 0),
            Self::YcsbB => mix(95, 5, 0, 0, 0),
            Self::YcsbD => mix(95, 0, 5, 0, 0),
            Self::YcsbE => mix(0, 0, 5, 95, 0),
            Self::YcsbF => mix(50, 0, 0, 0, 50),
        }
    }

    /// Which rows it asks for.
    #[must_use]
    pub const fn distribution(self) -> Distribution {
        match self {
            Self::Put | Self::Get => Distribution::Uniform,
            Self::YcsbD => Distribution::Latest,
            _ => Distribution::Zipfian,
        }
    }

    /// Whether it is one of YCSB's, whose rows have fields.
    #[must_use]
    pub const fn is_ycsb(self) -> bool {
        !matches!(self, Self::Put | Self::Get)
    }

    /// Which keys its rows have.
    #[must_use]
    pub const fn keys(self) -> KeyStyle {
        if self.is_ycsb() {
            KeyStyle::Ycsb
        } else {
            KeyStyle::Hashed
        }
    }

    /// Bytes of a value if nothing else is said: ten fields of 100 for YCSB, else 128.
    #[must_use]
    pub const fn default_value_bytes(self) -> usize {
        if self.is_ycsb() { 1000 } else { 128 }
    }
}

/// One client's stream of operations.
#[derive(Debug)]
pub struct Steps {
    mix: Mix,
    chooser: Chooser,
    inserts: Arc<Inserts>,
    rng: StdRng,
}

impl Steps {
    /// The stream of client number `client`, over `rows` rows that are there already.
    #[must_use]
    pub fn new(
        workload: Workload,
        rows: u64,
        inserts: Arc<Inserts>,
        seed: u64,
        client: u64,
    ) -> Self {
        Self {
            mix: workload.mix(),
            chooser: Chooser::new(workload.distribution(), rows),
            inserts,
            rng: StdRng::seed_from_u64(fnv64(seed ^ fnv64(client + 1))),
        }
    }
}

impl Iterator for Steps {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let Mix {
            read,
            update,
            insert,
            scan,
            ..
        } = self.mix;
        let draw = self.rng.random_range(0..100);
        if (read + update..read + update + insert).contains(&draw) {
            return Some(Step::Insert(self.inserts.begin()));
        }
        let row = self.chooser.draw(&self.inserts, &mut self.rng);
        Some(if draw < read {
            Step::Read(row)
        } else if draw < read + update {
            Step::Update(row)
        } else if draw < read + update + insert + scan {
            Step::Scan(row, self.rng.random_range(1..=MAX_SCAN_ROWS))
        } else {
            Step::ReadModifyWrite(row)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn every_mix_is_whole() {
        for workload in Workload::value_variants() {
            let mix = workload.mix();
            let sum = mix.read + mix.update + mix.insert + mix.scan + mix.read_modify_write;
            assert_eq!(sum, 100, "{workload:?}");
        }
    }

    #[test]
    fn what_is_drawn_is_the_mix() {
        const DRAWS: u32 = 100_000;
        for workload in Workload::value_variants() {
            let inserts = Arc::new(Inserts::new(1000));
            let mut seen = [0_u32; 5];
            let steps = Steps::new(*workload, 1000, inserts.clone(), 7, 0);
            for step in steps.take(DRAWS as usize) {
                match step {
                    Step::Read(_) => seen[0] += 1,
                    Step::Update(_) => seen[1] += 1,
                    Step::Insert(row) => {
                        seen[2] += 1;
                        inserts.finished(row);
                    }
                    Step::Scan(_, rows) => {
                        assert!((1..=MAX_SCAN_ROWS).contains(&rows));
                        seen[3] += 1;
                    }
                    Step::ReadModifyWrite(_) => seen[4] += 1,
                }
            }
            let mix = workload.mix();
            let wanted = [
                mix.read,
                mix.update,
                mix.insert,
                mix.scan,
                mix.read_modify_write,
            ];
            for (seen, wanted) in seen.into_iter().zip(wanted) {
                let percent = f64::from(seen) * 100.0 / f64::from(DRAWS);
                let off = (percent - f64::from(wanted)).abs();
                assert!(off < 0.7, "{workload:?}: {percent}% for {wanted}%");
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_steps_and_clients_differ() {
        let steps = |client| -> Vec<Step> {
            let inserts = Arc::new(Inserts::new(500));
            Steps::new(Workload::YcsbA, 500, inserts, 3, client)
                .take(50)
                .collect()
        };
        assert_eq!(steps(1), steps(1));
        assert_ne!(steps(1), steps(2));
    }
}
