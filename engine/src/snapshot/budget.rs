//! How many bytes a node moves for snapshots, over all of them, and how that gives way to everything else.

use pontoon_types::Instant;
use pontoon_wal::LogWaits;
use std::time::Duration;

/// Bytes that may be moved at once after a pause.
const BURST: Duration = Duration::from_millis(50);
/// No more than this is moved after a pause, when it is not known what the writes make of it.
const FIRST_BYTES_PER_SECOND: u64 = 64 << 20;
/// As much as this is always moved, or a snapshot would never end.
const LEAST_BYTES_PER_SECOND: u64 = 2 << 20;
/// So much more is moved each time that the writes turn out not to suffer.
const MORE_BYTES_PER_SECOND: u64 = 2 << 20;
/// So long without a charge is a pause.
const PAUSE: Duration = Duration::from_secs(1);
/// Fewer batches than these say nothing about how the log does; they are added up until there are enough.
const MIN_BATCHES: u32 = 8;
/// Nobody writes if none has become durable and none waits so many times in a row.
const QUIET: u32 = 3;
/// What a disk may take longer without anybody's doing.
const SLACK: Duration = Duration::from_micros(300);

/// A rate, kept to on average: whoever moves something is charged for it, and the next has to wait until the debt
/// is paid off.
///
/// It is told now and then how long the log's batches wait. While they wait half as long again as they did without snapshots the
/// rate is halved, and grows slowly when they do not (as TCP does, RFC 5681), and by half when there are none
/// and none waits.
/// At the least rate the waiting is not the snapshots' doing, and becomes what is usual.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// When everything that was charged is paid for.
    paid_at: Instant,
    /// The rate at present, at first, at least and at most, in bytes a second.
    rate: u64,
    first: u64,
    least: u64,
    most: u64,
    /// How long a batch waits when nothing is moved.
    usual: Option<Duration>,
    /// Whether something was moved since it was last judged how the log does.
    has_moved: bool,
    /// What was heard of the log since then.
    batches: u32,
    waited: Duration,
    /// How often in a row nothing was.
    quiet: u32,
}

impl Budget {
    pub(crate) fn new(bytes_per_second: u64, now: Instant) -> Self {
        let first = bytes_per_second.min(FIRST_BYTES_PER_SECOND);
        Self {
            paid_at: now,
            rate: first,
            first,
            least: LEAST_BYTES_PER_SECOND.min(bytes_per_second.div_ceil(4)),
            most: bytes_per_second,
            usual: None,
            has_moved: false,
            batches: 0,
            waited: Duration::ZERO,
            quiet: 0,
        }
    }

    /// When something may be moved; now, or later.
    pub(crate) fn opens_at(&self, now: Instant) -> Instant {
        self.paid_at.max(now)
    }

    /// Charges what is moved now.
    pub(crate) fn charge(&mut self, bytes: usize, now: Instant) {
        if now - self.paid_at > PAUSE {
            self.rate = self.rate.min(self.first);
        }
        let nanos = u128::from(bytes as u64) * 1_000_000_000 / u128::from(self.rate);
        let price = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // What was not used earlier is worth a little, not for ever.
        let from = if now - self.paid_at > BURST {
            Instant::from_nanos(now.as_nanos().saturating_sub(BURST.as_nanos() as u64))
        } else {
            self.paid_at
        };
        self.paid_at = from + price;
        self.has_moved = true;
    }

    /// What has become of the log's batches since the last time. While one waits that is not durable, the disk may hang.
    pub(crate) fn heed(&mut self, since: &LogWaits) {
        let batches = u32::try_from(since.batches).unwrap_or(u32::MAX);
        self.batches = self.batches.saturating_add(batches);
        self.waited += since.waited;
        let is_quiet = batches == 0 && since.waiting == 0;
        self.quiet = if is_quiet { self.quiet + 1 } else { 0 };
        let rate = if self.batches >= MIN_BATCHES {
            if self.suffers() {
                self.rate / 2
            } else {
                self.rate.saturating_add(MORE_BYTES_PER_SECOND)
            }
        } else if self.quiet >= QUIET {
            self.rate.saturating_add(self.rate.div_ceil(2))
        } else {
            return;
        };
        self.rate = rate.clamp(self.least, self.most);
        (self.batches, self.waited, self.has_moved) = (0, Duration::ZERO, false);
    }

    /// Judges by what was heard.
    fn suffers(&mut self) -> bool {
        let is_ours = self.has_moved && self.rate > self.least;
        let mean = self.waited / self.batches;
        let usual = self.usual.unwrap_or(mean);
        self.usual = Some(if is_ours {
            usual.min(mean)
        } else {
            (3 * usual + mean) / 4
        });
        is_ours && mean > usual + usual / 2 + SLACK
    }

    /// The rate at present, in bytes a second.
    pub(crate) const fn present_rate(&self) -> u64 {
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const RATE: u64 = 1024 * MIB;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos((1 << 50) + millis * 1_000_000)
    }

    fn budget() -> Budget {
        Budget::new(RATE, at(0))
    }

    /// Something is moved, and the log's batches, if there are any, wait so long.
    fn heed(budget: &mut Budget, times: u32, batches: u64, mean_us: u64) {
        for _ in 0..times {
            let now = budget.opens_at(at(0));
            budget.charge(1, now);
            budget.heed(&announced(batches, mean_us));
        }
    }

    fn announced(batches: u64, mean_us: u64) -> LogWaits {
        LogWaits {
            batches,
            waited: Duration::from_micros(batches * mean_us),
            waiting: 0,
        }
    }

    /// The present rate, in whole MiB a second.
    fn mib(budget: &Budget) -> u64 {
        budget.present_rate() / MIB
    }

    /// How long it takes to pay for a second's worth at the full rate.
    fn second(budget: &mut Budget) -> Duration {
        let now = budget.opens_at(at(0));
        budget.charge(RATE as usize, now);
        budget.opens_at(now) - now
    }

    #[test]
    fn it_begins_with_a_part_and_gets_all_of_the_rate_soon_if_nobody_writes() {
        let mut budget = budget();
        assert_eq!(second(&mut budget), Duration::from_secs(16));
        heed(&mut budget, QUIET - 1, 0, 0);
        assert_eq!(mib(&budget), 64, "somebody may write now and then");
        heed(&mut budget, 7, 0, 0);
        assert_eq!(mib(&budget), 1024);
        assert_eq!(second(&mut budget), Duration::from_secs(1));
        // After a pause it is careful again.
        let later = budget.opens_at(at(0)) + 2 * PAUSE;
        budget.charge(1, later);
        assert_eq!(mib(&budget), 64);
    }

    #[test]
    fn the_rate_gives_way_to_writes_and_comes_back() {
        let mut budget = budget();
        budget.heed(&announced(100, 1_000));
        heed(&mut budget, 1, 100, 1_700);
        assert_eq!(mib(&budget), 68, "within what a disk does by itself");
        heed(&mut budget, 2, 100, 3_000);
        assert_eq!(mib(&budget), 17);
        assert!(second(&mut budget) > Duration::from_secs(60));
        // It stays until the writes are as fast as before, and then comes back slowly.
        heed(&mut budget, 1, 100, 2_000);
        assert_eq!(mib(&budget), 8);
        heed(&mut budget, 28, 100, 1_100);
        assert_eq!(mib(&budget), 64);
        heed(&mut budget, 480, 100, 1_100);
        assert_eq!(mib(&budget), 1024);
    }

    #[test]
    fn what_is_not_the_snapshots_doing_does_not_stop_them_for_ever() {
        let mut budget = budget();
        budget.heed(&announced(100, 1_000));
        heed(&mut budget, 7, 100, 9_000);
        assert!(mib(&budget) >= 2);
        heed(&mut budget, 20, 100, 9_000);
        let mut highest = 0;
        for _ in 0..100 {
            heed(&mut budget, 1, 100, 9_000);
            highest = highest.max(mib(&budget));
        }
        assert!(highest > 128, "the load is what is usual now: {highest}");
    }

    #[test]
    fn while_a_batch_waits_for_a_disk_that_hangs_the_rate_does_not_grow() {
        let mut budget = budget();
        let hangs = LogWaits {
            waiting: 1,
            ..LogWaits::default()
        };
        heed(&mut budget, QUIET - 1, 0, 0);
        for _ in 0..10 * QUIET {
            budget.heed(&hangs);
        }
        assert_eq!(mib(&budget), 64);
        heed(&mut budget, QUIET, 0, 0);
        assert_eq!(mib(&budget), 96, "nobody writes any more");
    }

    #[test]
    fn a_few_batches_are_added_up_until_they_say_something() {
        let mut budget = budget();
        budget.heed(&announced(100, 1_000));
        let before = budget.present_rate();
        heed(&mut budget, 1, 7, 10_000_000);
        heed(&mut budget, 2, 0, 0);
        assert_eq!(budget.present_rate(), before);
        heed(&mut budget, 1, 7, 10_000_000);
        assert!(budget.present_rate() < before);
    }

    #[test]
    fn a_low_rate_does_not_sink_to_nothing() {
        for (rate, least) in [(64 * MIB, 2 * MIB), (4 * MIB, MIB), (1, 1)] {
            let mut budget = Budget::new(rate, at(0));
            assert_eq!(budget.present_rate(), rate, "nothing to be careful of");
            budget.heed(&announced(100, 1_000));
            heed(&mut budget, 20, 100, 900_000);
            heed(&mut budget, 1, 100, 9_000_000);
            assert!(budget.present_rate() >= least, "{budget:?}");
        }
    }
}
