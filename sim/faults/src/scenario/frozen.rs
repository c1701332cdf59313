//! The disk hangs: writes and syncs wait, and so does everyone, until it goes on.

use super::{Figures, add, open_and_check, wait};
use crate::disk::{Image, Scratch};
use crate::failure::{Failure, must};
use crate::ledger::Ledger;
use crate::load::{GROUPS_OF_EACH, WRITERS};
use pontoon_types::{GroupId, LogIndex};
use pontoon_wal::{Wal, WalError};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

const IMAGE_BYTES: u64 = 64 << 20;
/// How long after it goes on a disk may take for what has waited.
const PATIENCE: Duration = Duration::from_secs(4);

pub(super) fn run(scratch: &Scratch, seed: u64, figures: &mut Figures) -> Result<(), Failure> {
    let image = Image::make(scratch, IMAGE_BYTES)?;
    let mut ledger = Ledger::new(WRITERS, GROUPS_OF_EACH);
    for number in 0..3 {
        let mount = image.mount()?;
        let life = open_and_check(&mount, &mut ledger, figures)?;
        let whole = mount.whole()?;
        let running = life.start(&mut ledger, seed ^ number);
        wait(150);
        let acknowledged = || running.counts.acknowledged.load(Relaxed);
        whole.freeze().map_err(Failure::system("freeze"))?;
        // What was synced before may still be on its way to who waits for it.
        wait(300);
        let before = acknowledged();
        wait(700);
        let after = acknowledged();
        // Reads do not need the disk.
        let read = read_some(&running.wal);
        let hangs = running.counts.hangs.load(Relaxed);
        whole.thaw().map_err(Failure::system("thaw"))?;
        drop(whole);
        must(before > 0, || "nothing was written before".to_owned())?;
        must(before == after, || {
            format!(
                "{} batches were acknowledged by a frozen disk",
                after - before
            )
        })?;
        let read = read.map_err(Failure::log("reading from a log whose disk hangs"))?;
        must(read > 0, || "not one entry could be read".to_owned())?;
        must(hangs > 0, || "nobody was told that it hangs".to_owned())?;
        let thawed = Instant::now();
        while acknowledged() == after && thawed.elapsed() < PATIENCE {
            wait(1);
        }
        must(acknowledged() > after, || {
            "nothing is acknowledged after the disk goes on".to_owned()
        })?;
        running.stop();
        let failures = running.counts.failures.load(Relaxed);
        must(failures == 0, || "a hung disk is no failed one".to_owned())?;
        let ending = running.wait()?.end(&mut ledger)?;
        let all = ending.told.is_empty() && ending.untold == 0 && ending.shutdown.is_none();
        must(all, || format!("not all was acknowledged: {ending:?}"))?;
        let whole = mount.whole()?;
        let cut = whole.cut_power();
        cut.map_err(Failure::system("cut the power"))?;
        drop(whole);
        mount.unmount()?;
        add(figures, "reports_that_it_hangs", hangs);
        add(figures, "cycles", 1);
    }
    let mount = image.mount()?;
    let life = open_and_check(&mount, &mut ledger, figures)?;
    life.wal
        .shutdown()
        .map_err(Failure::log("closing the log"))?;
    mount.unmount()
}

/// Reads what each group still has, and says how many entries that is.
fn read_some(wal: &Wal) -> Result<usize, WalError> {
    let mut entries = 0;
    for group in (1..=WRITERS * GROUPS_OF_EACH).map(GroupId) {
        let read = |from| wal.read(group, from, LogIndex(u64::MAX), 1 << 16);
        let read = match read(LogIndex(1)) {
            Err(WalError::Compacted { first, .. }) => read(first),
            read => read,
        };
        match read {
            Ok(read) => entries += read.len(),
            // It has none.
            Err(WalError::Compacted { .. } | WalError::Unavailable { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}
