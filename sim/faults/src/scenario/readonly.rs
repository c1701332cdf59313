//! The kernel finds an error in the file system and takes no more writes.

use super::{Figures, add, all_were_told, open_and_check, wait};
use crate::disk::{Image, Mount, Scratch};
use crate::failure::{Failure, must};
use crate::ledger::Ledger;
use crate::load::{self, GROUPS_OF_EACH, Life, WRITERS};
use pontoon_wal::{Operation, WalError};

const IMAGE_BYTES: u64 = 64 << 20;

pub(super) fn run(scratch: &Scratch, seed: u64, figures: &mut Figures) -> Result<(), Failure> {
    let image = Image::make(scratch, IMAGE_BYTES)?;
    let mut ledger = Ledger::new(WRITERS, GROUPS_OF_EACH);
    for number in 0..4 {
        let mount = image.mount()?;
        let life = open_and_check(&mount, &mut ledger, figures)?;
        let running = life.start(&mut ledger, seed ^ number);
        wait(40 + 60 * number);
        let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", mount.device()?);
        std::fs::write(&trigger, "pontoon-faults")
            .map_err(Failure::system(format!("write to {trigger}")))?;
        let ending = running.wait()?.end(&mut ledger)?;
        all_were_told(&ending, &OPERATIONS)?;
        opening_is_refused(&mount)?;
        mount.unmount()?;
        add(figures, "cycles", 1);
    }
    let mount = image.mount()?;
    let life = open_and_check(&mount, &mut ledger, figures)?;
    life.wal
        .shutdown()
        .map_err(Failure::log("closing the log"))?;
    mount.unmount()
}

/// Whichever the log does next.
const OPERATIONS: [Operation; 7] = [
    Operation::Write,
    Operation::Sync,
    Operation::Create,
    Operation::Allocate,
    Operation::Map,
    Operation::Rename,
    Operation::Remove,
];

fn opening_is_refused(mount: &Mount) -> Result<(), Failure> {
    match Life::open(&mount.log(), load::config(), 1) {
        Err(WalError::Io { source, .. })
            if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem =>
        {
            Ok(())
        }
        other => must(false, || {
            let other = other.map(|(_, recovered)| recovered);
            format!("opening a log on a read-only file system gave {other:?}")
        }),
    }
}
