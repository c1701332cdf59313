//! File systems that a scenario makes for itself, and that do not outlive it.

use crate::failure::Failure;
use crate::kernel::Super;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A place for images and mount points, removed at the end unless it is [kept](Scratch::keep).
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> Result<Self, Failure> {
        let made = tempfile::Builder::new().prefix("pontoon-faults-").tempdir();
        made.map(Self)
            .map_err(Failure::system("make a temporary directory"))
    }

    /// Leaves it for a human to look at.
    pub(crate) fn keep(self) -> PathBuf {
        self.0.keep()
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    fn mount_point(&self) -> Result<PathBuf, Failure> {
        let at = self.0.path().join("mounted");
        std::fs::create_dir_all(&at).map_err(Failure::system("make a mount point"))?;
        Ok(at)
    }
}

/// An ext4 in a file. What is on it survives being unmounted.
pub(crate) struct Image<'a> {
    scratch: &'a Scratch,
    path: PathBuf,
}

impl<'a> Image<'a> {
    pub(crate) fn make(scratch: &'a Scratch, bytes: u64) -> Result<Self, Failure> {
        let path = scratch.0.path().join("ext4.image");
        File::create(&path)
            .and_then(|file| file.set_len(bytes))
            .map_err(Failure::system("make an image"))?;
        // No blocks are set aside for root, so that full means full.
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-F", "-m", "0"]);
        run(make.arg(&path), "mkfs.ext4", "e2fsprogs")?;
        Ok(Self { scratch, path })
    }

    /// The device is given back by the kernel when nothing is mounted from it any more.
    pub(crate) fn mount(&self) -> Result<Mount, Failure> {
        let at = self.scratch.mount_point()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "ext4", "-o", "loop,errors=remount-ro"]);
        run(mount.arg(&self.path).arg(&at), "mount", "mount")?;
        Ok(Mount { at, is_gone: false })
    }
}

/// A file system in memory, of a fixed size.
pub(crate) fn mount_tmpfs(scratch: &Scratch, bytes: u64) -> Result<Mount, Failure> {
    mount_tmpfs_at(scratch.mount_point()?, bytes)
}

/// The same in a place that is made for it.
pub(crate) fn mount_tmpfs_at(at: PathBuf, bytes: u64) -> Result<Mount, Failure> {
    std::fs::create_dir_all(&at).map_err(Failure::system("make a mount point"))?;
    let size = format!("size={bytes}");
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &size, "pontoon-faults"]);
    run(mount.arg(&at), "mount", "mount")?;
    Ok(Mount { at, is_gone: false })
}

/// Something mounted. It is unmounted when this goes, whatever happened.
pub(crate) struct Mount {
    at: PathBuf,
    is_gone: bool,
}

impl Mount {
    /// A directory on it for the log.
    pub(crate) fn log(&self) -> PathBuf {
        self.at.join("log")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    pub(crate) fn whole(&self) -> Result<Super, Failure> {
        Super::of(&self.at).map_err(Failure::system("open a mounted file system"))
    }

    /// The name of the block device behind it, as in `/dev`.
    pub(crate) fn device(&self) -> Result<String, Failure> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")
            .map_err(Failure::system("read /proc/self/mounts"))?;
        let at = self.at.display().to_string();
        let mut fields = mounts.lines().map(|line| line.split(' '));
        let device = fields.find_map(|mut fields| {
            let device = fields.next()?.strip_prefix("/dev/")?;
            (fields.next()? == at).then(|| device.to_owned())
        });
        device.ok_or_else(|| Failure::Tool {
            command: "mount".to_owned(),
            said: format!("nothing is mounted at {at}"),
        })
    }

    /// How much room there is, in bytes.
    pub(crate) fn free_bytes(&self) -> Result<u64, Failure> {
        let stat = rustix::fs::statvfs(&self.at);
        let stat = stat
            .map_err(io::Error::from)
            .map_err(Failure::system("ask for free space"))?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Gives a tmpfs another size, in bytes; never less than is on it.
    pub(crate) fn resize(&self, bytes: u64) -> Result<(), Failure> {
        let size = format!("remount,size={bytes}");
        let mut mount = Command::new("mount");
        run(mount.args(["-o", &size]).arg(&self.at), "mount", "mount")
    }

    /// Leaves a tmpfs so much room, in bytes, and no more. Somebody may be writing to it.
    pub(crate) fn leave(&self, bytes: u64) -> Result<(), Failure> {
        let mut result = Ok(());
        for _ in 0..20 {
            let stat = rustix::fs::statvfs(&self.at);
            let stat = stat
                .map_err(io::Error::from)
                .map_err(Failure::system("ask for used space"))?;
            result = self.resize((stat.f_blocks - stat.f_bfree) * stat.f_frsize + bytes);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    pub(crate) fn unmount(mut self) -> Result<(), Failure> {
        self.try_unmount(&[])
    }

    fn try_unmount(&mut self, options: &[&str]) -> Result<(), Failure> {
        let mut result = Ok(());
        // Threads of the log that have just ended may still be closing files.
        for _ in 0..50 {
            let mut unmount = Command::new("umount");
            result = run(unmount.args(options).arg(&self.at), "umount", "mount");
            if result.is_ok() {
                self.is_gone = true;
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        result
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.is_gone {
            return;
        }
        // A frozen one would never be unmounted; of any other this is refused, and means nothing.
        let _ = Super::of(&self.at).and_then(|whole| whole.thaw());
        if self.try_unmount(&["--lazy"]).is_err() {
            eprintln!("{} could not be unmounted", self.at.display());
        }
    }
}

/// Runs a tool to its end. What may stand between this program and the C library is not its concern.
pub(crate) fn run(
    command: &mut Command,
    tool: &'static str,
    package: &'static str,
) -> Result<(), Failure> {
    command.env_remove("LD_PRELOAD");
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::Missing { tool, package });
        }
        Err(error) => return Err(Failure::system(format!("run {tool}"))(error)),
    };
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::Tool {
        command: format!("{command:?}"),
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
