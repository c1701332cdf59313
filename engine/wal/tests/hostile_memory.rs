//! Memory for hostile bytes: recovery takes no more than a few times what is there to be read (S12).
//!
//! A test binary of its own, as its allocator counts everything that the process does.
#![allow(clippy::unwrap_used)] // Also in helpers that are not themselves tests.
#![allow(unsafe_code)] // An allocator is.

mod common;

use common::model::{Dice, small_config};
use common::{IDENTITY, forge};
use pontoon_wal::{Directory, Log, LogFile, MemoryDisk, WalConfig, WalError};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The system's allocator, with a look at how much is in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on, unchanged, to an allocator that keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: the caller's promises about `layout` are the ones asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `block` came from the allocator that it is handed back to.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that is in use at a time during some work, beside what was before.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = IN_USE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let done = work();
    (done, PEAK.load(Relaxed) - before)
}

/// What an empty log takes: a segment and a mark in memory, twice each, and the threads' channels.
const CONSTANT_BYTES: usize = 1 << 20;
/// A record of 24 bytes may name a group of its own, for which the log keeps an index.
const TIMES_THE_INPUT: usize = 24;

#[test]
fn the_memory_that_recovery_takes_is_bounded_by_the_bytes_that_it_reads() {
    let config = WalConfig {
        recovery_threads: 1,
        ..small_config()
    };
    let (mut opened, mut groups, mut worst) = (0, 0, 0.0f64);
    for seed in 0..400u64 {
        let mut dice = Dice(seed);
        let disk = MemoryDisk::new();
        let (segments, mut input) = (1 + dice.roll(4) as u32, 0);
        for generation in 1..=segments {
            let mut bytes: Vec<u8> = (0..4096 + dice.roll(60_000))
                .map(|_| dice.roll(256) as u8)
                .collect();
            // Small numbers are as likely as large ones, and so are many records.
            for word in bytes.chunks_exact_mut(8) {
                match dice.roll(4) {
                    0 => word.fill(0),
                    1 => word[1..].fill(0),
                    2 => word[3..].fill(0),
                    _ => {}
                }
            }
            forge::segment(&mut bytes, generation, IDENTITY.cluster.0, IDENTITY.node.0);
            input += bytes.len();
            let file = disk.create(&format!("{generation:010}.seg")).unwrap();
            file.allocate(bytes.len() as u64).unwrap();
            file.write_at(0, &bytes).unwrap();
        }
        let open = || Log::open(disk.clone(), config.clone(), IDENTITY);
        let (result, peak) = peak_of(open);
        let most = TIMES_THE_INPUT * input + CONSTANT_BYTES;
        assert!(peak <= most, "seed {seed}: {peak} bytes for {input}");
        worst = worst.max(peak as f64 / input as f64);
        match result {
            Ok((_, recovered)) => {
                opened += 1;
                groups += recovered.groups.len();
            }
            // A newer version's record, or what cannot be laid again.
            Err(WalError::UnsupportedRecord { .. } | WalError::NoSpace { .. }) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    println!("{opened} opened, {groups} groups, at worst {worst:.1} times the input");
    assert!(opened > 100, "{opened}: the forged bytes are not believed");
    assert!(
        groups > 1_000,
        "{groups}: the forged records are not believed"
    );
}
