//! What is asked of the kernel itself. All of the crate's `unsafe` is in this file.
#![allow(unsafe_code)]

use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{NoArg, Opcode, Setter, ioctl, opcode};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::fs::File;
use std::io;
use std::path::Path;

/// `EXT4_IOC_SHUTDOWN`, which is xfs's `XFS_IOC_GOINGDOWN` too (fs/ext4/ext4.h).
const SHUTDOWN: Opcode = opcode::read::<u32>(b'X', 125);
/// Neither the data nor the journal is flushed: as if the power went.
const NO_LOG_FLUSH: u32 = 2;
/// `FIFREEZE` and `FITHAW` (linux/fs.h).
const FREEZE: Opcode = opcode::read_write::<i32>(b'X', 119);
const THAW: Opcode = opcode::read_write::<i32>(b'X', 120);

/// From now on what this process mounts is seen by it and its children alone, and is gone with the last of
/// them, however they end. Call it before there are threads.
pub(crate) fn keep_mounts_private() -> io::Result<()> {
    // SAFETY: the danger is in tables of descriptors that threads stop to share; only the mounts are unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(mount_change("/", private)?)
}

/// A mounted file system, to do something to it as a whole.
pub(crate) struct Super(File);

impl Super {
    pub(crate) fn of(mounted_at: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(mounted_at, flags, Mode::empty())?;
        Ok(Self(root.into()))
    }

    /// Nothing that is written from now on reaches the disk, nor what was not synced before.
    pub(crate) fn cut_power(&self) -> io::Result<()> {
        // SAFETY: the call reads one `u32`, which is what the setter holds.
        let shutdown = unsafe { Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH) };
        // SAFETY: as above; the call changes no memory of this process.
        Ok(unsafe { ioctl(&self.0, shutdown) }?)
    }

    /// Writes and syncs wait from now on.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        // SAFETY: the call takes no argument.
        Ok(unsafe { ioctl(&self.0, NoArg::<FREEZE>::new()) }?)
    }

    pub(crate) fn thaw(&self) -> io::Result<()> {
        // SAFETY: the call takes no argument.
        Ok(unsafe { ioctl(&self.0, NoArg::<THAW>::new()) }?)
    }
}
