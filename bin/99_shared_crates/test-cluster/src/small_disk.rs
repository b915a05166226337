//! A folder on a disk of its own: one that is soon full, or one whose files can share blocks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A small file system in memory, mounted on a folder until it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Mounts it. Only root can do that.
    pub fn mount(folder: &Path, mebibytes: u32) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let options = ["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"];
        ran(Command::new("mount").args(options).arg(folder))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Mounts one whose file system, Btrfs, lets files share blocks. Its image lies beside the folder. Only
    /// root can do that, with Btrfs's tools.
    pub fn mount_sharing(folder: &Path, mebibytes: u64) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let image = folder.with_extension("image");
        fs::File::create(&image)?.set_len(mebibytes << 20)?;
        // Below the smallest size that is usual, and without a second copy of its own data.
        let format = ["--quiet", "--metadata", "single", "--data", "single"];
        ran(Command::new("mkfs.btrfs").args(format).arg(&image))?;
        ran(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(folder))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Why no such disk can be mounted here, if so.
    #[must_use]
    pub fn sharing_unavailable() -> Option<String> {
        let probe = tempfile::tempdir().ok()?;
        let mounted = Self::mount_sharing(&probe.path().join("disk"), 256);
        mounted.err().map(|error| format!("{error:#}").trim().to_owned())
    }

    /// Why no small disk can be mounted here, if so.
    #[must_use]
    pub fn unavailable() -> Option<String> {
        let probe = tempfile::tempdir().ok()?;
        Self::mount(probe.path(), 1).err().map(|error| format!("{error:#}").trim().to_owned())
    }
}

fn ran(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let run = command.output().with_context(|| format!("{program} cannot be run"))?;
    let said = String::from_utf8_lossy(&run.stderr);
    ensure!(run.status.success(), "{program}: a disk cannot be made: {said}");
    Ok(())
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazy, because a process may still have a file open; there is nobody to tell of a failure.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).output();
    }
}
