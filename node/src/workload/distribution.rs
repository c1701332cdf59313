//! Which row is asked for next.
//!
//! The zipfian constant is 0.99. The reference implementation of YCSB draws from 10^10 items and
//! scatters them with a 64-bit FNV hash modulo the number of rows, so the hottest row takes about
//! 1/26.47 of all draws however many rows there are; the same is done here. Where the reference
//! approximates (Gray et al., *Quickly Generating Billion-Record Synthetic Databases*), the crate
//! `rand_distr` samples the distribution itself by rejection-inversion, which needs no table and
//! may change its number of items at every draw.

use super::Distribution;
use parking_lot::Mutex;
use rand::distr::Distribution as _;
use rand::{Rng, RngExt as _};
use rand_distr::Zipf;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

/// YCSB's constant.
const ZIPFIAN_CONSTANT: f64 = 0.99;

/// Items that the scattered zipfian draws from, before they are folded onto the rows
/// (`ScrambledZipfianGenerator.ITEM_COUNT` of the reference implementation).
const SCATTERED_ITEMS: f64 = 10_000_000_000.0;

/// FNV-1 over the eight bytes of a number, low byte first, made positive: `Utils.fnvhash64` of
/// YCSB's reference implementation, by which it scatters rows and makes keys.
#[must_use]
pub const fn fnv64(number: u64) -> u64 {
    const OFFSET_BASIS: u64 = 0xCBF2_9CE4_8422_2325;
    const PRIME: u64 = 1_099_511_628_211;
    let mut hash = OFFSET_BASIS;
    let mut rest = number;
    let mut byte = 0;
    while byte < 8 {
        hash ^= rest & 0xff;
        hash = hash.wrapping_mul(PRIME);
        rest >>= 8;
        byte += 1;
    }
    hash.cast_signed().unsigned_abs()
}

/// Rows that are there, and rows on their way. Shared by all clients of a run.
#[derive(Debug)]
pub struct Inserts {
    next: AtomicU64,
    /// All rows below are there.
    present: AtomicU64,
    /// Inserts that ended while an earlier one had not.
    ahead: Mutex<BTreeSet<u64>>,
}

impl Inserts {
    /// Rows `0..rows` are there.
    #[must_use]
    pub fn new(rows: u64) -> Self {
        Self {
            next: AtomicU64::new(rows),
            present: AtomicU64::new(rows),
            ahead: Mutex::default(),
        }
    }

    /// The number of a new row.
    pub fn begin(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The insert of `row` has ended. Rows are drawn from only as far as all inserts ended, so
    /// that a read of the latest row finds it.
    pub fn finished(&self, row: u64) {
        let mut ahead = self.ahead.lock();
        ahead.insert(row);
        let mut present = self.present.load(Ordering::Relaxed);
        while ahead.remove(&present) {
            present += 1;
        }
        self.present.store(present, Ordering::Release);
    }

    /// All rows below this one are there.
    pub fn present(&self) -> u64 {
        self.present.load(Ordering::Acquire)
    }
}

/// Draws rows.
#[derive(Clone, Debug)]
pub struct Chooser {
    distribution: Distribution,
    rows: u64,
    /// Over [`SCATTERED_ITEMS`], or over the rows there were when it was last needed.
    zipf: Zipf<f64>,
    zipf_rows: u64,
}

impl Chooser {
    /// Over `rows` rows (at least one), and for [`Distribution::Latest`] those that come.
    #[must_use]
    pub fn new(distribution: Distribution, rows: u64) -> Self {
        let rows = rows.max(1);
        let items = match distribution {
            Distribution::Latest => rows as f64,
            _ => SCATTERED_ITEMS,
        };
        Self {
            distribution,
            rows,
            zipf: zipf(items),
            zipf_rows: rows,
        }
    }

    /// The next row.
    pub fn draw(&mut self, inserts: &Inserts, rng: &mut impl Rng) -> u64 {
        match self.distribution {
            Distribution::Uniform => rng.random_range(0..self.rows),
            Distribution::Zipfian => {
                let item = self.zipf.sample(rng) as u64 - 1;
                fnv64(item) % self.rows
            }
            Distribution::Latest => {
                let present = inserts.present().max(1);
                if present != self.zipf_rows {
                    self.zipf = zipf(present as f64);
                    self.zipf_rows = present;
                }
                // Sampled from 1 to `present`; 1, the most frequent, is the last row.
                present - (self.zipf.sample(rng) as u64).clamp(1, present)
            }
        }
    }
}

fn zipf(items: f64) -> Zipf<f64> {
    Zipf::new(items, ZIPFIAN_CONSTANT).expect("at least one item, and a positive constant")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    const ROWS: u64 = 1000;
    const DRAWS: usize = 200_000;

    /// How often each row was drawn.
    fn draws(distribution: Distribution) -> Vec<usize> {
        let mut chooser = Chooser::new(distribution, ROWS);
        let inserts = Inserts::new(ROWS);
        let mut rng = StdRng::seed_from_u64(11);
        let mut seen = vec![0; ROWS as usize];
        for _ in 0..DRAWS {
            seen[chooser.draw(&inserts, &mut rng) as usize] += 1;
        }
        seen
    }

    #[test]
    fn fnv_is_the_reference_implementations() {
        // Worked by hand for 0: the offset basis times the prime, eight times, made positive.
        let mut hash = 0xCBF2_9CE4_8422_2325_u64;
        for _ in 0..8 {
            hash = hash.wrapping_mul(1_099_511_628_211);
        }
        assert_eq!(fnv64(0), (hash as i64).unsigned_abs());
        // The first keys of every YCSB load are well known.
        assert_eq!(fnv64(0), 6_284_781_860_667_377_211);
        assert_eq!(fnv64(1), 8_517_097_267_634_966_620);
    }

    #[test]
    fn uniform_draws_every_row_alike() {
        let seen = draws(Distribution::Uniform);
        let mean = DRAWS / ROWS as usize;
        assert!(
            seen.iter()
                .all(|count| (mean / 2..mean * 2).contains(count))
        );
    }

    #[test]
    fn zipfian_has_hot_rows_scattered_over_the_key_space() {
        let seen = draws(Distribution::Zipfian);
        let mut order: Vec<usize> = (0..seen.len()).collect();
        order.sort_by_key(|row| std::cmp::Reverse(seen[*row]));
        // The first item has the probability 1/26.469 (the reference's ZETAN), and the hash puts
        // it on its row; the second half as often, to the power 0.99.
        assert_eq!(order[0] as u64, fnv64(0) % ROWS);
        let first = seen[order[0]] as f64 / DRAWS as f64;
        assert!((0.035..0.042).contains(&first), "{first}");
        let ratio = seen[order[0]] as f64 / seen[order[1]] as f64;
        assert!((1.7..2.2).contains(&ratio), "{ratio}");
        // Ten items of 10^10 take about 11%, and every row gets something.
        let top: usize = order[..10].iter().map(|row| seen[*row]).sum();
        assert!((0.09..0.15).contains(&(top as f64 / DRAWS as f64)));
        assert!(seen.iter().all(|count| *count > 0));
    }

    #[test]
    fn latest_prefers_the_last_row_and_follows_inserts() {
        let seen = draws(Distribution::Latest);
        let hottest = (0..seen.len()).max_by_key(|row| seen[*row]).unwrap();
        assert_eq!(hottest as u64, ROWS - 1);
        assert!(seen[ROWS as usize - 1] > seen[ROWS as usize - 2]);

        let mut chooser = Chooser::new(Distribution::Latest, ROWS);
        let inserts = Inserts::new(ROWS);
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..ROWS {
            inserts.finished(inserts.begin());
        }
        let newer = (0..1000)
            .filter(|_| chooser.draw(&inserts, &mut rng) >= ROWS)
            .count();
        assert!(newer > 800, "{newer}");
    }

    #[test]
    fn a_row_is_there_only_when_all_before_it_are() {
        let inserts = Inserts::new(10);
        let (first, second) = (inserts.begin(), inserts.begin());
        assert_eq!((first, second), (10, 11));
        inserts.finished(second);
        assert_eq!(inserts.present(), 10);
        inserts.finished(first);
        assert_eq!(inserts.present(), 12);
    }
}
