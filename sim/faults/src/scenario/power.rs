//! The power goes at any moment, under load and while a log is opened.
//!
//! One log lives through all cycles, so that its files have been recycled many times. Each time the file
//! system keeps what was synced, and of the rest what it pleases.

use super::{Figures, add, open_and_check, wait};
use crate::disk::{Image, Scratch};
use crate::failure::{Failure, must};
use crate::ledger::Ledger;
use crate::load::{self, GROUPS_OF_EACH, Life, WRITERS};
use indicatif::ProgressBar;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const IMAGE_BYTES: u64 = 128 << 20;

pub(super) fn run(
    scratch: &Scratch,
    cycles: u32,
    seed: u64,
    bar: &ProgressBar,
    figures: &mut Figures,
) -> Result<(), Failure> {
    bar.set_length(cycles.into());
    let image = Image::make(scratch, IMAGE_BYTES)?;
    let mut ledger = Ledger::new(WRITERS, GROUPS_OF_EACH);
    for number in 1..=cycles {
        let of_cycle = |failure| match failure {
            Failure::Broken(how) => {
                Failure::Broken(format!("cycle {number} of seed {seed}: {how}"))
            }
            other => other,
        };
        let dice = StdRng::seed_from_u64(seed ^ (u64::from(number) << 20));
        cycle(&image, &mut ledger, dice, figures).map_err(of_cycle)?;
        add(figures, "cycles", 1);
        bar.inc(1);
    }
    Ok(())
}

fn cycle(
    image: &Image<'_>,
    ledger: &mut Ledger,
    mut dice: StdRng,
    figures: &mut Figures,
) -> Result<(), Failure> {
    let mount = image.mount()?;
    let life = open_and_check(&mount, ledger, figures)?;
    let wal = life.wal.clone();
    let whole = mount.whole()?;
    let running = life.start(ledger, dice.random());
    wait(dice.random_range(0..=250));
    let cut = whole.cut_power();
    cut.map_err(Failure::system("cut the power"))?;
    drop(whole);
    let stats = wal.stats();
    let ending = running.wait()?.end(ledger)?;
    must(ending.untold == 0, || {
        format!("{} writers were told nothing: {ending:?}", ending.untold)
    })?;
    add(figures, "entries_rewritten", stats.entries_rewritten);
    add(figures, "bytes_laid", stats.bytes);
    drop(wal);
    mount.unmount()?;
    if dice.random_ratio(1, 3) {
        cut_while_opening(image, ledger, &mut dice)?;
        add(figures, "openings_cut", 1);
    }
    let mount = image.mount()?;
    let life = open_and_check(&mount, ledger, figures)?;
    // It has just promised what it holds, so that survives too, synced by the opening alone.
    let whole = mount.whole()?;
    let cut = whole.cut_power();
    cut.map_err(Failure::system("cut the power"))?;
    drop((whole, life.wal.shutdown()));
    mount.unmount()
}

/// What such an opening would have said, nobody has heard.
fn cut_while_opening(image: &Image<'_>, ledger: &Ledger, dice: &mut StdRng) -> Result<(), Failure> {
    let mount = image.mount()?;
    let whole = mount.whole()?;
    let (path, writers) = (mount.log(), ledger.books.len());
    let after = std::time::Duration::from_micros(dice.random_range(0..20_000));
    std::thread::scope(|scope| {
        let cut = scope.spawn(move || {
            std::thread::sleep(after);
            whole.cut_power()
        });
        if let Ok((life, _)) = Life::open(&path, load::config(), writers) {
            // It may have failed since.
            let _ = life.wal.shutdown();
        }
        let cut = cut.join().expect("a call into the kernel does not panic");
        cut.map_err(Failure::system("cut the power"))
    })?;
    mount.unmount()
}
